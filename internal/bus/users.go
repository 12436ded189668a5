package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// User is a client of the bus that is no service of the system.
type User struct {
	system.BusUser
	// Password is the password, or its bcrypt hash.
	Password string
}

// SetUsers says who may use the bus besides the instances. It holds when it returns:
// the connections of users that are no longer named, or have another password, are
// cut; those of the others live on, with what they may do now. A user is cut at the
// moment that it expires, too.
//
// A user may publish, ask and subscribe what it names, and await replies below
// [UserInbox]. It may be the name of no instance: those end in a number, so a user's
// must not. SetUsers returns an error, and changes nothing, if a name or a subject
// could not safely become a permission, or a password is empty.
func (b *Bus) SetUsers(ctx context.Context, users []User) error {
	set := make(map[string]User, len(users))
	for _, u := range users {
		if err := checkUser(&u); err != nil {
			return fmt.Errorf("set users of bus: user %q: %w", u.Name, err)
		}
		if _, twice := set[u.Name]; twice {
			return fmt.Errorf("set users of bus: there are two users %q", u.Name)
		}
		set[u.Name] = u
	}
	var sys *system.System
	err := b.change(func() error {
		b.users, sys = set, b.sys
		return nil
	})
	if err == nil {
		err = b.listenOutside(ctx, sys)
	}
	if err != nil {
		return fmt.Errorf("set users of bus: %w", err)
	}
	select {
	case b.regard <- struct{}{}:
	default: // it will look anyway
	}
	return nil
}

// UserInbox is the prefix below which a user of the bus awaits its replies. Every
// client has an option for it.
func UserInbox(name string) string { return wire.UserInboxes + "." + name }

// Connections returns how many connections an instance or a user of the bus has, as
// it was at most five milliseconds ago.
func (b *Bus) Connections(user string) int {
	conns, err := b.glimpse()
	if err != nil {
		return 0 // it is suspended, or closed
	}
	return len(conns[user])
}

// checkUser refuses what must not become a user of the server.
func checkUser(u *User) error {
	if u.Password == "" { // whoever knows the name would come in
		return errors.New("the password is empty")
	}
	if NamesInstance(u.Name) {
		return errors.New("the name could be an instance's")
	}
	return checkParty(u.party(), u.Name)
}

// NamesInstance reports whether a name ends as the ids of instances do: in a hyphen
// and a number.
func NamesInstance(name string) bool {
	digits := 0
	for digits < len(name) && '0' <= name[len(name)-1-digits] && name[len(name)-1-digits] <= '9' {
		digits++
	}
	return digits > 0 && digits < len(name) && name[len(name)-1-digits] == '-'
}

// party is the user as whoever answers it sees it.
func (u *User) party() party {
	return party{usersParty, &system.ServiceBus{Asks: u.Asks, Publishes: u.Publishes, Subscribes: u.Subscribes}}
}

// usersParty stands for a service in the inboxes of users, see [wire.UserInboxes].
const usersParty = "user"

// live reports whether the user may connect now.
func (u *User) live(now time.Time) bool { return u.Expires.IsZero() || now.Before(u.Expires) }

// permissions are what a user may do. Unlike a service it answers nobody, not even
// micro's discovery.
func (u *User) permissions(sys *system.System) *server.Permissions {
	inbox := UserInbox(u.Name) + ".>"
	p := &server.Permissions{
		// An empty list would allow everything.
		Publish: &server.SubjectPermission{Allow: sorted(slices.Concat([]string{inbox}, u.Asks, u.Publishes))},
		Subscribe: &server.SubjectPermission{
			Allow: sorted(slices.Concat([]string{inbox}, u.Subscribes)),
			Deny:  beyondStars(u.Subscribes),
		},
	}
	grantQueues(p.Publish, u.Publishes, sys)
	return p
}

// The ways to the server. What comes from outside comes over a pipe, so that only
// users of the bus and the node's own connections can come that way.
var (
	overTCP  = map[string]struct{}{jwt.ConnectionTypeStandard: {}}
	overPipe = map[string]struct{}{jwt.ConnectionTypeInProcess: {}}
)

// liveUsers are those who may connect now, sorted by name. When the first of them
// expires is kept: it is cut then, whoever else has changed meanwhile. b.mu is held.
func (b *Bus) liveUsers() []User {
	var live []User
	now := time.Now()
	b.expiry = time.Time{}
	for _, u := range b.users {
		if !u.live(now) {
			continue
		}
		live = append(live, u)
		if !u.Expires.IsZero() && (b.expiry.IsZero() || u.Expires.Before(b.expiry)) {
			b.expiry = u.Expires
		}
	}
	slices.SortFunc(live, func(x, y User) int { return cmp.Compare(x.Name, y.Name) })
	return live
}

// clockGlance is how often the clock is looked at while users are to expire: it may be
// set, or have stood still, and timers do not know.
const clockGlance = time.Minute

// expireUsers cuts users as they expire, until ctx ends.
func (b *Bus) expireUsers(ctx context.Context) {
	for {
		var timer <-chan time.Time
		b.mu.Lock()
		next := b.expiry
		b.mu.Unlock()
		if !next.IsZero() {
			timer = time.After(min(time.Until(next), clockGlance))
		}
		select {
		case <-ctx.Done():
			return
		case <-b.regard:
			continue
		case <-timer:
		}
		if time.Now().Before(next) {
			continue
		}
		err := b.change(func() error { return nil })
		switch {
		case errors.Is(err, ErrClosed):
			return
		case err != nil: // the next change that the server is told cuts them
			b.log.ErrorContext(ctx, "expired users of the bus are not cut", slog.String(wire.KeyError, err.Error()))
		default:
			b.log.InfoContext(ctx, "users of the bus have expired", slog.Time("at", next))
		}
	}
}
