package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// Operator connects within the process with all permissions of the system's
// account, JetStream and micro's discovery included, and an inbox prefix of its
// own. The name is shown by NATS's tools. Options are applied after the
// defaults, and before what identifies the connection. Close ends it with the
// bus at the latest; between Suspend and Resume it is not connected.
func (b *Bus) Operator(name string, opts ...nats.Option) (*nats.Conn, error) {
	c := b.operator
	c.InboxPrefix = operatorInboxes + "." + random()
	return b.connect(name, c, append(slices.Clip(opts), nats.InProcessServer(pipe{b})))
}

// Gateway connects over TCP, which is faster under load than a pipe within the
// process (docs/decisions/0013), and may only ask: publish on the subjects
// that some service answers, and the one that the signing keys come from, and
// read its own replies. The permissions follow the model of [Bus.Apply].
func (b *Bus) Gateway(opts ...nats.Option) (*nats.Conn, error) {
	return b.connect("fairlead gateway", b.gateway, append(slices.Clip(opts), nats.InProcessServer(nil)))
}

// OperatorCredentials are for the operator's tools over TCP, such as the nats
// CLI: everything of the system's account, with the inbox prefix that tools have
// by default.
func (b *Bus) OperatorCredentials() Credentials { return b.tools }

func (b *Bus) connect(name string, c Credentials, opts []nats.Option) (*nats.Conn, error) {
	all := []nats.Option{
		nats.ReconnectWait(10 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // the handshake of a reconnect over a pipe may be cut by a reload
		nats.ErrorHandler(b.asyncError(name)),
	}
	all = append(all, opts...)
	all = append(
		all,
		nats.Name(name),
		nats.UserInfo(c.User, c.Password),
		nats.CustomInboxPrefix(c.InboxPrefix),
	)
	b.reload.Lock() // keeps the handshake of a pipe and a reload apart
	nc, err := nats.Connect(b.url, all...)
	b.reload.Unlock()
	if err != nil && b.isClosed() {
		err = ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("connect %s to bus: %w", name, err)
	}
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.forget()
		b.conns = append(b.conns, nc)
	}
	b.mu.Unlock()
	if closed {
		nc.Close()
		return nil, fmt.Errorf("connect %s to bus: %w", name, ErrClosed)
	}
	return nc, nil
}

// pipe connects within the process to the server that runs at the time.
type pipe struct{ b *Bus }

// InProcessConn implements [nats.InProcessConnProvider].
func (p pipe) InProcessConn() (net.Conn, error) {
	s := p.b.server.Load()
	if s == nil {
		return nil, ErrSuspended
	}
	return s.InProcessConn()
}

// near connects what goes on with the bus of the process that takes this one's place:
// within the process, as the publisher, while the server runs in it, else over TCP, as
// the gateway. It serves one connection.
type near struct {
	b       *Bus
	address string      // of the bus, in whichever process
	within  atomic.Bool // the connection was last made so
}

// InProcessConn implements [nats.InProcessConnProvider].
func (n *near) InProcessConn() (net.Conn, error) {
	s := n.b.server.Load()
	n.within.Store(s != nil)
	if s != nil {
		return s.InProcessConn()
	}
	conn, err := net.DialTimeout("tcp", n.address, nats.DefaultTimeout)
	if err != nil {
		return nil, fmt.Errorf("connect to the bus of another process: %w", err)
	}
	return conn, nil
}

// user is whom the connection belongs to.
func (n *near) user() (name, password string) {
	if n.within.Load() {
		return n.b.publisher.User, n.b.publisher.Password
	}
	return n.b.gateway.User, n.b.gateway.Password
}

func (b *Bus) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// forget drops the connections that their users have closed. b.mu is held.
func (b *Bus) forget() {
	open := b.conns[:0]
	for _, nc := range b.conns {
		if !nc.IsClosed() {
			open = append(open, nc)
		}
	}
	clear(b.conns[len(open):])
	b.conns = open
}

// asyncError logs what nats.go would write to standard error otherwise.
func (b *Bus) asyncError(name string) nats.ErrHandler {
	return func(_ *nats.Conn, sub *nats.Subscription, err error) {
		attrs := []any{slog.String("connection", name), slog.String(wire.KeyError, err.Error())}
		if sub != nil {
			attrs = append(attrs, slog.String(wire.KeySubject, sub.Subject))
		}
		if errors.Is(err, nats.ErrConnectionClosed) {
			return
		}
		b.log.Warn("bus connection reports an error", attrs...)
	}
}
