//go:build real

// Package pebble runs Pebble, Let's Encrypt's small authority for tests, with a name
// server for which every name is this machine. It is for tests that carry the build
// tag real; the program has to be on the PATH or in $GOBIN.
package pebble

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Blocked is a name that the authority refuses.
const Blocked = "blocked.example"

// Authority is one that runs until the test ends, or Stop.
type Authority struct {
	Directory string // URL
	Root      string // path of what the directory's own certificate chains to

	management string
	trust      *x509.CertPool
	end        func()
}

// Start starts an authority that validates names on two ports of this machine, and
// issues certificates that are valid for so long.
func Start(tb testing.TB, httpPort, tlsPort int, validity time.Duration) *Authority {
	tb.Helper()
	program, err := exec.LookPath("pebble")
	if err != nil {
		program = filepath.Join(os.Getenv("GOBIN"), "pebble")
	}
	if _, err := os.Stat(program); err != nil {
		tb.Fatal("pebble is missing: go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	}
	dir := tb.TempDir()
	a := &Authority{Root: filepath.Join(dir, "cert.pem")}
	a.trust = ownCertificate(tb, a.Root, filepath.Join(dir, "key.pem"))
	listen, management := ClosedPort(tb), ClosedPort(tb)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", listen), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", management),
		"certificate": a.Root, "privateKey": filepath.Join(dir, "key.pem"), "httpPort": httpPort, "tlsPort": tlsPort,
		"retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa", "domainBlocklist": []string{Blocked},
		"profiles": map[string]any{"default": map[string]any{"description": "test", "validityPeriod": int(validity.Seconds())}},
	}})
	must(tb, err)
	must(tb, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(tb, err)
	//nolint:gosec // a test's own program
	cmd := exec.Command(program, "-config", filepath.Join(dir, "config.json"), "-dnsserver", startNames(tb))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	cmd.Stdout, cmd.Stderr = log, log
	must(tb, cmd.Start())
	a.end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
		_ = log.Close()        // for reading only from now on
	})
	tb.Cleanup(func() {
		a.end()
		if tb.Failed() {
			b, _ := os.ReadFile(log.Name())
			tb.Logf("pebble:\n%s", b)
		}
	})
	a.Directory = fmt.Sprintf("https://127.0.0.1:%d/dir", listen)
	a.management = fmt.Sprintf("https://127.0.0.1:%d", management)
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if _, err := a.get(a.Directory); err == nil {
			return a
		}
		if time.Since(begun) > time.Minute {
			tb.Fatal("pebble does not answer")
		}
	}
}

// Stop ends the authority.
func (a *Authority) Stop() { a.end() }

// Roots are what the certificates that it issues chain to.
func (a *Authority) Roots(tb testing.TB) *x509.CertPool {
	tb.Helper()
	b, err := a.get(a.management + "/roots/0")
	must(tb, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return pool
}

func (a *Authority) get(url string) ([]byte, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.trust}, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// startNames returns the address of a name server, over UDP and TCP.
func startNames(tb testing.TB) string {
	tb.Helper()
	overTCP, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	overUDP, err := net.ListenPacket("udp", overTCP.Addr().String())
	must(tb, err)
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if q := r.Question[0]; q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		}
		_ = w.WriteMsg(m) // who asks asks again
	})
	for _, ns := range []*dns.Server{{Listener: overTCP, Handler: answer}, {PacketConn: overUDP, Handler: answer}} {
		go func() { _ = ns.ActivateAndServe() }() // ends with Shutdown
		tb.Cleanup(func() { _ = ns.Shutdown() })
	}
	return overTCP.Addr().String()
}

// ownCertificate makes the certificate of the directory, which is its own root.
func ownCertificate(tb testing.TB, certFile, keyFile string) *x509.CertPool {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(tb, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(tb, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(tb, os.WriteFile(certFile, certificate, 0o600))
	must(tb, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	return pool
}

// ClosedPort returns a port of this machine that nobody listens on.
func ClosedPort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
