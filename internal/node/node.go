// Package node is the composition root: it opens, connects, starts and stops the
// rooms of one running system, and applies revisions of its file.
//
// It guarantees that one node at most runs a data folder, that what it started is
// stopped in the opposite order, and that a revision which cannot be applied as a
// whole leaves the one before it serving. It holds no mechanism of its own:
// supervision, routing and the bus live in their rooms; what is here is the
// order in which they are told.
package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/internal/gateway"
	"fairlead/internal/gateway/certs"
	"fairlead/internal/gateway/listen"
	"fairlead/internal/secret"
	"fairlead/internal/supervise"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// ErrDown is returned by [Node.Start] when `down` ended it.
var ErrDown = errors.New("the system was told to stop while it started")

// Options say which system a node runs, and how.
type Options struct {
	Path        string              // the file, or the folder that holds fairlead.yaml
	Environment string              // the environment to merge in, "" for none
	Data        string              // data folder, default .fairlead beside the file
	Listen      string              // address of the door instead of the file's, "" for the file's
	Version     string              // of this program, for the status
	Logger      *slog.Logger        // default: discard
	Watch       bool                // apply the file whenever it, or what the services watch, changes
	Events      func(control.Event) // told of every step, one call at a time; default: nobody
	// Offer is what this process was started to take over ([Offered]); nil: it starts
	// the system. With it, Path, Environment, Data and Listen are the offer's.
	Offer *Offer
}

// Node is one running system. Its methods are safe for concurrent use.
type Node struct {
	opts  Options
	file  string // absolute
	data  string // absolute
	log   *slog.Logger
	first *system.System // as New found it, until Start has applied it

	started  time.Time
	identity ed25519.PrivateKey // signs users' identities
	lock     *dataLock
	secrets  *secret.Store
	bus      *bus.Bus
	operator *nats.Conn
	state    *state
	certs    *certs.Store
	gate     *gateway.Gateway
	gateConn *nats.Conn // the gateway's
	feed     *bus.Feed  // of the gateway's subscribers
	access   *LogFile
	sup      *supervise.Supervisor
	host     *host
	bans     *bans
	users    *users // of the bus
	control  *control.Server

	events   sync.Mutex                        // one event at a time; guards watchers
	watchers map[*func(control.Event)]struct{} // callers of verbs, told what goes on
	launched atomic.Bool                       // set for good when the first start is done
	stopping atomic.Bool                       // set for good when a stop begins
	killed   atomic.Bool
	killable atomic.Pointer[supervise.Supervisor] // sup, once it has started

	former    *former                   // that ran the system before and still finishes requests; nil: none
	successor atomic.Pointer[successor] // that runs the system now; nil: this one does
	returning sync.WaitGroup            // services that come back to the bus after an upgrade

	ops chan struct{} // holds one token: at most one change goes on, the start is the first

	giveUp context.CancelCauseFunc // ends a start that goes on

	mu         sync.Mutex // guards what follows
	endUpgrade func()     // breaks off the upgrade that goes on; nil: none does
	applied    *revision
	overrides  map[string]control.Override
	closed     map[string]control.Maintenance // decided by hand, by route; replaced as a whole
	// runs is the revision that each service's instances are started from: the
	// last one that changed it.
	runs map[string]int
	// restarts counts, by service, the instances that ended by themselves.
	restarts map[string]uint64

	ballast  []byte   // makes the collector run less often
	closers  []closer // in the order of their start
	stopOnce sync.Once
	stopErr  error
	done     chan struct{}
}

// closer ends what was started, named for the error.
type closer struct {
	name string
	end  func(context.Context) error
}

// New reads and checks the file. It starts nothing. It returns
// [system.Findings] if the file is at fault.
func New(opts Options) (*Node, error) {
	if opts.Offer != nil {
		return newFromOffer(opts)
	}
	sys, err := system.Load(opts.Path, system.Options{Environment: opts.Environment})
	if err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	data := opts.Data
	if data == "" {
		data = filepath.Join(sys.Dir, ".fairlead")
	}
	if data, err = filepath.Abs(data); err != nil {
		return nil, fmt.Errorf("find data folder: %w", err)
	}
	n := newNode(opts, sys.File, data)
	n.first = sys
	return n, nil
}

func newNode(opts Options, file, data string) *Node {
	n := &Node{
		opts: opts, file: file, data: data, log: opts.Logger,
		ops: make(chan struct{}, 1), overrides: map[string]control.Override{}, runs: map[string]int{}, watchers: map[*func(control.Event)]struct{}{}, done: make(chan struct{}),
	}
	n.host = newHost(n)
	return n
}

// Start opens the rooms, builds the system and starts it. It returns when every
// service was started and the door listens; [Node.Await] waits until all are
// ready. On an error everything is stopped again. A [RunningError] says that
// another node runs the system.
//
// In a process that was started to take over, it returns when that has been done,
// or [ErrNotTaken].
func (n *Node) Start(ctx context.Context) (err error) {
	n.ballast = newBallast()
	ctx, n.giveUp = context.WithCancelCause(ctx)
	n.ops <- struct{}{}
	defer func() { <-n.ops }()
	if n.opts.Offer != nil {
		return n.takeOver(ctx)
	}
	n.started = time.Now()
	defer func() {
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, ErrDown) {
				err = cause
			}
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, n.Stop(stopping))
		}
	}()
	if err := n.open(ctx); err != nil {
		return err
	}
	if err := n.launch(ctx); err != nil {
		return err
	}
	if err := n.lock.announce(n.gate.URL()); err != nil {
		return err
	}
	if n.opts.Watch {
		if err := n.follow(ctx); err != nil {
			return err
		}
	}
	n.launched.Store(true)
	notify("READY=1")
	n.tell(control.Event{Kind: control.EventListening, Text: n.gate.URL()})
	return nil
}

// open opens every room, each with what it needs of those before it.
func (n *Node) open(ctx context.Context) error {
	if err := os.MkdirAll(n.data, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := owned(n.data); err != nil {
		return err
	}
	if err := os.Chmod(n.data, 0o700); err != nil { //nolint:gosec // a folder needs its x
		return fmt.Errorf("make data folder private: %w", err)
	}
	var err error
	n.lock, err = lockData(ctx, n.data, func(s string) { n.tell(control.Event{Kind: control.EventInfo, Text: s}) })
	if err != nil {
		return err
	}
	n.ownLock()
	if err := os.RemoveAll(n.secretFiles()); err != nil { // of a run that was killed
		return fmt.Errorf("remove old secret files: %w", err)
	}
	if _, n.identity, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return fmt.Errorf("make identity key: %w", err)
	}
	if err := listen.CheckFree(ctx, n.first.Bus.Listen); err != nil {
		return fmt.Errorf("open bus: %w", err)
	}
	if err := n.openBus(ctx, bus.Options{}); err != nil {
		return err
	}
	if err := n.openDoor(ctx, nil); err != nil {
		return err
	}
	n.newSupervisor()
	// The control socket ends after the services: while they stop, `status` tells.
	if err := n.openControl(nil); err != nil {
		return err
	}
	n.serveControl()
	if err := n.sup.Start(ctx); err != nil {
		return err
	}
	n.ownServices()
	if n.killed.Load() {
		return errors.New("start: killed")
	}
	// The door binds before anything is built: a port in use is said at once.
	if err := n.gate.Start(ctx); err != nil {
		return err
	}
	n.onStop("gateway", n.gate.Stop)
	return nil
}

// ownLock registers what goes with the lock of the data folder.
func (n *Node) ownLock() {
	n.onStop("lock", func(context.Context) error { return n.lock.release() })
	n.secrets = secret.Open(filepath.Join(n.data, "secrets"))
	n.onStop("secret files", func(context.Context) error { return os.RemoveAll(n.secretFiles()) })
}

// openBus opens the bus, and connects to it for the state.
func (n *Node) openBus(ctx context.Context, o bus.Options) (err error) {
	o.Dir, o.Listen, o.System, o.Logger = filepath.Join(n.data, "bus"), n.first.Bus.Listen, n.first.Name, n.log
	if o.Elsewhere, err = n.elsewhere(); err != nil {
		return fmt.Errorf("open bus: %w", err)
	}
	if n.bus, err = bus.Open(ctx, o); err != nil {
		return err
	}
	n.onStop("bus", n.bus.Close)
	return n.openState(ctx)
}

// openDoor makes the gateway; it does not listen yet.
func (n *Node) openDoor(ctx context.Context, inherited []listen.Socket) (err error) {
	if n.gateConn, err = n.bus.Gateway(); err != nil {
		return err
	}
	n.onStop("gateway's connection", func(context.Context) error { n.gateConn.Close(); return nil })
	n.access = NewLogFile(filepath.Join(n.data, "logs", "access.log"))
	n.onStop("access log", func(context.Context) error { return n.access.Close() })
	if err := n.openCertificates(); err != nil {
		return err
	}
	tickets, err := ticketKey(n.data)
	if err != nil {
		return err
	}
	heard, err := n.openFeed()
	if err != nil {
		return err
	}
	n.gate = gateway.New(gateway.Options{
		TicketKey: tickets, Inherited: inherited, Live: heard,
		Listen: n.opts.Listen, Gateway: n.first.Gateway, Certificates: n.certs, Logger: n.log, AccessLog: n.access, Bus: n.gateConn, Queues: queues{n.bus}, NATS: n.bus,
		Signer: wire.NewSigner(n.identity, n.first.Name), System: n.first.Name, Monitors: n.monitors(),
	})
	if err := n.loadMaintenance(ctx); err != nil {
		return err
	}
	ban := func(list []gateway.Ban) {
		n.gate.SetBans(list)
		n.bus.SetBanned(n.gate.Banned)
	}
	if n.bans, err = openBans(ctx, n.state, ban); err != nil {
		return err
	}
	n.users, err = openUsers(ctx, n.state, n.bus)
	return err
}

func (n *Node) newSupervisor() {
	n.sup = supervise.New(supervise.Options{
		Dir: n.data, Logger: n.log, Host: n.host, NextID: n.nextID, Events: n.onInstance, Lock: n.lock.file,
	})
}

// identityKey is what services verify users' identities with.
func (n *Node) identityKey() string {
	public, _ := n.identity.Public().(ed25519.PublicKey) // it is one
	return wire.EncodeKey(public)
}

// ownServices registers what ends with the services.
func (n *Node) ownServices() {
	n.onStop("services", n.sup.Stop)
	n.killable.Store(n.sup)
}

// owned refuses a folder that belongs to somebody else, who could open it again.
func owned(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at data folder: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("the data folder %s belongs to another user (uid %d); choose one with --data, or give it to uid %d", dir, st.Uid, os.Geteuid())
	}
	return nil
}

func (n *Node) openState(ctx context.Context) (err error) {
	if n.operator, err = n.bus.Operator("node"); err != nil {
		return err
	}
	n.onStop("operator's connection", func(context.Context) error { n.operator.Close(); return nil })
	if n.state, err = openState(ctx, n.operator, n.keeping()); err != nil {
		return err
	}
	n.state.health = n.bus.Healthy
	n.onStop("numbers of instances", func(ctx context.Context) error { n.state.releaseNumbers(ctx); return nil })
	n.overrides, err = n.state.overrides(ctx)
	if err != nil {
		return err
	}
	return n.writeOperatorFile()
}

// writeOperatorFile leaves the operator's credentials for NATS's own tools, in a
// file that only the operator can read:
//
//	set -a; . .fairlead/operator.env; nats micro ls
func (n *Node) writeOperatorFile() error {
	c := n.bus.OperatorCredentials()
	content := fmt.Sprintf("NATS_URL=%s\nNATS_USER=%s\nNATS_PASSWORD=%s\n", c.URL, c.User, c.Password)
	path := filepath.Join(n.data, "operator.env")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write operator's credentials: %w", err)
	}
	n.onStop("operator's credentials", func(context.Context) error { return os.Remove(path) })
	return nil
}

// onStop registers how to end what was just started.
func (n *Node) onStop(name string, end func(context.Context) error) {
	n.closers = append(n.closers, closer{name, end})
}

// Await returns when every wanted instance of every service takes traffic, or
// with what keeps those that do not.
func (n *Node) Await(ctx context.Context) error { return n.sup.Await(ctx) }

// URL returns the address of the door.
func (n *Node) URL() string { return n.gate.URL() }

// Data returns the data folder.
func (n *Node) Data() string { return n.data }

// System returns the model that runs, or, before Start, the one that was read.
func (n *Node) System() *system.System {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.applied == nil {
		return n.first
	}
	return n.applied.sys
}

// Done is closed when the node has stopped, also by `down`.
func (n *Node) Done() <-chan struct{} { return n.done }

// Stop ends everything in order: the door takes nothing new and finishes what is
// open, then the services stop, then the bus. It is bounded by ctx and the
// services' grace periods, and idempotent: later calls return the first result.
//
// Where another process runs the system by now, it ends what is left in this one.
func (n *Node) Stop(ctx context.Context) error {
	n.stopping.Store(true)
	n.stopUpgrade()
	n.stopOnce.Do(func() {
		if n.Successor() == 0 {
			notify("STOPPING=1")
		}
		var errs []error
		for _, c := range slices.Backward(n.closers) {
			if err := c.end(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", c.name, err))
			}
		}
		n.stopErr = errors.Join(errs...)
		close(n.done)
	})
	return n.stopErr
}

// Kill ends all instances at once. A [Node.Stop] that waits for them returns
// soon after.
func (n *Node) Kill() {
	n.killed.Store(true)
	n.stopUpgrade()
	if n.Successor() != 0 {
		return // nothing runs here
	}
	if sup := n.killable.Load(); sup != nil {
		sup.Kill()
	}
}

// tell passes an event on, with its time, to the node's owner and to the callers
// of verbs.
func (n *Node) tell(e control.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	n.log.Debug("event", "kind", string(e.Kind), wire.KeyService, e.Service, wire.KeyInstance, e.Instance, "text", e.Text)
	n.events.Lock()
	defer n.events.Unlock()
	if n.opts.Events != nil {
		n.opts.Events(e)
	}
	for tell := range n.watchers {
		(*tell)(e)
	}
}

// watch tells a caller all events until the returned function is called.
func (n *Node) watch(tell func(control.Event)) (end func()) {
	n.events.Lock()
	defer n.events.Unlock()
	n.watchers[&tell] = struct{}{}
	return func() {
		n.events.Lock()
		defer n.events.Unlock()
		delete(n.watchers, &tell)
	}
}

// onInstance turns the supervisor's events into those that a person sees.
func (n *Node) onInstance(e supervise.Event) {
	n.countRestart(e)
	n.tell(control.Event{
		Time: e.Time, Kind: control.EventKind(e.Kind), Service: e.Instance.Service, Instance: e.Instance.ID,
		Text: e.Text, Took: e.Took,
	})
}

func (n *Node) nextID(service string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return n.state.nextInstance(ctx, service)
}

// wildcards turns the path values of a route's subject into wildcards. A NestJS
// object pattern has braces of its own and stays as it is.
func wildcards(subject string) string {
	if strings.HasPrefix(subject, "{\"") {
		return subject
	}
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if strings.HasPrefix(t, "{") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// KeeperMain is the main function of the keeper, the child process that owns the
// instances. It returns the process's exit code.
func KeeperMain(args []string) int { return supervise.KeeperMain(args) }
