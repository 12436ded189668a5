package gateway

import (
	"context"
	"errors"
	"net/http"

	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/publish"
	"fairlead/internal/wire"
)

// receiptBytes is room for nearly every receipt.
const receiptBytes = 128

// store answers r with the receipt of the message that it was made to.
func (x *exchange) store(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		w.Header().Set("Allow", "POST, PUT")
		x.fail(w, r, http.StatusMethodNotAllowed, "the method is not allowed here")
		return
	}
	if !x.route.publish.Proven() && !x.ofPage(r) {
		x.refuse(w, r, refusedOrigin, http.StatusForbidden, "pages of other sites may not publish here")
		return
	}
	m, err := x.message(r)
	if err != nil {
		x.failMessage(w, r, err)
		return
	}
	m.Deadline = x.deadline
	receipt, err := x.g.opts.Queues.Publish(r.Context(), m)
	if err != nil {
		x.failStore(w, r, err)
		return
	}
	body := receipt.AppendJSON(make([]byte, 0, receiptBytes))
	writeBody(w, x, http.StatusAccepted, mediaJSON[0], append(body, '\n'))
}

// ofPage reports whether a request is none of a page of another site, or of one that
// the route's cors lets ask. Browsers say so, and their pages cannot change it;
// programs that are no browsers say nothing.
func (x *exchange) ofPage(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "same-origin" || x.ofOrigin(r, x.route.filters.cors) && (site != "cross-site" || len(r.Header["Origin"]) > 0)
}

// message reads a request.
func (x *exchange) message(r *http.Request) (publish.Message, error) {
	limit := x.g.bridge.MaxData()
	if x.route.body > 0 {
		limit = min(limit, x.route.body)
	}
	if err := x.route.publish.Admit(r.Header); err != nil {
		return publish.Message{}, err
	}
	user := ""
	if x.user != nil {
		user = x.user.Subject
	} else {
		release, err := x.g.bodies.hold(x.origin.Client, r.ContentLength, limit)
		if err != nil {
			return publish.Message{}, err
		}
		defer release()
	}
	body, err := data.AppendBody(nil, r, limit)
	if err != nil {
		return publish.Message{}, err
	}
	m, err := x.route.publish.Message(r, body, x.vars, user)
	if err != nil {
		return m, err
	}
	m.Header[wire.HeaderRequestID] = []string{x.id}
	m.Header[wire.HeaderTrace] = []string{x.trace.String()}
	return m, nil
}

// failMessage answers for a request that is no message.
func (x *exchange) failMessage(w http.ResponseWriter, r *http.Request, err error) {
	var input *data.Error
	var fault *publish.Fault
	switch {
	case errors.As(err, &input):
		x.fail(w, r, input.Status, input.Public)
	case errors.As(err, &fault):
		x.failFault(w, r, fault)
	case errors.Is(err, data.ErrTooLarge):
		x.refuse(w, r, refusedBody, http.StatusRequestEntityTooLarge, "the request's body is too large")
	case errors.Is(err, errBodies):
		w.Header().Set("Retry-After", "1")
		x.refuse(w, r, refusedRate, http.StatusTooManyRequests, err.Error())
	case errors.Is(err, publish.ErrUnproven):
		x.refuse(w, r, refusedLogin, http.StatusUnauthorized, err.Error())
	default:
		x.failBody(w, r, err)
	}
}

// failFault answers for a message that its queue does not take.
func (x *exchange) failFault(w http.ResponseWriter, r *http.Request, fault *publish.Fault) {
	x.problem(w, r, wire.Problem{
		Status: http.StatusUnprocessableEntity, Detail: fault.Reason, MessageType: fault.Type, Pointer: fault.Pointer,
	})
}

// failStore answers for a message that was not stored.
func (x *exchange) failStore(w http.ResponseWriter, r *http.Request, err error) {
	x.cause = err.Error()
	var fault *publish.Fault
	switch {
	case errors.As(err, &fault):
		x.failFault(w, r, fault)
	case errors.Is(err, publish.ErrTooLarge):
		x.refuse(w, r, refusedBody, http.StatusRequestEntityTooLarge, "the message is too large for the bus")
	case errors.Is(err, context.Canceled) && x.clientLeft(r):
		x.gone(r)
	case errors.Is(err, publish.ErrFull):
		x.fail(w, r, http.StatusServiceUnavailable, "too many messages wait to be stored; nothing of this one is")
	case errors.Is(err, publish.ErrUnknown):
		x.fail(w, r, http.StatusGatewayTimeout, "it is not known whether the message was stored")
	default:
		x.fail(w, r, http.StatusServiceUnavailable, "the message cannot be stored now")
	}
}
