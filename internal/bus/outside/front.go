package outside

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	// maxConnections is how many connections there may be. What comes above is closed
	// at once.
	maxConnections = 1024
	// strangerTime is how long a client has to say who it is, TLS included.
	strangerTime = 5 * time.Second
	// acceptPause is how long no connection is accepted after that has failed.
	acceptPause = 50 * time.Millisecond
)

// Options say where a [Front] leads.
type Options struct {
	// Dial makes a connection to the server, which begins with its INFO.
	Dial func() (net.Conn, error)
	// Hello returns the INFO, a line without its end, that is told to a client before
	// it says who it is; encrypted says whether TLS must follow, or has begun.
	Hello func(encrypted bool) ([]byte, error)
	// Logger gets a warning for each client that is refused; nil discards it.
	Logger *slog.Logger
}

// Front carries clients on other machines to the server. Its methods are safe for
// concurrent use. The zero Front is not usable; see [New].
type Front struct {
	opts      Options
	strangers strangers // connections that were not let in yet

	changing sync.Mutex // one Listen or Close at a time

	mu       sync.Mutex // guards all below
	listener net.Listener
	listens  system.Outside // that listener is for
	shelf    *shelf         // of the certificate
	conns    map[net.Conn]bool
	banned   func(netip.Addr) bool // nil: nobody is
	count    int                   // connections, those of Serve too
	running  sync.WaitGroup        // of the listener and its connections
}

// New returns a front that does not listen yet.
func New(o Options) *Front {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Front{opts: o, conns: map[net.Conn]bool{}}
}

// Listen makes the front listen as the file says, with the certificate as it is on the
// disk now; nil: not at all. A listener that stays at its address, and its
// connections, live on; those of one that goes are cut. On an error nothing changes.
//
// The certificate is read again whenever its files change.
func (f *Front) Listen(ctx context.Context, to *system.Outside) error {
	f.changing.Lock()
	defer f.changing.Unlock()
	if to == nil {
		f.stop()
		return nil
	}
	s, err := openShelf(to.Certificate, to.Key, f.opts.Logger)
	if err != nil {
		return fmt.Errorf("listen for clients from outside: %w", err)
	}
	f.mu.Lock()
	stays := f.listener != nil && f.listens.Listen == to.Listen
	if stays {
		f.listens, f.shelf = *to, s
	}
	f.mu.Unlock()
	if stays {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", to.Listen)
	if err != nil {
		return fmt.Errorf("listen for clients from outside: %w", err)
	}
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listener, f.listens, f.shelf = l, *to, s
	f.running.Go(func() { f.accept(l) })
	return nil
}

// SetBanned says whose connections are closed at once, and cuts those that they have.
// It counts for the front's own listener only. banned must not block.
func (f *Front) SetBanned(banned func(client netip.Addr) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.banned = banned
	for c := range f.conns {
		if banned(address(c)) {
			_ = c.Close() // it is cut
		}
	}
}

// address is a connection's peer, IPv4 never written as IPv6.
func address(c net.Conn) netip.Addr {
	from, _ := netip.ParseAddrPort(c.RemoteAddr().String()) // the zero address is nobody's
	return from.Addr().Unmap().WithZone("")
}

// Address is where the front listens, host:port; "" while it does not.
func (f *Front) Address() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener == nil {
		return ""
	}
	return f.listener.Addr().String()
}

// Close ends the listener and cuts its connections. Listen may follow.
func (f *Front) Close() {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.stop()
}

// stop ends the listener and its connections. f.changing is held.
func (f *Front) stop() {
	f.mu.Lock()
	if f.listener != nil {
		_ = f.listener.Close() // nothing is lost with it
		f.listener = nil
	}
	for c := range f.conns {
		_ = c.Close() // it is cut
	}
	f.mu.Unlock()
	f.running.Wait()
}

// accept takes connections until the listener is closed.
func (f *Front) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			f.opts.Logger.Warn("clients from outside are not accepted for a moment", slog.String(wire.KeyError, err.Error()))
			time.Sleep(acceptPause) // too many open files: others have to end first
			continue
		}
		if !f.enter(l, c) {
			_ = c.Close() // there are too many, its client is banned, or the listener ends
			continue
		}
		f.running.Go(func() {
			defer f.leave(c)
			f.receive(c)
		})
	}
}

// enter registers a connection of the listener, if there is room.
func (f *Front) enter(l net.Listener, c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener != l || f.count >= maxConnections || f.banned != nil && f.banned(address(c)) {
		return false
	}
	f.count++
	f.conns[c] = true
	return true
}

func (f *Front) leave(c net.Conn) {
	_ = c.Close() // what there was to send has been sent
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	delete(f.conns, c)
}

// receive secures a connection and carries it to the server.
func (f *Front) receive(c net.Conn) {
	f.mu.Lock()
	s := f.shelf
	f.mu.Unlock()
	v, ok := f.visit(address(c))
	if !ok {
		return
	}
	defer v.admitted()
	if err := c.SetDeadline(v.by); err != nil {
		return
	}
	first, raw := beginsWithTLS(c)
	if !first {
		if err := v.greet(c, true); err != nil {
			return
		}
	}
	secured := tls.Server(raw, s.config())
	if err := secured.Handshake(); err != nil {
		f.opts.Logger.Debug("a client from outside does not agree on TLS", slog.String(keyClient, v.from.String()), slog.String(wire.KeyError, err.Error()))
		return
	}
	if first {
		if err := v.greet(secured, true); err != nil {
			return
		}
	}
	v.carry(secured)
}

// ErrFull is returned when there are as many clients as may be, or as many of one
// address that have not said who they are.
var ErrFull = errors.New("too many clients")

// Enter takes a place for a client from an address, whose connection is accepted and
// secured by somebody else; the error is [ErrFull]. serve carries the connection to the
// server until one of the two ends it, or ctx ends, and closes it. leave gives the
// place back, after serve or instead of it; it must be called.
func (f *Front) Enter(from netip.Addr) (serve func(ctx context.Context, c net.Conn), leave func(), err error) {
	f.mu.Lock()
	full := f.count >= maxConnections
	if !full {
		f.count++
	}
	f.mu.Unlock()
	if full {
		return nil, nil, ErrFull
	}
	end := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.count--
	}
	v, ok := f.visit(from)
	if !ok {
		end()
		return nil, nil, ErrFull
	}
	leave = sync.OnceFunc(func() {
		v.admitted()
		end()
	})
	return v.serve, leave, nil
}

// serve carries a connection that is secured already.
func (v *visit) serve(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // as below
	defer c.Close()
	if err := c.SetDeadline(v.by); err != nil || v.greet(c, false) != nil {
		return
	}
	v.carry(c)
}
