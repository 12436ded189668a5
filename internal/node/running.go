package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Running returns who runs the system of a data folder, nil when nobody does. It
// needs no control socket, which a node opens later than it locks the folder, and
// closes earlier.
func Running(data string) *RunningError {
	f, err := os.Open(filepath.Join(data, "lock"))
	if err != nil {
		return nil
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	var h holder
	if b, err := os.ReadFile(f.Name()); err != nil || json.Unmarshal(b, &h) != nil || !h.alive() {
		return nil
	}
	return &RunningError{PID: h.PID, Dir: data, Address: h.Address, Since: h.Since}
}
