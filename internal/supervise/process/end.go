package process

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Signal sends a signal to exactly the process that s describes. A process that
// has ended is no error.
func Signal(s Stat, signal unix.Signal) error {
	fd, err := unix.PidfdOpen(s.PID, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return signalByNumber(s, signal)
	}
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("open process %d: %w", s.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The pidfd now pins one process; its start time says whether it is the one.
	if !s.same() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", s.PID, err)
	}
	return nil
}

// same reports whether the process still exists, reaped or not.
func (s Stat) same() bool {
	now, err := Read(s.PID)
	return err == nil && now.Start == s.Start
}

// signalByNumber is for kernels before 5.3 and sandboxes without pidfds.
func signalByNumber(s Stat, signal unix.Signal) error {
	if !s.same() {
		return nil
	}
	if err := unix.Kill(s.PID, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", s.PID, err)
	}
	return nil
}

// LeftError says which processes could not be ended.
type LeftError struct{ Processes Table }

// Error names the processes.
func (e *LeftError) Error() string {
	var text strings.Builder
	text.WriteString("end processes: still there:")
	for _, s := range e.Processes {
		fmt.Fprintf(&text, " %d (%s, state %c)", s.PID, s.Name, s.State)
	}
	return text.String()
}

// Kill ends everything that find returns with SIGKILL and returns when find
// finds nothing any more. All are stopped before the first is killed, and found
// again until no new one appears, so that none escapes by forking meanwhile. It
// gives up with a [*LeftError] when ctx ends: a process in an uninterruptible
// wait of the kernel cannot be ended by anyone.
func Kill(ctx context.Context, find func() (Table, error)) error {
	pause := time.Millisecond
	for {
		found, err := find()
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return nil
		}
		stopped := make(map[int]uint64)
		for grew := true; grew; {
			grew = false
			for _, s := range found {
				if start, seen := stopped[s.PID]; !seen || start != s.Start {
					stopped[s.PID] = s.Start
					grew = true
					// What cannot be signalled is reported by LeftError.
					_ = Signal(s, unix.SIGSTOP)
				}
			}
			if grew {
				if found, err = find(); err != nil {
					return err
				}
			}
		}
		for _, s := range found {
			_ = Signal(s, unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return &LeftError{Processes: found}
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// End asks everything that find returns to end with SIGTERM, waits until
// nothing is found for at most grace, then does what [Kill] does.
func End(ctx context.Context, grace time.Duration, find func() (Table, error)) error {
	asked := make(map[int]uint64)
	deadline := time.Now().Add(grace)
	for pause := time.Millisecond; time.Now().Before(deadline); pause = min(2*pause, 20*time.Millisecond) {
		found, err := find()
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return nil
		}
		for _, s := range found {
			if start, seen := asked[s.PID]; !seen || start != s.Start {
				asked[s.PID] = s.Start
				_ = Signal(s, unix.SIGTERM)
			}
		}
		select {
		case <-ctx.Done():
			return Kill(ctx, find)
		case <-time.After(pause):
		}
	}
	return Kill(ctx, find)
}
