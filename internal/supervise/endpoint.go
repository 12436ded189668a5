package supervise

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Endpoint is where an instance can be reached.
type Endpoint struct {
	Network string // "tcp", "unix", or "bus" for an instance that has neither
	Address string // 127.0.0.1:port, an absolute path, or ""
}

// String is the endpoint as status shows it.
func (e Endpoint) String() string {
	if e.Network == "bus" || e.Network == "" {
		return "bus"
	}
	return e.Network + " " + e.Address
}

// ports gives out ports, none of them twice at once. It is safe for concurrent
// use.
type ports struct {
	min, max int

	mu   sync.Mutex // guards below
	used map[int]bool
	at   int
}

func newPorts(least, most int) *ports {
	// Two nodes of one machine begin at different places.
	return &ports{min: least, max: most, used: make(map[int]bool), at: least + rand.IntN(most-least+1)}
}

// take reserves a port that nobody listens on.
func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.max - p.min + 1 {
		port := p.at
		if p.at++; p.at > p.max {
			p.at = p.min
		}
		if !p.used[port] && free(port) {
			p.used[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("reserve a port: all of %d to %d are in use", p.min, p.max)
}

// hold reserves a port that an instance has already.
func (p *ports) hold(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[port] = true
}

func (p *ports) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, port)
}

// free reports whether an instance could listen on the port, also when it
// listens on all addresses.
func free(port int) bool {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// maxSocketPath is below the 107 bytes that the kernel takes, since programs
// append to it for their temporary files.
const maxSocketPath = 100

// sockets gives out paths for Unix sockets in a folder that only this user can
// enter.
type sockets struct {
	dir      string
	fallback string // folder of our own under os.TempDir, made when dir is too long
	mu       sync.Mutex
}

func (s *sockets) open() error {
	// What is in there belongs to instances that are gone.
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("clear sockets: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make folder for sockets: %w", err)
	}
	return nil
}

func (s *sockets) path(id string) (string, error) {
	path := filepath.Join(s.dir, id+".sock")
	if len(path) <= maxSocketPath {
		return path, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fallback == "" {
		dir, err := os.MkdirTemp("", "fairlead-")
		if err != nil {
			return "", fmt.Errorf("make folder for sockets: %w", err)
		}
		s.fallback = dir
	}
	path = filepath.Join(s.fallback, id+".sock")
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("make path for socket: %s has more than %d bytes; set TMPDIR to a short path", path, maxSocketPath)
	}
	return path, nil
}

func (s *sockets) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, dir := range []string{s.dir, s.fallback} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	s.fallback = ""
	return errors.Join(errs...)
}
