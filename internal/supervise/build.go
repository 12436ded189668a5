package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/logfile"
	"fairlead/internal/supervise/process"
)

// BuildOptions are for [Build].
type BuildOptions struct {
	Command string    // for sh -c
	Dir     string    // working folder, absolute
	Out     string    // folder for what is built, given as $OUT; made if it does not exist
	Env     []string  // whole environment but OUT
	Output  io.Writer // gets what the command writes, as it comes; may be nil

	mark process.Mark // of the processes; none: they are known by descent only
}

// Build is [Build] with the processes marked as those of the data folder: what
// a build leaves running is found also when it has hidden itself, and when the
// node was killed meanwhile, by the next Start. The supervisor must be started.
func (s *Supervisor) Build(ctx context.Context, opts BuildOptions) error {
	s.mu.Lock()
	opts.mark = process.Mark{Data: s.dataID, Instance: "build-" + filepath.Base(opts.Out) + "-" + strconv.FormatUint(rand.Uint64(), 36)}
	s.mu.Unlock()
	return Build(ctx, opts)
}

// BuildError says that a build command failed.
type BuildError struct {
	Reason string
	Output []string // the last lines it wrote
}

func (e *BuildError) Error() string {
	if len(e.Output) == 0 {
		return "build: " + e.Reason
	}
	return "build: " + e.Reason + "; last output:\n    " + strings.Join(e.Output, "\n    ")
}

// Build runs a build command in a process group of its own and waits for it.
// When ctx ends, the command and everything it started are killed. A command
// that fails gives a [*BuildError]. What the command leaves running in the
// background when it ends is killed too: a build makes files, not services.
func Build(ctx context.Context, opts BuildOptions) error {
	if err := os.MkdirAll(opts.Out, 0o700); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if _, err := os.Stat(opts.Dir); err != nil {
		return fmt.Errorf("build: working folder: %w", plain(err))
	}
	// The signal of parent death is bound to the thread that starts the command.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := &tail{to: opts.Output}
	// ctx kills the whole tree below, not only the shell
	cmd := exec.Command("/bin/sh", "-c", opts.Command)
	cmd.Dir = opts.Dir
	cmd.Env = append(slices.Clip(opts.Env), "OUT="+opts.Out)
	if opts.mark.Data != "" {
		cmd.Env = append(cmd.Env, opts.mark.Env()...)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // for output that a background process holds open
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("build: %w", context.Cause(ctx))
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	defer opts.sweep(context.WithoutCancel(ctx))
	if opts.mark.Data != "" {
		// Not before it starts: the limit is the node's own until then.
		_ = process.SetTagOf(cmd.Process.Pid, opts.mark.Tag()) // the environment marks it too
	}
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = cmd.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		killed := killTree(context.WithoutCancel(ctx), cmd.Process.Pid)
		<-ended
		reapGroup(cmd.Process.Pid)
		reap(killed)
		return fmt.Errorf("build: %w", context.Cause(ctx))
	}
	killGroup(context.WithoutCancel(ctx), cmd.Process.Pid)
	switch exit, failed := errors.AsType[*exec.ExitError](err); {
	case failed:
		return &BuildError{Reason: exit.Error(), Output: out.lines()}
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return fmt.Errorf("build: %w", err)
	}
	return nil
}

// sweep kills and reaps what carries the build's mark.
func (o BuildOptions) sweep(ctx context.Context) {
	if o.mark.Data == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	self := os.Getpid()
	// What cannot be killed is not ours to wait for.
	_ = process.Kill(ctx, func() (process.Table, error) {
		table, err := process.All()
		if err != nil {
			return nil, err
		}
		return table.Marked(o.mark, nil, []int{self}), nil
	})
	table, err := process.All()
	if err != nil {
		return
	}
	for _, s := range table.Orphans(o.mark, self) {
		_, _ = unix.Wait4(s.PID, nil, unix.WNOHANG, nil)
	}
}

// killTree kills a process that nobody has reaped yet, its group, and all that
// descends from it.
// It returns what descended, by pid with start times.
func killTree(ctx context.Context, pid int) map[int]uint64 {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	roots := map[int]bool{pid: true}
	known := make(map[int]uint64) // pid -> start
	// What cannot be killed is not ours to wait for.
	_ = process.Kill(ctx, func() (process.Table, error) {
		table, err := process.All()
		if err != nil {
			return nil, err
		}
		for _, s := range table.Below(roots) {
			roots[s.PID], known[s.PID] = true, s.Start
		}
		return alive(table, func(s process.Stat) bool { return known[s.PID] == s.Start || s.Group == pid }), nil
	})
	return known
}

// reap reaps those of the processes that this process adopted, being a
// subreaper; nobody else waits for them.
func reap(known map[int]uint64) {
	self := os.Getpid()
	for pid, start := range known {
		if s, err := process.Read(pid); err == nil && s.Start == start && s.Parent == self && s.Dead() {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// killGroup kills what is left in the group of a process that has ended. The
// group's number cannot be anybody else's while something is in it.
func killGroup(ctx context.Context, group int) {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	self := os.Getpid()
	_ = process.Kill(ctx, func() (process.Table, error) {
		table, err := process.All()
		if err != nil {
			return nil, err
		}
		return alive(table, func(s process.Stat) bool { return s.Group == group && s.PID != self }), nil
	})
	reapGroup(group)
}

// reapGroup reaps what this process, being a subreaper, adopted of a group.
func reapGroup(group int) {
	for {
		pid, err := unix.Wait4(-group, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

func alive(table process.Table, which func(process.Stat) bool) process.Table {
	var found process.Table
	for _, s := range table.Alive() {
		if which(s) {
			found = append(found, s)
		}
	}
	return found
}

// tail passes output on and keeps its last lines.
type tail struct {
	to io.Writer

	mu     sync.Mutex // guards below
	recent logfile.Recent
	line   []byte
}

// Write never fails: a build must not fail because nobody looks at it.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.to != nil {
		_, _ = t.to.Write(b)
	}
	for part := range strings.SplitAfterSeq(string(b), "\n") {
		if len(t.line)+len(part) <= logfile.MaxText {
			t.line = append(t.line, part...)
		}
		if strings.HasSuffix(part, "\n") {
			t.recent.Add(t.line)
			t.line = t.line[:0]
		}
	}
	return len(b), nil
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recent.Add(t.line)
	t.line = t.line[:0]
	return t.recent.Lines()
}
