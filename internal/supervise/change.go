package supervise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"fairlead/internal/system"
)

// Change is a change of several services that is prepared: the new instances
// run beside the old ones and are ready, but get no traffic. Exactly one of
// Commit and Abort has to be called; until then other operations on these
// services wait.
type Change struct {
	sup     *Supervisor
	release func()
	parts   []*part // sorted by service
	once    sync.Once
}

// part is what a change does to one service.
type part struct {
	svc    *service
	spec   Spec
	remove bool     // the service ends
	later  bool     // stop-first: nothing can be prepared
	old    []*place // as it was before
	fresh  []*place // ready
}

// Prepare starts all instances that new and changed services need, beside the
// old ones, all at once. It returns when every one of them is ready, or, with
// an error, when all of them are gone again and nothing has changed. Changed
// services with the order stop-first are started by Commit. specs names only
// the services that are new or changed, remove those that end.
func (s *Supervisor) Prepare(ctx context.Context, specs []Spec, remove []string) (*Change, error) {
	ctx, cancel := s.operation(ctx)
	defer cancel()
	names := slices.Concat(serviceNames(specs), remove)
	held, release, err := s.hold(ctx, names)
	if err != nil {
		return nil, err
	}
	if len(held) != len(names) {
		release()
		return nil, errors.New("a service is named twice")
	}
	c := &Change{sup: s, release: release}
	s.mu.Lock()
	for _, name := range remove {
		svc := held[name]
		if !svc.known {
			s.mu.Unlock()
			release()
			return nil, &UnknownError{Service: name}
		}
		c.parts = append(c.parts, &part{svc: svc, remove: true, old: slices.Clone(svc.places)})
	}
	for _, spec := range specs {
		svc := held[spec.Service]
		c.parts = append(c.parts, &part{
			svc: svc, spec: spec, old: slices.Clone(svc.places),
			later: spec.UpdateOrder == system.StopFirst && len(svc.places) > 0,
		})
	}
	s.mu.Unlock()
	slices.SortFunc(c.parts, func(a, b *part) int { return strings.Compare(a.svc.name, b.svc.name) })
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.Abort(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// errSibling interrupts the other services of a change when one failed.
var errSibling = errors.New("another service of the change did not become ready")

func (c *Change) prepare(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make([]error, len(c.parts))
	var trying sync.WaitGroup
	for i, p := range c.parts {
		if p.remove || p.later {
			continue
		}
		trying.Go(func() {
			p.fresh, errs[i] = c.sup.try(ctx, p.svc, p.spec, p.spec.Replicas)
			if errs[i] != nil {
				cancel(errSibling)
			}
		})
	}
	trying.Wait()
	// What was only interrupted says nothing.
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, errSibling) })...)
}

// Ready returns the prepared instances.
func (c *Change) Ready() []Instance {
	var ready []Instance
	for _, p := range c.parts {
		for _, f := range p.fresh {
			ready = append(ready, f.snapshot())
		}
	}
	return ready
}

// Commit gives the prepared instances traffic, withdraws and ends the old ones,
// all services at once, and then replaces the instances of stop-first services
// one by one. It returns what took the place of what, also with an error: then
// every service is at its new definition as far as that was possible, and what
// is not ready is tried again. Host.Admit and Host.Withdraw are called as
// always; they may find that the host has swapped everything in one go before.
// When ctx ends, old instances that drain go on draining without being waited
// for.
func (c *Change) Commit(ctx context.Context) ([]Replaced, error) {
	var (
		replaced []Replaced
		err      = errors.New("commit change: it was committed or aborted before")
	)
	c.once.Do(func() {
		defer c.release()
		ctx, cancel := c.sup.operation(ctx)
		defer cancel()
		if replaced, err = c.commit(ctx); err != nil {
			err = fmt.Errorf("commit change: %w", err)
		}
	})
	return replaced, err
}

func (c *Change) commit(ctx context.Context) ([]Replaced, error) {
	var errs []error
	replaced := make([]Replaced, len(c.parts))
	// First everything new takes traffic, then the old is withdrawn.
	for i, p := range c.parts {
		replaced[i].Service = p.svc.name
		c.sup.mu.Lock()
		if !p.remove {
			p.svc.known, p.svc.spec = true, p.spec
		}
		c.sup.mu.Unlock()
		for _, f := range p.fresh {
			replaced[i].New = append(replaced[i].New, f.snapshot().ID)
			c.sup.take(p.svc, len(p.old)+len(p.fresh), f)
		}
		errs = append(errs, c.sup.settle(ctx, p.svc, p.fresh))
	}
	var leaving []*place
	for i, p := range c.parts {
		if p.later {
			continue
		}
		for _, o := range p.old {
			replaced[i].Old = append(replaced[i].Old, o.snapshot().ID)
			c.sup.give(p.svc, o)
			leaving = append(leaving, o)
		}
	}
	errs = append(errs, vacate(ctx, leaving))
	for i, p := range c.parts {
		for j := 0; p.later && j < max(len(p.old), p.spec.Replicas); j++ {
			var old *place
			if j < len(p.old) {
				old = p.old[j]
			}
			before, after, err := c.sup.replace(ctx, p.svc, p.spec, j, old, j < p.spec.Replicas)
			replaced[i].add(before, after)
			errs = append(errs, err)
		}
	}
	c.sup.mu.Lock()
	for _, p := range c.parts {
		if p.remove {
			p.svc.known = false // release forgets it
		}
	}
	c.sup.mu.Unlock()
	return replaced, errors.Join(errs...)
}

// Abort ends the prepared instances and leaves everything as it was. After
// Commit or another Abort it does nothing.
func (c *Change) Abort(ctx context.Context) error {
	var err error
	c.once.Do(func() {
		defer c.release()
		var fresh []*place
		for _, p := range c.parts {
			fresh = append(fresh, p.fresh...)
		}
		if err = vacate(ctx, fresh); err != nil {
			err = fmt.Errorf("abort change: %w", err)
		}
	})
	return err
}
