package gateway

import (
	"errors"
	"io/fs"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/match"
	"fairlead/internal/gateway/upstream"
	"fairlead/internal/wire"
)

const (
	headTime   = 10 * time.Second  // for a client to send a request's head
	idleTime   = 120 * time.Second // between two requests of a connection
	streamIdle = upstream.StreamIdle
	lingerTime = time.Second // for what is left of a body after an early answer
	maxHead    = 256 << 10   // what a server reads of a head; the limit of the file is checked on top

	// statusClientGone is what the access log says when the client left before it
	// was answered, as nginx does.
	statusClientGone = 499

	traceSampled = 0x01 // of W3C Trace Context's flags
)

// ServeHTTP serves one request as if it had come by a listener without TLS.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.plain.receive(w, r) }

// receive serves one request.
func (e *entrance) receive(w http.ResponseWriter, r *http.Request) {
	x := e.begin(w, r)
	defer x.end(r)
	x.serve(&x.answer, r)
	x.answer.finish()
}

// begin opens the exchange of a request. Its end must follow.
func (e *entrance) begin(w http.ResponseWriter, r *http.Request) *exchange {
	now := time.Now()
	e.g.open.Add(1)
	x := &exchange{g: e.g, entrance: e, start: now, snap: e.g.snap.Load()}
	x.answer.ResponseWriter = w
	x.answer.x, x.answer.r = x, r
	x.answer.control = *http.NewResponseController(w) // a copy saves an allocation
	x.identify(r)
	x.idLine[0] = x.id
	w.Header()[wire.HeaderRequestID] = x.idLine[:1:1]
	return x
}

// identify takes over or makes the request's id and its place in a trace.
func (x *exchange) identify(r *http.Request) {
	if ids := r.Header[wire.HeaderRequestID]; len(ids) == 1 && wire.ValidRequestID(ids[0]) {
		x.id = ids[0]
	} else {
		x.id = wire.NewRequestID()
	}
	if traces := r.Header[wire.HeaderTrace]; len(traces) == 1 {
		if t, ok := wire.ParseTrace(traces[0]); ok {
			x.trace, x.continued = t.Child(), true
			return
		}
	}
	x.trace = wire.NewTrace()
	// Nobody records what began here; and of sampled traces the bus's server takes
	// every message's headers apart (docs/decisions/0006).
	x.trace.Flags &^= traceSampled
}

// end writes the access log and deals with panics of what is below.
func (x *exchange) end(r *http.Request) {
	g := x.g
	defer g.open.Add(-1)
	err := recover()
	x.answer.drop()
	if err != nil && err != http.ErrAbortHandler { //nolint:errorlint // a panic's value is compared as net/http does
		g.log.ErrorContext(r.Context(), "panic while serving", wire.KeyRequestID, x.id, wire.KeyError, err, "stack", string(debug.Stack()))
		x.cause = "panic"
		if x.answer.status == 0 {
			x.fail(&x.answer, r, http.StatusInternalServerError, "")
			err = nil
		} else {
			err = http.ErrAbortHandler
		}
	}
	if x.answer.status == 0 && err == nil {
		x.answer.status = http.StatusOK
	}
	x.count()
	if g.access != nil {
		line := x.entry(r)
		g.access.Record(&line)
	}
	if err != nil {
		panic(err)
	}
}

func (x *exchange) serve(w http.ResponseWriter, r *http.Request) {
	s := x.snap
	x.deadline = x.start.Add(defaultTimeout)
	if !x.welcome(w, r) {
		return
	}
	if x.entrance.info.Redirect {
		x.redirectSecure(w, r)
		return
	}
	if s == nil || s.table == nil {
		x.fail(w, r, http.StatusServiceUnavailable, "the system is starting")
		return
	}
	if headSize(r) > s.limits.Header {
		x.refuse(w, r, refusedHead, http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large")
		return
	}
	if !match.SafeMethod(r.Method) || !match.SafeHost(r.Host) {
		x.fail(w, r, http.StatusBadRequest, "the method must be in capitals, and the host a name or an address")
		return
	}
	path := r.URL.EscapedPath()
	if !match.SafePath(path) {
		x.fail(w, r, http.StatusBadRequest, "the path is not clean: it must not hold empty or dot segments, or slashes and control characters in disguise")
		return
	}
	if r.ProtoMajor > 1 && (!match.SafeQuery(r.URL.RawQuery) || r.Host == "" || !soundLength(r)) { // http1 has looked at its own
		x.fail(w, r, http.StatusBadRequest, "the request must name its host, a length only if it is that of its body, and its query must not hold spaces, control characters or #")
		return
	}
	if x.preflight(w, r, path) {
		return
	}
	x.route, x.vars = s.find(r.Method, r.Host, path, x.varsBuf[:0])
	// TRACE would show a client what the gateway tells services about it.
	if x.route == nil || r.Method == http.MethodTrace || r.Method == http.MethodConnect {
		x.unmatched(w, r, path)
		return
	}
	if s.disguised(x.route, r, path) {
		x.fail(w, r, http.StatusBadRequest, "the path is not clean: without what follows its semicolons it names something that is guarded")
		return
	}
	x.deadline = x.start.Add(x.route.timeout)
	if x.route.live != nil {
		liftToken(r)
	}
	if x.down(w, r) || !x.admit(w, r) {
		return
	}
	if !x.guardBody(r, x.route.body) {
		x.refuse(w, r, refusedBody, http.StatusRequestEntityTooLarge, "the request's body is too large")
		return
	}
	if r.ProtoMajor > 2 {
		settleBody(r)
	}
	x.path = path
	if !x.reroute(w, r) {
		return
	}
	switch {
	case x.route.split != nil:
		x.choosePool(r)
		x.proxy(w, r)
	case x.route.bus != nil:
		x.pool = x.route.pool
		if x.takePlace(w, r, (*ready).any) {
			defer x.givePlace()
			x.ask(w, r)
		}
	case x.route.publish != nil:
		x.store(w, r)
	case x.route.nats != nil:
		x.speakNATS(w, r)
	case x.route.files != nil:
		x.serveFile(w, r)
	case x.route.redirect != nil:
		x.sendElsewhere(w, r)
	case x.route.live != nil:
		x.subscribe(w, r)
	default:
		x.watch(w, r)
	}
}

// soundLength reports whether the length that a client has named is the one that the
// request is read with. The servers of HTTP/2 and HTTP/3 take what they do not
// understand for 0.
func soundLength(r *http.Request) bool {
	named := r.Header["Content-Length"]
	return len(named) == 0 || len(named) == 1 && named[0] == strconv.FormatInt(r.ContentLength, 10)
}

// unmatched answers a request that no route takes.
func (x *exchange) unmatched(w http.ResponseWriter, r *http.Request, path string) {
	x.route = nil
	if x.down(w, r) {
		return
	}
	if methods := x.snap.table.Allowed(r.Host, path); len(methods) > 0 {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		x.fail(w, r, http.StatusMethodNotAllowed, "the method is not allowed here")
		return
	}
	x.fail(w, r, http.StatusNotFound, "there is no route for this path")
}

// serveFile answers with a file of the route's folder.
func (x *exchange) serveFile(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		x.fail(w, r, http.StatusMethodNotAllowed, "the method is not allowed here")
		return
	}
	err := x.route.files.Serve(&fileAnswer{answer: &x.answer}, r)
	if err == nil {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) {
		x.cause = err.Error()
	}
	x.fail(w, r, http.StatusNotFound, "there is no such file")
}
