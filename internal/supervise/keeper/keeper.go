// Package keeper is the small child process that owns the processes of all
// instances, and the node's side of it.
//
// The keeper starts every instance from one permanent thread, so that the
// signal of parent death comes when the keeper ends and not earlier; it is the
// subreaper of all that descends from them; it reads their output and writes it
// to files; and it ends whole trees of processes.
//
// It guarantees:
//
//   - an instance's environment is what the command says and the marks, nothing
//     of the keeper's or of the operator's;
//   - it serves whoever holds the other end of that connection: a node may hand it
//     to another one ([Client.Pause], [Adopt]), and the keeper does not notice;
//   - when its connection to the node closes without a word, whatever the
//     reason, it ends every descendant (SIGTERM, at most 2 s, SIGKILL) and then
//     itself; it holds the lock of the data folder until then;
//   - when it is killed itself, its direct children die with it, and the node
//     ends what they left;
//   - a terminal's signals do not reach it or the instances: it has a session
//     of its own.
//
// It does not decide anything: what runs, when it is started again and whether
// it is ready is the node's business. It does not survive the last node.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/logfile"
	"fairlead/internal/supervise/process"
)

const (
	linkFD   = 3               // inherited: the connection to the node
	lockFD   = 4               // inherited: the lock of the data folder
	orphaned = 2 * time.Second // what instances get to end when the node is gone
	// sweepLimit bounds the killing of a tree; a process that is in an
	// uninterruptible wait of the kernel outlives it.
	sweepLimit = 10 * time.Second
)

// Main is the keeper's main. It is meant for a process that [Start] made and
// returns the exit status: 0 when all instances ended, 1 when some could not be
// ended, 2 when it was not started by a node.
func Main(_ []string) int {
	closeOnExec()
	file := os.NewFile(linkFD, "node")
	if file == nil {
		return 2
	}
	link, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the keeper is started by fairlead itself, not by hand")
		return 2
	}
	// An ignored signal would stay ignored in the instances: take and drop them.
	drop := make(chan os.Signal, 1)
	signal.Notify(drop, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become the reaper of orphans:", err)
		return 2
	}
	// The keeper holds next to nothing; it should not take memory from others.
	debug.SetGCPercent(50)
	k := &keeper{link: link, instances: make(map[string]*instance), pids: make(map[int]*instance)}
	return k.run()
}

// closeOnExec keeps what the keeper inherited from the instances: the link, the
// lock, and whatever the operator's shell had left open.
func closeOnExec() {
	if unix.CloseRange(linkFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd") // before Linux 5.11
	if err != nil {
		entries = nil
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= linkFD {
			unix.CloseOnExec(fd)
		}
	}
	unix.CloseOnExec(linkFD)
	unix.CloseOnExec(lockFD)
}

type keeper struct {
	link  net.Conn
	in    frames
	hello hello
	boot  string

	mu        sync.Mutex // guards all below, and that no pid is signalled after it was reaped
	instances map[string]*instance
	pids      map[int]*instance // started and not reaped
	out       []message         // to be sent
	closing   bool              // no more starts
	wake      chan struct{}     // cap 1: out is not empty

	starts chan start
	tends  sync.WaitGroup
}

type start struct {
	message message
	done    chan struct{}
}

func (k *keeper) run() int {
	k.in.from = k.link
	first, err := k.in.next()
	if err != nil || first.Kind != kindHello || first.Hello == nil {
		return 2
	}
	k.hello = *first.Hello
	if k.boot, err = process.BootID(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	self, err := process.Read(os.Getpid())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	k.wake = make(chan struct{}, 1)
	k.starts = make(chan start)
	go k.start()
	go k.reap()
	k.mu.Lock()
	k.record()
	k.mu.Unlock()
	k.send(message{Kind: kindHello, Process: &Identity{PID: self.PID, Start: self.Start}})
	sent := make(chan struct{})
	stopSending := make(chan struct{})
	go func() {
		defer close(sent)
		k.deliver(stopSending)
	}()

	grace := k.serve()

	k.mu.Lock()
	k.closing = true
	for _, in := range k.instances {
		in.requestStop(grace)
	}
	k.mu.Unlock()
	k.tends.Wait()
	code := k.sweep()
	// The node learns how the last ones ended before the connection closes.
	close(stopSending)
	<-sent
	_ = k.link.Close()
	if code == 0 {
		_ = os.Remove(statePath(k.hello.Dir))
	}
	return code
}

// sweep ends what descends from the keeper without belonging to an instance.
func (k *keeper) sweep() int {
	ctx, cancel := context.WithTimeout(context.Background(), sweepLimit)
	defer cancel()
	self := os.Getpid()
	err := process.Kill(ctx, func() (process.Table, error) {
		table, err := process.All()
		if err != nil {
			return nil, err
		}
		return table.Below(map[int]bool{self: true}).Alive(), nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve takes the node's messages until it says shutdown or goes away, and
// returns the grace for what still runs.
func (k *keeper) serve() time.Duration {
	for {
		m, err := k.in.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "lost the node:", err)
			}
			return orphaned
		}
		switch m.Kind {
		case kindStart:
			if m.Start == nil {
				return orphaned
			}
			s := start{message: m, done: make(chan struct{})}
			k.starts <- s
			<-s.done
		case kindStop, kindKill:
			k.mu.Lock()
			in := k.instances[m.ID]
			k.mu.Unlock()
			if in == nil {
				continue // it has ended meanwhile, which the node has been told
			}
			if m.Kind == kindStop {
				in.requestStop(m.Grace)
			} else {
				in.requestStop(0)
			}
		case kindShutdown:
			return m.Grace
		default:
			fmt.Fprintln(os.Stderr, "lost the node: it speaks another language")
			return orphaned
		}
	}
}

// send queues a message for the node, so that neither the reaper nor an
// instance waits for a node that does not read.
func (k *keeper) send(m message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queue(m)
}

// queue is send for who holds mu.
func (k *keeper) queue(m message) {
	k.out = append(k.out, m)
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// deliver sends what is queued until stop is closed and the queue is empty.
// The queue is bounded by three messages for each instance that the node
// started. Nothing is sent any more once the node is gone.
func (k *keeper) deliver(stop <-chan struct{}) {
	broken := false
	for last := false; ; {
		k.mu.Lock()
		batch := k.out
		k.out = nil
		k.mu.Unlock()
		for _, m := range batch {
			if broken {
				break
			}
			_ = k.link.SetWriteDeadline(time.Now().Add(30 * time.Second))
			if err := writeMessage(k.link, m); err != nil {
				broken = true
				// Whoever does not read its messages for so long is not a node.
				_ = k.link.Close()
			}
		}
		if last {
			return
		}
		select {
		case <-k.wake:
		case <-stop:
			last = true
		}
	}
}

// start starts processes, all from this one thread, for ever.
func (k *keeper) start() {
	runtime.LockOSThread()
	for s := range k.starts {
		k.launch(s.message)
		close(s.done)
	}
}

// reap is the only place that waits for processes.
func (k *keeper) reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		k.reapAll()
		select {
		case <-ended:
		case <-again.C:
		}
	}
}

func (k *keeper) reapAll() {
	for {
		// Under the lock, so that nobody signals a number that was given away.
		k.mu.Lock()
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			k.mu.Unlock()
			continue
		}
		if err != nil || pid <= 0 {
			k.mu.Unlock()
			return
		}
		in := k.pids[pid]
		delete(k.pids, pid)
		if in != nil {
			in.reaped = true
			in.exit = exitOf(status)
			in.exit.Ours = in.stopping
			in.exit.Memory = in.exit.Signal == int(unix.SIGKILL) && !in.stopping && memoryKills() > in.memoryKills
			// Queued before anybody is woken: the node must not hear that it is gone
			// before it hears how it ended.
			exit := in.exit
			k.queue(message{Kind: kindEnded, ID: in.id, Exit: &exit})
			close(in.ended)
		}
		k.mu.Unlock()
	}
}

func exitOf(status unix.WaitStatus) Exit {
	if status.Signaled() {
		return Exit{Signal: int(status.Signal()), Core: status.CoreDump()}
	}
	return Exit{Code: status.ExitStatus()}
}

// logOptions are those of every instance.
func (k *keeper) logOptions() logfile.Options {
	return logfile.Options{Limit: k.hello.LogLimit, Files: k.hello.LogFiles}
}
