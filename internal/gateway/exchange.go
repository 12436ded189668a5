package gateway

import (
	"net/http"
	"strconv"
	"time"

	"fairlead/internal/gateway/access"
	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/match"
	"fairlead/internal/gateway/token"
	"fairlead/internal/wire"
)

// exchange is one request on its way through the door. It belongs to the
// goroutine that serves the request and is not used after that.
type exchange struct {
	g         *Gateway
	entrance  *entrance
	route     *route // nil until matched
	vars      match.Values
	path      string      // escaped, as the service sees it
	prefix    string      // that was stripped from it
	id        string      // request id
	trace     wire.Trace  // of the hop to the service
	continued bool        // the client began the trace
	user      *token.User // nil: anonymous

	origin filter.Origin // where the request comes from, as far as it can be believed
	holder string        // of the client's verified certificate, RFC 4514; "" for none
	told   []hop.Field   // headers that the gateway adds for the service

	start, deadline time.Time

	pool     *pool     // that the request goes to, nil for none
	wish     wish      // of the choice of an endpoint
	ticket   string    // of the instance that the client's cookie names
	endpoint *endpoint // that the request was sent to last
	placed   bool      // it has a place of the pool's queue

	// For the access log.
	instance string // that answered, or was tried last
	sent     int    // times the request was sent to an instance
	cause    string // what went wrong inside; never told to the client

	left   bool // the client left while an attempt was made
	halted bool // the gateway itself stopped reading the request: its context says nothing now

	snap    *snapshot
	answer  answer
	varsBuf [8]match.Value
	idLine  [1]string // id, as a header
	length  [1]string // of the answer, as a header
}

// fail answers with a problem document. The detail is public and is also kept
// for the access log. A 502, 503 or 504 counts as a failure of the route's
// service. Once an answer has begun it can only be broken off, which fail does
// by panicking with [http.ErrAbortHandler].
func (x *exchange) fail(w http.ResponseWriter, r *http.Request, status int, detail string) {
	x.problem(w, r, wire.Problem{Status: status, Detail: detail})
}

// problem is fail with more to say.
func (x *exchange) problem(w http.ResponseWriter, r *http.Request, p wire.Problem) {
	if x.cause == "" {
		x.cause = p.Detail
	}
	x.failure(p.Status)
	if x.answer.status >= http.StatusOK {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	for name := range h { // whatever had been prepared for another answer
		if name != wire.HeaderRequestID && name != "Connection" && name != "Allow" && name != "Www-Authenticate" && name != "Retry-After" {
			delete(h, name)
		}
	}
	if p.Status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	x.leaveBody(w, r)
	x.answer.own = true
	p.RequestID = x.id
	wire.WriteProblem(w, r, p)
}

// clientLeft reports whether nobody waits for the answer any more.
func (x *exchange) clientLeft(r *http.Request) bool {
	return x.left || !x.halted && r.Context().Err() != nil
}

// entry is the line of the access log.
func (x *exchange) entry(r *http.Request) access.Entry {
	e := access.Entry{
		Start: x.start, RequestID: x.id, TraceID: x.trace.ID,
		Client: x.origin.Client, Method: r.Method, Host: r.Host, Path: r.URL.EscapedPath(), Proto: r.Proto,
		Status: x.answer.status, Bytes: x.answer.bytes,
		Instance: x.instance, Sent: x.sent, Error: x.cause,
	}
	if x.route != nil {
		e.Route = x.route.def.Key
	}
	if x.pool != nil {
		e.Service = x.pool.service
	}
	if x.user != nil {
		e.User = x.user.Subject
	}
	e.Holder = x.holder
	return e
}
