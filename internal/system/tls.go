package system

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	tlsSchema = schema{
		what: "gateway.tls",
		keys: []string{"certificate", "key", "certificates", "acme", "internal", "client", "min_version", "hsts"},
	}
	certificateSchema = schema{what: "a certificate", keys: []string{"certificate", "key"}}
	acmeSchema        = schema{what: "gateway.tls.acme", keys: []string{"email", "directory", "root", "hosts"}}
	internalSchema    = schema{what: "gateway.tls.internal", keys: []string{"hosts"}}
	clientSchema      = schema{what: "gateway.tls.client", keys: []string{"ca", "required"}}
)

const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// mostCertificates bounds the pairs of files that are watched.
const mostCertificates = 1000

// mostPEM bounds a file of certificates or a key, in bytes.
const mostPEM = 1 << 20

func (r *reader) readTLS(n *document.Node) *TLS {
	f := r.fields(n, tlsSchema)
	out := &TLS{MinVersion: tls.VersionTLS12}
	if n.Kind != document.Mapping {
		return out
	}
	if f["certificate"] != nil || f["key"] != nil {
		out.Certificates = r.readCertificate(n, tlsSchema, f, out.Certificates)
	}
	if n := f["certificates"]; n != nil {
		out.Certificates = r.readCertificates(n, out.Certificates)
	}
	if acme := f["acme"]; acme != nil {
		out.ACME = r.readACME(acme)
	}
	if internal := f["internal"]; internal != nil && internal.Kind == document.Mapping {
		out.Internal = &InternalCA{Hosts: r.hosts(r.fields(internal, internalSchema)["hosts"], true)}
	} else if r.bool(internal) {
		out.Internal = &InternalCA{}
	}
	if f["certificate"] == nil && f["key"] == nil && f["certificates"] == nil && f["acme"] == nil && out.Internal == nil && len(f) == len(n.Items) {
		r.rec.add(n.KeyAt, n.Path, noCertificate)
	}
	if client := f["client"]; client != nil {
		out.Client = r.readClientCertificates(client)
	}
	if r.oneOf(f["min_version"], "1.2", "1.2", "1.3") == "1.3" {
		out.MinVersion = tls.VersionTLS13
	}
	out.HSTS = r.seconds(f["hsts"], 0)
	return out
}

func (r *reader) readCertificates(n *document.Node, out []Certificate) []Certificate {
	switch {
	case n.Kind != document.List:
		r.wrong(n, "a list", "write [{certificate: a.pem, key: a.key}, ...]")
	case len(n.Items) == 0:
		r.rec.add(n.At, n.Path, emptyValue, "name a certificate, or remove the key")
	case len(n.Items) > mostCertificates:
		r.rec.add(n.At, n.Path, tooMany, "1000", len(n.Items), "")
	default:
		for _, item := range n.Items {
			out = r.readCertificate(item, certificateSchema, r.fields(item, certificateSchema), out)
		}
	}
	return out
}

// readCertificate appends the pair that the fields of n name.
func (r *reader) readCertificate(n *document.Node, s schema, f map[string]*document.Node, out []Certificate) []Certificate {
	if n.Kind != document.Mapping {
		return out
	}
	var c Certificate
	if f["certificate"] == nil {
		r.missing(n, s, "certificate", "name the PEM file of the certificate that the key belongs to")
	} else {
		c.Certificate = r.file(f["certificate"], false)
	}
	if f["key"] == nil {
		r.missing(n, s, "key", "name the PEM file of the certificate's private key")
	} else {
		c.Key = r.file(f["key"], false)
	}
	if why := r.unusable(c); why != "" {
		at := f["certificate"]
		r.warn(at.At, at.Path, badCertificate, wording.Quote(at.Text), why)
	}
	return append(out, c)
}

// unusable tells why a pair cannot be used as it is now, "" if it can or nobody knows. It
// is no fault of the file: a door that runs goes on with what it has until there is
// something better.
func (r *reader) unusable(c Certificate) string {
	if c.Certificate == "" || c.Key == "" || r.stored {
		return ""
	}
	why, known := r.pairs[c]
	if known {
		return why
	}
	certificate, err := readAtMost(c.Certificate, mostPEM)
	key, keyErr := readAtMost(c.Key, mostPEM)
	if err = errors.Join(err, keyErr); err == nil {
		if _, err = tls.X509KeyPair(certificate, key); err != nil {
			why = strings.TrimPrefix(wording.OneLine(err.Error()), "tls: ")
		}
	}
	r.pairs[c] = why // of what cannot be read nothing is known: who runs the system may
	return why
}

// authorities reads the path of a file of authorities' certificates.
func (r *reader) authorities(n *document.Node) string {
	path := r.file(n, false)
	if path == "" || r.stored {
		return path
	}
	if text, err := readAtMost(path, mostPEM); err == nil && !x509.NewCertPool().AppendCertsFromPEM(text) {
		r.warn(n.At, n.Path, noAuthorities, wording.Quote(n.Text))
	}
	return path
}

func (r *reader) readACME(n *document.Node) *ACME {
	f := r.fields(n, acmeSchema)
	out := &ACME{Directory: letsEncrypt, Hosts: r.hosts(f["hosts"], false)}
	if n := f["email"]; n != nil {
		s, ok := r.text(n)
		if name, host, found := strings.Cut(s, "@"); ok && (!found || name == "" || !notation.IsHostName(strings.ToLower(host)) || !notation.IsHeaderValue(s) || strings.Contains(s, " ")) {
			r.rec.add(n.At, n.Path, badEmail, wording.Quote(s))
		}
		out.Email = s
	}
	if n := f["directory"]; n != nil {
		s, ok := r.text(n)
		if u, err := url.Parse(s); ok && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil) {
			r.rec.add(n.At, n.Path, badURL, wording.Quote(s), "write the https address of the authority's directory")
		}
		out.Directory = s
	}
	if n := f["root"]; n != nil {
		out.Root = r.authorities(n)
	}
	return out
}

func (r *reader) readClientCertificates(n *document.Node) *ClientCertificates {
	f := r.fields(n, clientSchema)
	out := &ClientCertificates{Required: f["required"] == nil || r.bool(f["required"])}
	if f["ca"] == nil {
		r.missing(n, clientSchema, "ca", "name the PEM file of the authorities that clients' certificates must chain to")
	} else {
		out.CA = r.authorities(f["ca"])
	}
	return out
}

// hosts reads a list of names of hosts, with *.example.com only where wildcards are
// allowed.
func (r *reader) hosts(n *document.Node, wildcards bool) []string {
	var out []string
	for _, item := range r.texts(n, false) {
		name := strings.ToLower(item.Text)
		bare, wild := strings.CutPrefix(name, "*.")
		switch {
		case !notation.IsHostName(bare):
			r.rec.add(item.At, item.Path, badHost, wording.Quote(item.Text), "write a name without port, as in shop.example.com")
		case wild && !wildcards:
			r.rec.add(item.At, item.Path, badHost, wording.Quote(item.Text), "an authority proves one name at a time here: write the names out")
		default:
			out = append(out, name)
		}
	}
	if n != nil && n.Kind == document.List && len(n.Items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, "name a host, or remove the key")
	}
	return out
}

// checkACME gives ACME the hosts of the routes when the file names none. A host with
// a wildcard cannot be proved over HTTP or TLS and is left out.
func (r *reader) checkACME(n *document.Node) {
	t := r.sys.Gateway.TLS
	if t == nil || t.ACME == nil || n.Member("hosts") != nil {
		return
	}
	seen := map[string]bool{}
	for i := range r.sys.Routes {
		host := r.sys.Routes[i].Host
		if host != "" && !strings.HasPrefix(host, "*.") && !seen[host] {
			seen[host] = true
			t.ACME.Hosts = append(t.ACME.Hosts, host)
		}
	}
	if len(t.ACME.Hosts) == 0 && !r.meant["hosts"] {
		r.rec.add(n.KeyAt, n.Path, acmeWithoutHosts)
	}
}
