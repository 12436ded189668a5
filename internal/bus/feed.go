package bus

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

// Feed hears what is published, as nobody's user, and reads what queues keep. It is what
// the door tells its subscribers of. It is safe for concurrent use.
type Feed struct {
	conn *nats.Conn
	js   jetstream.JetStream
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	missed map[*nats.Subscription]func()
}

// Feed opens a feed. It ends with [Feed.Close], or with the bus.
func (b *Bus) Feed() (*Feed, error) {
	f := &Feed{log: b.log, missed: map[*nats.Subscription]func(){}}
	var err error
	f.conn, err = b.Operator("feed", nats.ReconnectHandler(func(*nats.Conn) { f.tellMissed(nil) }), nats.ErrorHandler(f.failed))
	if err != nil {
		return nil, err
	}
	if f.js, err = jetstream.New(f.conn); err != nil {
		return nil, fmt.Errorf("open feed: %w", err)
	}
	return f, nil
}

// Close ends the feed.
func (f *Feed) Close() { f.conn.Close() }

// failed is told of messages that were dropped because they were not taken in time.
func (f *Feed) failed(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		f.tellMissed(sub)
	case errors.Is(err, nats.ErrConnectionClosed):
		return
	}
	f.log.Warn("bus connection reports an error", slog.String("connection", "feed"), slog.String(wire.KeyError, err.Error()))
}

// tellMissed says that messages may have been lost, for one subscription or all.
func (f *Feed) tellMissed(one *nats.Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub, missed := range f.missed {
		if one == nil || one == sub {
			missed()
		}
	}
}

// Heard is a message as it was published. Of a message that a queue has stored, Stream
// and Sequence say where.
type Heard struct {
	Subject  string
	Stream   string
	Sequence uint64
	Time     time.Time
	Data     []byte
}

// Listen calls take for every message on a pattern, one at a time; more says that
// another one is at hand. missed, which must not block, is called when some may have
// been lost, and before take is called for one behind them. After stop has returned,
// take is called once more at most.
func (f *Feed) Listen(pattern string, take func(m Heard, more bool), missed func()) (stop func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sub *nats.Subscription
	ready := make(chan struct{}) // sub is set
	losses := f.losses(nil)
	sub, err = f.conn.Subscribe(pattern, func(m *nats.Msg) {
		<-ready
		// The library's handlers may run later than this.
		if now := f.losses(sub); now != losses {
			losses = now
			missed()
		}
		waiting, _, err := sub.Pending() // this one too
		take(heard(m), err == nil && waiting > 1)
	})
	close(ready)
	if err != nil {
		return nil, fmt.Errorf("listen to %s: %w", pattern, err)
	}
	if err := f.conn.FlushTimeout(ensureTime); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to %s: %w", pattern, err), sub.Unsubscribe())
	}
	f.missed[sub] = missed
	return func() {
		f.mu.Lock()
		delete(f.missed, sub)
		f.mu.Unlock()
		_ = sub.Unsubscribe() // fails only on a closed connection
	}, nil
}

// losses counts the occasions on which messages may have been lost.
func (f *Feed) losses(sub *nats.Subscription) uint64 {
	n := f.conn.Stats().Reconnects
	if sub != nil {
		if dropped, err := sub.Dropped(); err == nil {
			n += uint64(dropped)
		}
	}
	return n
}

// HeardOf is a message that was heard on a subject.
func HeardOf(m *nats.Msg) Heard { return heard(m) }

// heard reads where a message is stored from what the stream has added to it, which
// comes last: a publisher may have put the same names before.
func heard(m *nats.Msg) Heard {
	h := Heard{Subject: m.Subject, Data: m.Data, Time: time.Now()}
	last := func(name string) string {
		values := m.Header[name]
		if len(values) == 0 {
			return ""
		}
		return values[len(values)-1]
	}
	sequence, err := strconv.ParseUint(last(jetstream.SequenceHeader), 10, 64)
	if err != nil || sequence == 0 {
		return h
	}
	h.Stream, h.Sequence = last(jetstream.StreamHeader), sequence
	if t, err := time.Parse(time.RFC3339Nano, last(jetstream.TimeStampHeaer)); err == nil {
		h.Time = t
	}
	return h
}

// FeedStream is the store of a queue.
type FeedStream struct {
	ID   uint64 // of this stream; one that is made anew by the same name has another
	Name string
	catalogue.State
}

// Streams returns the stores of the queues that keep subjects of a pattern.
func (f *Feed) Streams(ctx context.Context, pattern string) ([]FeedStream, error) {
	states, err := catalogue.States(ctx, f.js)
	if err != nil {
		return nil, err
	}
	var list []FeedStream
	for _, s := range states {
		if s.Apart || notation.SubjectsShared(pattern, s.Queue) == "" {
			continue
		}
		h := fnv.New64a()
		_, _ = fmt.Fprintf(h, "%s %d", s.Queue, s.Created.UnixNano()) // never fails
		list = append(list, FeedStream{ID: h.Sum64(), Name: catalogue.Stream(s.Queue), State: s})
	}
	return list, nil
}

// Read returns a page of a stream; see [catalogue.ReadPage].
func (f *Feed) Read(ctx context.Context, stream string, filters []string, after uint64, most int) (catalogue.Page, error) {
	return catalogue.ReadPage(ctx, f.js, stream, filters, after, most)
}
