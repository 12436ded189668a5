package outside

import (
	"crypto/tls"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/test/await"
)

// BenchmarkMessages sends messages of 128 bytes from one client to another, and waits
// for those that are under way every 1,000. The peer is nats-server's own TLS.
func BenchmarkMessages(b *testing.B) {
	s := newStand(b)
	own := ownTLS(b, s)
	for _, way := range []struct{ name, url string }{{"front", s.Address()}, {"server", own}} {
		b.Run(way.name, func(b *testing.B) {
			from, to := benchDial(b, s, way.url), benchDial(b, s, way.url)
			var got atomic.Int64
			all := make(chan struct{}, 1)
			_, err := to.Subscribe("a.b", func(*nats.Msg) {
				if got.Add(1)%1000 == 0 {
					all <- struct{}{}
				}
			})
			if err == nil {
				err = to.Flush()
			}
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 128)
			b.SetBytes(int64(len(data)))
			for sent := 1; b.Loop(); sent++ {
				if err := from.Publish("a.b", data); err != nil {
					b.Fatal(err)
				}
				if sent%1000 == 0 {
					<-all
				}
			}
		})
	}
}

// BenchmarkRoundTrip sends one message of 128 bytes to itself at a time.
func BenchmarkRoundTrip(b *testing.B) {
	s := newStand(b)
	own := ownTLS(b, s)
	for _, way := range []struct{ name, url string }{{"front", s.Address()}, {"server", own}} {
		b.Run(way.name, func(b *testing.B) {
			nc := benchDial(b, s, way.url)
			sub, err := nc.SubscribeSync("a.b")
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 128)
			for b.Loop() {
				if err := nc.Publish("a.b", data); err != nil {
					b.Fatal(err)
				}
				if _, err := sub.NextMsg(await.Patience); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// ownTLS is the address of a server with a TLS listener of its own.
func ownTLS(b *testing.B, s *stand) string {
	b.Helper()
	pair, err := tls.LoadX509KeyPair(s.file.Certificate, s.file.Key)
	if err != nil {
		b.Fatal(err)
	}
	own, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, Username: "tower", Password: "secret",
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, TLSTimeout: 5,
	})
	if err != nil {
		b.Fatal(err)
	}
	own.Start()
	if !own.ReadyForConnections(await.Patience) {
		b.Fatal("the server does not start")
	}
	b.Cleanup(func() {
		own.Shutdown()
		own.WaitForShutdown()
	})
	return own.Addr().String()
}

func benchDial(b *testing.B, s *stand, address string) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect("nats://"+address, s.opts...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}
