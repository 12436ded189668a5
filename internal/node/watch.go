package node

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/internal/watch"
)

// mostRounds is how often builds may change what is watched before it is taken to be
// what they make.
const mostRounds = 20

// watchCloser names what ends the watching.
const watchCloser = "watch"

// follow applies the file whenever it, or something that a service watches, has
// changed, until the node stops.
func (n *Node) follow(ctx context.Context) error {
	w, err := watch.Open()
	if err != nil {
		return err
	}
	n.watchAll(w)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n.round(ctx, w) {
		}
	}()
	n.onStop(watchCloser, func(context.Context) error {
		cancel()
		<-ended
		return w.Close()
	})
	return nil
}

// watchAll looks at what the revision that runs names.
func (n *Node) watchAll(w *watch.Watcher) {
	roots := []string{n.file}
	for _, svc := range n.System().Services {
		roots = append(roots, svc.Watch...)
	}
	if err := w.Follow(roots); err != nil {
		n.tell(control.Event{Kind: control.EventWarning, Text: "not everything is watched: " + err.Error()})
	}
}

// round waits for a change and takes it up, with those that are made meanwhile. It
// reports false when ctx has ended.
//
// A build may write into the folders that are watched. What changed while a change
// was taken up, and then once more while that was, to no effect, is such a product.
func (n *Node) round(ctx context.Context, w *watch.Watcher) bool {
	paths, err := w.Next(ctx)
	if n.Successor() != 0 {
		return false // it watches by itself
	}
	for rounds := 1; err == nil && len(paths) > 0; rounds++ {
		took := n.takeUp(ctx, paths)
		n.watchAll(w)
		var meanwhile []string
		if meanwhile, err = w.Meanwhile(ctx); err != nil {
			break
		}
		other := slices.ContainsFunc(meanwhile, func(path string) bool { return !slices.Contains(paths, path) })
		if rounds > 1 && !took && !other {
			break
		}
		if rounds == mostRounds && len(meanwhile) > 0 {
			n.tell(control.Event{Kind: control.EventWarning, Text: n.briefly(meanwhile) + " changed with each build: name the sources only, under watch of the service"})
			break
		}
		paths = meanwhile
	}
	return err == nil
}

// takeUp applies the file as it is, and restarts services that run without a build
// and whose own sources changed. It reports whether that made a difference, or
// would have but for a fault.
func (n *Node) takeUp(ctx context.Context, paths []string) bool {
	n.tell(control.Event{Kind: control.EventInfo, Text: "changed: " + n.briefly(paths)})
	quiet := func(control.Event) {} // the node's own events are told anyway
	reply, err := n.reload(ctx, control.ReloadRequest{}, quiet)
	if err != nil {
		n.tellUnapplied(ctx, err)
		return true
	}
	took := reply.Revision != 0
	for _, svc := range n.System().Services {
		if !restarts(&svc, n.System().Dir, paths) || slices.Contains(reply.Replaces, svc.Name) || n.replicas(&svc) == 0 {
			continue
		}
		took = true
		if _, err := n.restart(ctx, control.ServiceRequest{Service: svc.Name}, quiet); err != nil {
			n.tellUnapplied(ctx, err)
		}
	}
	if !took {
		n.tell(control.Event{Kind: control.EventInfo, Text: "nothing came out different"})
	}
	return took
}

// restarts reports whether a service that runs its sources as they are is to run
// them anew. One that watches the system's whole folder, as is the default, is left
// alone: nobody has said which of it are its sources, and it may write there.
func restarts(svc *system.Service, dir string, paths []string) bool {
	return svc.Build == "" && len(svc.External) == 0 && !slices.Contains(svc.Watch, dir) && watch.Within(svc.Watch, paths)
}

// tellUnapplied tells why a change was not applied. The output of a failed build has
// been told already.
func (n *Node) tellUnapplied(ctx context.Context, err error) {
	if ctx.Err() != nil || n.stopping.Load() {
		return
	}
	e := control.ErrorFrom(err)
	if len(e.Findings) > 0 {
		for _, f := range e.Findings {
			n.tell(control.Event{Kind: control.EventWarning, Text: system.Finding(f).String()})
		}
		e.Message = "the file is at fault"
	}
	n.tell(control.Event{Kind: control.EventWarning, Text: unapplied(e)})
}

// unapplied is why a change was not applied, on a line.
func unapplied(e *control.Error) string {
	text := strings.ReplaceAll(strings.ReplaceAll(e.Message, ":\n", ": "), "\n", "; ")
	if e.Hint != "" && !strings.HasPrefix(e.Hint, "nothing changed") {
		text += "; " + e.Hint
	}
	return text + "; what ran before goes on"
}

// briefly names some paths for a person.
func (n *Node) briefly(paths []string) string {
	const most = 3
	var names []string
	for _, path := range paths[:min(len(paths), most)] {
		if rel, err := filepath.Rel(filepath.Dir(n.file), path); err == nil {
			path = rel
		}
		names = append(names, path)
	}
	if more := len(paths) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
