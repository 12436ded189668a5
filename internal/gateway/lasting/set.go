// Package lasting holds what may stay open at a gateway for long: tunnels, as those of
// WebSockets, and answers that come in pieces, as server-sent evens. It ends them in a
// way that clients understand when the instance behind them leaves or the gateway
// stops: close frames, the end of an event.
//
// It carries a tunnel's bytes but copies no answers: whoever does asks [Stream.Ending]
// and [Events]. How long things may stay is decided elsewhere.
package lasting

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/meter"
)

// CloseTime is how long the sides of a tunnel have to answer its end, and a stream
// to come to the end of an event.
const CloseTime = 2 * time.Second

// ErrEnded says that the gateway itself broke off an answer.
var ErrEnded = errors.New("the instance leaves, and the answer took too long")

// Place is where things last: at one instance. The zero Place is ready for use.
type Place struct{ over atomic.Bool }

// Over reports whether what lasts here is told to end.
func (p *Place) Over() bool { return p.over.Load() }

// One is what may be open for long: a [Tunnel] or a [Stream].
type One interface {
	// end asks for an end that the client understands, by then. It returns at once.
	// What knows no such end is broken off if force is set, else left alone.
	end(by time.Time, force bool)
	// cut ends it now.
	cut()
}

// Set is all that lasts at a gateway, tunnels and answers in pieces. The zero Set is
// empty and ready for use; it is safe for concurrent use.
type Set struct {
	// Banned says whose connections are cut; nil: nobody's. It must not block, and is
	// set before anything is added.
	Banned func(client netip.Addr) bool

	mu      sync.Mutex // guards the fields below
	open    map[One]Ends
	empty   chan struct{} // closed when the last one ends; nil while nobody waits
	retired bool          // Retire has been called
	over    bool          // Cut has been called
	ages    meter.Ages    // of the tunnels only
}

// Ends are whom something lasts between.
type Ends struct {
	Client netip.Addr
	Place  *Place // nil: none
}

// Add takes up what lasts between a client and a place. It ends at once if everything
// else has been asked to, or the client has been banned meanwhile. Remove must follow.
func (s *Set) Add(l One, between Ends) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[One]Ends{}
	}
	s.open[l] = between
	if t, ok := l.(*Tunnel); ok {
		t.age = s.ages.Enter()
	}
	switch {
	case s.over, s.Banned != nil && s.Banned(between.Client):
		l.cut()
	case between.Place != nil && between.Place.over.Load():
		l.end(time.Now().Add(CloseTime), true)
	case s.retired:
		l.end(time.Now().Add(CloseTime), false)
	}
}

// Remove forgets what has ended.
func (s *Set) Remove(l One) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, l)
	if t, ok := l.(*Tunnel); ok {
		s.ages.Leave(t.age)
	}
	if len(s.open) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// Tunnels returns how many tunnels are open, answers not counted.
func (s *Set) Tunnels() int { return s.ages.Open() }

// Mark returns a mark for [Set.Since], and how many tunnels are open.
func (s *Set) Mark() (meter.Age, int) { return s.ages.Mark() }

// Since returns how many of the tunnels that were open at a mark still are.
func (s *Set) Since(mark meter.Age) int { return s.ages.Since(mark) }

// Len returns how many tunnels and streams are open.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Wait returns when nothing is open, or with the context's error.
func (s *Set) Wait(ctx context.Context) error {
	s.mu.Lock()
	if len(s.open) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retire asks everything to end that has an end its client understands. Other
// answers go on.
func (s *Set) Retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	by := time.Now().Add(CloseTime)
	for l := range s.open {
		l.end(by, false)
	}
}

// Finish ends what is open at a place and what comes there later, and reports whether
// there was anything.
func (s *Set) Finish(at *Place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at.over.Store(true)
	by := time.Now().Add(CloseTime)
	found := false
	for l, on := range s.open {
		if on.Place == at {
			found = true
			l.end(by, true)
		}
	}
	return found
}

// Expel ends what clients that are banned have open.
func (s *Set) Expel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, on := range s.open {
		if s.Banned != nil && s.Banned(on.Client) {
			l.cut()
		}
	}
}

// Cut ends everything now, what is just coming up too.
func (s *Set) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for l := range s.open {
		l.cut()
	}
}
