package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/token"
	"fairlead/internal/wire"
)

const (
	headRoom      = 4 << 10 // bytes of the bus's payload limit left for headers
	languageBytes = 256     // longest Accept-Language that is passed on
	stateBytes    = 512     // longest Tracestate that is passed on
)

// BusConn is what the gateway needs of its connection to the bus. A
// [nats.Conn] has it. The connection's inbox prefix decides where replies go.
type BusConn interface {
	Subscribe(subject string, handle nats.MsgHandler) (*nats.Subscription, error)
	PublishMsg(m *nats.Msg) error
	NewInbox() string
	IsConnected() bool
	MaxPayload() int64
}

// bridge turns HTTP requests into requests on the bus and replies into answers.
// All replies come in by one subscription. What it sends is bounded: at most
// 10,000 requests are open, one is sent at most three times more after an instance
// was lost, and a service's resends never exceed the requests it was asked. It
// does not see replies above the bus's payload limit: the server does not deliver
// them, so that the answer is a 504. A nil bridge answers that there is no bus. It
// is safe for concurrent use.
type bridge struct {
	conn   BusConn
	minter *token.Minter
	logger *slog.Logger
	table  *table
	sender sender

	ending context.Context // ends with close
	end    context.CancelFunc

	mu  sync.Mutex // guards sub
	sub *nats.Subscription
}

func newBridge(conn BusConn, m *token.Minter, logger *slog.Logger) *bridge {
	b := &bridge{conn: conn, minter: m, logger: logger, table: newTable(conn.NewInbox()), sender: sender{conn: conn}}
	b.ending, b.end = context.WithCancel(context.Background())
	return b
}

// start subscribes to the replies, once.
func (b *bridge) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub != nil {
		return nil
	}
	sub, err := b.conn.Subscribe(b.table.prefix+"*", b.table.receive)
	if err != nil {
		return fmt.Errorf("subscribe to replies: %w", err)
	}
	// What is pending is bounded by what was asked; dropping a reply would only
	// turn it into a time-out.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe to replies: %w", err)
	}
	b.sub = sub
	return nil
}

// lost has the outstanding requests of a service that may be sent again sent again,
// within their deadline and the service's budget. The instance that died must
// have no subscription left, or it may be chosen again. A request that may not be
// sent again, and that no other instance can have got, ends.
func (b *bridge) lost(service, instance string) {
	if b != nil {
		b.table.lost(service, instance)
	}
}

// joined says that an instance gets requests from now on, until it is lost.
func (b *bridge) joined(service, instance string) {
	if b != nil {
		b.table.joined(service, instance)
	}
}

// settle waits until every request of the service that was on the bus at the call
// has ended. Requests that wait for an instance to take them do not count.
func (b *bridge) settle(ctx context.Context, service string) error {
	if b == nil {
		return nil
	}
	return b.table.settle(ctx, service)
}

// close ends all waiting with an error. Later requests are refused.
func (b *bridge) close() {
	if b == nil {
		return
	}
	b.table.close()
	b.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub != nil {
		if err := b.sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			b.logger.Debug("unsubscribe from replies", wire.KeyError, err)
		}
	}
}

// ask sends an empty object to a subject and returns the reply's body. It is for
// the gateway's own questions; nobody is waited for.
func (b *bridge) ask(ctx context.Context, subject string) ([]byte, error) {
	if b == nil {
		return nil, errBridgeDown
	}
	c := newCall()
	defer c.free()
	c.deadline = time.Now().Add(defaultTimeout)
	if d, ok := ctx.Deadline(); ok {
		c.deadline = d
	}
	c.again = true
	c.msg.Subject = subject
	c.data = append(c.data, "{}"...)
	c.msg.Data = c.data
	c.head(wire.HeaderRequestID, wire.NewRequestID())
	c.head(wire.HeaderDeadline, wire.FormatDeadline(c.deadline))
	r, err := b.do(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	if text := r.msg.Header.Get(wire.HeaderError); text != "" {
		return nil, fmt.Errorf("ask %s: %s", subject, clip(text))
	}
	return r.msg.Data, nil
}

// serve answers r by a request on the bus.
func (b *bridge) serve(w http.ResponseWriter, r *http.Request, x *exchange) {
	if b == nil {
		x.fail(w, r, http.StatusServiceUnavailable, "there is no bus")
		return
	}
	c := newCall()
	defer c.free()
	if err := b.prepare(c, r, x); err != nil {
		b.failInput(w, r, x, err)
		return
	}
	answer, err := b.do(r.Context(), c)
	x.sent += c.sent
	switch {
	case err != nil:
		b.failCall(w, r, x, c, err)
	case c.nest:
		writeNest(w, r, x, &answer)
	default:
		writeRaw(w, r, x, answer.msg)
	}
}

// Headers of answers that are always the same. Nobody may write to them.
var (
	mediaJSON = []string{"application/json"}
	noSniff   = []string{"nosniff"}
)

// prepare makes the bus's request out of r.
func (b *bridge) prepare(c *call, r *http.Request, x *exchange) error {
	br := x.route.bus
	limit := b.conn.MaxPayload() - headRoom
	if x.route.body > 0 {
		limit = min(limit, x.route.body)
	}
	var err error
	if c.body, err = data.AppendBody(c.body, r, limit); err != nil {
		return err
	}
	if len(c.body) > 0 {
		if err := data.CheckMedia(r.Header); err != nil {
			return err
		}
		if err := data.CheckJSON(c.body); err != nil {
			return err
		}
	}
	subject, err := br.subjectOf(x.vars)
	if err != nil {
		return err
	}
	in := data.Inputs{Body: c.body, Query: r.URL.RawQuery, Path: x.vars}
	if x.user != nil {
		in.User = &data.User{Subject: x.user.Subject, Roles: x.user.Roles}
	}
	if c.data, err = br.appendRequest(c.data, &in, subject, x.id); err != nil {
		return err
	}
	c.service, c.nest, c.again = br.service, br.nest, br.again(r.Method)
	if x.pool != nil {
		c.ready = x.pool
	}
	c.deadline = x.deadline
	if c.deadline.IsZero() {
		c.deadline = time.Now().Add(defaultTimeout)
	}
	c.msg.Subject, c.msg.Data = subject, c.data

	c.head(wire.HeaderRequestID, x.id)
	c.head(wire.HeaderTrace, x.trace.String())
	c.head(wire.HeaderState, passed(r.Header[wire.HeaderState], stateBytes))
	c.head("Accept-Language", passed(r.Header["Accept-Language"], languageBytes))
	c.head(wire.HeaderDeadline, wire.FormatDeadline(c.deadline))
	if x.user != nil {
		told, err := b.minter.Token(x.user, br.service)
		if err != nil {
			return err
		}
		c.head(wire.HeaderIdentity, told)
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
func (b *bridge) failInput(w http.ResponseWriter, r *http.Request, x *exchange, err error) {
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

// failCall answers for a request that got no usable reply.
func (b *bridge) failCall(w http.ResponseWriter, r *http.Request, x *exchange, c *call, err error) {
	x.cause = err.Error()
	unavailable := func(detail string) {
		w.Header().Set("Retry-After", "1")
		x.fail(w, r, http.StatusServiceUnavailable, detail)
	}
	switch {
	case errors.Is(err, errOverdue), errors.Is(err, context.DeadlineExceeded):
		detail := "the service did not answer in time"
		if !c.again {
			detail += unknown
		}
		x.fail(w, r, http.StatusGatewayTimeout, detail)
	case errors.Is(err, errBereft):
		detail := "the service broke off"
		if !c.again {
			detail += unknown
		}
		x.fail(w, r, http.StatusBadGateway, detail)
	case errors.Is(err, nats.ErrMaxPayload):
		x.fail(w, r, http.StatusRequestEntityTooLarge, "the body is too large")
	case errors.Is(err, errNestForeign), errors.Is(err, errNestLarge):
		x.fail(w, r, http.StatusBadGateway, err.Error())
	case errors.Is(err, errBridgeFull):
		unavailable("too many requests are under way")
	case errors.Is(err, context.Canceled):
		x.gone(r)
	case errors.Is(err, errBridgeClosed) && c.sent > 0 && !c.again:
		unavailable("the connection to the service ended" + unknown)
	default:
		unavailable(unreadyText(err))
	}
}

// writeRaw answers with the reply of a service of format raw.
func writeRaw(w http.ResponseWriter, r *http.Request, x *exchange, m *nats.Msg) {
	if text, code := m.Header.Get(wire.HeaderError), m.Header.Get(wire.HeaderErrorCode); text != "" || code != "" {
		writeFault(w, r, x, number(code), text)
		return
	}
	status := number(m.Header.Get(wire.HeaderStatus))
	switch {
	case status >= 200 && status <= 299:
	case len(m.Data) == 0:
		status = http.StatusNoContent
	default:
		status = http.StatusOK
	}
	writeBody(w, x, status, replyMedia(m.Header.Get(wire.HeaderType)), m.Data)
}

// number reads a status, 0 for none.
func number(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// writeNest answers with the replies of a NestJS service: one value as it is,
// several as a list, none as 204.
func writeNest(w http.ResponseWriter, r *http.Request, x *exchange, a *reply) {
	if a.fault != nil {
		own, message := readNestError(a.fault)
		writeFault(w, r, x, own, message)
		return
	}
	switch len(a.stream.values) {
	case 0:
		writeBody(w, x, http.StatusNoContent, "", nil)
	case 1:
		writeBody(w, x, http.StatusOK, "application/json", a.stream.values[0])
	default:
		writeBody(w, x, http.StatusOK, "application/json", a.stream.appendTo(make([]byte, 0, a.stream.size())))
	}
}

// writeFault answers with a service's error. It is the service's word and no
// failure of the gateway's, so it does not go through fail.
func writeFault(w http.ResponseWriter, r *http.Request, x *exchange, own int, message string) {
	status := x.route.bus.statusOf(own, message)
	x.cause = "the service answered with an error"
	wire.WriteProblem(w, r, wire.Problem{Status: status, Detail: clip(message), RequestID: x.id})
}

// clip bounds a service's text and takes control characters out of it.
func clip(s string) string {
	if len(s) > publicBytes {
		s = s[:publicBytes] + "..."
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

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
		_, _ = w.Write(body) //nolint:gosec // a service answers for what it says; a client that is gone is nothing to report
	}
}

// replyMedia returns the media type a client is told. What a browser would run or
// render as a page of the gateway's own origin is told as bytes.
func replyMedia(declared string) string {
	if declared == "" || declared == "application/json" {
		return "application/json"
	}
	if len(declared) > publicBytes || strings.ContainsFunc(declared, func(c rune) bool { return c < ' ' || c > '~' }) {
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
