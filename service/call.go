package service

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/wire"
)

// Identity is a user as the gateway has verified them.
type Identity = wire.Identity

// call is what is known about the request that a context belongs to.
type call struct {
	user      Identity
	known     bool // user is one
	requestID string
	trace     wire.Trace
	state     string      // tracestate
	subject   string      // on the bus
	delivery  *Delivery   // nil: it is no message of a queue
	owes      atomic.Bool // an answer, on the bus, for which somebody waits
}

// callContext carries a call without one context for each value, and ends at the
// deadline. The timer for that is made once somebody waits for the end: many handlers
// never do.
type callContext struct {
	context.Context
	call

	deadline time.Time // zero: that of Context, if it has one

	mu     sync.Mutex // guards what follows
	timed  context.Context
	cancel context.CancelFunc // of timed
	over   bool
}

type callKey struct{}

// Value implements [context.Context].
func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return &c.call
	}
	if !c.deadline.IsZero() {
		c.mu.Lock()
		timed := c.timed
		c.mu.Unlock()
		if timed != nil { // contexts that are made of this one look for it
			return timed.Value(key)
		}
	}
	return c.Context.Value(key)
}

// Deadline implements [context.Context].
func (c *callContext) Deadline() (time.Time, bool) {
	at, ok := c.Context.Deadline()
	if !c.deadline.IsZero() && (!ok || c.deadline.Before(at)) {
		return c.deadline, true
	}
	return at, ok
}

// Done implements [context.Context].
func (c *callContext) Done() <-chan struct{} {
	if c.deadline.IsZero() {
		return c.Context.Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.timedLocked().Done()
}

// Err implements [context.Context].
func (c *callContext) Err() error {
	if c.deadline.IsZero() {
		return c.Context.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil && !c.over && c.Context.Err() == nil && time.Now().Before(c.deadline) {
		return nil
	}
	return c.timedLocked().Err()
}

// timedLocked is the context that ends at the deadline.
func (c *callContext) timedLocked() context.Context {
	if c.timed == nil {
		c.timed, c.cancel = context.WithDeadline(c.Context, c.deadline)
		if c.over {
			c.cancel()
		}
	}
	return c.timed
}

// end lets go who waits for the end of a context with a deadline.
func (c *callContext) end() {
	if c.deadline.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over = true; c.cancel != nil {
		c.cancel()
	}
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// User returns the user of the request that ctx belongs to. It reports false if the
// request is anonymous, which includes every request of another service.
func User(ctx context.Context) (Identity, bool) {
	if c := callOf(ctx); c != nil && c.known {
		return c.user, true
	}
	return Identity{}, false
}

// RequestID returns the id of the request that ctx belongs to, "" outside of one.
func RequestID(ctx context.Context) string {
	if c := callOf(ctx); c != nil {
		return c.requestID
	}
	return ""
}

// Subject returns the subject on which the request or message came that ctx belongs
// to, which for an Answer or Subscribe with wildcards is one of many. It is "" for
// HTTP and outside of a request.
func Subject(ctx context.Context) string {
	if c := callOf(ctx); c != nil {
		return c.subject
	}
	return ""
}

var (
	errManyIdentities = errors.New("more than one identity token")
	errNoIdentityKey  = errors.New("identity token without a key to verify it: " + wire.EnvIdentityKey + " is not set")
)

// begin reads the headers of a request, whose names are in canonical form for HTTP
// and told apart by case on the bus. The context is never nil; with an error the
// request must be refused with 401.
func (s *Service) begin(parent context.Context, header map[string][]string, subject string) (*callContext, error) {
	c := &callContext{Context: parent}
	c.subject = subject
	if v := header[wire.HeaderRequestID]; len(v) > 0 && wire.ValidRequestID(v[0]) {
		c.requestID = v[0]
	} else {
		c.requestID = wire.NewRequestID()
	}
	if v := header[wire.HeaderTrace]; len(v) == 1 {
		if t, ok := wire.ParseTrace(v[0]); ok {
			c.trace = t.Child()
			if state := header[wire.HeaderState]; len(state) == 1 && len(state[0]) <= 512 {
				c.state = state[0]
			}
		}
	}
	if c.trace == (wire.Trace{}) {
		c.trace = wire.NewTrace()
	}
	switch v := header[wire.HeaderIdentity]; {
	case len(v) == 0:
	case len(v) > 1:
		return c, errManyIdentities
	case s.verifier == nil:
		return c, errNoIdentityKey
	default:
		id, err := s.verifier.Verify(v[0], s.now())
		if err != nil {
			return c, err
		}
		c.user, c.known = id, true
	}
	return c, nil
}

// until sets the deadline that the headers tell, if they do, before anybody else has
// the context.
func (c *callContext) until(header map[string][]string) {
	if v := header[wire.HeaderDeadline]; len(v) == 1 {
		if t, ok := wire.ParseDeadline(v[0]); ok {
			c.deadline = t
		}
	}
}
