package listen

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fairlead/internal/system"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// doors is a set of a test.
type doors struct {
	*Set
	t     testing.TB
	roots *x509.CertPool
}

// answers is the handler of a listener: it tells what it knows.
type answers struct {
	http.Handler
	info Info
}

func (a answers) Refuse(w http.ResponseWriter, _ *http.Request, status int, detail string) {
	http.Error(w, detail, status)
}

// tell answers with what a request looks like from the inside.
func tell(info Info) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s tls=%t client=%s at=%s body=%s", r.Proto, r.TLS != nil, host, info.Address, body)
	})
}

// newDoors makes a set that is stopped at the end of the test. A nil handler tells.
func newDoors(tb testing.TB, h func(Info) http.Handler, opts Options) *doors {
	tb.Helper()
	if h == nil {
		h = tell
	}
	d := &doors{t: tb, roots: x509.NewCertPool()}
	cert := certificate(tb, d.roots)
	opts.Handler = func(info Info) Handler { return answers{h(info), info} }
	opts.TLS = func(alpn ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: alpn, MinVersion: tls.VersionTLS12}
	}
	d.Set = New(opts)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			tb.Errorf("stop: %v", err)
			d.Cut()
		}
	})
	return d
}

// listen makes the set's listeners these.
func (d *doors) listen(list ...system.Listener) {
	d.t.Helper()
	d.apply(Config{Listeners: list})
}

func (d *doors) apply(c Config) {
	d.t.Helper()
	ch, err := d.Prepare(d.t.Context(), c)
	if err != nil {
		d.t.Fatal(err)
	}
	ch.Commit()
}

// at returns the address of the i-th listener.
func (d *doors) at(i int) string { return d.Infos()[i].Bound.String() }

// client returns a client for these protocols.
func (d *doors) client(protocols ...string) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots, MinVersion: tls.VersionTLS12}, Protocols: new(http.Protocols)}
	for _, p := range protocols {
		switch p {
		case "http/1.1":
			tr.Protocols.SetHTTP1(true)
		case "h2":
			tr.Protocols.SetHTTP2(true)
		case "h2c":
			tr.Protocols.SetUnencryptedHTTP2(true)
		}
	}
	d.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// get returns an answer's status and body.
func get(tb testing.TB, c *http.Client, url string) (int, string) {
	tb.Helper()
	res, err := c.Get(url)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// certificate makes one for 127.0.0.1 and localhost, and adds it to the roots.
func certificate(tb testing.TB, roots *x509.CertPool) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// eventually polls until cond holds.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(5 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatalf("timed out waiting: %s", what)
		}
	}
}

// dial connects to the i-th listener.
func (d *doors) dial(i int) net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.at(i))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}
