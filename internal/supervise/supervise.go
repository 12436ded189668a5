// Package supervise runs the instances of services as processes: it starts
// them, knows when they are ready, watches that they stay so, starts successors
// of those that end, and replaces them without a moment in which nobody serves.
//
// It guarantees:
//
//   - an instance is handed to the [Host] for traffic only after it was seen to
//     be ready, and is withdrawn before its process is asked to end;
//   - what [Supervisor.Restart], [Supervisor.Scale] and [Supervisor.Prepare]
//     report as done was verified; when they fail, the instances that served
//     before go on serving;
//   - nothing is left behind: no process, socket or reserved port, also when
//     this process, the keeper, or both are killed (see package keeper);
//   - a supervisor in another process can take over all that runs, without any of
//     it noticing ([Supervisor.Freeze], [Supervisor.Adopt]);
//   - an id of an instance is never used twice, as far as Options.NextID keeps
//     its word; a port is never given out twice at once.
//
// There is no order of starting: services start at once and are tried again
// until what they need is there.
//
// It does not route, meter or authenticate anything, knows nothing of the
// system's file, and does not isolate services of one user from each other.
package supervise

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead/internal/supervise/keeper"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Spec is what shall run for a service.
type Spec struct {
	Service  string
	Revision int      // of the system, for status
	Command  []string // program and arguments; a program without a slash is looked up in the PATH of the granted environment
	Dir      string   // working folder, absolute
	Replicas int      // 0 keeps it stopped

	Healthcheck     system.Healthcheck // its zero durations mean the documented defaults
	UpdateOrder     system.UpdateOrder // "" is start-first
	StopGracePeriod time.Duration      // between SIGTERM and SIGKILL; 0: 10 s

	// OnBus makes an instance ready only when Host.Unregistered finds nothing missing.
	OnBus bool
	// HTTP makes an instance ready only when its PORT or socket accepts
	// connections. A Healthcheck with a probe implies it. Without OnBus and HTTP
	// an instance is ready when its process has lived for 500 ms.
	HTTP bool
}

// endpoint reports whether an instance must listen.
func (s Spec) endpoint() bool { return s.HTTP || s.Healthcheck.HTTP != "" || s.Healthcheck.TCP }

func (s Spec) withDefaults() Spec {
	h := &s.Healthcheck
	setDefault(&h.Interval, 2*time.Second)
	setDefault(&h.Timeout, 2*time.Second)
	setDefault(&h.StartPeriod, 60*time.Second)
	setDefault(&s.StopGracePeriod, 10*time.Second)
	if h.Retries <= 0 {
		h.Retries = 3
	}
	if s.UpdateOrder == "" {
		s.UpdateOrder = system.StartFirst
	}
	return s
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// Instance is one running copy of a service, as it was when asked.
type Instance struct {
	ID       string
	Service  string
	Revision int
	State    State
	Since    time.Time // of the state
	PID      int       // 0 when no process runs
	Restarts int       // of its place: how many before it ended by themselves
	Reason   string    // of the state, for a person; "" when there is nothing to say
	Endpoint Endpoint  // set from Ready on
}

// Host is what the supervisor needs from around it. Its methods are called
// without locks held, for different instances at the same time.
type Host interface {
	// Grant returns the whole environment of an instance but PORT,
	// FAIRLEAD_SOCKET and the marks of its processes, which supervise adds. An
	// error counts as an end of the instance; it is tried again.
	Grant(ctx context.Context, s Spec, id string) (env []string, err error)
	// Unregistered says what the instance lacks on the bus, as the end of a
	// sentence about it ("has not connected to the bus"); "" when it is there with
	// all its subscriptions. It is asked again and again until then.
	Unregistered(id string) (reason string)
	// Admit gives a ready instance traffic, and returns when it may get some. It
	// may be called more than once for an instance.
	Admit(i Instance)
	// Withdraw takes an instance out of traffic and returns when no request is
	// open on it, when it has waited for as long as it finds right, or when ctx
	// ends, which it does with the instance's process.
	Withdraw(ctx context.Context, i Instance)
	// Gone is called once for every instance that was granted an environment, as
	// soon as its process has ended, expected or not, or could not be started.
	Gone(i Instance)
}

// EventKind says what an [Event] is about: the state that an instance came to.
type EventKind = State

// Event tells that an instance came to a state.
type Event struct {
	Time     time.Time
	Kind     EventKind
	Instance Instance
	Text     string        // for a person, the reason
	Took     time.Duration // Ready: since starting; Stopped: since it was asked to end
}

// Options are for [New].
type Options struct {
	Dir    string // the data folder, absolute
	Logger *slog.Logger
	Host   Host
	// NextID returns an id for an instance of a service that was never used
	// before, made of letters, digits, dashes and underscores.
	NextID func(service string) (string, error)
	// Events is told every change of state, in order for each instance; it must
	// not block. nil: nobody is told.
	Events           func(Event)
	PortMin, PortMax int      // ports that instances get, default 20000 to 29999
	LogLimit         int64    // bytes of one log segment, default 10 MiB
	LogFiles         int      // segments kept of each instance, default 5
	Lock             *os.File // of the data folder; the keeper holds it too, until it has ended all
	Policy           RestartPolicy
}

func (o Options) withDefaults() Options {
	if o.PortMin == 0 && o.PortMax == 0 {
		o.PortMin, o.PortMax = 20000, 29999 // below the ports that Linux gives to clients
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Policy = o.Policy.withDefaults()
	return o
}

func (o Options) validate() error {
	var errs []error
	if !filepath.IsAbs(o.Dir) {
		errs = append(errs, fmt.Errorf("the data folder %q is not absolute", o.Dir))
	}
	if o.Host == nil || o.NextID == nil {
		errs = append(errs, errors.New("host and ids are needed"))
	}
	if o.PortMin < 1 || o.PortMax > 65535 || o.PortMin > o.PortMax {
		errs = append(errs, fmt.Errorf("ports %d to %d are no range", o.PortMin, o.PortMax))
	}
	return errors.Join(errs...)
}

// ErrStopped is the error of operations that were interrupted by Stop or Kill,
// or came after it.
var ErrStopped = errors.New("the supervisor is stopped")

// UnknownError says that there is no such service.
type UnknownError struct{ Service string }

func (e *UnknownError) Error() string { return fmt.Sprintf("there is no service %q", e.Service) }

// Supervisor runs the instances of services. It is safe for concurrent use;
// operations that change one service run one after the other, a second one
// waits.
type Supervisor struct {
	opts    Options
	ports   *ports
	sockets *sockets

	life     context.Context // ends with Stop and Kill: operations are interrupted, nothing new starts
	end      context.CancelCauseFunc
	now      context.Context // ends with Kill, and when Stop runs out of time: nobody is waited for
	endNow   context.CancelFunc
	places   sync.WaitGroup // running places
	watching chan struct{}  // closed when the keeper is no longer watched; nil before Start

	telling sync.Mutex // one event at a time

	mu       sync.Mutex // guards all below
	dataID   string
	started  bool
	services map[string]*service
	keeper   *keeper.Client
	changed  chan struct{} // closed and replaced with every change of state or keeper
	freezing *freezing     // what the next or present Freeze is told by
	stopOnce sync.Once
	stopErr  error
}

// service is the places that instances of one service have.
type service struct {
	name string
	busy chan struct{} // cap 1: an operation on the service holds it
	spec Spec
	// known is false while only a change prepares it.
	known  bool
	places []*place // wanted, oldest first
	extra  []*place // coming or going
}

// New returns a supervisor that runs nothing yet. It panics when options that
// have no default are missing.
func New(opts Options) *Supervisor {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		panic("supervise: " + err.Error())
	}
	s := &Supervisor{
		opts:     opts,
		ports:    newPorts(opts.PortMin, opts.PortMax),
		sockets:  &sockets{dir: filepath.Join(opts.Dir, "run")},
		services: make(map[string]*service),
		changed:  make(chan struct{}),
		freezing: newFreezing(),
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.now, s.endNow = context.WithCancel(context.Background())
	return s
}

// Start ends what an earlier run of the data folder left behind and starts the
// keeper. It makes the process the subreaper of its descendants.
func (s *Supervisor) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started {
		s.mu.Unlock()
		return errors.New("start supervisor: it is started")
	}
	s.started = true
	s.mu.Unlock()
	dataID, err := dataID(s.opts.Dir)
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	s.mu.Lock()
	s.dataID = dataID
	s.mu.Unlock()
	left, err := keeper.Clean(ctx, s.opts.Dir, dataID)
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	if len(left) > 0 {
		s.opts.Logger.WarnContext(ctx, "ended processes that an earlier run had left", slog.Any("pids", left.PIDs()))
	}
	if err := s.sockets.open(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	k, err := s.startKeeper(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("start supervisor: %w", err), s.sockets.close())
	}
	s.mu.Lock()
	s.keeper = k
	s.watching = make(chan struct{})
	s.mu.Unlock()
	go s.watch(k)
	return nil
}

// dataID returns the random id of a data folder, and makes it the first time.
func dataID(dir string) (string, error) {
	path := filepath.Join(dir, "data-id")
	b, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(b)); err == nil && len(id) >= 16 {
		return id, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read id of the data folder: %w", err)
	}
	id := make([]byte, 12)
	if _, err := rand.Read(id); err != nil {
		return "", fmt.Errorf("make id of the data folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make data folder: %w", err)
	}
	text := hex.EncodeToString(id)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write id of the data folder: %w", err)
	}
	return text, nil
}

func (s *Supervisor) startKeeper(ctx context.Context) (*keeper.Client, error) {
	return keeper.Start(ctx, s.keeperOptions())
}

func (s *Supervisor) keeperOptions() keeper.Options {
	return keeper.Options{
		Dir: s.opts.Dir, DataID: s.dataID, LogLimit: s.opts.LogLimit, LogFiles: s.opts.LogFiles,
		Lock: s.opts.Lock, Logger: s.opts.Logger,
	}
}

// watch starts a new keeper whenever one ends that should not.
func (s *Supervisor) watch(k *keeper.Client) {
	defer close(s.watching)
	for {
		select {
		case <-k.Done():
		case <-s.life.Done():
			return
		}
		s.mu.Lock()
		s.keeper = nil
		s.mu.Unlock()
		if s.life.Err() != nil {
			return
		}
		s.opts.Logger.ErrorContext(s.life, "the keeper ended, starting another one", wire.KeyReason, k.Reason())
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
			next, err := s.startKeeper(s.life)
			if err == nil {
				k = next
				break
			}
			s.opts.Logger.ErrorContext(s.life, "the keeper could not be started", wire.KeyError, err)
			select {
			case <-time.After(pause):
			case <-s.life.Done():
				return
			}
		}
		s.mu.Lock()
		s.keeper = k
		s.broadcast()
		s.mu.Unlock()
	}
}

// broadcast wakes everyone who waits for a change; mu is held.
func (s *Supervisor) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// activeKeeper waits for a running keeper.
func (s *Supervisor) activeKeeper(ctx context.Context) (*keeper.Client, error) {
	for {
		s.mu.Lock()
		k, changed := s.keeper, s.changed
		s.mu.Unlock()
		if k != nil {
			return k, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// KeeperPID is the process id of the keeper, 0 when none runs.
func (s *Supervisor) KeeperPID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil {
		return 0
	}
	return s.keeper.PID()
}

// Instances returns all instances, those that come and go too, sorted by
// service and then by age.
func (s *Supervisor) Instances() []Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Instance
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		svc := s.services[name]
		for _, p := range slices.Concat(svc.places, svc.extra) {
			if p.view.ID != "" {
				all = append(all, p.view)
			}
		}
	}
	return all
}

// Stop ends all instances, each drained and then asked to end within its
// grace, all services at once, and the keeper. When ctx ends first, what is
// left is killed, and the error says so. Later calls return the first result.
// Start must not be called again.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { s.stopErr = s.stop(ctx) })
	return s.stopErr
}

// killLimit is what the keeper gets to kill everything at once, before it is
// killed itself.
const killLimit = 3 * time.Second

// leaveLimit is what the keeper gets to end itself once nothing runs any more; a
// machine that is busy may keep it waiting.
const leaveLimit = 10 * time.Second

func (s *Supervisor) stop(ctx context.Context) error {
	s.mu.Lock()
	s.end(ErrStopped) // with mu held: no place starts after this
	all := s.allPlaces()
	s.mu.Unlock()
	for _, p := range all {
		p.retire()
	}
	ended := make(chan struct{})
	go func() {
		s.places.Wait()
		close(ended)
	}()
	var errs []error
	select {
	case <-ended:
	case <-s.now.Done():
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("stop instances: killed those that were left: %w", context.Cause(ctx)))
		s.endNow()
	}
	s.mu.Lock()
	watching := s.watching
	s.mu.Unlock()
	if watching != nil {
		<-watching
	}
	s.mu.Lock()
	k := s.keeper
	s.mu.Unlock()
	if k != nil {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveLimit)
		defer cancel()
		if err := k.Shutdown(limit, 0); err != nil {
			errs = append(errs, fmt.Errorf("stop keeper: %w", err))
		}
	}
	<-ended
	s.mu.Lock()
	s.keeper = nil
	clear(s.services)
	s.mu.Unlock()
	errs = append(errs, s.sockets.close())
	s.endNow()
	return errors.Join(errs...)
}

// Kill ends everything at once, without draining or grace. It returns when
// nothing is left, which takes milliseconds, and interrupts a Stop that waits.
func (s *Supervisor) Kill() {
	s.endNow()
	// What could not be ended was logged, and there is nobody to act on it.
	_ = s.Stop(context.Background())
}

// allPlaces returns every place; mu is held.
func (s *Supervisor) allPlaces() []*place {
	var all []*place
	for _, svc := range s.services {
		all = append(all, svc.places...)
		all = append(all, svc.extra...)
	}
	return all
}

// KeeperMain is the keeper's main, called by the program's main with the
// arguments that follow the word keeper; it returns the exit status.
func KeeperMain(args []string) int { return keeper.Main(args) }
