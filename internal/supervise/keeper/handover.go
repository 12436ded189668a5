package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/process"
)

// Snapshot is what a node knows of its keeper, for the node that takes it over.
type Snapshot struct {
	Protocol int
	Identity Identity
	Sequence uint64
	Read     []byte // of a message that had not come whole
}

// ProcessSnapshot is what a node knows of a process.
type ProcessSnapshot struct {
	ID       string
	Identity Identity
	Exit     *Exit // nil: it lives
	Gone     bool
	Output   []string // once gone
}

// Snapshot is valid while the client is paused.
func (p *Process) Snapshot() ProcessSnapshot {
	s := ProcessSnapshot{ID: p.ID, Identity: p.Identity}
	select {
	case <-p.ended:
		exit := p.exit
		s.Exit = &exit
	default:
	}
	select {
	case <-p.gone:
		s.Gone, s.Output = true, p.output
	default:
	}
	return s
}

// pause is the time in which a client does not read.
type pause struct {
	reached chan struct{} // closed when reading has stopped
	over    chan struct{} // closed by Resume and Release
}

// Pause stops taking the keeper's messages, which wait. It returns what another
// node needs to go on with [Adopt], and the connection to be given to it, a
// duplicate that the caller closes. It fails while a process is being started.
// Every Pause ends with Resume or Release.
func (c *Client) Pause(ctx context.Context) (Snapshot, *os.File, error) {
	c.mu.Lock()
	if c.closed || c.pause != nil || len(c.pending) > 0 {
		defer c.mu.Unlock()
		if c.closed {
			return Snapshot{}, nil, ErrLost
		}
		return Snapshot{}, nil, errors.New("pause keeper: a process is being started")
	}
	p := &pause{reached: make(chan struct{}), over: make(chan struct{})}
	c.pause = p
	c.mu.Unlock()
	_ = c.link.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection, which ends the reading too
	select {
	case <-p.reached:
	case <-c.done:
		return Snapshot{}, nil, ErrLost
	case <-ctx.Done():
		c.Resume()
		return Snapshot{}, nil, fmt.Errorf("pause keeper: %w", context.Cause(ctx))
	}
	link, err := c.link.File()
	if err != nil {
		c.Resume()
		return Snapshot{}, nil, fmt.Errorf("pause keeper: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Snapshot{Protocol: Protocol, Identity: c.identity, Sequence: c.sequence, Read: c.in.read}, link, nil
}

// parked waits while the client is paused. It reports whether it was, and is to
// read on.
func (c *Client) parked() bool {
	c.mu.Lock()
	p := c.pause
	c.mu.Unlock()
	if p == nil {
		return !c.isReleased() // a Resume came in between
	}
	close(p.reached)
	<-p.over
	return !c.isReleased()
}

func (c *Client) isReleased() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.released
}

// Resume takes messages again, those that came meanwhile first.
func (c *Client) Resume() { c.endPause(false) }

// Release lets go of a paused keeper, which goes on for who holds the duplicate of
// its connection. The client is of no use any more; it says nothing of its
// processes' further life.
func (c *Client) Release() { c.endPause(true) }

func (c *Client) endPause(release bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pause == nil {
		return
	}
	c.released = release
	if !release {
		_ = c.link.SetReadDeadline(time.Time{}) // as in Pause
	}
	close(c.pause.over)
	c.pause = nil
}

// Adopt takes over the keeper that another node has paused. link is the other
// node's connection, which Adopt closes. Until the other node has released the
// keeper, or ended, both hold it. The processes that the node knows come with it;
// they are returned in the same order.
func Adopt(opts Options, s Snapshot, processes []ProcessSnapshot, link *os.File) (*Client, []*Process, error) {
	if s.Protocol != Protocol {
		closeQuietly(link)
		return nil, nil, fmt.Errorf("adopt keeper: it speaks version %d, this program %d", s.Protocol, Protocol)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		closeQuietly(link)
		return nil, nil, fmt.Errorf("adopt keeper: become the reaper of orphans: %w", err)
	}
	conn, err := connOf(link)
	if err != nil {
		return nil, nil, fmt.Errorf("adopt keeper: %w", err)
	}
	c := newClient(opts, conn)
	c.identity, c.sequence, c.in.read = s.Identity, s.Sequence, s.Read
	// It is no child of ours; awaitKeeper has the patience that a child gets.
	c.wait = func() error { return awaitKeeper(context.Background(), c.identity) }
	c.kill = func() { _ = process.Signal(process.Stat{PID: c.identity.PID, Start: c.identity.Start}, unix.SIGKILL) }
	list := make([]*Process, len(processes))
	for i, was := range processes {
		p := &Process{ID: was.ID, Identity: was.Identity, client: c, ended: make(chan struct{}), gone: make(chan struct{})}
		list[i] = p
		if was.Exit != nil {
			p.end(*was.Exit)
		}
		if was.Gone {
			p.output = was.Output
			close(p.gone)
		} else {
			c.processes[p.ID] = p
		}
	}
	go c.receive()
	return c, list, nil
}
