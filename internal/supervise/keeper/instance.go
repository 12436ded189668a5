package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/logfile"
	"fairlead/internal/supervise/process"
)

// instance is one tree of processes. keeper.mu guards what changes.
type instance struct {
	id          string
	mark        process.Mark
	process     Identity
	log         *logfile.Writer
	pipes       []*os.File
	copied      chan struct{} // closed when the output has ended
	memoryKills uint64        // of the machine, when it started

	ended    chan struct{} // closed when the main process was reaped
	reaped   bool
	exit     Exit
	stopping bool
	stop     chan time.Duration // cap 1; the shortest grace asked for
}

// requestStop asks the instance's loop to end it within grace; a later request
// can only make it shorter.
func (in *instance) requestStop(grace time.Duration) {
	for {
		select {
		case in.stop <- grace:
			return
		default:
		}
		select {
		case before := <-in.stop:
			grace = min(grace, before)
		default:
		}
	}
}

// launch starts a process and answers the node. It runs on the starting thread.
func (k *keeper) launch(m message) {
	in, err := k.spawn(*m.Start)
	if err != nil {
		k.send(message{Kind: kindStarted, Sequence: m.Sequence, ID: m.Start.ID, Error: err.Error()})
		return
	}
	id := in.process
	k.send(message{Kind: kindStarted, Sequence: m.Sequence, ID: in.id, Process: &id})
	k.tends.Go(func() { k.tend(in) })
}

func (k *keeper) spawn(c Command) (*instance, error) {
	in := &instance{
		id: c.ID, mark: process.Mark{Data: k.hello.DataID, Instance: c.ID},
		copied: make(chan struct{}), ended: make(chan struct{}), stop: make(chan time.Duration, 1),
		memoryKills: memoryKills(),
	}
	var err error
	if in.log, err = logfile.Open(c.LogDir, c.ID, k.logOptions()); err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(err, in.log.Close())
	}
	defer closeQuietly(null)
	outRead, outWrite, err := pipe()
	if err != nil {
		return nil, errors.Join(err, in.log.Close())
	}
	defer func() { _ = unix.Close(outWrite) }()
	errRead, errWrite, err := pipe()
	if err != nil {
		return nil, errors.Join(err, outRead.Close(), in.log.Close())
	}
	defer func() { _ = unix.Close(errWrite) }()
	in.pipes = []*os.File{outRead, errRead}

	// Without the tag, processes that clear their environment and leave their
	// parents are found only when the keeper ends; nothing else is lost.
	if process.SetTag(in.mark.Tag()) == nil {
		defer func() { _ = process.SetTag(0) }()
	}
	err = k.fork(in, c, []uintptr{null.Fd(), uintptr(outWrite), uintptr(errWrite)})
	if err != nil {
		return nil, errors.Join(err, outRead.Close(), errRead.Close(), in.log.Close())
	}
	var copies sync.WaitGroup
	for i, stream := range []string{logfile.Out, logfile.Err} {
		copies.Go(func() {
			// The pipe fails only when tend closes it.
			_ = in.log.Copy(stream, in.pipes[i])
		})
	}
	go func() {
		copies.Wait()
		close(in.copied)
	}()
	return in, nil
}

// pipe returns a pipe for the output of a process: our end works with the
// poller, so that Close wakes a read; the other end blocks, as programs expect.
func pipe() (read *os.File, write int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("open pipe: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, -1, errors.Join(fmt.Errorf("open pipe: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "output"), fds[1], nil
}

// fork starts the process and enters it into the books in one step, so that the
// reaper never meets a pid that it does not know.
func (k *keeper) fork(in *instance, c Command, files []uintptr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return errors.New("the keeper is ending")
	}
	if _, used := k.instances[c.ID]; used {
		return fmt.Errorf("instance %s runs already", c.ID)
	}
	pid, err := syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   in.environment(c.Env),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	in.process.PID = pid
	if s, err := process.Read(pid); err == nil {
		in.process.Start = s.Start
	}
	k.instances[c.ID] = in
	k.pids[pid] = in
	k.record()
	return nil
}

// environment is what was granted, with the marks, whatever was granted.
func (in *instance) environment(granted []string) []string {
	env := make([]string, 0, len(granted)+2)
	for _, entry := range granted {
		name, _, _ := strings.Cut(entry, "=")
		if name != process.EnvData && name != process.EnvInstance {
			env = append(env, entry)
		}
	}
	return append(env, in.mark.Env()...)
}

// find returns the living processes of the instance.
func (k *keeper) find(in *instance) (process.Table, error) {
	table, err := process.All()
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	var roots []int
	if !in.reaped {
		roots = []int{in.process.PID}
	}
	k.mu.Unlock()
	return table.Marked(in.mark, roots, []int{os.Getpid()}), nil
}

// tend waits for the end of an instance, or brings it about, and leaves when
// nothing of it is left.
func (k *keeper) tend(in *instance) {
	k.untilOver(in)
	ctx, cancel := context.WithTimeout(context.Background(), sweepLimit)
	defer cancel()
	if err := process.Kill(ctx, func() (process.Table, error) { return k.find(in) }); err != nil {
		fmt.Fprintln(os.Stderr, "instance", in.id+":", err)
	}
	select {
	case <-in.ended:
	case <-ctx.Done():
		// It is stuck in the kernel. The node is told that it is gone, and the
		// reaper takes it when the kernel lets go.
		k.send(message{Kind: kindEnded, ID: in.id, Exit: &Exit{Signal: int(unix.SIGKILL), Ours: true}})
	}
	// Somebody who escaped may hold the pipes open.
	select {
	case <-in.copied:
	case <-time.After(time.Second):
	}
	for _, p := range in.pipes {
		_ = p.Close()
	}
	<-in.copied
	output := in.log.Recent(logfile.Err)
	if len(output) == 0 {
		output = in.log.Recent(logfile.Out)
	}
	_ = in.log.Close()
	k.mu.Lock()
	delete(k.instances, in.id)
	k.record()
	k.mu.Unlock()
	k.send(message{Kind: kindGone, ID: in.id, Output: output})
}

// untilOver returns when the instance's tree has ended in peace, when its main
// process ended unasked, or when the grace is over.
func (k *keeper) untilOver(in *instance) {
	var (
		ended    = in.ended
		deadline time.Time
		over     <-chan time.Time
		look     <-chan time.Time
		pause    = 2 * time.Millisecond
	)
	for {
		select {
		case grace := <-in.stop:
			if grace <= 0 {
				k.markStopping(in)
				return
			}
			if at := time.Now().Add(grace); deadline.IsZero() || at.Before(deadline) {
				deadline, over = at, time.After(grace)
			}
			k.terminate(in)
		case <-over:
			return
		case <-ended:
			if deadline.IsZero() {
				return // unasked; the rest is killed at once, so that it cannot stand in its successor's way
			}
			// What is left gets the rest of the grace: a shell that ended at the
			// signal may have left its server behind, which is finishing requests.
			ended = nil
			rest, err := k.find(in)
			if err != nil || len(rest) == 0 {
				return
			}
			for _, s := range rest {
				if s.Group != in.process.PID {
					_ = process.Signal(s, unix.SIGTERM)
				}
			}
			look = time.After(pause)
		case <-look:
			if rest, err := k.find(in); err != nil || len(rest) == 0 {
				return
			}
			pause = min(2*pause, 50*time.Millisecond)
			look = time.After(pause)
		}
	}
}

func (k *keeper) markStopping(in *instance) {
	k.mu.Lock()
	in.stopping = true
	k.mu.Unlock()
}

// terminate sends SIGTERM once, to the whole group: a shell does not pass it on.
func (k *keeper) terminate(in *instance) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !in.stopping && !in.reaped {
		// The leader is not reaped, hence the group is still this one.
		_ = unix.Kill(-in.process.PID, unix.SIGTERM)
	}
	in.stopping = true
}

// memoryKills is how many processes the kernel has killed for want of memory.
func memoryKills() uint64 {
	f, err := os.Open("/proc/vmstat")
	if err != nil {
		return 0
	}
	defer closeQuietly(f)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if count, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			n, err := strconv.ParseUint(count, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
