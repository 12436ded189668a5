package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RunningError says that another process runs the system of a data folder.
type RunningError struct {
	PID     int       // of the node
	Dir     string    // data folder
	Address string    // of its door, "" while it starts
	Since   time.Time // when it started
}

// Error tells who runs the system, since when and where.
func (e *RunningError) Error() string {
	s := fmt.Sprintf("the system in %s is run by process %d since %s", e.Dir, e.PID, e.Since.Format(time.DateTime))
	if e.Address != "" {
		s += ", at " + e.Address
	}
	return s
}

// holder is the content of the lock file: who holds the lock.
type holder struct {
	PID     int       `json:"pid"`
	Start   uint64    `json:"start"` // clock ticks since boot: with PID it names a process for good
	Boot    string    `json:"boot"`
	Since   time.Time `json:"since"`
	Address string    `json:"address,omitempty"`
}

// dataLock keeps every other node off a data folder. The keeper inherits its
// descriptor, so that the folder stays locked until the last instance has ended,
// also when the node was killed.
type dataLock struct {
	file *os.File
	holder
}

// keeperWait is how long a new node waits for the keeper of a killed one.
const keeperWait = 30 * time.Second

// lockData takes the lock of dir. It returns a RunningError if a living node has
// it; if only the keeper of a dead one does, it waits and tells.
func lockData(ctx context.Context, dir string, tell func(string)) (*dataLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, keeperWait)
	defer cancel()
	told := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		}
		var h holder
		if b, err := os.ReadFile(f.Name()); err == nil {
			_ = json.Unmarshal(b, &h) // half-written by a node that starts: no one is named yet
		}
		if h.alive() {
			return nil, errors.Join(&RunningError{PID: h.PID, Dir: dir, Address: h.Address, Since: h.Since}, f.Close())
		}
		if !told {
			told = true
			tell("an earlier run was killed; waiting until its last process has ended")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: held by the processes of an earlier run: %w", dir, ctx.Err()), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
	l := ownedLock(f)
	if err := l.write(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// ownedLock is a lock that this process holds, which the file does not say yet.
func ownedLock(f *os.File) *dataLock {
	return &dataLock{file: f, holder: holder{PID: os.Getpid(), Start: startTicks(os.Getpid()), Boot: bootID(), Since: time.Now()}}
}

// announce puts the door's address into the lock file.
func (l *dataLock) announce(address string) error {
	l.Address = address
	return l.write()
}

func (l *dataLock) write() error {
	b, err := json.Marshal(l.holder)
	if err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	// One write call of the whole content, padded over what stood there.
	old, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	if pad := int(old.Size()) - len(b); pad > 0 {
		b = append(b, bytes.Repeat([]byte{' '}, pad)...)
	}
	if _, err := l.file.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	return nil
}

// release gives the lock up. The file stays: removing it would let two nodes
// lock two files of one name.
func (l *dataLock) release() error { return l.file.Close() }

func (h holder) alive() bool {
	return h.PID != 0 && h.Boot == bootID() && h.Start == startTicks(h.PID)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startTicks returns when a process started (proc(5), stat, field 22), 0 if
// there is none, or only its zombie.
func startTicks(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
