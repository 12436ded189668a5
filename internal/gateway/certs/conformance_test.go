package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/system"
)

// applied returns the address of a server that shows pairs of the test's authority.
func applied(tb testing.TB, model *system.TLS, alpn ...string) (*Store, string) {
	tb.Helper()
	s := open(tb, Options{})
	check(tb, s.Apply(model, nil))
	return s, serve(tb, s.Config(alpn...))
}

func TestVersions(t *testing.T) {
	authority := newCA(t, "test")
	pair := authority.files(t, order{names: []string{"a.example"}})
	for _, test := range []struct {
		name    string
		min     uint16
		version uint16
		ok      bool
	}{
		{"1.0 is refused", 0, tls.VersionTLS10, false},
		{"1.1 is refused", 0, tls.VersionTLS11, false},
		{"1.2", 0, tls.VersionTLS12, true},
		{"1.3", 0, tls.VersionTLS13, true},
		{"1.2 is refused where 1.3 is the least", tls.VersionTLS13, tls.VersionTLS12, false},
		{"1.3 where it is the least", tls.VersionTLS13, tls.VersionTLS13, true},
		{"1.1 is refused whatever the model says", tls.VersionTLS10, tls.VersionTLS11, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, address := applied(t, &system.TLS{Certificates: []system.Certificate{pair}, MinVersion: test.min})
			state, err := dial(address, &tls.Config{ServerName: "a.example", RootCAs: authority.pool, MinVersion: test.version, MaxVersion: test.version})
			if (err == nil) != test.ok {
				t.Fatalf("got %v, want it accepted: %v", err, test.ok)
			}
			if err == nil && state.Version != test.version {
				t.Errorf("version %x", state.Version)
			}
			if err != nil && !strings.Contains(err.Error(), "protocol version") {
				t.Errorf("refused by %v, want the alert protocol_version", err)
			}
		})
	}
}

func TestSuitesOfTLS12(t *testing.T) {
	authority := newCA(t, "test")
	for kind, rsa := range map[string]bool{"ECDSA": false, "RSA": true} {
		_, address := applied(t, &system.TLS{Certificates: []system.Certificate{authority.files(t, order{names: []string{"a.example"}, rsa: rsa})}})
		for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
			if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
				continue
			}
			t.Run(kind+"/"+suite.Name, func(t *testing.T) {
				_, err := dial(address, &tls.Config{
					ServerName: "a.example", RootCAs: authority.pool,
					MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID},
				})
				want := strings.HasPrefix(suite.Name, "TLS_ECDHE_"+kind) && (strings.Contains(suite.Name, "_GCM_") || strings.Contains(suite.Name, "POLY1305"))
				if (err == nil) != want {
					t.Errorf("%v, want it accepted: %v", err, want)
				}
			})
		}
	}
}

func TestNames(t *testing.T) {
	authority := newCA(t, "test")
	model := &system.TLS{}
	for _, o := range []order{
		{names: []string{"first.example"}, subject: pkix.Name{CommonName: "first"}},
		{names: []string{"a.example", "www.A.example"}, subject: pkix.Name{CommonName: "a"}},
		{names: []string{"*.a.example"}, subject: pkix.Name{CommonName: "wildcard"}},
		{names: []string{"exact.a.example"}, subject: pkix.Name{CommonName: "exact"}},
		{ips: []net.IP{net.IPv4(127, 0, 0, 1)}, subject: pkix.Name{CommonName: "address"}},
		{subject: pkix.Name{CommonName: "only.common.example"}},
	} {
		model.Certificates = append(model.Certificates, authority.files(t, o))
	}
	s, address := applied(t, model)
	for _, test := range []struct{ sni, want string }{
		{"first.example", "first"},
		{"a.example", "a"},
		{"A.EXAMPLE", "a"},
		{"www.a.example", "a"}, // exact before the wildcard
		{"b.a.example", "wildcard"},
		{"exact.a.example", "exact"},
		{"only.common.example", "only.common.example"},
		{"x.b.a.example", "first"}, // a wildcard is one label
		{"unknown.example", "first"},
		{"", "address"}, // the address that it connected to
	} {
		t.Run("name "+test.sni, func(t *testing.T) {
			state, err := dial(address, &tls.Config{ServerName: test.sni, InsecureSkipVerify: true})
			check(t, err)
			if got := state.PeerCertificates[0].Subject.CommonName; got != test.want {
				t.Errorf("got the certificate of %s, want %s", got, test.want)
			}
		})
	}
	model = &system.TLS{Certificates: model.Certificates[:3]}
	check(t, s.Apply(model, nil))
	state, err := dial(address, &tls.Config{InsecureSkipVerify: true})
	check(t, err)
	if got := state.PeerCertificates[0].Subject.CommonName; got != "first" {
		t.Errorf("who names nothing got %s, want the first", got)
	}
}

func TestNoCertificatesRefuse(t *testing.T) {
	_, address := applied(t, nil)
	for _, name := range []string{"", "a.example"} {
		if _, err := dial(address, &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestKeyThatTheClientCanUse(t *testing.T) {
	authority := newCA(t, "test")
	_, address := applied(t, &system.TLS{Certificates: []system.Certificate{
		authority.files(t, order{names: []string{"a.example"}}), authority.files(t, order{names: []string{"a.example"}, rsa: true}),
	}})
	for suite, want := range map[uint16]x509.PublicKeyAlgorithm{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: x509.ECDSA,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:   x509.RSA,
	} {
		state, err := dial(address, &tls.Config{ServerName: "a.example", RootCAs: authority.pool, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		check(t, err)
		if got := state.PeerCertificates[0].PublicKeyAlgorithm; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestALPN(t *testing.T) {
	authority := newCA(t, "test")
	_, address := applied(t, &system.TLS{Certificates: []system.Certificate{authority.files(t, order{names: []string{"a.example"}})}}, "h2", "http/1.1")
	for _, test := range []struct {
		offered []string
		want    string
		ok      bool
	}{
		{nil, "", true},
		{[]string{"http/1.1"}, "http/1.1", true},
		{[]string{"http/1.1", "h2"}, "h2", true}, // the server's order
		{[]string{"acme-tls/1"}, "", false},      // no authority is asked
		{[]string{"spdy/3"}, "", false},
	} {
		state, err := dial(address, &tls.Config{ServerName: "a.example", RootCAs: authority.pool, NextProtos: test.offered})
		if (err == nil) != test.ok {
			t.Errorf("%v: %v", test.offered, err)
		} else if err == nil && state.NegotiatedProtocol != test.want {
			t.Errorf("%v: got %q, want %q", test.offered, state.NegotiatedProtocol, test.want)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	authority, ours, foreign := newCA(t, "test"), newCA(t, "clients"), newCA(t, "strangers")
	file := t.TempDir() + "/clients.pem"
	write(t, file, ours.pem)
	subject := pkix.Name{CommonName: "scanner-7"}
	good := ours.client(t, order{subject: subject})
	expired := ours.client(t, order{subject: subject, from: time.Now().Add(-2 * day), to: time.Now().Add(-day)})
	server, err := tls.X509KeyPair(ours.issue(t, order{names: []string{"a.example"}})) // not for clients
	check(t, err)
	for _, test := range []struct {
		name     string
		required bool
		cert     *tls.Certificate
		ok       bool
	}{
		{"good", true, good, true},
		{"missing", true, nil, false},
		{"foreign", true, foreign.client(t, order{subject: subject}), false},
		{"expired", true, expired, false},
		{"of a server", true, &server, false},
		{"good where optional", false, good, true},
		{"missing where optional", false, nil, true},
		{"foreign where optional", false, foreign.client(t, order{subject: subject}), false},
		{"expired where optional", false, expired, false},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s/%x", test.name, version), func(t *testing.T) {
				_, address := applied(t, &system.TLS{
					Certificates: []system.Certificate{authority.files(t, order{names: []string{"a.example"}})},
					Client:       &system.ClientCertificates{CA: file, Required: test.required},
				})
				config := &tls.Config{ServerName: "a.example", RootCAs: authority.pool, MaxVersion: version}
				if test.cert != nil {
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return test.cert, nil }
				}
				if _, err := dial(address, config); (err == nil) != test.ok {
					t.Errorf("%v, want it accepted: %v", err, test.ok)
				}
			})
		}
	}
}

func TestClientSubject(t *testing.T) {
	ours := newCA(t, "clients")
	for _, test := range []struct {
		name string
		in   pkix.Name
		want string
	}{
		{"plain", pkix.Name{CommonName: "scanner-7", Organization: []string{"Example"}}, "CN=scanner-7,O=Example"},
		{"separators", pkix.Name{CommonName: `a,b="c"`}, `CN=a\,b=\"c\"`},
		{"a header of its own", pkix.Name{CommonName: "a\r\nX-Admin: 1"}, `CN=a\0D\0AX-Admin: 1`},
		{"not ASCII", pkix.Name{CommonName: "Müller"}, `CN=M\C3\BCller`},
	} {
		t.Run(test.name, func(t *testing.T) {
			cert := ours.client(t, order{subject: test.in})
			state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
			if got := ClientSubject(state); got != "" {
				t.Errorf("unverified: %q", got)
			}
			state.VerifiedChains = [][]*x509.Certificate{{cert.Leaf, ours.cert}}
			if got := ClientSubject(state); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if ClientSubject(nil) != "" || ClientSubject(&tls.ConnectionState{}) != "" {
		t.Error("a subject of nobody")
	}
}

func FuzzClientSubject(f *testing.F) {
	f.Add("scanner\r\n7", "Example")
	f.Fuzz(func(t *testing.T, name, organization string) {
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{organization}}}
		for _, c := range []byte(ClientSubject(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}})) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q gives byte %#x", name, c)
			}
		}
	})
}

// lasting says whether a client with a session of before is let in, and resumes it.
func TestSessionsOverASwap(t *testing.T) {
	authority, ours, others := newCA(t, "test"), newCA(t, "clients"), newCA(t, "other clients")
	file := t.TempDir() + "/clients.pem"
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(fmt.Sprintf("%x", version), func(t *testing.T) {
			write(t, file, ours.pem)
			model := system.TLS{Certificates: []system.Certificate{authority.files(t, order{names: []string{"a.example"}})}}
			s, address := applied(t, &model, "http/1.1")
			client := &tls.Config{ServerName: "a.example", RootCAs: authority.pool, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
			resumed := func(want bool) {
				t.Helper()
				state, err := dial(address, client)
				check(t, err)
				if state.DidResume != want {
					t.Errorf("resumed: %v, want %v", state.DidResume, want)
				}
			}
			resumed(false)
			resumed(true)
			model.Certificates = []system.Certificate{authority.files(t, order{names: []string{"a.example"}})}
			check(t, s.Apply(&model, nil))
			resumed(true)

			// A session without a certificate is none where one is required.
			strict := model
			strict.Client = &system.ClientCertificates{CA: file, Required: true}
			check(t, s.Apply(&strict, nil))
			if _, err := dial(address, client); err == nil {
				t.Error("a session of before avoids the client's certificate")
			}
			client.Certificates = []tls.Certificate{*ours.client(t, order{subject: pkix.Name{CommonName: "c"}})}
			client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			resumed(false)
			resumed(true)
			write(t, file, others.pem)
			look(s)
			if _, err := dial(address, client); err == nil {
				t.Error("a session of before outlives its authority")
			}
		})
	}
}

func TestSwapsFailNoHandshake(t *testing.T) {
	authority := newCA(t, "test")
	models := [2]system.TLS{}
	for i := range models {
		models[i].Certificates = []system.Certificate{authority.files(t, order{names: []string{"a.example"}})}
	}
	s, address := applied(t, &models[0], "h2")
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var tasks sync.WaitGroup
	var done, failed atomic.Int64
	for range 4 {
		tasks.Go(func() {
			for ctx.Err() == nil {
				if _, err := dial(address, &tls.Config{ServerName: "a.example", RootCAs: authority.pool, NextProtos: []string{"h2"}}); err != nil {
					failed.Add(1)
					t.Errorf("handshake: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	swaps := 0
	for ctx.Err() == nil {
		swaps++
		check(t, s.Apply(&models[swaps%2], []string{"a.example"}))
	}
	tasks.Wait()
	t.Logf("%d handshakes over %d swaps, %d failed", done.Load(), swaps, failed.Load())
	if done.Load() == 0 {
		t.Error("no handshake")
	}
}

func TestOpenAndCloseAgainAndAgain(t *testing.T) {
	authority := newCA(t, "test")
	model := &system.TLS{Certificates: []system.Certificate{authority.files(t, order{names: []string{"a.example"}})}, Internal: &system.InternalCA{}}
	dir := t.TempDir()
	for range 50 {
		s, err := Open(Options{Dir: dir})
		check(t, err)
		var tasks sync.WaitGroup
		for range 4 {
			tasks.Go(func() { _ = s.Apply(model, []string{"b.example"}) })
			tasks.Go(func() { s.Status() })
		}
		check(t, s.Close())
		tasks.Wait()
		if err := s.Apply(model, nil); err == nil {
			t.Fatal("applied after Close")
		}
	}
}

func BenchmarkCertificate(b *testing.B) {
	authority := newCA(b, "test")
	s := newServed()
	for i := range 1000 {
		certificate, key := authority.issue(b, order{names: []string{fmt.Sprintf("h%d.example", i), fmt.Sprintf("*.w%d.example", i)}})
		cert, err := parsePair(certificate, key)
		check(b, err)
		s.add(cert)
	}
	for _, name := range []string{"h500.example", "x.w500.example", "unknown.example"} {
		b.Run(name, func(b *testing.B) {
			hello := &tls.ClientHelloInfo{ServerName: name}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.certificate(hello)
			}
		})
	}
}

func BenchmarkHandshake(b *testing.B) {
	authority := newCA(b, "test")
	_, address := applied(b, &system.TLS{Certificates: []system.Certificate{authority.files(b, order{names: []string{"a.example"}})}})
	config := &tls.Config{ServerName: "a.example", RootCAs: authority.pool}
	for b.Loop() {
		_, err := dial(address, config)
		check(b, err)
	}
}

func FuzzPair(f *testing.F) {
	authority := newCA(f, "test")
	certificate, key := authority.issue(f, order{names: []string{"a.example"}})
	f.Add(certificate, key)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte{})
	f.Fuzz(func(t *testing.T, certificate, key []byte) {
		cert, err := parsePair(certificate, key)
		if err != nil {
			return
		}
		s := newServed()
		s.add(cert)
		if len(s.exact)+len(s.wildcard)+len(s.byAddr) == 0 {
			t.Error("a certificate for nothing")
		}
	})
}

func FuzzHosts(f *testing.F) {
	f.Add("a.example")
	f.Add("*.a.example")
	f.Add("[::1]")
	f.Fuzz(func(t *testing.T, host string) {
		for _, h := range usable([]string{host}) {
			if !slices.Equal(usable([]string{h}), []string{h}) {
				t.Errorf("%q gives %q, which gives %q", host, h, usable([]string{h}))
			}
		}
	})
}
