package gateway

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/lasting"
	"fairlead/internal/gateway/live"
	"fairlead/internal/gateway/websocket"
	"fairlead/internal/system"
)

const (
	// liveProtocol is the subprotocol of WebSockets on subscribe routes. A browser
	// that has a bearer token offers another one beside it, which begins with
	// bearerProtocol: its pages cannot set headers.
	liveProtocol   = "fairlead"
	bearerProtocol = "bearer."
	// enterTime bounds how long the bus is waited for.
	enterTime = 10 * time.Second
)

// liveRoute is the part of a route that leads to subscribers, compiled.
type liveRoute struct {
	subject *live.Template
	origins *filter.CORS  // nil: the door's own
	over    chan struct{} // closed when another revision says something else
	end     func()
	clients atomic.Int64 // that are connected
}

func newLiveRoute(def *system.Route, known func(name string) bool) (*liveRoute, error) {
	subject, err := live.Parse(def.Subscribe.Subject, known)
	if err != nil {
		return nil, err
	}
	l := &liveRoute{subject: subject, over: make(chan struct{})}
	l.end = sync.OnceFunc(func() { close(l.over) })
	if len(def.Subscribe.Origins) > 0 {
		l.origins = filter.NewCORS(&system.CORS{Origins: def.Subscribe.Origins})
	}
	return l, nil
}

// keepLive lets subscribers stay on routes that mean the same as before. Nobody uses
// the next ones yet.
func keepLive(old, next []route) {
	before := map[string]*route{}
	for i := range old {
		if old[i].live != nil {
			before[old[i].def.Key] = &old[i]
		}
	}
	for i := range next {
		if was := before[next[i].def.Key]; was != nil && next[i].live != nil && sameLive(next[i].def, was.def) {
			next[i].live = was.live
		}
	}
}

// sameLive reports whether subscribers of one route may stay on another.
func sameLive(a, b *system.Route) bool {
	return a.Path == b.Path && reflect.DeepEqual(a.Subscribe, b.Subscribe) &&
		slices.Equal(a.Roles, b.Roles) && slices.Equal(a.Auth, b.Auth) &&
		slices.Equal(a.Filters.Allow, b.Filters.Allow) && slices.Equal(a.Filters.Deny, b.Filters.Deny)
}

// endLive has the subscribers of routes come back that are not there any more.
func endLive(old, next []route) {
	stay := map[*liveRoute]bool{}
	for i := range next {
		stay[next[i].live] = true
	}
	for i := range old {
		if l := old[i].live; l != nil && !stay[l] {
			l.end()
		}
	}
}

// Subscribers is how many clients are connected to each route that subscribes, by the
// route's key.
func (g *Gateway) Subscribers() map[string]int {
	all := map[string]int{}
	for _, r := range g.snap.Load().routes {
		if r.live != nil {
			all[r.def.Key] = int(r.live.clients.Load())
		}
	}
	return all
}

// liftToken makes the token that a browser offers as a subprotocol the one of the
// request. It is looked at, and logged, nowhere else.
func liftToken(r *http.Request) {
	lines := r.Header["Sec-Websocket-Protocol"]
	if len(lines) == 0 {
		return
	}
	offered := false
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			offered = offered || name == liveProtocol
			if token, ok := strings.CutPrefix(name, bearerProtocol); ok && len(r.Header["Authorization"]) == 0 {
				r.Header["Authorization"] = []string{"Bearer " + token}
			}
		}
	}
	delete(r.Header, "Sec-Websocket-Protocol")
	if offered {
		r.Header["Sec-Websocket-Protocol"] = []string{liveProtocol}
	}
}

// subscribe serves a subscriber: by a WebSocket if it asks for one, else by server-sent
// events.
func (x *exchange) subscribe(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		x.fail(w, r, http.StatusMethodNotAllowed, "the method is not allowed here")
		return
	}
	if x.g.live == nil {
		x.fail(w, r, http.StatusServiceUnavailable, "there is no bus")
		return
	}
	accept := ""
	if strings.EqualFold(hop.Upgrade(r.Header), "websocket") {
		if !x.ofOrigin(r, x.route.live.origins) {
			x.cause = "of " + r.Header.Get("Origin")
			x.refuse(w, r, refusedOrigin, http.StatusForbidden, "pages of this origin may not open WebSockets here")
			return
		}
		var status int
		var err error
		if accept, status, err = websocket.Handshake(r); err != nil {
			if status == http.StatusUpgradeRequired {
				w.Header().Set("Sec-Websocket-Version", "13")
			}
			x.fail(w, r, status, err.Error())
			return
		}
	}
	client, err := x.subscriber(r)
	if err != nil {
		var refused *live.Error
		errors.As(err, &refused) // it is one
		x.fail(w, r, refused.Status, refused.Public)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), enterTime)
	session, err := x.g.live.Enter(ctx, client)
	cancel()
	if err != nil {
		if x.clientLeft(r) {
			x.gone(r)
		}
		x.cause = err.Error()
		x.fail(w, r, http.StatusServiceUnavailable, "the bus cannot be heard at present")
		return
	}
	route := x.route.live
	route.clients.Add(1)
	leave := func() {
		route.clients.Add(-1)
		session.Leave()
	}
	x.leaveBody(w, r)
	if accept != "" {
		x.subscribeSocket(r, session, leave, accept) //nolint:contextcheck // it outlives the request
		return
	}
	defer leave()
	x.subscribeEvents(w, r, session)
}

// subscriber reads who subscribes to what. The error is a [live.Error].
func (x *exchange) subscriber(r *http.Request) (live.Client, error) {
	def, user := x.route.def.Subscribe, x.user
	c := live.Client{
		Wide: x.route.live.subject.Wide(), Buffer: def.Buffer, Heartbeat: def.Heartbeat, Leave: x.route.live.over,
	}
	if user != nil {
		c.Expires = user.Expires
	}
	allowed, err := x.route.live.subject.Fill(
		func(name string) string { v, _ := x.vars.Lookup(name); return v },
		func(name string) any {
			switch {
			case user == nil:
				return nil
			case name == "sub":
				return user.Subject
			}
			return user.Claims[name]
		},
	)
	if err != nil {
		return c, err
	}
	q := r.URL.Query()
	if c.Subjects, err = live.Narrow(allowed, q["subject"]); err != nil {
		return c, err
	}
	c.Crowd = x.route.def.Key + "\x00" + allowed
	c.Presence = q.Has("presence")
	if c.Cursor = r.Header.Get("Last-Event-Id"); c.Cursor == "" {
		c.Cursor = q.Get("cursor")
	}
	return c, nil
}

// subscribeEvents serves server-sent events.
func (x *exchange) subscribeEvents(w http.ResponseWriter, r *http.Request, session *live.Session) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // for an nginx in front
	w.WriteHeader(http.StatusOK)
	ending := make(chan struct{})
	stream := lasting.NewStream(true, sync.OnceFunc(func() { close(ending) }))
	x.g.lasting.Add(stream, lasting.Ends{Client: x.origin.Client})
	defer x.g.lasting.Remove(stream)
	flush := func() error {
		x.answer.Flush()
		return nil // the next write tells
	}
	if err := session.Events(r.Context(), w, flush, ending); err != nil && !x.clientLeft(r) {
		x.cause = err.Error()
	}
}

// subscribeSocket opens the WebSocket and lets go of the request: what it needs while it
// is served would be ten times what a subscriber costs who waits.
func (x *exchange) subscribeSocket(r *http.Request, session *live.Session, leave func(), accept string) {
	ending := make(chan struct{})
	stream := lasting.NewStream(true, sync.OnceFunc(func() { close(ending) }))
	x.g.lasting.Add(stream, lasting.Ends{Client: x.origin.Client})
	over := func() {
		leave()
		x.g.lasting.Remove(stream)
	}
	h := x.answer.Header()
	h.Set("Sec-Websocket-Accept", accept)
	if r.Header.Get("Sec-Websocket-Protocol") == liveProtocol {
		h.Set("Sec-Websocket-Protocol", liveProtocol)
	}
	conn, buffered, err := x.answer.control.Hijack()
	if err != nil {
		over()
		x.cause = err.Error()
		panic(http.ErrAbortHandler)
	}
	ahead := lasting.Ahead(buffered.Reader)
	if err := x.switchTo(conn, "websocket"); err != nil {
		over()
		_ = conn.Close() // it is broken
		x.cause = err.Error()
		return
	}
	x.g.tasks.Go(func() {
		defer over()
		session.WebSocket(conn, ahead, ending)
	})
}
