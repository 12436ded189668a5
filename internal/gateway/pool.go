package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/balance"
	"fairlead/internal/gateway/bridge"
	"fairlead/internal/system"
)

const (
	// maxWaiting bounds the requests of one pool that wait for an instance.
	maxWaiting = 1000
	// retryAfter is the Retry-After of a 503 in seconds.
	retryAfter = 1

	defaultQueueTime = 5 * time.Second
	defaultEjectTime = 10 * time.Second
)

var (
	errNotReady = errors.New("no instance is ready")
	errCrowded  = errors.New("too many requests wait for an instance")
)

// pool is what lasts of a service while its endpoints and the routes to it change.
type pool struct {
	service   string
	alone     *split // of the routes that lead to this service only
	g         *Gateway
	settings  atomic.Pointer[system.Pool]
	failed    atomic.Uint64         // requests answered 502, 503 or 504 by the gateway itself
	faults    [faults]atomic.Uint64 // attempts that failed, by kind
	ejections atomic.Uint64
	turn      atomic.Uint64
	retries   budget
	queue     queue
	halted    atomic.Bool // stopped on purpose: nobody waits for an instance

	mu      sync.Mutex // guards the fields below, and the ejections of the endpoints
	waiting int
	changed chan struct{} // closed when the endpoints change
	stalls  stalls
}

// newPool needs the gateway's mutex.
func newPool(g *Gateway, service string) *pool {
	p := &pool{service: service, g: g, changed: make(chan struct{})}
	p.settings.Store(&system.Pool{})
	p.halted.Store(g.halted[service])
	p.alone = &split{targets: []target{{p, 1}}}
	return p
}

// set changes how the pool is used. Requests that are open are not touched.
func (p *pool) set(s system.Pool) {
	p.settings.Store(&s)
	p.queue.set(&s)
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

// Wait returns nil once at least one instance is ready, on whatever network. It
// returns errNotReady after Options.WaitForReady, bridge.ErrHalted at once while the
// service is stopped on purpose, errCrowded at once when a thousand requests wait
// already, and the context's error when that ends.
func (p *pool) Wait(ctx context.Context) error {
	return p.await(ctx, (*ready).any)
}

// await waits until enough says that the endpoints will do.
func (p *pool) await(ctx context.Context, enough func(*ready) bool) error {
	if enough(p.current()) {
		return nil
	}
	if p.halted.Load() {
		return bridge.ErrHalted
	}
	p.mu.Lock()
	if p.waiting >= maxWaiting {
		p.mu.Unlock()
		return errCrowded
	}
	p.waiting++
	p.mu.Unlock()
	began := time.Now()
	defer func() {
		p.waited(began, time.Now())
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
			return bridge.ErrHalted
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

// wish says what a request wants of the choice of its endpoint. The zero wish
// leaves it to the pool.
type wish struct {
	// prefer is an instance that is taken as long as it is ready and not ejected.
	prefer string
	// keyed says that key chooses by consistent hash, whatever the pool's balance.
	keyed bool
	key   uint64 // of balance.Key
	bound balance.Bound
}

// hashBound keeps a hot key of a hashing pool from one endpoint when others have
// much less to do. Sticky requests are never moved for that.
var hashBound = balance.Bound{Factor: 2, Floor: 16}

// wishOf adds the pool's own hash, if it has one, to what a request wants.
func (p *pool) wishOf(w wish, r *http.Request, client netip.Addr) wish {
	if set := p.settings.Load(); set.Balance == system.HashBalance && !w.keyed {
		if s := hashKey(set.Hash, r, client); s != "" {
			w.keyed, w.key, w.bound = true, balance.Key(s), hashBound
		}
	}
	return w
}

// hashKey returns what a request has of a key, "" for nothing.
func hashKey(k system.HashKey, r *http.Request, client netip.Addr) string {
	kind, name, _ := strings.Cut(string(k), ":")
	switch kind {
	case "path":
		return r.URL.Path
	case "header":
		return r.Header.Get(name)
	case "cookie":
		if name == "" {
			return ""
		}
		c, err := r.Cookie(name)
		if err != nil {
			return ""
		}
		return c.Value
	}
	return client.String()
}

// pick enters an endpoint, or returns nil if none is left that was not tried.
// The snapshot is the one that the request was matched with: as long as its
// endpoints live, a request stays with the revision whose route it took.
func (p *pool) pick(s *snapshot, now time.Time, tried []*endpoint, w wish) *endpoint {
	if e := p.choose(s.ready[p.service], now, tried, w); e != nil {
		return e
	}
	return p.choose(p.current(), now, tried, w)
}

// choose enters an endpoint of rd. Those that are ejected, or have lately refused a
// connection, come last; those that were tried are not taken.
func (p *pool) choose(rd *ready, now time.Time, tried []*endpoint, w wish) *endpoint {
	if rd == nil || len(rd.http) == 0 {
		return nil
	}
	if w.prefer != "" {
		for _, e := range rd.http {
			if e.Instance == w.prefer && e.sound(now) && !slices.Contains(tried, e) && e.enter() {
				return e
			}
		}
	}
	set := p.settings.Load()
	turn := p.turn.Add(1)
	for range 4 { // the best may leave between the look and the entry
		var esBuf [16]*endpoint
		var csBuf [16]balance.Candidate
		es, cs := slate(rd.http, now, tried, set.SlowStart, esBuf[:0], csBuf[:0])
		var at int
		switch {
		case w.keyed:
			at = balance.Hash(cs, w.key, w.bound)
		case set.Balance == system.RoundRobin:
			at = balance.Round(cs, turn)
		case set.Balance == system.TwoChoices:
			at = balance.Two(cs, turn)
		default:
			at = balance.Least(cs, turn)
		}
		if at < 0 {
			return nil
		}
		if es[at].enter() {
			return es[at]
		}
	}
	return nil
}

// slate lists the endpoints that may be taken, sound ones only if there are any.
func slate(all []*endpoint, now time.Time, tried []*endpoint, slowStart time.Duration, es []*endpoint, cs []balance.Candidate) ([]*endpoint, []balance.Candidate) {
	for _, sound := range [2]bool{true, false} {
		for _, e := range all {
			if e.gone.Load() || e.sound(now) != sound || slices.Contains(tried, e) {
				continue
			}
			es = append(es, e)
			cs = append(cs, balance.Candidate{ID: e.key, Open: e.open.Load(), Weight: e.weight(now, slowStart)})
		}
		if len(es) > 0 {
			break
		}
	}
	return es, cs
}
