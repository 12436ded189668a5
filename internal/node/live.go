package node

import (
	"context"

	"fairlead/internal/bus"
	"fairlead/internal/gateway/live"
)

// feed is the bus as the door's subscribers hear it.
type feed struct{ *bus.Feed }

// openFeed opens it.
func (n *Node) openFeed() (_ live.Bus, err error) {
	if n.feed, err = n.bus.Feed(); err != nil {
		return nil, err
	}
	n.onStop("feed", func(context.Context) error { n.feed.Close(); return nil })
	return feed{n.feed}, nil
}

// Listen hears a pattern.
func (f feed) Listen(pattern string, take func(*live.Message, bool), missed func()) (func(), error) {
	return f.Feed.Listen(pattern, func(m bus.Heard, more bool) {
		take(&live.Message{Subject: m.Subject, Stream: m.Stream, Sequence: m.Sequence, Time: m.Time, Data: m.Data}, more)
	}, missed)
}

// Streams lists the queues' stores.
func (f feed) Streams(ctx context.Context, pattern string) ([]live.Stream, error) {
	list, err := f.Feed.Streams(ctx, pattern)
	out := make([]live.Stream, len(list))
	for i, s := range list {
		out[i] = live.Stream{ID: s.ID, Name: s.Name, Queue: s.Queue, First: s.First, Last: s.Last, Created: s.Created}
	}
	return out, err
}

// Read reads one of them.
func (f feed) Read(ctx context.Context, s live.Stream, patterns []string, after uint64, most int) (live.Page, error) {
	p, err := f.Feed.Read(ctx, s.Name, patterns, after, most)
	out := live.Page{Through: p.Through, First: p.First, Last: p.Last, Messages: make([]live.Message, len(p.Messages))}
	for i, m := range p.Messages {
		out.Messages[i] = live.Message{Subject: m.Subject, Stream: s.Name, Sequence: m.Sequence, Time: m.Time, Data: m.Data}
	}
	return out, err
}
