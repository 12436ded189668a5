package bridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	backoffFirst = 5 * time.Millisecond   // between two sendings that nobody took
	backoffMost  = 250 * time.Millisecond //
	patience     = 2 * time.Second        // for a subject nobody answers although an instance is ready
	headersMost  = 6
	pooledBytes  = 64 << 10               // largest buffer that is kept for another call
	lastWords    = 100 * time.Millisecond // for a reply that was on its way when the last instance was lost
)

// Ready tells when it is worth sending a request.
type Ready interface {
	// Wait returns nil once an instance is ready. It returns [ErrHalted] for a service
	// that is stopped on purpose, another error when it has been waited for too long,
	// and the context's error when that ends. An error ends the request.
	Wait(ctx context.Context) error
}

// Call is one request on the bus, from before its first sending to its answer. It
// belongs to the goroutine that serves the request: take it with [NewCall], have a
// [Route] fill it, and give it back with [Call.Free]. The fields below the line are
// shared and guarded by table.mu. Calls are used again.
type Call struct {
	Body     []byte    // what the request is made of, to be appended to; its memory is used again
	Deadline time.Time // zero: in 30 s
	Ready    Ready     // nil: nothing to wait for

	route  *Route
	again  bool // may be sent although an instance may have begun with it
	sent   int  // times it was sent
	bereft bool // nobody is left to answer: the timer gives it lastWords

	msg    nats.Msg
	values [headersMost]string // of msg's headers, to which its lists point
	data   []byte              // backs msg.Data
	spare  []delivery
	timer  *time.Timer
	wake   chan struct{} // holds one token

	// guarded by table.mu
	older, newer *Call
	at, newest   uint64 // table.clock at its oldest attempt and at its newest
	linked       bool
	attempts     [1 + resendsMost]attempt
	live         int // attempts that are not over
	resends      int
	resend       bool // wanted
	orphan       bool // all instances that can have got it are lost
	inbox        []delivery
	interrupt    func() // called by rouse, may be nil

	// guarded by sender.mu
	queued bool
	unsent error // why it could not be published
}

var calls = sync.Pool{New: func() any {
	c := &Call{wake: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.msg.Header = make(nats.Header, headersMost)
	return c
}}

// NewCall returns a call to be filled in.
func NewCall() *Call { return calls.Get().(*Call) } //nolint:forcetypeassert // the pool holds nothing else

// Free gives the call back when [Bridge.Do] has returned, or instead of it. What was
// received is not kept; large buffers are left to the collector.
func (c *Call) Free() {
	c.timer.Stop()
	select {
	case <-c.wake:
	default:
	}
	header, body, data, spare, inbox := c.msg.Header, c.Body[:0], c.data[:0], c.spare[:0], c.inbox[:0]
	clear(header)
	clear(spare[:cap(spare)])
	clear(inbox[:cap(inbox)])
	if cap(body) > pooledBytes {
		body = nil
	}
	if cap(data) > pooledBytes {
		data = nil
	}
	*c = Call{timer: c.timer, wake: c.wake, Body: body, data: data, spare: spare, inbox: inbox}
	c.msg.Header = header
	calls.Put(c)
}

// Again reports whether the request may be sent again although an instance may have
// begun with it.
func (c *Call) Again() bool { return c.again }

// Sent returns how many times the request was sent.
func (c *Call) Sent() int { return c.sent }

// SetHeader adds a header that the service gets, of five at most; an empty value is
// left out. The deadline is told by itself.
func (c *Call) SetHeader(name, value string) {
	if value == "" {
		return
	}
	i := len(c.msg.Header)
	c.values[i] = value
	c.msg.Header[name] = c.values[i : i+1 : i+1]
}

// rouse makes the call look at its state. It never blocks and needs table.mu.
func (c *Call) rouse() {
	if c.interrupt != nil {
		c.interrupt()
	}
	c.signal()
}

// signal fills the wake channel. It never blocks.
func (c *Call) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// do is Do up to the reply.
func (b *Bridge) do(ctx context.Context, c *Call) (reply, error) {
	if b == nil {
		return reply{}, errDown
	}
	if err := b.start(); err != nil {
		return reply{}, err
	}
	if err := b.table.enter(); err != nil {
		return reply{}, err
	}
	defer b.table.leave(c)
	defer b.sender.withdraw(c)
	if c.Deadline.IsZero() {
		c.Deadline = time.Now().Add(defaultTime)
	}
	c.SetHeader(wire.HeaderDeadline, wire.FormatDeadline(c.Deadline))
	c.timer.Reset(time.Until(c.Deadline))

	w := waiting{pause: backoffFirst}
	for {
		err := b.send(c, false)
		if errors.Is(err, errHeld) {
			if err := b.awaitRelease(ctx, c); err != nil {
				return reply{}, err
			}
			w = waiting{pause: backoffFirst}
			continue
		}
		if err != nil {
			return reply{}, err
		}
		r, state, err := b.await(ctx, c)
		for state == untaken && err == nil {
			// An earlier attempt may still be answered while this waits.
			interrupted, werr := b.waitReady(ctx, c, &w)
			if werr != nil {
				return reply{}, werr
			}
			if !interrupted {
				break
			}
			if r, state, err = b.look(c); state == pending {
				state = untaken
			}
		}
		if err != nil || state == complete {
			return r, err
		}
	}
}

// send makes one attempt. A resend that the budget does not allow is none.
func (b *Bridge) send(c *Call, resend bool) error {
	if c.sent > 0 && b.sender.has(c) {
		return nil // the last attempt is still to go out, and will go to whoever is there then
	}
	if c.sent == 0 && !b.conn.IsConnected() && !b.table.held(c.route.service) {
		return errDown
	}
	reply, err := b.table.sending(c, resend)
	if resend && (reply == "" || errors.Is(err, errHeld)) {
		return nil // a release asks for it again
	}
	if err != nil {
		return err
	}
	c.msg.Reply = reply
	c.sent++
	if c.bereft {
		c.bereft = false
		c.timer.Reset(time.Until(c.Deadline))
	}
	b.sender.send(c)
	return nil
}

// await waits for the first complete reply, or until an attempt was not taken by
// an instance.
func (b *Bridge) await(ctx context.Context, c *Call) (reply, progress, error) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return reply{}, pending, ctx.Err()
		case <-c.timer.C:
			if !c.bereft {
				return reply{}, pending, ErrOverdue
			}
			if r, state, err := b.look(c); state != pending || err != nil {
				return r, state, err // it came in the last moment
			}
			if c.bereft {
				return reply{}, pending, ErrBereft
			}
			continue
		}
		if r, state, err := b.look(c); state != pending || err != nil {
			return r, state, err
		}
	}
}

// look takes in what is new for c, and sends it again if that is asked for.
func (b *Bridge) look(c *Call) (reply, progress, error) {
	got, resend, orphan, closed := b.table.taken(c, c.spare)
	r, state, err := b.sort(c, got)
	clear(got)
	c.spare = got[:0]
	switch {
	case err != nil || state == complete:
		return r, state, err
	case closed:
		return reply{}, pending, ErrClosed
	case state != pending:
		return reply{}, state, nil
	}
	if resend {
		before := c.sent
		if err := b.send(c, true); err != nil || c.sent > before {
			return reply{}, pending, err
		}
	}
	if orphan && !c.bereft && !b.sender.has(c) {
		c.bereft = true
		c.timer.Reset(min(lastWords, time.Until(c.Deadline)))
	}
	if len(got) == 0 {
		return reply{}, pending, b.sender.failure(c)
	}
	return reply{}, pending, nil
}

// progress of a call.
type progress int

const (
	pending  progress = iota // more replies are to come
	complete                 // the reply is there
	untaken                  // an attempt was not taken by any instance
)

// sort looks at replies in the order in which they came.
func (b *Bridge) sort(c *Call, got []delivery) (reply, progress, error) {
	state := pending
	for _, d := range got {
		switch {
		case unserved(d.msg):
			b.table.over(d.to)
			state = untaken
		case !c.route.nest:
			return reply{msg: d.msg}, complete, nil
		case d.to.token == "": // dropped, its first replies may be missing
		default:
			done, fault, err := d.to.stream.add(d.msg.Data)
			if err != nil {
				return reply{}, complete, err
			}
			if done {
				return reply{msg: d.msg, stream: d.to.stream, fault: fault}, complete, nil
			}
		}
	}
	return reply{}, state, nil
}

// unserved reports whether the server says that nobody has subscribed the subject.
func unserved(m *nats.Msg) bool {
	if len(m.Data) != 0 || len(m.Header) == 0 {
		return false
	}
	status := m.Header["Status"]
	return len(status) == 1 && status[0] == "503" && len(m.Header[wire.HeaderError]) == 0
}

// waiting is the state of a call that no instance has taken.
type waiting struct {
	pause time.Duration
	since time.Time // when an instance was ready and yet did not take it, zero: never
}

// waitReady waits until it is worth sending c again: until its pool has a ready
// instance, and if it had one all the time, for a pause that doubles each time.
// It is interrupted by whatever is new for c.
func (b *Bridge) waitReady(ctx context.Context, c *Call, w *waiting) (interrupted bool, err error) {
	within, cancel := context.WithDeadline(ctx, c.Deadline)
	defer cancel()
	defer context.AfterFunc(b.ending, cancel)() //nolint:contextcheck // ending is the bridge's life, not the request's
	b.table.interruptible(c, cancel)
	defer b.table.interruptible(c, nil)

	err = w.wait(within, c)
	if errors.Is(err, ErrHalted) && b.table.owed(c) {
		<-within.Done() // an instance that drains may still answer
		err = within.Err()
	}
	switch {
	case err == nil || within.Err() == nil:
		return false, err
	case ctx.Err() != nil:
		return false, ctx.Err()
	case b.ending.Err() != nil:
		return false, ErrClosed
	case !time.Now().Before(c.Deadline):
		return false, errUnanswered
	}
	return true, nil
}

func (w *waiting) wait(ctx context.Context, c *Call) error {
	begun := time.Now()
	if c.Ready != nil {
		if err := c.Ready.Wait(ctx); err != nil {
			return err
		}
	}
	now := time.Now()
	if w.since.IsZero() || now.Sub(begun) > backoffFirst {
		w.since, w.pause = now, backoffFirst
	}
	if now.Sub(w.since) > patience {
		return errUnanswered
	}
	t := time.NewTimer(w.pause)
	defer t.Stop()
	w.pause = min(2*w.pause, backoffMost)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
