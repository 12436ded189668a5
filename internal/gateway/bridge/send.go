package bridge

import (
	"fmt"
	"runtime"
	"sync"
)

// sender publishes requests in batches. Under load a message that is published
// alone costs a write, and a wake-up of the server and of the service, of its own;
// together they share one. So the first that wants to send lets the other
// goroutines that can run go first, and then publishes for all that came in the
// meantime. With nothing else to do this is immediate.
type sender struct {
	conn Conn

	mu      sync.Mutex // guards the fields below, queued and unsent of calls
	queue   []*Call
	leading bool // somebody is going to publish the queue
}

// send publishes c.msg, or leaves that to another. A failure is told by c.unsent
// after a wake-up.
func (s *sender) send(c *Call) {
	s.mu.Lock()
	c.queued, c.unsent = true, nil
	s.queue = append(s.queue, c)
	if s.leading {
		s.mu.Unlock()
		return
	}
	s.leading = true
	s.mu.Unlock()
	runtime.Gosched()
	s.mu.Lock()
	for i := 0; i < len(s.queue); i++ {
		next := s.queue[i]
		if next == nil { // it was withdrawn
			continue
		}
		next.queued = false
		if err := s.conn.PublishMsg(&next.msg); err != nil {
			next.unsent = fmt.Errorf("publish request: %w", err)
			next.signal()
		}
	}
	clear(s.queue)
	s.queue, s.leading = s.queue[:0], false
	s.mu.Unlock()
}

// has reports whether c is still to be published. Until then its message must not
// be changed.
func (s *sender) has(c *Call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.queued
}

// withdraw makes sure that c is not used any more.
func (s *sender) withdraw(c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.queued {
		return
	}
	c.queued = false
	for i := range s.queue {
		if s.queue[i] == c {
			s.queue[i] = nil
		}
	}
}

// failure returns why c could not be published, nil if it was or is still to be.
func (s *sender) failure(c *Call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.unsent
}
