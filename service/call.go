package service

import (
	"context"
	"errors"
	"sync/atomic"

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

// callContext carries a call without one context for each value.
type callContext struct {
	context.Context
	call
}

type callKey struct{}

func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return &c.call
	}
	return c.Context.Value(key)
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

// until adds the deadline that the headers tell, if they do.
func until(ctx context.Context, header map[string][]string) (context.Context, context.CancelFunc) {
	if v := header[wire.HeaderDeadline]; len(v) == 1 {
		if t, ok := wire.ParseDeadline(v[0]); ok {
			return context.WithDeadline(ctx, t)
		}
	}
	return ctx, func() {}
}
