package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"fairlead/internal/node"
)

// standInVerb is the word by which [standIn] is started.
const standInVerb = "stand-in"

// becomeStandIn turns this process, whose node another process has succeeded, into
// a [standIn]: whoever started it, a terminal or a supervisor, waits for this
// process. It returns only with an error.
func becomeStandIn(data string) error {
	// Not by its path: the file of that name may be another program by now.
	err := syscall.Exec("/proc/self/exe", []string{"fairlead", standInVerb, data}, os.Environ())
	return fmt.Errorf("stand in for the process that runs the system: %w", err)
}

// standIn lives in the place of the process that was started first as long as the
// system of a data folder runs. It passes signals on to the process that runs the
// system, which the folder's lock names, ends when that has, with its status, and
// takes the status of all that loses its parent, the keeper among them.
func standIn(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "a stand-in is started by fairlead itself, not by hand")
		return exitUsage
	}
	data := args[0]
	current := runningPID(data)
	if current == 0 {
		return exitFailed // it has just ended
	}
	asked := make(chan os.Signal, 4)
	signal.Notify(asked, stopSignals()...)
	go func() {
		for sig := range asked {
			if s, ok := sig.(syscall.Signal); ok {
				passOn(runningPID(data), s)
			}
		}
	}()
	// What loses its parent, such as the next process when this one's successor ends,
	// comes to us. It stays so through exec; a failure shows as no child being left.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return exitFailed
		case pid == current:
			if current = runningPID(data); current == 0 {
				return statusOf(status)
			}
		}
	}
}

// runningPID is the process that runs the system of a data folder, 0 for none.
func runningPID(data string) int {
	if r := node.Running(data); r != nil {
		return r.PID
	}
	return 0
}

// passOn sends a signal to the process that runs the system.
func passOn(pid int, s syscall.Signal) {
	if pid > 0 && pid != os.Getpid() {
		_ = syscall.Kill(pid, s) // it has ended: so do we
	}
}

// statusOf is the exit code that tells how a process ended, as a shell has it.
func statusOf(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
