package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"fairlead/internal/supervise/keeper"
)

// KeeperProtocol is the version of the conversation with the keeper: a supervisor
// can adopt instances only from one of the same.
const KeeperProtocol = keeper.Protocol

// Frozen is all that a supervisor knows in memory only, for the one in another
// process that takes its place. It is plain data.
type Frozen struct {
	Keeper   keeper.Snapshot
	Fallback string // folder of sockets whose paths would be too long, "" for none
	Services []FrozenService
}

// FrozenService is a service with the places of its instances, oldest first.
type FrozenService struct {
	Spec   Spec
	Places []FrozenPlace
}

// FrozenPlace is where one copy of a service runs, or will run again.
type FrozenPlace struct {
	Spec     Spec // its own: that of a service may have another number of replicas
	Instance Instance
	Restarts int
	Quick    int
	// Process is nil when the last instance has ended; then Next is when its
	// successor starts.
	Process *keeper.ProcessSnapshot
	Next    time.Time
	Port    int
	Socket  string
	Ready   time.Time // when it became ready; zero: not yet
}

// Serving returns the instances that take traffic, by service.
func (f Frozen) Serving() map[string][]Instance {
	by := make(map[string][]Instance)
	for _, svc := range f.Services {
		for _, p := range svc.Places {
			if p.Process != nil && p.Instance.State == Ready {
				by[svc.Spec.Service] = append(by[svc.Spec.Service], p.Instance)
			}
		}
	}
	return by
}

// placeState is what a parked place leaves to be read.
type placeState struct {
	FrozenPlace
	process *keeper.Process
}

// freezing is one time in which nothing is decided.
type freezing struct {
	begun chan struct{} // closed: the places park
	over  chan struct{} // closed: they go on, or, with left, are another's
	left  bool
}

func newFreezing() *freezing {
	return &freezing{begun: make(chan struct{}), over: make(chan struct{})}
}

// freezes returns what is closed when the supervisor freezes.
func (s *Supervisor) freezes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freezing.begun
}

// park waits while the supervisor is frozen. It returns false when the place is
// another supervisor's now.
func (p *place) park(a *attempt, next time.Time) bool {
	state := &placeState{FrozenPlace: FrozenPlace{Spec: p.spec, Restarts: p.restarts, Quick: p.quick, Next: next}}
	if a != nil {
		state.process, state.Port, state.Socket, state.Ready = a.process, a.port, a.socket, a.ready
	}
	s := p.sup
	s.mu.Lock()
	f := s.freezing
	p.parked = state
	s.broadcast()
	s.mu.Unlock()
	<-f.over
	s.mu.Lock()
	defer s.mu.Unlock()
	p.left = f.left
	return !p.left
}

// ErrUnsteady says that a supervisor could not be frozen in time, because
// instances come or go.
var ErrUnsteady = errors.New("instances are just starting or ending")

// Freeze stops deciding: no instance is started, ended, probed or replaced until
// Thaw; what happens to them is learned then. No operation may be under way. It
// returns what another supervisor needs to go on with [Supervisor.Adopt], and the
// connection to the keeper to be given to it, a duplicate that the caller closes.
// It waits for instances that are on their way out; when ctx ends first, it fails
// with [ErrUnsteady], and the supervisor goes on.
//
// Every Freeze ends with Thaw or Leave. Stop and Kill must not be called before.
func (s *Supervisor) Freeze(ctx context.Context) (_ Frozen, link *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("freeze: %w", err)
		}
	}()
	if err := s.steady(ctx, func(p *place) bool { return p.view.State == Draining }); err != nil {
		return Frozen{}, nil, err
	}
	s.mu.Lock()
	k := s.keeper
	if k == nil || s.life.Err() != nil {
		s.mu.Unlock()
		return Frozen{}, nil, errors.New("there is no keeper")
	}
	select {
	case <-s.freezing.begun:
		s.mu.Unlock()
		return Frozen{}, nil, errors.New("it is frozen already")
	default:
	}
	close(s.freezing.begun)
	s.mu.Unlock()
	err = s.steady(ctx, func(p *place) bool { return p.parked == nil })
	var snapshot keeper.Snapshot
	if err == nil {
		snapshot, link, err = k.Pause(ctx)
	}
	if err != nil {
		s.Thaw()
		return Frozen{}, nil, err
	}
	return s.frozen(snapshot), link, nil
}

// steady waits until no place is busy, and none comes or goes.
func (s *Supervisor) steady(ctx context.Context, busy func(*place) bool) error {
	for {
		s.mu.Lock()
		unsteady := ""
		for _, name := range slices.Sorted(maps.Keys(s.services)) {
			svc := s.services[name]
			if len(svc.extra) > 0 || slices.ContainsFunc(svc.places, busy) {
				unsteady = name
			}
		}
		changed := s.changed
		s.mu.Unlock()
		if unsteady == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: of %s: %w", ErrUnsteady, unsteady, context.Cause(ctx))
		}
	}
}

// frozen collects what the parked places left; the keeper is paused.
func (s *Supervisor) frozen(k keeper.Snapshot) Frozen {
	s.sockets.mu.Lock()
	f := Frozen{Keeper: k, Fallback: s.sockets.fallback}
	s.sockets.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		svc := s.services[name]
		frozen := FrozenService{Spec: svc.spec}
		for _, p := range svc.places {
			state := p.parked.FrozenPlace
			state.Instance = p.view
			if p.parked.process != nil {
				process := p.parked.process.Snapshot()
				state.Process = &process
			}
			frozen.Places = append(frozen.Places, state)
		}
		f.Services = append(f.Services, frozen)
	}
	return f
}

// Thaw goes on after Freeze, with what has happened meanwhile.
func (s *Supervisor) Thaw() { s.endFreeze(false) }

// Leave ends a supervisor that was frozen: all that it ran is another's now.
// Nothing of it is touched.
func (s *Supervisor) Leave() {
	s.endFreeze(true)
	s.places.Wait()
	s.mu.Lock()
	watching := s.watching
	s.mu.Unlock()
	<-watching
	s.endNow()
}

func (s *Supervisor) endFreeze(leave bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.freezing
	select {
	case <-f.begun:
	default:
		return // it is not frozen
	}
	s.freezing = newFreezing()
	f.left = leave
	for _, p := range s.allPlaces() {
		p.parked = nil // before another Freeze looks
	}
	if k := s.keeper; k != nil {
		if leave {
			s.stopOnce.Do(func() {}) // there is nothing to stop any more
			s.end(ErrStopped)
			k.Release()
		} else {
			k.Resume()
		}
	}
	close(f.over)
}

// Adopt takes the place of Start and Launch: it takes over what another supervisor
// has frozen, in a process that holds the same data folder. link is the connection
// to the keeper, which Adopt closes. Instances that were ready are admitted again
// at once.
func (s *Supervisor) Adopt(f Frozen, link *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return errors.Join(errors.New("adopt instances: the supervisor is started"), link.Close())
	}
	s.started = true
	var err error
	if s.dataID, err = dataID(s.opts.Dir); err != nil {
		return errors.Join(fmt.Errorf("adopt instances: %w", err), link.Close())
	}
	var processes []keeper.ProcessSnapshot
	for _, svc := range f.Services {
		for _, p := range svc.Places {
			if p.Process != nil {
				processes = append(processes, *p.Process)
			}
		}
	}
	k, adopted, err := keeper.Adopt(s.keeperOptions(), f.Keeper, processes, link)
	if err != nil {
		return fmt.Errorf("adopt instances: %w", err)
	}
	s.keeper, s.watching = k, make(chan struct{})
	s.sockets.fallback = f.Fallback
	go s.watch(k)
	for _, svc := range f.Services {
		taken := &service{name: svc.Spec.Service, busy: make(chan struct{}, 1), spec: svc.Spec, known: true}
		s.services[taken.name] = taken
		for _, was := range svc.Places {
			p := s.makePlace(taken, was.Spec)
			p.view, p.restarts, p.quick = was.Instance, was.Restarts, was.Quick
			p.keep()
			taken.places = append(taken.places, p)
			p.due = was.Next
			if was.Process != nil {
				p.inherited = &attempt{id: was.Instance.ID, granted: true, port: was.Port, socket: was.Socket, ready: was.Ready, process: adopted[0]}
				adopted = adopted[1:]
				s.ports.hold(was.Port)
			}
			s.places.Go(p.run)
		}
	}
	s.broadcast()
	return nil
}
