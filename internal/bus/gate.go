package bus

import (
	"fmt"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/bus/gatekeeper"
	"fairlead/internal/bus/link"
	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

// mapGate makes the server map what clients ask JetStream to the gatekeeper. It comes
// before all other mappings, of which some overlap: the server takes the first.
func (b *Bus) mapGate(account *server.Account) error {
	var place func(string) string
	if b.link != nil {
		place = func(s string) string { return link.API(b.link.place, s) }
	}
	for _, m := range gatekeeper.Mappings(place) {
		if err := account.AddMapping(m.From, m.To); err != nil {
			return fmt.Errorf("map %s to %s: %w", m.From, m.To, err)
		}
	}
	return nil
}

// openGate opens the gatekeeper of the server that runs.
func (b *Bus) openGate() error {
	nc, err := b.Operator("fairlead looks at replies", nats.ReconnectBufSize(-1))
	if err != nil {
		return err
	}
	g, err := gatekeeper.Open(nc, b.inboxesOf, b.link != nil, b.log)
	if err != nil {
		nc.Close()
		return err
	}
	b.mu.Lock()
	b.gate, b.gateConn = g, nc
	b.mu.Unlock()
	return nil
}

// closeGate ends the gatekeeper, when the server has ended.
func (b *Bus) closeGate() {
	b.mu.Lock()
	nc := b.gateConn
	b.gateConn = nil
	b.mu.Unlock()
	if nc != nil {
		nc.Close()
	}
}

// inboxesOf says below what the owner of a consumer awaits replies, "" if it is none of
// a service or a user.
func (b *Bus) inboxesOf(stream, consumer string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for owner, list := range b.consumers {
		for i := range list {
			if list[i].Name != consumer || list[i].Stream != stream {
				continue
			}
			if _, user := b.users[owner]; user {
				return UserInbox(owner) + "."
			}
			return wire.InboxPrefix + "." + owner + "."
		}
	}
	return ""
}

// byGate makes permissions to publish hold for what the server maps to the gatekeeper.
// What is granted beyond that stays.
func byGate(users []*server.User) {
	for _, u := range users {
		if u.Permissions != nil && u.Permissions.Publish != nil {
			p := u.Permissions.Publish
			p.Allow, p.Deny = mappedToGate(p.Allow), mappedToGate(p.Deny)
		}
	}
}

func mappedToGate(subjects []string) []string {
	var mapped []string
	for _, s := range subjects {
		whole := false
		for _, e := range gatekeeper.Entrances() {
			if both := notation.SubjectsShared(e.From, s); both != "" {
				mapped = append(mapped, e.Mapped(both))
				whole = whole || both == s
			}
		}
		if !whole {
			mapped = append(mapped, s)
		}
	}
	return slices.Clip(sorted(mapped))
}
