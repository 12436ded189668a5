package bridge

import (
	"context"
	"errors"
	"time"
)

// errHeld says that requests of a service are held.
var errHeld = errors.New("the bus is moving")

// hold keeps requests off the bus while it moves to another process, or back.
type hold struct {
	on      bool
	free    map[string]bool // services that were released since
	changed chan struct{}   // closed with the next release; nil while not on
	longest time.Duration   // that a request was held
}

func (h *hold) holds(service string) bool { return h.on && !h.free[service] }

// Hold keeps all requests off the bus until [Bridge.Release]; they wait, within their
// deadlines. What is on the bus already goes on.
func (b *Bridge) Hold() {
	if b != nil {
		b.table.holdAll()
	}
}

// Release lets the requests of the services go; none named means all, and ends the
// hold. What had been sent before the hold, has no reply yet and may be sent again
// is so.
func (b *Bridge) Release(services ...string) {
	if b != nil {
		b.table.release(services)
	}
}

// LongestHold is the longest time that a request was held since the last Hold.
func (b *Bridge) LongestHold() time.Duration {
	if b == nil {
		return 0
	}
	b.table.mu.Lock()
	defer b.table.mu.Unlock()
	return b.table.hold.longest
}

func (t *table) holdAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hold.changed != nil {
		close(t.hold.changed)
	}
	t.hold = hold{on: true, free: make(map[string]bool), changed: make(chan struct{})}
}

func (t *table) release(services []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.hold.on {
		return
	}
	close(t.hold.changed)
	t.hold.changed = make(chan struct{})
	if len(services) == 0 {
		for name := range t.traffic {
			if !t.hold.free[name] {
				services = append(services, name)
			}
		}
		t.hold.on, t.hold.changed = false, nil
	}
	for _, name := range services {
		t.hold.free[name] = true
		if tr := t.traffic[name]; tr != nil {
			for c := tr.first; c != nil; c = c.newer {
				if c.again {
					c.resend = true
					c.rouse()
				}
			}
		}
	}
}

// held reports whether requests of a service are held.
func (t *table) held(service string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hold.holds(service)
}

// services are those that were asked anything.
func (t *table) services() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := make([]string, 0, len(t.traffic))
	for name := range t.traffic {
		names = append(names, name)
	}
	return names
}

// awaitRelease waits until requests of c's service are no longer held, within c's
// deadline.
func (b *Bridge) awaitRelease(ctx context.Context, c *Call) error {
	begun := time.Now()
	limit := time.NewTimer(time.Until(c.Deadline))
	defer limit.Stop()
	t := b.table
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.hold.longest = max(t.hold.longest, time.Since(begun))
	}()
	for {
		t.mu.Lock()
		held, changed := t.hold.holds(c.route.service), t.hold.changed
		t.mu.Unlock()
		if !held {
			return nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return errUnanswered
		case <-ctx.Done():
			return ctx.Err()
		case <-b.ending.Done():
			return ErrClosed
		}
	}
}
