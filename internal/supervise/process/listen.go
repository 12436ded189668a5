package process

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Listener is a TCP socket that accepts connections to 127.0.0.1.
type Listener struct {
	Port  int
	Inode uint64
}

// ParseListeners reads the content of /proc/net/tcp or /proc/net/tcp6 and
// returns the sockets that listen on port and would get a connection to
// 127.0.0.1: bound to it, or to all addresses. Lines it cannot read are left
// out.
func ParseListeners(r io.Reader, port int) ([]Listener, error) {
	var found []Listener
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 10 || string(fields[3]) == "st" {
			continue
		}
		const listen = "0A"
		if string(fields[3]) != listen {
			break // the kernel lists these first, and there may be many others
		}
		address, hexPort, ok := strings.Cut(string(fields[1]), ":")
		if !ok || !reachesLoopback(address) {
			continue
		}
		p, err := strconv.ParseUint(hexPort, 16, 16)
		if err != nil || int(p) != port {
			continue
		}
		inode, err := strconv.ParseUint(string(fields[9]), 10, 64)
		if err != nil || inode == 0 {
			continue
		}
		found = append(found, Listener{Port: port, Inode: inode})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read listening sockets: %w", err)
	}
	return found, nil
}

// reachesLoopback reports whether a socket bound to the address, in the
// kernel's hexadecimal form (32-bit words in the machine's byte order), accepts
// connections to 127.0.0.1.
func reachesLoopback(address string) bool {
	switch address {
	case "0100007F", "7F000001", // 127.0.0.1 on either byte order
		"00000000",                                                             // 0.0.0.0
		"00000000000000000000000000000000",                                     // ::
		"0000000000000000FFFF00000100007F", "00000000000000000000FFFF7F000001": // ::ffff:127.0.0.1
		return true
	}
	return false
}

// Listening returns the sockets of the machine that accept connections to
// 127.0.0.1:port.
func Listening(port int) ([]Listener, error) {
	var all []Listener
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if os.IsNotExist(err) {
			continue // IPv6 is switched off
		}
		if err != nil {
			return nil, fmt.Errorf("read listening sockets: %w", err)
		}
		found, err := ParseListeners(f, port)
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Own reports whether every one of the sockets is held by at least one of the
// processes.
func (t Table) Own(listeners []Listener) bool {
	missing := make(map[string]bool, len(listeners))
	for _, l := range listeners {
		missing["socket:["+strconv.FormatUint(l.Inode, 10)+"]"] = true
	}
	if len(missing) == 0 {
		return false
	}
	for _, s := range t {
		folder := "/proc/" + strconv.Itoa(s.PID) + "/fd"
		dir, err := os.Open(folder)
		if err != nil {
			continue
		}
		names, _ := dir.Readdirnames(-1)
		_ = dir.Close()
		for _, name := range names {
			target, err := os.Readlink(folder + "/" + name)
			if err == nil && missing[target] {
				delete(missing, target)
				if len(missing) == 0 {
					return true
				}
			}
		}
	}
	return false
}
