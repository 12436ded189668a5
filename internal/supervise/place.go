package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/keeper"
	"fairlead/internal/supervise/logfile"
	"fairlead/internal/wire"
)

// keptLogs is how many ended instances of a service keep their output.
const keptLogs = 10

// place is where one copy of a service runs: one instance after the other. One
// goroutine owns it and makes all changes of state of its instances.
type place struct {
	sup  *Supervisor
	svc  *service
	spec Spec

	// It begins with an instance that lives already, or with the pause until a
	// time, or with neither.
	inherited *attempt
	due       time.Time

	leaving context.Context // ended by retire
	retire  context.CancelFunc

	adopt    chan struct{} // closed when the place is there to stay
	once     sync.Once
	first    chan error    // cap 1: the first instance became ready (nil), or did not
	admitted chan struct{} // closed when the first instance was admitted
	done     chan struct{} // closed when the place is empty for good

	admitOnce sync.Once

	// Supervisor.mu guards what others see.
	view    Instance
	serving bool        // admitted, and not dismissed yet
	ending  time.Time   // when its process was asked to end; zero: not
	parked  *placeState // while the supervisor is frozen; nil: not parked

	restarts int
	quick    int
	left     bool // another supervisor has it now
}

// StartError says why an instance did not become ready.
type StartError struct {
	Service, Instance string
	Reason            string
	Output            []string // last lines that it wrote
	Quoted            bool     // Reason quotes the line of Output that tells most
}

// Error is the reason, and the last lines of the output below it.
func (e *StartError) Error() string {
	text := "start " + e.Service + ": " + e.Reason
	if len(e.Output) > 1 || len(e.Output) == 1 && !e.Quoted {
		text += "; last output:\n    " + strings.Join(e.Output, "\n    ")
	}
	return text
}

// newPlace starts a place for spec; mu is held. Until it is adopted, it is on
// trial: its instance gets no traffic, and when it ends, the place ends.
func (s *Supervisor) newPlace(svc *service, spec Spec) (*place, error) {
	if s.life.Err() != nil {
		return nil, ErrStopped
	}
	if s.watching == nil {
		return nil, errors.New("the supervisor is not started")
	}
	p := s.makePlace(svc, spec)
	svc.extra = append(svc.extra, p)
	s.places.Go(p.run)
	return p, nil
}

func (s *Supervisor) makePlace(svc *service, spec Spec) *place {
	p := &place{
		sup: s, svc: svc, spec: spec.withDefaults(),
		adopt: make(chan struct{}), first: make(chan error, 1),
		admitted: make(chan struct{}), done: make(chan struct{}),
	}
	p.leaving, p.retire = context.WithCancel(s.now)
	return p
}

// remove forgets a place that is empty.
func (s *Supervisor) remove(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.left {
		return // what it was is still shown
	}
	p.svc.places = without(p.svc.places, p)
	p.svc.extra = without(p.svc.extra, p)
	s.broadcast()
}

func without(places []*place, p *place) []*place {
	return slices.DeleteFunc(slices.Clone(places), func(o *place) bool { return o == p })
}

// keep makes the place stay: its instance gets traffic and successors.
func (p *place) keep() { p.once.Do(func() { close(p.adopt) }) }

func (p *place) onTrial() bool {
	select {
	case <-p.adopt:
		return false
	default:
		return true
	}
}

// tell answers whoever waits for the first instance; later calls do nothing.
func (p *place) tell(err error) {
	select {
	case p.first <- err:
	default:
	}
}

// run is the goroutine of the place.
func (p *place) run() {
	defer close(p.done)
	defer p.sup.remove(p)
	defer p.retire()
	a, next := p.inherited, p.due
	for p.leaving.Err() == nil {
		if !next.IsZero() {
			if !p.rest(next) {
				return
			}
			p.restarts++
		}
		pause, again := p.serve(a)
		if !again {
			return
		}
		a, next = nil, time.Now().Add(pause)
	}
	p.tell(ErrStopped)
}

// rest waits until a successor is due. It returns false when there shall be none.
func (p *place) rest(until time.Time) bool {
	for {
		select {
		case <-time.After(time.Until(until)):
			return true
		case <-p.leaving.Done():
			p.become(Stopped, "")
			p.tell(ErrStopped)
			return false
		case <-p.sup.freezes():
			if !p.park(nil, until) {
				return false
			}
		}
	}
}

// attempt is one instance of a place.
type attempt struct {
	id       string
	granted  bool
	admitted bool
	told     bool // the host knows that it is gone
	port     int
	socket   string
	process  *keeper.Process
	ready    time.Time
}

// serve runs one instance from its start to its end; one that lives already is
// given. It returns the pause before the next, or false when there shall be none.
func (p *place) serve(a *attempt) (pause time.Duration, again bool) {
	begun := a != nil
	if !begun {
		a = &attempt{}
	}
	defer p.release(a)
	if !begun {
		if reason, hopeless := p.start(a); reason != "" {
			p.gone(a)
			return p.failed(a, reason, hopeless, nil, false)
		}
	}
	stopKilling := context.AfterFunc(p.sup.now, func() { a.process.Stop(0) })
	defer stopKilling()
	reason := p.live(a)
	if p.left {
		return 0, false
	}
	if reason == "" {
		p.leave(a, "")
		p.dismiss(a, 0)
		<-a.process.Gone()
		p.become(Stopped, stopReason(a.process.Exit()))
		return 0, false
	}
	quote := false
	select {
	case <-a.process.Ended():
		// More telling than a probe that failed at the same time.
		reason, quote = exitReason(a.process.Exit()), speaks(a.process.Exit())
		p.gone(a)
	default:
		p.leave(a, reason)
		p.dismiss(a, p.spec.Healthcheck.Timeout)
	}
	var output []string
	select {
	case <-a.process.Gone():
		output = a.process.Output()
	case <-time.After(time.Second):
		// A tree that is slow to die; its end is waited for below.
	}
	pause, again = p.failed(a, reason, false, output, quote)
	<-a.process.Gone()
	return pause, again
}

// start brings up the process. It returns why that failed, and whether it is
// pointless to try again soon.
func (p *place) start(a *attempt) (reason string, hopeless bool) {
	s := p.sup
	id, err := s.opts.NextID(p.spec.Service)
	if err == nil && !validID(id) {
		err = fmt.Errorf("id %q is not made of letters, digits, dashes and underscores", id)
	}
	if err != nil {
		p.begin("")
		return fmt.Sprintf("no id for the instance: %v", err), false
	}
	a.id = id
	p.begin(id)
	env, err := s.opts.Host.Grant(p.leaving, p.spec, id)
	if err != nil {
		return fmt.Sprintf("no environment for the instance: %v", err), false
	}
	a.granted = true
	if len(p.spec.Command) == 0 {
		return "the command is empty", true
	}
	path, err := lookUp(p.spec.Command[0], p.spec.Dir, env)
	if err != nil {
		return err.Error(), true
	}
	if a.port, err = s.ports.take(); err != nil {
		return err.Error(), false
	}
	if a.socket, err = s.sockets.path(id); err != nil {
		return err.Error(), true
	}
	env = slices.Concat(env, []string{wire.EnvPort + "=" + strconv.Itoa(a.port), wire.EnvSocket + "=" + a.socket})
	k, err := s.activeKeeper(p.leaving)
	if err != nil {
		return err.Error(), false
	}
	a.process, err = k.Launch(p.leaving, keeper.Command{
		ID: id, Path: path, Args: p.spec.Command, Dir: p.spec.Dir, Env: env, LogDir: s.logDir(p.spec.Service),
	})
	if err != nil {
		// A lost keeper is no fault of the command.
		return fmt.Sprintf("command %q: %v", p.spec.Command[0], err), !errors.Is(err, keeper.ErrLost)
	}
	p.update(func(v *Instance) { v.PID = a.process.Identity.PID })
	return "", false
}

func validID(id string) bool {
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return false
		}
	}
	return id != "" && len(id) <= 128
}

// live returns "" when the place is left, or why the instance is of no use any
// more.
func (p *place) live(a *attempt) string {
	for {
		reason, frozen := p.observe(a)
		if !frozen || !p.park(a, time.Time{}) {
			return reason
		}
	}
}

// observe is live until the supervisor freezes. Nothing of the probes outlives the
// call.
func (p *place) observe(a *attempt) (reason string, frozen bool) {
	watch, stop := context.WithCancel(p.leaving)
	probe := newProbe(p, a)
	var probing sync.WaitGroup
	defer func() {
		stop()
		probing.Wait()
		probe.close()
	}()
	var (
		found = make(chan verdict, 1)
		sick  = make(chan string, 1)
		adopt chan struct{}
	)
	if a.ready.IsZero() {
		probing.Go(func() { found <- probe.awaitReady(watch) })
	} else {
		probe.endpoint = p.snapshot().Endpoint
		probing.Go(func() { sick <- probe.watch(watch) })
		if !a.admitted {
			adopt = p.adopt
		}
	}
	for {
		select {
		case <-p.leaving.Done():
			return "", false
		case <-a.process.Ended():
			return exitReason(a.process.Exit()), false
		case <-p.sup.freezes():
			return "", true
		case v := <-found:
			if watch.Err() != nil {
				return "", false
			}
			if v.reason != "" {
				return v.reason, false
			}
			a.ready = time.Now()
			p.update(func(i *Instance) { i.Endpoint = v.endpoint })
			p.become(Ready, "")
			p.tell(nil)
			adopt = p.adopt
			probing.Go(func() { sick <- probe.watch(watch) })
		case <-adopt:
			adopt = nil
			a.admitted = true
			p.sup.opts.Host.Admit(p.snapshot())
			p.setServing(true)
			p.admitOnce.Do(func() { close(p.admitted) })
		case reason := <-sick:
			if watch.Err() != nil {
				return "", false
			}
			return reason, false
		}
	}
}

// leave begins the end of an instance that lives. One that never was ready has
// nothing to drain, and stays starting until its process has ended.
func (p *place) leave(a *attempt, reason string) {
	p.update(func(*Instance) { p.ending = time.Now() })
	if a.ready.IsZero() {
		p.note("ending")
		return
	}
	p.become(Draining, reason)
}

// dismiss takes an instance out of traffic, for at most drain or, if that is 0, as
// long as the host finds right, and ends its process within the grace. It returns
// when the process has ended.
func (p *place) dismiss(a *attempt, drain time.Duration) {
	if a.admitted {
		ctx, cancel := p.sup.now, context.CancelFunc(nil)
		if drain > 0 {
			ctx, cancel = context.WithTimeout(ctx, drain)
		} else {
			ctx, cancel = context.WithCancel(ctx)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			select {
			case <-a.process.Ended():
				cancel()
			case <-ctx.Done():
			}
		}()
		p.sup.opts.Host.Withdraw(ctx, p.snapshot())
		cancel()
		<-ended
	}
	grace := p.spec.StopGracePeriod
	if p.sup.now.Err() != nil {
		grace = 0
	}
	a.process.Stop(grace)
	<-a.process.Ended()
	p.gone(a)
}

// gone tells the host, once, that the instance is no more.
func (p *place) gone(a *attempt) {
	if !a.granted || a.told {
		return
	}
	a.told = true
	p.update(func(v *Instance) { v.PID = 0 })
	p.sup.opts.Host.Gone(p.snapshot())
}

// failed decides what follows an instance that ended without being asked to.
// With quote, the reason quotes what the program said of it.
func (p *place) failed(a *attempt, reason string, hopeless bool, output []string, quote bool) (pause time.Duration, again bool) {
	line := telling(output)
	if quote = quote && line != ""; quote {
		reason += ": " + quoted(line)
	}
	if p.leaving.Err() != nil {
		p.become(Stopped, reason)
		p.tell(ErrStopped)
		return 0, false
	}
	if p.onTrial() {
		p.become(Failed, reason)
		p.tell(&StartError{Service: p.spec.Service, Instance: a.id, Reason: reason, Output: output, Quoted: quote})
		return 0, false
	}
	d := p.sup.opts.Policy.Decide(History{
		Quick: p.quick, Ready: a.ready, Reason: reason, Hopeless: hopeless,
		Jitter: rand.Float64(),
	}, time.Now())
	p.quick = d.Quick
	p.become(d.State, d.Reason)
	return d.After, true
}

// release gives back what the attempt had reserved; its process is gone.
func (p *place) release(a *attempt) {
	if p.left {
		return
	}
	if a.port != 0 {
		p.sup.ports.release(a.port)
	}
	if a.socket != "" {
		_ = os.Remove(a.socket) // most programs do it themselves
	}
	if a.process != nil {
		p.sup.pruneLogs(p.svc)
	}
}

// begin makes a new instance of the place known.
func (p *place) begin(id string) {
	p.sup.mu.Lock()
	p.view = Instance{
		ID: id, Service: p.spec.Service, Revision: p.spec.Revision, State: Starting, Since: time.Now(), Restarts: p.restarts,
	}
	view := p.view
	p.serving, p.ending = false, time.Time{}
	p.sup.broadcast()
	p.sup.mu.Unlock()
	p.sup.announce(Event{Time: view.Since, Kind: Starting, Instance: view})
}

func (p *place) snapshot() Instance {
	p.sup.mu.Lock()
	defer p.sup.mu.Unlock()
	return p.view
}

func (p *place) update(change func(*Instance)) {
	p.sup.mu.Lock()
	defer p.sup.mu.Unlock()
	change(&p.view)
}

// setServing says that the instance takes traffic.
func (p *place) setServing(serving bool) {
	p.sup.mu.Lock()
	defer p.sup.mu.Unlock()
	p.serving = serving
	p.sup.broadcast()
}

// note shows what the instance waits for.
func (p *place) note(reason string) {
	p.update(func(v *Instance) {
		if v.State == Starting {
			v.Reason = reason
		}
	})
}

// become changes the state of the place's instance.
func (p *place) become(state State, reason string) {
	now := time.Now()
	p.sup.mu.Lock()
	before := p.view
	if !before.State.mayBecome(state) {
		p.sup.mu.Unlock()
		p.sup.opts.Logger.Error("an instance skipped a state", wire.KeyInstance, before.ID,
			"from", string(before.State), "to", string(state))
		return
	}
	p.view.State, p.view.Since, p.view.Reason = state, now, reason
	p.serving = p.serving && state == Ready
	view, ending := p.view, p.ending
	p.sup.broadcast()
	p.sup.mu.Unlock()
	e := Event{Time: now, Kind: state, Instance: view, Text: reason}
	switch {
	case state == Ready:
		e.Took = now.Sub(before.Since)
	case state == Stopped && !ending.IsZero():
		e.Took = now.Sub(ending)
	}
	p.sup.announce(e)
}

// announce tells of a change of state.
func (s *Supervisor) announce(e Event) {
	level := slog.LevelInfo
	if e.Kind == Backoff || e.Kind == Failed {
		level = slog.LevelWarn
	}
	s.opts.Logger.Log(context.Background(), level, "instance changed its state",
		wire.KeyService, e.Instance.Service, wire.KeyInstance, e.Instance.ID, wire.KeyRevision, e.Instance.Revision,
		"state", string(e.Kind), wire.KeyReason, e.Text)
	if e.Instance.ID == "" {
		return // the host never heard of it
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	s.opts.Events(e)
}

// exitReason says how a process ended that nobody had asked to.
func exitReason(e keeper.Exit) string {
	switch {
	case e.Lost != "":
		return "it ended together with the keeper: " + e.Lost
	case e.Memory:
		return "killed by the kernel: out of memory?"
	case e.Signal != 0:
		text := "killed by " + signalName(e.Signal)
		if e.Core {
			text += ", core dumped"
		}
		return text
	default:
		return "exited with code " + strconv.Itoa(e.Code)
	}
}

// speaks reports whether a program that ended so may have said why: it exited
// by itself or crashed. Who was killed from outside knew nothing of it.
func speaks(e keeper.Exit) bool {
	switch unix.Signal(e.Signal) {
	case 0:
		return e.Lost == ""
	case unix.SIGSEGV, unix.SIGABRT, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGTRAP, unix.SIGSYS:
		return true
	default:
		return false
	}
}

// stopReason says how a process ended that was asked to; "" when it obeyed.
func stopReason(e keeper.Exit) string {
	switch {
	case e.Lost != "":
		return exitReason(e)
	case e.Signal == int(unix.SIGKILL):
		return "killed: it had not ended within its grace period"
	case e.Signal == 0 && e.Code != 0:
		return exitReason(e)
	}
	return ""
}

func signalName(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(n)
}

func (s *Supervisor) logDir(service string) string { return filepath.Join(s.opts.Dir, "logs", service) }

// pruneLogs removes the output of instances that ended long ago.
func (s *Supervisor) pruneLogs(svc *service) {
	live := make(map[string]bool)
	s.mu.Lock()
	for _, p := range slices.Concat(svc.places, svc.extra) {
		live[p.view.ID] = true
	}
	s.mu.Unlock()
	if err := logfile.Prune(s.logDir(svc.name), live, keptLogs); err != nil {
		s.opts.Logger.Warn("old logs could not be removed", wire.KeyService, svc.name, wire.KeyError, err)
	}
}
