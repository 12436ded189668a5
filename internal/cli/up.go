package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
	"fairlead/internal/node"
	"fairlead/internal/system"
)

// runner is what up needs of a node; see [node.Node].
type runner interface {
	Start(ctx context.Context) error
	Await(ctx context.Context) error
	Stop(ctx context.Context) error
	Kill()
	Done() <-chan struct{}
	URL() string
	System() *system.System
	Status() control.Status
	Successor() int
}

const (
	frameTime = 100 * time.Millisecond
	// quiet is how long nothing is shown of what may be over at once.
	quiet = 300 * time.Millisecond
	// stopSlack is added to the longest grace period of a service: what a stop
	// may take in all.
	stopSlack = 30 * time.Second
	// sameAsk is how near two signals are one: a wrapper such as timeout(1) passes
	// on what the whole process group got already.
	sameAsk = 100 * time.Millisecond
	// killWait bounds the wait for a stop after everything was killed.
	killWait = 5 * time.Second
)

func (a *app) upCommand() *cobra.Command {
	var o node.Options
	cmd := &cobra.Command{
		Use:   "up [DIR]",
		Short: "Build and run the system in the foreground",
		Long: `Builds and starts every service of the system, opens the door, and shows what
happens until it is told to stop. Nothing is left behind then: no process, socket
or port. What must last is in the data folder, .fairlead beside the file.

The first Ctrl-C (or SIGTERM, or the terminal's end) stops everything in order,
a second one kills at once. With --watch, for development, whatever is saved is
applied as by "fairlead reload": the file, and what the services are built of; a
service without a build is restarted when something in its own folder changes. What
does not build, or is at fault, leaves running what runs. With --json every event
is written as a line of JSON.`,
		Example: `  fairlead up
  fairlead up stacks/commerce
  fairlead up --watch
  fairlead up -e production --data /var/lib/commerce /srv/commerce
  fairlead up --listen 127.0.0.1:0`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			offer, err := node.Offered()
			if err != nil {
				return untaken(err)
			}
			if offer != nil {
				return untaken(a.up(cmd.Context(), target{File: offer.File(), Data: offer.Data()}, node.Options{Offer: offer}))
			}
			t, err := a.findFile(first(args))
			if err != nil {
				return err
			}
			if err := listenFlag(o.Listen); err != nil {
				return err
			}
			o.Path, o.Data = t.File, t.Data
			return a.up(cmd.Context(), t, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Environment, "environment", "e", "", "environment of the file to merge in")
	flags.BoolVarP(&o.Watch, "watch", "w", false, "apply the file, and build again, whenever a source changes")
	flags.StringVar(&o.Listen, "listen", "", "address of the door, in place of the file's gateway.listen")
	return cmd
}

// untaken keeps silent about a take-over that came to nothing: the former process
// tells.
func untaken(err error) error {
	if errors.Is(err, node.ErrNotTaken) {
		return &exitError{exitFailed}
	}
	return err
}

// listenFlag checks the value of --listen as the file's gateway.listen is checked.
func listenFlag(address string) error {
	if address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if n, atoi := strconv.Atoi(port); err == nil && atoi == nil && n >= 0 && n <= 65535 {
		return nil
	}
	e := &usageError{
		problem: fmt.Sprintf("--listen takes an address and a port, not %q", address),
		hint:    "write 127.0.0.1:8080, or :8080 for all interfaces",
	}
	if n, err := strconv.Atoi(address); err == nil && n >= 0 && n <= 65535 {
		e.hint = fmt.Sprintf("write 127.0.0.1:%d, or :%d for all interfaces", n, n)
	}
	return e
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// eventQueue takes events without ever holding the node up: a terminal that
// does not take its output must not stop a system.
type eventQueue struct {
	ch   chan control.Event
	lost atomic.Int64
}

func (q *eventQueue) put(e control.Event) {
	select {
	case q.ch <- e:
	default:
		q.lost.Add(1)
	}
}

// up runs a node until it has stopped.
func (a *app) up(ctx context.Context, t target, o node.Options) error {
	nodeLog := node.NewLogFile(filepath.Join(t.Data, "logs", "fairlead.log"))
	defer nodeLog.Close()
	queue := &eventQueue{ch: make(chan control.Event, 4096)}
	o.Version, o.Events = Version, queue.put
	o.Logger = slog.New(slog.NewJSONHandler(nodeLog, nil))
	r, err := a.start(o)
	if err != nil {
		return err
	}

	asked, ignore := a.signals(stopSignals()...)
	defer ignore()
	// A reader of our output that goes away (`up | head`) must not kill us
	// before the services have ended: writing then returns an error.
	_, unpipe := a.signals(syscall.SIGPIPE)
	defer unpipe()

	sys := r.System()
	f := &foreground{
		app: a, node: r, queue: queue, asked: asked, painter: painter{screen: a.out},
		log: nodeLog, data: t.Data, heir: o.Offer != nil, titled: o.Offer != nil,
		view: newUpView(a.out, upHead{
			Version: Version, System: sys.Name, File: brief(t.File), Environment: sys.Environment,
			Command: t.command(), Logs: brief(filepath.Join(t.Data, "logs")),
			Watch: o.Watch,
		}, a.now()),
	}
	for _, svc := range sys.Services {
		if len(svc.External) > 0 {
			f.view.outside(svc.Name, svc.External)
			continue
		}
		f.view.expect(svc.Name, svc.Replicas, false)
	}
	return f.run(ctx)
}

// stopSignals are those that stop a system. SIGHUP is the end of the terminal:
// it stops in order too, unless nohup had it ignored.
func stopSignals() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	return list
}

// foreground is a node that runs in the foreground. One goroutine, that of run,
// owns its fields.
type foreground struct {
	app     *app
	node    runner
	view    *upView
	painter painter
	queue   *eventQueue
	asked   <-chan os.Signal
	log     *node.LogFile
	data    string // folder
	heir    bool   // it takes over from another process, which has shown what there was to show
	taken   bool   // another process has taken over from this one, and shows what happens

	stopping time.Time  // when a stop was asked for; zero: not yet
	stopped  chan error // result of the stop
	killed   bool
	downed   bool // by `fairlead down`
	titled   bool
	late     <-chan time.Time // when a stop after a kill is given up
}

func (f *foreground) run(ctx context.Context) error {
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	started, awaited := make(chan error, 1), make(chan error, 1)
	go func() { started <- f.node.Start(starting) }()
	f.stopped = make(chan error, 1)
	done := f.node.Done()
	running, ended := false, false

	tick := time.NewTicker(frameTime)
	defer tick.Stop()
	for {
		select {
		case e := <-f.queue.ch:
			f.event(e)
		case <-tick.C:
			f.tick()
		case err := <-started:
			f.drain()
			if err != nil {
				return f.notUp(err)
			}
			running = true
			f.expectNow()
			switch {
			case ended && f.stopping.IsZero():
				f.down(ctx)
			case !f.stopping.IsZero():
				f.stop(ctx)
			case f.heir:
				f.inherit()
			default:
				go func() { awaited <- f.node.Await(starting) }()
			}
		case err := <-awaited:
			f.drain()
			if err == nil && f.stopping.IsZero() {
				f.allReady()
			}
		case sig := <-f.asked:
			f.drain()
			switch {
			case f.taken:
				passOn(f.node.Successor(), sig)
			case f.stopping.IsZero():
				f.begin(signalName(sig))
				cancel()
				if running {
					f.stop(ctx)
				}
			case !f.killed && f.app.now().Sub(f.stopping) >= sameAsk:
				f.kill()
			}
		case <-f.late:
			left := strings.Join(f.view.left(), ", ")
			f.view.phase = phaseRunning
			f.show(nil)
			return fmt.Errorf("stop: it did not end although everything was killed; last seen: %s", cmp.Or(left, "no instance"))
		case <-done:
			done, ended = nil, true
			f.drain()
			if f.node.Successor() != 0 {
				return f.leave()
			}
			// Before it runs, Start says why it ended.
			if running && f.stopping.IsZero() {
				f.down(ctx)
			}
		case err := <-f.stopped:
			f.drain()
			if pid := f.node.Successor(); pid != 0 { // it was too late to stop here
				passOn(pid, syscall.SIGTERM)
				return f.leave()
			}
			return f.over(err)
		}
	}
}

// inherit takes up what the former process has shown.
func (f *foreground) inherit() {
	f.view.phase = phaseRunning
	for _, svc := range f.node.Status().Services {
		for _, i := range svc.Instance {
			f.view.note(control.Event{Time: i.Since, Kind: control.EventKind(i.State), Service: svc.Name, Instance: i.ID, Text: i.Reason})
		}
	}
}

// leave ends a process whose system another one runs. The process that was started
// first stays as a stand-in for it, except under systemd, which was told.
func (f *foreground) leave() error {
	if f.heir || os.Getenv("NOTIFY_SOCKET") != "" {
		return nil
	}
	if code := standIn(f.data, f.node.Successor(), f.asked); code != exitDone {
		return &exitError{code}
	}
	return nil
}

// expectNow takes over what the operator's overrides make of the file.
func (f *foreground) expectNow() {
	for _, svc := range f.node.Status().Services {
		if !svc.External { // nothing is told of those while the system starts
			f.view.expect(svc.Name, svc.Wanted, svc.Override != nil)
		}
	}
}

func (f *foreground) allReady() {
	if f.app.json {
		f.event(control.Event{Time: f.app.now(), Kind: control.EventAllReady, Text: f.node.URL()})
		return
	}
	f.show(f.view.ready(f.app.now()))
	f.show(f.view.places(f.node.URL()))
}

// begin says that the system is stopping, and why.
func (f *foreground) begin(why string) {
	f.stopping = f.app.now()
	f.show(f.view.stop(f.stopping, why))
}

// down takes up that the node has stopped: `fairlead down` asked it to.
func (f *foreground) down(ctx context.Context) {
	f.stopping = f.app.now()
	f.view.phase = phaseRunning
	f.show(f.view.eventLine(f.stopping, "fairlead", "stopped by fairlead down"))
	f.downed = true
	f.stop(ctx)
}

func (f *foreground) stop(ctx context.Context) {
	bound := stopSlack
	for _, svc := range f.node.System().Services {
		bound = max(bound, svc.StopGracePeriod+stopSlack)
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
		defer cancel()
		f.stopped <- f.node.Stop(ctx)
	}()
}

func (f *foreground) kill() {
	f.killed = true
	f.show(f.view.eventLine(f.app.now(), "fairlead", "killing everything at once"))
	f.late = time.After(killWait)
	f.node.Kill()
}

// notUp ends a start that failed, or that a signal ended; the node has stopped
// again by itself.
func (f *foreground) notUp(err error) error {
	if errors.Is(err, node.ErrDown) {
		f.stopping, f.downed = f.app.now(), true
		f.view.phase = phaseRunning
		f.show(f.view.eventLine(f.stopping, "fairlead", "stopped by fairlead down"))
		return f.over(nil)
	}
	if f.stopping.IsZero() || !f.killed && !errors.Is(err, context.Canceled) {
		if f.titled {
			f.show(f.view.failed(f.app.now()))
		}
		if names := f.view.unbuilt(); len(names) > 0 && !f.app.json {
			// The error holds the output of the build, which was shown.
			return &control.Error{Code: control.CodeFailed, Message: "nothing runs: the build of " + strings.Join(names, " and ") + " failed"}
		}
		return err
	}
	return f.over(nil)
}

func (f *foreground) over(err error) error {
	f.view.phase = phaseRunning // nothing is left to be waited for
	if err != nil {
		f.show(nil)
		return err
	}
	if !f.downed {
		f.show(f.view.stopped(f.app.now(), f.stopping))
	}
	if f.killed {
		return &exitError{exitFailed}
	}
	return nil
}

// event shows one event.
func (f *foreground) event(e control.Event) {
	if f.taken {
		return
	}
	if e.Kind == control.EventTaken {
		defer func() { f.taken = true }()
		f.log.Share()
		f.view.phase = phaseRunning // nothing is left to be painted
	}
	if f.app.json {
		_ = f.app.out.jsonLine(e) // who reads it has gone: the system goes on
		return
	}
	f.show(f.view.apply(e))
}

// drain shows the events that came before what is shown next.
func (f *foreground) drain() {
	for {
		select {
		case e := <-f.queue.ch:
			f.event(e)
			continue
		default:
		}
		if n := f.queue.lost.Swap(0); n > 0 {
			f.event(control.Event{
				Time: f.app.now(), Kind: control.EventWarning,
				Text: plural(int(n), "event") + " could not be shown in time",
			})
		}
		return
	}
}

func (f *foreground) tick() {
	f.drain()
	if f.painter.painted > 0 || !f.titled && f.app.now().Sub(f.view.started) > quiet {
		f.show(nil)
	}
}

// show writes lines for good, and paints the block below them again.
func (f *foreground) show(lines []string) {
	if f.app.json || f.taken {
		return
	}
	// Who reads our output may have gone: the system goes on.
	if !f.titled {
		// Not before there is something to tell: a system that already runs, or a
		// port in use, is an error and nothing else.
		f.titled = true
		lines = append(f.view.title(), lines...)
	}
	if !f.app.out.live {
		if len(lines) > 0 {
			_ = f.app.out.lines(lines...)
		}
		return
	}
	block := f.view.block(f.app.now())
	if len(lines)+len(block)+f.painter.painted > 0 {
		_ = f.painter.paint(lines, block)
	}
}

func signalName(s os.Signal) string {
	switch s {
	case os.Interrupt:
		return interrupted
	case syscall.SIGTERM:
		return "asked to terminate"
	case syscall.SIGHUP:
		return "the terminal ended"
	default:
		return s.String()
	}
}
