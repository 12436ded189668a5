package lasting

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead/internal/gateway/meter"
	"fairlead/internal/gateway/websocket"
)

// Tunnel carries bytes between a client and a service once both have agreed to
// leave HTTP. Each side may end its half first; a side that does not read holds the
// other one up and nothing else.
//
// When a tunnel is asked to end, a WebSocket's sides are each sent a close frame
// between two frames, and have a moment to answer it. Any other tunnel is closed
// for writing towards both sides, who have a moment to close it themselves.
type Tunnel struct {
	service net.Conn
	frames  bool // they speak WebSocket

	mu     sync.Mutex // guards the fields below
	client net.Conn   // nil until it has left the server that read its request
	by     time.Time  // by when it shall end, zero: it may stay

	ending atomic.Bool // by is set
	age    meter.Age
}

// NewTunnel returns the tunnel to a service, over a connection whose answer was 101 to
// that protocol. The connection is the tunnel's to close.
func NewTunnel(service net.Conn, protocol string) *Tunnel {
	return &Tunnel{service: service, frames: strings.EqualFold(protocol, "websocket")} // RFC 6455
}

// join gives the tunnel its client.
func (t *Tunnel) join(client net.Conn) {
	t.mu.Lock()
	t.client = client
	by := t.by
	t.mu.Unlock()
	if !by.IsZero() {
		t.wake(by)
	}
}

func (t *Tunnel) end(by time.Time, _ bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by.IsZero() {
		t.by = by
		t.ending.Store(true)
		if t.client != nil {
			t.wake(by)
		}
	}
}

// wake gets both directions out of what they wait for.
func (t *Tunnel) wake(by time.Time) {
	for _, c := range []net.Conn{t.client, t.service} {
		_ = c.SetWriteDeadline(by)  // fails only on a closed connection
		_ = c.SetReadDeadline(past) // as above
	}
	if !t.frames {
		for _, c := range []net.Conn{t.client, t.service} {
			closeWrite(c)
			_ = c.SetReadDeadline(by) // as above
		}
	}
}

func (t *Tunnel) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.service.Close() // whatever it says, the connection is over
	if t.client != nil {
		_ = t.client.Close() // as above
	}
}

// Run gives the tunnel its client and carries bytes until both directions have ended;
// then both connections are closed. What had been read ahead of the client and the
// service goes first. It returns how many bytes were sent to the client.
func (t *Tunnel) Run(client net.Conn, fromClient, fromService []byte) int64 {
	t.join(client)
	carry := t.carry
	if t.frames {
		carry = t.carryFrames
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(t.service, t.client, fromClient, true)
	}()
	n := carry(t.client, t.service, fromService, false)
	<-done
	t.cut()
	return n
}

// carry copies one direction and passes its end on. If the receiver is gone, the
// other direction is of no use either.
func (t *Tunnel) carry(dst, src net.Conn, ahead []byte, _ bool) int64 {
	early, err := dst.Write(ahead)
	n := int64(early)
	if err == nil {
		var rest int64
		rest, err = io.Copy(dst, src)
		n += rest
	}
	if err != nil || !closeWrite(dst) {
		t.cut()
	}
	return n
}

func closeWrite(c net.Conn) bool {
	half, ok := c.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// goingAway is the reason that close frames give.
const goingAway = "the service is being replaced"

// carryFrames is carry for a WebSocket.
func (t *Tunnel) carryFrames(dst, src net.Conn, ahead []byte, toServer bool) (sum int64) {
	var f websocket.Frames
	write := func(b []byte) bool {
		n, err := dst.Write(b)
		sum += int64(n)
		return err == nil
	}
	in := newIdle(src)
	defer in.done()
	var ending, told bool // told: dst has got the gateway's close frame
	for b, err := ahead, error(nil); ; b, err = in.read() {
		if t.ending.Load() && !ending {
			ending = true
			t.mu.Lock()
			_ = src.SetReadDeadline(t.by) // fails only on a closed connection
			t.mu.Unlock()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
		}
		var ok bool
		if ending {
			if ok, told = lastFrames(&f, b, told, toServer, write); ok && told && f.Closed() {
				return sum // it has answered
			}
		} else {
			f.Pass(b)
			ok = write(b)
		}
		switch {
		case errors.Is(err, io.EOF) && ok && closeWrite(dst):
			return sum
		case err != nil || !ok:
			t.cut()
			return sum
		}
	}
}

// lastFrames passes on what is missing of the present frame, then the gateway's
// close frame, and nothing after it (RFC 6455, 5.5.1).
func lastFrames(f *websocket.Frames, b []byte, told, toServer bool, write func([]byte) bool) (ok, nowTold bool) {
	if !told && !f.Between() {
		n, _ := f.Next(b)
		if !write(b[:n]) {
			return false, false
		}
		b = b[n:]
	}
	if !told && f.Between() {
		told = true
		if !f.Closed() && !write(websocket.AppendClose(nil, websocket.GoingAway, goingAway, toServer)) {
			return false, told
		}
	}
	f.Pass(b)
	return true, told
}

// buffers are for what tunnels carry.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// long ago: makes every pending operation of a connection time out.
var past = time.Unix(1, 0)

// idle reads from a connection without holding memory while nothing comes.
type idle struct {
	c     net.Conn
	raw   syscall.RawConn // nil: cannot tell when something is there
	peek  func(fd uintptr) bool
	buf   *[32 << 10]byte // while something comes
	small []byte          // where raw is nil
	one   [1]byte
}

func newIdle(c net.Conn) *idle {
	i := &idle{c: c}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			i.raw = raw
		}
	}
	if i.raw == nil {
		i.small = make([]byte, 4<<10)
		return i
	}
	i.peek = func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), i.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN)
	}
	return i
}

// read returns what has come, at least one byte unless there is an error. The bytes
// are good until the next call.
func (i *idle) read() ([]byte, error) {
	if i.raw == nil {
		n, err := i.c.Read(i.small)
		return i.small[:n], err
	}
	i.done()
	if err := i.raw.Read(i.peek); err != nil {
		return nil, err
	}
	i.buf = buffers.Get().(*[32 << 10]byte) //nolint:forcetypeassert // the pool holds nothing else
	n, err := i.c.Read(i.buf[:])
	return i.buf[:n], err
}

// done gives the buffer back.
func (i *idle) done() {
	if i.buf != nil {
		buffers.Put(i.buf)
		i.buf = nil
	}
}

// Ahead takes out of a reader what it has read ahead of its user.
func Ahead(br *bufio.Reader) []byte {
	if br.Buffered() == 0 {
		return nil
	}
	read := make([]byte, br.Buffered())
	_, _ = io.ReadFull(br, read) // it is buffered
	return read
}
