package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/bridge"
	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/token"
	"fairlead/internal/wire"
)

const (
	languageBytes = 256     // longest Accept-Language that is passed on
	stateBytes    = 512     // longest Tracestate that is passed on
	mediaBytes    = 1 << 10 // longest Content-Type of a service that is passed on
)

// ask answers r with the reply to the request on the bus that it was made to.
func (x *exchange) ask(w http.ResponseWriter, r *http.Request) {
	c := bridge.NewCall()
	defer c.Free()
	if err := x.fillCall(c, r); err != nil {
		x.failInput(w, r, err)
		return
	}
	answer, err := x.g.bridge.Do(r.Context(), c)
	x.sent += c.Sent()
	switch {
	case err != nil:
		x.failAsking(w, r, c, err)
	case answer.Fault:
		// It is the service's word and no failure of the gateway's, so it does not go
		// through fail.
		x.cause = "the service answered with an error"
		wire.WriteProblem(w, r, wire.Problem{Status: answer.Status, Detail: answer.Message, RequestID: x.id})
	default:
		writeBody(w, x, answer.Status, replyMedia(answer.Media), answer.Data)
	}
}

// fillCall makes the bus's request out of r.
func (x *exchange) fillCall(c *bridge.Call, r *http.Request) error {
	limit := x.g.bridge.MaxData()
	if x.route.body > 0 {
		limit = min(limit, x.route.body)
	}
	var err error
	if c.Body, err = data.AppendBody(c.Body, r, limit); err != nil {
		return err
	}
	if len(c.Body) > 0 {
		if err := data.CheckMedia(r.Header); err != nil {
			return err
		}
		if err := data.CheckJSON(c.Body); err != nil {
			return err
		}
	}
	in := data.Inputs{Body: c.Body, Query: r.URL.RawQuery, Path: x.vars}
	if x.user != nil {
		in.User = &data.User{Subject: x.user.Subject, Roles: x.user.Roles}
	}
	if err := x.route.bus.Fill(c, &in, r.Method, x.id); err != nil {
		return err
	}
	c.Ready, c.Deadline = x.pool, x.deadline
	c.SetHeader(wire.HeaderRequestID, x.id)
	c.SetHeader(wire.HeaderTrace, x.trace.String())
	c.SetHeader(wire.HeaderState, passed(r.Header[wire.HeaderState], stateBytes))
	c.SetHeader("Accept-Language", passed(r.Header["Accept-Language"], languageBytes))
	if x.user != nil {
		told, err := x.g.minter.Token(x.user, x.pool.service)
		if err != nil {
			return err
		}
		c.SetHeader(wire.HeaderIdentity, told)
	}
	return nil
}

// passed returns a client's header if it is single, short and printable, else "".
func passed(values []string, most int) string {
	if len(values) != 1 || len(values[0]) > most {
		return ""
	}
	for i := range len(values[0]) {
		if c := values[0][i]; c < ' ' || c > '~' {
			return ""
		}
	}
	return values[0]
}

// failInput answers for what cannot be put on the bus.
func (x *exchange) failInput(w http.ResponseWriter, r *http.Request, err error) {
	var input *data.Error
	switch {
	case errors.As(err, &input):
		x.fail(w, r, input.Status, input.Public)
	case errors.Is(err, data.ErrTooLarge):
		x.fail(w, r, http.StatusRequestEntityTooLarge, "the request's body is too large")
	case errors.Is(err, token.ErrUnmintable):
		x.cause = err.Error()
		x.fail(w, r, http.StatusInternalServerError, "")
	default:
		x.failBody(w, r, err)
	}
}

// failAsking answers for a request that got no usable reply.
func (x *exchange) failAsking(w http.ResponseWriter, r *http.Request, c *bridge.Call, err error) {
	x.cause = err.Error()
	unavailable := func(detail string) {
		w.Header().Set("Retry-After", "1")
		x.fail(w, r, http.StatusServiceUnavailable, detail)
	}
	switch {
	case errors.Is(err, bridge.ErrOverdue), errors.Is(err, context.DeadlineExceeded):
		detail := "the service did not answer in time"
		if !c.Again() {
			detail += unknown
		}
		x.fail(w, r, http.StatusGatewayTimeout, detail)
	case errors.Is(err, bridge.ErrBereft):
		detail := "the service broke off"
		if !c.Again() {
			detail += unknown
		}
		x.fail(w, r, http.StatusBadGateway, detail)
	case errors.Is(err, nats.ErrMaxPayload):
		x.fail(w, r, http.StatusRequestEntityTooLarge, "the body is too large")
	case errors.Is(err, bridge.ErrForeign), errors.Is(err, bridge.ErrTooLong):
		x.fail(w, r, http.StatusBadGateway, err.Error())
	case errors.Is(err, bridge.ErrFull):
		unavailable("too many requests are under way")
	case errors.Is(err, context.Canceled):
		x.gone(r)
	case errors.Is(err, bridge.ErrClosed) && c.Sent() > 0 && !c.Again():
		unavailable("the connection to the service ended" + unknown)
	default:
		unavailable(unreadyText(err))
	}
}

// Headers of answers that are always the same. Nobody may write to them.
var (
	mediaJSON = []string{"application/json"}
	noSniff   = []string{"nosniff"}
)

func writeBody(w http.ResponseWriter, x *exchange, status int, media string, body []byte) {
	h := w.Header()
	if status != http.StatusNoContent {
		switch media {
		case "":
		case mediaJSON[0]:
			h["Content-Type"] = mediaJSON
		default:
			h["Content-Type"] = []string{media}
		}
		x.length[0] = strconv.Itoa(len(body))
		h["Content-Length"] = x.length[:1:1]
		h["X-Content-Type-Options"] = noSniff
	}
	x.answer.clean = true
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		_, _ = w.Write(body) //nolint:gosec // its type is told, and not to be guessed; a client that is gone is nothing to report
	}
}

// replyMedia returns the media type a client is told. What a browser would run or
// render as a page of the gateway's own origin is told as bytes.
func replyMedia(declared string) string {
	if declared == "" || declared == "application/json" {
		return "application/json"
	}
	if len(declared) > mediaBytes || strings.ContainsFunc(declared, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "application/octet-stream"
	}
	media, _, _ := strings.Cut(declared, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	switch media {
	case "application/json", "application/x-ndjson", "application/xml", "application/pdf", "application/zip", "application/gzip",
		"text/plain", "text/csv", "text/calendar", "image/png", "image/jpeg", "image/gif", "image/webp":
		return declared
	}
	if strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json") {
		return declared
	}
	return "application/octet-stream"
}
