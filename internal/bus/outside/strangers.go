package outside

import (
	"net/netip"
	"sync"
)

const (
	// maxStrangers is how many connections there may be that have not been let in, and
	// strangersOfOne how many of these may come from one address: an IPv6 /64 is one.
	maxStrangers   = 256
	strangersOfOne = 32
)

// strangers counts the connections that were not let in yet. It is safe for concurrent
// use; the zero value is ready.
type strangers struct {
	mu    sync.Mutex
	count int
	of    map[netip.Addr]int
}

// enter takes a place for a connection from an address, if there is one.
func (s *strangers) enter(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from = household(from)
	if s.count >= maxStrangers || s.of[from] >= strangersOfOne {
		return false
	}
	if s.of == nil {
		s.of = map[netip.Addr]int{}
	}
	s.count++
	s.of[from]++
	return true
}

// leave gives a place back.
func (s *strangers) leave(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from = household(from)
	s.count--
	if s.of[from]--; s.of[from] == 0 {
		delete(s.of, from)
	}
}

// waiting is how many places are taken.
func (s *strangers) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// household is what shares places with an address: whoever has one IPv6 address has
// its /64.
func household(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
