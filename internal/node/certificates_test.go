package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/test/await"
)

// free returns the address of a port that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// status asks over https as a client of a host does, and returns the status.
func status(address, host string, roots *x509.CertPool) (int, error) {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	client := &http.Client{Transport: transport, Timeout: await.Patience}
	resp, err := client.Get("https://" + host + "/http")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

func TestDoorShowsCertificatesOfItsOwnAuthority(t *testing.T) {
	f := newFixture(t)
	address := free(t)
	f.edit(`gateway: {listen: "127.0.0.1:0"}`, fmt.Sprintf("gateway: {listen: %q, tls: {internal: {hosts: [shop.example]}}}", address))
	n := f.up()
	root, err := os.ReadFile(filepath.Join(n.Data(), "certificates", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, host := range []string{"localhost", "shop.example"} {
		if code, err := status(address, host, roots); err != nil || code != http.StatusOK {
			t.Errorf("%s: %d, %v", host, code, err)
		}
	}
	if code, err := status(address, "other.example", roots); err == nil {
		t.Errorf("a strange name got %d", code)
	}
	st := n.Status()
	if st.Root != filepath.Join(n.Data(), "certificates", "root.pem") {
		t.Errorf("the root is %q", st.Root)
	}
	shop := slices.IndexFunc(st.Certificates, func(c control.Certificate) bool { return slices.Contains(c.Names, "shop.example") })
	if shop < 0 || st.Certificates[shop].Source != "internal" || time.Until(st.Certificates[shop].Expires) <= 0 {
		t.Errorf("the certificates are %+v", st.Certificates)
	}
	if told := f.told(control.EventRoot); len(told) != 1 || told[0].Text != st.Root {
		t.Errorf("told of the root: %+v", told)
	}
}

func TestCertificatesBucketIsKept(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	for round := range 2 {
		b, err := bus.Open(ctx, bus.Options{Dir: filepath.Join(dir, "bus"), System: "test"})
		if err != nil {
			t.Fatal(err)
		}
		nc, err := b.Operator("test")
		if err != nil {
			t.Fatal(err)
		}
		s, err := openCertificatesBucket(ctx, nc, keeping{}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if err := s.Store(ctx, "certificates/a.example.key", []byte("secret")); err != nil {
				t.Fatal(err)
			}
			unlock, err := s.Lock(ctx, "order")
			if err != nil {
				t.Fatal(err)
			}
			if err := unlock(); err != nil {
				t.Error(err)
			}
		}
		if keys, err := s.Keys(ctx); err != nil || !slices.Equal(keys, []string{"certificates/a.example.key"}) {
			t.Errorf("keys %q, %v", keys, err)
		}
		if value, _, err := s.Load(ctx, "certificates/a.example.key"); err != nil || string(value) != "secret" {
			t.Errorf("got %q, %v", value, err)
		}
		nc.Close()
		if err := b.Close(context.WithoutCancel(ctx)); err != nil {
			t.Fatal(err)
		}
	}
}
