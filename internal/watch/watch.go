// Package watch tells which files of some folders have changed, for whoever works on
// them.
//
// It looks at whole trees, those that are made later too, and waits until a burst of
// changes is over, so that a save, a checkout or a build is told once. Names that
// begin with a dot, node_modules, __pycache__ and what is plainly no source (logs,
// databases, editors' swap files) are passed over.
//
// It does not say what changed in a file, and does not look at what a link leads to.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing must change until a burst is over, and longest how
	// long it may go on.
	quiet   = 200 * time.Millisecond
	longest = 2 * time.Second
	// mostFolders bounds the folders that are looked at.
	mostFolders = 10_000
)

// ErrTooMany is returned when there are more folders than can be looked at.
var ErrTooMany = fmt.Errorf("more than %d folders to watch", mostFolders)

// Watcher looks at folders and files. It must be used by one goroutine at a time.
type Watcher struct {
	fs    *fsnotify.Watcher
	roots []string        // absolute, clean
	known map[string]bool // folders that are looked at
	quiet time.Duration   // as the constant, but in tests
}

// Open makes a watcher that looks at nothing yet. Close must be called.
func Open() (*Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	return &Watcher{fs: w, known: map[string]bool{}, quiet: quiet}, nil
}

// Close ends a Next that waits.
func (w *Watcher) Close() error { return w.fs.Close() }

// Follow looks at these folders, with everything below, and files from now on,
// instead of those before. Each must be absolute; what does not exist is passed over.
// On an error some of them are looked at.
func (w *Watcher) Follow(roots []string) error {
	w.roots = w.roots[:0]
	for _, root := range roots {
		w.roots = append(w.roots, filepath.Clean(root))
	}
	var errs []error
	for _, root := range w.roots {
		info, err := os.Stat(root)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, fmt.Errorf("watch files: %w", err))
		case info.IsDir():
			errs = append(errs, w.enter(root))
		default: // editors replace files: only the folder sees that
			errs = append(errs, w.add(filepath.Dir(root)))
		}
	}
	for dir := range maps.Clone(w.known) {
		if !w.needed(dir) {
			delete(w.known, dir)
			_ = w.fs.Remove(dir) // it may be gone already
		}
	}
	return errors.Join(errs...)
}

// needed reports whether a folder is part of a root, or holds one that is a file.
func (w *Watcher) needed(dir string) bool {
	return slices.ContainsFunc(w.roots, func(root string) bool { return within(root, dir) || filepath.Dir(root) == dir })
}

// enter looks at a folder and all below.
func (w *Watcher) enter(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // gone meanwhile, or not ours to read
			return nil //nolint:nilerr // the rest can be watched
		case !d.IsDir():
			return nil
		case path != dir && dull(d.Name()):
			return filepath.SkipDir
		}
		return w.add(path)
	})
}

func (w *Watcher) add(dir string) error {
	if w.known[dir] {
		return nil
	}
	if len(w.known) >= mostFolders {
		return ErrTooMany
	}
	if err := w.fs.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	w.known[dir] = true
	return nil
}

// Next waits until something changed, and then until nothing has changed for 200 ms,
// at most 2 s. It returns the paths, sorted. The error is that of ctx, or
// [fsnotify.ErrClosed] after Close.
func (w *Watcher) Next(ctx context.Context) ([]string, error) { return w.wait(ctx, nil) }

// Meanwhile is Next for what has changed already: it returns nothing if nothing has.
func (w *Watcher) Meanwhile(ctx context.Context) ([]string, error) {
	return w.wait(ctx, time.After(w.quiet))
}

// wait is Next that gives up when over says so and nothing has changed until then.
func (w *Watcher) wait(ctx context.Context, over <-chan time.Time) ([]string, error) {
	changed := map[string]bool{}
	var end <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.fs.Events:
			if !ok {
				return nil, fsnotify.ErrClosed
			}
			if !w.take(e) {
				continue
			}
			changed[e.Name] = true
			over = time.After(w.quiet)
			if end == nil {
				end = time.After(longest)
			}
		case _, ok := <-w.fs.Errors: // events were lost: something did change
			if !ok {
				return nil, fsnotify.ErrClosed
			}
			for _, root := range w.roots {
				changed[root] = true
			}
			over = time.After(w.quiet)
		case <-over:
			return slices.Sorted(maps.Keys(changed)), nil
		case <-end:
			return slices.Sorted(maps.Keys(changed)), nil
		}
	}
}

// take reports whether an event is a change of what is watched, and goes into
// folders that are new.
func (w *Watcher) take(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod || !w.watched(e.Name) {
		return false
	}
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		// What was below is no longer looked at, under this name at least.
		maps.DeleteFunc(w.known, func(dir string, _ bool) bool { return within(e.Name, dir) })
		return true
	}
	info, err := os.Lstat(e.Name)
	if err != nil || !info.IsDir() {
		return true
	}
	if e.Has(fsnotify.Create) {
		_ = w.enter(e.Name) // one folder too many is not worth an end
	}
	return e.Has(fsnotify.Create)
}

// watched reports whether a path is one of the roots or below one, on no dull way.
func (w *Watcher) watched(path string) bool {
	return slices.ContainsFunc(w.roots, func(root string) bool {
		if path == root {
			return true
		}
		return within(root, path) && !slices.ContainsFunc(strings.Split(path[len(root):], "/"), dull)
	})
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// dull reports whether a name is of something that nobody writes by hand.
func dull(name string) bool {
	switch {
	case name == "":
		return false
	case name[0] == '.', name == "node_modules", name == "__pycache__", strings.HasSuffix(name, "~"), name == "4913": // vim's try
		return true
	}
	switch filepath.Ext(name) {
	case ".log", ".tmp", ".swp", ".pyc", ".db", ".sqlite", ".sqlite3", ".db-wal", ".db-shm", ".db-journal":
		return true
	}
	return false
}

// Within reports whether one of the paths is one of the roots, or below one.
func Within(roots, paths []string) bool {
	return slices.ContainsFunc(paths, func(path string) bool {
		return slices.ContainsFunc(roots, func(root string) bool { return within(filepath.Clean(root), path) })
	})
}
