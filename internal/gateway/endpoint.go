package gateway

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/balance"
	"fairlead/internal/gateway/lasting"
	"fairlead/internal/gateway/upstream"
	"fairlead/internal/system"
)

// shunTime is how long an endpoint that refused a connection is passed over while
// the pool has others.
const shunTime = time.Second

// Endpoint is where a ready instance can be reached.
type Endpoint struct {
	Instance string // id; two endpoints that are there at once never share one
	Network  string // "tcp", "unix", or "bus" for an instance without an HTTP endpoint
	Address  string
}

// endpoint is one [Endpoint] with what the gateway knows about it.
type endpoint struct {
	Endpoint
	key      uint64             // of the instance's id, for consistent hashing
	ticket   string             // that stands for it in cookies
	protocol system.Protocol    // that up speaks
	up       upstream.Transport // nil for the network "bus"
	joined   time.Time

	served atomic.Uint64 // requests sent to it
	failed atomic.Uint64 // of these, failures as the pool counts them
	open   atomic.Int64  // requests and tunnels open on it
	gone   atomic.Bool   // left its pool: takes no more requests
	place  lasting.Place // of what lasts on it
	shun   atomic.Int64  // Unix nanoseconds until which others are preferred
	health health

	mu    sync.Mutex    // guards quiet
	quiet chan struct{} // closed once gone and nothing is open; nil while nobody waits
}

func newEndpoint(ep Endpoint, protocol system.Protocol) *endpoint {
	e := &endpoint{Endpoint: ep, key: balance.Key(ep.Instance), protocol: protocol, joined: time.Now()}
	if ep.Network != "bus" {
		e.up = upstream.New(ep.Network, ep.Address, protocol)
	}
	return e
}

// enter counts a request in. It reports false if the endpoint has left its pool;
// whoever has seen true will be waited for by drain.
func (e *endpoint) enter() bool {
	e.open.Add(1)
	if e.gone.Load() {
		e.leave()
		return false
	}
	return true
}

// leave counts a request out.
func (e *endpoint) leave() {
	if e.open.Add(-1) == 0 && e.gone.Load() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.quiet != nil {
			close(e.quiet)
			e.quiet = nil
		}
	}
}

// retire takes no more requests and closes the connections that idle.
func (e *endpoint) retire() {
	e.gone.Store(true)
	if e.up != nil {
		e.up.Close()
	}
}

// drain waits until no request is open on a retired endpoint.
func (e *endpoint) drain(ctx context.Context) error {
	for {
		e.mu.Lock()
		if e.quiet == nil {
			e.quiet = make(chan struct{})
		}
		quiet := e.quiet
		e.mu.Unlock()
		if e.open.Load() == 0 {
			return nil
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *endpoint) here() bool { return !e.gone.Load() }

// sound reports whether the endpoint is neither ejected nor has it lately refused a
// connection.
func (e *endpoint) sound(now time.Time) bool {
	at := now.UnixNano()
	return e.shun.Load() <= at && e.health.until.Load() <= at
}

// leastWeight is the weight of an endpoint that has just joined a pool with slow
// start.
const leastWeight = 0.05

// weight is the endpoint's share, which grows evenly over slowStart.
func (e *endpoint) weight(now time.Time, slowStart time.Duration) float64 {
	age := now.Sub(e.joined)
	if age >= slowStart {
		return 1
	}
	return max(leastWeight, float64(age)/float64(slowStart))
}

// ready is the part of a snapshot that belongs to one service.
type ready struct {
	all  []*endpoint
	http []*endpoint // those that speak HTTP
}

func newReady(all []*endpoint) *ready {
	rd := &ready{all: all}
	for _, e := range all {
		if e.up != nil {
			rd.http = append(rd.http, e)
		}
	}
	return rd
}

// any reports whether an instance is there.
func (rd *ready) any() bool { return rd != nil && slices.ContainsFunc(rd.all, (*endpoint).here) }

// anyHTTP reports whether an instance is there that speaks HTTP.
func (rd *ready) anyHTTP() bool { return rd != nil && slices.ContainsFunc(rd.http, (*endpoint).here) }

// speaking returns rd with every endpoint spoken to in a protocol.
func (rd *ready) speaking(protocol system.Protocol) *ready {
	if !slices.ContainsFunc(rd.http, func(e *endpoint) bool { return e.protocol != protocol }) {
		return rd
	}
	all := make([]*endpoint, len(rd.all))
	for i, e := range rd.all {
		all[i] = newEndpoint(e.Endpoint, protocol)
		all[i].served.Store(e.served.Load())
	}
	return newReady(all)
}
