package lasting

import (
	"sync/atomic"
	"time"
)

// Stream is an answer that comes in pieces, from the first time that the service
// lets one wait for the next. Asked to end, server-sent events end behind an event,
// or wherever they are when [CloseTime] is over: browsers drop half an event and
// come back. Any other answer that shall end is broken off.
type Stream struct {
	events bool
	wake   func() // gets the reader of the answer out of what it waits for

	by atomic.Int64 // Unix nanoseconds by when it shall end, 0: it may stay
}

// NewStream returns the stream of an answer; events says that it consists of
// server-sent events. When it shall end, wake is called to get the reader of the answer
// out of what it waits for. It must not block.
func NewStream(events bool, wake func()) *Stream { return &Stream{events: events, wake: wake} }

func (s *Stream) end(by time.Time, force bool) {
	if (s.events || force) && s.by.CompareAndSwap(0, by.UnixNano()) {
		s.wake()
	}
}

func (s *Stream) cut() {
	s.by.Store(1)
	s.wake()
}

// Ending returns by when the stream shall end. A nil stream stays.
func (s *Stream) Ending() (by time.Time, ok bool) {
	if s == nil {
		return by, false
	}
	at := s.by.Load()
	return time.Unix(0, at), at != 0
}

// Events finds the ends of server-sent events in a stream: an empty line, whichever
// of CR LF, LF and CR ends lines (WHATWG HTML, 9.2.5). The zero value is at the
// begin of a stream, where one may end, too.
type Events struct {
	begun bool // something of an event has come since the last empty line
	line  bool // something of a line has come
	cr    bool // the last byte was CR
}

// Next takes bytes up to the end of an event, and returns how many, and whether an
// event ends there.
func (e *Events) Next(b []byte) (n int, end bool) {
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

// Pass takes all of b.
func (e *Events) Pass(b []byte) {
	for len(b) > 0 {
		n, _ := e.Next(b)
		b = b[n:]
	}
}

// Between reports whether no event has begun.
func (e *Events) Between() bool { return !e.begun }
