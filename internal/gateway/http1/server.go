// Package http1 is an HTTP/1.1 server behind the contract of [http.Handler]: it
// reads requests strictly, and costs little per request.
//
// Guarantees:
//   - One goroutine serves a connection; a request starts none and crosses no
//     channel. An idle connection holds no buffers.
//   - What can be read in two ways is refused, never repaired: every head or body
//     that this server and another one could take for different requests. A refusal
//     goes through [Options.Reject], and closes the connection after the client had
//     the time to read it.
//   - The context of a request ends when its client leaves. One look per 0.1 s at
//     all connections whose request is older than that finds out (poll(2)). A client
//     that has ended its sending half and nothing else counts as gone, as with
//     net/http and nginx: nobody can tell the two before it is written to. One that
//     has sent more than the request (a pipelined one, a body nobody reads) does not,
//     except under TLS.
//   - Retire and Shutdown lose no request: what had arrived is answered.
//
// What differs from net/http: the request, its header, the answer's header and the
// writer belong to the handler until it returns and are used again afterwards; so
// nothing of them may be kept (strings may). The context is the connection's: it
// does not end with the handler. A handler may write while the body is still being
// read (full duplex). Nothing is guessed: no Content-Type. Deadlines that are more
// than a second away come up to 0.1 s late; a new request begins without any.
//
// It does not listen, accept, or do TLS handshakes, and speaks no HTTP/2.
package http1

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are what a server is made with. The zero value is usable.
type Options struct {
	HeadTime time.Duration // for a client to send a head, from its first byte, or from the connection's begin; zero: 10 s
	IdleTime time.Duration // between two requests; zero: 120 s
	MaxHead  int           // bytes of a head; zero: 64 KiB
	MaxLine  int           // bytes of a request line, at most MaxHead; zero: 16 KiB
	Logger   *slog.Logger  // nil: logs nothing

	// Reject answers a request that is refused before a handler sees it. The
	// request holds what was understood of it, at least an empty URL and header.
	// Whatever it does, the connection is closed afterwards. Nil: a line of text.
	Reject func(w http.ResponseWriter, r *http.Request, status int, detail string)

	// HTTP2 takes over a connection that begins with HTTP/2's preface (RFC 9113,
	// 3.4), which is still to be read from c. It returns when the connection is
	// over and closed. Nil: the preface is answered 505.
	HTTP2 func(c net.Conn)
}

const (
	lookEvery = 100 * time.Millisecond
	firstRoom = 4 << 10 // bytes of a connection's buffers while it serves
	keepRoom  = 64 << 10
	maxFields = 256
)

// Server serves connections. Make it with [New]; all methods are safe for
// concurrent use.
type Server struct {
	opts       Options
	log        *slog.Logger
	head, idle int64 // the options' times, in looks
	turns      sync.Pool
	retired    atomic.Bool
	looks      atomic.Int64 // how often look has run: the clock of stamps
	date       atomic.Pointer[date]
	requests   atomic.Uint64

	mu      sync.Mutex // guards the fields below
	conns   map[*conn]struct{}
	empty   chan struct{} // closed when conns becomes empty; nil while nobody waits
	looking *time.Timer   // runs look while there are connections
	closed  bool

	// for look alone, of which there is one at a time
	stale, late, serving []*conn
	polled               pollSet
}

// New makes a server. It does no I/O and starts nothing.
func New(opts Options) *Server {
	if opts.HeadTime <= 0 {
		opts.HeadTime = 10 * time.Second
	}
	if opts.IdleTime <= 0 {
		opts.IdleTime = 120 * time.Second
	}
	if opts.MaxHead <= 0 {
		opts.MaxHead = 64 << 10
	}
	if opts.MaxLine <= 0 {
		opts.MaxLine = 16 << 10
	}
	opts.MaxLine = min(opts.MaxLine, opts.MaxHead)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Reject == nil {
		opts.Reject = func(w http.ResponseWriter, _ *http.Request, status int, detail string) {
			http.Error(w, detail, status)
		}
	}
	s := &Server{opts: opts, log: opts.Logger, conns: map[*conn]struct{}{}}
	s.head = int64((opts.HeadTime + lookEvery - 1) / lookEvery)
	s.idle = int64((opts.IdleTime + lookEvery - 1) / lookEvery)
	s.turns.New = func() any { return newTurn() }
	return s
}

// Serve serves a connection until it is over, or has been hijacked. It closes nc
// unless it was hijacked. nc may be a *tls.Conn after its handshake. A *net.TCPConn
// or *net.UnixConn costs least: while it idles it holds no buffer. Any other type
// with a method NetConn() net.Conn is taken for a socket's owner that minds Close
// and the addresses: reads, writes and deadlines go to what NetConn returns.
func (s *Server) Serve(nc net.Conn, h http.Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &conn{s: s, nc: nc, owner: nc, handler: h, cancel: cancel}
	base := http.Request{ProtoMajor: 1, RemoteAddr: nc.RemoteAddr().String()}
	if o, ok := nc.(interface{ NetConn() net.Conn }); ok {
		if _, secure := nc.(*tls.Conn); !secure {
			nc = o.NetConn()
			c.nc = nc
		}
	}
	c.readBy.on, c.writeBy.on = nc.SetReadDeadline, nc.SetWriteDeadline
	socket := nc
	switch t := nc.(type) {
	case *net.TCPConn:
		c.tcp, c.direct = t, true
	case *net.UnixConn:
		c.direct = true
	case *tls.Conn:
		state := t.ConnectionState()
		base.TLS = &state
		socket = t.NetConn()
	}
	if sc, ok := socket.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
			_ = raw.Control(func(fd uintptr) { c.fd = int32(fd) }) // a closed one fails below
		}
	}
	c.direct = c.direct && c.raw != nil
	c.readFirst = c.readRaw
	c.base = base.WithContext(ctx)
	if !s.enter(c) {
		_ = c.owner.Close() // nobody has asked anything
		return
	}
	c.serve()
	s.leave(c)
	if !c.hijacked {
		_ = c.owner.Close() // whatever it says, the connection is over
	}
}

// enter counts a connection in, unless the server is closed.
func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	c.stamp.Store(s.looks.Load()<<phaseBits | int64(fresh))
	s.conns[c] = struct{}{}
	if len(s.conns) == 1 {
		if s.looking == nil {
			s.looking = time.AfterFunc(lookEvery, s.look)
		} else {
			s.looking.Reset(lookEvery)
		}
	}
	return true
}

// leave counts it out; later calls do nothing.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) > 0 {
		return
	}
	if s.looking != nil {
		s.looking.Stop()
	}
	if s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// Counts say what a server does at a moment.
type Counts struct {
	Open     int    // connections, hijacked ones not counted
	Idle     int    // of these, the ones that serve no request
	Requests uint64 // that handlers were given since New
}

// Counts returns the present counts.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := Counts{Open: len(s.conns), Requests: s.requests.Load()}
	for c := range s.conns {
		switch c.phase() {
		case fresh, idle:
			n.Idle++
		default:
		}
	}
	return n
}

// Retire makes every answer from now on say Connection: close. Idle connections
// live until their next request, which is answered, or their time is over.
func (s *Server) Retire() { s.retired.Store(true) }

// Shutdown retires the server, closes connections that idle or have not asked
// anything yet, and waits for the others. When ctx ends first it returns the
// context's error and leaves the rest to Close. Later calls wait in the same way.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Retire()
	tick := time.NewTicker(lookEvery / 4)
	defer tick.Stop()
	for {
		s.mu.Lock()
		if len(s.conns) == 0 {
			s.closed = true
			s.mu.Unlock()
			return nil
		}
		if s.empty == nil {
			s.empty = make(chan struct{})
		}
		empty := s.empty
		quiet := make([]*conn, 0, len(s.conns))
		for c := range s.conns {
			switch c.phase() {
			case fresh, idle:
				quiet = append(quiet, c)
			default:
			}
		}
		s.mu.Unlock()
		var set pollSet
		set.closeQuiet(quiet)
		select {
		case <-empty:
		case <-tick.C: // a connection has become idle, or was handed in late
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close cuts all connections and those that Serve is given later.
func (s *Server) Close() error {
	s.Retire()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.cancel()
		_ = c.owner.Close() // whatever it says, the connection is over
	}
	return nil
}

// date is the line of the answer's head that says when, for one second.
type date struct {
	second int64
	line   []byte
}

// appendDate appends the Date line.
func (s *Server) appendDate(dst []byte) []byte {
	now := time.Now()
	d := s.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &date{second: now.Unix()}
		d.line = append(now.UTC().AppendFormat(append(d.line, "Date: "...), http.TimeFormat), "\r\n"...)
		s.date.Store(d)
	}
	return append(dst, d.line...)
}
