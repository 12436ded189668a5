package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// clientAuthority signs certificates of clients.
type clientAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newClientAuthority(t *testing.T) *clientAuthority {
	t.Helper()
	a := &clientAuthority{file: filepath.Join(t.TempDir(), "clients.pem")}
	cert := a.issue(t, "clients", true)
	a.cert, a.key = cert.Leaf, cert.PrivateKey.(*ecdsa.PrivateKey)
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate, signed by itself if it is the authority's own.
func (a *clientAuthority) issue(t *testing.T, name string, own bool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: []string{"Example"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: own, BasicConstraintsValid: true,
	}
	parent, signer := a.cert, a.key
	if own {
		template.KeyUsage = x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestServicesLearnWhoHoldsTheClientsCertificate sends requests of all protocols with
// and without certificates.
func TestServicesLearnWhoHoldsTheClientsCertificate(t *testing.T) {
	s := openSecured(t, true)
	ours, others := newClientAuthority(t), newClientAuthority(t)
	s.gateway.TLS.Client = &system.ClientCertificates{CA: ours.file}
	s.serve([]*system.Route{{Path: "/"}}, mirror(t))
	long := strings.Repeat("x", mostHolder)
	for _, tt := range []struct {
		name string
		cert *tls.Certificate // nil for none
		want string           // "" for no header
		ok   bool
	}{
		{"verified", new(ours.issue(t, "scanner-7", false)), "CN=scanner-7,O=Example", true},
		{"header in it", new(ours.issue(t, "a\r\nX-Admin: 1", false)), `CN=a\0D\0AX-Admin: 1,O=Example`, true},
		{"too long to be told", new(ours.issue(t, long, false)), "", true},
		{"none", nil, "", true},
		{"of another authority", new(others.issue(t, "scanner-7", false)), "", false},
	} {
		for proto := range s.clients(t) {
			t.Run(tt.name+"/"+proto, func(t *testing.T) {
				client := s.clients(t)[proto]
				config := configOf(client)
				if tt.cert != nil {
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.cert, nil }
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				req.Header["Fairlead-Client-Subject"] = []string{"CN=forged"}
				req.Header["fairlead_client_subject"] = []string{"CN=forged"}
				res, err := client.Do(req)
				if (err == nil) != tt.ok {
					t.Fatalf("%v, want it accepted: %t", err, tt.ok)
				}
				if err != nil {
					return
				}
				defer res.Body.Close()
				head, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				_, got, there := strings.Cut(string(head), "\r\nFairlead-Client-Subject: ")
				got, _, _ = strings.Cut(got, "\r\n")
				if there != (tt.want != "") || got != tt.want || strings.Contains(string(head), "forged") {
					t.Errorf("the service got %q, want %q, in %q", got, tt.want, head)
				}
			})
		}
	}
	await.Until(t, "the access log names the holder", func() bool {
		return strings.Contains(s.log.String(), `"certificate":"CN=scanner-7,O=Example"`)
	})
	if strings.Contains(s.log.String(), "forged") {
		t.Error("the access log has what a client made up")
	}
}

// configOf returns the TLS configuration of one of secured's clients.
func configOf(c *http.Client) *tls.Config {
	if tr, ok := c.Transport.(*http3.Transport); ok {
		return tr.TLSClientConfig
	}
	return c.Transport.(*http.Transport).TLSClientConfig
}
