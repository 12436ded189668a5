//go:build real

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/gateway/certs/pebble"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// door is what the authority looks at.
type door struct {
	plain, secure net.Listener
	handler       atomic.Pointer[http.Handler]
	asked         atomic.Int64 // challenges over plain HTTP
}

func openDoor(t *testing.T) *door {
	t.Helper()
	d := &door{}
	var err error
	d.plain, err = net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	d.secure, err = net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked.Add(1)
		if h := d.handler.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})}
	go server.Serve(d.plain)
	t.Cleanup(func() { server.Close() })
	return d
}

// show lets the door use a store.
func (d *door) show(t *testing.T, s *Store) {
	t.Helper()
	h := s.ChallengeHandler(http.NotFoundHandler())
	d.handler.Store(&h)
	config := s.Config("h2", "http/1.1")
	server := &http.Server{TLSConfig: config, Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go server.Serve(tls.NewListener(d.secure, config))
	t.Cleanup(func() { server.Close() })
}

// shows returns the certificate that a client gets, verified if there are roots.
func (d *door) shows(host string, roots *x509.CertPool, protocol string) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", d.secure.Addr().String(), &tls.Config{ServerName: host, RootCAs: roots, InsecureSkipVerify: roots == nil, NextProtos: []string{protocol}})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func asking(p *pebble.Authority, hosts ...string) *system.TLS {
	return &system.TLS{ACME: &system.ACME{Directory: p.Directory, Root: p.Root, Hosts: hosts}}
}

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func has(s *Store, host string) bool { return s.served.Load().covers(host) }

func TestRealPebbleIssues(t *testing.T) {
	for name, test := range map[string]struct{ http, tls bool }{"by HTTP-01": {http: true}, "by TLS-ALPN-01": {tls: true}} {
		t.Run(name, func(t *testing.T) {
			d := openDoor(t)
			httpPort, tlsPort := pebble.ClosedPort(t), pebble.ClosedPort(t)
			if test.http {
				httpPort = port(d.plain)
			}
			if test.tls {
				tlsPort = port(d.secure)
			}
			p := pebble.Start(t, httpPort, tlsPort, 90*day)
			dir := t.TempDir()
			s := open(t, Options{Dir: dir, Logger: testLog(t)})
			d.show(t, s)
			check(t, s.Apply(asking(p, "a.example", "b.example"), nil))
			await.Until(t, "both are there", func() bool { return has(s, "a.example") && has(s, "b.example") })
			for _, host := range []string{"a.example", "b.example"} {
				_, err := d.shows(host, p.Roots(t), "h2")
				check(t, err)
			}
			if (d.asked.Load() > 0) != test.http {
				t.Errorf("%d challenges over plain HTTP", d.asked.Load())
			}
			for _, protocol := range []string{"http/1.1", ChallengeProtocol} {
				if cert, err := d.shows("c.example", nil, protocol); err == nil {
					t.Errorf("a name that is not ours got %v", cert.DNSNames)
				}
			}
			filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
				check(t, err)
				if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 && path != dir {
					t.Errorf("%s: %v, %v", path, info.Mode(), err)
				}
				return nil
			})
		})
	}
}

// Two nodes share a bucket: the second finds what the first got, also after its
// authority has gone; both answer a challenge for what one of them asks.
func TestRealPebbleNodesShareABucket(t *testing.T) {
	connect, dir := startBus(t), t.TempDir()
	storage := func(context.Context) (Storage, error) { return OpenBucket(connect(), filepath.Join(dir, "bucket.key")) }
	d := openDoor(t)
	p := pebble.Start(t, port(d.plain), pebble.ClosedPort(t), 90*day)
	first, second := open(t, Options{Storage: storage, Logger: testLog(t)}), open(t, Options{Storage: storage, Logger: testLog(t)})
	check(t, second.Apply(asking(p, "b.example"), nil))
	h := second.ChallengeHandler(http.NotFoundHandler()) // the door of the other node
	d.handler.Store(&h)
	await.Until(t, "it is there", func() bool { return has(second, "b.example") })
	check(t, first.Apply(asking(p, "b.example"), nil))
	if a, b := first.Status()[0], second.Status()[0]; !a.NotAfter.Equal(b.NotAfter) || a.Problem != "" {
		t.Errorf("%+v and %+v", a, b)
	}
	a, b := first.served.Load().named("b.example")[0], second.served.Load().named("b.example")[0]
	if !a.Leaf.Equal(b.Leaf) {
		t.Error("the nodes show different certificates")
	}
}

func TestRealPebbleRenews(t *testing.T) {
	d := openDoor(t)
	p := pebble.Start(t, port(d.plain), port(d.secure), time.Hour)
	var w told
	s := open(t, Options{Logger: testLog(t), Warn: w.warn, renewalRatio: 0.9995, renewalCheck: 200 * time.Millisecond}) // due after 2 s
	d.show(t, s)
	check(t, s.Apply(asking(p, "a.example"), nil))
	await.Until(t, "it is there", func() bool { return has(s, "a.example") })
	first, err := d.shows("a.example", p.Roots(t), "h2")
	check(t, err)
	await.Until(t, "it is renewed", func() bool {
		next, err := d.shows("a.example", p.Roots(t), "h2")
		check(t, err)
		return !next.Equal(first)
	})
	if texts := w.take(); len(texts) != 0 {
		t.Errorf("told %q", texts)
	}
}

func TestRealPebbleRefuses(t *testing.T) {
	d := openDoor(t)
	p := pebble.Start(t, port(d.plain), port(d.secure), 90*day)
	var w told
	s := open(t, Options{Logger: testLog(t), Warn: w.warn})
	d.show(t, s)
	check(t, s.Apply(asking(p, "a.example"), nil))
	await.Until(t, "it is there", func() bool { return has(s, "a.example") })
	roots := p.Roots(t)

	check(t, s.Apply(asking(p, "a.example", pebble.Blocked), nil))
	var text string
	await.Until(t, "the refusal is told", func() bool {
		for _, told := range w.take() {
			text = told
		}
		return text != ""
	})
	for _, part := range []string{pebble.Blocked, p.Directory, "refuses", "policy"} {
		if !strings.Contains(text, part) {
			t.Errorf("told %q, which has no %q", text, part)
		}
	}
	_, err := d.shows("a.example", roots, "h2")
	check(t, err)
	var problem string
	for _, st := range s.Status() {
		if st.Names[0] == pebble.Blocked {
			problem = st.Problem
		}
	}
	if problem == "" {
		t.Error("the status shows no problem")
	}

	// Another authority, which is not there: what was got of the first goes on.
	gone := asking(p, "a.example")
	gone.ACME.Directory = fmt.Sprintf("https://127.0.0.1:%d/dir", pebble.ClosedPort(t))
	check(t, s.Apply(gone, nil))
	await.Until(t, "the failure is told", func() bool {
		for _, told := range w.take() {
			if strings.Contains(told, "connection refused") {
				return true
			}
		}
		return false
	})
	_, err = d.shows("a.example", roots, "h2")
	check(t, err)
}
