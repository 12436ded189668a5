package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestMain(m *testing.M) {
	// certmagic bounds how often each authority is asked with one goroutine for each,
	// which never ends.
	await.Goroutines(m, goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).permit"))
}

// ca is an authority of a test.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	pem  []byte
}

func newCA(tb testing.TB, name string) *ca {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(1000 * day),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(tb, err)
	cert, err := x509.ParseCertificate(der)
	check(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &ca{cert: cert, key: key, pool: pool, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// order says what a certificate of a test is like.
type order struct {
	names    []string
	ips      []net.IP
	subject  pkix.Name
	from, to time.Time // zero: an hour ago, in 90 days
	client   bool
	rsa      bool
}

// issue returns a certificate and its key in PEM.
func (c *ca) issue(tb testing.TB, o order) (certificate, key []byte) {
	tb.Helper()
	if o.from.IsZero() {
		o.from = time.Now().Add(-time.Hour)
	}
	if o.to.IsZero() {
		o.to = time.Now().Add(90*day + time.Hour)
	}
	usage := x509.ExtKeyUsageServerAuth
	if o.client {
		usage = x509.ExtKeyUsageClientAuth
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: o.subject, DNSNames: o.names, IPAddresses: o.ips, NotBefore: o.from, NotAfter: o.to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	var public, secret any
	if o.rsa {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		check(tb, err)
		public, secret = k.Public(), k
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(tb, err)
		public, secret = k.Public(), k
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, public, c.key)
	check(tb, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(secret)
	check(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// files writes a pair into a new folder.
func (c *ca) files(tb testing.TB, o order) system.Certificate {
	tb.Helper()
	dir := tb.TempDir()
	pair := system.Certificate{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	certificate, key := c.issue(tb, o)
	write(tb, pair.Certificate, certificate)
	write(tb, pair.Key, key)
	return pair
}

func (c *ca) client(tb testing.TB, o order) *tls.Certificate {
	tb.Helper()
	o.client = true
	cert, err := tls.X509KeyPair(c.issue(tb, o))
	check(tb, err)
	return &cert
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	return n
}

func write(tb testing.TB, path string, b []byte) {
	tb.Helper()
	check(tb, os.WriteFile(path, b, 0o600))
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// told collects what an operator is told.
type told struct {
	mu    sync.Mutex
	texts []string
}

func (w *told) warn(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// take returns what was told since the last time.
func (w *told) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := w.texts
	w.texts = nil
	return texts
}

// open opens a store that does not look at anything by itself: tests call look.
func open(tb testing.TB, opts Options) *Store {
	tb.Helper()
	if opts.Dir == "" {
		opts.Dir = tb.TempDir()
	}
	s, err := Open(opts)
	check(tb, err)
	tb.Cleanup(func() { check(tb, s.Close()) })
	return s
}

// look does at once what is done every two seconds.
func look(s *Store) {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.glance()
}

// serve accepts connections with the store's certificates, echoes one byte on each
// and returns the address.
func serve(tb testing.TB, config *tls.Config) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(await.Patience))
				conn := tls.Server(c, config)
				if conn.Handshake() != nil {
					return
				}
				b := make([]byte, 1)
				if _, err := conn.Read(b); err == nil {
					conn.Write(b)
				}
			})
		}
	})
	tb.Cleanup(func() { l.Close(); tasks.Wait() })
	return l.Addr().String()
}

// dial makes a connection and sends a byte over it and back: with TLS 1.3 a client
// learns only then that its certificate was refused.
func dial(address string, config *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(await.Patience))
	b := []byte("x")
	if _, err := conn.Write(b); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := conn.Read(b); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}
