package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/system"
)

// Outside is the address where clients on other machines are let in, host:port; ""
// if the model has none, and as long as no users were set.
func (b *Bus) Outside() string { return b.front.Address() }

// Enter takes a place for a client from an address, whose connection is accepted and
// secured by somebody else: [outside.Front.Enter]. The error is [ErrSuspended],
// [ErrClosed] or [outside.ErrFull]. Only users of the bus can come that way
// ([Bus.SetUsers]); they are cut when the bus is suspended or closed.
func (b *Bus) Enter(from netip.Addr) (serve func(ctx context.Context, conn net.Conn), leave func(), err error) {
	switch {
	case b.server.Load() != nil:
		return b.front.Enter(from)
	case b.isClosed():
		return nil, nil, ErrClosed
	}
	return nil, nil, ErrSuspended
}

// SetBanned says which clients on other machines are not let in, and cuts those who
// are. What comes by [Bus.Enter] has been let in by somebody else. banned must not
// block.
func (b *Bus) SetBanned(banned func(client netip.Addr) bool) { b.front.SetBanned(banned) }

// listenOutside lets clients on other machines in as the model says, once it is known
// who may come: who is refused although it may come does not come again.
func (b *Bus) listenOutside(ctx context.Context, sys *system.System) error {
	b.mu.Lock()
	known := b.users != nil && !b.closed
	b.mu.Unlock()
	if b.server.Load() == nil || sys == nil || !known {
		return nil
	}
	return b.front.Listen(ctx, sys.Bus.Outside)
}

// hello is the INFO that clients are told before they say who they are, also while
// the server is away: those that are cut after it come back at once, and some wait
// long for it. It names no address: there is none where they could come directly.
func (b *Bus) hello(encrypted bool) ([]byte, error) {
	info, err := json.Marshal(server.Info{
		ID: b.base.ServerName, Name: b.base.ServerName, Version: server.VERSION, GoVersion: runtime.Version(), Proto: 1, Headers: true,
		AuthRequired: true, TLSRequired: encrypted, TLSAvailable: encrypted, MaxPayload: b.base.MaxPayload, JetStream: true,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the server's greeting: %w", err)
	}
	return append([]byte("INFO "), info...), nil
}
