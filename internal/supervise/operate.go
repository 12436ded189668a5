package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fairlead/internal/system"
)

// Replaced says which instances took the place of which.
type Replaced struct {
	Service  string
	Old, New []string // ids
}

// operation returns a context that also ends when the supervisor stops.
func (s *Supervisor) operation(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// hold waits until no other operation is at work on the services and keeps
// others out until release is called. Services that do not exist are made.
func (s *Supervisor) hold(ctx context.Context, names []string) (held map[string]*service, release func(), err error) {
	names = slices.Compact(slices.Sorted(slices.Values(names))) // in one order, so that two operations never wait for each other
	held = make(map[string]*service, len(names))
	release = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for name, svc := range held {
			if !svc.known {
				delete(s.services, name)
			}
			<-svc.busy
		}
	}
	for _, name := range names {
		svc, err := s.holdOne(ctx, name)
		if err != nil {
			release()
			return nil, nil, err
		}
		held[name] = svc
	}
	return held, release, nil
}

func (s *Supervisor) holdOne(ctx context.Context, name string) (*service, error) {
	for {
		s.mu.Lock()
		if s.life.Err() != nil {
			s.mu.Unlock()
			return nil, ErrStopped
		}
		svc := s.services[name]
		if svc == nil {
			svc = &service{name: name, busy: make(chan struct{}, 1)}
			s.services[name] = svc
		}
		s.mu.Unlock()
		select {
		case svc.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another operation on %s: %w", name, context.Cause(ctx))
		}
		s.mu.Lock()
		same := s.services[name] == svc
		s.mu.Unlock()
		if same {
			return svc, nil
		}
		<-svc.busy // it was removed meanwhile
	}
}

// holdKnown is hold for one service that must exist.
func (s *Supervisor) holdKnown(ctx context.Context, name string) (*service, func(), error) {
	held, release, err := s.hold(ctx, []string{name})
	if err != nil {
		return nil, nil, err
	}
	if svc := held[name]; svc.known {
		return svc, release, nil
	}
	release()
	return nil, nil, &UnknownError{Service: name}
}

// Launch starts all instances of new services at once and does not wait for
// them. What fails is tried again; [Supervisor.Await] and the events tell.
func (s *Supervisor) Launch(ctx context.Context, specs []Spec) error {
	held, release, err := s.hold(ctx, serviceNames(specs))
	if err != nil {
		return fmt.Errorf("launch: %w", err)
	}
	defer release()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, spec := range specs {
		if held[spec.Service].known {
			return fmt.Errorf("launch: service %s exists", spec.Service)
		}
	}
	for _, spec := range specs {
		svc := held[spec.Service]
		svc.known, svc.spec = true, spec
		for range spec.Replicas {
			if err := s.addKept(svc, len(svc.places), spec); err != nil {
				return fmt.Errorf("launch: %w", err)
			}
		}
	}
	s.broadcast()
	return nil
}

func serviceNames(specs []Spec) []string {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Service
	}
	return names
}

// addKept starts a place that stays whatever its instances do; mu is held.
func (s *Supervisor) addKept(svc *service, at int, spec Spec) error {
	p, err := s.newPlace(svc, spec)
	if err != nil {
		return err
	}
	p.keep()
	svc.extra = without(svc.extra, p)
	svc.places = slices.Insert(slices.Clone(svc.places), min(at, len(svc.places)), p)
	return nil
}

// try starts n places on trial and returns when the instance of each is ready,
// or, with an error, when all of them are gone again.
func (s *Supervisor) try(ctx context.Context, svc *service, spec Spec, n int) ([]*place, error) {
	var places []*place
	s.mu.Lock()
	for range n {
		p, err := s.newPlace(svc, spec)
		if err != nil {
			s.mu.Unlock()
			return nil, errors.Join(err, vacate(context.WithoutCancel(ctx), places))
		}
		places = append(places, p)
	}
	s.mu.Unlock()
	results := make(chan error, n)
	for _, p := range places {
		go func() {
			select {
			case err := <-p.first:
				results <- err
			case <-ctx.Done():
				results <- interrupted(ctx, p)
			}
		}()
	}
	for range places {
		if err := <-results; err != nil {
			// Also when ctx has ended: what was started must not stay behind. It is
			// bounded by the grace period.
			_ = vacate(context.WithoutCancel(ctx), places)
			return nil, err
		}
	}
	return places, nil
}

// interrupted says how far an instance had come when the operation ended.
func interrupted(ctx context.Context, p *place) error {
	v := p.snapshot()
	reason := "interrupted"
	if v.Reason != "" {
		reason += ", " + v.Reason
	}
	return fmt.Errorf("start %s: %s: %w", p.spec.Service, reason, context.Cause(ctx))
}

// vacate retires places and waits until they are empty, or ctx ends; they become
// empty then as well, only later.
func vacate(ctx context.Context, places []*place) error {
	for _, p := range places {
		p.retire()
	}
	for _, p := range places {
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: still ending: %w", p.spec.Service, context.Cause(ctx))
		}
	}
	return nil
}

// settle makes places that were on trial stay, and returns when their instances
// take traffic. One that ended meanwhile is started anew, for good.
func (s *Supervisor) settle(ctx context.Context, svc *service, places []*place) error {
	for _, p := range places {
		p.keep()
	}
	for _, p := range places {
		select {
		case <-p.admitted:
			continue
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w", svc.name, context.Cause(ctx))
		}
		s.mu.Lock()
		err := s.addKept(svc, len(svc.places), p.spec)
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("start %s: %w", svc.name, err)
		}
	}
	return nil
}

// take puts p, which was on trial, among the wanted ones.
func (s *Supervisor) take(svc *service, at int, p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-p.done: // settle starts another one
		return
	default:
	}
	svc.extra = without(svc.extra, p)
	svc.places = slices.Insert(slices.Clone(svc.places), min(at, len(svc.places)), p)
	s.broadcast()
}

// give takes p from among the wanted ones.
func (s *Supervisor) give(svc *service, p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(svc.places, p) {
		svc.places = without(svc.places, p)
		svc.extra = append(svc.extra, p)
	}
	s.broadcast()
}

// replace puts an instance of spec in the place of old, which may be nil, as
// the ith of the service; without fresh, old is only taken away. It returns the
// ids of both. On an error old goes on where that is possible; where it had to
// end first, another instance is tried until it is ready.
func (s *Supervisor) replace(ctx context.Context, svc *service, spec Spec, i int, old *place, fresh bool) (before, after string, err error) {
	if old != nil {
		before = old.snapshot().ID
	}
	stopFirst := spec.withDefaults().UpdateOrder == system.StopFirst
	var places []*place
	if fresh && !stopFirst {
		if places, err = s.try(ctx, svc, spec, 1); err != nil {
			return "", "", err
		}
	}
	if old != nil && (stopFirst || !fresh) {
		s.give(svc, old)
		if err := vacate(ctx, []*place{old}); err != nil {
			return before, "", errors.Join(err, s.persist(svc, i, spec, fresh))
		}
	}
	if fresh && stopFirst {
		if places, err = s.try(ctx, svc, spec, 1); err != nil {
			return before, "", errors.Join(err, s.persist(svc, i, spec, true))
		}
	}
	if !fresh {
		return before, "", nil
	}
	s.take(svc, i, places[0])
	after = places[0].snapshot().ID
	if err := s.settle(ctx, svc, places); err != nil {
		return before, after, err
	}
	if old != nil && !stopFirst {
		s.give(svc, old)
		return before, after, vacate(ctx, []*place{old})
	}
	return before, after, nil
}

// persist starts a place that stays, for a service whose old instance had to go.
func (s *Supervisor) persist(svc *service, at int, spec Spec, wanted bool) error {
	if !wanted {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.addKept(svc, at, spec)
	if errors.Is(err, ErrStopped) {
		return nil // nothing shall run any more
	}
	return err
}

// Restart replaces the instances of a service one by one. With the order
// start-first, each new instance takes traffic before the old one is withdrawn;
// when one does not become ready, it is removed, and the old instances that are
// left go on. With stop-first the old one ends first; when the new one does not
// become ready it is tried again and again. The error says why, with the last
// lines of output; Replaced says how far it came. It waits for another
// operation on the service. When ctx ends, old instances that drain go on
// draining without being waited for.
func (s *Supervisor) Restart(ctx context.Context, service string) (Replaced, error) {
	r := Replaced{Service: service}
	ctx, cancel := s.operation(ctx)
	defer cancel()
	svc, release, err := s.holdKnown(ctx, service)
	if err != nil {
		return r, fmt.Errorf("restart %s: %w", service, err)
	}
	defer release()
	s.mu.Lock()
	olds, spec := slices.Clone(svc.places), svc.spec
	s.mu.Unlock()
	if len(olds) == 0 {
		return r, fmt.Errorf("restart %s: it is stopped; start it instead", service)
	}
	for i, old := range olds {
		before, after, err := s.replace(ctx, svc, spec, i, old, true)
		r.add(before, after)
		if err != nil {
			return r, fmt.Errorf("restart %s: %d of %d instances were replaced: %w", service, len(r.New), len(olds), err)
		}
	}
	return r, nil
}

func (r *Replaced) add(before, after string) {
	if before != "" {
		r.Old = append(r.Old, before)
	}
	if after != "" {
		r.New = append(r.New, after)
	}
}

// Scale brings a service to n instances; 0 stops it. It returns when the new
// ones take traffic, or when the surplus ones, the youngest, have ended. When
// new ones do not become ready they are removed, and the service stays as it
// was.
func (s *Supervisor) Scale(ctx context.Context, service string, n int) error {
	if n < 0 {
		return fmt.Errorf("scale %s: %d is no number of instances", service, n)
	}
	ctx, cancel := s.operation(ctx)
	defer cancel()
	svc, release, err := s.holdKnown(ctx, service)
	if err != nil {
		return fmt.Errorf("scale %s: %w", service, err)
	}
	defer release()
	s.mu.Lock()
	spec := svc.spec
	spec.Replicas = n
	count := len(svc.places)
	var surplus []*place
	if n < count {
		surplus = slices.Clone(svc.places[n:])
		svc.spec = spec
	}
	s.mu.Unlock()
	for _, p := range surplus {
		s.give(svc, p)
	}
	if len(surplus) > 0 {
		if err := vacate(ctx, surplus); err != nil {
			return fmt.Errorf("scale %s: %w", service, err)
		}
		return nil
	}
	places, err := s.try(ctx, svc, spec, n-count)
	if err != nil {
		return fmt.Errorf("scale %s from %d to %d: %w", service, count, n, err)
	}
	for _, p := range places {
		s.take(svc, len(svc.places), p)
	}
	s.mu.Lock()
	svc.spec = spec
	s.mu.Unlock()
	if err := s.settle(ctx, svc, places); err != nil {
		return fmt.Errorf("scale %s from %d to %d: %w", service, count, n, err)
	}
	return nil
}

// Await returns when all wanted instances of the services take traffic; none
// named means all services. It returns an error that says what is missing, and
// why, when ctx ends, and also as soon as an instance is failed, since that
// rarely goes away by waiting.
func (s *Supervisor) Await(ctx context.Context, services ...string) error {
	for {
		s.mu.Lock()
		missing, failed, err := s.missing(services)
		changed := s.changed
		s.mu.Unlock()
		switch {
		case err != nil:
			return fmt.Errorf("wait for services: %w", err)
		case len(missing) == 0:
			return nil
		case failed:
			return fmt.Errorf("wait for services: %s", strings.Join(missing, "; "))
		}
		select {
		case <-changed:
		case <-s.life.Done():
			return fmt.Errorf("wait for services: %w", ErrStopped)
		case <-ctx.Done():
			// As it is now, with what the probes saw last.
			s.mu.Lock()
			if now, _, err := s.missing(services); err == nil && len(now) > 0 {
				missing = now
			}
			s.mu.Unlock()
			return fmt.Errorf("wait for services: %s: %w", strings.Join(missing, "; "), context.Cause(ctx))
		}
	}
}

// missing says what keeps services from being complete; mu is held.
func (s *Supervisor) missing(services []string) (missing []string, failed bool, err error) {
	if len(services) == 0 {
		services = slices.Sorted(maps.Keys(s.services))
	}
	for _, name := range services {
		svc := s.services[name]
		if svc == nil || !svc.known {
			if svc != nil && len(services) != 1 {
				continue // a change is only preparing it
			}
			return nil, false, &UnknownError{Service: name}
		}
		for _, p := range svc.places {
			if p.serving {
				continue
			}
			failed = failed || p.view.State == Failed
			text := fmt.Sprintf("%s is %s", p.view.ID, p.view.State)
			if p.view.ID == "" {
				text = "an instance of " + name + " is starting"
			}
			if p.view.State == Starting {
				text += fmt.Sprintf(" since %v", time.Since(p.view.Since).Round(time.Millisecond))
			}
			if p.view.Reason != "" {
				text += ": " + p.view.Reason
			}
			missing = append(missing, text)
		}
	}
	return missing, failed, nil
}
