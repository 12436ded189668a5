package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// Main runs a service until it gets SIGTERM or SIGINT, and exits: with 0 after it
// has finished what it had, with 1 after an error, which is logged. A second signal
// ends it at once. setup says what the service does and returns; see [Run].
func Main(setup func(*Service) error) {
	os.Exit(mainCode(setup))
}

func mainCode(setup func(*Service) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // the next signal has its usual effect
	if err := Run(ctx, setup); err != nil {
		c, _ := readConfig(os.LookupEnv) // Run has reported what is wrong with it
		newLogger(os.Stderr, c).Error("service failed", wire.KeyError, err)
		return 1
	}
	return 0
}

// Run is [Main] without signals and exit: it runs a service until ctx ends and then
// stops it. Logs go to standard error, the environment is the process's.
//
// setup registers handlers with [Answer], [Subscribe] and [Service.HTTP], and opens
// what they need. Nothing is served before it has returned nil. Calls on the Service
// that fail in it are remembered and returned by Run, so that setup need not check
// each of them.
//
// The error is nil after a stop in which all requests were finished within the grace
// period. Otherwise it says what went wrong: the environment, setup, a subject that
// the bus denies, an address in use, requests that did not end.
func Run(ctx context.Context, setup func(*Service) error) error {
	return run(ctx, surroundings{lookup: os.LookupEnv, environ: os.Environ, log: os.Stderr}, setup)
}

// surroundings are what a service takes from its process.
type surroundings struct {
	lookup  func(string) (string, bool)
	environ func() []string
	log     io.Writer
}

// Service is one instance of a service. It is made by [Main] and [Run]. After setup
// its methods are safe for concurrent use, except those that say they belong there.
type Service struct {
	surroundings
	config   config
	logger   *slog.Logger
	verifier *wire.Verifier // nil: no identity can be verified
	now      func() time.Time

	ctx    context.Context // ends when the service begins to stop
	cancel context.CancelFunc
	work   context.Context // of the handlers; ends when the grace period is over
	broken chan error      // takes the first error that ends the service

	mux       *http.ServeMux
	handlers  int
	ownHealth bool
	server    *http.Server
	openHTTP  inflight

	conn         *nats.Conn    // nil without a bus
	made         chan struct{} // closed when conn is set
	connected    chan struct{} // closed at the first connection
	closed       chan struct{} // closed when conn is closed
	lastBusError atomic.Value  // string
	denials      denials
	toldForeign  atomic.Int64 // Unix nanoseconds, when a reply subject was last warned of
	endpoints    []*endpoint
	listeners    []*listener
	receivers    []*receiver
	queues       queues
	holding      holding

	mu     sync.Mutex // guards faults and ends
	faults []error
	ends   []func() error
}

// Name returns the service's name in the file.
func (s *Service) Name() string { return s.config.service }

// Instance returns the id of this instance.
func (s *Service) Instance() string { return s.config.instance }

// Logger returns the logger of the service. It writes JSON lines to standard error
// that hold the service and the instance, and those logged with the context of a
// request its id and trace too. The variable LOG_LEVEL says from which level on.
func (s *Service) Logger() *slog.Logger { return s.logger }

// Context returns a context that ends when the service begins to stop: for work in
// the background. Contexts of requests go on until the end of the grace period.
func (s *Service) Context() context.Context { return s.ctx }

// Secret returns the value of a secret that the file grants the service, which is a
// variable of its environment. If there is none, it returns "" and setup fails.
func (s *Service) Secret(name string) string {
	v, ok := s.lookup(name)
	if !ok || v == "" {
		s.fault(fmt.Errorf("read secret %s: it is not set: name it in the service's secrets", name))
		return ""
	}
	return v
}

// fault remembers an error of setup.
func (s *Service) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, err)
}

// atEnd registers what to close, last in first out.
func (s *Service) atEnd(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, f)
}

// breakdown ends the service with an error.
func (s *Service) breakdown(err error) {
	select {
	case s.broken <- err:
	default: // one is enough
	}
}

func run(ctx context.Context, around surroundings, setup func(*Service) error) (err error) {
	c, err := readConfig(around.lookup)
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	s := &Service{
		surroundings: around,
		config:       c,
		logger:       newLogger(around.log, c),
		now:          time.Now,
		broken:       make(chan error, 1),
		mux:          http.NewServeMux(),
		made:         make(chan struct{}),
		connected:    make(chan struct{}),
		closed:       make(chan struct{}),
	}
	s.lastBusError.Store("")
	if c.identityKey != nil {
		s.verifier = wire.NewVerifier(c.identityKey, c.system, c.service)
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	defer s.cancel()
	var giveUp context.CancelCauseFunc
	s.work, giveUp = context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(errStopping)
	defer func() {
		for _, end := range slices.Backward(s.ends) {
			err = errors.Join(err, end())
		}
	}()

	if c.busURL != "" {
		if err := s.connect(); err != nil { //nolint:contextcheck // a hold ends with the connection, or by itself
			return err
		}
		s.atEnd(func() error { s.closeBus(); return nil })
	}
	if err := errors.Join(append([]error{setup(s)}, s.faults...)...); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if err := s.listen(); err != nil {
		return err
	}
	err = s.register(ctx)
	if err == nil && ctx.Err() == nil {
		s.logger.InfoContext(ctx, "service runs", "answers", len(s.endpoints), "subscribes", len(s.listeners)+len(s.receivers), "routes", s.handlers)
		select {
		case <-ctx.Done():
		case err = <-s.broken:
		}
	}
	return errors.Join(err, s.drain(giveUp)) //nolint:contextcheck // ctx has ended, requests go on
}

// drain stops taking requests and finishes those that were taken. Near the end of
// the grace period the handlers' contexts end, a little later it gives up.
func (s *Service) drain(giveUp context.CancelCauseFunc) error {
	start := time.Now()
	s.logger.Info("service stops")
	s.cancel()
	margin := s.config.margin()
	soft := time.AfterFunc(s.config.grace-margin, func() { giveUp(errStopping) })
	defer soft.Stop()
	hard, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), s.config.grace-margin/2)
	defer cancel()

	var wg sync.WaitGroup
	var errHTTP, errBus error
	wg.Go(func() { errHTTP = s.drainHTTP(hard) })
	wg.Go(func() { errBus = s.drainBus(hard) })
	wg.Wait()
	if err := errors.Join(errHTTP, errBus); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	s.logger.Info("service stopped", "took", time.Since(start).Round(time.Millisecond).String())
	return nil
}

// report logs the private half of a failed request.
func (s *Service) report(ctx context.Context, o outcome, err error, key, value string) {
	if p, ok := errors.AsType[*panicError](err); ok {
		s.logger.ErrorContext(ctx, "handler panicked", key, value, wire.KeyError, err, "stack", string(p.stack))
		return
	}
	if o.status == http.StatusUnauthorized && isIdentityError(err) {
		o.level = slog.LevelWarn
	}
	s.logger.Log(ctx, o.level, "request failed", key, value, wire.KeyStatus, o.status, wire.KeyError, err)
}

// reportMessage logs why a message of a queue was not handled.
func (s *Service) reportMessage(ctx context.Context, d *Delivery, err error) {
	about := s.logger.With(wire.KeySubject, d.Subject, "stream", d.Stream, "sequence", d.Sequence, "consumer", d.Consumer, "attempt", d.Attempt)
	if p, ok := errors.AsType[*panicError](err); ok {
		about.ErrorContext(ctx, "handler panicked", wire.KeyError, err, "stack", string(p.stack))
		return
	}
	about.Log(ctx, judge(ctx, err).level, "message is not handled", wire.KeyError, err)
}

// isIdentityError reports whether a request was refused for its identity token,
// which nobody sends by accident.
func isIdentityError(err error) bool {
	for _, e := range []error{
		wire.ErrIdentityMalformed, wire.ErrIdentityHeader, wire.ErrIdentitySignature, wire.ErrIdentityIssuer,
		wire.ErrIdentityAudience, wire.ErrIdentityExpired, wire.ErrIdentityFuture, errManyIdentities, errNoIdentityKey,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// publicLine is the public half of an error as one line.
func publicLine(status int, text string) string {
	return fmt.Sprintf("%d: %s", status, text)
}
