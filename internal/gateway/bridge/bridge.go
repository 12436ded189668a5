// Package bridge asks services over the bus and brings their answers.
//
// Guarantees:
//   - All replies come in by one subscription, and each sending has a reply subject of
//     its own: the replies to two of them are never mixed.
//   - What it sends is bounded: at most 10,000 requests are open, one is sent at most
//     three times more after an instance was lost, and a service's resends never
//     exceed the requests it was asked.
//   - A request that no instance took is sent again, whatever it is; one that an
//     instance may have begun with only if it may be ([Call.Again]).
//   - A request that nobody is left to answer ends, and so does every request at its
//     deadline, or when the bridge is closed.
//
// It does not see replies above the bus's payload limit: the server does not deliver
// them, so that the request is overdue. It does not know which instances are ready:
// it is told. It knows nothing of clients and of what they are answered.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	headRoom    = 4 << 10          // bytes of the bus's payload limit left for headers
	defaultTime = 30 * time.Second // of a call without a deadline
)

// Errors of [Bridge.Do] and [Bridge.Ask], beside those of the context, of what
// [Call.Ready] waits for, and [nats.ErrMaxPayload]. Any other means that no instance
// has taken the request.
var (
	ErrClosed  = errors.New("the bridge to the bus is closed")
	ErrFull    = errors.New("too many requests are on the bus")
	ErrOverdue = errors.New("no reply within the time")
	// ErrBereft means that no reply can come any more.
	ErrBereft = errors.New("all instances that can have got the request are lost")
	// ErrForeign and ErrTooLong say what is wrong with a service's replies. Their texts
	// may be told to clients.
	ErrForeign = errors.New("the service answered with what is not a NestJS reply")
	ErrTooLong = errors.New("the service's stream of replies is too long")

	errDown       = errors.New("the bus is not connected")
	errUnanswered = errors.New("no ready instance answers the subject")
)

// ErrHalted is what [Ready] returns for a service that is stopped on purpose. A
// request that an instance may still answer waits for that nevertheless.
var ErrHalted = errors.New("the service is stopped")

// Conn is what a bridge needs of its connection to the bus. A [nats.Conn] has it. The
// connection's inbox prefix decides where replies go.
type Conn interface {
	Subscribe(subject string, handle nats.MsgHandler) (*nats.Subscription, error)
	PublishMsg(m *nats.Msg) error
	NewInbox() string
	IsConnected() bool
	MaxPayload() int64
}

// Bridge sends requests over the bus. Make it with [New]. A nil Bridge is one to no
// bus: it knows of no requests, and what it is asked fails. It is safe for concurrent
// use.
type Bridge struct {
	conn   Conn
	logger *slog.Logger
	table  *table
	sender sender

	ending context.Context // ends with Close
	end    context.CancelFunc

	mu  sync.Mutex // guards sub
	sub *nats.Subscription
}

// New returns a bridge over conn. It does no I/O: what is asked first subscribes to
// the replies.
func New(conn Conn, logger *slog.Logger) *Bridge {
	b := &Bridge{conn: conn, logger: logger, table: newTable(conn.NewInbox()), sender: sender{conn: conn}}
	b.ending, b.end = context.WithCancel(context.Background())
	return b
}

// MaxData returns how many bytes a message may have so that there is room for its
// headers.
func (b *Bridge) MaxData() int64 { return b.conn.MaxPayload() - headRoom }

// start subscribes to the replies, once.
func (b *Bridge) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub != nil {
		return nil
	}
	sub, err := b.conn.Subscribe(b.table.prefix+"*", b.table.receive)
	if err != nil {
		return fmt.Errorf("subscribe to replies: %w", err)
	}
	// What is pending is bounded by what was asked; dropping a reply would only
	// turn it into a time-out.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe to replies: %w", err)
	}
	b.sub = sub
	return nil
}

// Lost has the outstanding requests of a service that may be sent again sent again,
// within their deadline and the service's budget. The instance that died must
// have no subscription left, or it may be chosen again. A request that may not be
// sent again, and that no other instance can have got, ends with [ErrBereft].
func (b *Bridge) Lost(service, instance string) {
	if b != nil {
		b.table.lost(service, instance)
	}
}

// Joined says that an instance gets requests from now on, until it is lost.
func (b *Bridge) Joined(service, instance string) {
	if b != nil {
		b.table.joined(service, instance)
	}
}

// Settle waits until every request of the service that was on the bus at the call
// has ended. Requests that wait for an instance to take them do not count. It returns
// the context's error if that ends first.
func (b *Bridge) Settle(ctx context.Context, service string) error {
	if b == nil {
		return nil
	}
	return b.table.settle(ctx, service)
}

// SettleAll does what [Bridge.Settle] does for every service.
func (b *Bridge) SettleAll(ctx context.Context) error {
	if b == nil {
		return nil
	}
	for _, service := range b.table.services() {
		if err := b.table.settle(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all waiting with [ErrClosed]. Later requests are refused. The connection
// stays open.
func (b *Bridge) Close() {
	if b == nil {
		return
	}
	b.table.close()
	b.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub != nil {
		if err := b.sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			b.logger.Debug("unsubscribe from replies", wire.KeyError, err)
		}
	}
}

// Ask sends an empty object to a subject and returns the reply's body. It is for
// questions that are no client's; no instance is waited for. Without a deadline of
// ctx it takes 30 s at most.
func (b *Bridge) Ask(ctx context.Context, subject string) ([]byte, error) {
	c := NewCall()
	defer c.Free()
	c.Deadline, _ = ctx.Deadline()
	c.route, c.again = &Route{}, true
	c.msg.Subject = subject
	c.data = append(c.data, "{}"...)
	c.msg.Data = c.data
	c.SetHeader(wire.HeaderRequestID, wire.NewRequestID())
	r, err := b.do(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	if text := r.msg.Header.Get(wire.HeaderError); text != "" {
		return nil, fmt.Errorf("ask %s: %s", subject, clip(text))
	}
	return r.msg.Data, nil
}

// Do sends c and waits for the answer of its service, within its deadline and that of
// ctx. It is called once for a call.
//
// A request that no instance took (the server says so at once) is sent again,
// whatever its method, as soon as an instance is ready; a request that may be
// sent again is so when an instance of its service is lost. The first complete
// reply wins.
func (b *Bridge) Do(ctx context.Context, c *Call) (Answer, error) {
	r, err := b.do(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	return r.answer(c.route), nil
}
