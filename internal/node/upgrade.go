package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/internal/node/handover"
	"fairlead/internal/supervise"
	"fairlead/internal/wire"
)

// How long the steps of an upgrade may take.
const (
	versionBound = 10 * time.Second // for a program to say its version
	readyBound   = 30 * time.Second // for the next process to load the system
	freezeBound  = 5 * time.Second  // for instances that are on their way
	settleBound  = 5 * time.Second  // for requests that are on the bus
	closeBound   = 15 * time.Second // for the bus to close
	takeBound    = 20 * time.Second // for the next process to take over
	exitBound    = 3 * time.Second  // for a next process that failed to end by itself
	backBound    = 15 * time.Second // for the services to come back to the bus; clients try every 2 s at the latest
	mendPause    = time.Second      // between attempts to open the bus again
)

// The messages until the next process has taken over.
const (
	sayOffer  = "offer"  // offer, with the lock, the control socket and the door's sockets
	sayReady  = "ready"  // the next process could load it
	sayTake   = "take"   // taking, with the connection to the keeper
	sayTaken  = "taken"  // there is no way back
	sayFailed = "failed" // why, as text
)

// offer is what the next process is told before anything changes.
type offer struct {
	Keeper      int    // version of the keeper's protocol
	Version     string // of the program that offers
	File        string
	Data        string
	Listen      string // of Options
	Watch       bool   // of Options
	Started     time.Time
	IdentityKey []byte // seed of the key that signs users' identities; the services know its public half
	Applied     int
	Revisions   []offeredRevision
	Runs        map[string]int
	Overrides   map[string]control.Override
	Doors       []string // the addresses of the sockets that come with it
}

// offeredRevision is a revision from which instances run, or can be started.
type offeredRevision struct {
	Record  record
	Secrets map[string]string
	URLs    map[string]string
}

// taking is what the next process is told last: what moves.
type taking struct {
	Bus       *bus.Former
	Instances supervise.Frozen
	Served    map[string]uint64 // requests of each instance over HTTP
	Answered  map[string]uint64 // and over the bus, of those that are gone
}

// successor is the process that is to take the place of this one.
type successor struct {
	cmd     *exec.Cmd
	conn    *handover.Conn
	version string
}

// upgrade gives the system to another process of a program, while it runs.
func (n *Node) upgrade(ctx context.Context, req control.UpgradeRequest, tell func(control.Event)) (reply control.UpgradeReply, err error) {
	select { // of those who wait for their turn, some would act on what is another's by then
	case n.ops <- struct{}{}:
	default:
		return reply, &control.Error{Code: control.CodeConflict, Message: "another change goes on", Hint: "try again when it is done"}
	}
	end := n.watch(tell)
	defer func() {
		end()
		if n.successor.Load() == nil {
			<-n.ops // else nothing is changed here any more
		}
	}()
	if n.stopping.Load() {
		return reply, errStopping()
	}
	if n.current() == nil || !n.launched.Load() {
		return reply, &control.Error{Code: control.CodeConflict, Message: "the system is just starting", Hint: "try again when it runs"}
	}
	ctx, done := n.beginUpgrade(ctx)
	defer done()
	begun := time.Now()
	if err := n.former.await(ctx, func() {
		n.tell(control.Event{Kind: control.EventInfo, Text: "waiting until the process of the last upgrade has finished what is open in it"})
	}); err != nil {
		return reply, fmt.Errorf("wait for the process of the last upgrade: %w", err)
	}
	n.returning.Wait() // what came back from the last upgrade is bounded
	next, err := n.prepareSuccessor(ctx, req.Binary)
	if err != nil {
		return reply, unchanged(err)
	}
	n.tell(control.Event{Kind: control.EventInfo, Text: fmt.Sprintf("process %d, version %s, has loaded the system; the bus moves", next.cmd.Process.Pid, next.version)})
	mark := n.gate.Mark()
	noBus, err := n.handOver(ctx, next)
	if err != nil {
		return reply, unchanged(err)
	}
	reply = control.UpgradeReply{PID: next.cmd.Process.Pid, Version: next.version, From: n.opts.Version}
	back := n.retire(next) //nolint:contextcheck // there is no way back from here, whoever waits
	reply.Took, reply.NoBus = time.Since(begun), back.BusAt.Sub(noBus)
	reply.Held = max(n.gate.LongestHold(), back.Held)
	reply.Missing = back.Missing
	open := n.gate.Open()
	reply.Finishing = control.Finishing{Connections: open.Connections, Requests: open.Requests, Tunnels: open.Tunnels}
	reply.Traffic = n.traffic(mark)
	reply.Traffic.Connections = control.Carried{} // their next requests go to the next process
	reply.Traffic.Requests += back.Requests
	reply.Traffic.Failed += back.Failed
	reply.Traffic.Stall = max(reply.Traffic.Stall, back.Stall, reply.Held)
	return reply, nil
}

func errStopping() error {
	return &control.Error{Code: control.CodeConflict, Message: "the system is stopping"}
}

// unchanged adds to the error of an upgrade that the system goes on as it was.
func unchanged(err error) error {
	e := control.ErrorFrom(err)
	if e.Hint == "" {
		e.Hint = fmt.Sprintf("nothing changed; process %d goes on", os.Getpid())
	}
	return e
}

// beginUpgrade makes it known that an upgrade goes on, so that a stop can end it.
func (n *Node) beginUpgrade(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	n.mu.Lock()
	n.endUpgrade = func() {
		cancel(errStopping())
		<-over
	}
	n.mu.Unlock()
	return ctx, func() {
		n.mu.Lock()
		n.endUpgrade = nil
		n.mu.Unlock()
		cancel(nil)
		close(over)
	}
}

// stopUpgrade breaks an upgrade off, if one goes on, and returns when it has been
// taken back, or is complete.
func (n *Node) stopUpgrade() {
	n.mu.Lock()
	end := n.endUpgrade
	n.mu.Unlock()
	if end != nil {
		end()
	}
}

// prepareSuccessor starts a process of the program and has it load the system.
// Nothing changes for what runs.
func (n *Node) prepareSuccessor(ctx context.Context, binary string) (*successor, error) {
	version, err := programVersion(ctx, binary)
	if err != nil {
		return nil, err
	}
	// It outlives ctx. With the arguments that we were started with, a person finds
	// it as they found us.
	cmd := exec.Command(binary, os.Args[1:]...) //nolint:gosec // the operator names the program
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Environ(), os.Stdin, os.Stdout, os.Stderr
	conn, started, err := handover.Spawn(cmd)
	if err != nil {
		return nil, err
	}
	err = cmd.Start()
	started()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", binary, err), conn.Close())
	}
	next := &successor{cmd: cmd, conn: conn, version: version}
	if err := n.offer(ctx, next); err != nil {
		return nil, next.dismiss(err)
	}
	return next, nil
}

// programVersion asks a program for its version, and whether it can take over.
func programVersion(ctx context.Context, binary string) (string, error) {
	if !filepath.IsAbs(binary) {
		return "", &control.Error{Code: "usage", Message: fmt.Sprintf("the path of the program must be absolute, is %q", binary)}
	}
	ctx, cancel := context.WithTimeout(ctx, versionBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "version", "--json")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	var said struct {
		Version  string `json:"version"`
		Handover int    `json:"handover"`
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&said); err != nil || said.Version == "" {
		return "", fmt.Errorf("ask %s for its version: it does not answer as fairlead does", binary)
	}
	if said.Handover != handover.Protocol {
		return "", &control.Error{
			Code:    control.CodeConflict,
			Message: fmt.Sprintf("%s, version %s, cannot take over from this one: it hands over by version %d, this one by %d", binary, said.Version, said.Handover, handover.Protocol),
			Hint:    "fairlead down, then up with the other one",
		}
	}
	return said.Version, nil
}

// offer tells the next process what there is and waits until it has loaded it.
func (n *Node) offer(ctx context.Context, next *successor) error {
	doors, err := n.gate.Sockets()
	if err != nil {
		return err
	}
	files := []*os.File{n.lock.file}
	defer func() {
		for _, f := range files[1:] { // the lock's is no duplicate
			_ = f.Close() // the other process has its own
		}
	}()
	o := n.offered()
	for _, d := range doors {
		o.Doors = append(o.Doors, d.Address)
		files = append(files, d.File)
	}
	socket, err := n.control.Socket()
	if err != nil {
		return err
	}
	files = slices.Insert(files, 1, socket)
	if err := next.conn.Send(sayOffer, o, files...); err != nil {
		return err
	}
	return next.expect(ctx, readyBound, sayReady)
}

// offered collects what does not change while no other change goes on.
func (n *Node) offered() offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := offer{
		Keeper: supervise.KeeperProtocol, Version: n.opts.Version, File: n.file, Data: n.data, Listen: n.opts.Listen, Watch: n.opts.Watch,
		Started: n.started, IdentityKey: n.identity.Seed(), Applied: n.applied.Number, Runs: n.runs, Overrides: n.overrides,
	}
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	for _, g := range n.host.grants {
		o.Revisions = append(o.Revisions, offeredRevision{Record: g.rev.record, Secrets: g.secrets, URLs: g.urls})
	}
	return o
}

// handOver stops all that decides, closes the bus and gives everything to the next
// process. It returns since when there is no bus. On an error the next process has
// ended and this one goes on.
func (n *Node) handOver(ctx context.Context, next *successor) (noBus time.Time, err error) {
	var undo []func()
	defer func() {
		if err == nil {
			return
		}
		err = next.dismiss(err)
		for _, f := range slices.Backward(undo) {
			f()
		}
	}()
	if err := fault("freeze"); err != nil {
		return noBus, err
	}
	freezing, cancel := context.WithTimeout(ctx, freezeBound)
	frozen, link, err := n.sup.Freeze(freezing)
	cancel()
	if err != nil {
		return noBus, err
	}
	defer link.Close()
	undo = append(undo, n.sup.Thaw)

	n.gate.HoldBus()
	undo = append(undo, func() {
		n.returning.Go(func() {
			n.comeBack(context.WithoutCancel(ctx), frozen.Serving(), func(services ...string) {
				n.bus.Deliver(services...)
				n.releaseHere(services...)
			})
		})
	})
	undo = append(undo, func() { n.releaseInstances(ctx) })
	n.settleBus(ctx)
	if err := context.Cause(ctx); err != nil {
		return noBus, err
	}
	n.state.releaseNumbers(ctx)
	if err := fault("hold"); err != nil {
		return noBus, err
	}

	// From here on it makes no difference whether somebody waits for the result.
	ctx = context.WithoutCancel(ctx)
	t := taking{Instances: frozen, Served: map[string]uint64{}}
	t.Answered = n.host.counts(t.Served)
	noBus = time.Now()
	undo = append(undo, func() { n.resumeBus(ctx) })
	closing, cancel := context.WithTimeout(ctx, closeBound)
	err = n.bus.Suspend(closing)
	cancel()
	if err == nil {
		err = fault("suspend")
	}
	if err != nil {
		return noBus, err
	}
	t.Bus = n.bus.Former()
	if err := next.conn.Send(sayTake, t, link); err != nil {
		return noBus, err
	}
	if err := fault("take"); err != nil {
		return noBus, err
	}
	return noBus, next.expect(ctx, takeBound, sayTaken)
}

// settleBus waits for the requests that are on the bus, of the door and of instances,
// which begin no more. What is open after that is told, and may be lost.
func (n *Node) settleBus(ctx context.Context) {
	settling, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	var instances sync.WaitGroup
	instances.Go(func() {
		late, err := n.bus.Hold(settling)
		if err != nil {
			n.log.WarnContext(ctx, "instances ask on while the bus moves", wire.KeyError, err)
		}
		if len(late) > 0 {
			n.log.WarnContext(ctx, "requests of instances are on the bus while it moves", "instances", late)
		}
	})
	if err := n.gate.SettleBus(settling); err != nil {
		n.log.WarnContext(ctx, "requests are on the bus while it moves", wire.KeyError, err)
	}
	instances.Wait()
}

// releaseInstances lets instances ask again after a hand-over that came to nothing. If
// they are not told they do so a little later.
func (n *Node) releaseInstances(ctx context.Context) {
	if err := n.bus.Release(); err != nil {
		n.log.WarnContext(ctx, "instances hold what they ask for a while", wire.KeyError, err)
	}
}

// resumeBus opens the bus again after a hand-over that came to nothing.
func (n *Node) resumeBus(ctx context.Context) {
	for {
		err := n.bus.Resume(ctx)
		if err == nil || n.stopping.Load() {
			return
		}
		n.log.ErrorContext(ctx, "the bus cannot be opened again; trying on", wire.KeyError, err)
		select {
		case <-n.done:
			return
		case <-time.After(mendPause):
		}
	}
}

// releaseHere lets requests for services go that this process holds.
func (n *Node) releaseHere(services ...string) {
	limit := time.Now().Add(settleBound)
	for !n.gateConn.IsConnected() && time.Now().Before(limit) && !n.gateConn.IsClosed() {
		time.Sleep(time.Millisecond)
	}
	n.gate.ReleaseBus(services...)
}

// comeBack releases the requests for each service as soon as one of its instances
// is back on the bus, and returns when all are, or after a while, with those that
// are missing.
func (n *Node) comeBack(ctx context.Context, serving map[string][]supervise.Instance, release func(...string)) (missing []string) {
	ctx, cancel := context.WithTimeout(ctx, backBound)
	defer cancel()
	sys := n.System()
	tick := time.NewTicker(healthGlance)
	defer tick.Stop()
	released := map[string]bool{}
	for {
		missing = missing[:0]
		var back []string
		for i := range sys.Services {
			svc := &sys.Services[i]
			away := n.away(onBus(svc), serving[svc.Name])
			missing = append(missing, away...)
			if !released[svc.Name] && (len(away) == 0 || len(away) < len(serving[svc.Name])) {
				released[svc.Name] = true
				back = append(back, svc.Name)
			}
		}
		if len(missing) == 0 {
			release()
			return nil
		}
		if len(back) > 0 {
			release(back...)
		}
		select {
		case <-ctx.Done():
			n.log.WarnContext(ctx, "instances have not come back to the bus", "instances", missing)
			release()
			return missing
		case <-n.done:
			return missing
		case <-tick.C:
		}
	}
}

// away are those of the instances that are not on the bus again.
func (n *Node) away(want bool, instances []supervise.Instance) []string {
	var ids []string
	for _, i := range instances {
		if !want {
			continue
		}
		if _, err := n.bus.Registered(i.ID); errors.Is(err, bus.ErrUnknownInstance) {
			continue // it has ended meanwhile
		}
		if n.host.Unregistered(i.ID) != "" {
			ids = append(ids, i.ID)
		}
	}
	return ids
}

// expect waits for one message. What else the next process does is an error.
func (s *successor) expect(ctx context.Context, bound time.Duration, kind string) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	defer context.AfterFunc(ctx, s.conn.Abandon)()
	m, files, err := s.conn.Receive()
	for _, f := range files {
		_ = f.Close() // it has none to give
	}
	switch {
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("wait for process %d: %w", s.cmd.Process.Pid, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("process %d, version %s, ended before it had taken over", s.cmd.Process.Pid, s.version)
	case m.Kind == sayFailed:
		var why string
		if err := m.Decode(&why); err != nil {
			return err
		}
		return fmt.Errorf("process %d, version %s, cannot take over: %s", s.cmd.Process.Pid, s.version, why)
	case m.Kind != kind:
		return fmt.Errorf("process %d, version %s, says %q instead of %q", s.cmd.Process.Pid, s.version, m.Kind, kind)
	}
	return nil
}

// dismiss ends a next process that has not taken over, and returns why, with how
// it ended if it did so by itself.
func (s *successor) dismiss(why error) error {
	_ = s.conn.Close() // tells it
	kill := time.AfterFunc(exitBound, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	err := s.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() && kill.Stop() {
		return fmt.Errorf("%w (%w)", why, exit)
	}
	return why
}

// pid returns the number of the process as text.
func (s *successor) pid() string { return strconv.Itoa(s.cmd.Process.Pid) }
