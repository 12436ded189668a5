//go:build real

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"fairlead/internal/system"
)

// pebble is Let's Encrypt's authority for tests, with a name server for which every
// name is this machine.
type pebble struct {
	directory  string
	root       string // path of what its own certificate chains to
	management string
	trust      *x509.CertPool
}

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

// closedPort returns one that nobody listens on.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return port(l)
}

func startPebble(t *testing.T, httpPort, tlsPort int, validity time.Duration) *pebble {
	t.Helper()
	program, err := exec.LookPath("pebble")
	if err != nil {
		program = filepath.Join(os.Getenv("GOBIN"), "pebble")
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatal("pebble is missing: go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	}
	overTCP, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	overUDP, err := net.ListenPacket("udp", overTCP.Addr().String())
	check(t, err)
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if q := r.Question[0]; q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		}
		w.WriteMsg(m)
	})
	for _, ns := range []*dns.Server{{Listener: overTCP, Handler: answer}, {PacketConn: overUDP, Handler: answer}} {
		go ns.ActivateAndServe()
		t.Cleanup(func() { ns.Shutdown() })
	}

	ca := newCA(t, "pebble's own")
	own := ca.files(t, order{ips: []net.IP{net.IPv4(127, 0, 0, 1)}})
	dir := t.TempDir()
	p := &pebble{root: filepath.Join(dir, "root.pem"), trust: ca.pool}
	write(t, p.root, ca.pem)
	listen, management := closedPort(t), closedPort(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", listen), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", management),
		"certificate": own.Certificate, "privateKey": own.Key, "httpPort": httpPort, "tlsPort": tlsPort,
		"retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"domainBlocklist": []string{"blocked.example"},
		"profiles":        map[string]any{"default": map[string]any{"description": "test", "validityPeriod": int(validity.Seconds())}},
	}})
	check(t, err)
	write(t, filepath.Join(dir, "config.json"), config)
	cmd := exec.Command(program, "-config", filepath.Join(dir, "config.json"), "-dnsserver", overTCP.Addr().String())
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	log, err := os.Create(filepath.Join(dir, "log"))
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("pebble:\n%s", b)
		}
	})
	p.directory = fmt.Sprintf("https://127.0.0.1:%d/dir", listen)
	p.management = fmt.Sprintf("https://127.0.0.1:%d", management)
	await(t, "pebble answers", func() bool { _, err := p.get(p.directory); return err == nil })
	return p
}

func (p *pebble) get(url string) ([]byte, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.trust}, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// roots are what certificates that it issued chain to.
func (p *pebble) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	b, err := p.get(p.management + "/roots/0")
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return pool
}

func (p *pebble) model(hosts ...string) *system.TLS {
	return &system.TLS{ACME: &system.ACME{Directory: p.directory, Root: p.root, Hosts: hosts}}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatal("waited in vain until " + what)
		case <-tick.C:
		}
	}
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
			httpPort, tlsPort := closedPort(t), closedPort(t)
			if test.http {
				httpPort = port(d.plain)
			}
			if test.tls {
				tlsPort = port(d.secure)
			}
			p := startPebble(t, httpPort, tlsPort, 90*day)
			dir := t.TempDir()
			s := open(t, Options{Dir: dir, Logger: testLog(t)})
			d.show(t, s)
			check(t, s.Apply(p.model("a.example", "b.example"), nil))
			await(t, "both are there", func() bool { return has(s, "a.example") && has(s, "b.example") })
			for _, host := range []string{"a.example", "b.example"} {
				_, err := d.shows(host, p.roots(t), "h2")
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
	p := startPebble(t, port(d.plain), closedPort(t), 90*day)
	first, second := open(t, Options{Storage: storage, Logger: testLog(t)}), open(t, Options{Storage: storage, Logger: testLog(t)})
	check(t, second.Apply(p.model("b.example"), nil))
	h := second.ChallengeHandler(http.NotFoundHandler()) // the door of the other node
	d.handler.Store(&h)
	await(t, "it is there", func() bool { return has(second, "b.example") })
	check(t, first.Apply(p.model("b.example"), nil))
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
	p := startPebble(t, port(d.plain), port(d.secure), time.Hour)
	var w told
	s := open(t, Options{Logger: testLog(t), Warn: w.warn, renewalRatio: 0.9995, renewalCheck: 200 * time.Millisecond}) // due after 2 s
	d.show(t, s)
	check(t, s.Apply(p.model("a.example"), nil))
	await(t, "it is there", func() bool { return has(s, "a.example") })
	first, err := d.shows("a.example", p.roots(t), "h2")
	check(t, err)
	await(t, "it is renewed", func() bool {
		next, err := d.shows("a.example", p.roots(t), "h2")
		check(t, err)
		return !next.Equal(first)
	})
	if texts := w.take(); len(texts) != 0 {
		t.Errorf("told %q", texts)
	}
}

func TestRealPebbleRefuses(t *testing.T) {
	d := openDoor(t)
	p := startPebble(t, port(d.plain), port(d.secure), 90*day)
	var w told
	s := open(t, Options{Logger: testLog(t), Warn: w.warn})
	d.show(t, s)
	check(t, s.Apply(p.model("a.example"), nil))
	await(t, "it is there", func() bool { return has(s, "a.example") })
	roots := p.roots(t)

	check(t, s.Apply(p.model("a.example", "blocked.example"), nil))
	var text string
	await(t, "the refusal is told", func() bool {
		for _, told := range w.take() {
			text = told
		}
		return text != ""
	})
	for _, part := range []string{"blocked.example", p.directory, "refuses", "policy"} {
		if !strings.Contains(text, part) {
			t.Errorf("told %q, which has no %q", text, part)
		}
	}
	_, err := d.shows("a.example", roots, "h2")
	check(t, err)
	var problem string
	for _, st := range s.Status() {
		if st.Names[0] == "blocked.example" {
			problem = st.Problem
		}
	}
	if problem == "" {
		t.Error("the status shows no problem")
	}

	// Another authority, which is not there: what was got of the first goes on.
	gone := p.model("a.example")
	gone.ACME.Directory = fmt.Sprintf("https://127.0.0.1:%d/dir", closedPort(t))
	check(t, s.Apply(gone, nil))
	await(t, "the failure is told", func() bool {
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
