package listen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// AddressInUseError says that another process listens on an address.
type AddressInUseError struct {
	Address string
	PID     int    // 0 if it could not be found out
	Command string // "" if it could not be found out
	Cause   error
}

// Error names the address and, if known, the process.
func (e *AddressInUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("listen %s: address in use, by a process of another user", e.Address)
	}
	return fmt.Sprintf("listen %s: address in use by process %d (%s)", e.Address, e.PID, e.Command)
}

// Unwrap returns the system's error.
func (e *AddressInUseError) Unwrap() error { return e.Cause }

// CheckFree returns an [AddressInUseError] if something listens on a TCP address
// already, or another error if nobody could. Port 0 is always free.
func CheckFree(ctx context.Context, address string) error {
	l, err := bind(ctx, address)
	if err != nil {
		return err
	}
	return l.Close()
}

// keepAlive finds clients that have gone without a word: after 30 s of silence,
// three probes that nobody answers, 10 s apart.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}

func bind(ctx context.Context, address string) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false) // the kernel splices and sends files from plain sockets only
	l, err := lc.Listen(ctx, "tcp", address)
	if err == nil {
		return l.(*net.TCPListener), nil // what the network "tcp" gives
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, err
	}
	e := &AddressInUseError{Address: address, Cause: err}
	if _, port, perr := net.SplitHostPort(address); perr == nil {
		if n, perr := net.LookupPort("tcp", port); perr == nil {
			e.PID, e.Command = holder(n)
		}
	}
	return nil, e
}

// holder finds the process that listens on a TCP port of this machine: the socket's
// inode in /proc/net/tcp is searched among the open files of all processes that may
// be read.
func holder(port int) (pid int, command string) {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listeners(table, port, inodes)
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		dir := strings.Split(link, "/")[2]
		pid, err := strconv.Atoi(dir)
		if err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + dir + "/cmdline")
		if err != nil {
			return pid, ""
		}
		// Only the program: arguments may hold secrets.
		name, _, _ := strings.Cut(string(line), "\x00")
		return pid, name
	}
	return 0, ""
}

// listeners adds "socket:[inode]" of every socket in a table of /proc/net that
// listens on the port.
func listeners(table string, port int, inodes map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	const (
		local, state, inode = 1, 3, 9
		listening           = "0A"
	)
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > inode && fields[state] == listening && strings.HasSuffix(fields[local], suffix) {
			inodes["socket:["+fields[inode]+"]"] = true
		}
	}
}
