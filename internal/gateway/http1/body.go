package http1

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

const (
	maxSizeLine = 256      // bytes of a chunk's size with its extensions
	maxExtended = 16 << 10 // bytes of all extensions of a body
	maxTrailer  = 16 << 10 // bytes of all trailers
)

// bodyError says in which way a body is not HTTP.
type bodyError struct{ what string }

func (e *bodyError) Error() string { return "malformed body: " + e.what }

// body is a request's body. One goroutine at a time reads it, and none after the
// handler has returned.
type body struct {
	c        *conn
	left     int64 // of the length, or of the present chunk
	chunked  bool
	inside   bool // a chunk has begun and its end was not seen
	last     bool // the last chunk was seen
	trailed  int  // bytes of trailers so far
	expect   bool // the client waits for 100 Continue
	extended int  // bytes of extensions so far
	closed   bool
	err      error // io.EOF once it is whole

	// tell guards against a 100 Continue behind the answer's head, when one
	// goroutine reads and another one writes.
	tell sync.Mutex
	told bool // the answer has begun, or 100 Continue was sent

	fate atomic.Uint32 // what the writer may know of the reader's state
}

// What a body means for its connection.
const (
	spare    uint32 = iota // what is left can be read after the handler
	finished               // nothing is left
	hopeless               // the rest is too much, broken, or will not come
)

// settle takes note of the body's fate.
func (b *body) settle() {
	fate := spare
	switch {
	case errors.Is(b.err, io.EOF):
		fate = finished
	case b.err != nil || b.expect || b.left > drainMost:
		fate = hopeless
	}
	b.fate.Store(fate)
}

// whole reports whether nothing of the body is left on the connection.
func (b *body) whole() bool { return b.c == nil || b.fate.Load() == finished }

// hopeless reports whether the connection cannot be used again unless the handler
// reads on.
func (b *body) hopeless() bool { return b.c != nil && b.fate.Load() == hopeless }

// Read reads a part of the body.
func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	case b.expect:
		b.expect = false
		b.proceed()
	}
	n, err := b.read(p)
	b.settle()
	return n, err
}

// proceed tells the client to send the body, if nothing else was said before.
func (b *body) proceed() {
	b.tell.Lock()
	defer b.tell.Unlock()
	if !b.told {
		b.told = true
		_, _ = io.WriteString(b.c.nc, "HTTP/1.1 100 Continue\r\n\r\n") // reading tells
	}
}

// answered says that the answer begins.
func (b *body) answered() {
	b.tell.Lock()
	b.told = true
	b.tell.Unlock()
}

func (b *body) read(p []byte) (int, error) {
	if !b.chunked {
		n, err := b.take(p)
		if err == nil && b.left == 0 {
			b.err = io.EOF
			err = io.EOF
		}
		return n, err
	}
	for sum := 0; ; {
		if b.left == 0 {
			if err := b.nextChunk(); err != nil {
				return sum, err
			}
		}
		n, err := b.take(p[sum:])
		sum += n
		if err != nil || sum == len(p) || !b.ready() {
			return sum, err
		}
	}
}

// take reads bytes of the length or the chunk.
func (b *body) take(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	in := &b.c.t.in
	if in.r == in.w {
		if len(p) >= len(in.buf) {
			n, err := b.c.nc.Read(p)
			b.left -= int64(n)
			if n == 0 {
				return 0, b.broke(err)
			}
			return n, nil
		}
		if err := b.c.fill(); err != nil {
			return 0, b.broke(err)
		}
	}
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	b.left -= int64(n)
	return n, nil
}

// broke takes note of why reading failed. After a time-out reading may go on; in
// all other cases the client has left.
func (b *body) broke(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	b.c.cancel()
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	return err
}

func (b *body) malformed(what string) error {
	b.err = &bodyError{what}
	return b.err
}

// ready reports whether more can be had without waiting for the client, so far as
// that can be told cheaply.
func (b *body) ready() bool {
	in := &b.c.t.in
	rest := in.buf[in.r:in.w]
	if b.left > 0 {
		return len(rest) > 0
	}
	// The end of this chunk and the size of the next, or all of the body's end.
	return len(rest) > 2 && bytes.IndexByte(rest[2:], '\n') > 0 && (rest[2] != '0' || bytes.Contains(rest[2:], []byte("\r\n\r\n")))
}

// nextChunk reads up to the bytes of the next chunk. It returns io.EOF if there is
// none. After a time-out it goes on where it was.
func (b *body) nextChunk() error {
	if b.inside {
		end, err := b.line(0)
		if err != nil {
			return err
		}
		if len(end) != 0 {
			return b.malformed("a chunk does not end where its size says")
		}
		b.inside = false
	}
	if !b.last {
		line, err := b.line(maxSizeLine)
		if err != nil {
			return err
		}
		size, extended, what := chunkSize(line)
		if what != "" {
			return b.malformed(what)
		}
		if b.extended += extended; b.extended > maxExtended {
			return b.malformed("its chunks have too many extensions")
		}
		if b.left = size; size > 0 {
			b.inside = true
			return nil
		}
		b.last = true
	}
	return b.trailers()
}

// chunkSize reads a chunk's size line without its end (RFC 9112, 7.1). It returns
// the bytes of its extensions too, and what is wrong with it, "" for nothing. Space
// between size and extension is refused, unlike there: servers differ on it.
func chunkSize(line []byte) (size int64, extended int, what string) {
	i := 0
	for ; i < len(line); i++ {
		var digit byte
		switch ch := line[i]; {
		case '0' <= ch && ch <= '9':
			digit = ch - '0'
		case 'a' <= ch|0x20 && ch|0x20 <= 'f':
			digit = ch | 0x20 - 'a' + 10
		case ch == ';' && i > 0:
			for _, ch := range line[i:] {
				if ch < ' ' && ch != '\t' || ch == 0x7f {
					return 0, 0, "a chunk's extension holds a control character"
				}
			}
			return size, len(line) - i, ""
		default:
			return 0, 0, "a chunk's size is not a hexadecimal number"
		}
		if i == 15 {
			return 0, 0, "a chunk is too large"
		}
		size = size<<4 | int64(digit)
	}
	if i == 0 {
		return 0, 0, "a chunk has no size"
	}
	return size, 0, ""
}

// trailers reads what follows the last chunk.
func (b *body) trailers() error {
	t := b.c.t
	for {
		line, err := b.line(maxTrailer - b.trailed)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.err = io.EOF
			return io.EOF
		}
		b.trailed += len(line) + 2
		name, value, what := field(string(line))
		switch {
		case what != "":
			return b.malformed("a trailer is malformed: " + what)
		case notInTrailer(name):
			return b.malformed("a trailer holds what belongs to the head")
		case len(t.req.Trailer) >= maxFields:
			return b.malformed("there are too many trailers")
		}
		if t.req.Trailer == nil {
			t.req.Trailer = http.Header{}
		}
		t.req.Trailer[name] = append(t.req.Trailer[name], value)
	}
}

// notInTrailer names what would change how a message is framed or routed
// (RFC 9110, 6.5.1).
func notInTrailer(name string) bool {
	switch name {
	case "Transfer-Encoding", "Content-Length", "Trailer", "Host", "Connection", "Expect", "Te", "Upgrade":
		return true
	}
	return false
}

// line reads a line of at most so many bytes, and returns it without its end. It
// is valid until the next reading.
func (b *body) line(most int) ([]byte, error) {
	in := &b.c.t.in
	for {
		rest := in.buf[in.r:in.w]
		if len(rest) > most+2 {
			rest = rest[:most+2]
		}
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			if i == 0 || rest[i-1] != '\r' {
				return nil, b.malformed("a line does not end in CR LF")
			}
			in.r += i + 1
			return rest[:i-1], nil
		}
		if len(rest) >= most+2 {
			return nil, b.malformed("a line is too long, or does not end where it should")
		}
		if err := b.c.fill(); err != nil {
			return nil, b.broke(err)
		}
	}
}

// drain reads what the handler left, if that is not much.
func (b *body) drain() bool {
	if b.hopeless() {
		return false
	}
	var waste [2 << 10]byte
	for sum := 0; b.err == nil && sum <= drainMost; {
		n, err := b.read(waste[:])
		sum += n
		if err != nil {
			break
		}
	}
	b.settle()
	return b.whole()
}

// Close makes later reads fail. What was not read is dealt with after the handler.
func (b *body) Close() error {
	b.closed = true
	return nil
}
