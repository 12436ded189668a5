package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/database"
	"fairlead/internal/gateway"
	"fairlead/internal/supervise"
	"fairlead/internal/system"
)

// launch applies the file for the first time: nothing serves yet, so everything
// is started at once and the door waits, bounded, for who is not ready.
func (n *Node) launch(ctx context.Context) error {
	last, err := n.state.current(ctx)
	if err != nil {
		return err
	}
	before, ran, err := n.state.revision(ctx, last)
	if err != nil {
		return err
	}
	if err := n.keepPrivate(n.first); err != nil {
		return err
	}
	g, err := n.stock(ctx, n.first)
	if err != nil {
		return err
	}
	// Users of the bus may come already, and builds may take long.
	if err := n.users.follow(ctx, n.first, g.secrets); err != nil {
		return err
	}
	if g.rev, err = n.build(ctx, n.first, last+1, before); err != nil {
		return err
	}
	g.rev, err = n.settleNumber(ctx, g.rev, last)
	if err != nil {
		return err
	}
	if ran && g.rev.Number != last {
		n.warnChangedTypes(ctx, before, g.rev.sys)
	}
	n.host.allow(g)
	if err := n.bus.Apply(g.rev.sys); err != nil { //nolint:contextcheck // the bus takes a model as a whole, whatever becomes of the caller
		return lossHint(err)
	}
	if err := n.swap(g.rev, nil, nil); err != nil { //nolint:contextcheck // certificates are asked for beyond the end of a reload
		return err
	}
	for _, svc := range g.rev.sys.Services {
		n.startsFrom(g.rev, []string{svc.Name}, nil)
	}
	if err := errors.Join(n.state.apply(ctx, g.rev.record), n.prune(ctx)); err != nil {
		return err
	}
	return n.sup.Launch(ctx, n.specs(g.rev, func(*system.Service) bool { return true }))
}

// settleNumber gives an `up` of what ran last its number back, and tells how the
// revision differs from it otherwise.
func (n *Node) settleNumber(ctx context.Context, r *revision, last int) (*revision, error) {
	r.Applied = time.Now()
	before, ok, err := n.state.revision(ctx, last)
	if err != nil || !ok {
		return r, err
	}
	old, err := n.load(before)
	if err != nil {
		return r, nil //nolint:nilerr // an old revision that cannot be read any more is no reason not to start
	}
	changes := len(system.Diff(old.sys, r.sys))
	if before.From != 0 && changes > 0 {
		n.tell(control.Event{
			Kind: control.EventWarning,
			Text: fmt.Sprintf("revision %d, which ran last, had taken up revision %d again; the file differs from it and is applied now", before.Number, before.From),
		})
	}
	if changes > 0 || !maps.Equal(before.Builds, r.Builds) {
		r.Changes = changes
		return r, nil
	}
	if err := r.discard(); err != nil {
		return nil, err
	}
	old.sys = r.sys // the same, but for the text of the file
	return old, nil
}

// load reads a revision that was applied earlier.
func (n *Node) load(rec record) (*revision, error) {
	dir := n.revisionDir(rec.Number)
	sys, err := n.stored(rec)
	if err != nil {
		return nil, fmt.Errorf("read revision %d: %w", rec.Number, err)
	}
	return &revision{record: rec, sys: sys, dir: dir}, nil
}

// prepare makes all that the instances of a new revision need, and changes
// nothing of what runs: values of secrets, databases, builds.
func (n *Node) prepare(ctx context.Context, sys *system.System, number int, before record) (*grants, error) {
	if err := n.keepPrivate(sys); err != nil {
		return nil, err
	}
	for _, w := range sys.Warnings {
		n.tell(control.Event{Kind: control.EventWarning, Text: w.String()})
	}
	g, err := n.stock(ctx, sys)
	if err != nil {
		return nil, err
	}
	g.rev, err = n.build(ctx, sys, number, before)
	return g, err
}

// keepPrivate refuses routes that would serve files of the data folder.
func (n *Node) keepPrivate(sys *system.System) error {
	data, err := filepath.EvalSymlinks(n.data)
	if err != nil {
		return fmt.Errorf("find data folder: %w", err)
	}
	for _, r := range sys.Routes {
		if r.Files == nil {
			continue
		}
		folder, err := filepath.EvalSymlinks(r.Files.Dir)
		if err != nil {
			return fmt.Errorf("find files of %s: %w", r.Key, err)
		}
		up, err := filepath.Rel(data, folder)
		if err != nil {
			return fmt.Errorf("find files of %s: %w", r.Key, err)
		}
		down, err := filepath.Rel(folder, data)
		if err != nil {
			return fmt.Errorf("find files of %s: %w", r.Key, err)
		}
		// Below a folder with a dot nothing is served anyway.
		if filepath.IsLocal(up) || filepath.IsLocal(down) && !strings.HasPrefix(down, ".") && !strings.Contains(down, "/.") {
			return &control.Error{
				Code: control.CodeFile, Message: fmt.Sprintf("routes.%q.files: %s would serve fairlead's own data in %s", r.Key, r.Files.Dir, n.data),
				Hint: "serve a folder of its own, or move the data with --data",
			}
		}
	}
	return nil
}

// stock resolves the secrets and databases of sys.
func (n *Node) stock(ctx context.Context, sys *system.System) (*grants, error) {
	values, generated, err := n.secrets.Resolve(sys.Secrets, os.LookupEnv)
	for _, name := range generated {
		n.tell(control.Event{Kind: control.EventSecret, Text: name + ": " + n.secrets.Path(name)})
	}
	if err != nil {
		return nil, err
	}
	urls, created, err := database.Ensure(ctx, filepath.Join(n.data, "databases"), sys.Databases)
	for _, name := range created {
		n.tell(control.Event{Kind: control.EventDatabase, Text: name + ": " + database.Path(filepath.Join(n.data, "databases"), name)})
	}
	if err != nil {
		return nil, err
	}
	return &grants{secrets: values, urls: urls}, nil
}

// specs turns the services of a revision that are wanted into what the
// supervisor runs.
func (n *Node) specs(r *revision, want func(*system.Service) bool) []supervise.Spec {
	var specs []supervise.Spec
	for i := range r.sys.Services {
		svc := &r.sys.Services[i]
		if len(svc.External) > 0 || !want(svc) {
			continue
		}
		specs = append(specs, supervise.Spec{
			Service: svc.Name, Revision: r.Number, Command: r.command(svc), Dir: svc.WorkingDir,
			Replicas: n.replicas(svc), Healthcheck: svc.Healthcheck, UpdateOrder: svc.UpdateOrder,
			StopGracePeriod: svc.StopGracePeriod,
			OnBus:           onBus(svc),
			HTTP:            svc.HTTP,
		})
	}
	return specs
}

// onBus reports whether a service has something to subscribe on the bus.
func onBus(svc *system.Service) bool {
	return svc.Bus != nil && len(svc.Bus.Answers)+len(svc.Bus.Subscribes) > 0
}

// replicas is what the operator decided, else what the file says.
func (n *Node) replicas(svc *system.Service) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o, ok := n.overrides[svc.Name]; ok {
		return o.Replicas
	}
	return svc.Replicas
}

// swap makes r the revision that the door serves, in one go. by holds the ready
// instances of the services that change.
func (n *Node) swap(r *revision, by map[string][]supervise.Instance, removed []string) error {
	secrets := n.host.secrets(r.Number)
	err := n.host.swap(by, removed, func(all map[string][]gateway.Endpoint) error {
		return n.gate.Apply(gateway.Config{
			Gateway: r.sys.Gateway, Routes: r.sys.Routes, Services: r.sys.Services, Endpoints: all, Secrets: secrets, Before: r.settled,
		})
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.applied = r
	n.mu.Unlock()
	for i := range r.sys.Services {
		svc := &r.sys.Services[i]
		n.gate.SetStopped(svc.Name, n.replicas(svc) == 0 && len(svc.External) == 0)
	}
	return nil
}

// plan is what a new revision changes of the one that runs.
type plan struct {
	changes []system.Change
	replace []string // services whose instances are replaced
	removed []string // services that end
	scale   []string // services of which only the number changes
	// credentials is true when what the door, or the bus, compares passwords and keys
	// with changes.
	credentials bool
	// bus is true when the bus must know before the door does: of all but routes that
	// publish nothing.
	bus bool
}

// compare finds what g's revision changes. Without builds (a dry run) only the
// file and the values of secrets are compared.
func (n *Node) compare(old *revision, oldGrants, g *grants, sys *system.System, builds map[string]string) plan {
	p := plan{changes: system.Diff(old.sys, sys)}
	for i := range sys.Services {
		svc := &sys.Services[i]
		was, ok := old.sys.Service(svc.Name)
		switch {
		case len(svc.External) > 0:
			if ok && len(was.External) == 0 {
				p.removed = append(p.removed, svc.Name)
			}
		case !ok, !system.ServiceEqual(was, svc),
			builds != nil && old.Builds[svc.Name] != builds[svc.Name],
			!grantsEqual(oldGrants, g, svc):
			p.replace = append(p.replace, svc.Name)
		case was.Replicas != svc.Replicas:
			p.scale = append(p.scale, svc.Name)
		}
	}
	for _, svc := range old.sys.Services {
		if _, ok := sys.Service(svc.Name); !ok {
			p.removed = append(p.removed, svc.Name)
		}
	}
	p.credentials = oldGrants != nil && slices.ContainsFunc(slices.Concat(sys.DoorSecrets(), sys.BusSecrets()), func(name string) bool {
		return oldGrants.secrets[name] != g.secrets[name]
	})
	p.bus = len(p.replace) > 0 || p.credentials || !slices.Equal(published(old.sys), published(sys)) ||
		slices.ContainsFunc(p.changes, func(c system.Change) bool { return !strings.HasPrefix(c.Path, "routes.") })
	return p
}

// published are the subjects that routes publish to.
func published(sys *system.System) (subjects []string) {
	for i := range sys.Routes {
		if to := sys.Routes[i].Publish; to != nil {
			subjects = append(subjects, to.Subject)
		}
	}
	return subjects
}

func grantsEqual(a, b *grants, svc *system.Service) bool {
	if a == nil {
		return true
	}
	for _, name := range svc.Secrets {
		if a.secrets[name] != b.secrets[name] {
			return false
		}
	}
	for _, name := range svc.Databases {
		if a.urls[name] != b.urls[name] {
			return false
		}
	}
	return true
}

// fixed refuses what a running node cannot change.
func fixed(old, next *system.System) error {
	refuse := func(field, from, to string) error {
		return &control.Error{
			Code:    "fixed",
			Message: fmt.Sprintf("%s cannot change while the system runs: it is %s, the file says %s", field, from, to),
			Hint:    "fairlead down, then fairlead up",
		}
	}
	switch {
	case old.Name != next.Name:
		return refuse("system", old.Name, next.Name)
	case old.Bus.Listen != next.Bus.Listen:
		return refuse("bus.listen", old.Bus.Listen, next.Bus.Listen)
	case elsewhereOf(old) != elsewhereOf(next):
		return refuse("where the bus keeps its store", storeName(old), storeName(next))
	}
	return nil
}

// reload applies the file as it is now.
func (n *Node) reload(ctx context.Context, req control.ReloadRequest, tell func(control.Event)) (reply control.ReloadReply, err error) {
	release, err := n.begin(ctx, tell)
	if err != nil {
		return control.ReloadReply{}, err
	}
	defer release()
	old := n.current()
	defer func() { err = goesOn(err, reply, old) }()
	environment := req.Environment
	if environment == "" {
		environment = old.Environment
	}
	sys, err := system.Load(n.file, system.Options{Environment: environment, Before: old.sys})
	if err != nil {
		return control.ReloadReply{}, err
	}
	if err := fixed(old.sys, sys); err != nil {
		return control.ReloadReply{}, err
	}
	if !req.ForceTypes {
		if err := checkTypes(old.sys, sys); err != nil {
			return control.ReloadReply{}, err
		}
	}
	warnings, err := n.leftBehind(ctx, old.sys, sys)
	if err != nil {
		return control.ReloadReply{}, err
	}
	if req.DryRun {
		if err := errors.Join(n.keepPrivate(sys), n.checkQueues(ctx, sys)); err != nil {
			return control.ReloadReply{}, err
		}
		p := n.compare(old, nil, nil, sys, nil)
		return control.ReloadReply{Changes: changes(p.changes), Replaces: p.replace, Warnings: warnings}, nil
	}
	g, err := n.prepare(ctx, sys, n.nextNumber(ctx, old), old.record)
	if err != nil {
		return control.ReloadReply{}, err
	}
	reply, err = n.apply(ctx, old, g)
	if reply.Revision != 0 {
		reply.Warnings = warnings
		for _, text := range warnings {
			n.tell(control.Event{Kind: control.EventWarning, Text: text})
		}
	}
	return reply, err
}

// rollback takes an earlier revision up again, as a new one, with what its builds
// left.
func (n *Node) rollback(ctx context.Context, req control.RollbackRequest, tell func(control.Event)) (reply control.ReloadReply, err error) {
	release, err := n.begin(ctx, tell)
	if err != nil {
		return control.ReloadReply{}, err
	}
	defer release()
	old := n.current()
	defer func() { err = goesOn(err, reply, old) }()
	all, err := n.state.revisions(ctx)
	if err != nil {
		return control.ReloadReply{}, err
	}
	i := slices.IndexFunc(all, func(r record) bool {
		if req.Revision == 0 {
			return r.Number < old.Number
		}
		return r.Number == req.Revision
	})
	switch {
	case i < 0 && req.Revision == 0:
		return control.ReloadReply{}, &control.Error{Code: "not_found", Message: "there is no revision before this one"}
	case i < 0:
		return control.ReloadReply{}, &control.Error{
			Code: "not_found", Message: fmt.Sprintf("there is no revision %d", req.Revision),
			Hint: "fairlead revisions lists those that are kept",
		}
	case all[i].Number == old.Number:
		return control.ReloadReply{}, &control.Error{Code: "conflict", Message: fmt.Sprintf("revision %d runs already", old.Number)}
	}
	rev, err := n.reuse(all[i], n.nextNumber(ctx, old))
	if err != nil {
		return control.ReloadReply{}, err
	}
	g := &grants{}
	if err = errors.Join(fixed(old.sys, rev.sys), n.keepPrivate(rev.sys)); err == nil {
		g, err = n.stock(ctx, rev.sys)
	}
	if err != nil {
		return control.ReloadReply{}, errors.Join(err, rev.discard())
	}
	g.rev = rev
	n.warnTypes(ctx, old.sys, rev.sys)
	return n.apply(ctx, old, g)
}

// goesOn adds to the error of a change that came to nothing that the revision
// before is still served.
func goesOn(err error, reply control.ReloadReply, old *revision) error {
	if err == nil || reply.Revision != 0 {
		return err
	}
	e := control.ErrorFrom(err)
	if e.Hint == "" {
		e.Hint = fmt.Sprintf("nothing changed; revision %d goes on", old.Number)
	}
	return e
}

// nextNumber is one above every number that was ever recorded. One that a node before
// recorded, but did not come to run, may be above the one that runs.
func (n *Node) nextNumber(ctx context.Context, old *revision) int {
	if all, err := n.state.revisionNumbers(ctx); err == nil && len(all) > 0 {
		return max(old.Number, all[0]) + 1
	}
	return old.Number + 1
}

// apply replaces the revision that runs by g's: it starts everything new, swaps
// once, drains the old. Until the swap, a failure changes nothing.
func (n *Node) apply(ctx context.Context, old *revision, g *grants) (reply control.ReloadReply, err error) {
	rev := g.rev
	swapped := false
	defer func() {
		if err != nil && !swapped {
			err = errors.Join(err, rev.discard())
		}
	}()
	n.host.mu.Lock()
	oldGrants := n.host.grants[old.Number]
	n.host.mu.Unlock()
	p := n.compare(old, oldGrants, g, rev.sys, rev.Builds)
	reply = control.ReloadReply{Changes: changes(p.changes), Replaces: p.replace}
	if len(p.changes) == 0 && len(p.replace) == 0 && !p.credentials {
		return reply, rev.discard()
	}
	rev.Changes, rev.Applied = len(p.changes), time.Now()

	n.host.allow(g)
	if p.bus {
		if err := n.bus.Apply(rev.sys); err != nil { //nolint:contextcheck // the bus takes a model as a whole, whatever becomes of the caller
			return reply, lossHint(err)
		}
	}
	mark := n.gate.Mark()
	before := n.census(append(slices.Clone(p.replace), p.removed...))
	fallBack := func(err error) error { return errors.Join(err, n.bus.Apply(old.sys)) } //nolint:contextcheck // the bus takes a model as a whole, whatever becomes of the caller

	cleared := n.clearOverrides(old.sys, rev.sys)
	specs := n.specs(rev, func(svc *system.Service) bool { return slices.Contains(p.replace, svc.Name) })
	change, err := n.sup.Prepare(ctx, specs, p.removed)
	if err != nil {
		n.restoreOverrides(cleared)
		return reply, fallBack(err)
	}
	if err := n.swap(rev, n.readyAfter(change, rev.sys), p.removed); err != nil { //nolint:contextcheck // certificates are asked for beyond the end of a reload
		n.restoreOverrides(cleared)
		return reply, errors.Join(fallBack(err), change.Abort(context.WithoutCancel(ctx)))
	}
	swapped = true
	reply.Revision = rev.Number
	n.tell(control.Event{Kind: control.EventSwapped, Text: fmt.Sprintf("the door serves revision %d", rev.Number)})

	// From here on the new revision is what runs, whatever becomes of the caller.
	ctx = context.WithoutCancel(ctx)
	var errs []error
	n.startsFrom(rev, p.replace, p.removed)
	if url := n.gate.URL(); url != n.lock.Address {
		errs = append(errs, n.lock.announce(url))
		n.tell(control.Event{Kind: control.EventListening, Text: url})
	}
	errs = append(errs, n.users.follow(ctx, rev.sys, g.secrets), n.state.apply(ctx, rev.record), n.forgetOverrides(ctx, cleared), n.keepMaintenance(ctx, old.sys, rev.sys))
	replaced, err := change.Commit(ctx)
	errs = append(errs, err)
	for _, name := range p.scale {
		svc, _ := rev.sys.Service(name)
		errs = append(errs, n.sup.Scale(ctx, name, n.replicas(svc)))
	}
	errs = append(errs, n.bus.Apply(rev.sys), n.prune(ctx)) //nolint:contextcheck // the bus takes a model as a whole, whatever becomes of the caller
	n.host.forget(n.inUse)
	n.warnUnanswered(rev, p.replace)
	for _, r := range replaced {
		reply.Receipts = append(reply.Receipts, n.receipt(r, before))
	}
	reply.Traffic = n.traffic(mark)
	if len(rev.sys.Routes)+len(old.sys.Routes) > manyRoutes {
		go runtime.GC()
	}
	return reply, errors.Join(errs...)
}

// manyRoutes is from how many routes on the garbage that a change leaves is collected
// right after it: some megabytes, which would sooner or later make a change wait in the
// middle, three times as long as without.
const manyRoutes = 1000

// warnUnanswered tells of routes to subjects that a service which was left alone
// does not answer. One that was started now would not have become ready.
func (n *Node) warnUnanswered(rev *revision, replaced []string) {
	told := map[string]bool{}
	for _, i := range n.sup.Instances() {
		if i.State != supervise.Ready || slices.Contains(replaced, i.Service) {
			continue
		}
		reg, err := n.bus.Registered(i.ID)
		if err != nil { // it has no part in the bus, or has just ended
			continue
		}
		for _, subject := range n.host.missing(i.ID, reg) {
			if text := fmt.Sprintf("a route of revision %d asks %s, which %s does not answer", rev.Number, subject, i.Service); !told[text] {
				told[text] = true
				n.tell(control.Event{Kind: control.EventWarning, Service: i.Service, Text: text})
			}
		}
	}
}

// readyAfter says which instances the pools hold right after the swap: the new
// ones of services that start first, and still the old ones of those that stop
// first.
func (n *Node) readyAfter(c *supervise.Change, sys *system.System) map[string][]supervise.Instance {
	by := map[string][]supervise.Instance{}
	for _, i := range c.Ready() {
		by[i.Service] = append(by[i.Service], i)
	}
	for _, svc := range sys.Services {
		if svc.UpdateOrder == system.StopFirst {
			delete(by, svc.Name)
		}
	}
	return by
}

// startsFrom records that instances of these services are started from revision r.
func (n *Node) startsFrom(r *revision, services, removed []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range services {
		n.runs[name] = r.Number
	}
	for _, name := range removed {
		delete(n.runs, name)
	}
}

// inUse tells whether instances run, or can still be started, from a revision.
func (n *Node) inUse(number int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, used := range n.runs {
		if used == number {
			return true
		}
	}
	return n.applied.Number == number
}

// clearOverrides drops the overrides of those services whose number of replicas
// the file changes, and returns them.
func (n *Node) clearOverrides(old, next *system.System) map[string]control.Override {
	n.mu.Lock()
	defer n.mu.Unlock()
	cleared := map[string]control.Override{}
	for name, o := range n.overrides {
		was, ok := old.Service(name)
		is, still := next.Service(name)
		if !ok || !still || was.Replicas != is.Replicas {
			cleared[name] = o
			delete(n.overrides, name)
		}
	}
	return cleared
}

func (n *Node) restoreOverrides(cleared map[string]control.Override) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.Copy(n.overrides, cleared)
}

func (n *Node) forgetOverrides(ctx context.Context, cleared map[string]control.Override) error {
	var errs []error
	for name := range cleared {
		errs = append(errs, n.state.remove(ctx, "override."+name))
	}
	return errors.Join(errs...)
}

func changes(diff []system.Change) []control.Change {
	list := make([]control.Change, len(diff))
	for i, c := range diff {
		list[i] = control.Change{Path: c.Path, Old: c.Old, New: c.New, Kind: string(c.Kind)}
	}
	return list
}
