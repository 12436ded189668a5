package bus

import (
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
)

// Registration is what an instance does on the bus, as the server sees it.
type Registration struct {
	// Connected says that a connection with the instance's credentials is open.
	Connected bool
	// Subscriptions counts those on what the service answers and subscribes;
	// inboxes and micro's discovery do not count.
	Subscriptions int
	// Patterns are the subjects of these subscriptions, sorted, each once.
	Patterns []string
	// Delivered counts the requests that the instance was given in its life,
	// over subscriptions on what it answers, all its connections together. It
	// never falls.
	Delivered uint64
}

// Registered says what an instance does on the bus now. It asks nothing of the
// client, and costs some microseconds, so it may be called often.
//
// It returns [ErrUnknownInstance] if the instance has no credentials.
func (b *Bus) Registered(id string) (Registration, error) {
	b.mu.Lock()
	in, closed := b.instances[id], b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return Registration{}, ErrClosed
	case in == nil:
		return Registration{}, fmt.Errorf("look up %s on bus: %w", id, ErrUnknownInstance)
	}
	views, err := b.look(in)
	if err != nil {
		return Registration{}, fmt.Errorf("look up %s on bus: %w", id, err)
	}
	r := Registration{Connected: len(views) > 0}
	for _, v := range views {
		r.Subscriptions += v.subscriptions
		r.Patterns = append(r.Patterns, v.patterns...)
	}
	r.Patterns = sorted(r.Patterns)
	r.Delivered = b.count(in, views)
	return r, nil
}

// view is one connection of an instance.
type view struct {
	subscriptions int
	patterns      []string
	requests      uint64           // given over subscriptions on what it answers
	sent          int64            // messages of every kind sent to it
	others        map[string]int64 // messages by subscription, for all that are not answers
}

// look reads the instance's open connections from the server, by their ids.
func (b *Bus) look(in *instance) (map[uint64]view, error) {
	z, err := b.server.Connz(&server.ConnzOptions{User: in.id, SubscriptionsDetail: true})
	if err != nil {
		return nil, err
	}
	views := make(map[uint64]view, len(z.Conns))
	for _, c := range z.Conns {
		views[c.Cid] = in.party.view(c)
	}
	return views, nil
}

func (p party) view(c *server.ConnInfo) view {
	v := view{sent: c.OutMsgs, others: make(map[string]int64)}
	for _, s := range c.SubsDetail {
		answers := s.Queue == p.bus.Group && answeredByAny(p.bus.Answers, s.Subject)
		if p.bus.Group == "" {
			answers = answeredByAny(p.bus.Answers, s.Subject)
		}
		if answers {
			v.requests += uint64(max(s.Msgs, 0))
		} else {
			v.others[s.Sid] = s.Msgs
		}
		if answers || answeredByAny(p.bus.Subscribes, s.Subject) {
			v.subscriptions++
			v.patterns = append(v.patterns, s.Subject)
		}
	}
	return v
}

// count brings the instance's count of requests up to date with what was seen of
// its connections, and returns it.
func (b *Bus) count(in *instance, views map[uint64]view) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for cid, v := range views {
		in.seen[cid] = max(in.seen[cid], v.requests)
	}
	var sum uint64
	for cid, n := range in.seen {
		if _, open := views[cid]; !open {
			// What it was given since it was last seen is kept by the server
			// for a while.
			n = max(n, b.final(in, cid))
			in.gone += n
			delete(in.seen, cid)
			continue
		}
		sum += n
	}
	return in.gone + sum
}

// final is how many requests a connection that is closed was given, zero if the
// server has forgotten it.
func (b *Bus) final(in *instance, cid uint64) uint64 {
	z, err := b.server.Connz(&server.ConnzOptions{
		CID: cid, State: server.ConnClosed, SubscriptionsDetail: true,
	})
	if err != nil || len(z.Conns) == 0 {
		return 0
	}
	return in.party.view(z.Conns[0]).requests
}

// settle adds what the instance was given between the look before its drain and
// the end of it, when the subscriptions and their counts were gone. What was
// sent to it in between and did not go to the subscriptions that stayed were
// requests, unless it had other subscriptions to lose.
func (b *Bus) settle(in *instance, before, after map[uint64]view) {
	if len(in.party.bus.Subscribes) > 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for cid, was := range before {
		is, ok := after[cid]
		if !ok {
			continue
		}
		given := is.sent - was.sent
		for sid, n := range is.others {
			given -= n - was.others[sid]
		}
		if given > 0 {
			in.seen[cid] = max(in.seen[cid], was.requests+uint64(given))
		}
	}
}
