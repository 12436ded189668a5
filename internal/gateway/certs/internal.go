package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 7 * 24 * time.Hour
	rootFile = "root.pem"
	rootKey  = "root.key"

	// skew is how far the clock of another machine may be behind ours.
	skew = time.Hour
)

// root is the authority of the system's own. Its key can vouch for the names it was
// made for and their neighbours only, so that who steals it from a developer's
// machine gains nothing against the rest of the web.
type root struct {
	path string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openRoot reads the root in a folder, or makes one if there is none that fits the
// hosts. made says that a person has to trust it anew.
func openRoot(dir string, hosts []string, now time.Time) (r *root, made bool, err error) {
	r, err = readRoot(dir)
	switch {
	case err == nil && r.serves(hosts, now):
		return r, false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, false, fmt.Errorf("open internal authority: %w", err)
	}
	if r, err = makeRoot(dir, hosts, now); err != nil {
		return nil, false, fmt.Errorf("make internal authority: %w", err)
	}
	return r, true, nil
}

func readRoot(dir string) (*root, error) {
	path := filepath.Join(dir, rootFile)
	certificate, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, rootKey))
	if err != nil {
		return nil, err
	}
	both, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; delete it to have another one made", path, err)
	}
	private, ok := both.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: has no elliptic key; delete it to have another one made", path)
	}
	cert, err := x509.ParseCertificate(both.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w; delete it to have another one made", path, err)
	}
	return &root{path: path, cert: cert, key: private}, nil
}

func makeRoot(dir string, hosts []string, now time.Time) (*root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := x509Template("fairlead, for development on "+hostname(), now, rootLife)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign
	template.PermittedDNSDomainsCritical = true
	template.PermittedDNSDomains, template.PermittedIPRanges = constraints(hosts)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, rootFile)
	// The certificate is removed first and written last: beside it there is its key.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, rootKey), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})); err != nil {
		return nil, err
	}
	if err := writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return nil, err
	}
	return &root{path: path, cert: cert, key: key}, nil
}

// serves says whether certificates for all hosts can be made with it for a while.
func (r *root) serves(hosts []string, now time.Time) bool {
	if now.Add(2*leafLife).After(r.cert.NotAfter) || now.Before(r.cert.NotBefore) {
		return false
	}
	names, ranges := constraints(hosts)
	for _, name := range names {
		if !slices.ContainsFunc(r.cert.PermittedDNSDomains, func(p string) bool { return name == p || strings.HasSuffix(name, "."+p) }) {
			return false
		}
	}
	for _, want := range ranges {
		if !slices.ContainsFunc(r.cert.PermittedIPRanges, func(p *net.IPNet) bool { return p.Contains(want.IP) }) {
			return false
		}
	}
	return true
}

// constraints returns what a root for the hosts may vouch for: the domain that each
// of them is in, and this machine.
func constraints(hosts []string) (names []string, ranges []*net.IPNet) {
	names = []string{"localhost"}
	ranges = []*net.IPNet{
		{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
		{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
	}
	for _, host := range hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			ip := net.IP(addr.AsSlice())
			ranges = append(ranges, &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))})
			continue
		}
		names = append(names, domainOf(host))
	}
	slices.Sort(names)
	return slices.Compact(names), ranges
}

// domainOf returns a name without its first label, unless fewer than two were left.
func domainOf(host string) string {
	if _, domain, ok := strings.Cut(host, "."); ok && strings.Contains(domain, ".") {
		return domain
	}
	return host
}

// issue makes a certificate for a host, with a key that is on no disk. The one for
// localhost is for the addresses of this machine too.
func (r *root) issue(host string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := x509Template(host, now, leafLife)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if addr, err := netip.ParseAddr(host); err == nil {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{host}
	}
	if host == localhost {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// due says whether two thirds of a certificate's life are over.
func due(leaf *x509.Certificate, now time.Time) bool {
	return now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3))
}

func x509Template(name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: shortName(name), Organization: []string{"fairlead"}},
		NotBefore: now.Add(-skew), NotAfter: now.Add(life),
	}, nil
}

// shortName fits a name into X.520's bound for common names. The names that count
// are the alternative ones.
func shortName(name string) string {
	const most = 64
	return name[:min(len(name), most)]
}

func hostname() string {
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "this machine"
}

// writeFile replaces a file as a whole; only the owner can read it. It is on the
// disk when it returns.
func writeFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
