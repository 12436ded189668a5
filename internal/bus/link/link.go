package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Port is the one that servers listen on for leaf nodes, where a URL has none.
const Port = "7422"

// Errors of [Find] that another attempt does not mend.
var (
	// ErrClientPort is returned for an address that takes clients, not leaf nodes.
	ErrClientPort = errors.New("is the port of clients; the URL must name the one of leaf nodes (there: leafnodes { port: 7422 })")
	// ErrNoJetStream is returned for a server without JetStream.
	ErrNoJetStream = errors.New("has no JetStream, which must keep the queues and fairlead's state (there: jetstream { domain: ... })")
	// ErrNoDomain is returned for a server whose JetStream leaf nodes cannot reach.
	ErrNoDomain = errors.New("has a JetStream without a domain, which leaf nodes cannot reach (there: jetstream { domain: ... })")
)

// Server is a NATS server elsewhere, and who the system is there. At most one of
// user information in URL, Credentials and SigningKey is set; none: nobody is asked
// for there.
type Server struct {
	URL string // nats:// or tls://, of the port of leaf nodes, 7422 by default
	// Credentials is the text of a .creds file.
	Credentials string
	// SigningKey is the seed of a key that may sign users of Account, or of the
	// account's own key.
	SigningKey string
	Account    string // public key of the account, "" : SigningKey's
	// Roots are the authorities that the server's certificate must chain to; nil: the
	// machine's.
	Roots *x509.CertPool
}

// Place is what a server says of itself.
type Place struct {
	Domain     string // of its JetStream
	MaxPayload int32  // the largest message in bytes, headers included; 0: not said
	TLS        bool   // it wants TLS after what it says
	TLSFirst   bool   // it speaks TLS before anything else
}

const (
	dialTime = 5 * time.Second
	// infoTime is how long a server may be silent. One that waits for TLS says
	// nothing until then.
	infoTime = 2 * time.Second
	// maxInfo bounds the first line of a server, in bytes.
	maxInfo = 64 << 10
)

// address splits the URL.
func (s Server) address() (u *url.URL, err error) {
	if u, err = url.Parse(s.URL); err != nil {
		return nil, errors.New("URL cannot be read") // the error would show a password
	}
	if u.Scheme != "nats" && u.Scheme != "tls" {
		return nil, fmt.Errorf("URL must begin with nats:// or tls://, not %s://", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("URL names no host")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), Port)
	}
	return u, nil
}

// Name is the URL without what must not be shown.
func (s Server) Name() string {
	u, err := s.address()
	if err != nil {
		return "a NATS server elsewhere"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}

// Find connects to the server for a moment, reads what it says of itself, and
// returns why the bus cannot be its leaf node, if it cannot. It does not say who we
// are. It takes a few seconds at most.
func Find(ctx context.Context, s Server) (Place, error) {
	u, err := s.address()
	if err != nil {
		return Place{}, err
	}
	var secure *tls.Config
	if u.Scheme == "tls" {
		secure = s.tls(u.Hostname())
	}
	p, err := ask(ctx, u, secure, false)
	if silent := net.Error(nil); secure != nil && errors.As(err, &silent) && silent.Timeout() {
		p, err = ask(ctx, u, secure, true)
		p.TLSFirst = true
	}
	if err != nil {
		return Place{}, fmt.Errorf("%s: %w", s.Name(), err)
	}
	return p, nil
}

// ask reads the first line of the server. Unless secure is nil, it looks at the
// server's certificate: before that line if first, else after it.
func ask(ctx context.Context, u *url.URL, secure *tls.Config, first bool) (Place, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return Place{}, err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() }) // closed at most twice
	defer stop()
	var says io.Reader = nc
	secured := tls.Client(nc, secure)
	if first {
		if err := secured.HandshakeContext(ctx); err != nil {
			return Place{}, err
		}
		says = secured
	}
	if err := nc.SetReadDeadline(time.Now().Add(infoTime)); err != nil {
		return Place{}, err
	}
	line, err := firstLine(says)
	if err != nil {
		return Place{}, err
	}
	p, err := ParseInfo(line)
	switch {
	case err != nil || first || secure == nil:
	case !p.TLS:
		err = errors.New("speaks no TLS; the URL begins with nats:// then")
	default:
		err = secured.HandshakeContext(ctx)
	}
	return p, err
}

// firstLine reads up to the first line break.
func firstLine(r io.Reader) ([]byte, error) {
	var line []byte
	for b := make([]byte, 4096); ; {
		n, err := r.Read(b)
		if end := slices.Index(b[:n], '\n'); end >= 0 {
			return append(line, b[:end]...), nil
		}
		line = append(line, b[:n]...)
		if err != nil {
			return nil, fmt.Errorf("read what the server says: %w", err)
		}
		if len(line) > maxInfo {
			return nil, errors.New("speaks no NATS")
		}
	}
}

// ParseInfo reads the first line of a server, INFO and a JSON object, and returns
// what it says of itself, or why the bus cannot be its leaf node.
// https://docs.nats.io/reference/reference-protocols/nats-protocol#info
func ParseInfo(line []byte) (Place, error) {
	word, object, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	var info struct {
		JetStream  bool   `json:"jetstream"`
		Domain     string `json:"domain"`
		MaxPayload int32  `json:"max_payload"`
		TLS        bool   `json:"tls_required"`
		// Only to leaf nodes servers say one of these.
		LeafNodes []string `json:"leafnode_urls"`
		OnConnect bool     `json:"info_on_connect"`
	}
	if !strings.EqualFold(word, "INFO") || json.Unmarshal([]byte(object), &info) != nil {
		return Place{}, errors.New("speaks no NATS")
	}
	switch {
	case info.LeafNodes == nil && !info.OnConnect:
		return Place{}, ErrClientPort
	case !info.JetStream:
		return Place{}, ErrNoJetStream
	case info.Domain == "":
		return Place{}, ErrNoDomain
	case strings.ContainsAny(info.Domain, ".*> \t"):
		return Place{}, fmt.Errorf("names a domain that cannot be one token of a subject: %q", info.Domain)
	}
	return Place{Domain: info.Domain, MaxPayload: max(info.MaxPayload, 0), TLS: info.TLS}, nil
}

func (s Server) tls(host string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: s.Roots}
}

// Remote is the option of the bus's server that makes it a leaf node. credentials is
// the file that holds what [Server.User] returned, "" if that was nothing. Of what is
// published elsewhere on the subjects unheard, nothing comes here; of what is published
// here on those untold, nothing goes there.
func (s Server) Remote(p Place, credentials string, unheard, untold []string) (*server.RemoteLeafOpts, error) {
	u, err := s.address()
	if err != nil {
		return nil, err
	}
	r := &server.RemoteLeafOpts{
		URLs: []*url.URL{u}, Credentials: credentials, TLSHandshakeFirst: p.TLSFirst,
		DenyImports: unheard, DenyExports: untold,
	}
	if u.Scheme == "tls" {
		r.TLS, r.TLSConfig = true, s.tls(u.Hostname())
	}
	return r, nil
}
