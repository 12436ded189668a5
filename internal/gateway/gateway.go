// Package gateway is the one door of a system: a listener that never restarts, in
// front of HTTP services, the bus and files.
//
// Guarantees:
//   - Routes, limits, authentication and the endpoints of all pools are one
//     immutable snapshot behind one atomic pointer. A change builds the next one and
//     swaps it; connections, open requests and WebSockets do not notice. If the next
//     one cannot be built, the current one goes on.
//   - An instance that has left its pool gets no further request, and Drain returns
//     only when none is open on it.
//   - A request is sent a second time only if the first attempt cannot have reached
//     the service, or if it is idempotent (or its route says retry) and its body is
//     still at hand, and then only within its deadline and the retry budget of its
//     pool.
//   - Nothing that a client sends under fairlead's own header names reaches a
//     service, nothing that a service sends under them reaches a client.
//   - Time-outs: a route's timeout covers reading the body, waiting for an instance
//     and the answer up to its head. Once the head is there, an answer may stream for
//     as long as something moves at least once a minute. After an upgrade there is no
//     limit.
//
// It does not balance across nodes, terminate TLS, speak HTTP/2, cache or compress.
// It does not decide which instances are ready: it is told.
package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/access"
	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/meter"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Options are what a gateway is made with. Only Listen is needed.
type Options struct {
	Listen    string       // host:port; port 0 takes a free one
	Logger    *slog.Logger // nil: logs nothing
	AccessLog io.Writer    // one JSON line per request; nil: none
	Bus       BusConn      // *nats.Conn satisfies it; nil: no bus routes
	Signer    *wire.Signer // signs the identity of users; nil: services are told no user
	System    string       // the system's name
	// Monitors answer the routes that say monitor, with the route's prefix stripped.
	// The gateway itself knows system.MonitorHealth.
	Monitors map[system.Monitor]http.Handler
	// TicketKey keys the cookies of sticky routes; another one makes clients choose
	// anew. Nil: a random one.
	TicketKey    []byte
	WaitForReady time.Duration // how long a request waits for an instance, default 10 s
}

// Gateway is the door. Make it with [New]; all methods are safe for concurrent use.
type Gateway struct {
	opts    Options
	log     *slog.Logger
	server  *http.Server
	minter  *minter
	bridge  *bridge
	access  *access.Log
	tickets tickets

	snap        atomic.Pointer[snapshot]
	bans        atomic.Pointer[filter.Bans]
	refused     tally
	open        atomic.Int64  // requests, tunnels not counted
	failed      atomic.Uint64 // requests that the gateway itself could not get answered
	meters      meter.Meters
	unmatched   *meter.Meter // of meters: requests that no route took
	connections meter.Ages
	stopping    chan struct{} // closed when Stop begins
	tunnels     tunnels
	fresh       fresh
	tasks       sync.WaitGroup
	stop        func()

	mu        sync.Mutex // guards the fields below; held while a snapshot is built
	listener  net.Listener
	stopped   bool
	pools     map[string]*pool
	instances map[string]*endpoint           // by instance id, those in a pool and lately retired ones
	retired   []string                       // ids in the order they retired
	halted    map[string]bool                // services that are stopped on purpose
	decided   map[string]*system.Maintenance // see SetMaintenance
}

// keepRetired is how many instances are remembered after they left, for Drain and
// Served.
const keepRetired = 1024

// New makes a gateway. It does no I/O.
func New(opts Options) *Gateway {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.WaitForReady == 0 {
		opts.WaitForReady = 10 * time.Second
	}
	if opts.TicketKey == nil {
		opts.TicketKey = make([]byte, 32)
		_, _ = rand.Read(opts.TicketKey) // never fails
	}
	g := &Gateway{
		tickets:   tickets{opts.TicketKey},
		opts:      opts,
		log:       opts.Logger,
		stopping:  make(chan struct{}),
		pools:     map[string]*pool{},
		instances: map[string]*endpoint{},
		halted:    map[string]bool{},
	}
	g.unmatched = g.meters.Of("")
	g.stop = sync.OnceFunc(func() { close(g.stopping) })
	if opts.Signer != nil {
		g.minter = newMinter(opts.Signer)
	}
	if opts.Bus != nil {
		g.bridge = newBridge(opts.Bus, g.minter, opts.Logger)
	}
	g.server = &http.Server{
		Handler:           g,
		ReadHeaderTimeout: headTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead,
		// OPTIONS * goes the way of every request: an id, a line in the access log.
		DisableGeneralOptionsHandler: true,
		ConnState:                    g.fresh.note,
		ErrorLog:                     slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}
	return g
}

// Start binds the address and serves in the background until Stop; until the
// first Apply every request is answered 503. The error for a port in use says by
// which process, if that can be found out. A gateway starts once.
func (g *Gateway) Start(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil || g.stopped {
		return errors.New("start gateway: started before")
	}
	l, err := listen(ctx, g.opts.Listen)
	if err != nil {
		return fmt.Errorf("start gateway: %w", err)
	}
	g.listener = l
	if g.opts.AccessLog != nil {
		g.access = access.New(g.opts.AccessLog, g.log)
		g.tasks.Go(g.access.Run)
	}
	g.tasks.Go(g.sweep)
	g.tasks.Go(func() {
		if err := g.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			g.log.ErrorContext(context.WithoutCancel(ctx), "gateway stopped accepting", wire.KeyError, err)
		}
	})
	return nil
}

// Addr returns the address the gateway listens on, nil before Start.
func (g *Gateway) Addr() net.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener == nil {
		return nil
	}
	return g.listener.Addr()
}

// URL returns the address for a client on this machine, such as
// "http://127.0.0.1:3005"; "" before Start.
func (g *Gateway) URL() string {
	addr, ok := g.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	ip := addr.IP
	if ip == nil || ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return "http://" + net.JoinHostPort(ip.String(), fmt.Sprint(addr.Port))
}

// Stop closes the listener, answers what is open with Connection: close, and
// returns when nothing is open any more, WebSockets included. When ctx ends first,
// what is left is cut and the context's error returned. Later calls wait in the same way.
func (g *Gateway) Stop(ctx context.Context) error {
	g.stop()
	g.mu.Lock()
	l := g.listener
	g.stopped = true
	g.mu.Unlock()
	var left error
	if l != nil {
		_ = l.Close() // a second close is no fault
		left = g.finish(ctx)
	}
	g.bridge.close()
	g.mu.Lock()
	for _, e := range g.instances {
		e.retire()
	}
	g.mu.Unlock()
	if g.access != nil {
		g.access.Close()
	}
	g.tasks.Wait()
	if left != nil {
		return fmt.Errorf("stop gateway: %w", left)
	}
	return nil
}

// finish waits for open requests and tunnels, and cuts them when ctx ends.
func (g *Gateway) finish(ctx context.Context) error {
	g.tunnels.retire()
	g.fresh.cut()
	err := g.server.Shutdown(ctx)
	if errors.Is(err, net.ErrClosed) {
		err = nil // the listener is closed already
	}
	if terr := g.tunnels.wait(ctx); err == nil {
		err = terr
	}
	if err != nil {
		g.tunnels.cut()
		_ = g.server.Close() // only reports the listener's close
	}
	return err
}

// fresh are the connections that have not brought a request yet. http.Server would
// wait five seconds for each when it shuts down; browsers open some in advance.
type fresh struct {
	mu    sync.Mutex // guards the fields below
	conns map[net.Conn]struct{}
	over  bool
}

func (f *fresh) note(c net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(f.conns, c)
	case f.over:
		_ = c.Close() // nobody has asked anything
	default:
		if f.conns == nil {
			f.conns = map[net.Conn]struct{}{}
		}
		f.conns[c] = struct{}{}
	}
}

func (f *fresh) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for c := range f.conns {
		_ = c.Close() // as above
	}
}

// sweep closes upstream connections that have idled for too long.
func (g *Gateway) sweep() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-g.stopping:
			return
		case now := <-tick.C:
			g.mu.Lock()
			for _, e := range g.instances {
				if e.up != nil {
					e.up.sweep(now)
				}
			}
			g.mu.Unlock()
		}
	}
}

// Drain waits until no request is open on an instance and every bus request of its
// service that was outstanding at the call has ended. Call it after the instance
// has left its pool: Drain takes it out if it has not. WebSockets and answers that
// stream count as open. When ctx's deadline passes, they are ended: WebSockets with
// close frames of status 1001, server-sent events behind an event, other tunnels by
// closing them; other answers are broken off. Drain returns closeTime later at most.
// It returns the context's error if that ended first, nil for an unknown instance.
func (g *Gateway) Drain(ctx context.Context, service, instance string) error {
	g.mu.Lock()
	e := g.instances[instance]
	g.mu.Unlock()
	if e != nil {
		e.retire()
		err := e.drain(ctx)
		if errors.Is(err, context.DeadlineExceeded) && g.tunnels.finish(e) {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime+closeTime/4)
			err = e.drain(last)
			cancel()
		}
		if err != nil {
			return fmt.Errorf("drain %s: %d requests are open: %w", instance, e.open.Load(), err)
		}
	}
	if err := g.bridge.settle(ctx, service); err != nil {
		return fmt.Errorf("drain %s: %w", instance, err)
	}
	return nil
}

// SetStopped says whether a service is stopped on purpose. While it is and has no
// ready instance, its requests are answered 503 at once instead of waiting for one,
// those too that wait already; instances that are still ready go on. It lasts until
// it is taken back, whatever Apply and SetEndpoints say, and may be set for a
// service that is not known yet.
func (g *Gateway) SetStopped(service string, stopped bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if stopped {
		g.halted[service] = true
	} else {
		delete(g.halted, service)
	}
	if p := g.pools[service]; p != nil && p.halted.Swap(stopped) != stopped {
		p.announce()
	}
}

// Lost says that an instance has died. It gets no further request, and the
// outstanding idempotent bus requests of its service are sent again. Those that may
// not be, and that no other instance can have got, are answered 502.
func (g *Gateway) Lost(service, instance string) {
	g.mu.Lock()
	e := g.instances[instance]
	g.mu.Unlock()
	if e != nil {
		e.retire()
	}
	g.bridge.lost(service, instance)
}

// Served returns how many HTTP requests were sent to an instance, 0 for an unknown
// one. Instances are remembered for a while after they left.
func (g *Gateway) Served(instance string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.instances[instance]; e != nil {
		return e.served.Load()
	}
	return 0
}

// Failed returns how many requests for a service the gateway itself has answered
// with 502, 503 or 504.
func (g *Gateway) Failed(service string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.pools[service]; p != nil {
		return p.failed.Load()
	}
	return 0
}

// defaultLimits are those of a configuration that names none.
var defaultLimits = system.Limits{Body: 10 << 20, Header: 32 << 10}
