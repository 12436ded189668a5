package bus

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/bus/delivery"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// openDesk opens the desk at which consumers are asked for. What consumers there are
// is known from then on. queues.mu is held.
func (b *Bus) openDesk(ctx context.Context, q *queues, sys *system.System) (err error) {
	if q.desk != nil {
		return nil
	}
	b.mu.Lock()
	known := b.consumers != nil
	b.mu.Unlock()
	if !known {
		list, err := delivery.List(ctx, q.js)
		if err != nil {
			return err
		}
		if err := b.change(func() error { b.knowConsumers(list); return nil }); err != nil {
			return err
		}
	}
	q.desk, err = delivery.Open(ctx, q.conn, q.js, registry{b}, b.log, sys.Queues)
	return err
}

// ErrNoQueues is returned as long as the model had no queue.
var ErrNoQueues = errors.New("there are no queues")

// Rewind makes a durable consumer of a queue begin anew, see [delivery.Desk.Rewind].
func (b *Bus) Rewind(ctx context.Context, queue, consumer, from string) error {
	return b.atDesk(func(d *delivery.Desk) error { return d.Rewind(ctx, queue, consumer, from) })
}

// Forget removes a durable consumer of a queue, see [delivery.Desk.Forget].
func (b *Bus) Forget(ctx context.Context, queue, consumer string) error {
	return b.atDesk(func(d *delivery.Desk) error { return d.Forget(ctx, queue, consumer) })
}

// giveBackTime bounds a GiveBack: a successor waits for it.
const giveBackTime = 2 * time.Second

// GiveBack has the messages given again at once that instances of a service had taken
// and not acknowledged, if no instance is left. Else they are given again when their
// time is over: nobody knows which instance has which message. Call it when an instance
// is gone, before its successor is there.
func (b *Bus) GiveBack(service string) error {
	b.mu.Lock()
	for _, in := range b.instances {
		if in.party.service == service {
			b.mu.Unlock()
			return nil
		}
	}
	none := len(b.consumers[service]) == 0
	b.mu.Unlock()
	if none {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTime)
	defer cancel()
	err := b.atDesk(func(d *delivery.Desk) error { return d.GiveBack(ctx, service) })
	if errors.Is(err, ErrNoQueues) {
		return nil
	}
	return err
}

// Pulled reports whether an instance has asked for a consumer and lives.
func (b *Bus) Pulled(stream, consumer string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, in := range b.instances {
		if slices.Contains(in.pulls, stream+"."+consumer) {
			return true
		}
	}
	return false
}

func (b *Bus) atDesk(do func(*delivery.Desk) error) error {
	b.catalogue.mu.Lock()
	desk := b.catalogue.desk
	b.catalogue.mu.Unlock()
	if desk == nil {
		return ErrNoQueues
	}
	return do(desk)
}

// registry is the bus as its desk sees it.
type registry struct{ b *Bus }

// Party implements [delivery.Registry].
func (r registry) Party(user string) (delivery.Party, bool) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.b.partyOf(user)
}

// partyOf is who has the credentials of a user. b.mu is held.
func (b *Bus) partyOf(user string) (delivery.Party, bool) {
	if in := b.instances[user]; in != nil {
		return delivery.Party{Owner: in.party.service, Subscribes: in.party.bus.Subscribes, Draining: in.draining, Inbox: in.inbox()}, true
	}
	u, ok := b.users[user]
	return delivery.Party{Owner: u.Name, Subscribes: u.Subscribes, Inbox: UserInbox(u.Name) + "."}, ok && u.live(time.Now())
}

// Owned implements [delivery.Registry].
func (r registry) Owned(owner string) []delivery.Consumer {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return slices.Clone(r.b.consumers[owner])
}

// Grant implements [delivery.Registry].
func (r registry) Grant(user string, c delivery.Consumer) error {
	r.b.mu.Lock()
	known := slices.Contains(r.b.consumers[c.Owner], c)
	name := c.Stream + "." + c.Name
	if in := r.b.instances[user]; in != nil && !slices.Contains(in.pulls, name) {
		in.pulls = append(slices.Clip(in.pulls), name)
	}
	r.b.mu.Unlock()
	if known {
		return nil
	}
	return r.b.change(func() error {
		list := slices.DeleteFunc(slices.Clone(r.b.consumers[c.Owner]), func(o delivery.Consumer) bool {
			return o.Stream == c.Stream && o.Name == c.Name // its filter has changed
		})
		r.b.consumers[c.Owner] = append(list, c)
		return nil
	})
}

// Revoke implements [delivery.Registry].
func (r registry) Revoke(gone []delivery.Consumer) error {
	return r.b.change(func() error {
		for owner, list := range r.b.consumers {
			r.b.consumers[owner] = slices.DeleteFunc(slices.Clone(list), func(c delivery.Consumer) bool { return slices.Contains(gone, c) })
		}
		return nil
	})
}

// knowConsumers takes up what consumers there are. b.mu is held, or nobody else has b.
func (b *Bus) knowConsumers(list []delivery.Consumer) {
	b.consumers = make(map[string][]delivery.Consumer)
	for _, c := range list {
		b.consumers[c.Owner] = append(b.consumers[c.Owner], c)
	}
}

// consumersLocked lists what consumers there are, nil if that is not known. b.mu is
// held.
func (b *Bus) consumersLocked() []delivery.Consumer {
	if b.consumers == nil {
		return nil
	}
	all := []delivery.Consumer{}
	for _, owner := range slices.Sorted(maps.Keys(b.consumers)) {
		all = append(all, b.consumers[owner]...)
	}
	return all
}

// forgetReaders drops the readers of an instance that is gone; the server removes
// them a little later. b.mu is held.
func (b *Bus) forgetReaders(user string) {
	for owner, list := range b.consumers {
		b.consumers[owner] = slices.DeleteFunc(slices.Clone(list), func(c delivery.Consumer) bool { return c.User == user })
	}
}

// grantDesk lets a user ask the node about queues.
func grantDesk(p *server.Permissions, user string) {
	p.Publish.Allow = sorted(append(
		slices.Clone(p.Publish.Allow),
		wire.SubjectSubscribe+user, wire.SubjectReject+user, wire.SubjectNames+user,
	))
	p.Subscribe.Allow = sorted(append(slices.Clone(p.Subscribe.Allow), wire.SubjectQueues))
}

// grantDelivery lets a user of an owner ask the node about queues, and use the
// owner's consumers, as far as they give what it may subscribe. One that drains may
// acknowledge what it has, and pulls no more. b.mu is held.
func (b *Bus) grantDelivery(p *server.Permissions, user, owner string, subscribes []string, draining bool) {
	grantDesk(p, user)
	if !b.gated {
		return
	}
	var allow []string
	for _, c := range b.consumers[owner] {
		if c.User != "" && c.User != user || !answeredByAny(subscribes, c.Filter) {
			continue
		}
		name := c.Stream + "." + c.Name
		allow = append(allow, "$JS.ACK."+name+".>")
		if !draining {
			allow = append(allow, "$JS.API.CONSUMER.INFO."+name, "$JS.API.CONSUMER.MSG.NEXT."+name)
		}
	}
	p.Publish.Allow = sorted(append(p.Publish.Allow, allow...))
}
