package bus

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Registration is what an instance does on the bus, as the server sees it.
type Registration struct {
	// Connected says that a connection with the instance's credentials is open.
	Connected bool
	// Subscriptions counts those on what the service answers and subscribes;
	// inboxes and micro's discovery do not count.
	Subscriptions int
	// Consumers counts those that the instance has asked for, to get what queues keep.
	Consumers int
	// Patterns are the subjects of these subscriptions, sorted, each once.
	Patterns []string
	// Delivered counts the requests that the instance was given in its life,
	// over subscriptions on what it answers, all its connections together. It
	// never falls. It is exact, but for the millisecond of a drain in an instance
	// that also subscribes what is published.
	Delivered uint64
}

// Registered says what an instance does on the bus, as it was at most five
// milliseconds ago. It asks nothing of the client and may be called often, for
// many instances at once.
//
// It returns [ErrUnknownInstance] if the instance has no credentials.
func (b *Bus) Registered(id string) (Registration, error) {
	b.mu.Lock()
	in, closed, consumers := b.instances[id], b.closed, 0
	if in != nil {
		consumers = len(in.pulls)
	}
	b.mu.Unlock()
	switch {
	case closed:
		return Registration{}, ErrClosed
	case in == nil:
		return Registration{}, fmt.Errorf("look up %s on bus: %w", id, ErrUnknownInstance)
	}
	conns, err := b.glimpse()
	if err != nil {
		return Registration{}, fmt.Errorf("look up %s on bus: %w", id, err)
	}
	views := in.party.views(conns[id])
	r := Registration{Connected: len(views) > 0, Consumers: consumers}
	for _, v := range views {
		r.Subscriptions += v.subscriptions
		r.Patterns = append(r.Patterns, v.patterns...)
	}
	r.Patterns = sorted(r.Patterns)
	r.Delivered = b.count(in, views)
	return r, nil
}

// snapshot is what all connections were at one time, by their users' names.
type snapshot struct {
	taken time.Time
	conns map[string][]*server.ConnInfo
}

// stale is the age from which a snapshot is taken anew.
const stale = 5 * time.Millisecond

// glimpse returns a snapshot that is not stale. While 64 instances start and each
// is looked at every 10 ms, one snapshot serves many.
func (b *Bus) glimpse() (map[string][]*server.ConnInfo, error) {
	b.looking.Lock()
	defer b.looking.Unlock()
	if time.Since(b.shot.taken) < stale {
		return b.shot.conns, nil
	}
	taken := time.Now()
	z, err := b.connz(&server.ConnzOptions{
		Username: true, SubscriptionsDetail: true, Limit: b.base.MaxConn,
	})
	if err != nil {
		return nil, err
	}
	conns := make(map[string][]*server.ConnInfo, len(z.Conns))
	for _, c := range z.Conns {
		conns[c.AuthorizedUser] = append(conns[c.AuthorizedUser], c)
	}
	b.shot = snapshot{taken, conns}
	return conns, nil
}

// lookAgain makes the next glimpse a new one.
func (b *Bus) lookAgain() {
	b.looking.Lock()
	defer b.looking.Unlock()
	b.shot = snapshot{}
}

// view is one connection of an instance.
type view struct {
	subscriptions int
	patterns      []string
	requests      uint64           // given over subscriptions on what it answers
	events        bool             // it subscribes what is published
	sent          int64            // messages of every kind sent to it
	others        map[string]int64 // messages by subscription, for all that are not answers
}

// look reads the instance's open connections from the server as they are now.
func (b *Bus) look(in *instance) (map[uint64]view, error) {
	z, err := b.connz(&server.ConnzOptions{
		User: in.id, SubscriptionsDetail: true, Limit: b.base.MaxConn,
	})
	if err != nil {
		return nil, err
	}
	return in.party.views(z.Conns), nil
}

func (p party) views(conns []*server.ConnInfo) map[uint64]view {
	views := make(map[uint64]view, len(conns))
	for _, c := range conns {
		views[c.Cid] = p.view(c)
	}
	return views
}

func (p party) view(c *server.ConnInfo) view {
	v := view{sent: c.OutMsgs, others: make(map[string]int64)}
	for _, s := range c.SubsDetail {
		answers := (p.bus.Group == "" || s.Queue == p.bus.Group) && answeredByAny(p.bus.Answers, s.Subject)
		if answers {
			v.requests += uint64(max(s.Msgs, 0))
		} else {
			v.others[s.Sid] = s.Msgs
		}
		events := !answers && answeredByAny(p.bus.Subscribes, s.Subject)
		v.events = v.events || events
		if answers || events {
			v.subscriptions++
			v.patterns = append(v.patterns, s.Subject)
		}
	}
	return v
}

// tally is what an instance was given on one connection.
type tally struct {
	requests uint64
	closed   time.Time // when the connection was found closed, zero while it is open
}

// folded is how long the tally of a closed connection is kept apart. A snapshot
// that still shows the connection open is younger.
const folded = time.Second

// count brings the instance's count of requests up to date with what was seen of
// its connections, and returns it.
func (b *Bus) count(in *instance, views map[uint64]view) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for cid, v := range views {
		t := in.seen[cid]
		t.requests = max(t.requests, v.requests)
		in.seen[cid] = t
	}
	now, sum := time.Now(), in.gone
	for cid, t := range in.seen {
		if _, open := views[cid]; !open && t.closed.IsZero() {
			if requests, open := b.final(in, cid); !open {
				t = tally{max(t.requests, requests), now}
				in.seen[cid] = t
			}
		}
		if !t.closed.IsZero() && now.Sub(t.closed) > folded {
			in.gone += t.requests
			delete(in.seen, cid)
		}
		sum += t.requests
	}
	return sum
}

// final is how many requests a connection was given that is closed by now. The
// server keeps the last ones that closed; zero if it has forgotten this one.
func (b *Bus) final(in *instance, cid uint64) (requests uint64, open bool) {
	z, err := b.connz(&server.ConnzOptions{
		CID: cid, State: server.ConnAll, SubscriptionsDetail: true,
	})
	if err != nil || len(z.Conns) == 0 {
		return 0, false
	}
	c := z.Conns[0]
	return in.party.view(c).requests, c.Stop == nil
}

// settle adds what the instance was given between the look before its drain and
// the end of the drain, when the subscriptions and their counts were gone. What
// was sent to it in between, and not over the subscriptions that stayed, were
// requests. Where events were among it that cannot be told, and the count is the
// one before.
func (b *Bus) settle(in *instance, before, after map[uint64]view) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for cid, was := range before {
		is, ok := after[cid]
		if !ok || was.events {
			continue
		}
		given := is.sent - was.sent
		for sid, n := range is.others {
			given -= n - was.others[sid]
		}
		if given > 0 {
			t := in.seen[cid]
			t.requests = max(t.requests, was.requests+uint64(given))
			in.seen[cid] = t
		}
	}
}
