package bus

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/bus/delivery"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Former is what a bus knows in memory only, for the one that takes its place in
// another process ([Options.Former]). It holds passwords.
type Former struct {
	Port      int
	Inbox     string // prefix of the gateway's inboxes
	Tools     string // password of the operator's tools
	Gateway   string // password of the gateway
	Instances []FormerInstance
	Users     []User
	Consumers []delivery.Consumer // nil: not told, they are read
	Kept      []Kept              // what came for instances while they were away
}

// FormerInstance is an instance with credentials.
type FormerInstance struct {
	ID, Service, Password string
	// Bus is what the model said when the credentials were issued.
	Bus       system.ServiceBus
	Draining  bool
	Pulls     []string // the consumers that it has asked for
	Delivered uint64   // as of [Registration]
}

// Former returns what a bus in another process must know to take the place of
// this one, once that is suspended.
func (b *Bus) Former() *Former {
	b.mu.Lock()
	live := slices.Sorted(maps.Keys(b.instances))
	b.mu.Unlock()
	f := &Former{Port: b.base.Port, Inbox: b.inbox, Tools: b.tools.Password, Gateway: b.gateway.Password}
	b.mu.Lock()
	k := b.keeping
	f.Users = slices.Collect(maps.Values(b.users))
	f.Consumers = b.consumersLocked()
	b.mu.Unlock()
	if k != nil {
		f.Kept = k.rest()
	}
	for _, id := range live {
		reg, _ := b.Registered(id) // a suspended bus counts no further
		b.mu.Lock()
		if in := b.instances[id]; in != nil {
			f.Instances = append(f.Instances, FormerInstance{
				ID: id, Service: in.party.service, Password: in.password, Bus: *in.party.bus,
				Draining: in.draining, Pulls: in.pulls, Delivered: max(reg.Delivered, in.sum()),
			})
		}
		b.mu.Unlock()
	}
	return f
}

// sum is what the instance was given, as far as it was counted; Bus.mu is held.
func (in *instance) sum() uint64 {
	sum := in.gone
	for _, t := range in.seen {
		sum += t.requests
	}
	return sum
}

// follow takes over what another bus knew.
func (b *Bus) follow(f *Former) {
	b.inbox = f.Inbox
	if f.Consumers != nil {
		b.knowConsumers(f.Consumers)
	}
	b.tools.Password, b.gateway.Password, b.gateway.InboxPrefix = f.Tools, f.Gateway, f.Inbox
	b.users = make(map[string]User, len(f.Users))
	for _, u := range f.Users {
		b.users[u.Name] = u
	}
	for _, was := range f.Instances {
		in := &instance{
			id: was.ID, party: party{was.Service, &was.Bus}, password: was.Password,
			draining: was.Draining, pulls: was.Pulls, gone: was.Delivered, seen: make(map[uint64]tally),
		}
		// The model's own where it is the same: parties are told apart by it.
		for _, p := range parties(b.sys) {
			if p.service == was.Service && reflect.DeepEqual(p.bus, &was.Bus) {
				in.party = p
			}
		}
		b.instances[was.ID] = in
	}
}

// Suspend ends the server and frees the store and the port. What services are asked,
// and instances replied, is kept from then on for [Bus.Deliver]. What the bus knows
// stays, and so do the connections that it has given out: they connect again,
// those within the process after Resume, the gateway's also to a bus of another
// process that has followed this one. If ctx ends first its error is returned, and
// the server ends in the background.
func (b *Bus) Suspend(ctx context.Context) error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.isClosed() {
		return fmt.Errorf("suspend bus: %w", ErrClosed)
	}
	if b.ended == nil {
		b.lookAgain()
		b.Former() // counts once more what was delivered
		if err := b.keep(nil); err != nil {
			b.log.WarnContext(ctx, "what services are asked is not kept", slog.String(wire.KeyError, err.Error()))
		}
		if c := b.catalogue.committer.Load(); c != nil {
			c.Pause()
		}
	}
	select {
	case <-b.halt():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("suspend bus: %w", context.Cause(ctx))
	}
}

// halt ends the server, if one runs, and frees the store. The channel is closed
// when that is done. b.life is held.
func (b *Bus) halt() <-chan struct{} {
	if b.ended != nil {
		return b.ended
	}
	ended := make(chan struct{})
	b.ended = ended
	b.unwatch()
	go func() {
		defer close(ended)
		b.front.Close()
		b.watches.Wait()
		b.reload.Lock() // a reload under way ends first
		defer b.reload.Unlock()
		s := b.server.Swap(nil)
		b.lookAgain()
		s.Shutdown()
		s.WaitForShutdown()
		b.closeGate()
		b.staging.end() // before another bus has the store
		if err := b.link.disarm(); err != nil {
			b.log.Warn("credentials of the link stay", slog.String(wire.KeyError, err.Error()))
		}
		if err := b.lock.Close(); err != nil {
			b.log.Warn("bus store stays locked", slog.String(wire.KeyError, err.Error()))
		}
	}()
	return ended
}

// Resume starts the server again, at the same port and with the same users, after
// Suspend. A server that still ends is waited for.
func (b *Bus) Resume(ctx context.Context) error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.isClosed() {
		return fmt.Errorf("resume bus: %w", ErrClosed)
	}
	if b.ended == nil {
		return nil
	}
	select {
	case <-b.ended:
	case <-ctx.Done():
		return fmt.Errorf("resume bus: %w", context.Cause(ctx))
	}
	b.mu.Lock()
	k := b.keeping
	b.mu.Unlock()
	var kept []Kept
	if k != nil {
		kept = append([]Kept{}, k.rest()...)
		b.stopKeeping() // another keeper begins before clients are let in
	}
	if err := b.run(ctx, true, kept); err != nil {
		return fmt.Errorf("resume bus: %w", err)
	}
	b.ended = nil
	b.mu.Lock()
	sys := b.sys
	b.mu.Unlock()
	if err := b.listenOutside(ctx, sys); err != nil { // the services go on
		b.log.ErrorContext(ctx, "clients from outside are not let in", slog.String(wire.KeyError, err.Error()))
	}
	return nil
}

const (
	// portWait is how long a port that was ours a moment ago is waited for: a
	// connection of somebody else may happen to have it.
	portWait  = 5 * time.Second
	portPause = 50 * time.Millisecond
)

// await is start, tried again while the services' port is taken by somebody else.
func (b *Bus) await(ctx context.Context, again bool, kept []Kept) error {
	for limit := time.Now().Add(portWait); ; {
		err := b.start(ctx, kept)
		if err == nil || !again || !strings.Contains(err.Error(), "address already in use") || time.Now().After(limit) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(portPause):
		}
	}
}

// connz asks the server that runs about its clients' connections; the link elsewhere is
// none.
func (b *Bus) connz(o *server.ConnzOptions) (*server.Connz, error) {
	s := b.server.Load()
	switch {
	case s != nil:
		z, err := s.Connz(o)
		if err == nil && b.link != nil {
			z.Conns = slices.DeleteFunc(z.Conns, func(c *server.ConnInfo) bool { return c.Kind != "Client" })
		}
		return z, err
	case b.isClosed():
		return nil, ErrClosed
	default:
		return nil, ErrSuspended
	}
}
