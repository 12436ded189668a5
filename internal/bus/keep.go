package bus

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// Kept is a message that came while who is to get it was away: a request for the
// instances of a service, or a reply to an instance.
type Kept struct {
	Service  string // "" of a reply
	Instance string // "" of a request
	Subject  string
	Reply    string
	Header   nats.Header
	Data     []byte
}

const (
	// keptMost and keptBytes bound what is kept. What is asked above is lost, as if
	// the instance that was to answer it had died.
	keptMost  = 10_000
	keptBytes = 16 << 20
	// passPause is how often it is looked whether somebody is back for a reply, and
	// passBound how long that goes on when all requests have been delivered: who only
	// asks may come last.
	passPause = 10 * time.Millisecond
	passBound = 5 * time.Second
)

// keeper keeps what services are asked, and what instances are replied, while they
// are away: it subscribes both. Otherwise a client that is back first would be told
// that nobody answers, and a reply that comes first would be lost. A message that
// was under way when the server ended is not kept: whether somebody has acted on it
// is not known. A keeper is safe for concurrent use.
type keeper struct {
	bus  *Bus
	log  *slog.Logger
	nc   *nats.Conn
	stop chan struct{} // closed when replies are no longer kept
	once sync.Once

	mu       sync.Mutex // guards below
	kept     []Kept
	bytes    int
	services map[string][]*nats.Subscription // not yet back
}

// keep begins to keep what live instances would get; kept was kept before. From
// then on b.keeping is set.
func (b *Bus) keep(kept []Kept) error {
	nc, err := b.Operator("fairlead keeps requests")
	if err != nil {
		return err
	}
	k := &keeper{bus: b, log: b.log, nc: nc, stop: make(chan struct{}), kept: kept, services: make(map[string][]*nats.Subscription)}
	b.mu.Lock()
	var answering []party
	inboxes := make(map[string]string)
	for id, in := range b.instances {
		if !in.party.bus.SharedInbox {
			inboxes[id] = wire.InboxPrefix + "." + in.party.service + "." + id + "."
		}
		if len(in.party.bus.Answers) > 0 && !in.draining && !slices.Contains(answering, in.party) {
			answering = append(answering, in.party)
		}
	}
	b.mu.Unlock()
	for _, p := range answering {
		for _, subject := range p.bus.Answers {
			sub, err := nc.QueueSubscribe(subject, p.bus.Group, func(m *nats.Msg) { k.take(p, m) })
			if err != nil {
				nc.Close()
				return fmt.Errorf("keep requests of %s: %w", p.service, err)
			}
			k.mu.Lock()
			k.services[p.service] = append(k.services[p.service], sub)
			k.mu.Unlock()
		}
	}
	for id, inbox := range inboxes {
		if _, err := nc.Subscribe(inbox+">", func(m *nats.Msg) { k.takeReply(id, inbox, m) }); err != nil {
			nc.Close()
			return fmt.Errorf("keep replies to %s: %w", id, err)
		}
	}
	if err := nc.Flush(); err != nil {
		nc.Close()
		return fmt.Errorf("keep requests: %w", err)
	}
	b.mu.Lock()
	b.keeping = k
	b.mu.Unlock()
	go k.pass(inboxes)
	return nil
}

// take keeps a request.
func (k *keeper) take(p party, m *nats.Msg) {
	if m.Reply == "" {
		return // nobody waits for an answer
	}
	if p.bus.Group == "" && k.bus.there(p) {
		return // without a queue group, the instances got it, too
	}
	k.add(Kept{Service: p.service, Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data})
}

// takeReply keeps a reply to an instance that is not there to get it.
func (k *keeper) takeReply(id, inbox string, m *nats.Msg) {
	if !k.bus.listens(id, inbox) {
		k.add(Kept{Instance: id, Subject: m.Subject, Header: m.Header, Data: m.Data})
	}
}

// listens reports whether an instance has subscribed its inbox.
func (b *Bus) listens(id, inbox string) bool {
	conns, err := b.glimpse()
	return err == nil && slices.ContainsFunc(conns[id], func(c *server.ConnInfo) bool {
		return slices.ContainsFunc(c.SubsDetail, func(s server.SubDetail) bool { return strings.HasPrefix(s.Subject, inbox) })
	})
}

// pass gives instances the replies that were kept for them, as they come back.
func (k *keeper) pass(inboxes map[string]string) {
	defer k.nc.Close()
	tick := time.NewTicker(passPause)
	defer tick.Stop()
	var limit <-chan time.Time
	stop := k.stop
	for {
		select {
		case <-stop:
			stop, limit = nil, time.After(passBound)
		case <-limit:
			return
		case <-tick.C:
		}
		if k.nc.IsClosed() {
			return
		}
		if k.nc.IsConnected() {
			k.replies(inboxes)
		}
	}
}

// replies passes on those for who is back.
func (k *keeper) replies(inboxes map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = slices.DeleteFunc(k.kept, func(m Kept) bool {
		if m.Instance == "" {
			return false
		}
		inbox, live := inboxes[m.Instance]
		if live && !k.bus.listens(m.Instance, inbox) {
			return false
		}
		k.send(m)
		return true
	})
}

// send publishes what was kept; mu is held.
func (k *keeper) send(m Kept) {
	k.bytes -= len(m.Data)
	_ = k.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data}) // fails only on a closed connection
}

func (k *keeper) add(m Kept) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case len(k.kept) >= keptMost || k.bytes+len(m.Data) > keptBytes:
		k.log.Warn("bus keeps no more while services are away", slog.String(wire.KeySubject, m.Subject))
	default:
		k.bytes += len(m.Data)
		k.kept = append(k.kept, m)
	}
}

// there reports whether an instance has subscribed what its service answers.
func (b *Bus) there(p party) bool {
	b.mu.Lock()
	var ids []string
	for id, in := range b.instances {
		if in.party == p {
			ids = append(ids, id)
		}
	}
	b.mu.Unlock()
	return slices.ContainsFunc(ids, func(id string) bool {
		reg, err := b.Registered(id)
		return err == nil && reg.Subscriptions > 0
	})
}

// rest returns what was kept, once all that came has been taken.
func (k *keeper) rest() []Kept {
	limit := time.Now().Add(time.Second)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, subs := range k.services {
		for _, sub := range subs {
			for n, _, err := sub.Pending(); err == nil && n > 0 && time.Now().Before(limit); n, _, err = sub.Pending() {
				k.mu.Unlock()
				time.Sleep(glance)
				k.mu.Lock()
			}
		}
	}
	return slices.Clone(k.kept)
}

// release asks a service again what it was asked while it was away.
func (k *keeper) release(service string) {
	k.mu.Lock()
	subs := k.services[service]
	delete(k.services, service)
	k.mu.Unlock()
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails only on a closed connection
	}
	_ = k.nc.Flush() // what comes after this goes to the instances; as above
	for _, sub := range subs {
		limit := time.Now().Add(time.Second)
		for n, _, err := sub.Pending(); err == nil && n > 0 && time.Now().Before(limit); n, _, err = sub.Pending() {
			time.Sleep(glance)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = slices.DeleteFunc(k.kept, func(m Kept) bool {
		if m.Service != service {
			return false
		}
		k.send(m)
		return true
	})
}

// Deliver gives services what they were asked while they were away, after a
// Suspend here or in the former bus. It is called when an instance of each is back.
// None named means all, whether they are back or not, and nothing is kept any more.
func (b *Bus) Deliver(services ...string) {
	b.mu.Lock()
	k := b.keeping
	if len(services) == 0 {
		b.keeping = nil
	}
	b.mu.Unlock()
	if k == nil {
		return
	}
	last := len(services) == 0
	if last {
		k.mu.Lock()
		for name := range k.services {
			services = append(services, name)
		}
		k.mu.Unlock()
	}
	for _, name := range services {
		k.release(name)
	}
	if last {
		k.once.Do(func() { close(k.stop) })
	}
}

// Leave is called after a Suspend when another process's bus has followed this one:
// nothing is kept here any more. The gateway's connection goes on, to the other bus.
func (b *Bus) Leave() {
	b.mu.Lock()
	k := b.keeping
	b.keeping = nil
	b.mu.Unlock()
	if k != nil {
		k.nc.Close()
	}
}
