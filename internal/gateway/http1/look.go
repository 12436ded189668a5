package http1

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// phase is what a connection is doing. Its own goroutine takes it from one to the
// next; look and Shutdown may take it out of fresh, idle and head. Whoever comes
// second finds the stamp changed.
type phase int64

const (
	fresh   phase = iota // no request has come yet
	idle                 // between two requests
	reading              // a head
	serving              // a request
	ending               // the last answer is out, the client may still send
	late                 // its head took too long; reads fail
	over                 // closed, or somebody else's
)

const phaseBits = 3

// long ago: makes every pending operation of a connection time out.
var past = time.Unix(1, 0)

// look does what would otherwise cost every request timers and a second goroutine:
// it ends connections that idle or dawdle, fires deadlines, and sees clients leave.
func (s *Server) look() {
	now, tick := time.Now(), s.looks.Add(1)
	stale, slow, busy := s.stale[:0], s.late[:0], s.serving[:0]
	s.mu.Lock()
	for c := range s.conns {
		v := c.stamp.Load()
		age := tick - v>>phaseBits
		switch phase(v & (1<<phaseBits - 1)) {
		case fresh:
			if age > s.head {
				stale = append(stale, c)
			}
		case idle:
			if age > s.idle {
				stale = append(stale, c)
			}
		case reading:
			if age > s.head {
				slow = append(slow, c)
			}
		case serving:
			c.readBy.check(now)
			c.writeBy.check(now)
			if age > 1 && c.raw != nil {
				busy = append(busy, c)
			}
		default:
		}
	}
	s.mu.Unlock()
	s.polled.closeQuiet(stale)
	for _, c := range slow {
		if v := c.stamp.Load(); phase(v&(1<<phaseBits-1)) == reading && c.stamp.CompareAndSwap(v, v&^(1<<phaseBits-1)|int64(late)) {
			_ = c.nc.SetReadDeadline(past) // fails only on a closed connection
		}
	}
	s.polled.dropGone(busy)
	clear(stale)
	clear(slow)
	clear(busy)
	s.stale, s.late, s.serving = stale, slow, busy
	s.mu.Lock()
	if len(s.conns) > 0 {
		s.looking.Reset(lookEvery)
	}
	s.mu.Unlock()
}

// pollSet is room for asking the kernel about many connections at once.
type pollSet struct{ fds []unix.PollFd }

// ask returns what poll(2) says of each connection now. It goes by the numbers of
// sockets that may have been closed meanwhile: an answer is a hint, to be confirmed.
func (p *pollSet) ask(conns []*conn, events int16) []unix.PollFd {
	p.fds = p.fds[:0]
	for _, c := range conns {
		fd := unix.PollFd{Fd: c.fd, Events: events}
		if c.raw == nil {
			fd.Fd = -1 // is passed over
		}
		p.fds = append(p.fds, fd)
	}
	if len(p.fds) > 0 {
		for {
			if _, err := unix.Poll(p.fds, 0); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	return p.fds
}

// closeQuiet closes connections that wait for a request of which nothing has come.
func (p *pollSet) closeQuiet(conns []*conn) {
	for i, fd := range p.ask(conns, unix.POLLIN) {
		if fd.Revents != 0 {
			continue // its own goroutine is about to deal with it
		}
		c := conns[i]
		v := c.stamp.Load()
		if ph := phase(v & (1<<phaseBits - 1)); (ph == fresh || ph == idle) && c.stamp.CompareAndSwap(v, int64(over)) {
			_ = c.owner.Close() // nobody has asked anything
		}
	}
}

// dropGone ends the contexts of connections whose clients have left.
func (p *pollSet) dropGone(conns []*conn) {
	for i, fd := range p.ask(conns, unix.POLLRDHUP) {
		if fd.Revents != 0 && conns[i].gone() {
			conns[i].cancel()
		}
	}
}

// gone reports whether the client has left.
func (c *conn) gone() bool {
	left := false
	_ = c.raw.Control(func(fd uintptr) { // a closed one has left in another way
		one := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(one, 0); err != nil || n == 0 {
			return
		}
		if one[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 || !c.direct {
			left = true
			return
		}
		// More than the request has come: whoever sent that may still listen.
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		left = n == 0 && err == nil && !c.ahead.Load() || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return left
}

// deadline is one of a connection. Those that are far away are only remembered:
// look fires them. Nearly all are replaced before that.
type deadline struct {
	on func(time.Time) error // the connection's

	mu  sync.Mutex // guards the fields below
	at  time.Time
	set bool // the connection has one
}

func (d *deadline) put(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.IsZero() || time.Until(t) > time.Second {
		d.at = t
		if !d.set {
			return nil
		}
		d.set = false
		return d.on(time.Time{})
	}
	d.at, d.set = time.Time{}, true
	return d.on(t)
}

func (d *deadline) check(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.at.IsZero() && now.After(d.at) {
		d.at, d.set = time.Time{}, true
		_ = d.on(past) // fails only on a closed connection
	}
}
