package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	answerTime = 10 * time.Second // for an answer
	failMost   = 100              // failures of a connection, then it is left
	lineMost   = 8 << 10          // bytes of a line of an answer's head
)

// driveHTTP sends one request after the other on each of n keep-alive connections for
// d. A connection that breaks is made anew. All of them are served by one thread that
// waits in epoll(7), so that the load takes little of the processors beside what it
// measures: a request costs it one write and one read. It is the same for every door.
//
// next makes the request that a connection sends next; it may change the one that it
// made last.
func driveHTTP(n int, d time.Duration, address string, next func(last []byte) []byte) (total result, err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return total, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := loop{to: &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, next: next, buf: make([]byte, 64<<10)}
	if l.poll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return total, err
	}
	defer func() { err = errors.Join(err, syscall.Close(l.poll)) }()
	begin, before := time.Now(), spent()
	l.end = begin.Add(d)
	l.total.latency = make([]time.Duration, 0, int(d/time.Second+1)<<16)
	for i := range n {
		l.conns = append(l.conns, &caller{number: int32(i)})
		if err := l.connect(l.conns[i]); err != nil {
			return total, err
		}
	}
	defer l.close()
	if err := l.run(); err != nil {
		return total, err
	}
	l.total.took, l.total.spent = time.Since(begin), spent()-before
	slices.Sort(l.total.latency)
	return l.total, nil
}

// loop is the thread that serves the connections.
type loop struct {
	to    *syscall.SockaddrInet4
	next  func(last []byte) []byte
	poll  int
	conns []*caller
	open  int
	end   time.Time
	buf   []byte
	total result
}

// caller is one connection.
type caller struct {
	number  int32 // its place among the loop's connections
	fd      int   // -1 once it is left
	request []byte
	unsent  []byte // the rest of the request
	begun   time.Time
	answer  answer
	failed  int
}

func (l *loop) close() {
	for _, c := range l.conns {
		if c.fd >= 0 {
			_ = syscall.Close(c.fd) // nothing is owed
		}
	}
}

// connect opens a connection and sends its first request.
func (l *loop) connect(c *caller) (err error) {
	if c.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	l.open++
	err = errors.Join(
		syscall.Connect(c.fd, l.to),
		syscall.SetNonblock(c.fd, true),
		syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		// Events come once for each change: what is to be done is done until it would block.
		syscall.EpollCtl(l.poll, syscall.EPOLL_CTL_ADD, c.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | 1<<31, Fd: c.number}),
	)
	if err != nil {
		return err
	}
	return l.ask(c)
}

// run serves events until the time is over and all answers are there.
func (l *loop) run() error {
	events := make([]syscall.EpollEvent, 256)
	for l.open > 0 {
		n, err := syscall.EpollWait(l.poll, events, 1000)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			c := l.conns[e.Fd]
			if err := l.serve(c, e.Events); err != nil {
				if err := l.fail(c, err); err != nil {
					return err
				}
			}
		}
		if n > 0 {
			continue
		}
		for _, c := range l.conns {
			if c.fd >= 0 && time.Since(c.begun) > answerTime {
				if err := l.fail(c, errors.New("no answer in time")); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// serve does what a connection is ready for.
func (l *loop) serve(c *caller, events uint32) error {
	if len(c.unsent) > 0 && events&syscall.EPOLLOUT != 0 {
		if err := c.send(); err != nil {
			return err
		}
	}
	if events&^syscall.EPOLLOUT == 0 {
		return nil
	}
	for {
		n, err := syscall.Read(c.fd, l.buf)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case err != nil:
			return err
		case n == 0:
			return errors.New("the server has closed the connection")
		}
		whole, err := c.answer.take(l.buf[:n])
		if err != nil {
			return err
		}
		if whole {
			return l.answered(c)
		}
		if n < len(l.buf) {
			return nil
		}
	}
}

// answered counts an answer, and asks for the next.
func (l *loop) answered(c *caller) error {
	if c.answer.status/100 != 2 {
		return fmt.Errorf("status %d", c.answer.status)
	}
	now := time.Now()
	l.total.count++
	l.total.latency = append(l.total.latency, now.Sub(c.begun))
	if now.After(l.end) {
		return l.leave(c)
	}
	c.begun = now
	return l.ask(c)
}

func (l *loop) ask(c *caller) error {
	c.request = l.next(c.request)
	c.unsent, c.answer = c.request, answer{line: c.answer.line[:0]}
	if c.begun.IsZero() {
		c.begun = time.Now()
	}
	return c.send()
}

// send sends what is left of the request, as far as the socket takes it.
func (c *caller) send() error {
	for len(c.unsent) > 0 {
		n, err := syscall.Write(c.fd, c.unsent)
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
		c.unsent = c.unsent[n:]
	}
	return nil
}

// fail counts a failure; a client would connect again.
func (l *loop) fail(c *caller, why error) error {
	l.total.failed++
	l.total.lastFail = why
	if err := l.leave(c); err != nil {
		return err
	}
	if c.failed++; c.failed > failMost || time.Now().After(l.end) {
		return nil
	}
	c.begun = time.Time{}
	return l.connect(c)
}

func (l *loop) leave(c *caller) error {
	err := syscall.Close(c.fd)
	c.fd = -1
	l.open--
	return err
}

// answer reads an HTTP/1.1 answer as it comes. It knows those with a Content-Length,
// with chunks, and with nothing at all (204).
type answer struct {
	part    part
	line    []byte // the begin of a line whose end has not come
	status  int
	sized   bool
	chunked bool
	left    int // of the body or of the chunk, with its end
}

// part is what of an answer comes next.
type part int

const (
	partStatus part = iota
	partFields
	partBody
	partSize
	partChunk
	partTrailers
	partEnd
)

// take reads what has come, and reports whether the answer is whole.
func (a *answer) take(b []byte) (whole bool, err error) {
	for len(b) > 0 && a.part != partEnd {
		if a.part == partBody || a.part == partChunk {
			n := min(a.left, len(b))
			b, a.left = b[n:], a.left-n
			if a.left == 0 {
				if a.chunked {
					a.part = partSize
				} else {
					a.part = partEnd
				}
			}
			continue
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if a.line = append(a.line, b...); len(a.line) > lineMost {
				return false, errors.New("a line of the answer is too long")
			}
			return false, nil
		}
		line := b[:i]
		if len(a.line) > 0 {
			a.line = append(a.line, line...)
			line, a.line = a.line, a.line[:0]
		}
		b = b[i+1:]
		if err := a.read(bytes.TrimSuffix(line, []byte("\r"))); err != nil {
			return false, err
		}
	}
	if len(b) > 0 {
		return false, errors.New("more has come than an answer")
	}
	return a.part == partEnd, nil
}

// read reads a line.
func (a *answer) read(line []byte) (err error) {
	switch a.part {
	case partStatus:
		if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
			return fmt.Errorf("malformed status line %q", line)
		}
		a.status, err = number(line[9:12], 10)
		a.part = partFields
	case partFields:
		if len(line) > 0 {
			return a.field(line)
		}
		switch {
		case a.chunked:
			a.part = partSize
		case a.left > 0:
			a.part = partBody
		case a.sized || a.status == 204:
			a.part = partEnd
		default:
			return errors.New("the answer does not tell its length")
		}
	case partSize:
		text, _, _ := bytes.Cut(line, []byte(";"))
		size, err := number(text, 16)
		if err != nil {
			return err
		}
		a.left, a.part = size+2, partChunk
		if size == 0 {
			a.part = partTrailers
		}
	default: // trailers
		if len(line) == 0 {
			a.part = partEnd
		}
	}
	return err
}

func (a *answer) field(line []byte) (err error) {
	name, value, ok := bytes.Cut(line, []byte(":"))
	switch {
	case !ok:
		return fmt.Errorf("malformed header %q", line)
	case bytes.EqualFold(name, []byte("Content-Length")):
		a.left, err = number(value, 10)
		a.sized = true
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		a.chunked = true
	}
	return err
}

func number(text []byte, base int) (int, error) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), base, 31)
	return int(n), err
}
