// Package external follows the instances of services that something else runs:
// where their names lead, and whether they are well.
//
// Guarantees:
//   - Names are looked up every ten seconds, and soon after a failure. While that
//     fails, the last answer stands. Every address that a name has is an endpoint of
//     its own, with an id that is the same each time; a service has 64 at most.
//   - Each endpoint is probed as the service's health check says: a path, else a
//     connection. It is there once a probe succeeds, and no more after as many
//     failures in a row as the check says.
//   - A service whose definition changes keeps what is known of its addresses.
//
// It does not send requests, balance them, or judge endpoints by what they answer.
package external

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	resolveEvery = 10 * time.Second
	resolveSoon  = time.Second // the least between two look-ups
	resolveTime  = 5 * time.Second
	maxEndpoints = 64

	defaultInterval = 2 * time.Second
	defaultTimeout  = 2 * time.Second
	defaultRetries  = 3
)

// Resolver looks names up. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are what a watcher is made with.
type Options struct {
	Logger *slog.Logger // nil: logs nothing
	// Changed is called when the endpoints of a service may have changed. It may ask
	// for them, and is not called under any lock.
	Changed  func(service string)
	Resolver Resolver // nil: net.DefaultResolver
}

// Endpoint is an instance that can be reached.
type Endpoint struct {
	Instance string // "<service>@<address>"
	Address  string // ip:port
}

// Status is how a service stands.
type Status struct {
	Endpoints []EndpointStatus // sorted by address
	// Problems are names that could not be looked up and why, sorted.
	Problems []string
}

// EndpointStatus is how one address of a service stands.
type EndpointStatus struct {
	Endpoint
	Name   string // host:port as the file has it
	Ready  bool
	Since  time.Time // of Ready
	Reason string    // why it is not ready, "" if it is
}

// Watcher follows services. Make it with [New]; all methods are safe for concurrent
// use.
type Watcher struct {
	opts  Options
	probe func(ctx context.Context, def *system.Service, t target) error
	tasks sync.WaitGroup

	mu      sync.Mutex // guards the field below
	watches map[string]*watch
}

// New makes a watcher that follows nothing yet.
func New(opts Options) *Watcher {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Resolver == nil {
		opts.Resolver = net.DefaultResolver
	}
	return &Watcher{opts: opts, probe: probe, watches: map[string]*watch{}}
}

// Apply says which services to follow: those of the list that have external
// instances, as they are defined there. It does not block.
func (w *Watcher) Apply(services []system.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stay := map[string]bool{}
	for i := range services {
		def := services[i]
		if len(def.External) == 0 {
			continue
		}
		stay[def.Name] = true
		old := w.watches[def.Name]
		if old != nil && sameWatch(&old.def, &def) {
			continue
		}
		next := newWatch(w, def)
		if old != nil {
			old.stop()
			next.inherit(old)
		}
		w.watches[def.Name] = next
		w.tasks.Go(next.run)
	}
	for name, old := range w.watches {
		if !stay[name] {
			old.stop()
			delete(w.watches, name)
		}
	}
}

// sameWatch reports whether nothing that a watch looks at differs.
func sameWatch(a, b *system.Service) bool {
	return slices.Equal(a.External, b.External) && reflect.DeepEqual(a.Healthcheck, b.Healthcheck) && a.Pool.Protocol == b.Pool.Protocol
}

// Endpoints returns the endpoints of a service that are ready, sorted, and whether
// the service is followed.
func (w *Watcher) Endpoints(service string) ([]Endpoint, bool) {
	s, ok := w.Status(service)
	var ready []Endpoint
	for _, e := range s.Endpoints {
		if e.Ready {
			ready = append(ready, e.Endpoint)
		}
	}
	return ready, ok
}

// Status returns how a service stands, and whether it is followed.
func (w *Watcher) Status(service string) (Status, bool) {
	w.mu.Lock()
	v := w.watches[service]
	w.mu.Unlock()
	if v == nil {
		return Status{}, false
	}
	return v.status(), true
}

// Failed says that an endpoint of a service could not be reached: its names are
// looked up again soon. Services that are not followed are ignored.
func (w *Watcher) Failed(service string) {
	w.mu.Lock()
	v := w.watches[service]
	w.mu.Unlock()
	if v != nil {
		v.hint()
	}
}

// Stop follows nothing any more, and returns when nothing goes on.
func (w *Watcher) Stop() {
	w.Apply(nil)
	w.tasks.Wait()
}

// target is one address of a service.
type target struct {
	name    string // as the file has it
	address string // ip:port
}

// standing is what is known of a target.
type standing struct {
	target
	ready  bool
	since  time.Time
	fails  int // in a row
	reason string
}

// watch follows one service.
type watch struct {
	w     *Watcher
	def   system.Service
	ctx   context.Context //nolint:containedctx // it is the watch's life
	stop  context.CancelFunc
	hints chan struct{}

	mu       sync.Mutex              // guards the fields below
	answers  map[string][]netip.Addr // by host
	problems map[string]string       // by name as the file has it
	targets  []*standing             // sorted by address
	dropped  bool                    // there are more addresses than are taken
}

func newWatch(w *Watcher, def system.Service) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	return &watch{
		w: w, def: def, ctx: ctx, stop: cancel, hints: make(chan struct{}, 1),
		answers: map[string][]netip.Addr{}, problems: map[string]string{},
	}
}

// inherit takes over what an earlier watch of the service knows. What is not in the
// file any more goes with the first look-up.
func (v *watch) inherit(old *watch) {
	old.mu.Lock()
	defer old.mu.Unlock()
	maps.Copy(v.answers, old.answers)
	for _, s := range old.targets {
		kept := *s
		v.targets = append(v.targets, &kept)
	}
}

func (v *watch) hint() {
	select {
	case v.hints <- struct{}{}:
	default:
	}
}

// run looks up and probes until the watch is stopped.
func (v *watch) run() {
	resolved := make(chan struct{})
	v.w.tasks.Go(func() { v.resolve(resolved) })
	interval := cmp.Or(v.def.Healthcheck.Interval, defaultInterval)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-tick.C:
		case <-resolved:
		}
		v.check()
	}
}

// resolve keeps the targets up to date, and tells when they have changed.
func (v *watch) resolve(changed chan<- struct{}) {
	for {
		if v.lookUp() {
			v.w.opts.Changed(v.def.Name)
			select {
			case changed <- struct{}{}:
			case <-v.ctx.Done():
				return
			}
		}
		if !pause(v.ctx, resolveSoon, nil) || !pause(v.ctx, resolveEvery-resolveSoon, v.hints) {
			return
		}
	}
}

// pause waits for a time or, if that comes first, a hint. It reports false when ctx
// ends.
func pause(ctx context.Context, d time.Duration, hints <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-hints:
	case <-ctx.Done():
		return false
	}
	return true
}

// lookUp looks all names up and reports whether the targets have changed.
func (v *watch) lookUp() bool {
	var next []target
	for _, name := range v.def.External {
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			v.problem(name, err)
			continue
		}
		for _, addr := range v.addresses(name, host) {
			next = append(next, target{name, net.JoinHostPort(addr.String(), port)})
		}
	}
	slices.SortStableFunc(next, func(a, b target) int { return strings.Compare(a.address, b.address) })
	next = slices.CompactFunc(next, func(a, b target) bool { return a.address == b.address })
	if v.ctx.Err() != nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(next) > maxEndpoints {
		if !v.dropped {
			v.w.opts.Logger.Warn("service has more addresses than are used", wire.KeyService, v.def.Name, "addresses", len(next), "used", maxEndpoints)
		}
		next = next[:maxEndpoints]
		v.dropped = true
	}
	same := slices.EqualFunc(v.targets, next, func(s *standing, t target) bool { return s.target == t })
	if same {
		return false
	}
	known := map[string]*standing{}
	for _, s := range v.targets {
		known[s.address] = s
	}
	v.targets = make([]*standing, len(next))
	for i, t := range next {
		s := known[t.address]
		if s == nil {
			s = &standing{since: time.Now(), reason: "not probed yet"}
		}
		s.target = t
		v.targets[i] = s
	}
	return true
}

// addresses returns what a host leads to, or led to when it could be looked up last.
func (v *watch) addresses(name, host string) []netip.Addr {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}
	}
	ctx, cancel := context.WithTimeout(v.ctx, resolveTime)
	defer cancel()
	addrs, err := v.w.opts.Resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	if v.ctx.Err() != nil {
		return nil
	}
	v.problem(name, err)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		return v.answers[host]
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	v.answers[host] = addrs
	return addrs
}

// problem notes that a name can or cannot be looked up, and logs what is new.
func (v *watch) problem(name string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	was, had := v.problems[name]
	if err == nil {
		delete(v.problems, name)
		if had {
			v.w.opts.Logger.Info("name is known again", wire.KeyService, v.def.Name, "name", name)
		}
		return
	}
	if v.problems[name] = err.Error(); was != err.Error() {
		v.w.opts.Logger.Warn("name not looked up", wire.KeyService, v.def.Name, "name", name, wire.KeyError, err)
	}
}

// check probes all targets once, at the same time.
func (v *watch) check() {
	v.mu.Lock()
	targets := make([]target, len(v.targets))
	for i, s := range v.targets {
		targets[i] = s.target
	}
	v.mu.Unlock()
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(v.ctx, cmp.Or(v.def.Healthcheck.Timeout, defaultTimeout))
			defer cancel()
			errs[i] = v.w.probe(ctx, &v.def, t)
		})
	}
	all.Wait()
	if v.ctx.Err() != nil {
		return
	}
	changed := false
	for i, t := range targets {
		changed = v.judge(t, errs[i]) || changed
		if errs[i] != nil {
			v.hint()
		}
	}
	if changed {
		v.w.opts.Changed(v.def.Name)
	}
}

// judge notes how a probe ended, and reports whether the target came or went.
func (v *watch) judge(t target, err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := slices.IndexFunc(v.targets, func(s *standing) bool { return s.target == t })
	if at < 0 {
		return false
	}
	s := v.targets[at]
	if err == nil {
		s.fails, s.reason = 0, ""
		if s.ready {
			return false
		}
		s.ready, s.since = true, time.Now()
		v.w.opts.Logger.Info("external instance is ready", wire.KeyService, v.def.Name, wire.KeyInstance, v.id(s))
		return true
	}
	if s.fails++; !s.ready {
		s.reason = err.Error()
		return false
	}
	if s.fails < cmp.Or(v.def.Healthcheck.Retries, defaultRetries) {
		return false
	}
	s.ready, s.since, s.reason = false, time.Now(), err.Error()
	v.w.opts.Logger.Warn("external instance is not ready any more", wire.KeyService, v.def.Name, wire.KeyInstance, v.id(s), wire.KeyError, err)
	return true
}

func (v *watch) id(s *standing) string { return v.def.Name + "@" + s.address }

func (v *watch) status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out Status
	for _, s := range v.targets {
		out.Endpoints = append(out.Endpoints, EndpointStatus{
			Endpoint: Endpoint{v.id(s), s.address}, Name: s.name, Ready: s.ready, Since: s.since, Reason: s.reason,
		})
	}
	for name, why := range v.problems {
		out.Problems = append(out.Problems, name+": "+why)
	}
	slices.Sort(out.Problems)
	return out
}
