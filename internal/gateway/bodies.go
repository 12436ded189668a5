package gateway

import (
	"errors"
	"net/netip"
	"sync"
)

// bodyBytes is how much one client's requests may have read at a time before it is known
// who sends them.
const bodyBytes = 64 << 20

var errBodies = errors.New("too many requests of yours are being read; try again in 1 s")

// bodies bound what is held of requests which nobody has logged in for, and whose
// signature can be checked only when all of the body is there. The zero value is ready to
// use.
type bodies struct {
	mu   sync.Mutex // guards what follows
	held map[netip.Addr]int64
}

// hold makes room for a body of a client, of which size is declared, -1 if nothing is: it
// may become as large as limit then. release must follow.
func (b *bodies) hold(client netip.Addr, size, limit int64) (release func(), err error) {
	if size < 0 || size > limit {
		size = limit
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[client]+size > bodyBytes && b.held[client] > 0 {
		return nil, errBodies
	}
	if b.held == nil {
		b.held = map[netip.Addr]int64{}
	}
	b.held[client] += size
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.held[client] -= size; b.held[client] == 0 {
			delete(b.held, client)
		}
	}, nil
}
