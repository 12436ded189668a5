package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	challengePath = "/.well-known/acme-challenge/"

	// storageBound is how long an Apply waits for certificates that are in the
	// storage; those that come later are served later.
	storageBound = 5 * time.Second
	// renewalCheck is how often it is looked whether certificates are due.
	renewalCheck = time.Minute
	// askAgain is the time after a failure that certmagic does not try again.
	askAgain = time.Minute
)

// authority is one that certificates are asked of (RFC 8555). certmagic does the
// asking, the renewing and the storing; what handshakes look at is [served].
type authority struct {
	url, email string
	root       [sha256.Size]byte // of the certificates it must chain to
	log        *slog.Logger
	warn       func(string)
	wake       func()

	ctx    context.Context // ends with stop
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	before map[string]*tls.Certificate // of the authority before it, shown until there are others
	decoy  net.Listener
	cache  *certmagic.Cache
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer

	mu    sync.Mutex // guards what follows
	hosts map[string]*asked
}

// asked is a host that a certificate is wanted for.
type asked struct {
	ctx     context.Context // ends when the host is not wanted any more
	cancel  context.CancelFunc
	cert    *tls.Certificate // nil: not yet
	problem string           // what went wrong last, "" once it is there
}

// openAuthority returns the authority of the model: the one that is asked already,
// if it is the same.
func (s *Store) openAuthority(model *system.ACME) (*authority, error) {
	var roots *x509.CertPool
	var sum [sha256.Size]byte
	if model.Root != "" {
		c := readContent(model.Root)
		if c.err != nil {
			return nil, c.err
		}
		var err error
		if roots, err = parsePool(c.first); err != nil {
			return nil, fmt.Errorf("%s: %w", model.Root, err)
		}
		sum = c.sum
	}
	if a := s.authority; a != nil && a.url == model.Directory && a.email == model.Email && a.root == sum {
		return a, nil
	}
	if s.storage == nil {
		storage, err := s.openStorage()
		if err != nil {
			return nil, err
		}
		s.storage = storage
	}
	return s.newAuthority(model, roots, sum)
}

// openStorage opens it for the store's life.
func (s *Store) openStorage() (Storage, error) {
	if s.opts.Storage == nil {
		return openFolder(filepath.Join(s.opts.Dir, "acme"))
	}
	ctx, cancel := context.WithTimeout(s.ctx, storageBound)
	defer cancel()
	return s.opts.Storage(ctx)
}

func (s *Store) newAuthority(model *system.ACME, roots *x509.CertPool, sum [sha256.Size]byte) (*authority, error) {
	// certmagic listens for challenges itself where nobody does. The door does, or
	// what forwards to it: it is shown an address that is taken.
	decoy, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // does not wait
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	port := decoy.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
	a := &authority{
		url: model.Directory, email: model.Email, root: sum, log: s.log, warn: s.warn, decoy: decoy,
		hosts: map[string]*asked{},
		wake: func() {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		},
	}
	a.ctx, a.cancel = context.WithCancel(s.ctx)
	if s.authority != nil {
		a.before = s.authority.certificates()
	}
	log := newZap(s.log)
	checks := s.opts.renewalCheck
	if checks == 0 {
		checks = renewalCheck
	}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		RenewCheckInterval: checks,
		Logger:             log,
	})
	a.config = certmagic.New(a.cache, certmagic.Config{
		Storage: &shelf{of: s.storage}, Logger: log, OnEvent: a.onEvent, RenewalWindowRatio: s.opts.renewalRatio,
		// It would store a value of a new name before each order; a bucket never
		// forgets a name quite.
		DisableStorageCheck: true,
	})
	a.issuer = certmagic.NewACMEIssuer(a.config, certmagic.ACMEIssuer{
		CA: model.Directory, Email: model.Email, Agreed: true, TrustedRoots: roots, Logger: log,
		ListenHost: "127.0.0.1", AltHTTPPort: port, AltTLSALPNPort: port,
	})
	a.config.Issuers = []certmagic.Issuer{a.issuer}
	a.tasks.Go(a.answerDecoy)
	return a, nil
}

func (a *authority) answerDecoy() {
	for {
		c, err := a.decoy.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = c.Close() // nothing was sent
		}
	}
}

// stop ends all that goes on with the authority.
func (a *authority) stop() {
	a.cancel()
	_ = a.decoy.Close() // a second close is no fault
	a.tasks.Wait()
	a.cache.Stop()
}

// asked returns the hosts that an authority is asked for: names that no certificate
// of a file is for.
func (s *Store) asked() []string {
	files := newServed()
	for _, p := range s.pairs {
		files.add(p.value)
	}
	return slices.DeleteFunc(usable(s.tls.ACME.Hosts), func(host string) bool {
		_, err := netip.ParseAddr(host)
		return err == nil || strings.HasPrefix(host, "*.") || files.covers(host)
	})
}

// want says which hosts are to have certificates, from now on. What the storage has
// is there when it returns, if the storage answers soon.
func (a *authority) want(hosts []string) {
	a.mu.Lock()
	var gone []certmagic.SubjectIssuer
	for host, h := range a.hosts {
		if !slices.Contains(hosts, host) {
			h.cancel()
			delete(a.hosts, host)
			gone = append(gone, certmagic.SubjectIssuer{Subject: host})
		}
	}
	fresh := map[string]*asked{}
	for _, host := range hosts {
		if a.hosts[host] == nil {
			h := &asked{cert: a.before[host]}
			h.ctx, h.cancel = context.WithCancel(a.ctx) //nolint:fatcontext // one beside the other
			a.hosts[host], fresh[host] = h, h
		}
	}
	a.mu.Unlock()
	a.cache.RemoveManaged(gone)

	bounded, cancel := context.WithTimeout(a.ctx, storageBound)
	defer cancel()
	for _, host := range slices.Sorted(maps.Keys(fresh)) {
		if bounded.Err() == nil {
			// A failure is told by keep, which tries again.
			_, _ = a.config.CacheManagedCertificate(bounded, host)
		}
		a.tasks.Go(func() { a.keep(fresh[host].ctx, host) })
	}
}

// keep sees to it that a host comes to a certificate. Then the cache renews it.
func (a *authority) keep(ctx context.Context, host string) {
	for {
		cert, err := a.config.CacheManagedCertificate(ctx, host)
		if errors.Is(err, fs.ErrNotExist) {
			// It tries again and again, for a month.
			if err = a.config.ObtainCertAsync(ctx, host); err == nil {
				continue
			}
		}
		if err == nil {
			a.wake()
			if cert.NeedsRenewal(a.config) { // it ended while nobody looked
				err = a.cache.RenewManagedCertificates(ctx)
			}
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		a.trouble(host, err)
		timer := time.NewTimer(askAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// onEvent is told by certmagic what happens.
func (a *authority) onEvent(ctx context.Context, event string, data map[string]any) error {
	host, _ := data["identifier"].(string) //nolint:revive // "" is no host
	switch event {
	case "cert_obtaining":
		return ctx.Err() // no order after the end
	case "cert_failed":
		if err, ok := data["error"].(error); ok && ctx.Err() == nil {
			a.trouble(host, err)
		}
	case "cert_obtained":
		a.mu.Lock()
		if h := a.hosts[host]; h != nil {
			h.problem = ""
		}
		a.mu.Unlock()
		a.log.InfoContext(ctx, "certificate obtained", "host", host)
		a.wake()
	}
	return nil
}

// trouble tells the operator what went wrong, once for as long as it is the same.
func (a *authority) trouble(host string, err error) {
	text := fmt.Sprintf("no certificate for %s from %s: %s", host, a.url, explain(err))
	a.mu.Lock()
	h := a.hosts[host]
	known := h == nil || h.problem == text
	if !known {
		h.problem = text
		if h.cert != nil {
			text += "; the one until " + h.cert.Leaf.NotAfter.UTC().Format(time.DateTime) + " UTC goes on"
		}
	}
	a.mu.Unlock()
	if !known {
		a.warn(text + "; it is tried again")
	}
	a.log.Debug("certificate not obtained", "host", host, wire.KeyError, err)
}

// explain says what an authority says, where it said something.
func explain(err error) string {
	var problem acme.Problem
	if !errors.As(err, &problem) {
		return err.Error()
	}
	texts := []string{problem.Detail}
	for _, sub := range problem.Subproblems {
		texts = append(texts, sub.Identifier.Value+": "+sub.Detail)
	}
	return fmt.Sprintf("it refuses: %s (%s)", strings.Join(texts, "; "), strings.TrimPrefix(problem.Type, acme.ProblemTypeNamespace))
}

// refresh takes over what certmagic has and says whether anything differs.
func (a *authority) refresh() (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for host, h := range a.hosts {
		if cert := a.newest(host); cert != nil && (h.cert == nil || !h.cert.Leaf.Equal(cert.Leaf) || !slices.Equal(h.cert.OCSPStaple, cert.OCSPStaple)) {
			h.cert, h.problem, changed = cert, "", true
		}
	}
	return changed
}

func (a *authority) newest(host string) *tls.Certificate {
	var newest *tls.Certificate
	for _, c := range a.cache.AllMatchingCertificates(host) {
		if c.Leaf != nil && c.Leaf.VerifyHostname(host) == nil && (newest == nil || c.Leaf.NotAfter.After(newest.Leaf.NotAfter)) {
			newest = &c.Certificate
		}
	}
	return newest
}

// certificates returns those that are there, by host.
func (a *authority) certificates() map[string]*tls.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[string]*tls.Certificate, len(a.hosts))
	for host, h := range a.hosts {
		if h.cert != nil {
			all[host] = h.cert
		}
	}
	return all
}

func (a *authority) status() []CertificateStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []CertificateStatus
	for _, host := range slices.Sorted(maps.Keys(a.hosts)) {
		h := a.hosts[host]
		st := CertificateStatus{Names: []string{host}, Source: FromACME, Problem: h.problem}
		if h.cert != nil {
			st.NotAfter = h.cert.Leaf.NotAfter
		}
		all = append(all, st)
	}
	return all
}

// wanted says whether a host is ours. For others nothing is looked up.
func (a *authority) wanted(host string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hosts[host] != nil
}

// challenge returns the proof that a name is ours, for tls-alpn-01 (RFC 8737).
func (a *authority) challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !a.wanted(strings.ToLower(hello.ServerName)) {
		return nil, nil //nolint:nilnil // the alert unrecognized_name
	}
	return a.config.GetCertificate(hello)
}

// answer gives the proof that a name is ours, for http-01 (RFC 8555, 8.3).
func (a *authority) answer(w http.ResponseWriter, r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return a.wanted(strings.ToLower(host)) && a.issuer.HandleHTTPChallenge(w, r)
}
