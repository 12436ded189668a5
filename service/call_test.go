package service

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/wire"
)

// timely is the context of a request that is to be answered within d.
func timely(parent context.Context, d time.Duration) *callContext {
	c := &callContext{Context: parent}
	c.until(map[string][]string{wire.HeaderDeadline: {wire.FormatDeadline(time.Now().Add(d))}})
	return c
}

// The context of a request is what context.WithDeadline makes, whatever is asked of it
// first.
func TestContextOfARequestEnds(t *testing.T) {
	errGone := errors.New("gone")
	for _, first := range []struct {
		name string
		look func(context.Context)
	}{
		{"nothing", func(context.Context) {}},
		{"Err", func(c context.Context) { _ = c.Err() }},
		{"Done", func(c context.Context) { c.Done() }},
		{"a context made of it", func(c context.Context) {
			_, cancel := context.WithTimeout(c, time.Hour)
			cancel()
		}},
	} {
		for _, how := range []struct {
			name  string
			end   func(c *callContext, giveUp context.CancelCauseFunc)
			err   error
			cause error
		}{
			{"at its deadline", func(*callContext, context.CancelCauseFunc) { time.Sleep(time.Second + time.Millisecond) }, context.DeadlineExceeded, context.DeadlineExceeded},
			{"with the service", func(_ *callContext, giveUp context.CancelCauseFunc) { giveUp(errGone) }, context.Canceled, errGone},
			{"when it is answered", func(c *callContext, _ context.CancelCauseFunc) { c.end() }, context.Canceled, context.Canceled},
		} {
			t.Run(how.name+", looked at before: "+first.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent, giveUp := context.WithCancelCause(t.Context())
					defer giveUp(nil)
					c := timely(parent, time.Second)
					defer c.end()
					if at, ok := c.Deadline(); !ok || time.Until(at) != time.Second {
						t.Errorf("the deadline is %v, %t", at, ok)
					}
					if err := c.Err(); err != nil {
						t.Errorf("it has ended: %v", err)
					}
					first.look(c)
					how.end(c, giveUp)
					for range 2 {
						if err := c.Err(); !errors.Is(err, how.err) {
							t.Errorf("the error is %v, want %v", err, how.err)
						}
						if err := context.Cause(c); !errors.Is(err, how.cause) {
							t.Errorf("the cause is %v, want %v", err, how.cause)
						}
						<-c.Done()
					}
					child, cancel := context.WithTimeout(c, time.Hour)
					defer cancel()
					if err := child.Err(); !errors.Is(err, how.err) {
						t.Errorf("the error of a context made of it is %v, want %v", err, how.err)
					}
				})
			})
		}
	}
}

func TestWhoWaitsForARequestIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := timely(parent, time.Second)
		child, stop := context.WithCancel(c)
		defer stop()
		go func() {
			time.Sleep(time.Millisecond)
			c.end()
		}()
		begun := time.Now()
		<-child.Done()
		if took := time.Since(begun); took != time.Millisecond {
			t.Errorf("it waited for %v", took)
		}
	})
}

// A context without a deadline outlives its request, as that of the service does.
func TestContextWithoutADeadlineGoesOn(t *testing.T) {
	c := &callContext{Context: t.Context()}
	c.until(map[string][]string{wire.HeaderDeadline: {"soon"}})
	c.end()
	if _, ok := c.Deadline(); ok || c.Err() != nil || c.Done() != t.Context().Done() {
		t.Errorf("it has ended: %v", c.Err())
	}
}

func BenchmarkContext(b *testing.B) {
	parent, cancel := context.WithCancel(b.Context())
	defer cancel()
	header := map[string][]string{wire.HeaderDeadline: {wire.FormatDeadline(time.Now().Add(time.Hour))}}
	b.ReportAllocs()
	for b.Loop() {
		c := &callContext{Context: parent}
		c.until(header)
		if c.Err() != nil {
			b.Fatal(c.Err())
		}
		c.end()
	}
}
