package gateway

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"fairlead/internal/gateway/meter"
)

// closeTime is how long the sides of a tunnel have to answer its end, and a stream
// to come to the end of an event.
const closeTime = 2 * time.Second

// errEnded says that the gateway itself broke off an answer.
var errEnded = errors.New("the instance leaves, and the answer took too long")

// lasting is what may be open for long: a tunnel, or an answer that comes in
// pieces.
type lasting interface {
	// end asks for an end that the client understands, by then. It returns at once.
	// What knows no such end is broken off if force is set, else left alone.
	end(by time.Time, force bool)
	// cut ends it now.
	cut()
}

// tunnels are all that lasts at a gateway, tunnels and answers in pieces.
type tunnels struct {
	// banned says whose connections are cut; nil: nobody's. It must not block.
	banned func(client netip.Addr) bool

	mu      sync.Mutex // guards the fields below
	open    map[lasting]ends
	empty   chan struct{} // closed when the last one ends; nil while nobody waits
	retired bool          // retire has been called
	over    bool          // cut has been called
	ages    meter.Ages    // of the tunnels only
}

// ends are whom something lasts between.
type ends struct {
	client   netip.Addr
	endpoint *endpoint
}

// add takes up what lasts between a client and an endpoint. It ends at once if
// everything else has been asked to, or the client has been banned meanwhile.
func (ts *tunnels) add(l lasting, client netip.Addr, e *endpoint) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.open == nil {
		ts.open = map[lasting]ends{}
	}
	ts.open[l] = ends{client, e}
	if t, ok := l.(*tunnel); ok {
		t.age = ts.ages.Enter()
	}
	switch {
	case ts.over, ts.banned != nil && ts.banned(client):
		l.cut()
	case e != nil && e.over.Load():
		l.end(time.Now().Add(closeTime), true)
	case ts.retired:
		l.end(time.Now().Add(closeTime), false)
	}
}

func (ts *tunnels) remove(l lasting) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.open, l)
	if t, ok := l.(*tunnel); ok {
		ts.ages.Leave(t.age)
	}
	if len(ts.open) == 0 && ts.empty != nil {
		close(ts.empty)
		ts.empty = nil
	}
}

// count returns how many tunnels are open, answers not counted.
func (ts *tunnels) count() int { return ts.ages.Open() }

// wait returns when nothing is open.
func (ts *tunnels) wait(ctx context.Context) error {
	ts.mu.Lock()
	if len(ts.open) == 0 {
		ts.mu.Unlock()
		return nil
	}
	if ts.empty == nil {
		ts.empty = make(chan struct{})
	}
	empty := ts.empty
	ts.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retire asks everything to end that has an end its client understands. Other
// answers go on.
func (ts *tunnels) retire() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.retired = true
	by := time.Now().Add(closeTime)
	for l := range ts.open {
		l.end(by, false)
	}
}

// finish ends what is open on an endpoint, and reports whether there was anything.
func (ts *tunnels) finish(e *endpoint) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	e.over.Store(true)
	by := time.Now().Add(closeTime)
	found := false
	for l, on := range ts.open {
		if on.endpoint == e {
			found = true
			l.end(by, true)
		}
	}
	return found
}

// expel ends what clients that are banned have open.
func (ts *tunnels) expel() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for l, on := range ts.open {
		if ts.banned(on.client) {
			l.cut()
		}
	}
}

// cut ends everything now, what is just coming up too.
func (ts *tunnels) cut() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.over = true
	for l := range ts.open {
		l.cut()
	}
}
