package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/process"
	"fairlead/internal/wire"
)

// ErrLost says that the keeper has ended.
var ErrLost = errors.New("the keeper has ended")

// Options are for [Start].
type Options struct {
	Dir      string   // data folder, absolute
	DataID   string   // its random id
	LogLimit int64    // bytes of one log segment; 0: 10 MiB
	LogFiles int      // segments of one instance; 0: 5
	Lock     *os.File // held by the keeper too, until it ends; may be nil
	Logger   *slog.Logger
}

// Client is the node's side of a keeper. It is safe for concurrent use.
type Client struct {
	opts     Options
	link     *net.UnixConn
	identity Identity
	in       frames
	wait     func() error // returns when the keeper's process has ended
	kill     func()

	sending sync.Mutex // one message at a time on link

	mu        sync.Mutex // guards all below
	sequence  uint64
	pending   map[uint64]chan message
	processes map[string]*Process
	closed    bool
	pause     *pause // nil: it reads
	released  bool

	done   chan struct{} // closed when the keeper has ended and nothing of it is left
	reason string        // why, valid after done
}

// Process is an instance's process in the hands of the keeper.
type Process struct {
	ID       string
	Identity Identity

	client *Client
	ended  chan struct{}
	gone   chan struct{}
	once   sync.Once
	exit   Exit
	output []string
}

// Ended is closed when the main process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Gone is closed when nothing of the instance is left; never before Ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Exit says how it ended. It is valid after Ended.
func (p *Process) Exit() Exit {
	<-p.ended
	return p.exit
}

// Output returns the last lines it wrote, of standard error if there are any.
// It is valid after Gone.
func (p *Process) Output() []string {
	<-p.gone
	return p.output
}

func (p *Process) end(exit Exit) {
	p.once.Do(func() {
		p.exit = exit
		close(p.ended)
	})
}

// Stop asks the process to end: SIGTERM to its group, SIGKILL to its whole tree
// when grace is over or the tree has ended but for stragglers. It does not wait;
// a later call can only make the grace shorter; zero kills at once.
func (p *Process) Stop(grace time.Duration) {
	m := message{Kind: kindStop, ID: p.ID, Grace: grace}
	if grace <= 0 {
		m = message{Kind: kindKill, ID: p.ID}
	}
	// A lost keeper ends the process too.
	_ = p.client.write(m)
}

// Start starts a keeper from the running program's own binary, whose main must
// call [Main] when its first argument is "keeper". It makes the calling process
// the subreaper of its descendants, so that what a killed keeper leaves can be
// found. The keeper runs until [Client.Shutdown] or until this process ends.
func Start(ctx context.Context, opts Options) (*Client, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("start keeper: become the reaper of orphans: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "node")
	defer closeQuietly(far)
	link, err := connOf(near)
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	logs := filepath.Join(opts.Dir, "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("start keeper: %w", err), link.Close())
	}
	complaints, err := os.OpenFile(filepath.Join(logs, "keeper.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start keeper: %w", err), link.Close())
	}
	defer closeQuietly(complaints)
	// Not os.Executable: the file of that name may have been replaced since.
	// the keeper outlives ctx, and this process if need be
	cmd := exec.Command("/proc/self/exe", "keeper")
	cmd.Args[0] = "fairlead"
	cmd.Env = []string{} // nothing of the operator's
	cmd.Dir = opts.Dir
	cmd.Stderr = complaints
	cmd.ExtraFiles = []*os.File{far}
	if opts.Lock != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, opts.Lock)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start keeper: %w", err), link.Close())
	}
	c := newClient(opts, link)
	c.wait, c.kill = cmd.Wait, func() { _ = cmd.Process.Kill() }
	if err := c.greet(ctx); err != nil {
		_ = link.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	go c.receive() //nolint:contextcheck,gosec // the keeper outlives ctx
	return c, nil
}

func newClient(opts Options, link *net.UnixConn) *Client {
	return &Client{
		opts: opts, link: link, in: frames{from: link},
		pending: make(map[uint64]chan message), processes: make(map[string]*Process), done: make(chan struct{}),
	}
}

// connOf makes a connection of a socket, which it closes.
func connOf(f *os.File) (*net.UnixConn, error) {
	defer closeQuietly(f)
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	link, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is no Unix socket", f.Name()), conn.Close())
	}
	return link, nil
}

// closeQuietly is for files whose close can lose nothing.
func closeQuietly(f *os.File) { _ = f.Close() }

func (c *Client) greet(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.link.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	h := hello{Dir: c.opts.Dir, DataID: c.opts.DataID, LogLimit: c.opts.LogLimit, LogFiles: c.opts.LogFiles}
	err := writeMessage(c.link, message{Kind: kindHello, Hello: &h})
	if err != nil {
		return err
	}
	m, err := c.in.next()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if m.Kind != kindHello || m.Process == nil {
		return errors.New("it does not answer as a keeper; the program does not call its main")
	}
	c.identity = *m.Process
	return nil
}

// PID is the keeper's process id.
func (c *Client) PID() int { return c.identity.PID }

// Done is closed when the keeper has ended, nothing of its instances is left,
// and every Process is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Reason says how the keeper ended. It is valid after Done.
func (c *Client) Reason() string {
	<-c.done
	return c.reason
}

func (c *Client) write(m message) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	_ = c.link.SetWriteDeadline(time.Now().Add(30 * time.Second))
	return writeMessage(c.link, m)
}

// Launch starts a process. When ctx ends before the keeper has answered, the
// process is ended as soon as it has. The error is [ErrLost] when the keeper
// has ended.
func (c *Client) Launch(ctx context.Context, command Command) (*Process, error) {
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrLost
	}
	c.sequence++
	sequence := c.sequence
	c.pending[sequence] = answer
	p := &Process{ID: command.ID, client: c, ended: make(chan struct{}), gone: make(chan struct{})}
	c.processes[command.ID] = p
	c.mu.Unlock()
	if err := c.write(message{Kind: kindStart, Sequence: sequence, Start: &command}); err != nil {
		c.forget(sequence, command.ID)
		if errors.Is(err, errFrame) {
			return nil, err
		}
		return nil, ErrLost
	}
	select {
	case m := <-answer:
		return c.started(p, m)
	case <-c.done:
		return nil, ErrLost
	case <-ctx.Done():
		go func() {
			select {
			case m := <-answer:
				if late, err := c.started(p, m); err == nil {
					late.Stop(0)
				}
			case <-c.done:
			}
		}()
		return nil, context.Cause(ctx)
	}
}

func (c *Client) started(p *Process, m message) (*Process, error) {
	if m.Error != "" || m.Process == nil {
		c.forget(m.Sequence, p.ID)
		return nil, errors.New(m.Error)
	}
	p.Identity = *m.Process
	return p, nil
}

func (c *Client) forget(sequence uint64, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, sequence)
	delete(c.processes, id)
}

// receive takes the keeper's messages until it ends, then cleans up after it.
func (c *Client) receive() {
	for {
		m, err := c.in.next()
		if errors.Is(err, os.ErrDeadlineExceeded) && c.parked() {
			continue
		}
		if err != nil {
			break
		}
		c.take(m)
	}
	_ = c.link.Close()
	if c.isReleased() {
		return
	}
	// A keeper that broke off but lives is ending its instances; it gets the time.
	impatient := time.AfterFunc(orphaned+sweepLimit, c.kill)
	err := c.wait()
	impatient.Stop()
	c.reason = "the keeper ended"
	if err != nil {
		c.reason = fmt.Sprintf("the keeper ended: %v", err)
	}
	c.mu.Lock()
	c.closed = true
	left := c.processes
	c.processes = nil
	clear(c.pending)
	c.mu.Unlock()
	// At once: what waits for these instances must not wait for the cleaning.
	for _, p := range left {
		p.end(Exit{Lost: c.reason})
	}
	ctx, cancel := context.WithTimeout(context.Background(), sweepLimit)
	defer cancel()
	if err := sweep(ctx, c.opts.DataID, nil); err != nil {
		c.opts.Logger.Error("left-overs of the keeper could not be ended", wire.KeyError, err)
	}
	for _, p := range left {
		close(p.gone)
	}
	close(c.done)
}

func (c *Client) take(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Kind {
	case kindStarted:
		if answer := c.pending[m.Sequence]; answer != nil {
			delete(c.pending, m.Sequence)
			answer <- m
		}
	case kindEnded:
		if p := c.processes[m.ID]; p != nil && m.Exit != nil {
			p.end(*m.Exit)
		}
	case kindGone:
		if p := c.processes[m.ID]; p != nil {
			delete(c.processes, m.ID)
			p.output = m.Output
			p.end(Exit{Ours: true})
			close(p.gone)
		}
	}
}

// Shutdown ends all instances that still run, within grace, and the keeper. It
// returns when nothing is left. When ctx ends earlier, the keeper and what is
// left of the instances are killed.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	// A keeper that cannot be told is ending.
	_ = c.write(message{Kind: kindShutdown, Grace: grace})
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.kill()
	<-c.done
	return context.Cause(ctx)
}

// Clean ends what an earlier keeper of the data folder left behind, found by
// what that keeper recorded and by the marks. A keeper that is still alive is
// waited for, since it is cleaning itself, and killed when ctx ends or after
// some seconds. It returns the processes that it had to end. The caller holds
// the folder's lock, or else there must be no running node.
func Clean(ctx context.Context, dir, dataID string) (process.Table, error) {
	boot, err := process.BootID()
	if err != nil {
		return nil, err
	}
	last, err := readState(dir, boot)
	if err != nil {
		return nil, err
	}
	if err := awaitKeeper(ctx, last.Keeper); err != nil {
		return nil, err
	}
	var roots []process.Stat
	for _, id := range last.Instances {
		if s, ok := id.alive(); ok {
			roots = append(roots, s)
		}
	}
	var ended process.Table
	seen := make(map[int]bool)
	err = sweepEach(ctx, dataID, roots, func(s process.Stat) {
		if !seen[s.PID] {
			seen[s.PID] = true
			ended = append(ended, s)
		}
	})
	if err != nil {
		return ended, fmt.Errorf("clean up after the last run: %w", err)
	}
	if err := os.Remove(statePath(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return ended, fmt.Errorf("clean up after the last run: %w", err)
	}
	return ended, nil
}

// awaitKeeper returns when the process has ended.
func awaitKeeper(ctx context.Context, id Identity) error {
	impatient := time.After(orphaned + sweepLimit)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		s, alive := id.alive()
		if !alive {
			return nil
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
			return fmt.Errorf("wait for the keeper of the last run, process %d: %w", id.PID, context.Cause(ctx))
		case <-impatient:
			if err := process.Signal(s, unix.SIGKILL); err != nil {
				return err
			}
		}
	}
}

func sweep(ctx context.Context, dataID string, roots []process.Stat) error {
	return sweepEach(ctx, dataID, roots, func(process.Stat) {})
}

// sweepEach kills everything that carries the mark of the data folder or
// descends from roots, and reaps what this process adopted of it.
func sweepEach(ctx context.Context, dataID string, roots []process.Stat, each func(process.Stat)) error {
	mark := process.Mark{Data: dataID}
	self := os.Getpid()
	err := process.Kill(ctx, func() (process.Table, error) {
		table, err := process.All()
		if err != nil {
			return nil, err
		}
		var living []int
		for _, r := range roots {
			if s, err := process.Read(r.PID); err == nil && s.Start == r.Start {
				living = append(living, r.PID)
			}
		}
		found := table.Marked(mark, living, []int{self})
		for _, s := range found {
			each(s)
		}
		return found, nil
	})
	if err != nil {
		return err
	}
	table, err := process.All()
	if err != nil {
		return err
	}
	for _, s := range table.Orphans(mark, self) {
		// Only these: the others have somebody who waits for them.
		reap(ctx, s.PID)
	}
	return nil
}

// reap takes the status of a dead child. It waits until the other threads of the
// process have ended, which may be later than the first.
func reap(ctx context.Context, pid int) {
	for {
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got != 0 && !errors.Is(err, unix.EINTR) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}
