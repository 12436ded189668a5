package certs

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// served is all that a handshake needs. It is never changed once it is built.
type served struct {
	exact    map[string][]*tls.Certificate     // lower-case name, or an address in its usual form
	wildcard map[string][]*tls.Certificate     // "example.com" for *.example.com
	byAddr   map[netip.Addr][]*tls.Certificate // of certificates for addresses
	unknown  []*tls.Certificate                // for names that nothing fits, nil: refused
	nameless []*tls.Certificate                // for clients that name nothing

	minVersion uint16
	clientAuth tls.ClientAuthType
	clientCAs  *x509.CertPool
	challenges challenger // nil: no authority is asked
}

// challenger answers an authority that looks whether a name is ours.
type challenger interface {
	challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	answer(w http.ResponseWriter, r *http.Request) bool
}

// suites are those of TLS 1.2 that are neither CBC nor without forward secrecy; all
// of them may be used with HTTP/2 (RFC 9113, appendix A). Those of 1.3 are Go's.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

func newServed() *served {
	return &served{
		exact:    map[string][]*tls.Certificate{},
		wildcard: map[string][]*tls.Certificate{},
		byAddr:   map[netip.Addr][]*tls.Certificate{},
	}
}

// add makes a certificate known under all its names.
func (s *served) add(cert *tls.Certificate) {
	names, addrs := namesOf(cert.Leaf)
	for _, name := range names {
		if suffix, ok := strings.CutPrefix(name, "*."); ok {
			s.wildcard[suffix] = append(s.wildcard[suffix], cert)
		} else {
			s.exact[name] = append(s.exact[name], cert)
		}
	}
	for _, addr := range addrs {
		s.byAddr[addr] = append(s.byAddr[addr], cert)
	}
	if len(s.nameless) == 0 {
		s.nameless = []*tls.Certificate{cert}
	}
}

// covers says whether there is a certificate for a host: a name, a wildcard, or an
// address.
func (s *served) covers(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return len(s.byAddr[addr]) > 0
	}
	if suffix, ok := strings.CutPrefix(host, "*."); ok {
		return len(s.wildcard[suffix]) > 0
	}
	return len(s.named(host)) > 0
}

// named returns the certificates for a lower-case name. It does not allocate.
func (s *served) named(name string) []*tls.Certificate {
	if found := s.exact[name]; found != nil {
		return found
	}
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		return s.wildcard[name[dot+1:]]
	}
	return nil
}

// certificate is tls.Config.GetCertificate. A nil certificate is answered with the
// alert unrecognized_name.
func (s *served) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return choose(hello, s.candidates(hello)), nil
}

func (s *served) candidates(hello *tls.ClientHelloInfo) []*tls.Certificate {
	if hello.ServerName == "" {
		if found := s.byAddr[localAddr(hello.Conn)]; found != nil {
			return found
		}
		return s.nameless
	}
	if found := s.named(strings.ToLower(hello.ServerName)); found != nil {
		return found
	}
	return s.unknown
}

// choose returns the first that the client can use: a name may have a certificate
// with an RSA key beside one with an elliptic one.
func choose(hello *tls.ClientHelloInfo, from []*tls.Certificate) *tls.Certificate {
	switch len(from) {
	case 0:
		return nil
	case 1:
		return from[0]
	}
	for _, cert := range from {
		if hello.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	return from[0]
}

func localAddr(c net.Conn) netip.Addr {
	if c == nil {
		return netip.Addr{}
	}
	switch addr := c.LocalAddr().(type) {
	case *net.TCPAddr:
		return addr.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return addr.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// config returns what connections of one listener are made with.
func (s *served) config(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:     max(s.minVersion, tls.VersionTLS12),
		CipherSuites:   suites,
		NextProtos:     alpn,
		ClientAuth:     s.clientAuth,
		ClientCAs:      s.clientCAs,
		GetCertificate: s.certificate,
	}
}

// challengeConfig returns what a connection is made with that asks for nothing but
// a proof that a name is ours (RFC 8737).
func (s *served) challengeConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   suites,
		NextProtos:     []string{ChallengeProtocol},
		GetCertificate: s.challenges.challenge,
	}
}

// namesOf returns the lower-case names and the addresses of a certificate.
func namesOf(leaf *x509.Certificate) (names []string, addrs []netip.Addr) {
	for _, name := range leaf.DNSNames {
		names = append(names, strings.ToLower(name))
	}
	for _, ip := range leaf.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	if len(names)+len(addrs) == 0 && leaf.Subject.CommonName != "" {
		names = append(names, strings.ToLower(leaf.Subject.CommonName)) // as before RFC 6125
	}
	return names, addrs
}
