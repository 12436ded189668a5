package bus

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// change makes one change of the model or the instances, and returns when the
// server acts by it. Changes that come while the server is being told of others
// are told together.
func (b *Bus) change(do func() error) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	if err := do(); err != nil {
		b.mu.Unlock()
		return err
	}
	b.changes++
	mine := b.changes
	b.mu.Unlock()
	return b.flush(mine)
}

// flush returns when the server acts by the first n changes.
func (b *Bus) flush(n uint64) error {
	b.reload.Lock()
	defer b.reload.Unlock()
	if b.applied >= n {
		return nil // another change's reload carried this one
	}
	return b.reloadServer()
}

// reloadServer tells the server all changes that there are. b.reload is held.
func (b *Bus) reloadServer() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	users, err := b.usersLocked()
	mapped, gated := b.mappings(b.sys), b.gated
	told := b.changes
	b.mu.Unlock()
	if err != nil {
		return err
	}
	s := b.server.Load()
	if s == nil { // Resume starts with them
		b.applied = told
		return nil
	}
	if b.known != nil && slices.EqualFunc(users, b.known, sameUser) && maps.Equal(mapped, b.mapped) && (b.gateMapped || !gated) {
		b.applied = told // it was about something else, as a route
		return nil
	}
	b.known = nil
	opts := b.base.Clone()
	opts.Users = slices.Clone(users) // which the server sorts
	if gated && !b.gateMapped {
		if err := b.mapGate(s.GlobalAccount()); err != nil {
			return err
		}
		b.gateMapped = true
	}
	if err := b.remap(s, b.guarded(mapped)); err != nil {
		return err
	}
	err = s.ReloadOptions(opts)
	b.told = time.Now()
	if err != nil {
		return fmt.Errorf("reload server: %w", err)
	}
	if err := b.remap(s, mapped); err != nil {
		return err
	}
	b.known, b.applied = users, told
	b.lookAgain()
	return nil
}

// sameUser compares what usersLocked sets.
func sameUser(a, b *server.User) bool {
	return a.Username == b.Username && a.Password == b.Password &&
		maps.Equal(a.AllowedConnectionTypes, b.AllowedConnectionTypes) && reflect.DeepEqual(a.Permissions, b.Permissions)
}

// usersLocked are the server's users by the model and the instances. b.mu is held.
func (b *Bus) usersLocked() ([]*server.User, error) {
	b.gated = b.gated || b.link != nil || b.sys != nil && len(b.sys.Queues) > 0
	peers := parties(b.sys)
	live := slices.Sorted(maps.Keys(b.instances))
	for _, id := range live {
		if p := b.instances[id].party; !slices.Contains(peers, p) {
			peers = append(peers, p)
		}
	}
	outside := b.liveUsers()
	for i := range outside {
		peers = append(peers, outside[i].party())
	}
	gateway := gatewayPermissions(b.inbox, jwksSubject(b.sys), peers)
	publisher := gatewayPermissions(b.inbox, "", nil)
	grantCommitter(gateway, b.sys)
	grantCommitter(publisher, b.sys)
	users := []*server.User{
		{Username: b.operator.User, Password: b.operator.Password, AllowedConnectionTypes: overPipe},
		{
			Username: b.tools.User, Password: b.tools.Password, AllowedConnectionTypes: overTCP,
			Permissions: toolsPermissions(b.sys),
		},
		{Username: b.gateway.User, Password: b.gateway.Password, AllowedConnectionTypes: overTCP, Permissions: gateway},
		{Username: b.publisher.User, Password: b.publisher.Password, AllowedConnectionTypes: overPipe, Permissions: publisher},
	}
	for i := range outside {
		u := &outside[i]
		p := u.permissions(b.sys)
		b.grantDelivery(p, u.Name, u.Name, u.Subscribes, false)
		users = append(users, &server.User{Username: u.Name, Password: u.Password, Permissions: p})
	}
	for _, id := range live {
		in := b.instances[id]
		p, err := derive(in.party, id, peers, in.draining)
		if err != nil {
			return nil, err
		}
		grantQueues(p.Publish, in.party.bus.Publishes, b.sys)
		b.grantDelivery(p, id, in.party.service, in.party.bus.Subscribes, in.draining)
		users = append(users, &server.User{Username: id, Password: in.password, Permissions: p, AllowedConnectionTypes: overTCP})
	}
	if b.gated {
		byGate(users)
	}
	b.link.redirect(users)
	return users, nil
}

const (
	// patience is how long a handshake may go on that a reload waits for, while no
	// reload keeps the connection waiting. It takes less than a millisecond, but a
	// hundred on a machine that is overloaded. Whoever connects and says nothing
	// delays a reload by as much.
	patience = time.Second
	// afterConnect is how long the server is given to finish with a connection
	// that has told its user and done nothing since.
	afterConnect = 25 * time.Millisecond
	// glance is how often the handshakes are looked at meanwhile.
	glance = 200 * time.Microsecond
)

// settleHandshakes waits until no young connection is in its handshake.
//
// A reload checks every connection against the new users. One that has not told
// its user yet fails the check and is cut with "authorization violation", which
// most clients take for final: under a constant stream of reloads two of three
// connections were lost. One that is being authenticated is registered by two
// goroutines of the server at once.
//
// It must run within the reload: only there is the server's lock held that keeps
// new connections waiting, so that none begins a handshake after the last look.
// The server logs each option before it looks at the connections, hence its log
// calls this; see docs/decisions/0012.
func (b *Bus) settleHandshakes() {
	for {
		z, err := b.connz(&server.ConnzOptions{Username: true, Limit: b.base.MaxConn})
		if err != nil || !slices.ContainsFunc(z.Conns, func(c *server.ConnInfo) bool { return inHandshake(c, z.Now, b.told) }) {
			return
		}
		time.Sleep(glance)
	}
}

// inHandshake reports whether a connection is worth waiting for. Until told, the end of
// the last reload, it may have waited for the server's lock.
func inHandshake(c *server.ConnInfo, now, told time.Time) bool {
	begun := c.Start
	if c.AuthorizedUser == "" && told.After(begun) {
		begun = told
	}
	switch {
	case now.Sub(begun) >= patience:
		return false
	case c.AuthorizedUser == "":
		return true
	case c.NumSubs > 0 || c.InMsgs > 0:
		return false // what it does after its handshake
	default:
		return now.Sub(c.LastActivity) < afterConnect
	}
}
