package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"fairlead/internal/gateway/http1"
	"fairlead/internal/wire"
)

const (
	tlsTime = 10 * time.Second // for a TLS handshake

	// acmeProtocol is negotiated by an ACME authority that validates a name (RFC
	// 8737). Such a connection ends with its handshake.
	acmeProtocol = "acme-tls/1"
)

// server serves the connections of a listener, from one change of what the file
// says of it to the next. It may outlive the listener: it ends with its last
// connection.
type server struct {
	set     *Set
	info    Info
	handler Handler
	tls     *tls.Config // nil: without TLS
	http1   *http1.Server
	http2   *http2.Server //nolint:staticcheck // see http2.go
	base    *http.Server  // tells http2 to go away, and serves nothing
	retired atomic.Bool

	mu    sync.Mutex        // guards the fields below
	conns map[net.Conn]bool // false: it has not been handed to a protocol yet
	empty chan struct{}     // closed when the last one ends; nil while nobody waits
	over  bool              // cut has been called
}

func newServer(s *Set, info Info) *server {
	srv := &server{set: s, info: info, conns: map[net.Conn]bool{}}
	srv.handler = s.opts.Handler(info)
	if info.TLS {
		srv.tls = s.opts.TLS(alpn(info)...)
	}
	logger := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	one := http1.Options{HeadTime: s.opts.HeadTime, IdleTime: s.opts.IdleTime, MaxHead: s.opts.MaxHead, Logger: s.log, Reject: srv.handler.Refuse}
	if info.HTTP2 && !info.TLS {
		one.HTTP2 = srv.serveHTTP2
	}
	srv.http1 = http1.New(one)
	srv.http2, srv.base = newHTTP2(s.opts, logger)
	return srv
}

func alpn(info Info) []string {
	if info.HTTP2 {
		return []string{http2.NextProtoTLS, "http/1.1"}
	}
	return []string{"http/1.1"}
}

// ServeHTTP gives a request to the handler. Once the server has been retired, the
// client is told to go: HTTP/2 turns the header into a GOAWAY.
func (srv *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if srv.retired.Load() && r.ProtoMajor < 3 {
		w.Header().Set("Connection", "close")
	}
	if r.ProtoMajor > 1 {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero one is not counted
		key, ok := srv.set.room.begin(peer.Addr(), time.Now())
		if !ok {
			srv.handler.Refuse(w, r, http.StatusTooManyRequests, "there are too many requests open from your address")
			return
		}
		defer srv.set.room.end(key)
	}
	srv.handler.ServeHTTP(w, r)
}

// serve serves a connection until it is over.
func (srv *server) serve(c *net.TCPConn) {
	nc, key, err := srv.admit(c)
	defer srv.set.room.leave(key)
	defer srv.remove(c)
	if err == nil && srv.tls != nil {
		nc, err = srv.secure(nc)
	}
	if err != nil {
		srv.set.log.Debug("connection refused", "address", srv.info.Address, wire.KeyError, err)
		_ = nc.Close() // nothing has been asked on it
		return
	}
	switch protocolOf(nc) {
	case acmeProtocol:
		_ = nc.Close() // the handshake was all
	case http2.NextProtoTLS:
		srv.arrived(c)
		srv.serveHTTP2(nc)
	default:
		srv.arrived(c)
		srv.http1.Serve(nc, srv)
	}
}

// secure makes the TLS handshake.
func (srv *server) secure(c net.Conn) (net.Conn, error) {
	t := tls.Server(c, srv.tls)
	ctx, cancel := context.WithTimeout(context.Background(), tlsTime)
	defer cancel()
	err := t.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader[:]) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // fails only on a closed connection
		_, _ = io.WriteString(c, httpsOnly)                 // a courtesy
	}
	return t, err
}

const httpsOnly = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" +
	"This address speaks https only.\n"

// looksLikeHTTP reports whether somebody asks without TLS where it is needed.
func looksLikeHTTP(first []byte) bool {
	switch string(first) {
	case "GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO":
		return true
	}
	return false
}

func protocolOf(c net.Conn) string {
	if t, ok := c.(*tls.Conn); ok {
		return t.ConnectionState().NegotiatedProtocol
	}
	return ""
}

// add takes up a connection, unless all were cut.
func (srv *server) add(c net.Conn) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.over {
		return false
	}
	srv.conns[c] = false
	if srv.retired.Load() { // accepted just before
		srv.set.remember(srv)
	}
	return true
}

// arrived says that a connection may bring requests now.
func (srv *server) arrived(c net.Conn) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.conns[c] = true
}

func (srv *server) remove(c net.Conn) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.conns, c)
	if len(srv.conns) > 0 {
		return
	}
	if srv.empty != nil {
		close(srv.empty)
		srv.empty = nil
	}
	if srv.retired.Load() {
		srv.set.forget(srv)
	}
}

// retire tells the clients to go.
func (srv *server) retire() {
	if srv.retired.Swap(true) {
		return
	}
	srv.http1.Retire()
	// It has neither listeners nor connections of its own: it passes the word on.
	_ = srv.base.Shutdown(context.Background())
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if len(srv.conns) == 0 {
		srv.set.forget(srv)
	}
}

// stop retires the server, closes what idles, and waits for the rest.
func (srv *server) stop(ctx context.Context) error {
	srv.retire() //nolint:contextcheck // waits for nothing
	for {
		srv.mu.Lock()
		if len(srv.conns) == 0 {
			srv.mu.Unlock()
			return nil
		}
		for c, arrived := range srv.conns {
			if !arrived {
				_ = c.Close() // nothing has been asked on it
			}
		}
		if srv.empty == nil {
			srv.empty = make(chan struct{})
		}
		empty := srv.empty
		srv.mu.Unlock()
		if err := srv.http1.Shutdown(ctx); err != nil {
			return err
		}
		select {
		case <-empty:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cut closes every connection.
func (srv *server) cut() {
	srv.retire()
	srv.mu.Lock()
	srv.over = true
	for c := range srv.conns {
		_ = c.Close() // whatever it says, it is over
	}
	srv.mu.Unlock()
	_ = srv.http1.Close() // as above
}
