package bus

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Credentials are what a client needs to connect.
type Credentials struct {
	URL, User, Password string
	// InboxPrefix is the only place where the client may await replies.
	InboxPrefix string
}

// instance is a user of the bus.
type instance struct {
	id       string
	party    party // as the model said when the credentials were issued
	password string
	draining bool
	pulls    []string // the consumers that it has asked for, as stream.consumer

	gone uint64           // requests given to connections that closed some time ago
	seen map[uint64]tally // requests last seen given on each connection, by its id
}

// inbox is below what the instance awaits replies, if it can set a prefix.
func (in *instance) inbox() string {
	return wire.InboxPrefix + "." + in.party.service + "." + in.id + "."
}

// Apply sets the model that permissions are derived from and derives those of
// live instances again. What a live instance itself may do stays as it was when
// its credentials were issued, until it is revoked: during a reload, instances
// of the old revision serve on until the swap. It may reply to those who ask it,
// by the new model or as live instances of the old one.
//
// The queues of the model are made, and changed with all their messages; what would
// delete messages is refused with a [catalogue.LossError]. What a live instance may
// publish to queues follows the model at once.
//
// Clients on other machines are let in where the model says, once users were set.
//
// It returns an error, and changes nothing, if a permission cannot be derived.
func (b *Bus) Apply(sys *system.System) error {
	ps := parties(sys)
	for _, p := range ps {
		if _, err := derive(p, "check", ps, false); err != nil {
			return fmt.Errorf("set up bus: %w", err)
		}
	}
	if subject := jwksSubject(sys); subject != "" {
		if err := checkSubject(subject, false); err != nil {
			return fmt.Errorf("set up bus: subject of the signing keys: %w", err)
		}
	}
	if err := b.prepareQueues(sys); err != nil {
		return fmt.Errorf("set up bus: %w", err)
	}
	if err := b.listenOutside(context.Background(), sys); err != nil {
		return fmt.Errorf("set up bus: %w", err)
	}
	err := b.change(func() error {
		b.sys = sys
		return nil
	})
	if err != nil {
		return fmt.Errorf("set up bus: %w", err)
	}
	return nil
}

// Issue makes credentials for a new instance of a service of the model. They
// work when it returns. The instance's id must be one token of a subject and
// never used before.
func (b *Bus) Issue(service, id string) (Credentials, error) {
	c, err := b.issue(service, id)
	if err != nil {
		return Credentials{}, fmt.Errorf("issue bus credentials to %s: %w", id, err)
	}
	return c, nil
}

func (b *Bus) issue(service, id string) (Credentials, error) {
	c := Credentials{
		URL:         b.url,
		User:        id,
		Password:    secret(),
		InboxPrefix: wire.InboxPrefix + "." + service + "." + id,
	}
	err := b.change(func() error {
		if b.sys == nil {
			return fmt.Errorf("%w %q", ErrUnknownService, service)
		}
		s, ok := b.sys.Service(service)
		switch {
		case !ok:
			return fmt.Errorf("%w %q", ErrUnknownService, service)
		case s.Bus == nil:
			return fmt.Errorf("service %q: %w", service, ErrNoBus)
		case b.instances[id] != nil:
			return errors.New("instance has credentials already")
		}
		if s.Bus.SharedInbox {
			c.InboxPrefix = sharedInboxes
		}
		in := &instance{
			id:       id,
			party:    party{service, s.Bus},
			password: c.Password,
			seen:     make(map[uint64]tally),
		}
		if err := checkParty(in.party, id); err != nil {
			return err
		}
		b.instances[id] = in
		return nil
	})
	if err != nil {
		b.mu.Lock()
		if in := b.instances[id]; in != nil && in.password == c.Password {
			delete(b.instances, id)
		}
		b.mu.Unlock()
		return Credentials{}, err
	}
	return c, nil
}

// Revoke ends the credentials of an instance: no connection can be made with
// them, and those that are open are cut before it returns. Revoking an instance
// that has none is no error.
func (b *Bus) Revoke(id string) error {
	b.mu.Lock()
	_, ok := b.instances[id]
	b.mu.Unlock()
	if !ok {
		return nil
	}
	err := b.change(func() error {
		delete(b.instances, id)
		b.forgetReaders(id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("revoke bus credentials of %s: %w", id, err)
	}
	return nil
}

// Drain takes all subscriptions of an instance away but those of its inbox, and
// returns how many requests it was given in its life, over what it answers. When
// Drain returns, no further request is given to the instance; its connection and
// the replies that it owes live on. It cannot be undone. Draining again returns
// the same count.
//
// It returns [ErrUnknownInstance] if the instance has no credentials.
func (b *Bus) Drain(id string) (delivered uint64, err error) {
	b.mu.Lock()
	in, ok := b.instances[id]
	b.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("drain %s on bus: %w", id, ErrUnknownInstance)
	}
	before, err := b.look(in)
	if err != nil {
		return 0, fmt.Errorf("drain %s on bus: %w", id, err)
	}
	b.count(in, before)
	for range drainAttempts {
		err = b.change(func() error {
			in.draining = true
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("drain %s on bus: %w", id, err)
		}
		after, err := b.look(in)
		if err != nil {
			return 0, fmt.Errorf("drain %s on bus: %w", id, err)
		}
		b.settle(in, before, after)
		delivered = b.count(in, after)
		if !subscribed(after) {
			return delivered, nil
		}
		before = after
	}
	return delivered, fmt.Errorf("drain %s on bus: subscriptions came back", id)
}

// drainAttempts bounds how often a drain is repeated for a connection that was
// being authenticated, with the permissions from before, while the first one
// went on.
const drainAttempts = 8

func subscribed(views map[uint64]view) bool {
	for _, v := range views {
		if v.subscriptions > 0 {
			return true
		}
	}
	return false
}

// secret is a password of 32 random bytes.
func secret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// random is one token of a subject that cannot be guessed.
func random() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
