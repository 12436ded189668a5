package service

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// holdMargin is how long a hold lasts after the node goes on: the bus closes then, and
// the loss of it ends the hold.
const holdMargin = 5 * time.Second

// holding keeps off the bus what this instance asks of its own accord while the node
// closes the bus for a moment: a request that is under way then may be lost, and whether
// it was acted on could not be told.
type holding struct {
	out inflight // requests of its own accord that are on the bus

	mu      sync.Mutex         // guards what follows
	held    context.Context    // ends with the hold; nil: there was none
	release context.CancelFunc // ends held
}

// begin returns when a request may go on the bus, with what to call when it is over.
// What is asked to answer a request goes at once: whoever waits for that answer is held,
// or waited for. The rest waits for the end of the hold, but for no longer than half of
// the time that ctx leaves: it shall not fail for having been held.
func (h *holding) begin(ctx context.Context) (over func()) {
	if c := callOf(ctx); c != nil && c.owes.Load() {
		return func() {}
	}
	ended := h.enter(false)
	if ended == nil {
		return h.out.done
	}
	patience := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	for ended != nil {
		select {
		case <-ended:
		case <-patience.Done():
		}
		ended = h.enter(patience.Err() != nil)
	}
	return h.out.done
}

// enter counts a request of the instance's own, or returns what is closed at the end of
// the hold that it waits for.
func (h *holding) enter(must bool) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !must && h.held != nil && h.held.Err() == nil {
		return h.held.Done()
	}
	h.out.add()
	return nil
}

// hold begins a hold that lasts for d at most, and takes the place of the one before.
func (h *holding) hold(d time.Duration) context.Context {
	h.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held, h.release = context.WithTimeout(context.Background(), d)
	return h.held
}

// end ends the hold, if there is one.
func (h *holding) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.release != nil {
		h.release()
	}
}

// heedHold begins to hear when the node wants requests held, if there is one.
func (s *Service) heedHold() error {
	if !s.config.node {
		return nil
	}
	_, err := s.conn.Subscribe(wire.SubjectHold+s.config.busUser, func(m *nats.Msg) {
		var told wire.Hold
		if err := json.Unmarshal(m.Data, &told); err != nil {
			return
		}
		left := time.Until(time.UnixMilli(told.Until))
		if left <= 0 { // it is over, or the node has gone on long ago
			s.holding.end()
			return
		}
		held := s.holding.hold(left + holdMargin)
		go func() {
			// The reply comes after all that was published before: the bus has it then.
			if s.holding.out.wait(held) == 0 && held.Err() == nil && m.Reply != "" {
				_ = m.Respond(nil) // fails only on a closed connection
			}
		}()
	})
	return err
}
