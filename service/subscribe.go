package service

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	defaultAttempts = 10
	defaultAckWait  = 30 * time.Second
)

// defaultBackoff is how long a message waits that could not be handled, after the
// first attempt, the second, and so on.
var defaultBackoff = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute}

// Start is where a subscription begins. The zero value is [First].
type Start string

// Where a subscription may begin, beside [FromTime] and [FromSequence].
const (
	First Start = "first" // with the oldest message that the queue keeps
	New   Start = "new"   // with what is published from now on
)

// FromTime begins with the first message that was stored at t or later.
func FromTime(t time.Time) Start { return Start(t.UTC().Format(time.RFC3339Nano)) }

// FromSequence begins with the message of that sequence, or the first after it. The
// subject must then meet one queue only.
func FromSequence(n uint64) Start { return Start(strconv.FormatUint(max(n, 1), 10)) }

// SubscribeOptions make a subscription one to queues. The zero value is a plain
// subscription.
type SubscribeOptions struct {
	// Name makes the subscription durable: the instances of the service that
	// subscribe by the same name share the messages, and go on where they stopped. At
	// most 64 letters, digits, dashes and underscores.
	Name string
	// From is where it begins when its name is new; default [First]: under a new name,
	// also after a renaming, all messages that the queue keeps are handled. Without a
	// Name, From makes the subscription a reader.
	From Start
	// InFlight is how many messages of each queue one instance handles at a time;
	// default 64, at most 10,000. No more than these are taken from the bus.
	InFlight int
	// Ordered gives the messages of a queue one after the other, whichever instance
	// gets them: the next only when the one before was handled, or is a dead letter.
	Ordered bool
	// Attempts is how often a message is handled before it becomes a dead letter;
	// default 10, below 0: for ever.
	Attempts int
	// Backoff is how long a message waits after its first attempt failed, its second,
	// and so on; the last holds for all that follow. Default 1 s, 2 s, 5 s, 15 s,
	// 30 s, 1 min.
	Backoff []time.Duration
	// AckWait is after what time the bus gives a message to another instance if this
	// one is gone; default 30 s. It does so at once if no instance is left. A handler may take longer: while it runs, the bus
	// is told so.
	AckWait time.Duration
	// Confirm waits until the bus has noted that a message was handled. Without it a
	// message may be given again if the bus is lost in the moment after.
	Confirm bool
}

func (o SubscribeOptions) withDefaults() SubscribeOptions {
	if o.Attempts == 0 {
		o.Attempts = defaultAttempts
	}
	if len(o.Backoff) == 0 {
		o.Backoff = defaultBackoff
	}
	if o.AckWait == 0 {
		o.AckWait = defaultAckWait
	}
	if o.InFlight == 0 {
		o.InFlight = defaultConcurrency
	}
	return o
}

// plain reports whether the options are those of a subscription without a queue.
func (o SubscribeOptions) plain() (bool, error) {
	if o.Name != "" || o.From != "" {
		return false, nil
	}
	if o.InFlight != 0 || o.Ordered || o.Attempts != 0 || len(o.Backoff) > 0 || o.AckWait != 0 || o.Confirm {
		return false, errors.New("the options are for queues: give it a Name, or say From where to read")
	}
	return true, nil
}

// wait is how long a message waits after that many attempts.
func (o SubscribeOptions) wait(attempts int) time.Duration {
	return o.Backoff[min(max(attempts, 1), len(o.Backoff))-1]
}

// Subscribe has h handle the messages published on a subject, which may hold
// wildcards and must be named under subscribes in the file. Call it during setup.
// Bodies are as for [Answer].
//
// Without options it is plain: every instance gets every message that is published
// while it runs, at most once, one after the other in the order of their publisher.
// If h is so slow that 64 MiB or 500,000 messages wait, messages are dropped, and a
// warning is logged. An error, a panic, or a body that does not fit T is logged, and
// the next message handled.
//
// With a [SubscribeOptions.Name] it is durable, and the subject must meet one queue or
// more. Each message is handled by one of the instances, at least once: again if the
// instance or the bus is lost before it is acknowledged, so h must bear a message that
// it has handled before; [Once] helps. Messages begin in the order of their queue, up
// to InFlight of each queue together; with Ordered, one after the other. If h returns
//
//   - nil, the message is acknowledged: nobody gets it again;
//   - an error, or panics, it is given again after a while, see Backoff, and after
//     Attempts it is put among the queue's dead letters, with the error;
//   - [Reject], it becomes a dead letter at once, and so does a body that does not fit T.
//
// A dead letter is stored before the message is acknowledged. One that ends the
// program counts as an attempt.
//
// With From and no Name it is a reader: every instance gets all messages from there on,
// one after the other in the order of each queue, and begins there again when it
// starts. Nothing is acknowledged; what fails is handled again in its place, as by
// Backoff and Attempts, and then passed over. Queues that are added to the file later
// are not read.
//
// The context of h ends near the end of the grace period of a stop, not earlier; what
// was not begun by then is given back at once. [DeliveryOf] tells about the message.
func Subscribe[T any](s *Service, subject string, h func(context.Context, T) error, opts ...SubscribeOptions) {
	var o SubscribeOptions
	if len(opts) > 0 {
		o = opts[len(opts)-1]
	}
	s.subscribeTo(subject, o, func(ctx context.Context, data []byte) error {
		var v T
		if err := decode(data, &v); err != nil {
			return &rejection{cause: causeType, err: err}
		}
		return h(ctx, v)
	})
}

// Process is [Subscribe] with a result: what h returns is published on the subject to,
// and stored where that is a queue's, before the message is acknowledged. A message
// that is handled again publishes its result with the same id, so that a queue within
// its dedupe window stores it once. The options must have a Name.
func Process[T, R any](s *Service, subject, to string, h func(context.Context, T) (R, error), o SubscribeOptions) {
	if o.Name == "" {
		s.fault(fmt.Errorf("process %q: the subscription must have a name", subject))
		return
	}
	Subscribe(s, subject, func(ctx context.Context, v T) error {
		r, err := h(ctx, v)
		if err != nil {
			return err
		}
		d, _ := DeliveryOf(ctx)
		return Publish(ctx, s, to, r, PublishOptions{ID: d.ID()})
	}, o)
}

// Reject is an error that puts a message among the dead letters at once: to handle it
// again would not help. err is the reason that the operator is shown.
func Reject(err error) error { return &rejection{cause: causeRefused, err: err} }

// Causes of death, as the node knows them.
const (
	causeType     = "type"
	causeAttempts = "attempts"
	causeRefused  = "refused"
)

// rejection says that a message shall not be handled again.
type rejection struct {
	cause string
	err   error
}

func (r *rejection) Error() string { return "reject: " + r.err.Error() }
func (r *rejection) Unwrap() error { return r.err }

// Delivery is what is known of a message of a queue.
type Delivery struct {
	Subject  string
	Stream   string // that keeps the queue
	Consumer string // that has given it, the same for all instances and attempts
	Sequence uint64 // of the message in the stream
	Time     time.Time
	Attempt  int // 1 for the first; it may be counted without a handler that began
	// Headers are the message's own. They must not be changed.
	Headers map[string][]string

	done  uint64 // all up to this sequence is acknowledged
	since int64  // when the consumer was made; 0 of a reader
}

// ID is the same whenever the message is given by its subscription.
func (d Delivery) ID() string {
	return d.Consumer + "/" + d.Stream + "/" + strconv.FormatUint(d.Sequence, 10)
}

// DeliveryOf returns what is known of the message of a queue that ctx belongs to. It
// reports false for any other context.
func DeliveryOf(ctx context.Context) (Delivery, bool) {
	if c := callOf(ctx); c != nil && c.delivery != nil {
		return *c.delivery, true
	}
	return Delivery{}, false
}

// subscribeTo registers what Subscribe asks for.
func (s *Service) subscribeTo(subject string, o SubscribeOptions, h func(context.Context, []byte) error) {
	err := checkSubject(subject, true)
	plain, wrong := o.plain()
	switch {
	case err != nil:
	case s.conn == nil:
		err = ErrNoBus
	case wrong != nil:
		err = wrong
	case !plain && !s.config.node:
		err = errors.New("there is no node of fairlead to make it durable: " + wire.EnvQueues + " is not set")
	}
	if err != nil {
		s.fault(fmt.Errorf("subscribe %q: %w", subject, err))
		return
	}
	if plain {
		s.listeners = append(s.listeners, &listener{s: s, subject: subject, handler: h})
		return
	}
	for _, r := range s.receivers {
		if r.o.Name != "" && r.o.Name == o.Name {
			s.fault(fmt.Errorf("subscribe %q: the name %s is that of %q already", subject, o.Name, r.subject))
			return
		}
	}
	s.receivers = append(s.receivers, newReceiver(s, subject, len(s.receivers), o.withDefaults(), h))
}

// listener handles the messages of one plain Subscribe.
type listener struct {
	s       *Service
	subject string
	handler func(ctx context.Context, data []byte) error
	sub     *subscription
}

func (l *listener) deliver(m *nats.Msg) {
	// Whoever published it, a user's identity says nothing about a message.
	c, _ := l.s.begin(l.s.work, m.Header, m.Subject)
	c.user, c.known = Identity{}, false
	if c.Err() != nil {
		return
	}
	if err := guarded(c, l.handler, m.Data); err != nil {
		o := judge(c, err)
		l.s.report(c, o, err, wire.KeySubject, m.Subject)
	}
}

// guarded runs a handler; a panic is an error.
func guarded(ctx context.Context, h func(context.Context, []byte) error, data []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return h(ctx, data)
}
