package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/node"
	"fairlead/internal/system"
)

// fakeNode is a node that tells the events it was given.
type fakeNode struct {
	opts  node.Options
	sys   *system.System
	start func(ctx context.Context, n *fakeNode) error
	stop  func(n *fakeNode) error
	kill  chan struct{}
	made  chan struct{} // closed when opts is set

	await   error
	done    chan struct{}
	once    sync.Once
	stopped error
	stops   int
}

func (n *fakeNode) tell(kind control.EventKind, service, instance, text string, took time.Duration) {
	<-n.made
	n.opts.Events(control.Event{Time: time.Now(), Kind: kind, Service: service, Instance: instance, Text: text, Took: took})
}

func (n *fakeNode) Start(ctx context.Context) error {
	if err := n.start(ctx, n); err != nil {
		return errors.Join(err, n.Stop(ctx))
	}
	return nil
}

func (n *fakeNode) Await(ctx context.Context) error {
	if n.await != nil {
		<-ctx.Done()
	}
	return n.await
}

func (n *fakeNode) Stop(context.Context) error {
	n.once.Do(func() {
		n.stops++
		if n.stop != nil {
			n.stopped = n.stop(n)
		}
		close(n.done)
	})
	return n.stopped
}

func (n *fakeNode) Kill()                  { close(n.kill) }
func (n *fakeNode) Done() <-chan struct{}  { return n.done }
func (n *fakeNode) Successor() int         { return 0 }
func (n *fakeNode) URL() string            { return "http://127.0.0.1:3005" }
func (n *fakeNode) System() *system.System { return n.sys }

func (n *fakeNode) Status() control.Status {
	var st control.Status
	for _, svc := range n.sys.Services {
		st.Services = append(st.Services, control.ServiceStatus{Name: svc.Name, Wanted: svc.Replicas})
	}
	return st
}

// comeUp is a start as it should be.
func comeUp(_ context.Context, n *fakeNode) error {
	n.tell(control.EventSecret, "", "", "ADMIN_PASSWORD: /srv/commerce/.fairlead/secrets/ADMIN_PASSWORD", 0)
	n.tell(control.EventDatabase, "", "", "trade: /srv/commerce/.fairlead/databases/trade/trade.db", 0)
	n.tell(control.EventBuilding, "auth", "", "", 0)
	n.tell(control.EventBuilding, "tradeflow", "", "", 0)
	time.Sleep(1200 * time.Millisecond)
	n.tell(control.EventBuilt, "auth", "", "", 1200*time.Millisecond)
	time.Sleep(time.Second)
	n.tell(control.EventBuilt, "tradeflow", "", "", 2200*time.Millisecond)
	for _, i := range []string{"auth-1", "tradeflow-1", "tradeflow-2"} {
		n.tell(control.EventStarting, i[:len(i)-2], i, "", 0)
	}
	n.tell(control.EventListening, "", "", n.URL(), 0)
	time.Sleep(300 * time.Millisecond)
	for _, i := range []string{"auth-1", "tradeflow-1", "tradeflow-2"} {
		n.tell(control.EventReady, i[:len(i)-2], i, "", 300*time.Millisecond)
	}
	return nil
}

// goDown is a stop as it should be; it takes as long as it is given.
func goDown(took time.Duration) func(*fakeNode) error {
	return func(n *fakeNode) error {
		ids := []string{"auth-1", "tradeflow-1", "tradeflow-2"}
		for _, i := range ids {
			n.tell(control.EventDraining, i[:len(i)-2], i, "", 0)
		}
		select {
		case <-n.kill:
		case <-time.After(took):
		}
		for _, i := range ids {
			n.tell(control.EventStopped, i[:len(i)-2], i, "", took)
		}
		return nil
	}
}

type upRun struct {
	n       *fakeNode
	out     *bytes.Buffer
	err     *bytes.Buffer
	term    *terminal
	signals chan os.Signal
	code    chan int
}

// runUp begins `up` on a fake node, in a bubble of virtual time.
func runUp(t *testing.T, n *fakeNode, live bool, args ...string) *upRun {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("system: commerce\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &upRun{n: n, out: &bytes.Buffer{}, err: &bytes.Buffer{}, term: &terminal{}, signals: make(chan os.Signal, 4), code: make(chan int, 1)}
	n.kill, n.done, n.made = make(chan struct{}), make(chan struct{}), make(chan struct{})
	if n.sys == nil {
		n.sys = &system.System{Name: "commerce", Services: []system.Service{
			{Name: "auth", Replicas: 1}, {Name: "mail", Replicas: 0}, {Name: "tradeflow", Replicas: 2, StopGracePeriod: 10 * time.Second},
		}}
	}
	a := newApp(strings.NewReader(""), r.out, r.err, func(string) string { return "" })
	if live {
		a.out = &screen{w: r.term, live: true, utf8: true, size: func() (int, int) { return 200, 30 }}
	}
	a.phase = func(e *node.RunningError) control.Phase {
		if e.PID == 78 {
			return control.PhaseStopping
		}
		return control.PhaseRunning
	}
	a.signals = func(...os.Signal) (<-chan os.Signal, func()) { return r.signals, func() {} }
	a.start = func(o node.Options) (runner, error) {
		n.opts = o
		close(n.made)
		return n, nil
	}
	go func() { r.code <- a.main(append([]string{"up", dir}, args...)) }()
	return r
}

// text is what was shown, without the folder of this run.
func (r *upRun) text(t *testing.T) string {
	t.Helper()
	s := r.out.String() + r.term.String()
	if r.err.Len() > 0 {
		s += "-- standard error --\n" + r.err.String()
	}
	file := brief(filepath.Join(filepath.Dir(r.n.opts.Path), fileName))
	s = strings.ReplaceAll(s, file, "/srv/commerce/fairlead.yaml")
	s = strings.ReplaceAll(s, brief(filepath.Dir(r.n.opts.Path)), "/srv/commerce")
	return strings.ReplaceAll(s, filepath.Dir(r.n.opts.Path), "/srv/commerce")
}

func TestUp(t *testing.T) {
	running := errors.New("not run by the test")
	tests := []struct {
		name  string
		node  *fakeNode
		drive func(t *testing.T, r *upRun)
		code  int
	}{
		{
			name: "interrupt", node: &fakeNode{start: comeUp, stop: goDown(1300 * time.Millisecond)}, code: exitDone,
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(5 * time.Second)
				r.n.tell(control.EventBackoff, "auth", "auth-1", "exited with code 1; next try in 2s", 0)
				time.Sleep(2 * time.Second)
				r.n.tell(control.EventStarting, "auth", "auth-2", "", 0)
				r.n.tell(control.EventBackoff, "auth", "auth-2", "exited with code 1; 2 times in a row, next try in 4s", 0)
				time.Sleep(4 * time.Second)
				r.n.tell(control.EventStarting, "auth", "auth-3", "", 0)
				r.n.tell(control.EventReady, "auth", "auth-3", "", 250*time.Millisecond)
				time.Sleep(time.Hour)
				r.signals <- os.Interrupt
			},
		},
		{
			name: "kill", node: &fakeNode{start: comeUp, stop: goDown(time.Hour)}, code: exitFailed,
			drive: func(t *testing.T, r *upRun) {
				t.Helper()
				time.Sleep(5 * time.Second)
				r.signals <- syscall.SIGTERM
				r.signals <- syscall.SIGTERM // the same, passed on twice
				time.Sleep(2 * time.Second)
				select {
				case <-r.n.kill:
					t.Error("a signal that came twice at once killed")
				default:
				}
				r.signals <- os.Interrupt
			},
		},
		{
			name: "down", node: &fakeNode{start: comeUp, stop: goDown(0)}, code: exitDone,
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(5 * time.Second)
				_ = r.n.Stop(context.Background())
			},
		},
		{
			name: "interrupt while building", code: exitDone,
			node: &fakeNode{start: func(ctx context.Context, n *fakeNode) error {
				n.tell(control.EventBuilding, "auth", "", "", 0)
				<-ctx.Done()
				return fmt.Errorf("build auth: %w", ctx.Err())
			}},
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(1500 * time.Millisecond)
				r.signals <- os.Interrupt
			},
		},
		{
			name: "build fails", code: exitFailed,
			node: &fakeNode{start: func(_ context.Context, n *fakeNode) error {
				n.tell(control.EventBuilding, "auth", "", "", 0)
				n.tell(control.EventBuilding, "tradeflow", "", "", 0)
				time.Sleep(time.Second)
				output := "# commerce/auth\n./main.go:12:2: undefined: \x1b[31mx\x1b[0m\x07\n"
				n.tell(control.EventBuildError, "auth", "", output, time.Second)
				return errors.New("build auth: exit status 1; last output:\n" + output)
			}},
		},
		{
			name: "still stopping", code: exitUsage,
			node: &fakeNode{start: func(context.Context, *fakeNode) error {
				return &node.RunningError{PID: 78, Dir: "/srv/commerce/.fairlead", Address: "http://127.0.0.1:3005", Since: time.Now()}
			}},
		},
		{
			name: "two of many die", node: &fakeNode{start: comeUp, stop: goDown(0)}, code: exitDone,
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(5 * time.Second)
				for _, i := range []string{"tradeflow-1", "tradeflow-2"} {
					r.n.tell(control.EventBackoff, "tradeflow", i, "killed by SIGKILL; next try in 100ms", 0)
				}
				time.Sleep(100 * time.Millisecond)
				for _, i := range []string{"tradeflow-3", "tradeflow-4"} {
					r.n.tell(control.EventStarting, "tradeflow", i, "", 0)
				}
				r.n.tell(control.EventReady, "tradeflow", "tradeflow-3", "", time.Second)
				for port := range 3 { // of tradeflow-4's place, which never gets ready
					r.n.tell(control.EventBackoff, "tradeflow", fmt.Sprint("tradeflow-", 4+port), fmt.Sprintf("not ready within 1s: nothing listens on PORT %d or the socket; next try in 1s", 20000+port), 0)
					r.n.tell(control.EventStarting, "tradeflow", fmt.Sprint("tradeflow-", 5+port), "", 0)
				}
				r.n.tell(control.EventDraining, "auth", "auth-1", "", 0)
				r.n.tell(control.EventDraining, "tradeflow", "tradeflow-3", "", 0)
				r.n.tell(control.EventStopped, "tradeflow", "tradeflow-7", "", time.Second)
				r.n.tell(control.EventStopped, "tradeflow", "tradeflow-3", "killed: it had not ended within its grace period", time.Second)
				r.signals <- os.Interrupt
			},
		},
		{
			name: "no such command", node: &fakeNode{start: comeUp, stop: goDown(0)}, code: exitDone,
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(5 * time.Second)
				for n := range 4 {
					i := fmt.Sprint("auth-", 2+n)
					r.n.tell(control.EventStarting, "auth", i, "", 0)
					r.n.tell(control.EventFailed, "auth", i, "command \"nosuch\" not found in PATH; next try in 30s", 0)
				}
				r.signals <- os.Interrupt
			},
		},
		{
			name: "already runs", code: exitUsage,
			node: &fakeNode{start: func(context.Context, *fakeNode) error {
				return &node.RunningError{PID: 77, Dir: "/srv/commerce/.fairlead", Address: "http://127.0.0.1:3005", Since: time.Now().Add(-2 * time.Hour)}
			}},
		},
		{
			name: "port in use", code: exitFailed,
			node: &fakeNode{start: func(context.Context, *fakeNode) error {
				return errors.New("listen 127.0.0.1:3005: address in use by process 812 (nginx)")
			}},
		},
		{
			name: "never ready", code: exitDone,
			node: &fakeNode{await: running, start: func(_ context.Context, n *fakeNode) error {
				n.tell(control.EventStarting, "auth", "auth-1", "", 0)
				n.tell(control.EventListening, "", "", n.URL(), 0)
				return nil
			}, stop: func(n *fakeNode) error {
				n.tell(control.EventStopped, "auth", "auth-1", "killed: it had not ended within its grace period", time.Second)
				return nil
			}},
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(time.Minute)
				r.n.tell(control.EventBackoff, "auth", "auth-1", "not ready within 1m0s: does not listen; next try in 1s", 0)
				time.Sleep(time.Second)
				r.n.tell(control.EventStarting, "auth", "auth-2", "", 0)
				time.Sleep(1500 * time.Millisecond)
				r.signals <- syscall.SIGHUP
			},
		},
		{
			name: "stop fails", code: exitFailed,
			node:  &fakeNode{start: comeUp, stop: func(*fakeNode) error { return errors.New("stop services: 1 process did not end") }},
			drive: func(_ *testing.T, r *upRun) { time.Sleep(5 * time.Second); r.signals <- os.Interrupt },
		},
		{
			name: "stop hangs after the kill", code: exitFailed,
			node: &fakeNode{start: comeUp, stop: func(*fakeNode) error { time.Sleep(time.Minute); return nil }},
			drive: func(_ *testing.T, r *upRun) {
				time.Sleep(5 * time.Second)
				r.signals <- os.Interrupt
				time.Sleep(time.Second)
				r.signals <- os.Interrupt
			},
		},
	}
	for _, tt := range tests {
		for _, live := range []bool{false, true} {
			name := "plain"
			if live {
				name = "terminal"
			}
			t.Run(tt.name+" "+name, func(t *testing.T) {
				n := &fakeNode{start: tt.node.start, stop: tt.node.stop, await: tt.node.await}
				synctest.Test(t, func(t *testing.T) {
					r := runUp(t, n, live)
					if tt.drive != nil {
						tt.drive(t, r)
					}
					if code := <-r.code; code != tt.code {
						t.Errorf("exit code %d, want %d", code, tt.code)
					}
					golden(t, "up_"+strings.ReplaceAll(tt.name, " ", "_")+"_"+name, r.text(t))
					time.Sleep(2 * time.Minute) // for what was given up
					synctest.Wait()
					if n.stops != 1 {
						t.Errorf("the node was stopped %d times", n.stops)
					}
				})
			})
		}
	}
}

// TestUpPaints looks at the terminal while things go on.
func TestUpPaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runUp(t, &fakeNode{start: comeUp, stop: goDown(2 * time.Second)}, true)
		var all strings.Builder
		look := func(what string) {
			synctest.Wait()
			fmt.Fprintf(&all, "-- %s --\n%s", what, r.text(t))
		}
		time.Sleep(750 * time.Millisecond)
		look("both are built")
		time.Sleep(time.Second)
		look("one is built")
		time.Sleep(600 * time.Millisecond)
		look("starting")
		time.Sleep(2 * time.Second)
		look("ready")
		r.signals <- os.Interrupt
		time.Sleep(500 * time.Millisecond)
		look("stopping")
		if code := <-r.code; code != exitDone {
			t.Errorf("exit code %d", code)
		}
		golden(t, "up_paints", all.String())
	})
}

func TestUpJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runUp(t, &fakeNode{start: comeUp, stop: goDown(time.Second)}, false, "--json")
		time.Sleep(5 * time.Second)
		r.signals <- os.Interrupt
		if code := <-r.code; code != exitDone || r.err.Len() > 0 {
			t.Errorf("exit code %d, %s", code, r.err)
		}
		var kinds []string
		for dec := json.NewDecoder(r.out); dec.More(); {
			var e control.Event
			if err := dec.Decode(&e); err != nil {
				t.Fatal(err)
			}
			if e.Time.IsZero() {
				t.Errorf("%s has no time", e.Kind)
			}
			kinds = append(kinds, string(e.Kind))
		}
		want := "secret database building building built built starting starting starting listening ready ready ready allReady draining draining draining stopped stopped stopped"
		if got := strings.Join(kinds, " "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// TestSlowReaderDoesNotHoldTheNode floods up with events while nothing is taken.
func TestSlowReaderDoesNotHoldTheNode(t *testing.T) {
	q := &eventQueue{ch: make(chan control.Event, 8)}
	for i := range 100 {
		q.put(control.Event{Kind: control.EventInfo, Text: fmt.Sprint(i)})
	}
	if got := q.lost.Load(); got != 92 {
		t.Errorf("%d events were dropped, want 92", got)
	}
}

func TestUpFaultOfTheFile(t *testing.T) {
	var out, errs bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &errs, func(string) string { return "" })
	a.start = func(o node.Options) (runner, error) { return node.New(o) }
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("system: commerce\nservices:\n  api:\n    replicass: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := a.main([]string{"up", dir}); code != exitUsage || out.Len() > 0 || !strings.Contains(errs.String(), "fairlead.yaml:4:5: services.api.replicass") {
		t.Errorf("exit code %d\n%s\n%s", code, &out, &errs)
	}
	if _, err := os.Stat(filepath.Join(dir, control.DataDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file with faults left a data folder: %v", err)
	}
}
