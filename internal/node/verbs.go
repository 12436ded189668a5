package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/internal/gateway"
	"fairlead/internal/gateway/external"
	"fairlead/internal/supervise"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// openControl opens the data folder's socket, or takes it over from another process.
func (n *Node) openControl(inherited *os.File) error {
	server, err := control.Listen(filepath.Join(n.data, control.SocketName), control.ServerOptions{
		Logger: n.log, Allow: n.allowPeer, Version: n.opts.Version, Inherited: inherited,
	})
	if err != nil {
		return err
	}
	n.control = server
	control.Handle(server, control.VerbStatus, func(context.Context, control.Empty, func(control.Event)) (control.Status, error) {
		return n.Status(), nil
	})
	control.Handle(server, control.VerbStart, n.start)
	control.Handle(server, control.VerbStop, n.stop)
	control.Handle(server, control.VerbScale, n.scale)
	control.Handle(server, control.VerbRestart, n.restart)
	control.Handle(server, control.VerbReload, n.reload)
	control.Handle(server, control.VerbRollback, n.rollback)
	control.Handle(server, control.VerbRevisions, n.revisions)
	control.Handle(server, control.VerbRequest, n.request)
	control.Handle(server, control.VerbEnv, n.env)
	control.Handle(server, control.VerbMaintenance, n.maintenance)
	control.Handle(server, control.VerbUpgrade, n.upgrade)
	control.Handle(server, control.VerbDown, n.down)
	control.Handle(server, control.VerbBan, n.bans.ban)
	control.Handle(server, control.VerbUnban, n.bans.unban)
	control.Handle(server, control.VerbBans, n.bans.list)
	control.Handle(server, control.VerbBusUserAdd, n.users.add)
	control.Handle(server, control.VerbBusUserRevoke, n.users.revoke)
	control.Handle(server, control.VerbBusUsers, n.users.list)
	control.HandleStream(server, control.VerbLogs, n.logs)
	n.handleQueues(server)
	control.Handle(server, control.VerbBackupBus, n.backupBus)
	n.onStop("control socket", func(context.Context) error { return server.Close() })
	return nil
}

// serveControl answers the verbs.
func (n *Node) serveControl() {
	go func() {
		if err := n.control.Serve(); err != nil {
			n.log.Error("control socket closed", wire.KeyError, err)
		}
	}()
}

// allowPeer refuses the instances and what they started: a service must not
// command the system that it is part of.
func (n *Node) allowPeer(pid int) error {
	keeper := n.sup.KeeperPID()
	for p := pid; p > 1; {
		if p == keeper {
			return errors.New("processes of the system may not use its control socket")
		}
		parent, err := parentOf(p)
		if err != nil {
			return fmt.Errorf("look at process %d: %w", p, err)
		}
		p = parent
	}
	return nil
}

// begin waits until no other change goes on. From then on the caller's tell gets
// all events of the node, until it gives the turn back.
func (n *Node) begin(ctx context.Context, tell func(control.Event)) (release func(), err error) {
	if n.stopping.Load() {
		return nil, errStopping()
	}
	take := func() func() {
		end := n.watch(tell)
		return func() { end(); <-n.ops }
	}
	select {
	case n.ops <- struct{}{}:
		return take(), nil
	default:
	}
	why := "waiting until another change is done"
	if n.current() == nil {
		why = "waiting until the system has started"
	}
	tell(control.Event{Time: time.Now(), Kind: control.EventInfo, Text: why})
	select {
	case n.ops <- struct{}{}:
		return take(), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another change: %w", ctx.Err())
	case <-n.done:
		return nil, errStopping()
	}
}

func (n *Node) current() *revision {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.applied
}

// service finds a service of the revision that runs.
func (n *Node) service(name string) (*system.Service, error) {
	sys := n.System()
	svc, ok := sys.Service(name)
	if ok {
		return svc, nil
	}
	names := make([]string, len(sys.Services))
	for i, s := range sys.Services {
		names[i] = s.Name
	}
	return nil, &control.Error{
		Code: "not_found", Message: fmt.Sprintf("there is no service %q", name),
		Hint: "the services are " + strings.Join(names, ", "),
	}
}

// process finds a service that runs here.
func (n *Node) process(name string) (*system.Service, error) {
	svc, err := n.service(name)
	if err == nil && len(svc.External) > 0 {
		return nil, &control.Error{
			Code: control.CodeConflict, Message: name + " is external: something else runs it",
			Hint: "change services." + name + ".external, then fairlead reload",
		}
	}
	return svc, err
}

// traffic says what went through the door since a mark.
func (n *Node) traffic(mark gateway.Mark) *control.Traffic {
	t := n.gate.Since(mark)
	return &control.Traffic{
		Requests: t.Requests, Failed: t.Failed, Stall: t.Stall,
		Connections: control.Carried(t.Connections), Tunnels: control.Carried(t.Tunnels),
	}
}

// census notes what each instance of some services has served, and how many of
// their requests failed at the door.
type census struct {
	at     time.Time
	served map[string]uint64
	failed map[string]uint64
}

func (n *Node) census(services []string) census {
	c := census{at: time.Now(), served: map[string]uint64{}, failed: map[string]uint64{}}
	for _, i := range n.sup.Instances() {
		if slices.Contains(services, i.Service) {
			c.served[i.ID] = n.host.served(i.ID)
		}
	}
	for _, s := range services {
		c.failed[s] = n.gate.Failed(s)
	}
	return c
}

// receipt says what happened to the traffic of a service since before.
func (n *Node) receipt(r supervise.Replaced, before census) control.Receipt {
	count := func(ids []string) []control.Served {
		list := make([]control.Served, len(ids))
		for i, id := range ids {
			list[i] = control.Served{Instance: id, Requests: n.host.served(id) - before.served[id]}
		}
		return list
	}
	return control.Receipt{
		Service: r.Service, Old: count(r.Old), New: count(r.New),
		Failed: n.gate.Failed(r.Service) - before.failed[r.Service],
		Took:   time.Since(before.at),
	}
}

func (n *Node) restart(ctx context.Context, req control.ServiceRequest, tell func(control.Event)) (control.Receipt, error) {
	release, err := n.begin(ctx, tell)
	if err != nil {
		return control.Receipt{}, err
	}
	defer release()
	svc, err := n.process(req.Service)
	if err != nil {
		return control.Receipt{}, err
	}
	if n.replicas(svc) == 0 {
		return control.Receipt{}, &control.Error{
			Code: "conflict", Message: svc.Name + " is stopped", Hint: "fairlead start " + svc.Name,
		}
	}
	before := n.census([]string{svc.Name})
	mark := n.gate.Mark()
	replaced, err := n.sup.Restart(ctx, svc.Name)
	receipt := n.receipt(replaced, before)
	receipt.Traffic = n.traffic(mark)
	return receipt, err
}

// stop ends the instances of a service and records that it shall stay so, until
// start, or until the file changes its number.
func (n *Node) stop(ctx context.Context, req control.ServiceRequest, tell func(control.Event)) (control.ServiceStatus, error) {
	return n.override(ctx, req.Service, tell, func(svc *system.Service) error {
		return n.decide(ctx, svc.Name, 0)
	})
}

// scale changes the number of instances and records it as stop does. The number
// that the file says takes back what was recorded.
func (n *Node) scale(ctx context.Context, req control.ScaleRequest, tell func(control.Event)) (control.ServiceStatus, error) {
	if req.Replicas < 0 || req.Replicas > system.MaxReplicas {
		return control.ServiceStatus{}, &control.Error{
			Code: "usage", Message: fmt.Sprintf("a service has 0 to %d instances, not %d", system.MaxReplicas, req.Replicas),
		}
	}
	return n.override(ctx, req.Service, tell, func(svc *system.Service) error {
		if req.Replicas == svc.Replicas {
			return n.undecide(ctx, svc.Name)
		}
		return n.decide(ctx, svc.Name, req.Replicas)
	})
}

// decide records how many instances the operator wants.
func (n *Node) decide(ctx context.Context, service string, replicas int) error {
	o := control.Override{Replicas: replicas, Since: time.Now()}
	if err := n.state.put(ctx, "override."+service, o); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.overrides[service] = o
	return nil
}

// undecide leaves the number of instances to the file.
func (n *Node) undecide(ctx context.Context, service string) error {
	if err := n.state.remove(ctx, "override."+service); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.overrides, service)
	return nil
}

// start takes back what stop or scale recorded and waits until the instances are ready.
func (n *Node) start(ctx context.Context, req control.ServiceRequest, tell func(control.Event)) (control.ServiceStatus, error) {
	return n.override(ctx, req.Service, tell, func(svc *system.Service) error {
		if svc.Replicas == 0 {
			return &control.Error{
				Code: "conflict", Message: svc.Name + " has replicas: 0 in the file",
				Hint: "set services." + svc.Name + ".replicas, then fairlead reload",
			}
		}
		return n.undecide(ctx, svc.Name)
	})
}

func (n *Node) override(ctx context.Context, name string, tell func(control.Event), decide func(*system.Service) error) (control.ServiceStatus, error) {
	release, err := n.begin(ctx, tell)
	if err != nil {
		return control.ServiceStatus{}, err
	}
	defer release()
	svc, err := n.process(name)
	if err != nil {
		return control.ServiceStatus{}, err
	}
	mark := n.gate.Mark()
	if err := decide(svc); err != nil {
		return control.ServiceStatus{}, err
	}
	wanted := n.replicas(svc)
	n.gate.SetStopped(name, wanted == 0)
	err = n.sup.Scale(ctx, name, wanted)
	if err == nil && wanted > 0 {
		err = n.sup.Await(ctx, name)
	}
	status := n.serviceStatus(svc)
	status.Traffic = n.traffic(mark)
	return status, err
}

// Status returns the state of the system, its services and instances.
func (n *Node) Status() control.Status {
	r := n.current()
	s := control.Status{
		File: n.file, PID: os.Getpid(), KeeperPID: n.sup.KeeperPID(), Version: n.opts.Version,
		Started: n.started, Address: n.gate.URL(), Listening: n.gate.Listening(), Bus: n.bus.URL(), System: n.first.Name,
		BusOutside: n.bus.Outside(), BusStore: n.bus.Store(), Services: []control.ServiceStatus{},
	}
	if err := n.bus.Healthy(); err != nil {
		s.BusFault = err.Error()
	}
	s.Phase = control.PhaseRunning
	switch {
	case n.stopping.Load():
		s.Phase = control.PhaseStopping
	case !n.launched.Load():
		s.Phase = control.PhaseStarting
	}
	if r == nil { // still being built
		return s
	}
	s.Environment, s.Revision, s.Maintenance = r.Environment, r.Number, n.maintenanceStatus()
	s.Certificates, s.Root = n.certificates(), n.certs.Root()
	for i := range r.sys.Services {
		s.Services = append(s.Services, n.serviceStatus(&r.sys.Services[i]))
	}
	return s
}

// externalStatus fills in the state of a service that something else runs. All
// addresses that its names lead to are wanted.
func (n *Node) externalStatus(st *control.ServiceStatus, outside external.Status) {
	st.External, st.Wanted = true, max(len(outside.Endpoints), 1)
	st.Problem = strings.Join(outside.Problems, "; ")
	for _, e := range outside.Endpoints {
		state := control.StateReady
		if e.Ready {
			st.Ready++
		} else {
			state = control.StateDown
			if st.Problem == "" {
				st.Problem = e.Instance + ": " + e.Reason
			}
		}
		st.Instance = append(st.Instance, control.InstanceStatus{
			ID: e.Instance, State: state, Since: e.Since, Address: "tcp " + e.Address,
			Reason: e.Reason, Requests: n.gate.Served(e.Instance),
		})
	}
}

func (n *Node) serviceStatus(svc *system.Service) control.ServiceStatus {
	st := control.ServiceStatus{Name: svc.Name, Wanted: n.replicas(svc), Instance: []control.InstanceStatus{}}
	n.mu.Lock()
	if o, ok := n.overrides[svc.Name]; ok {
		st.Override = &o
	}
	n.mu.Unlock()
	if outside, ok := n.gate.External(svc.Name); ok {
		n.externalStatus(&st, outside)
		return st
	}
	for _, i := range n.sup.Instances() {
		if i.Service != svc.Name {
			continue
		}
		if i.State == supervise.Ready {
			st.Ready++
		} else if i.Reason != "" {
			st.Problem = i.ID + ": " + i.Reason
		}
		address := i.Endpoint.Network
		if i.Endpoint.Address != "" {
			address += " " + i.Endpoint.Address
		}
		st.Instance = append(st.Instance, control.InstanceStatus{
			ID: i.ID, Revision: i.Revision, State: string(i.State), Since: i.Since, PID: i.PID,
			Address: address, Restarts: i.Restarts, Reason: i.Reason, Requests: n.host.served(i.ID),
		})
	}
	if st.Ready >= st.Wanted {
		st.Problem = ""
	}
	return st
}

func (n *Node) revisions(ctx context.Context, _ control.Empty, _ func(control.Event)) ([]control.Revision, error) {
	all, err := n.state.revisions(ctx)
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	list := make([]control.Revision, len(all))
	for i, r := range all {
		list[i] = control.Revision{
			Number: r.Number, Applied: r.Applied, From: r.From, Changes: r.Changes,
			Current: r.Number == n.current().Number,
		}
	}
	return list, nil
}

func (n *Node) logs(ctx context.Context, req control.LogsRequest, emit func(control.Line) error) error {
	if req.Service != "" { // "" is all of them
		if _, err := n.service(req.Service); err != nil {
			return err
		}
	}
	err := n.sup.Logs(ctx, req.Service, req.Instance, req.Follow, req.Tail, func(l supervise.Line) error {
		return emit(control.Line{Time: l.Time, Instance: l.Instance, Stream: l.Stream, Text: l.Text})
	})
	return logsError(req, err)
}

// request asks the bus as the operator. Where the service that answers speaks
// NestJS's format, the data is wrapped for it: it must be JSON, since anything
// else would kill such a service.
func (n *Node) request(ctx context.Context, req control.BusRequest, _ func(control.Event)) (control.BusReply, error) {
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nest := req.Nest
	for _, svc := range n.System().Services {
		if svc.Bus != nil && svc.Bus.Format == system.Nest &&
			slices.ContainsFunc(svc.Bus.Answers, func(p string) bool { return bus.Answered(p, req.Subject) }) {
			nest = true
		}
	}
	m := nats.NewMsg(req.Subject)
	for name, v := range req.Headers {
		m.Header.Set(name, v)
	}
	m.Header.Set(wire.HeaderRequestID, wire.NewRequestID())
	m.Data = req.Data
	if nest {
		if err := wrapNest(m); err != nil {
			return control.BusReply{}, err
		}
	}
	reply, err := n.operator.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return control.BusReply{}, &control.Error{Code: "unavailable", Message: "nobody answers " + req.Subject, Hint: "fairlead status tells which services are ready"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return control.BusReply{}, &control.Error{Code: "timeout", Message: fmt.Sprintf("no answer from %s within %v", req.Subject, timeout)}
	case err != nil:
		return control.BusReply{}, fmt.Errorf("request %s: %w", req.Subject, err)
	}
	out := control.BusReply{Data: reply.Data, Headers: reply.Header, Error: reply.Header.Get(wire.HeaderError), Code: reply.Header.Get(wire.HeaderErrorCode)}
	if nest {
		return unwrapNest(out)
	}
	return out, nil
}

func wrapNest(m *nats.Msg) error {
	data := m.Data
	if len(data) == 0 {
		data = []byte("null")
	}
	if !json.Valid(data) {
		return &control.Error{Code: "usage", Message: "the data for a NestJS service must be JSON"}
	}
	pattern := json.RawMessage(m.Subject) // an object pattern is its own JSON
	if !json.Valid(pattern) {
		pattern, _ = json.Marshal(m.Subject) // a string always has a JSON form
	}
	m.Data = wire.AppendNestRequest(nil, pattern, data, wire.NewRequestID())
	return nil
}

func unwrapNest(out control.BusReply) (control.BusReply, error) {
	reply, err := wire.ParseNestReply(out.Data)
	if err != nil {
		return out, fmt.Errorf("read the reply: %w", err)
	}
	out.Data = reply.Response
	if reply.Err != nil {
		out.Data, out.Error = reply.Err, "the service answered with an error"
	}
	return out, nil
}

func (n *Node) env(_ context.Context, req control.ServiceRequest, _ func(control.Event)) (control.EnvReply, error) {
	svc, err := n.service(req.Service)
	if err != nil {
		return control.EnvReply{}, err
	}
	return control.EnvReply{Service: svc.Name, Variables: variables(svc)}, nil
}

// down stops the system; the answer is sent when its instances have ended, and
// the node's process ends after it.
func (n *Node) down(ctx context.Context, _ control.Empty, tell func(control.Event)) (control.DownReply, error) {
	running := 0
	for _, i := range n.sup.Instances() {
		if i.PID != 0 {
			running++
		}
	}
	defer n.watch(tell)()
	n.stopping.Store(true)
	n.giveUp(ErrDown)
	n.stopUpgrade()
	if pid := n.Successor(); pid != 0 {
		return control.DownReply{}, &control.Error{
			Code: control.CodeConflict, Message: fmt.Sprintf("process %d has just taken over", pid), Hint: "fairlead down, once more",
		}
	}
	n.tell(control.Event{Kind: control.EventInfo, Text: "stopping " + counted(running, "instance")})
	ctx = context.WithoutCancel(ctx)
	closing, cancel := context.WithTimeout(ctx, n.longestDrain())
	defer cancel()
	if err := errors.Join(n.gate.Stop(closing), n.former.finish(closing)); err != nil {
		n.log.WarnContext(ctx, "requests are broken off", wire.KeyError, err)
	}
	err := n.sup.Stop(ctx)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			n.log.ErrorContext(ctx, "system not stopped cleanly", wire.KeyError, err)
		}
	}()
	return control.DownReply{Stopped: running}, err
}

// longestDrain is how long the door waits for open requests when all stops.
func (n *Node) longestDrain() time.Duration {
	longest := time.Duration(0)
	if r := n.current(); r != nil {
		for i := range r.sys.Services {
			longest = max(longest, r.sys.Services[i].Drain)
		}
	}
	if longest == 0 {
		return defaultDrain
	}
	return longest
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}

// parentOf reads a process's parent (proc(5), stat, field 4).
func parentOf(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, errors.New("cannot read /proc")
	}
	return strconv.Atoi(fields[1])
}
