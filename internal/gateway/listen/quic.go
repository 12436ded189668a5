package listen

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	mostStreams = 250 // requests at once on a connection of HTTP/2 or HTTP/3
	bindEvery   = 200 * time.Millisecond
	quietTime   = 100 * time.Millisecond // without a request before connections are closed
)

func speaksHTTP3(def system.Listener) bool { return def.HTTP3 && def.TLS && !def.Redirect }

// listenUDP binds the same address and port as a TCP socket has.
func listenUDP(ctx context.Context, like net.Addr) (*net.UDPConn, error) {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(ctx, "udp", like.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // what the network "udp" gives
}

// quicPort is the UDP port of a listener that speaks HTTP/3. It lives as long as the
// listener does so, and then until no request is under way on it.
type quicPort struct {
	set      *Set
	listener *listener
	requests atomic.Int64

	over   context.Context // ends when no more connections are to be taken
	retire context.CancelFunc
	gone   context.Context // ends when what is open is to be cut
	cut    context.CancelFunc
	ended  chan struct{} // closed when the port is free
}

// renewQUIC begins or ends HTTP/3 on a listener as its server says. udp is nil if
// it speaks it already, or the port may still be another process's.
func (s *Set) renewQUIC(l *listener, srv *server, udp *net.UDPConn) {
	switch {
	case !speaksHTTP3(srv.info.Listener):
		s.endQUIC(l)
	case l.quic == nil:
		p := &quicPort{set: s, listener: l, ended: make(chan struct{})}
		p.over, p.retire = context.WithCancel(context.Background())
		p.gone, p.cut = context.WithCancel(context.Background())
		l.quic = p
		s.serving.Lock()
		s.ports[p] = struct{}{}
		s.serving.Unlock()
		s.tasks.Go(func() { p.run(udp) })
	}
}

func (s *Set) endQUIC(l *listener) {
	if l.quic != nil {
		l.quic.retire()
		l.quic = nil
	}
}

// run serves the port until it is retired and nothing is under way.
func (p *quicPort) run(udp *net.UDPConn) {
	defer func() {
		p.retire()
		p.cut()
		p.set.serving.Lock()
		delete(p.set.ports, p)
		p.set.serving.Unlock()
		close(p.ended)
	}()
	if udp == nil {
		if udp = p.bind(); udp == nil {
			return
		}
	}
	defer udp.Close()
	// When many connections are open, an address must first show that it is real.
	tr := &quic.Transport{Conn: udp, VerifySourceAddress: func(net.Addr) bool { return p.set.room.crowded() }}
	defer tr.Close()
	opts := p.set.opts
	ln, err := tr.ListenEarly(http3.ConfigureTLSConfig(opts.TLS(http3.NextProtoH3)), &quic.Config{
		HandshakeIdleTimeout:           tlsTime / 2, // its whole time is twice that
		MaxIdleTimeout:                 opts.IdleTime,
		InitialStreamReceiveWindow:     128 << 10,
		MaxStreamReceiveWindow:         512 << 10,
		InitialConnectionReceiveWindow: 256 << 10,
		MaxConnectionReceiveWindow:     1 << 20,
		MaxIncomingStreams:             mostStreams,
		MaxIncomingUniStreams:          16,
	})
	if err != nil {
		p.set.log.Error("cannot speak HTTP/3", "address", p.listener.address, wire.KeyError, err)
		return
	}
	srv := &http3.Server{Handler: p, MaxHeaderBytes: opts.MaxHead, IdleTimeout: opts.IdleTime}
	_ = srv.ServeListener(&quicDoor{ln, p}) // returns when the port is retired
	go ln.Close()                           // waits for handshakes, which Close ends
	p.finish(srv)
}

// bind waits until the port is free. It returns nil if that is no longer wanted.
func (p *quicPort) bind() *net.UDPConn {
	for told := false; ; {
		c, err := listenUDP(p.over, p.listener.tcp.Addr())
		if err == nil {
			return c
		}
		if !told && p.over.Err() == nil {
			p.set.log.Info("HTTP/3 waits for its port", "address", p.listener.address, wire.KeyError, err)
			told = true
		}
		timer := time.NewTimer(bindEvery)
		select {
		case <-p.over.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// finish tells the clients to go and returns when no request is under way. Requests
// that cross the telling are refused as such that may be sent again.
func (p *quicPort) finish(srv *http3.Server) {
	ctx, quiet := context.WithCancel(p.gone)
	defer quiet()
	go func() {
		defer quiet()
		tick := time.NewTicker(quietTime)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-tick.C:
				if p.requests.Load() == 0 {
					return
				}
			case <-ctx.Done():
			}
		}
	}()
	_ = srv.Shutdown(ctx) // tells whether connections were left, and closes them
}

// ServeHTTP gives a request to the listener's present server.
func (p *quicPort) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	defer p.requests.Add(-1)
	p.listener.server.Load().ServeHTTP(w, r)
}

// quicDoor takes the connections of a port for which there is room.
type quicDoor struct {
	*quic.EarlyListener
	port *quicPort
}

// Accept returns the next connection that may stay.
func (d *quicDoor) Accept(context.Context) (*quic.Conn, error) {
	for {
		c, err := d.EarlyListener.Accept(d.port.over) //nolint:contextcheck // the port ends it, before the server does
		if err != nil {
			return nil, err
		}
		room, now := d.port.set.room, time.Now()
		if !room.enter(now) {
			_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "") // a client that is turned away
			continue
		}
		client := addrOf(c.RemoteAddr()).Addr()
		key, ok := netip.Addr{}, false
		if !d.port.set.banned(client) {
			key, ok = room.admit(client, now)
		}
		if !ok {
			room.leave(key)
			_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "") // as above
			continue
		}
		ages := d.port.set.opts.Ages
		age := ages.Enter()
		context.AfterFunc(c.Context(), func() { //nolint:contextcheck // the connection's own
			ages.Leave(age)
			room.leave(key)
		})
		return c, nil
	}
}
