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

	"fairlead/internal/bus/gatekeeper"
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

	tries int // how often it was given in vain
}

const (
	// keptMost and keptBytes bound what is kept. What comes above is lost, as if the
	// instance that was to get it had died.
	keptMost  = 10_000
	keptBytes = 16 << 20
	// passPause is how often it is looked whether somebody is back, and passBound how
	// long that goes on when all requests have been delivered: who only asks may come
	// last.
	passPause = 10 * time.Millisecond
	passBound = 5 * time.Second
	// mostTries bounds how often a request is given: nobody can tell the server's word
	// that nobody is there from an instance's that says the same.
	mostTries = 3
	// syncBound bounds the wait for what has come already.
	syncBound = 2 * time.Second
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
	came chan *nats.Msg
	stop chan struct{} // closed when replies are no longer kept
	once sync.Once

	mu      sync.Mutex // guards below
	subs    map[*nats.Subscription]addressee
	markers map[*nats.Msg]chan struct{} // see settled
	kept    []Kept
	bytes   int
	back    map[string]bool // services that get what they are asked themselves again
	given   map[string]Kept // what they were given of it, by its reply subject, until it is answered
	size    int             // of that, in bytes
}

// addressee is who gets what comes by a subscription.
type addressee struct {
	party    party  // that answers, or
	instance string // whose inbox it is, with
	inbox    string // its prefix
}

// keep begins to keep what live instances would get; kept was kept before. From
// then on b.keeping is set.
func (b *Bus) keep(kept []Kept) error {
	nc, err := b.Operator("fairlead keeps requests")
	if err != nil {
		return err
	}
	k := &keeper{
		bus: b, log: b.log, nc: nc, came: make(chan *nats.Msg, keptMost), stop: make(chan struct{}),
		subs: make(map[*nats.Subscription]addressee), markers: make(map[*nats.Msg]chan struct{}), kept: kept,
		back: make(map[string]bool), given: make(map[string]Kept),
	}
	if err := k.subscribe(); err != nil {
		nc.Close()
		return fmt.Errorf("keep requests: %w", err)
	}
	b.mu.Lock()
	b.keeping = k
	b.mu.Unlock()
	go k.run()
	return nil
}

// subscribe subscribes what live instances answer, and their inboxes.
func (k *keeper) subscribe() error {
	k.bus.mu.Lock()
	var answering []party
	var inboxes []addressee
	for id, in := range k.bus.instances {
		if len(in.party.bus.Answers) > 0 && !in.draining && !slices.Contains(answering, in.party) {
			answering = append(answering, in.party)
		}
		if !in.party.bus.SharedInbox {
			inboxes = append(inboxes, addressee{instance: id, inbox: in.inbox()})
		}
	}
	k.bus.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range answering {
		for _, subject := range p.bus.Answers {
			sub, err := k.nc.ChanQueueSubscribe(subject, p.bus.Group, k.came)
			if err != nil {
				return err
			}
			k.subs[sub] = addressee{party: p}
		}
	}
	for _, a := range inboxes {
		// Replies are one or two tokens below, with every client. What is pulled from
		// queues is three below with package service: whoever subscribes there keeps the
		// requests of instances alive that are gone.
		for _, below := range []string{"*", "*.*"} {
			sub, err := k.nc.ChanSubscribe(a.inbox+below, k.came)
			if err != nil {
				return err
			}
			k.subs[sub] = a
		}
	}
	return k.nc.Flush()
}

// run takes what comes, and gives instances the replies that were kept for them as
// they come back.
func (k *keeper) run() {
	defer k.nc.Close()
	tick := time.NewTicker(passPause)
	defer tick.Stop()
	var limit <-chan time.Time
	stop := k.stop
	for {
		select {
		case m := <-k.came:
			k.take(m)
		case <-tick.C:
			if k.nc.IsClosed() {
				return
			}
			k.pass()
		case <-stop:
			stop, limit = nil, time.After(passBound)
		case <-limit:
			k.refuse()
			return
		}
	}
}

// refuse tells who asked what nobody took that there is nobody.
func (k *keeper) refuse() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.kept {
		if m.Service != "" {
			k.deny(m)
		}
	}
	_ = k.nc.FlushTimeout(syncBound) // it closes next
}

func (k *keeper) deny(request Kept) {
	_ = k.nc.PublishMsg(&nats.Msg{Subject: request.Reply, Header: nats.Header{"Status": {noResponders}}}) // fails only on a closed connection
}

// noResponders is the status with which a server says that nobody is there to ask.
const noResponders = "503"

// take keeps a message, unless who is to get it is there, and got it.
func (k *keeper) take(m *nats.Msg) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if done, ok := k.markers[m]; ok {
		delete(k.markers, m)
		close(done)
		return
	}
	a, ok := k.subs[m.Sub]
	switch {
	case !ok:
		return
	case a.instance != "":
		if request, ok := k.given[m.Subject]; ok {
			delete(k.given, m.Subject)
			k.size -= len(request.Data)
			if len(m.Data) == 0 && m.Header.Get("Status") == noResponders { // the server tells it us alone
				if request.tries++; request.tries < mostTries {
					k.add(request)
				} else {
					k.deny(request)
				}
				return
			}
		}
		if k.bus.listens(a) {
			return
		}
		if strings.HasPrefix(m.Reply, "$JS.ACK.") { // of a queue, to a client of another kind: it is given again
			_ = k.nc.Publish(m.Reply, fmt.Appendf(nil, `-NAK {"delay": %d}`, passBound)) // else it is so later
			return
		}
	case m.Reply == "":
		return // nobody waits for an answer
	case a.party.bus.Group == "" && k.bus.there(a.party):
		return // without a queue group, the instances got it, too
	}
	gatekeeper.Quiet(m.Header)
	if len(k.kept) >= keptMost || k.bytes+len(m.Data) > keptBytes {
		k.log.Warn("bus keeps no more while services are away", slog.String(wire.KeySubject, m.Subject))
		return
	}
	k.add(Kept{Service: a.party.service, Instance: a.instance, Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data})
}

func (k *keeper) add(m Kept) {
	k.bytes += len(m.Data)
	k.kept = append(k.kept, m)
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

// listens reports whether an instance has subscribed its inbox.
func (b *Bus) listens(a addressee) bool {
	conns, err := b.glimpse()
	return err == nil && slices.ContainsFunc(conns[a.instance], func(c *server.ConnInfo) bool {
		return slices.ContainsFunc(c.SubsDetail, func(s server.SubDetail) bool { return strings.HasPrefix(s.Subject, a.inbox) })
	})
}

// pass sends the kept replies to those who are back, and to services what was on its way
// when they got the rest, or came when none of their instances was there after all.
func (k *keeper) pass() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.kept) == 0 || !k.nc.IsConnected() {
		return
	}
	inboxes := make(map[string]addressee)
	for _, a := range k.subs {
		inboxes[a.instance] = a
	}
	there := make(map[string]bool) // services that are back, and went once more
	for _, a := range k.subs {
		if service := a.party.service; k.back[service] && !there[service] {
			there[service] = k.bus.there(a.party)
		}
	}
	k.send(func(m Kept) bool { return there[m.Service] || m.Instance != "" && k.bus.listens(inboxes[m.Instance]) })
}

// send sends what is kept and chosen; mu is held.
func (k *keeper) send(which func(Kept) bool) {
	k.kept = slices.DeleteFunc(k.kept, func(m Kept) bool {
		if !which(m) {
			return false
		}
		k.bytes -= len(m.Data)
		if m.Service != "" && len(k.given) < keptMost && k.size+len(m.Data) <= keptBytes {
			k.given[m.Reply] = m
			k.size += len(m.Data)
		}
		_ = k.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data}) // fails only on a closed connection
		return true
	})
}

// settled returns when all that has come so far has been taken.
func (k *keeper) settled() {
	marker, done := &nats.Msg{}, make(chan struct{})
	k.mu.Lock()
	k.markers[marker] = done
	k.mu.Unlock()
	limit := time.NewTimer(syncBound) // it may just have ended
	defer limit.Stop()
	select {
	case k.came <- marker:
	case <-limit.C:
		return
	}
	select {
	case <-done:
	case <-limit.C:
	}
}

// rest returns what was kept.
func (k *keeper) rest() []Kept {
	k.settled()
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.kept)
}

// release asks services again what they were asked while they were away; nil
// means all.
func (k *keeper) release(services []string) {
	chosen := func(service string) bool {
		return service != "" && (services == nil || slices.Contains(services, service))
	}
	k.mu.Lock()
	for sub, a := range k.subs {
		if chosen(a.party.service) {
			_ = sub.Drain() // Unsubscribe would drop what is on its way; it fails only on a closed connection
		}
	}
	k.mu.Unlock()
	_ = k.nc.FlushTimeout(syncBound) // all that comes later goes to the instances; as above
	k.settled()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.subs {
		if chosen(a.party.service) {
			k.back[a.party.service] = true
		}
	}
	k.send(func(m Kept) bool { return chosen(m.Service) })
}

// Deliver gives services what they were asked while they were away, after a
// Suspend here or in the former bus. It is called when an instance of each is back.
// None named means all, whether they are back or not; then only replies are kept
// for a few seconds more.
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
	k.release(services)
	if len(services) == 0 {
		k.once.Do(func() { close(k.stop) })
	}
}

// Leave is called after a Suspend when another process's bus has followed this one:
// nothing is kept or checked here any more. The gateway's connection goes on, to the
// other bus, and so does what the door publishes, until Close.
func (b *Bus) Leave() {
	b.catalogue.leave()
	b.catalogue.mu.Lock()
	if nc := b.catalogue.conn; nc != nil {
		nc.Close()
	}
	b.catalogue.mu.Unlock()
	b.stopKeeping()
}

func (b *Bus) stopKeeping() {
	b.mu.Lock()
	k := b.keeping
	b.keeping = nil
	b.mu.Unlock()
	if k != nil {
		k.nc.Close()
	}
}
