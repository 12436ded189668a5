package listen

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"fairlead/internal/wire"
)

const (
	firstBackOff = 5 * time.Millisecond
	mostBackOff  = time.Second
	proxyTime    = 5 * time.Second // for a PROXY header
)

// accept takes connections until the listener is closed. It does nothing with them
// that could wait.
func (s *Set) accept(l *listener) {
	backOff := time.Duration(0)
	for {
		c, err := l.tcp.AcceptTCP()
		switch {
		case err == nil:
			if backOff > 0 {
				s.log.Info("accepting connections again", "address", l.address)
			}
			backOff = 0
			s.take(l, c)
		case l.over.Load() || errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNABORTED): // the client has left already
		default: // too many open files, no memory: what is open must end first
			if backOff == 0 {
				s.log.Error("cannot accept connections", "address", l.address, wire.KeyError, err)
			}
			backOff = min(max(2*backOff, firstBackOff), mostBackOff)
			time.Sleep(backOff)
		}
	}
}

// take finds a place for a connection and serves it in the background.
func (s *Set) take(l *listener, c *net.TCPConn) {
	if !s.room.enter(time.Now()) {
		_ = c.Close() // a client that is turned away
		return
	}
	srv := l.server.Load()
	if !srv.add(c) {
		s.room.leave(netip.Addr{})
		_ = c.Close() // as above
		return
	}
	age := s.opts.Ages.Enter()
	s.tasks.Go(func() {
		defer s.opts.Ages.Leave(age)
		srv.serve(c)
	})
}

// proxied is a connection whose client a PROXY header has named.
type proxied struct {
	*net.TCPConn
	client net.Addr
}

// RemoteAddr returns the client's address.
func (c *proxied) RemoteAddr() net.Addr { return c.client }

// NetConn returns the socket, which is all the same for reading and writing.
func (c *proxied) NetConn() net.Conn { return c.TCPConn }

var (
	errTooMany      = errors.New("the client has too many connections")
	errBanned       = errors.New("the client is banned")
	errProxyRefused = errors.New("a PROXY header from somebody who may not send one")
)

// admit finds out who the client of a connection is, and counts it. It returns the
// connection to go on with, and the key that it is counted under. It may block as
// long as a client may take for its first bytes.
func (srv *server) admit(c *net.TCPConn) (net.Conn, netip.Addr, error) {
	var nc net.Conn = c
	client := addrOf(c.RemoteAddr()).Addr()
	if nets := srv.info.ProxyProtocol; len(nets) > 0 {
		named, err := srv.unproxy(c, client)
		if err != nil {
			return c, netip.Addr{}, err
		}
		if named.IsValid() {
			nc, client = &proxied{c, net.TCPAddrFromAddrPort(named)}, named.Addr()
		}
	}
	if srv.set.banned(client) {
		return nc, netip.Addr{}, errBanned
	}
	key, ok := srv.set.room.admit(client, time.Now())
	if !ok {
		return nc, key, errTooMany
	}
	return nc, key, nil
}

// unproxy reads the PROXY header of a connection from a network that must send one,
// and refuses those of others that do.
func (srv *server) unproxy(c *net.TCPConn, from netip.Addr) (client netip.AddrPort, err error) {
	from = from.Unmap().WithZone("")
	if contains(srv.info.ProxyProtocol, from) {
		if err = c.SetReadDeadline(time.Now().Add(proxyTime)); err != nil {
			return client, err
		}
		if client, err = readProxyHeader(c); err != nil {
			if _, ok := errors.AsType[proxyError](err); ok { // else it left, as probes of a proxy do
				srv.set.room.note(refusedProxy, from, time.Now())
			}
			return client, err
		}
		return client, c.SetReadDeadline(time.Time{})
	}
	if err = c.SetReadDeadline(time.Now().Add(srv.set.opts.HeadTime)); err != nil {
		return client, err
	}
	var first [len(proxyV2Magic)]byte
	n, err := peek(c, first[:])
	if err != nil {
		return client, err
	}
	if looksProxied(first[:n]) {
		srv.set.room.note(refusedHeader, from, time.Now())
		return client, errProxyRefused
	}
	return client, c.SetReadDeadline(time.Time{})
}

// peek waits for bytes and copies them without taking them.
func peek(c *net.TCPConn, b []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var perr error
	err = raw.Read(func(fd uintptr) bool {
		n, _, perr = syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(perr, syscall.EAGAIN) && !errors.Is(perr, syscall.EINTR)
	})
	switch {
	case err != nil:
		return 0, err
	case perr != nil:
		return 0, perr
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func contains(nets []netip.Prefix, a netip.Addr) bool {
	for _, p := range nets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addrOf returns the address and port of a socket's end.
func addrOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}
