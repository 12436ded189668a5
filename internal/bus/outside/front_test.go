package outside

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
	"fairlead/test/await"
	"fairlead/test/certificate"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

// stand is a front before a server.
type stand struct {
	*Front
	server *server.Server
	file   system.Outside
	opts   []nats.Option
}

func newStand(tb testing.TB) *stand {
	tb.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, DontListen: true, NoSigs: true, NoLog: true, Username: "tower", Password: "secret",
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(await.Patience) {
		tb.Fatal("the server does not start")
	}
	f := New(Options{
		Dial: s.InProcessConn,
		Hello: func(encrypted bool) ([]byte, error) {
			hello := `INFO {"server_id":"x","version":"2.15.2","proto":1,"headers":true,"auth_required":true,"max_payload":1048576`
			if encrypted {
				hello += `,"tls_required":true`
			}
			return []byte(hello + "}"), nil
		},
	})
	st := &stand{Front: f, server: s, file: system.Outside{Listen: "127.0.0.1:0"}}
	st.file.Certificate, st.file.Key = certificate.Write(tb, tb.TempDir())
	if err := f.Listen(tb.Context(), &st.file); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		f.Close()
		s.Shutdown()
		s.WaitForShutdown()
	})
	st.opts = []nats.Option{nats.Timeout(await.Patience), nats.UserInfo("tower", "secret"), nats.RootCAs(st.file.Certificate), nats.NoReconnect()}
	return st
}

func (s *stand) dial(tb testing.TB, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect("nats://"+s.Address(), append(opts, s.opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// speaks sends a message to itself.
func speaks(tb testing.TB, nc *nats.Conn, size int) {
	tb.Helper()
	sub, err := nc.SubscribeSync("a.b")
	if err == nil {
		err = nc.Publish("a.b", make([]byte, size))
	}
	if err != nil {
		tb.Fatal(err)
	}
	m, err := sub.NextMsg(await.Patience)
	if err != nil || len(m.Data) != size {
		tb.Fatalf("a message of %d bytes: %v", size, err)
	}
}

func TestClientsComeIn(t *testing.T) {
	s := newStand(t)
	for name, opts := range map[string][]nats.Option{
		"after INFO": nil,
		"TLS first":  {nats.TLSHandshakeFirst()},
		"verbose":    {func(o *nats.Options) error { o.Verbose = true; return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			nc := s.dial(t, opts...)
			speaks(t, nc, 10)
			speaks(t, nc, 900_000)
			if state, err := nc.TLSConnectionState(); err != nil || state.Version < tls.VersionTLS12 {
				t.Errorf("%v, %v", state.Version, err)
			}
		})
	}
}

func TestServeCarriesWhatIsSecuredElsewhere(t *testing.T) {
	s := newStand(t)
	served := make(chan struct{})
	nc, err := nats.Connect("nats://door", nats.Timeout(await.Patience), nats.UserInfo("tower", "secret"), nats.NoReconnect(), nats.InProcessServer(provider(func() (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer close(served)
			serve, leave, err := s.Enter(netip.MustParseAddr("192.0.2.1"))
			if err != nil {
				t.Error(err)
				_ = theirs.Close() // the client sees it
				return
			}
			defer leave()
			serve(context.Background(), theirs)
		}()
		return ours, nil
	})))
	if err != nil {
		t.Fatal(err)
	}
	speaks(t, nc, 100_000)
	nc.Close()
	<-served
	await.Until(t, "the server has no client", func() bool { return s.server.NumClients() == 0 })
}

type provider func() (net.Conn, error)

func (p provider) InProcessConn() (net.Conn, error) { return p() }

func TestWrongPasswordIsRefused(t *testing.T) {
	s := newStand(t)
	_, err := nats.Connect("nats://"+s.Address(), nats.Timeout(await.Patience), nats.UserInfo("tower", "guess"), nats.RootCAs(s.file.Certificate))
	if err == nil || !strings.Contains(strings.ToLower(err.Error()), "authorization violation") {
		t.Errorf("%v", err)
	}
	await.Until(t, "no place stays taken", func() bool { return s.strangers.waiting() == 0 })
}

func TestStrangersCostTheServerNothing(t *testing.T) {
	s := newStand(t)
	for name, say := range map[string]string{
		"nothing":      "",
		"clear text":   "CONNECT {\"user\":\"tower\",\"pass\":\"secret\"}\r\nPING\r\n",
		"another":      "GET / HTTP/1.1\r\n\r\n",
		"half a hello": "\x16\x03\x01",
	} {
		c, err := net.Dial("tcp", s.Address()) //nolint:noctx // bounded by the test
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, say); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		defer c.Close()
	}
	await.Until(t, "somebody comes", func() bool { return s.strangers.waiting() > 0 })
	if n := s.server.NumClients(); n != 0 {
		t.Errorf("the server has %d clients", n)
	}
	speaks(t, s.dial(t), 10)
}

// TestOneAddressKeepsAllOthersOut had 256 connections of one client, which say nothing,
// take all of the places for those who have not said who they are.
func TestOneAddressKeepsAllOthersOut(t *testing.T) {
	s := newStand(t)
	for name, from := range map[string]func(i int) string{
		"IPv4":          func(int) string { return "192.0.2.1" },
		"IPv4 in IPv6":  func(int) string { return "::ffff:192.0.2.2" },
		"one IPv6 /64":  func(i int) string { return fmt.Sprintf("2001:db8:0:1::%x", i+1) },
		"half open TLS": nil,
	} {
		t.Run(name, func(t *testing.T) {
			if from == nil {
				for range strangersOfOne + 8 {
					c, err := net.Dial("tcp", s.Address()) //nolint:noctx // bounded by the test
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
				}
				await.Until(t, "all places of one address are taken", func() bool { return s.strangers.waiting() == strangersOfOne })
			}
			got := 0
			for i := range maxStrangers {
				if from == nil {
					break
				}
				_, leave, err := s.Enter(netip.MustParseAddr(from(i)))
				if err == nil {
					got++
					defer leave()
				} else if !errors.Is(err, ErrFull) {
					t.Error(err)
				}
			}
			if from != nil && got != strangersOfOne {
				t.Errorf("it has %d places", got)
			}
			_, leave, err := s.Enter(netip.MustParseAddr("198.51.100.7"))
			if err != nil {
				t.Fatalf("another: %v", err)
			}
			leave()
		})
	}
	await.Until(t, "the counts of connections and places are right", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.count == 0 && s.strangers.waiting() == 0 && len(s.strangers.of) == 0
	})
}

func TestCutWhenListenerGoes(t *testing.T) {
	s := newStand(t)
	nc := s.dial(t)
	at := s.file
	if err := s.Listen(t.Context(), &at); err != nil { // the same
		t.Fatal(err)
	}
	speaks(t, nc, 10)
	bad := s.file
	bad.Listen, bad.Key = "127.0.0.1:1", filepath.Join(t.TempDir(), "missing.pem")
	if err := s.Listen(t.Context(), &bad); err == nil {
		t.Error("it listens without a key")
	}
	speaks(t, nc, 10)
	if err := s.Listen(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the client is cut", nc.IsClosed)
	if s.Address() != "" {
		t.Errorf("it still listens at %s", s.Address())
	}
}

func TestBannedClientsAreCut(t *testing.T) {
	s := newStand(t)
	nc := s.dial(t)
	var all atomic.Bool
	all.Store(true)
	s.SetBanned(func(a netip.Addr) bool { return all.Load() && a == netip.MustParseAddr("127.0.0.1") })
	await.Until(t, "the client is cut", nc.IsClosed)
	if _, err := nats.Connect("nats://"+s.Address(), s.opts...); err == nil {
		t.Error("it came back")
	}
	all.Store(false)
	speaks(t, s.dial(t), 10)
}

func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate.Write(t, dir)
	s, err := openShelf(cert, key, New(Options{}).opts.Logger)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		s.looked = time.Time{}
		leaf, err := x509.ParseCertificate(s.current().Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	before := serial()
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != before {
		t.Errorf("with half a certificate: %d", got)
	}
	certificate.Write(t, dir)
	if got := serial(); got == before {
		t.Errorf("after another one was written: still %d", got)
	}
}

func FuzzReadConnect(f *testing.F) {
	f.Add([]byte("CONNECT {\"user\":\"a\"}\r\nPING\r\n"))
	f.Add([]byte("connect\t{}\n"))
	f.Add([]byte("CONNECT {"))
	f.Add([]byte("\n"))
	f.Add(bytes.Repeat([]byte("x"), 20_000))
	f.Fuzz(func(t *testing.T, b []byte) {
		line, err := readConnect(bufio.NewReaderSize(bytes.NewReader(b), bufferSize))
		if err == nil && (!bytes.HasPrefix(b, line) || len(line) > maxConnect || line[len(line)-1] != '\n' || bytes.Count(line, []byte("\n")) != 1) {
			t.Errorf("%q of %q", line, b)
		}
	})
}

// TestListenersComeAndGo starts and stops the listener while clients come and stay.
func TestListenersComeAndGo(t *testing.T) {
	s := newStand(t)
	done := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if at := s.Address(); at != "" {
					if nc, err := nats.Connect("nats://"+at, s.opts...); err == nil {
						_ = nc.FlushTimeout(time.Second) // it may be cut
						nc.Close()
					}
				}
			}
		})
	}
	for range 10 {
		if err := s.Listen(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if err := s.Listen(t.Context(), &s.file); err != nil {
			t.Error(err)
		}
		nc := s.dial(t)
		if err := nc.Flush(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	clients.Wait()
	await.Until(t, "the counts of connections and places are right", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.count == len(s.conns) && s.strangers.waiting() == 0
	})
}
