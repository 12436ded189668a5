// Package live tells browsers what is published on the bus: over WebSockets, and as
// server-sent events (WHATWG HTML, 9.2).
//
// Guarantees:
//   - A client that comes back with the cursor it was given last is told what the
//     queues have kept since, everything once and in the order of each queue, and then
//     goes on live. What is not kept any more is told as a gap, never passed over in
//     silence. Subjects that no queue keeps are live only.
//   - A client that takes its messages too slowly is told so and dropped. The others do
//     not notice: nobody waits for anybody, and what is remembered for all together is
//     bounded (4,096 messages or 16 MiB for each pattern).
//   - A client is told nothing outside of the patterns that it is let in with, and no
//     headers of messages.
//
// It does not decide who is let in, and knows neither JetStream nor HTTP's routes: it is
// given a [Bus], and connections.
package live

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Bus is what the room needs of the bus.
type Bus interface {
	// Listen calls take for every message on a pattern, one at a time and in their
	// order; more says that the next one is at hand. Of a message that a queue has
	// stored, it is called after that. It calls missed, which does not block, in any
	// goroutine whenever some may have been lost, and before it calls take for a
	// message behind those. After stop has returned, missed is not called any more, and
	// take at most once.
	Listen(pattern string, take func(m *Message, more bool), missed func()) (stop func(), err error)
	// Streams returns the streams of the queues that keep subjects of a pattern.
	Streams(ctx context.Context, pattern string) ([]Stream, error)
	// Read returns messages of a stream that match one of the patterns, at most most
	// of them, in order, beginning after a sequence.
	Read(ctx context.Context, s Stream, patterns []string, after uint64, most int) (Page, error)
}

// Stream is the store of a queue.
type Stream struct {
	ID      uint64 // of this stream; another one by the same name has another
	Name    string
	Queue   string // pattern of its subjects
	First   uint64 // sequence of the oldest message, of the next one if there is none
	Last    uint64 // sequence of the newest message that there was
	Created time.Time
}

// Page is a part of a stream.
type Page struct {
	Messages []Message
	Through  uint64 // everything up to here is in the page, or was before it
	First    uint64 // as of the stream, before the page was read
	Last     uint64 // as above
}

// Options are what a room is made with. Bus is needed.
type Options struct {
	Bus    Bus
	Key    []byte       // keys the cursors; with another one, clients are told of a gap. Nil: a random one
	Logger *slog.Logger // nil: logs nothing
}

// Room is all that is live at a gateway. Make it with [New]; its methods are safe for
// concurrent use. Nobody can enter a nil Room.
type Room struct {
	bus     Bus
	signer  signer
	log     *slog.Logger
	reads   chan struct{} // a place for each client that reads the store
	retired chan struct{} // closed when all clients shall leave
	retire  func()

	mu     sync.Mutex // guards what follows
	hubs   map[string]*hub
	crowds map[string]*crowd
	closed bool
}

// readers is how many clients are read from the store for at once.
const readers = 8

// ErrClosed is returned by [Room.Enter] after Retire or Close.
var ErrClosed = errors.New("the door is closing")

// New makes a room. It does no I/O.
func New(o Options) *Room {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Key == nil {
		o.Key = make([]byte, 32)
		_, _ = rand.Read(o.Key) // never fails
	}
	r := &Room{
		bus: o.Bus, signer: signer{o.Key}, log: o.Logger, reads: make(chan struct{}, readers),
		retired: make(chan struct{}), hubs: map[string]*hub{}, crowds: map[string]*crowd{},
	}
	r.retire = sync.OnceFunc(func() { close(r.retired) })
	return r
}

// Retire asks all clients to leave: WebSockets with a close frame of status 1001, others
// by an event. They may come back elsewhere with their cursors.
func (r *Room) Retire() {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.retire()
}

// Close ends what is heard of the bus. All clients must have left.
func (r *Room) Close() {
	if r == nil {
		return
	}
	r.Retire()
	r.mu.Lock()
	hubs := r.hubs
	r.hubs = nil
	for _, h := range hubs {
		if h.idle != nil {
			h.idle.Stop()
		}
	}
	for _, c := range r.crowds {
		c.stop()
	}
	r.mu.Unlock()
	for _, h := range hubs {
		h.close()
	}
}

// Refresh looks again which queues there are. Call it when they may have changed.
func (r *Room) Refresh() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.hubs {
		h.missed()
	}
}

// enter returns the hub of a pattern, open. leave must follow.
func (r *Room) enter(ctx context.Context, pattern string) (*hub, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, ErrClosed
	}
	h := r.hubs[pattern]
	if h == nil {
		h = newHub(r, pattern)
		r.hubs[pattern] = h
		go h.open() //nolint:contextcheck // it serves others too
	}
	h.clients++
	if h.idle != nil {
		h.idle.Stop()
	}
	r.mu.Unlock()
	select {
	case <-h.opened:
	case <-ctx.Done():
		r.leave(h)
		return nil, ctx.Err()
	}
	if h.failed != nil {
		r.leave(h)
		return nil, fmt.Errorf("listen to %s: %w", pattern, h.failed)
	}
	return h, nil
}

// leave gives a hub back.
func (r *Room) leave(h *hub) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.clients--; h.clients > 0 || r.hubs == nil {
		return
	}
	select {
	case <-h.opened:
		if h.failed != nil {
			h.end()
			delete(r.hubs, h.pattern) // the next client tries again
			return
		}
	default:
	}
	h.idle = time.AfterFunc(lingering, func() { r.expire(h) })
}

// expire ends a hub that nobody needs.
func (r *Room) expire(h *hub) {
	r.mu.Lock()
	over := h.clients == 0 && r.hubs[h.pattern] == h
	if over {
		delete(r.hubs, h.pattern)
	}
	r.mu.Unlock()
	if over {
		h.close()
	}
}
