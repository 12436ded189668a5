package cli

import (
	"errors"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"fairlead/internal/node"
)

// standIn stays in the process that was started first as long as another one runs
// the system of a data folder, the process current at first: whoever started it, a terminal or a supervisor,
// waits for it. It passes what it is asked on to the process that runs the system,
// which the folder's lock names, returns when that has ended, with its status, and
// takes the status of all that loses its parent, the keeper among them.
//
// It does not become a program of its own: a signal that came while that starts
// would end it.
func standIn(data string, current int, asked <-chan os.Signal) int {
	// What loses its parent, such as the process after next when the next one ends,
	// comes to us. A failure shows as no child being left.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	// How ps and top tell it from the process that runs the system; at worst not at all.
	_ = os.WriteFile("/proc/self/comm", []byte("fairlead-waits"), 0)
	debug.FreeOSMemory() // of a system that it ran

	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case sig := <-asked:
				passOn(runningPID(data), sig)
			case <-done:
				return
			}
		}
	}()
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
func passOn(pid int, sig os.Signal) {
	if s, ok := sig.(syscall.Signal); ok && pid > 0 && pid != os.Getpid() {
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
