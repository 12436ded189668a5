package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"fairlead/internal/system"
	"fairlead/test/await"
	"fairlead/test/certificate"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

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
	cert := certificate.New(tb)
	d.roots.AddCert(cert.Leaf)
	opts.Handler = func(info Info) Handler { return answers{h(info), info} }
	opts.TLS = func(alpn ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: alpn, MinVersion: tls.VersionTLS12}
	}
	d.Set = New(opts)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
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
	return &http.Client{Transport: tr, Timeout: await.Patience}
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

// dial connects to the i-th listener.
func (d *doors) dial(i int) net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.at(i))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	return c
}
