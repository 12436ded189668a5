package http1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead/internal/wire"
)

const (
	drainMost  = 256 << 10   // bytes of a body nobody read, to keep the connection
	lingerTime = time.Second // for a client to read the last answer, and for such a body
)

// conn is one connection. All but stamp, ahead and the deadlines belongs to the
// goroutine that serves it.
type conn struct {
	s       *Server
	nc      net.Conn // is read and written
	owner   net.Conn // is closed, and handed over; mostly nc
	handler http.Handler
	cancel  context.CancelFunc
	base    *http.Request   // what all requests of the connection share
	tcp     *net.TCPConn    // nc, if it is one
	raw     syscall.RawConn // of the socket, nil if it has none
	fd      int32           // the socket's number, a hint
	direct  bool            // nc is the socket

	stamp           atomic.Int64 // look's clock when the phase began, and the phase
	ahead           atomic.Bool  // bytes behind the present request have been read
	readBy, writeBy deadline

	t         *turn // nil while nothing has come of a request
	readFirst func(fd uintptr) bool
	readErr   error
	one       [1]byte
	hijacked  bool
}

// turn is what a connection needs while it serves a request.
type turn struct {
	in     input
	req    http.Request
	url    url.URL
	header http.Header
	values []string // of header, one by one
	body   body
	answer answer
}

// input are bytes that were read and not yet used: buf[r:w].
type input struct {
	buf  []byte
	r, w int
}

func newTurn() *turn {
	t := &turn{header: http.Header{}}
	t.in.buf = make([]byte, firstRoom)
	t.answer.out = make([]byte, 0, firstRoom)
	t.answer.header = http.Header{}
	return t
}

// reset makes the turn ready for another request. Unused input stays.
func (t *turn) reset() {
	if len(t.header) > 2*firstFields {
		t.header = http.Header{}
	}
	clear(t.header)
	clear(t.values)
	t.values = t.values[:0]
	t.req, t.url = http.Request{}, url.URL{}
	t.body = body{}
	t.answer.reset()
}

const firstFields = 32

func (c *conn) phase() phase { return phase(c.stamp.Load() & (1<<phaseBits - 1)) }

// move goes on to the next phase. It reports false if look or Shutdown have ended
// the present one.
func (c *conn) move(from, to phase) bool {
	v := c.stamp.Load()
	return phase(v&(1<<phaseBits-1)) == from && c.stamp.CompareAndSwap(v, c.s.looks.Load()<<phaseBits|int64(to))
}

// serve serves one request after the other.
func (c *conn) serve() {
	for now := fresh; c.await(now) && c.next(); now = idle {
		c.t.reset()
		_ = c.readBy.put(time.Time{})  // fails only on a closed connection, as the next read will
		_ = c.writeBy.put(time.Time{}) // as above
		if c.t.in.r < c.t.in.w {
			continue
		}
		c.release()
		if !c.move(serving, idle) {
			break
		}
	}
	if c.t != nil {
		c.t.reset()
		c.release()
	}
}

// release gives the turn back.
func (c *conn) release() {
	t := c.t
	c.t = nil
	t.in.r, t.in.w = 0, 0
	if len(t.in.buf) > keepRoom {
		t.in.buf = make([]byte, firstRoom)
	}
	c.s.turns.Put(t)
}

func (s *Server) newTurn() *turn { return s.turns.Get().(*turn) } //nolint:forcetypeassert // the pool holds nothing else

// await waits for the first bytes of a request.
func (c *conn) await(now phase) bool {
	if c.t != nil { // they came with the last one
		return c.move(serving, reading)
	}
	var err error
	switch {
	case c.direct:
		if err = c.raw.Read(c.readFirst); err == nil {
			err = c.readErr
		}
	case c.base.TLS != nil:
		var n int
		if n, err = c.nc.Read(c.one[:]); n == 1 {
			c.t, err = c.s.newTurn(), nil
			c.t.in.buf[0], c.t.in.w = c.one[0], 1
		}
	default:
		c.t = c.s.newTurn()
		err = c.fill()
	}
	return err == nil && c.move(now, reading)
}

// readRaw takes a buffer only once there is something to read.
func (c *conn) readRaw(fd uintptr) bool {
	t := c.s.newTurn()
	for {
		n, err := syscall.Read(int(fd), t.in.buf)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			c.s.turns.Put(t)
			return false
		case n <= 0:
			c.s.turns.Put(t)
			if c.readErr = err; err == nil {
				c.readErr = io.EOF
			}
			return true
		}
		c.t, t.in.w = t, n
		return true
	}
}

// fill reads more into the buffer, making room for it.
func (c *conn) fill() error {
	in := &c.t.in
	switch {
	case in.r == in.w:
		in.r, in.w = 0, 0
	case in.w == len(in.buf) && in.r > 0:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	case in.w == len(in.buf):
		grown := make([]byte, 2*len(in.buf))
		copy(grown, in.buf)
		in.buf = grown
	}
	n, err := c.nc.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// next reads a head and serves its request. It reports whether the connection can
// take another one.
func (c *conn) next() bool {
	t := c.t
	t.req = *c.base
	t.req.Header, t.req.URL, t.req.Body = t.header, &t.url, http.NoBody
	t.answer.begin(c, t)
	head, err := c.readHead()
	if err != nil {
		return c.unread(err)
	}
	bad := t.parse(head)
	if !c.move(reading, serving) {
		return c.tooSlow()
	}
	if bad != nil {
		return c.reject(bad)
	}
	c.s.requests.Add(1)
	c.ahead.Store(t.in.r < t.in.w && t.req.Body == http.NoBody)
	if !c.handle(c.handler) {
		return false
	}
	return c.finish()
}

// unread deals with a head that could not be read.
func (c *conn) unread(err error) bool {
	var bad *refusal
	switch {
	case errors.As(err, &bad):
		return c.reject(bad)
	case errors.Is(err, os.ErrDeadlineExceeded) && c.t.in.r < c.t.in.w:
		return c.tooSlow()
	}
	return false // nobody waits for an answer
}

func (c *conn) tooSlow() bool {
	_ = c.nc.SetReadDeadline(time.Time{}) // fails only on a closed connection
	return c.reject(refuse(http.StatusRequestTimeout, "the request's head came too slowly"))
}

// finish sends what is left of an answer, and deals with what is left of the body.
func (c *conn) finish() bool {
	t := c.t
	if c.hijacked {
		return false
	}
	if !t.answer.finish() {
		return false
	}
	if t.answer.closes {
		if !t.body.whole() || t.in.r < t.in.w {
			c.linger()
		}
		return false
	}
	if t.body.whole() {
		return true
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime)) // fails only on a closed connection
	if !t.body.drain() {
		c.linger()
		return false
	}
	_ = c.nc.SetReadDeadline(time.Time{}) // as above
	return true
}

// reject answers a request that no handler gets. The connection is over then.
func (c *conn) reject(bad *refusal) bool {
	if bad.preface && c.s.opts.HTTP2 != nil {
		c.stamp.Store(int64(over))
		c.s.leave(c)
		c.hijacked = true
		c.s.opts.HTTP2(&replay{c.owner, bytes.Clone(c.t.in.buf[:c.t.in.w])})
		return false
	}
	c.stamp.Store(c.s.looks.Load()<<phaseBits | int64(serving))
	c.t.req.Body = http.NoBody
	c.t.body = body{}
	c.t.answer.closes = true
	reject := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.s.opts.Reject(w, r, bad.status, bad.detail)
	})
	if c.handle(reject) && !c.hijacked && c.t.answer.finish() {
		c.linger()
	}
	return false
}

// handle runs a handler. It reports false if it panicked.
func (c *conn) handle(h http.Handler) (ok bool) {
	defer func() {
		if ok {
			return
		}
		if err := recover(); err != nil && err != http.ErrAbortHandler { //nolint:errorlint // a panic's value is compared as net/http does
			c.s.log.Error("panic while serving", wire.KeyError, err, "stack", string(debug.Stack()))
		}
		c.cancel()
		if c.tcp != nil && c.t.answer.shape == untilIt {
			_ = c.tcp.SetLinger(0) // so that what was sent cannot pass for all of it
		}
	}()
	h.ServeHTTP(&c.t.answer, &c.t.req)
	return true
}

// linger ends the sending half and reads on for a moment: closing a connection on
// which something unread arrives makes the kernel take back what was sent.
func (c *conn) linger() {
	c.stamp.Store(c.s.looks.Load()<<phaseBits | int64(ending))
	until := time.Now().Add(lingerTime)
	_ = c.nc.SetDeadline(until) // fails only on a closed connection, as what follows
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	for {
		if _, err := c.nc.Read(c.t.in.buf); err != nil {
			return
		}
	}
}

// replay is a connection of which something was read before.
type replay struct {
	net.Conn

	first []byte
}

// Read returns what was read before, then reads the connection.
func (r *replay) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}
