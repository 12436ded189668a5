// Package gateway is the one door of a system: listeners that never restart, in
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
// It does not balance across nodes, or cache.
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
	"fairlead/internal/gateway/bridge"
	"fairlead/internal/gateway/certs"
	"fairlead/internal/gateway/external"
	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/lasting"
	"fairlead/internal/gateway/listen"
	"fairlead/internal/gateway/live"
	"fairlead/internal/gateway/meter"
	"fairlead/internal/gateway/publish"
	"fairlead/internal/gateway/token"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Options are what a gateway is made with. Only Listen is needed.
type Options struct {
	Listen       string          // host:port of the first listener, whatever the file says; port 0 takes a free one
	Gateway      system.Gateway  // whose listeners Start binds; without any, a plain one on Listen
	Certificates *certs.Store    // nil: no listener may have TLS; the caller closes it after Stop
	Inherited    []listen.Socket // from the process before; Start takes those it needs and closes the rest

	Logger    *slog.Logger   // nil: logs nothing
	AccessLog io.Writer      // one JSON line per request; nil: none
	Bus       bridge.Conn    // *nats.Conn satisfies it; nil: no bus routes
	Queues    publish.Queues // stores what routes publish; nil: none do
	Live      live.Bus       // what subscribers are told of; nil: no subscribe routes
	NATS      NATSServer     // lets clients speak NATS; nil: no routes do
	Signer    *wire.Signer   // signs the identity of users; nil: services are told no user
	System    string         // the system's name
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
	doors   *listen.Set
	plain   *entrance // of requests that came by no listener: a test's
	minter  *token.Minter
	bridge  *bridge.Bridge
	live    *live.Room // nil: no subscribe routes
	access  *access.Log
	tickets tickets

	snap        atomic.Pointer[snapshot]
	bans        atomic.Pointer[filter.Bans]
	refused     tally
	bodies      bodies
	open        atomic.Int64  // requests, tunnels not counted
	failed      atomic.Uint64 // requests that the gateway itself could not get answered
	meters      meter.Meters
	unmatched   *meter.Meter // of meters: requests that no route took
	connections meter.Ages
	stopping    chan struct{} // closed when Stop begins
	lasting     lasting.Set
	external    *external.Watcher
	tasks       sync.WaitGroup
	stop        func()

	mu        sync.Mutex // guards the fields below; held while a snapshot is built
	started   bool
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
	g.lasting.Banned = g.Banned
	g.unmatched = g.meters.Of("")
	g.stop = sync.OnceFunc(func() { close(g.stopping) })
	if opts.Signer != nil {
		g.minter = token.NewMinter(opts.Signer)
	}
	if opts.Bus != nil {
		g.bridge = bridge.New(opts.Bus, opts.Logger)
	}
	if opts.Live != nil {
		g.live = live.New(live.Options{Bus: opts.Live, Key: opts.TicketKey, Logger: opts.Logger})
	}
	g.external = external.New(external.Options{Logger: opts.Logger, Changed: g.moved})
	g.plain = &entrance{g: g}
	g.doors = g.openDoors()
	return g
}

// Start binds the listeners of the options and serves in the background until Stop;
// until the first Apply every request is answered 503. The error for a port in use
// says by which process, if that can be found out. A gateway starts once.
func (g *Gateway) Start(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || g.stopped {
		return errors.New("start gateway: started before")
	}
	g.started = true
	first := g.opts.Gateway
	if len(first.Listeners) == 0 {
		first.Listeners = []system.Listener{{Address: g.opts.Listen}}
	}
	doors, err := g.bind(ctx, first)
	if err != nil {
		return fmt.Errorf("start gateway: %w", err)
	}
	defer doors.Abort()
	if err := g.certify(first, nil); err != nil { //nolint:contextcheck // what an authority is asked outlives the start
		return fmt.Errorf("start gateway: %w", err)
	}
	if g.opts.AccessLog != nil {
		g.access = access.New(g.opts.AccessLog, g.log)
		g.tasks.Go(g.access.Run)
	}
	g.tasks.Go(g.sweep)
	doors.Commit() //nolint:contextcheck // what serves outlives the start
	return nil
}

// Addr returns the address of the first listener, nil before Start.
func (g *Gateway) Addr() net.Addr { return g.doors.Addr() }

// URL returns the first listener's address for a client on this machine, such as
// "http://127.0.0.1:3005"; "" before Start.
func (g *Gateway) URL() string {
	if all := g.Listening(); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Stop closes the listeners, answers what is open with Connection: close, and
// returns when nothing is open any more, WebSockets included. When ctx ends first,
// what is left is cut and the context's error returned. Later calls wait in the same way.
func (g *Gateway) Stop(ctx context.Context) error {
	g.stop()
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.lasting.Retire()
	g.live.Retire()
	left := g.doors.Stop(ctx)
	if terr := g.lasting.Wait(ctx); left == nil {
		left = terr
	}
	if left != nil {
		g.lasting.Cut()
		g.doors.Cut() //nolint:contextcheck // the context is over
	}
	g.bridge.Close()
	g.mu.Lock()
	for _, e := range g.instances {
		e.retire()
	}
	g.mu.Unlock()
	if g.access != nil {
		g.access.Close()
	}
	g.external.Stop()
	g.tasks.Wait()
	g.live.Close()
	if left != nil {
		return fmt.Errorf("stop gateway: %w", left)
	}
	return nil
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
					e.up.Sweep(now)
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
// closing them; other answers are broken off. Drain returns three seconds later at most.
// It returns the context's error if that ended first, nil for an unknown instance.
func (g *Gateway) Drain(ctx context.Context, service, instance string) error {
	g.mu.Lock()
	e := g.instances[instance]
	g.mu.Unlock()
	if e != nil {
		e.retire()
		err := e.drain(ctx)
		if errors.Is(err, context.DeadlineExceeded) && g.lasting.Finish(&e.place) {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lasting.CloseTime+lasting.CloseTime/2)
			err = e.drain(last)
			cancel()
		}
		if err != nil {
			return fmt.Errorf("drain %s: %d requests are open: %w", instance, e.open.Load(), err)
		}
	}
	if err := g.bridge.Settle(ctx, service); err != nil {
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
	g.bridge.Lost(service, instance)
}

// HoldBus keeps all requests off the bus until [Gateway.ReleaseBus]; they wait,
// within their deadlines. What is on the bus already goes on.
func (g *Gateway) HoldBus() { g.bridge.Hold() }

// SettleBus waits until every request that was on the bus at the call has ended.
// It returns the context's error if that ends first.
func (g *Gateway) SettleBus(ctx context.Context) error { return g.bridge.SettleAll(ctx) }

// ReleaseBus lets the requests of the services go; none named means all, and ends
// the hold. What had been sent before the hold, has no reply yet and may be sent
// again is so.
func (g *Gateway) ReleaseBus(services ...string) { g.bridge.Release(services...) }

// LongestHold is the longest time that a request was held since the last HoldBus.
func (g *Gateway) LongestHold() time.Duration { return g.bridge.LongestHold() }

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
