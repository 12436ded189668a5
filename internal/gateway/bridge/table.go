package bridge

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"sync"

	"github.com/nats-io/nats.go"
)

const (
	openMost     = 10_000 // requests on the bus or waiting for an instance; more get 503
	resendsMost  = 3      // times that one request is sent again after an instance was lost
	resendsFirst = 256    // resends a service has before it was asked anything
	resendsSaved = openMost
	tokenRandom  = 16 // bytes of a reply subject's last token
	tokenLetters = 22 // the same in base64url
)

// table knows every request that is on the bus: by the token of its reply subject,
// to find whom a reply is for, and by service in the order of sending, to know
// what an instance that was lost or drained may still owe.
type table struct {
	prefix string // of reply subjects, with the dot

	mu      sync.Mutex // guards what follows, and the fields of call and attempt that say so
	replies map[string]*attempt
	traffic map[string]*traffic
	clock   uint64 // counts sendings
	open    int
	closed  bool
	hold    hold
}

// traffic is what one service has been asked and has not answered.
type traffic struct {
	first, last *Call             // oldest first, linked by older and newer
	budget      int               // resends that may be made: each request earns one
	hosts       map[string]uint64 // instances that live, each with the last sending that it cannot have got
	lostAt      uint64            // the last sending before a host was lost
	settlers    []settler
}

// settler waits until nothing is left that was sent at or before a time.
type settler struct {
	until uint64
	done  chan struct{}
}

// attempt is one sending of a call. Each has a reply subject of its own, so that
// the replies to two of them are never mixed.
type attempt struct {
	call   *Call
	token  string // of the reply subject; "" when it is over; guarded by table.mu
	stream nestStream
}

// delivery is one reply.
type delivery struct {
	to  *attempt
	msg *nats.Msg
}

func newTable(inbox string) *table {
	return &table{
		prefix:  inbox + ".",
		replies: make(map[string]*attempt),
		traffic: make(map[string]*traffic),
	}
}

// enter counts a call in. It fails when there are too many, or after close.
func (t *table) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return ErrClosed
	case t.open >= openMost:
		return ErrFull
	}
	t.open++
	return nil
}

// leave forgets everything about a call.
func (t *table) leave(c *Call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
	t.drop(c)
}

// sending makes a new attempt of c and returns the subject for its replies. A
// resend needs budget; without it, or after resendsMost, the answer is "". While
// requests of the service are held, it fails with errHeld.
func (t *table) sending(c *Call, resend bool) (string, error) {
	var raw [tokenRandom]byte
	_, _ = rand.Read(raw[:]) // never fails
	buf := make([]byte, 0, 128)
	buf = append(buf, t.prefix...)
	buf = base64.RawURLEncoding.AppendEncode(buf, raw[:])
	reply := string(buf)

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return "", ErrClosed
	}
	if t.hold.holds(c.route.service) {
		return "", errHeld
	}
	tr := t.of(c.route.service)
	switch {
	case c.sent == 0:
		tr.budget = min(tr.budget+1, resendsSaved)
	case !resend:
	case tr.budget == 0 || c.resends >= resendsMost:
		return "", nil
	default:
		tr.budget--
		c.resends++
	}
	for i := range c.attempts {
		if a := &c.attempts[i]; a.token == "" {
			a.call, a.token, a.stream = c, reply[len(t.prefix):], nestStream{}
			t.replies[a.token] = a
			c.live++
			break
		}
	}
	t.clock++
	c.newest, c.orphan = t.clock, false
	if !c.linked {
		c.at, c.linked = t.clock, true
		c.older, c.newer = tr.last, nil
		if tr.last != nil {
			tr.last.newer = c
		} else {
			tr.first = c
		}
		tr.last = c
	}
	return reply, nil
}

// of needs the lock. It returns what a service has been asked.
func (t *table) of(service string) *traffic {
	tr := t.traffic[service]
	if tr == nil {
		tr = &traffic{budget: resendsFirst, hosts: make(map[string]uint64)}
		t.traffic[service] = tr
	}
	return tr
}

// over ends one attempt, to which nobody will reply.
func (t *table) over(a *attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.token == "" {
		return
	}
	delete(t.replies, a.token)
	a.token = ""
	if a.call.live--; a.call.live == 0 {
		t.drop(a.call)
	}
}

// drop needs the lock. It ends all attempts of a call and takes it out of its
// service's traffic.
func (t *table) drop(c *Call) {
	for i := range c.attempts {
		if a := &c.attempts[i]; a.token != "" {
			delete(t.replies, a.token)
			a.token = ""
		}
	}
	c.live, c.resend = 0, false
	if !c.linked {
		return
	}
	tr := t.traffic[c.route.service]
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		tr.first = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		tr.last = c.older
	}
	c.older, c.newer, c.linked = nil, nil, false
	tr.settle()
}

// settle needs the lock. It lets go those who wait for nothing any more.
func (tr *traffic) settle() {
	kept := tr.settlers[:0]
	for _, s := range tr.settlers {
		if tr.first == nil || tr.first.at > s.until {
			close(s.done)
		} else {
			kept = append(kept, s)
		}
	}
	clear(tr.settlers[len(kept):])
	tr.settlers = kept
}

// receive is called with every reply, by one goroutine. It never blocks.
func (t *table) receive(msg *nats.Msg) {
	if len(msg.Subject) <= len(t.prefix) {
		return
	}
	t.mu.Lock()
	a := t.replies[msg.Subject[len(t.prefix):]]
	if a == nil { // the call is over, or another attempt has won
		t.mu.Unlock()
		return
	}
	c := a.call
	c.inbox = append(c.inbox, delivery{a, msg})
	c.rouse()
	t.mu.Unlock()
}

// interruptible sets what is called, beside waking c, when there is something new
// for it; nil for nothing. If there is something already it is called at once.
func (t *table) interruptible(c *Call, f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.interrupt = f; f != nil && len(c.inbox) > 0 {
		f()
	}
}

// owed reports whether an attempt of c may still be answered.
func (t *table) owed(c *Call) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return c.live > 0
}

// taken returns the replies since the last call, the list for the next ones being
// spare, and whether the request is to be sent again.
//
// It also says whether all instances that can have got the request are lost.
func (t *table) taken(c *Call, spare []delivery) (got []delivery, resend, orphan, closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	got, resend, orphan = c.inbox, c.resend, c.orphan
	c.inbox, c.resend, c.orphan = spare, false, false
	return got, resend, orphan, t.closed
}

// joined takes note of an instance that is ready. It may have got requests before,
// from its first subscription on: in place of that moment, which is not known here,
// stands the last loss of an instance, for those that take a lost one's place.
func (t *table) joined(service, instance string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := t.of(service)
	if _, known := tr.hosts[instance]; !known {
		tr.hosts[instance] = tr.lostAt
	}
}

// lost asks for all requests of a service that may be sent again to be so, and tells
// those that no instance is left to answer.
func (t *table) lost(service, instance string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := t.traffic[service]
	if tr == nil {
		return
	}
	unreached := uint64(0) // the last sending that none who is left can have got
	if _, was := tr.hosts[instance]; was {
		delete(tr.hosts, instance)
		tr.lostAt, unreached = t.clock, t.clock
		for _, since := range tr.hosts {
			unreached = min(unreached, since)
		}
	}
	for c := tr.first; c != nil; c = c.newer {
		c.resend = c.resend || c.again
		c.orphan = c.orphan || c.newest <= unreached
		if c.resend || c.orphan {
			c.rouse()
		}
	}
}

// settle waits until every request of a service that is on the bus now has ended.
// Requests that wait for an instance are on no instance and do not count.
func (t *table) settle(ctx context.Context, service string) error {
	t.mu.Lock()
	tr := t.traffic[service]
	if tr == nil || tr.first == nil {
		t.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	tr.settlers = append(tr.settlers, settler{t.clock, done})
	t.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, s := range tr.settlers {
		if s.done == done {
			tr.settlers = append(tr.settlers[:i], tr.settlers[i+1:]...)
			return ctx.Err()
		}
	}
	return nil // it ended at the same moment
}

// close lets every call go with an error and admits no more.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, a := range t.replies {
		a.call.rouse()
	}
}
