package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fairlead/internal/bus"
	"fairlead/internal/gateway"
	"fairlead/internal/supervise"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// host is what the supervisor sees of the rest of the node: it hands out what an
// instance is granted, and puts instances into and out of the traffic.
type host struct {
	n *Node

	mu sync.Mutex // guards all below
	// grants holds, per revision, what its instances are given.
	grants map[int]*grants
	// ready holds the instances that take traffic, by service.
	ready map[string][]supervise.Instance
	// born holds what an instance was started as, while it lives.
	born map[string]supervise.Spec
	// seen is the last look at an instance's registration on the bus.
	seen map[string]look
	// answered keeps what an instance got over the bus, once it cannot be asked any more.
	answered map[string]uint64
	// carried is what instances got over HTTP from processes before this one.
	carried map[string]uint64
}

// grants is what the instances of one revision may be given.
type grants struct {
	rev     *revision
	secrets map[string]string // name -> value
	urls    map[string]string // database -> URL
}

// look is one observation of an instance on the bus.
type look struct {
	at    time.Time
	count int
}

// settled is how long an instance's subscriptions must stay the same until they
// count as complete. A client sends them in one go; what matters is that they
// are not looked at while the server is reading them.
const settled = 15 * time.Millisecond

func newHost(n *Node) *host {
	return &host{
		n: n, grants: map[int]*grants{}, ready: map[string][]supervise.Instance{},
		born: map[string]supervise.Spec{}, seen: map[string]look{}, answered: map[string]uint64{},
	}
}

func (h *host) allow(g *grants) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grants[g.rev.Number] = g
}

// secrets returns the values of a revision's secrets, for the door.
func (h *host) secrets(number int) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.grants[number]; g != nil {
		return g.secrets
	}
	return nil
}

// forget drops the grants of revisions that no instance can be started from.
func (h *host) forget(keep func(revision int) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for number := range h.grants {
		if !keep(number) {
			delete(h.grants, number)
		}
	}
}

// passed are the operator's variables that every instance gets.
var passed = []string{"PATH", "HOME", "LANG", "TZ", "TMPDIR"}

// Grant gives an instance its environment: what the file grants and nothing else.
func (h *host) Grant(_ context.Context, s supervise.Spec, id string) ([]string, error) {
	h.mu.Lock()
	g := h.grants[s.Revision]
	h.born[id] = s
	h.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("grant %s: revision %d is gone", id, s.Revision)
	}
	svc, ok := g.rev.sys.Service(s.Service)
	if !ok {
		return nil, fmt.Errorf("grant %s: revision %d has no service %s", id, s.Revision, s.Service)
	}
	env := map[string]string{}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env[name] = v
		}
	}
	for name, v := range svc.Environment {
		env[name] = outVariable.ReplaceAllLiteralString(v, g.rev.out(svc.Name))
	}
	if err := h.grantSecrets(env, svc, g); err != nil {
		return nil, fmt.Errorf("grant %s: %w", id, err)
	}
	for _, name := range svc.Databases {
		env[databaseVariable(name)] = g.urls[name]
		if len(svc.Databases) == 1 {
			env[wire.EnvDatabaseURL] = g.urls[name]
		}
	}
	env[wire.EnvSystem] = g.rev.sys.Name
	env[wire.EnvService] = svc.Name
	env[wire.EnvInstance] = id
	env[wire.EnvIdentityKey] = h.n.identityKey()
	env[wire.EnvGrace] = svc.StopGracePeriod.String()
	if svc.Bus != nil {
		cred, err := h.n.bus.Issue(svc.Name, id)
		if err != nil {
			return nil, fmt.Errorf("grant %s: %w", id, err)
		}
		env[wire.EnvNATSURL] = cred.URL
		env[wire.EnvNATSUser] = cred.User
		env[wire.EnvNATSPass] = cred.Password
		env[wire.EnvNATSInbox] = cred.InboxPrefix
		env[wire.EnvQueues] = queueNames(g.rev.sys)
		if svc.Bus.Group != "" {
			env[wire.EnvGroup] = svc.Bus.Group
		}
	}
	list := make([]string, 0, len(env))
	for name, v := range env {
		list = append(list, name+"="+v)
	}
	slices.Sort(list)
	return list, nil
}

// queueNames are the names of all queues, with spaces between them.
func queueNames(sys *system.System) string {
	names := make([]string, len(sys.Queues))
	for i := range sys.Queues {
		names[i] = sys.Queues[i].Name
	}
	return strings.Join(names, " ")
}

// grantSecrets gives each secret as a variable and as a file. The files are
// those of the service in its revision: a value that changes does so under
// another name.
func (h *host) grantSecrets(env map[string]string, svc *system.Service, g *grants) error {
	if len(svc.Secrets) == 0 {
		return nil
	}
	dir := filepath.Join(h.n.secretFiles(), strconv.Itoa(g.rev.Number), svc.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range svc.Secrets {
		value, ok := g.secrets[name]
		if !ok {
			return fmt.Errorf("secret %s has no value", name)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			return err
		}
		env[name] = value
		env[name+"_FILE"] = path
	}
	return nil
}

// secretFiles is the folder of the files that give instances their secrets. It
// exists only while the system runs.
func (n *Node) secretFiles() string { return filepath.Join(n.data, "run", "secrets") }

// Unregistered says what the instance lacks on the bus: it must answer every
// subject that the door sends it, and have subscribed nothing more since the
// last look.
func (h *host) Unregistered(id string) string {
	reg, err := h.n.bus.Registered(id)
	switch {
	case err != nil:
		return "is unknown to the bus: " + err.Error()
	case !reg.Connected:
		return "has not connected to the bus: it must use " + wire.EnvNATSURL + ", " + wire.EnvNATSUser + " and " + wire.EnvNATSPass
	case reg.Subscriptions+reg.Consumers == 0:
		return "has subscribed nothing of what it answers or subscribes"
	}
	now := time.Now()
	h.mu.Lock()
	last, again := h.seen[id]
	if count := reg.Subscriptions + reg.Consumers; !again || last.count != count {
		last = look{now, count}
		h.seen[id] = last
	}
	h.mu.Unlock()
	if missing := h.missing(id, reg); len(missing) > 0 {
		return "is on the bus, but does not answer " + strings.Join(missing, " and ") + ", which a route asks"
	}
	if now.Sub(last.at) < settled {
		return "is on the bus, but its subscriptions are not settled yet"
	}
	return ""
}

// missing returns the subjects that the door sends the instance's service and
// the instance has not subscribed to.
func (h *host) missing(id string, reg bus.Registration) []string {
	h.mu.Lock()
	spec := h.born[id]
	g := h.grants[spec.Revision]
	h.mu.Unlock()
	if g == nil {
		return nil
	}
	routes := g.rev.sys.Routes
	if running := h.n.current(); running != nil && running.Number > g.rev.Number {
		routes = running.sys.Routes // a service that reloads left alone
	}
	var missing []string
	for _, r := range routes {
		if r.Request == nil || r.Request.Service != spec.Service {
			continue
		}
		want := wildcards(r.Request.Subject)
		if !slices.Contains(missing, want) && !slices.ContainsFunc(reg.Patterns, func(p string) bool { return bus.Overlap(p, want) }) {
			missing = append(missing, want)
		}
	}
	return missing
}

// Admit puts an instance into its service's pool.
func (h *host) Admit(i supervise.Instance) {
	h.mu.Lock()
	list := h.ready[i.Service]
	if !slices.ContainsFunc(list, sameID(i.ID)) {
		list = append(slices.Clip(list), i)
		h.ready[i.Service] = list
	}
	h.route(i.Service, list)
	h.mu.Unlock()
}

// route tells the door, and the one of a former process, which instances of a
// service take traffic. The mutex is held.
func (h *host) route(service string, list []supervise.Instance) {
	eps := endpoints(list)
	h.n.gate.SetEndpoints(service, eps)
	h.n.former.say(sayEndpoints, told{Service: service, Endpoints: eps})
}

// defaultDrain is the drain time of a service that is in no file any more.
const defaultDrain = 30 * time.Second

// Withdraw takes an instance out of the traffic and returns when it has answered
// all that it was asked, when the service's drain time is over, or ctx ends.
func (h *host) Withdraw(ctx context.Context, i supervise.Instance) {
	ctx, cancel := context.WithTimeout(ctx, h.drainTime(i))
	defer cancel()
	h.leave(i)
	answered, err := h.n.bus.Drain(i.ID)
	switch {
	case errors.Is(err, bus.ErrUnknownInstance): // it has no part in the bus
	case err != nil:
		h.n.log.WarnContext(ctx, "instance not drained on the bus", wire.KeyInstance, i.ID, wire.KeyError, err)
	default:
		h.remember(i.ID, answered)
	}
	var elsewhere sync.WaitGroup
	elsewhere.Go(func() { h.n.former.drain(ctx, i) })
	defer elsewhere.Wait()
	if err := h.n.gate.Drain(ctx, i.Service, i.ID); err != nil && !errors.Is(err, context.Canceled) {
		h.n.log.WarnContext(ctx, "requests are open on an instance that stops", wire.KeyInstance, i.ID, wire.KeyError, err)
	}
}

// drainTime is how long what is open may stay on an instance that leaves: as the
// file says now, else as it said when the instance was started.
func (h *host) drainTime(i supervise.Instance) time.Duration {
	if running := h.n.current(); running != nil {
		if svc, ok := running.sys.Service(i.Service); ok && svc.Drain > 0 {
			return svc.Drain
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.grants[i.Revision]; g != nil {
		if svc, ok := g.rev.sys.Service(i.Service); ok && svc.Drain > 0 {
			return svc.Drain
		}
	}
	return defaultDrain
}

// Gone is told that an instance's process has ended, expected or not.
func (h *host) Gone(i supervise.Instance) {
	if reg, err := h.n.bus.Registered(i.ID); err == nil && reg.Delivered > 0 {
		h.remember(i.ID, reg.Delivered)
	}
	h.leave(i)
	// Its credentials go first: then the server has dropped its subscriptions,
	// and what is sent again cannot reach it.
	if err := h.n.bus.Revoke(i.ID); err != nil {
		h.n.log.Warn("credentials not revoked", wire.KeyInstance, i.ID, wire.KeyError, err)
	}
	h.n.gate.Lost(i.Service, i.ID)
	h.n.former.say(sayLost, told{Service: i.Service, Instance: i.ID})
	if err := h.n.bus.GiveBack(i.Service); err != nil {
		h.n.log.Warn("messages of an instance that is gone are given again when their time is over", wire.KeyInstance, i.ID, wire.KeyError, err)
	}
	h.mu.Lock()
	delete(h.seen, i.ID)
	delete(h.born, i.ID)
	h.mu.Unlock()
}

func (h *host) leave(i supervise.Instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.ready[i.Service]
	k := slices.IndexFunc(list, sameID(i.ID))
	if k < 0 {
		return
	}
	list = slices.Delete(slices.Clone(list), k, k+1)
	h.ready[i.Service] = list
	h.route(i.Service, list)
}

// remember keeps an instance's count for receipts and the status. Ids are never
// used again, so the map is bounded by cutting off old ones.
func (h *host) remember(id string, answered uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.answered) > 4096 {
		clear(h.answered)
	}
	h.answered[id] = max(h.answered[id], answered)
}

// served counts the requests that an instance got, over HTTP and the bus.
func (h *host) served(id string) uint64 {
	var answered uint64
	if reg, err := h.n.bus.Registered(id); err == nil {
		answered = reg.Delivered
	}
	h.mu.Lock()
	answered = max(answered, h.answered[id]) + h.carried[id]
	h.mu.Unlock()
	return answered + h.n.gate.Served(id)
}

// counts puts what the instances that live got over HTTP into served, and returns
// what others got over the bus.
func (h *host) counts(served map[string]uint64) (answered map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.born {
		served[id] = h.carried[id] + h.n.gate.Served(id)
	}
	return maps.Clone(h.answered)
}

// inherit takes over what a former process knew of the instances.
func (h *host) inherit(t taking) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.carried = t.Served
	if t.Answered != nil {
		h.answered = t.Answered
	}
	for _, svc := range t.Instances.Services {
		for _, p := range svc.Places {
			if p.Process != nil {
				h.born[p.Instance.ID] = p.Spec
			}
		}
	}
}

// swap sets the instances of several services at once, and hands what all pools
// then hold to apply, which swaps the gateway's table. No instance comes or goes
// in between. If apply fails, nothing has changed.
func (h *host) swap(by map[string][]supervise.Instance, removed []string, apply func(map[string][]gateway.Endpoint) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := maps.Clone(h.ready)
	maps.Copy(next, by)
	for _, service := range removed {
		delete(next, service)
	}
	all := make(map[string][]gateway.Endpoint, len(next))
	for service, list := range next {
		all[service] = endpoints(list)
	}
	if err := apply(all); err != nil {
		return err
	}
	h.ready = next
	for service, eps := range all {
		h.n.former.say(sayEndpoints, told{Service: service, Endpoints: eps})
	}
	return nil
}

func sameID(id string) func(supervise.Instance) bool {
	return func(i supervise.Instance) bool { return i.ID == id }
}

func endpoints(list []supervise.Instance) []gateway.Endpoint {
	eps := make([]gateway.Endpoint, len(list))
	for i, inst := range list {
		eps[i] = gateway.Endpoint{Instance: inst.ID, Network: inst.Endpoint.Network, Address: inst.Endpoint.Address}
	}
	return eps
}
