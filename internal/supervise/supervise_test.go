package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/supervise/process"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// launch starts specs and waits until they are ready.
func (w *world) launch(tb testing.TB, specs ...Spec) {
	tb.Helper()
	if err := w.Launch(tb.Context(), specs); err != nil {
		tb.Fatal(err)
	}
	w.await(tb)
}

func (w *world) await(tb testing.TB) {
	tb.Helper()
	if err := w.Await(await.Context(tb)); err != nil {
		tb.Fatal(err)
	}
}

// of returns the ids of a service's instances.
func (w *world) of(service string) []string {
	var ids []string
	for _, i := range w.Instances() {
		if i.Service == service {
			ids = append(ids, i.ID)
		}
	}
	return ids
}

func (w *world) instance(tb testing.TB, service string) Instance {
	tb.Helper()
	for _, i := range w.Instances() {
		if i.Service == service {
			return i
		}
	}
	tb.Fatalf("%s has no instance", service)
	return Instance{}
}

// fetch asks an instance over its endpoint.
func fetch(tb testing.TB, e Endpoint, path string) []byte {
	tb.Helper()
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, e.Network, e.Address)
		},
	}}
	r, err := c.Get("http://x" + path)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestStartStop(t *testing.T) {
	w := newWorld(t)
	w.launch(t, spec("idle", 1, "idle"), httpSpec("web", 2, "port"), httpSpec("any", 1, "any"),
		httpSpec("sock", 1, "socket"), httpSpec("child", 1, "child-port"))
	endpoints := make(map[string]bool)
	for _, i := range w.Instances() {
		if i.State != Ready || i.PID == 0 || i.Reason != "" {
			t.Errorf("%+v, want ready", i)
		}
		want := map[string]string{"idle": "bus", "web": "tcp", "any": "tcp", "sock": "unix", "child": "tcp"}[i.Service]
		if i.Endpoint.Network != want {
			t.Errorf("%s is reached over %s, want %s", i.ID, i.Endpoint, want)
		}
		if want == "tcp" && endpoints[i.Endpoint.Address] {
			t.Errorf("%s was given twice", i.Endpoint)
		}
		endpoints[i.Endpoint.Address] = true
	}
	if n := len(w.host.serving()); n != 6 {
		t.Errorf("%d instances serve, want 6", n)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Errorf("a second stop: %v", err)
	}
	if all := w.Instances(); len(all) != 0 || w.KeeperPID() != 0 {
		t.Errorf("after the stop: %v, keeper %d", all, w.KeeperPID())
	}
	walks(t, w.seen())
	// Every instance: admitted, withdrawn, gone, in this order.
	calls := w.host.said()
	for _, e := range w.seen() {
		if e.Kind != Stopped {
			continue
		}
		id := e.Instance.ID
		if e.Text != "" {
			t.Errorf("%s did not end in peace: %s", id, e.Text)
		}
		at := []int{slices.Index(calls, "admit "+id), slices.Index(calls, "withdraw "+id), slices.Index(calls, "gone "+id)}
		if at[0] < 0 || !slices.IsSorted(at) {
			t.Errorf("the host heard of %s in the wrong order: %v", id, calls)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "run")); !os.IsNotExist(err) {
		t.Errorf("the folder of the sockets was left: %v", err)
	}
	if err := w.Launch(t.Context(), []Spec{spec("late", 1, "idle")}); !errors.Is(err, ErrStopped) {
		t.Errorf("launch after stop: %v, want %v", err, ErrStopped)
	}
}

func TestEnvironmentIsExactlyWhatWasGranted(t *testing.T) {
	t.Setenv("SECRET_OF_THE_OPERATOR", "x")
	w := newWorld(t)
	w.host.env = []string{"GRANTED=1", "FAIRLEAD_DATA_ID=forged", "FAIRLEAD_INSTANCE=forged"}
	w.launch(t, httpSpec("web", 1, "port"))
	i := w.instance(t, "web")
	body := fetch(t, i.Endpoint, "/env")
	var env []string
	if err := json.Unmarshal(body, &env); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(i.Endpoint.Address)
	want := []string{
		"FAIRLEAD_DATA_ID=" + w.dataID, "FAIRLEAD_INSTANCE=" + i.ID, "FAIRLEAD_SERVICE=web",
		"FAIRLEAD_SOCKET=" + filepath.Join(w.dir, "run", i.ID+".sock"), "GRANTED=1", "PATH=/usr/bin:/bin", "PORT=" + port,
	}
	slices.Sort(env)
	if !slices.Equal(env, want) {
		t.Errorf("the environment is\n %q, want\n %q", env, want)
	}
}

func TestRestartReplacesOneByOne(t *testing.T) {
	for _, order := range []system.UpdateOrder{system.StartFirst, system.StopFirst} {
		t.Run(string(order), func(t *testing.T) {
			w := newWorld(t)
			s := httpSpec("web", 2, "port")
			s.UpdateOrder = order
			w.launch(t, s)
			old := w.of("web")
			var mu sync.Mutex // guards least: at the end all are withdrawn at once
			least := 2
			w.host.withdraw = func(context.Context, Instance) {
				mu.Lock()
				defer mu.Unlock()
				least = min(least, len(w.host.serving()))
			}
			r, err := w.Restart(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			now := w.of("web")
			if !slices.Equal(r.Old, old) || !slices.Equal(r.New, now) || len(now) != 2 {
				t.Errorf("replaced %+v, had %v, have %v", r, old, now)
			}
			if want := map[system.UpdateOrder]int{system.StartFirst: 2, system.StopFirst: 1}[order]; least != want {
				t.Errorf("at one moment %d instances served, want at least %d", least, want)
			}
			w.await(t)
			walks(t, w.seen())
		})
	}
}

func TestRestartThatFailsLeavesTheOldServing(t *testing.T) {
	w := newWorld(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.launch(t, httpSpec("web", 2, "exit-when", gate))
	old := w.of("web")
	os.Remove(gate)
	r, err := w.Restart(t.Context(), "web")
	const want = "restart web: 0 of 2 instances were replaced: start web: exited with code 3: \"missing "
	if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "last output") {
		t.Errorf("error is %v, want %s...", err, want)
	}
	if start, ok := errors.AsType[*StartError](err); !ok || start.Service != "web" || len(start.Output) != 1 {
		t.Errorf("the error does not hold what happened: %+v", start)
	}
	if len(r.New) != 0 || !slices.Equal(w.of("web"), old) || len(w.host.serving()) != 2 {
		t.Errorf("replaced %+v, have %v, want %v", r, w.of("web"), old)
	}
	walks(t, w.seen())
}

func TestRestartStopFirstThatFailsIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	gate := filepath.Join(t.TempDir(), "gate")
	os.WriteFile(gate, nil, 0o600)
	s := httpSpec("web", 2, "exit-when", gate)
	s.UpdateOrder = system.StopFirst
	w.launch(t, s)
	old := w.of("web")
	os.Remove(gate)
	if _, err := w.Restart(t.Context(), "web"); err == nil {
		t.Fatal("it says that it restarted")
	}
	if !slices.Contains(w.of("web"), old[1]) || len(w.host.serving()) != 1 {
		t.Errorf("the instance that was not replaced is gone: %v", w.of("web"))
	}
	os.WriteFile(gate, nil, 0o600)
	await.Until(t, "a new instance is ready", func() bool { return len(w.host.serving()) == 2 })
	w.await(t)
}

func TestNotReadyReasons(t *testing.T) {
	t.Parallel()
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	tests := map[string]struct {
		spec   func() Spec
		reason string
	}{
		"does not listen": {
			func() Spec { return httpSpec("s", 1, "idle") },
			"nothing listens on PORT ",
		},
		"answers 503": {
			func() Spec { s := spec("s", 1, "unhealthy"); s.Healthcheck.HTTP = "/healthz"; return s },
			"/healthz answered 503",
		},
		"not on the bus": {
			func() Spec { return spec("s", 1, "idle") },
			"has not connected to the bus",
		},
		"no such command": {
			func() Spec { s := spec("s", 1); s.Command = []string{"nosuch"}; return s },
			`command "nosuch" not found in PATH`,
		},
		"no such folder": {
			func() Spec { s := spec("s", 1, "idle"); s.Dir = "/nosuch"; return s },
			"working folder: /nosuch: no such file or directory",
		},
		"not a program": {
			func() Spec { s := spec("s", 1); s.Command = []string{notAProgram(t)}; return s },
			"exec format error",
		},
		"exits at once": {
			func() Spec { return spec("s", 1, "exit", "7") },
			`exited with code 7: "panic: cannot go on"`,
		},
		"exits at once with success": {
			func() Spec { return spec("s", 1, "exit", "0") },
			`exited with code 0: "panic: cannot go on"`,
		},
		"is killed": {
			func() Spec {
				s := spec("s", 1)
				s.Command = []string{"/bin/sh", "-c", "echo dying; kill -SEGV $$"}
				return s
			},
			`killed by SIGSEGV: "dying"`,
		},
	}
	w := newWorld(t)
	w.host.strict = true
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, test := range tests {
		wg.Go(func() {
			s := test.spec()
			s.Service = strings.ReplaceAll(name, " ", "-")
			if s.Command[0] == testBinary() && s.Command[2] != "exit" {
				s.Healthcheck.StartPeriod = 8 * time.Second // a busy machine starts a process slowly
			}
			_, err := w.Prepare(t.Context(), []Spec{s}, nil)
			if err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("%s: error is %v, want %q", name, err, test.reason)
			}
			if ids := w.of(s.Service); len(ids) != 0 {
				t.Errorf("%s: left instances %v", name, ids)
			}
		})
	}
}

func notAProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, []byte{1, 2, 3}, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestForeignListenerOnThePortIsNotBelieved(t *testing.T) {
	// The only port of the range is taken by somebody else just after it was given.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	w := newWorld(t, func(o *Options) { o.PortMin, o.PortMax = port, port })
	if err := w.Launch(t.Context(), []Spec{httpSpec("deaf", 1, "deaf")}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the instance runs", func() bool { i := w.Instances(); return len(i) == 1 && i[0].PID != 0 })
	thief, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	await.Until(t, "status says who holds the port", func() bool {
		return strings.Contains(w.instance(t, "deaf").Reason, "is held by a process that is not of the instance")
	})
	if s := w.instance(t, "deaf").State; s != Starting {
		t.Errorf("the instance is %s", s)
	}
}

func TestRegisteredOnTheBus(t *testing.T) {
	w := newWorld(t)
	w.host.strict = true
	s := spec("s", 1, "idle")
	if err := w.Launch(t.Context(), []Spec{s}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "status says what is missing", func() bool {
		all := w.Instances()
		return len(all) == 1 && all[0].Reason == "has not connected to the bus"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Await(ctx, "s"); err == nil || !strings.Contains(err.Error(), "s-1 is starting since") || !strings.Contains(err.Error(), "has not connected to the bus") {
		t.Errorf("await says %v", err)
	}
	w.host.register("s-1")
	w.await(t)
}

func TestWhatNeverWasReadyDoesNotDrain(t *testing.T) {
	w := newWorld(t)
	w.host.strict = true
	late := spec("late", 1, "idle")
	late.Healthcheck.StartPeriod = 30 * time.Millisecond
	if err := w.Launch(t.Context(), []Spec{late, spec("coming", 1, "idle")}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it is tried again", func() bool {
		fell := func(e Event) bool { return e.Kind != Backoff }
		return len(slices.DeleteFunc(w.seen(), fell)) > 1
	})
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	fell := 0
	for _, e := range w.seen() {
		switch {
		case e.Kind == Draining:
			t.Errorf("%s drains: %s", e.Instance.ID, e.Text)
		case e.Kind == Backoff:
			fell++
			if !strings.HasPrefix(e.Text, "not ready within 30ms: has not connected to the bus; ") {
				t.Errorf("the reason is %q", e.Text)
			}
		case e.Kind == Stopped && e.Instance.Service == "coming" && e.Took <= 0:
			t.Error("nobody knows how long it took to end")
		}
	}
	if fell < 2 {
		t.Errorf("%d ends were told", fell)
	}
	walks(t, w.seen())
}

func TestReadyWithoutAnyProbe(t *testing.T) {
	w := newWorld(t)
	s := spec("s", 1, "idle")
	s.OnBus = false
	w.launch(t, s)
	i := w.instance(t, "s")
	if e := w.seen()[1]; e.Kind != Ready || e.Took < unprobed || i.Endpoint.Network != "bus" {
		t.Errorf("it became %s after %v at %s", e.Kind, e.Took, i.Endpoint)
	}
}

func TestEndsAndIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("web", 2, "port"))
	before := w.instance(t, "web")
	begin := time.Now()
	syscall.Kill(before.PID, syscall.SIGKILL)
	await.Until(t, "the host is told", func() bool { return slices.Contains(w.host.said(), "gone "+before.ID) })
	t.Logf("gone was told after %v", time.Since(begin))
	await.Until(t, "there are two again", func() bool { return len(w.host.serving()) == 2 })
	after := w.instance(t, "web")
	if after.ID == before.ID || after.Restarts != 1 {
		t.Errorf("its successor is %+v", after)
	}
	for _, e := range w.seen() {
		if e.Instance.ID == before.ID && e.Kind == Backoff && !strings.HasPrefix(e.Text, "killed by SIGKILL; next try in ") {
			t.Errorf("the reason is %q, which should quote nothing", e.Text)
		}
	}
	walks(t, w.seen())
}

func TestUnhealthyIsReplaced(t *testing.T) {
	w := newWorld(t)
	s := spec("web", 1, "port")
	s.Healthcheck.HTTP, s.Healthcheck.Interval, s.Healthcheck.Retries = "/healthz", 20*time.Millisecond, 2
	w.launch(t, s)
	before := w.instance(t, "web")
	fetch(t, before.Endpoint, "/break")
	await.Until(t, "another one serves", func() bool {
		for id := range w.host.serving() {
			return id != before.ID
		}
		return false
	})
	calls := w.host.said()
	if i, j := slices.Index(calls, "withdraw "+before.ID), slices.Index(calls, "gone "+before.ID); i < 0 || j < i {
		t.Errorf("it was not taken out first: %v", calls)
	}
	for _, e := range w.seen() {
		if e.Instance.ID == before.ID && e.Kind == Backoff && !strings.HasPrefix(e.Text, "unhealthy 2 times in a row: /healthz answered 503") {
			t.Errorf("the reason is %q", e.Text)
		}
	}
	walks(t, w.seen())
}

func TestExitsAtOnceUntilItFails(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Policy.FailedAfter = 4; o.Policy.Max = 20 * time.Millisecond })
	w.host.strict = true
	if err := w.Launch(t.Context(), []Spec{spec("s", 1, "exit", "3")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	err := w.Await(ctx)
	if err == nil || !strings.Contains(err.Error(), `exited with code 3: "panic: cannot go on"; 4 times in a row, next try in`) {
		t.Errorf("await says %v", err)
	}
	await.Until(t, "it is tried further", func() bool {
		n := 0
		for _, e := range w.seen() {
			if e.Kind == Starting {
				n++
			}
		}
		return n > 5
	})
	if err := w.Scale(t.Context(), "s", 0); err != nil {
		t.Fatal(err)
	}
	if all := w.Instances(); len(all) != 0 {
		t.Errorf("after scaling to 0: %+v", all)
	}
	walks(t, w.seen())
}

func TestScale(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("web", 2, "port"))
	first := w.of("web")
	steps := []struct{ to int }{{3}, {1}, {0}, {2}}
	for _, step := range steps {
		if err := w.Scale(t.Context(), "web", step.to); err != nil {
			t.Fatal(err)
		}
		if ids := w.of("web"); len(ids) != step.to || len(w.host.serving()) != step.to {
			t.Errorf("scaled to %d: %v", step.to, ids)
		} else if step.to == 1 && ids[0] != first[0] {
			t.Errorf("the oldest was not kept: %v of %v", ids, first)
		}
	}
	if err := w.Scale(t.Context(), "nosuch", 1); err == nil || err.Error() != `scale nosuch: there is no service "nosuch"` {
		t.Error(err)
	}
	if err := w.Scale(t.Context(), "web", -1); err == nil {
		t.Error("a negative number was taken")
	}
	if _, err := w.Restart(t.Context(), "nosuch"); err == nil {
		t.Error("a service that does not exist was restarted")
	}
	if err := w.Launch(t.Context(), []Spec{httpSpec("web", 1, "port")}); err == nil {
		t.Error("a service was launched twice")
	}
	walks(t, w.seen())
}

func TestOperationsOnOneServiceWait(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("web", 1, "port"))
	c, err := w.Prepare(t.Context(), []Spec{httpSpec("web", 1, "socket")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.Restart(ctx, "web"); err == nil || !strings.Contains(err.Error(), "wait for another operation on web") {
		t.Errorf("restart during a change: %v", err)
	}
	if err := c.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Restart(t.Context(), "web"); err != nil {
		t.Error(err)
	}
}

func TestChange(t *testing.T) {
	setUp := func(t *testing.T) *world {
		t.Helper()
		w := newWorld(t)
		once := httpSpec("once", 1, "port")
		once.UpdateOrder = system.StopFirst
		w.launch(t, httpSpec("web", 2, "port"), httpSpec("old", 1, "port"), once, httpSpec("same", 1, "port"))
		return w
	}
	next := func() []Spec {
		once := httpSpec("once", 2, "socket")
		once.UpdateOrder = system.StopFirst
		specs := []Spec{httpSpec("web", 3, "socket"), httpSpec("new", 1, "socket"), once}
		for i := range specs {
			specs[i].Revision = 2
		}
		return specs
	}
	t.Run("commit", func(t *testing.T) {
		w := setUp(t)
		same, old := w.of("same"), w.of("web")
		c, err := w.Prepare(t.Context(), next(), []string{"old"})
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Ready()) != 4 || len(w.host.serving()) != 5 || len(w.of("web")) != 5 {
			t.Errorf("prepared %v, serving %v", c.Ready(), w.host.serving())
		}
		replaced, err := c.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(replaced) != 4 || replaced[3].Service != "web" || !slices.Equal(replaced[3].Old, old) || len(replaced[3].New) != 3 {
			t.Errorf("replaced %+v", replaced)
		}
		for service, n := range map[string]int{"web": 3, "old": 0, "once": 2, "new": 1, "same": 1} {
			if got := len(w.of(service)); got != n {
				t.Errorf("%d instances of %s, want %d", got, service, n)
			}
		}
		if !slices.Equal(w.of("same"), same) {
			t.Error("a service that did not change was touched")
		}
		for _, i := range w.Instances() {
			if i.Service != "same" && (i.Revision != 2 || i.Endpoint.Network != "unix") {
				t.Errorf("%+v is not of the new revision", i)
			}
		}
		if _, err := c.Commit(t.Context()); err == nil {
			t.Error("committed twice")
		}
		if _, err := w.Restart(t.Context(), "old"); err == nil {
			t.Error("a removed service is known")
		}
		walks(t, w.seen())
	})
	t.Run("abort", func(t *testing.T) {
		w := setUp(t)
		before := w.Instances()
		c, err := w.Prepare(t.Context(), next(), []string{"old"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.Instances(), before) {
			t.Errorf("have %v, want %v", w.Instances(), before)
		}
		if _, err := c.Commit(t.Context()); err == nil {
			t.Error("committed after an abort")
		}
	})
	t.Run("one does not become ready", func(t *testing.T) {
		w := setUp(t)
		before := w.Instances()
		specs := append(next(), httpSpec("broken", 1, "exit", "3"))
		_, err := w.Prepare(t.Context(), specs, []string{"old"})
		if err == nil || !strings.HasPrefix(err.Error(), `start broken: exited with code 3: "panic: cannot go on"`) {
			t.Errorf("error is %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "interrupted") {
			t.Errorf("the error speaks of those that were only interrupted: %v", err)
		}
		if !slices.Equal(w.Instances(), before) {
			t.Errorf("have %v, want %v", w.Instances(), before)
		}
		if _, err := w.Prepare(t.Context(), nil, []string{"nosuch"}); err == nil {
			t.Error("removed a service that does not exist")
		}
	})
	t.Run("an instance dies between prepare and commit", func(t *testing.T) {
		w := setUp(t)
		c, err := w.Prepare(t.Context(), []Spec{httpSpec("web", 1, "socket")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		fresh := c.Ready()[0]
		syscall.Kill(fresh.PID, syscall.SIGKILL)
		await.Until(t, "it is gone", func() bool { return slices.Contains(w.host.said(), "gone "+fresh.ID) })
		if _, err := c.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.await(t)
		if ids := w.of("web"); len(ids) != 1 {
			t.Errorf("have %v, want one other than %s", ids, fresh.ID)
		}
	})
}

func TestHangsOnTermination(t *testing.T) {
	w := newWorld(t)
	s := httpSpec("hang", 1, "hang-port")
	s.StopGracePeriod = 50 * time.Millisecond
	w.launch(t, s)
	if err := w.Scale(t.Context(), "hang", 0); err != nil {
		t.Fatal(err)
	}
	events := w.seen()
	if last := events[len(events)-1]; last.Kind != Stopped || last.Text != "killed: it had not ended within its grace period" || last.Took < s.StopGracePeriod {
		t.Errorf("it ended as %+v", last)
	}
}

func TestStopIsBoundedByItsContext(t *testing.T) {
	w := newWorld(t)
	s := httpSpec("hang", 2, "hang-port")
	s.StopGracePeriod = time.Hour
	w.launch(t, s)
	w.host.withdraw = func(ctx context.Context, _ Instance) { <-ctx.Done() }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := w.Stop(ctx) // not the hour that they are given
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop says %v", err)
	}
	nothingLeft(t, w.dataID)
}

func TestKillInterruptsEverything(t *testing.T) {
	w := newWorld(t)
	s := httpSpec("hang", 2, "hang-port")
	s.StopGracePeriod = time.Hour
	w.launch(t, s)
	draining := make(chan struct{}, 2)
	w.host.withdraw = func(ctx context.Context, _ Instance) { draining <- struct{}{}; <-ctx.Done() }
	stopped := make(chan error, 2)
	go func() { stopped <- w.Stop(context.Background()) }()
	never := httpSpec("never", 1, "idle")
	go func() { _, err := w.Prepare(context.Background(), []Spec{never}, nil); stopped <- err }()
	<-draining
	w.Kill()
	for range 2 {
		<-stopped
	}
	nothingLeft(t, w.dataID)
}

func TestWholeTreesAreEnded(t *testing.T) {
	for _, mode := range []string{"fork", "bomb"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			s := spec("s", 1, mode)
			s.HTTP = mode == "fork"
			s.StopGracePeriod = 100 * time.Millisecond
			w.launch(t, s, httpSpec("other", 1, "fork"))
			i, mark := w.instance(t, "s"), process.Mark{Data: w.dataID}
			count := func() (s, all int) {
				table, err := process.All()
				if err != nil {
					t.Fatal(err)
				}
				mark.Instance = i.ID
				s = len(table.Marked(mark, nil, nil))
				mark.Instance = ""
				return s, len(table.Marked(mark, nil, nil))
			}
			const family = 6 // itself, four children, one of a double fork
			if n, _ := count(); mode == "fork" && n != family {
				t.Errorf("%d processes are found, want %d", n, family)
			}
			if err := w.Scale(t.Context(), "s", 0); err != nil {
				t.Fatal(err)
			}
			if n, all := count(); n != 0 || all != family {
				t.Errorf("%d are left of it, %d of all, want 0 and %d", n, all, family)
			}
		})
	}
}

func TestTreeOfAnInstanceThatDiedIsEnded(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("fork", 1, "fork"))
	i := w.instance(t, "fork")
	syscall.Kill(i.PID, syscall.SIGKILL)
	await.Until(t, "its successor serves", func() bool { s := w.host.serving(); return len(s) == 1 && s[i.ID].ID == "" })
	table, err := process.All()
	if err != nil {
		t.Fatal(err)
	}
	if left := table.Marked(process.Mark{Data: w.dataID, Instance: i.ID}, nil, nil); len(left) != 0 {
		t.Errorf("left of the dead one: %+v", left)
	}
}

func TestStartStopStress(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("a", 2, "socket"), httpSpec("b", 2, "port"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	work := func(f func()) {
		wg.Go(func() {
			for ctx.Err() == nil {
				f()
			}
		})
	}
	for _, name := range []string{"a", "b"} {
		work(func() { w.Restart(ctx, name) })
		work(func() { w.Scale(ctx, name, 1); w.Scale(ctx, name, 3) })
		work(func() {
			for _, i := range w.Instances() {
				if i.Service == name && i.PID > 1 && i.State == Ready {
					// Only with its mark: the pid may be another's by now.
					if (process.Mark{Data: w.dataID, Instance: i.ID}).Has(i.PID) {
						syscall.Kill(i.PID, syscall.SIGKILL)
					}
					break
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(150 * time.Millisecond):
			}
		})
		work(func() {
			c, err := w.Prepare(ctx, []Spec{httpSpec(name, 2, "port")}, nil)
			if err == nil && len(c.Ready())%2 == 0 {
				c.Commit(ctx)
			} else if err == nil {
				c.Abort(ctx)
			}
		})
	}
	wg.Wait()
	// What was killed ten times in a row counts as failed until its next try.
	calm, cancelCalm := context.WithTimeout(t.Context(), await.Patience)
	defer cancelCalm()
	for err := w.Await(calm); err != nil; err = w.Await(calm) {
		if calm.Err() != nil {
			t.Fatal(err)
		}
		select {
		case <-calm.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	walks(t, w.seen())
	gone := make(map[string]int)
	for _, c := range w.host.said() {
		if id, ok := strings.CutPrefix(c, "gone "); ok {
			gone[id]++
		}
	}
	for _, e := range w.seen() {
		if e.Kind == Starting && gone[e.Instance.ID] != 1 {
			t.Errorf("the host was told %d times that %s is gone", gone[e.Instance.ID], e.Instance.ID)
		}
	}
	if used := len(w.ports.used); used != 0 {
		t.Errorf("%d ports are still reserved", used)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"relative folder": func(o *Options) { o.Dir = "x" },
		"no host":         func(o *Options) { o.Host = nil },
		"no ids":          func(o *Options) { o.NextID = nil },
		"ports":           func(o *Options) { o.PortMin, o.PortMax = 2, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it did not panic")
				}
			}()
			o := Options{Dir: "/", Host: newHost(), NextID: ids()}
			change(&o)
			New(o)
		})
	}
}

func TestBadIDs(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.NextID = func(string) (string, error) { return "../x", nil } })
	_, err := w.Prepare(t.Context(), []Spec{spec("s", 1, "idle")}, nil)
	if err == nil || !strings.Contains(err.Error(), `id "../x" is not made of letters`) {
		t.Error(err)
	}
}
