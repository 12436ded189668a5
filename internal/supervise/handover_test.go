package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/supervise/process"
	"fairlead/test/await"
)

// successor is a supervisor that has adopted what w ran, with a host of its own.
func (w *world) successor(tb testing.TB) *world {
	tb.Helper()
	frozen, link, err := w.Freeze(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	text, err := json.Marshal(frozen)
	if err != nil {
		tb.Fatal(err)
	}
	var read Frozen
	if err := json.Unmarshal(text, &read); err != nil {
		tb.Fatal(err)
	}
	next := &world{dir: w.dir, host: newHost()}
	n := 100
	next.Supervisor = New(Options{
		Dir: w.dir, Host: next.host, Logger: slog.New(slog.DiscardHandler), Policy: w.opts.Policy,
		NextID: func(service string) (string, error) {
			n++
			return service + "-next-" + string(rune('a'+n-101)), nil
		},
		Events: func(e Event) {
			next.mu.Lock()
			defer next.mu.Unlock()
			next.events = append(next.events, e)
		},
	})
	if err := next.Adopt(read, link); err != nil {
		tb.Fatal(err)
	}
	w.Leave()
	tb.Cleanup(func() {
		next.Kill()
		nothingLeft(tb, next.dataID)
	})
	return next
}

func pids(list []Instance) map[string]int {
	by := make(map[string]int)
	for _, i := range list {
		by[i.ID] = i.PID
	}
	return by
}

func TestAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.launch(t, httpSpec("port", 2, "port"), httpSpec("socket", 1, "socket"), spec("idle", 1, "idle"))
	w.await(t)
	before := w.Instances()

	next := w.successor(t)
	next.await(t)
	after := next.Instances()
	if len(after) != 4 || !slices.EqualFunc(before, after, func(a, b Instance) bool {
		return a.ID == b.ID && a.PID == b.PID && a.Endpoint == b.Endpoint && a.State == b.State && a.Since.Equal(b.Since)
	}) {
		t.Errorf("instances were\n%+v, are\n%+v", before, after)
	}
	await.Until(t, "all are admitted", func() bool { return len(next.host.serving()) == 4 })
	if events := next.seen(); len(events) > 0 {
		t.Errorf("events of what did not change: %+v", events)
	}
	if said := w.host.said(); slices.ContainsFunc(said, func(s string) bool { return s[:5] != "admit" }) {
		t.Errorf("the former host was told %v", said)
	}
	if w.KeeperPID() != next.KeeperPID() || next.KeeperPID() == 0 {
		t.Errorf("keepers %d and %d", w.KeeperPID(), next.KeeperPID())
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Errorf("stop of one that has left: %v", err)
	}
	for _, i := range next.Instances() {
		if i.Endpoint.Network == "unix" || i.Endpoint.Network == "tcp" {
			fetch(t, i.Endpoint, "/")
		}
	}

	// It goes on as any other: ends are seen, operations work.
	victim := next.instance(t, "idle")
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "another idle takes traffic", func() bool {
		i := next.instance(t, "idle")
		return i.ID != victim.ID && i.State == Ready && i.Restarts == 1
	})
	if r, err := next.Restart(t.Context(), "port"); err != nil || len(r.New) != 2 {
		t.Errorf("restart: %+v %v", r, err)
	}
}

// TestAdoptedTwice hands over again, also while a process has just ended and while
// another one waits for its successor.
func TestAdoptedTwice(t *testing.T) {
	t.Parallel()
	flag := filepath.Join(t.TempDir(), "flag")
	w := newWorld(t, func(o *Options) { o.Policy = RestartPolicy{Min: 300 * time.Millisecond, Max: 300 * time.Millisecond} })
	if err := w.Launch(t.Context(), []Spec{spec("idle", 1, "idle"), httpSpec("later", 1, "exit-when", flag)}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "one is ready, one waits", func() bool {
		all := w.Instances()
		return len(all) == 2 && all[0].State == Ready && all[1].State == Backoff
	})
	second := w.successor(t)
	if i := second.instance(t, "later"); i.State != Backoff && i.State != Starting {
		t.Errorf("it is %+v", i)
	}
	third := second.successor(t)
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "both are ready", func() bool {
		return third.instance(t, "idle").State == Ready && third.instance(t, "later").State == Ready
	})
	if a, b := w.KeeperPID(), third.KeeperPID(); a != b {
		t.Errorf("keepers %d and %d", a, b)
	}
}

// TestFrozen lets instances end while nobody decides, and thaws.
func TestFrozen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.launch(t, spec("idle", 2, "idle"), httpSpec("port", 1, "port"))
	w.await(t)
	before := pids(w.Instances())
	for range 3 {
		frozen, link, err := w.Freeze(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(frozen.Services) != 2 || len(frozen.Serving()["idle"]) != 2 {
			t.Errorf("frozen is %+v", frozen)
		}
		if err := link.Close(); err != nil {
			t.Error(err)
		}
		w.Thaw()
	}
	if now := pids(w.Instances()); len(now) != 3 || now["idle-1"] != before["idle-1"] {
		t.Errorf("instances were %v, are %v", before, now)
	}

	_, link, err := w.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	victim := w.instance(t, "port")
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it is reaped", func() bool {
		_, err := process.Read(victim.PID)
		return err != nil
	})
	if i := w.instance(t, "port"); i.State != Ready {
		t.Errorf("a frozen supervisor decided: %+v", i)
	}
	w.Thaw()
	_ = link.Close()
	await.Until(t, "there is a successor", func() bool {
		i := w.instance(t, "port")
		return i.ID != victim.ID && i.State == Ready
	})
}

// TestFreezeWaitsForWhoGoes does not freeze while an instance is on its way out.
func TestFreezeWaitsForWhoGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.launch(t, httpSpec("hang", 1, "hang-port"))
	w.await(t)
	done := make(chan error, 1)
	go func() { done <- w.Scale(t.Context(), "hang", 0) }()
	await.Until(t, "it drains", func() bool { return w.instance(t, "hang").State == Draining })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := w.Freeze(ctx); !errors.Is(err, ErrUnsteady) {
		t.Errorf("freeze: %v", err)
	}
	_, link, err := w.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = link.Close()
	w.Thaw()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKeeperOfAnotherEnds kills a keeper that was adopted; another one is started.
func TestKeeperOfAnotherEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.launch(t, spec("idle", 1, "idle"))
	w.await(t)
	next := w.successor(t)
	old := next.KeeperPID()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "another keeper runs another instance", func() bool {
		k := next.KeeperPID()
		return k != 0 && k != old && next.instance(t, "idle").State == Ready
	})
}
