package listen

import (
	"log"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// newHTTP2 makes what speaks HTTP/2, and the server of net/http that configures it
// and passes the word on when it is to go away. golang.org/x/net calls its server
// deprecated in favour of net/http's; that one takes connections only from a
// listener of its own.
func newHTTP2(opts Options, logger *log.Logger) (*http2.Server, *http.Server) { //nolint:staticcheck // as said above
	base := &http.Server{
		IdleTimeout: opts.IdleTime, MaxHeaderBytes: opts.MaxHead, ReadHeaderTimeout: opts.HeadTime, ErrorLog: logger,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: mostStreams,
			MaxReadFrameSize:     16 << 10,
			// What a client may send before a handler reads it.
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               30 * time.Second, // of silence
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              opts.WriteTime,
		},
	}
	srv := new(http2.Server)             //nolint:staticcheck // as said above
	_ = http2.ConfigureServer(base, srv) //nolint:staticcheck // as said above; it refuses sets of ciphers, and base has none
	return srv, base
}

// serveHTTP2 speaks HTTP/2 on a connection until it is over.
func (srv *server) serveHTTP2(c net.Conn) {
	srv.http2.ServeConn(c, &http2.ServeConnOpts{BaseConfig: srv.base, Handler: srv}) //nolint:staticcheck // see newHTTP2
	_ = c.Close()                                                                    // it is over
}
