package gateway

import (
	"net"
	"sync/atomic"
	"time"
)

// stream is an answer that comes in pieces, from the first time that the service
// lets one wait for the next. Asked to end, server-sent events end behind an event,
// or wherever they are when closeTime is over: browsers drop half an event and
// come back. Any other answer that shall end is broken off.
type stream struct {
	events bool
	wake   func() // gets the reader of the answer out of what it waits for

	by atomic.Int64 // Unix nanoseconds by when it shall end, 0: it may stay
}

func (s *stream) end(by time.Time, force bool) {
	if (s.events || force) && s.by.CompareAndSwap(0, by.UnixNano()) {
		s.wake()
	}
}

func (s *stream) cut() {
	s.by.Store(1)
	s.wake()
}

// ending returns by when the stream shall end. A nil stream stays.
func (s *stream) ending() (by time.Time, ok bool) {
	if s == nil {
		return by, false
	}
	at := s.by.Load()
	return time.Unix(0, at), at != 0
}

// waker returns what gets a reader of c out of its Read.
func waker(c net.Conn) func() {
	return func() { _ = c.SetReadDeadline(past) } // fails only on a closed connection
}

// events finds the ends of server-sent events in a stream: an empty line, whichever
// of CR LF, LF and CR ends lines (WHATWG HTML, 9.2.5). The zero value is at the
// begin of a stream, where one may end, too.
type events struct {
	begun bool // something of an event has come since the last empty line
	line  bool // something of a line has come
	cr    bool // the last byte was CR
}

// next takes bytes up to the end of an event, and returns how many, and whether an
// event ends there.
func (e *events) next(b []byte) (n int, end bool) {
	for i, c := range b {
		switch {
		case c == '\n' && e.cr: // the second half of a line's end
			e.cr = false
			if !e.begun {
				return i + 1, true
			}
		case c == '\n' || c == '\r':
			e.cr = c == '\r'
			empty := !e.line
			e.line = false
			if empty {
				e.begun = false
				if c == '\n' {
					return i + 1, true
				}
				if i+1 == len(b) || b[i+1] != '\n' {
					return i + 1, true
				}
			}
		default:
			e.begun, e.line, e.cr = true, true, false
		}
	}
	return len(b), !e.begun
}

// pass takes all of b.
func (e *events) pass(b []byte) {
	for len(b) > 0 {
		n, _ := e.next(b)
		b = b[n:]
	}
}

// between reports whether no event has begun.
func (e *events) between() bool { return !e.begun }
