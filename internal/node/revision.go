package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fairlead/internal/control"
	"fairlead/internal/supervise"
	"fairlead/internal/system"
)

// kept is how many revisions stay, with what their builds left, so that a
// rollback needs no compiler.
const kept = 10

// revision is one applied version of the file: the model, and what its builds
// left, in a folder of its own.
type revision struct {
	record
	sys *system.System
	dir string // <data>/revisions/<number>
	// stored waits until the folder holds the file, or tells why it does not. Nil of
	// one that was read from there.
	stored func() error
}

// settled waits until nothing writes to the revision's folder any more.
func (r *revision) settled() error {
	if r.stored == nil {
		return nil
	}
	return r.stored()
}

// discard removes the folder of a revision that came to nothing.
func (r *revision) discard() error {
	_ = r.settled() // it goes anyway
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("remove revision %d: %w", r.Number, err)
	}
	return nil
}

// out is the folder that a service's build writes to, its $OUT.
func (r *revision) out(service string) string { return filepath.Join(r.dir, service) }

// command is the service's command with $OUT filled in.
func (r *revision) command(svc *system.Service) []string {
	words := make([]string, len(svc.Command))
	for i, w := range svc.Command {
		words[i] = outVariable.ReplaceAllLiteralString(w, r.out(svc.Name))
	}
	return words
}

var outVariable = regexp.MustCompile(`\$(OUT\b|\{OUT\})`)

func (n *Node) revisionDir(number int) string {
	return filepath.Join(n.data, "revisions", strconv.Itoa(number))
}

// BuildError is a build that failed; Output is the end of what it printed.
type BuildError struct {
	Service string
	Output  string
	Err     error
}

// Error tells which service's build failed, and how.
func (e *BuildError) Error() string {
	if b, ok := errors.AsType[*supervise.BuildError](e.Err); ok {
		return fmt.Sprintf("build %s: %s", e.Service, b.Reason) // without its output
	}
	return fmt.Sprintf("build %s: %v", e.Service, e.Err)
}

// Unwrap returns how the build ended.
func (e *BuildError) Unwrap() error { return e.Err }

// build runs the builds of all services of sys into the folder of a new revision
// and returns it. On an error the folder is gone again. The file is stored beside what
// the caller does next, until settled.
// What came out as it did for the revision before is linked to that, not kept twice.
func (n *Node) build(ctx context.Context, sys *system.System, number int, before record) (*revision, error) {
	r := &revision{record: record{Number: number, Environment: sys.Environment, Builds: map[string]string{}}, sys: sys, dir: n.revisionDir(number)}
	if err := os.RemoveAll(r.dir); err != nil { // of a reload that was cut off
		return nil, fmt.Errorf("make revision %d: %w", number, err)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make revision %d: %w", number, err)
	}
	var mu sync.Mutex // guards r.Builds
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.NumCPU()))
	for _, svc := range sys.Services {
		if svc.Build == "" {
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil { // a neighbour failed: that is the error
				return nil
			}
			out := r.out(svc.Name)
			hash, err := n.buildService(ctx, &svc, out)
			if err != nil {
				return err
			}
			if hash == before.Builds[svc.Name] {
				if err := relink(filepath.Join(n.revisionDir(before.Number), svc.Name), out); err != nil {
					return fmt.Errorf("build %s: %w", svc.Name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			r.Builds[svc.Name] = hash
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, r.discard())
	}
	done := make(chan error, 1)
	go func() { done <- store(sys, r.dir) }()
	r.stored = sync.OnceValue(func() error { return <-done })
	return r, nil
}

func (n *Node) buildService(ctx context.Context, svc *system.Service, out string) (hash string, err error) {
	n.tell(control.Event{Kind: control.EventBuilding, Service: svc.Name})
	start := time.Now()
	if err := os.MkdirAll(out, 0o700); err != nil {
		return "", fmt.Errorf("build %s: %w", svc.Name, err)
	}
	output := &tail{limit: 16 << 10}
	err = n.sup.Build(ctx, supervise.BuildOptions{Command: svc.Build, Dir: svc.WorkingDir, Out: out, Env: os.Environ(), Output: output})
	if err != nil {
		if ctx.Err() == nil { // not just cancelled because a neighbour failed
			n.tell(control.Event{Kind: control.EventBuildError, Service: svc.Name, Text: output.String(), Took: time.Since(start)})
		}
		return "", &BuildError{Service: svc.Name, Output: output.String(), Err: err}
	}
	hash, err = hashTree(out)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", svc.Name, err)
	}
	n.tell(control.Event{Kind: control.EventBuilt, Service: svc.Name, Took: time.Since(start)})
	return hash, nil
}

// filesName is the file in a revision's folder that holds the texts of the files that
// the document names, as JSON. No service can have that name.
const filesName = "files.json"

// store keeps what a revision is read from in its folder.
func store(sys *system.System, dir string) error {
	files, err := json.Marshal(sys.Files)
	if err != nil {
		return fmt.Errorf("store revision: %w", err)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, system.FileName), sys.Source, 0o600),
		os.WriteFile(filepath.Join(dir, filesName), files, 0o600),
	)
}

// stored reads what store kept: the file and the schemas that it names as they were.
func (n *Node) stored(rec record) (*system.System, error) {
	dir := n.revisionDir(rec.Number)
	src, err := os.ReadFile(filepath.Join(dir, system.FileName))
	if err != nil {
		return nil, err
	}
	opts := system.Options{Environment: rec.Environment, Files: map[string][]byte{}}
	switch files, err := os.ReadFile(filepath.Join(dir, filesName)); {
	case errors.Is(err, fs.ErrNotExist): // it was stored before there were types
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(files, &opts.Files); err != nil {
			return nil, fmt.Errorf("read %s: %w", filesName, err)
		}
	}
	return system.Parse(n.file, src, filepath.Dir(n.file), opts)
}

// reuse makes revision number out of what revision from built, with its file.
func (n *Node) reuse(from record, number int) (*revision, error) {
	old := n.revisionDir(from.Number)
	sys, err := n.stored(from)
	if err != nil {
		return nil, fmt.Errorf("take revision %d up again: %w", from.Number, err)
	}
	r := &revision{
		record: record{Number: number, Environment: from.Environment, From: from.Number, Builds: from.Builds},
		sys:    sys, dir: n.revisionDir(number),
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return nil, fmt.Errorf("take revision %d up again: %w", from.Number, err)
	}
	if err := linkTree(old, r.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("take revision %d up again: %w", from.Number, err), r.discard())
	}
	return r, nil
}

// prune removes the folders and records of revisions that are neither among the
// newest nor run any more.
func (n *Node) prune(ctx context.Context) error {
	all, err := n.state.revisionNumbers(ctx)
	if err != nil {
		return err
	}
	for i, number := range all {
		if i < kept || n.inUse(number) {
			continue
		}
		if err := os.RemoveAll(n.revisionDir(number)); err != nil {
			return fmt.Errorf("remove revision %d: %w", number, err)
		}
		if err := n.state.forget(ctx, number); err != nil {
			return err
		}
	}
	return nil
}

// hashTree names the content of a folder: paths, modes and bytes.
func hashTree(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v ", rel, info.Mode())
		switch {
		case info.Mode().IsRegular():
			fmt.Fprintf(h, "%d\n", info.Size())
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = io.Copy(h, f)
			return errors.Join(err, f.Close())
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			fmt.Fprintf(h, "%q\n", to)
			return err
		}
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// linkTree makes the folder to like from, its files as hard links. Nobody writes
// to a revision's files once they are built.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		default:
			return os.Link(path, target)
		}
	})
}

// relink replaces the folder to, which holds what from holds, by links to its
// files, if from still exists.
func relink(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return linkTree(from, to)
}

// tail keeps the last bytes written to it.
type tail struct {
	mu    sync.Mutex
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > t.limit { // cut seldom, not at each write
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String returns the end of what was written, from the start of a line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if over := len(b) - t.limit; over > 0 {
		b = b[over:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}
