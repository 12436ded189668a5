package gateway

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/lasting"
	"fairlead/internal/system"
)

// NATSServer lets clients speak NATS.
type NATSServer interface {
	// Enter takes a place for a client from an address; the error says why no client
	// can be served now. Clients of NATS wait long for a server that has taken their
	// connection and says nothing. serve lets the client speak NATS over a connection,
	// and closes it in the end; leave gives the place back, after serve or instead of it.
	Enter(from netip.Addr) (serve func(ctx context.Context, conn net.Conn), leave func(), err error)
}

// natsRoute is the part of a route that lets clients speak NATS, compiled.
type natsRoute struct {
	origins *filter.CORS // whose pages may; nil: the door's own
}

func newNATSRoute(def *system.NATS) *natsRoute {
	n := &natsRoute{}
	if len(def.Origins) > 0 {
		n.origins = filter.NewCORS(&system.CORS{Origins: def.Origins})
	}
	return n
}

// speakNATS lets a client speak NATS over a WebSocket. Who it is, and what it may do,
// is between it and the bus: what it says is neither read nor logged here.
func (x *exchange) speakNATS(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.EqualFold(hop.Upgrade(r.Header), "websocket") {
		x.fail(w, r, http.StatusBadRequest, "clients of NATS come here by a WebSocket over HTTP/1.1")
		return
	}
	if !x.ofOrigin(r, x.route.nats.origins) {
		x.refuse(w, r, refusedOrigin, http.StatusForbidden, "pages of this origin may not open WebSockets here")
		return
	}
	from := x.origin.Client
	serve, leave, err := x.g.opts.NATS.Enter(from)
	if err != nil {
		x.cause = err.Error()
		x.fail(w, r, http.StatusServiceUnavailable, "the bus takes no client at the moment")
		return
	}
	conn, err := websocket.Accept(&socketAnswer{x}, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin has been checked
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		leave()
		x.cause = err.Error() // the client knows
		return
	}
	// Whoever wakes it must not wait; a polite end takes a moment.
	stream := lasting.NewStream(true, sync.OnceFunc(func() { go goAway(conn) }))
	g := x.g
	g.lasting.Add(stream, lasting.Ends{Client: from})
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	// The request is over: what it needed would be held for days.
	g.tasks.Go(func() {
		defer g.lasting.Remove(stream)
		defer cancel()
		defer leave()
		serve(ctx, websocket.NetConn(ctx, conn, websocket.MessageBinary))
	})
}

// goAway ends a WebSocket so that its client comes back, within [lasting.CloseTime].
func goAway(conn *websocket.Conn) {
	cut := time.AfterFunc(lasting.CloseTime, func() { _ = conn.CloseNow() }) // it is over either way
	defer cut.Stop()
	_ = conn.Close(websocket.StatusGoingAway, "come back") // as above
}

// ofOrigin reports whether a page of that origin may open a WebSocket, or publish: one
// of the origins, or, where none are named, of the door's own. Programs that are no browsers
// name no origin.
func (x *exchange) ofOrigin(r *http.Request, origins *filter.CORS) bool {
	lines := r.Header["Origin"]
	switch {
	case len(lines) == 0:
		return true
	case len(lines) > 1:
		return false
	case origins != nil:
		return origins.Allowed(lines[0])
	}
	return strings.EqualFold(lines[0], x.origin.Scheme+"://"+x.origin.Host)
}

// socketAnswer is the answer to a request for a WebSocket: its head is the gateway's,
// as for those of services.
type socketAnswer struct{ x *exchange }

// Header implements [http.ResponseWriter].
func (a *socketAnswer) Header() http.Header { return a.x.answer.Header() }

// Write implements [http.ResponseWriter].
func (a *socketAnswer) Write(b []byte) (int, error) { return a.x.answer.Write(b) }

// WriteHeader implements [http.ResponseWriter]. The head of a switch is written by
// Hijack.
func (a *socketAnswer) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		a.x.answer.WriteHeader(status)
	}
}

// Hijack implements [http.Hijacker].
func (a *socketAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := a.x.answer.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := a.x.switchTo(conn, "websocket"); err != nil {
		_ = conn.Close() // it is broken
		return nil, nil, err
	}
	return conn, buffered, nil
}
