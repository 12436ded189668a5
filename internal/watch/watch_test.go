package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

// open follows dir until the test ends.
func open(t *testing.T, roots ...string) *Watcher {
	t.Helper()
	w, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	w.quiet = 4 * quiet // a busy machine pauses in the middle of a burst
	if err := w.Follow(roots); err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(time.Now().String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// next returns what changed, relative to dir.
func next(t *testing.T, w *Watcher, dir string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	paths, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range paths {
		if paths[i], err = filepath.Rel(dir, paths[i]); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

func TestABurstIsToldOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub", "old.go"))
	w := open(t, dir)
	for range 3 {
		write(t, filepath.Join(dir, "a.go"))
		write(t, filepath.Join(dir, "sub", "old.go"))
	}
	if got := next(t, w, dir); !slices.Equal(got, []string{"a.go", "sub/old.go"}) {
		t.Errorf("changed: %v", got)
	}
}

func TestFoldersThatAreMadeLaterAreWatched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir)
	if err := os.MkdirAll(filepath.Join(dir, "new", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := next(t, w, dir); !slices.Contains(got, "new") {
		t.Fatalf("changed: %v", got)
	}
	write(t, filepath.Join(dir, "new", "deep", "b.go"))
	if got := next(t, w, dir); !slices.Equal(got, []string{"new/deep/b.go"}) {
		t.Errorf("changed: %v", got)
	}
}

func TestWhatNobodyWritesByHandIsPassedOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "node_modules", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := open(t, dir)
	for _, name := range []string{".git/index", ".fairlead/logs/a", "node_modules/x/y.js", "out.log", "trade.db-wal", "a.go~", ".a.go.swp", "sub/.hidden/c"} {
		write(t, filepath.Join(dir, name))
	}
	write(t, filepath.Join(dir, "a.go"))
	if got := next(t, w, dir); !slices.Equal(got, []string{"a.go", "sub"}) {
		t.Errorf("changed: %v", got)
	}
}

func TestAFileThatIsReplacedIsStillWatched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "fairlead.yaml")
	write(t, file)
	w := open(t, file)
	for range 2 {
		write(t, filepath.Join(dir, "other.yaml"))
		if err := os.Rename(filepath.Join(dir, "other.yaml"), file); err != nil {
			t.Fatal(err)
		}
		if got := next(t, w, dir); !slices.Equal(got, []string{"fairlead.yaml"}) {
			t.Errorf("changed: %v", got)
		}
	}
}

func TestFollowForgetsWhatIsNoLongerNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a", "x"))
	write(t, filepath.Join(dir, "b", "x"))
	w := open(t, filepath.Join(dir, "a"))
	if err := w.Follow([]string{filepath.Join(dir, "b"), filepath.Join(dir, "none")}); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a", "x"))
	write(t, filepath.Join(dir, "b", "x"))
	if got := next(t, w, dir); !slices.Equal(got, []string{"b/x"}) {
		t.Errorf("changed: %v", got)
	}
}

func TestAFolderThatIsMadeAgainIsWatchedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "deep")
	for range 2 {
		write(t, filepath.Join(deep, "x"))
		w := open(t, dir)
		if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		next(t, w, dir)
		if err := os.MkdirAll(deep, 0o700); err != nil {
			t.Fatal(err)
		}
		next(t, w, dir)
		write(t, filepath.Join(deep, "x"))
		if got := next(t, w, dir); !slices.Equal(got, []string{"a/deep/x"}) {
			t.Errorf("changed: %v", got)
		}
	}
}

func TestMeanwhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir)
	if got, err := w.Meanwhile(t.Context()); len(got) > 0 || err != nil {
		t.Errorf("nothing has changed, but %v, %v", got, err)
	}
	write(t, filepath.Join(dir, "a"))
	if got, err := w.Meanwhile(t.Context()); len(got) != 1 || err != nil {
		t.Errorf("changed: %v, %v", got, err)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	tests := []struct {
		roots, paths []string
		want         bool
	}{
		{[]string{"/a"}, []string{"/a/b"}, true},
		{[]string{"/a/"}, []string{"/a"}, true},
		{[]string{"/"}, []string{"/x"}, true},
		{[]string{"/a"}, []string{"/ab", "/b"}, false},
		{nil, []string{"/ab"}, false},
	}
	for _, tt := range tests {
		if got := Within(tt.roots, tt.paths); got != tt.want {
			t.Errorf("Within(%v, %v) = %v", tt.roots, tt.paths, got)
		}
	}
}
