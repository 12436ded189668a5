package supervise

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/supervise/process"
	"fairlead/test/await"
)

func TestLogsFollowTheServiceThroughARestart(t *testing.T) {
	w := newWorld(t)
	w.launch(t, spec("s", 2, "log"))
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var lines []Line
	done := make(chan error, 1)
	go func() {
		done <- w.Logs(ctx, "s", "", true, -1, func(l Line) error {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, l)
			return nil
		})
	}()
	wrote := func(instance, text string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, l := range lines {
				if l.Instance == instance && l.Text == text {
					return true
				}
			}
			return false
		}
	}
	old := w.Instances()
	for _, i := range old {
		await.Until(t, i.ID+" began", wrote(i.ID, "begin"))
	}
	syscall.Kill(old[0].PID, syscall.SIGUSR1)
	await.Until(t, "a new line comes", wrote(old[0].ID, "used"))
	if _, err := w.Restart(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	for _, i := range append(old, w.Instances()...) {
		want := "begin"
		if i.ID == old[1].ID {
			want = "asked to end"
		}
		await.Until(t, i.ID+" wrote "+want, wrote(i.ID, want))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := w.Logs(t.Context(), "nosuch", "", false, -1, nil); err == nil || err.Error() != `read logs: there is no service "nosuch"` {
		t.Error(err)
	}
	if err := w.Logs(t.Context(), "../run", "", false, -1, nil); err == nil {
		t.Error("a path was taken for a service")
	}
	if err := w.Logs(t.Context(), "s", "nope-1", true, -1, nil); !errors.Is(err, ErrNoInstance) {
		t.Errorf("an instance that never was: %v", err)
	}
	// What ended can be read after the system has stopped.
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	instances := make(map[string]bool)
	err := ReadLogs(t.Context(), w.dir, LogQuery{Tail: -1}, func(l Line) error { instances[l.Instance] = true; return nil })
	if err != nil || len(instances) != 4 || !instances[old[0].ID] {
		t.Errorf("of all services: %v, %v", instances, err)
	}
	n := 0
	if err := w.Logs(t.Context(), "s", old[0].ID, false, 1, func(l Line) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d lines, %v", n, err)
	}
}

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	var output bytes.Buffer
	opts := BuildOptions{Command: `echo building "$GRANTED"; pwd > "$OUT/made"`, Dir: dir, Out: filepath.Join(dir, "a", "b"), Env: []string{"GRANTED=yes"}, Output: &output}
	if err := Build(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(filepath.Join(dir, "a", "b", "made"))
	if err != nil || strings.TrimSpace(string(made)) != dir {
		t.Errorf("it made %q, %v", made, err)
	}
	if output.String() != "building yes\n" {
		t.Errorf("it wrote %q", output.String())
	}
	opts.Command = "echo out; echo main.go:3: undefined >&2; exit 2"
	err = Build(t.Context(), opts)
	if want := "build: exit status 2; last output:\n    out\n    main.go:3: undefined"; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
	if failure, ok := errors.AsType[*BuildError](err); !ok || len(failure.Output) != 2 {
		t.Errorf("the error holds %+v", failure)
	}
	opts.Dir = "/nosuch"
	if err := Build(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "/nosuch: no such file or directory") {
		t.Errorf("a folder that does not exist: %v", err)
	}
	opts.Dir, opts.Command = dir, "echo done; sleep 100 &"
	if err := Build(t.Context(), opts); err != nil {
		t.Errorf("a build that leaves something running: %v", err)
	}
}

func TestBuildIsKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	mark := process.Mark{Data: "build-" + dir}
	out := writerFunc(func(b []byte) {
		if strings.Contains(string(b), "ready") {
			cancel(errors.New("no longer wanted"))
		}
	})
	err := Build(ctx, BuildOptions{
		Command: `trap "" TERM; sleep 100 & setsid sleep 100 & echo ready; wait`,
		Dir:     dir, Out: dir, Env: append(mark.Env(), "PATH=/usr/bin:/bin"), Output: out,
	})
	if err == nil || err.Error() != "build: no longer wanted" {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, mark.Data)
	if err := Build(ctx, BuildOptions{Command: "true", Dir: dir, Out: dir}); err == nil {
		t.Error("it built although it was not wanted")
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

func BenchmarkReady(b *testing.B) {
	for name, s := range map[string]Spec{"port": httpSpec("web", 1, "port"), "socket": httpSpec("web", 1, "socket")} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			w.launch(b, s)
			var took time.Duration
			for b.Loop() {
				if _, err := w.Restart(b.Context(), "web"); err != nil {
					b.Fatal(err)
				}
			}
			n := 0
			for _, e := range w.seen() {
				if e.Kind == Ready {
					took += e.Took
					n++
				}
			}
			b.ReportMetric(float64(took.Microseconds())/1000/float64(n), "ms-to-ready")
		})
	}
}

func TestBuildLeavesNothingThatHides(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	err := w.Build(t.Context(), BuildOptions{
		Command: `setsid sleep 100 & (setsid sleep 100 &); (setsid env -i /bin/sleep 100 &); sleep 0.2`,
		Dir:     dir, Out: filepath.Join(dir, "web"), Env: []string{"PATH=/usr/bin:/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, w.dataID)
}
