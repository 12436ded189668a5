package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxWaiting bounds the requests of one pool that wait for an instance.
	maxWaiting = 1000
	// shunTime is how long an endpoint that refused a connection is passed over
	// while the pool has others.
	shunTime = time.Second
	// retryAfter is the Retry-After of a 503 in seconds.
	retryAfter = 1
)

var (
	errNotReady = errors.New("no instance is ready")
	errCrowded  = errors.New("too many requests wait for an instance")
	errHalted   = errors.New("the service is stopped")
)

// Endpoint is where a ready instance can be reached.
type Endpoint struct {
	Instance string // id, never used again
	Network  string // "tcp", "unix", or "bus" for an instance without an HTTP endpoint
	Address  string
}

// endpoint is one [Endpoint] with what the gateway knows about it.
type endpoint struct {
	Endpoint
	up     upstream      // nil for the network "bus"
	served atomic.Uint64 // requests sent to it
	open   atomic.Int64  // requests and tunnels open on it
	gone   atomic.Bool   // left its pool: takes no more requests
	shun   atomic.Int64  // Unix nanoseconds until which others are preferred

	mu    sync.Mutex    // guards quiet
	quiet chan struct{} // closed once gone and nothing is open; nil while nobody waits
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
		e.up.close()
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

func (e *endpoint) here() bool { return !e.gone.Load() }

// least enters the endpoint with the fewest open requests. Ties take turns.
// Endpoints that lately refused a connection come last; those that were tried are
// not taken.
func (rd *ready) least(turn uint32, now time.Time, tried []*endpoint) *endpoint {
	if rd == nil || len(rd.http) == 0 {
		return nil
	}
	for range 4 { // the best may leave between the look and the entry
		var best *endpoint
		var bestOpen int64
		var bestShunned bool
		n := len(rd.http)
		at := int(turn % uint32(n))
		for range n {
			e := rd.http[at]
			if at++; at == n {
				at = 0
			}
			if e.gone.Load() || slices.Contains(tried, e) {
				continue
			}
			open, shunned := e.open.Load(), e.shun.Load() > now.UnixNano()
			if best == nil || bestShunned && !shunned || bestShunned == shunned && open < bestOpen {
				best, bestOpen, bestShunned = e, open, shunned
			}
		}
		if best == nil {
			return nil
		}
		if best.enter() {
			return best
		}
	}
	return nil
}

// pool is what lasts of a service while its endpoints and the routes to it change.
type pool struct {
	service string
	g       *Gateway
	failed  atomic.Uint64 // requests answered 502, 503 or 504 by the gateway itself
	turn    atomic.Uint32
	retries budget
	halted  atomic.Bool // stopped on purpose: nobody waits for an instance

	mu      sync.Mutex // guards the fields below
	waiting int
	changed chan struct{} // closed when the endpoints change
}

// newPool needs the gateway's mutex.
func newPool(g *Gateway, service string) *pool {
	p := &pool{service: service, g: g, changed: make(chan struct{})}
	p.halted.Store(g.halted[service])
	return p
}

// current returns the endpoints that are ready now.
func (p *pool) current() *ready {
	s := p.g.snap.Load()
	if s == nil {
		return nil
	}
	return s.ready[p.service]
}

// announce wakes all who wait. Call it after the snapshot has been swapped.
func (p *pool) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait returns nil once at least one instance is ready, on whatever network. It
// returns errNotReady after Options.WaitForReady, errHalted at once while the
// service is stopped on purpose, errCrowded at once when a thousand requests wait
// already, and the context's error when that ends.
func (p *pool) wait(ctx context.Context) error {
	return p.await(ctx, (*ready).any)
}

// await waits until enough says that the endpoints will do.
func (p *pool) await(ctx context.Context, enough func(*ready) bool) error {
	if enough(p.current()) {
		return nil
	}
	if p.halted.Load() {
		return errHalted
	}
	p.mu.Lock()
	if p.waiting >= maxWaiting {
		p.mu.Unlock()
		return errCrowded
	}
	p.waiting++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.waiting--
		p.mu.Unlock()
	}()
	limit := time.NewTimer(p.g.opts.WaitForReady)
	defer limit.Stop()
	for {
		changed := p.changes()
		if enough(p.current()) {
			return nil
		}
		if p.halted.Load() {
			return errHalted
		}
		select {
		case <-changed:
		case <-limit.C:
			return errNotReady
		case <-p.g.stopping:
			return errNotReady
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// changes returns a channel that is closed at the next change of the endpoints.
func (p *pool) changes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// pick enters an endpoint, or returns nil if none is left that was not tried.
// The snapshot is the one that the request was matched with: as long as its
// endpoints live, a request stays with the revision whose route it took.
func (p *pool) pick(s *snapshot, now time.Time, tried []*endpoint) *endpoint {
	turn := p.turn.Add(1)
	if e := s.ready[p.service].least(turn, now, tried); e != nil {
		return e
	}
	return p.current().least(turn, now, tried)
}

const (
	budgetShare   = 0.2 // retries per request
	budgetRate    = 10  // retries per second besides
	budgetMost    = 100 // retries saved up
	budgetInitial = 20
)

// budget bounds retries, so that a service in trouble does not get more requests
// than it would otherwise. The zero budget is ready to use.
type budget struct {
	requests atomic.Uint64

	mu     sync.Mutex // guards the fields below
	begun  bool
	seen   uint64
	last   time.Time
	tokens float64
}

// earn counts a first attempt.
func (b *budget) earn() { b.requests.Add(1) }

// spend takes one retry, or reports false if none is left.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests := b.requests.Load()
	if !b.begun {
		b.begun, b.tokens, b.last = true, budgetInitial, now
	}
	b.tokens += budgetShare*float64(requests-b.seen) + budgetRate*now.Sub(b.last).Seconds()
	b.tokens = min(b.tokens, budgetMost)
	b.seen, b.last = requests, now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
