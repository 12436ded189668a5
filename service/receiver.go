package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	firstAgain = 100 * time.Millisecond // before the node is asked for consumers again
	mostAgain  = 5 * time.Second
	watchEvery = 5 * time.Second  // how often it is looked whether the bus still sends
	askEvery   = 10 * time.Minute // how often a durable one asks what is acknowledged
)

// receiver handles the messages of one Subscribe to queues. It asks the node for the
// consumers, one of each queue, and has a pull for each of them.
type receiver struct {
	s       *Service
	subject string
	o       SubscribeOptions
	handler func(ctx context.Context, data []byte) error
	reader  string // "" of a durable one

	open  inflight      // messages that are being handled
	again chan struct{} // holds a token when the node is to be asked again
	done  chan struct{} // closed when run has ended

	mu       sync.Mutex       // guards what follows
	pulls    map[string]*pull // by stream
	stopping bool
}

func newReceiver(s *Service, subject string, number int, o SubscribeOptions, h func(context.Context, []byte) error) *receiver {
	r := &receiver{
		s: s, subject: subject, o: o, handler: h,
		again: make(chan struct{}, 1), done: make(chan struct{}), pulls: map[string]*pull{},
	}
	s.queues.onReturn(r.reconnected)
	if o.Name == "" {
		r.reader = "r" + strconv.Itoa(number)
	} else {
		s.queues.onChange(r.askAgain) // a new queue may keep what it subscribes
	}
	return r
}

// start makes the subscription and begins to receive. What the node refuses for good
// is an error; for what may come it waits, until ctx ends.
func (r *receiver) start(ctx context.Context) error {
	list, err := r.consumers(ctx, r.subject, r.o.From)
	for backoff, told := firstAgain, false; err != nil; backoff = min(2*backoff, mostAgain) {
		if e, ok := errors.AsType[*Error](err); ok && e.Status < 500 {
			close(r.done)
			return errors.New(e.Public)
		}
		if !told {
			r.s.logger.InfoContext(ctx, "waiting for the queues", wire.KeySubject, r.subject, wire.KeyError, err)
			told = true
		}
		if !pause(ctx, backoff) {
			close(r.done)
			return nil
		}
		list, err = r.consumers(ctx, r.subject, r.o.From)
	}
	r.take(list) //nolint:contextcheck // it pulls until the service stops
	go r.run()   //nolint:contextcheck // as above
	return nil
}

// possible asks the node whether it would refuse the subscription for good.
func (r *receiver) possible(ctx context.Context) error {
	req := r.request(r.subject, r.o.From)
	req.Check = true
	var reply wire.SubscribeReply
	if err := r.s.askNode(ctx, wire.SubjectSubscribe, req, &reply); err == nil && reply.Code != 0 && reply.Code < 500 {
		return errors.New(reply.Reason)
	}
	return nil
}

// consumers asks the node.
func (r *receiver) consumers(ctx context.Context, subject string, from Start) ([]wire.Consumer, error) {
	var reply wire.SubscribeReply
	if err := r.s.askNode(ctx, wire.SubjectSubscribe, r.request(subject, from), &reply); err != nil {
		return nil, err
	}
	if reply.Code != 0 {
		return nil, &Error{Status: reply.Code, Public: reply.Reason}
	}
	return reply.Consumers, nil
}

func (r *receiver) request(subject string, from Start) wire.SubscribeRequest {
	req := wire.SubscribeRequest{
		Subject: subject, Name: r.o.Name, Reader: r.reader, From: string(from), InFlight: r.o.InFlight, Ordered: r.o.Ordered,
	}
	if r.reader == "" {
		req.AckWait = r.o.AckWait.String()
	}
	return req
}

// take begins to pull from consumers that it does not pull from yet.
func (r *receiver) take(list []wire.Consumer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return
	}
	for _, c := range list {
		old := r.pulls[c.Stream]
		if old != nil && !old.over() {
			old.done.Store(c.Done)
			continue
		}
		p, err := newPull(r, c)
		if err != nil { // the connection is closed
			r.s.logger.Warn("messages are not pulled", wire.KeySubject, r.subject, wire.KeyError, err)
			continue
		}
		if old != nil {
			p.last = old.position()
		}
		r.pulls[c.Stream] = p
		p.begin()
	}
}

// askAgain has the node asked again soon.
func (r *receiver) askAgain() {
	select {
	case r.again <- struct{}{}:
	default: // it will be anyway
	}
}

// reconnected says that the bus is there again: what was asked of it is forgotten.
func (r *receiver) reconnected() {
	for _, p := range r.list() {
		p.forgotten()
	}
}

func (r *receiver) list() []*pull {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*pull, 0, len(r.pulls))
	for _, p := range r.pulls {
		list = append(list, p)
	}
	return list
}

// run keeps the pulls going until the service stops.
func (r *receiver) run() {
	defer close(r.done)
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	backoff := firstAgain
	for {
		select {
		case <-r.s.ctx.Done():
			return
		case <-watch.C:
			for _, p := range r.list() {
				p.watch()
			}
			continue
		case <-ask.C:
		case <-r.again:
		}
		if err := r.renew(); err != nil {
			r.s.logger.Debug("asking for the queues again", wire.KeySubject, r.subject, wire.KeyError, err)
			if !pause(r.s.ctx, backoff) {
				return
			}
			backoff = min(2*backoff, mostAgain)
			r.askAgain()
			continue
		}
		backoff = firstAgain
	}
}

// renew asks the node for the consumers of the pulls that are over. A reader goes on
// in each queue where it was.
func (r *receiver) renew() error {
	if r.reader == "" {
		list, err := r.consumers(r.s.ctx, r.subject, r.o.From)
		if err == nil {
			r.take(list)
		}
		return err
	}
	for _, p := range r.list() {
		if !p.over() {
			continue
		}
		from := r.o.From
		if last := p.position(); last > 0 {
			from = FromSequence(last + 1)
		}
		list, err := r.consumers(r.s.ctx, p.c.Filter, from)
		if err != nil {
			return err
		}
		r.take(list)
	}
	return nil
}

// stop stops pulling, and gives back what has come and was not begun.
func (r *receiver) stop() {
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	for _, p := range r.list() {
		p.stop()
	}
}

// drained waits until all is given back and what was begun is done.
func (r *receiver) drained(ctx context.Context) error {
	for _, p := range r.list() {
		select {
		case <-p.ended:
		case <-r.s.closed:
		case <-ctx.Done():
			return fmt.Errorf("drain %s: %w", r.subject, context.Cause(ctx))
		}
	}
	if n := r.open.wait(ctx); n > 0 {
		return fmt.Errorf("drain %s: %d messages are still being handled: %w", r.subject, n, context.Cause(ctx))
	}
	return nil
}

// deliver has the handler handle a message, and settles what becomes of it. That
// it is being handled is told the bus meanwhile.
func (r *receiver) deliver(p *pull, m *nats.Msg, d *Delivery) {
	if r.o.Attempts > 0 && d.Attempt > r.o.Attempts {
		r.bury(p, m, d, causeAttempts, fmt.Errorf("it was given %d times and never acknowledged", d.Attempt-1))
		return
	}
	c, _ := r.s.begin(r.s.work, m.Header, m.Subject) // a user's identity says nothing about a message
	c.user, c.known, c.delivery = Identity{}, false, d
	err := guarded(c, r.handler, m.Data)
	rejected, _ := errors.AsType[*rejection](err)
	switch {
	case err == nil:
		r.acknowledge(c, m)
	case c.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, errStopping)):
		r.answer(m, "-NAK") // the grace period is over: another instance takes it
	case rejected != nil:
		r.bury(p, m, d, rejected.cause, rejected.err)
	case r.o.Attempts > 0 && d.Attempt >= r.o.Attempts:
		r.s.reportMessage(c, d, err)
		r.bury(p, m, d, causeAttempts, err)
	default:
		wait := r.o.wait(d.Attempt)
		r.s.reportMessage(c, d, err)
		r.s.logger.DebugContext(c, "message is handled again", "attempt", d.Attempt, "after", wait.String())
		r.answer(m, `-NAK {"delay": `+strconv.FormatInt(int64(wait), 10)+`}`)
	}
}

// acknowledge says that a message was handled.
func (r *receiver) acknowledge(ctx context.Context, m *nats.Msg) {
	if !r.o.Confirm {
		r.answer(m, "")
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), namesTimeout)
	defer cancel()
	if _, err := r.s.conn.RequestWithContext(ctx, m.Reply, []byte("+ACK")); err != nil {
		r.s.logger.WarnContext(ctx, "message was handled, and may be given again", wire.KeySubject, m.Subject, wire.KeyError, err)
	}
}

func (r *receiver) answer(m *nats.Msg, text string) {
	if err := r.s.conn.Publish(m.Reply, []byte(text)); err != nil && !r.s.conn.IsClosed() {
		r.s.logger.Warn("the bus is not told about a message, which is given again", wire.KeySubject, m.Subject, wire.KeyError, err)
	}
}

// bury has the node put a message among the dead letters. If it cannot now, the
// message is given again and buried then.
func (r *receiver) bury(p *pull, m *nats.Msg, d *Delivery, cause string, why error) {
	req := wire.RejectRequest{Ack: m.Reply, Cause: cause, Reason: why.Error()}
	if e, ok := errors.AsType[*Error](why); ok && cause == causeType {
		req.Reason = e.Public
	}
	var reply wire.RejectReply
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.s.work), p.c.AckWait()/2)
	defer cancel()
	err := r.s.askNode(ctx, wire.SubjectReject, req, &reply)
	if err == nil && reply.Code != 0 {
		err = &Error{Status: reply.Code, Public: reply.Reason}
	}
	if err != nil {
		r.s.logger.Warn("message cannot be put among the dead letters now", wire.KeySubject, m.Subject, wire.KeyError, err)
		r.answer(m, `-NAK {"delay": `+strconv.FormatInt(int64(mostAgain), 10)+`}`)
		return
	}
	r.s.logger.Error("message is a dead letter", wire.KeySubject, m.Subject, "stream", d.Stream, "sequence", d.Sequence, "attempt", d.Attempt, "cause", cause, wire.KeyReason, req.Reason)
}

// read handles a message of a reader, again and again where it fails.
func (r *receiver) read(m *nats.Msg, d *Delivery) {
	for {
		c, _ := r.s.begin(r.s.work, m.Header, m.Subject)
		c.user, c.known, c.delivery = Identity{}, false, d
		err := guarded(c, r.handler, m.Data)
		if err == nil || c.Err() != nil {
			return
		}
		r.s.reportMessage(c, d, err)
		if _, ok := errors.AsType[*rejection](err); ok || r.o.Attempts > 0 && d.Attempt >= r.o.Attempts {
			r.s.logger.ErrorContext(c, "message is passed over", wire.KeySubject, m.Subject, "stream", d.Stream, "sequence", d.Sequence, "attempt", d.Attempt)
			return
		}
		if !pause(r.s.ctx, r.o.wait(d.Attempt)) {
			return
		}
		next := *d
		next.Attempt++
		d = &next
	}
}

// lostStatus reports whether a status of the bus says that the consumer is gone.
func lostStatus(code string) bool {
	switch code {
	case "408", "100", strconv.Itoa(http.StatusNotFound):
		return false
	}
	return true
}
