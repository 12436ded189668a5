package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	// ChallengeProtocol is what a connection has agreed on (ALPN) when an authority
	// only looks whether a name is ours (RFC 8737). Such a connection is to be closed
	// after the handshake.
	ChallengeProtocol = "acme-tls/1"

	localhost = "localhost"

	// glance is how often files and the ends of certificates are looked at.
	glance = 2 * time.Second
)

// Options are what a store is made with.
type Options struct {
	// Dir is a private folder, made if it is not there: for the internal authority
	// and, without Storage, for what an authority gave.
	Dir string
	// Storage is asked for once, when an authority is first needed; nil: files in Dir.
	Storage func(context.Context) (Storage, error)
	Logger  *slog.Logger // nil: logs nothing
	// Warn is told what the operator should know: certificates that end soon, files
	// that cannot be used, refusals of an authority. It must not block. nil: nobody.
	Warn func(text string)
	// Made is told of the internal authority's certificate when one is made: browsers
	// have to trust it. It must not block. nil: nobody.
	Made func(file string)

	now func() time.Time // nil: time.Now
	// timing of the client of authorities, zero: as certmagic has it.
	renewalRatio float64
	renewalCheck time.Duration
}

// Source says where a certificate comes from.
type Source string

// The sources, in the order in which they are preferred.
const (
	FromFile     Source = "file"
	FromACME     Source = "acme"
	FromInternal Source = "internal"
)

// CertificateStatus tells of one certificate, or of one that is missing.
type CertificateStatus struct {
	Names    []string // names and addresses
	Source   Source
	File     string    // of the certificate, for FromFile
	NotAfter time.Time // zero: there is none yet
	Problem  string    // why a newer one is not used or cannot be had, "" if all is well
}

// Store holds the certificates of one door. Make it with [Open]; all methods are
// safe for concurrent use.
type Store struct {
	opts Options
	log  *slog.Logger

	served atomic.Pointer[served]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	wake   chan struct{} // holds one token: there may be something new

	applying sync.Mutex // one Apply or glance at a time; held by all that write below

	mu        sync.Mutex // guards what follows for those that only read
	tls       *system.TLS
	hosts     []string // sorted lower-case names, wildcards and addresses of the routes
	pairs     []*pair
	client    *trust
	authority *authority // nil: none is asked
	root      *root
	leafs     map[string]*tls.Certificate // of the internal authority, by host
	expiry    expiry
	stale     bool    // what is served is not what is here
	storage   Storage // nil: not needed yet
}

// Open makes a store and begins to look after it, until Close. It serves nothing
// before the first [Store.Apply].
func Open(opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Warn == nil {
		opts.Warn = func(string) {}
	}
	if opts.Made == nil {
		opts.Made = func(string) {}
	}
	if opts.now == nil {
		opts.now = time.Now
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open certificates: %w", err)
	}
	s := &Store{opts: opts, log: opts.Logger, wake: make(chan struct{}, 1), tls: &system.TLS{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.served.Store(newServed())
	s.tasks.Go(s.run)
	return s, nil
}

// Close ends what goes on in the background. What is served stays as it is.
func (s *Store) Close() error {
	s.cancel()
	s.tasks.Wait()
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.authority != nil {
		s.authority.stop()
	}
	return nil
}

// run looks after everything that changes by itself.
func (s *Store) run() {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
		s.applying.Lock()
		s.glance()
		s.applying.Unlock()
	}
}

// Apply serves what the model says from now on. hosts are the names of the routes,
// for which the authorities are asked if the model names no others. A nil model
// serves nothing.
//
// If something of the model cannot be read, nothing changes and the error says all
// that is wrong. Files that are served already are no reason for an error: what was
// read of them last goes on. Certificates of an authority are asked for in the
// background; those that are in the storage are served when Apply returns.
func (s *Store) Apply(model *system.TLS, hosts []string) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.ctx.Err() != nil {
		return errors.New("apply certificates: closed")
	}
	hosts = usable(hosts)
	if model == nil {
		model = &system.TLS{}
	}
	next, err := s.prepare(model, hosts)
	if err != nil {
		return fmt.Errorf("apply certificates: %w", err)
	}
	before := s.authority
	s.mu.Lock()
	s.tls, s.hosts, s.stale = model, hosts, true
	s.pairs, s.client, s.authority, s.root, s.leafs = next.pairs, next.client, next.authority, next.root, next.leafs
	s.mu.Unlock()
	if before != nil && before != next.authority {
		before.stop()
	}
	s.glance()
	return nil
}

// parts are what an Apply replaces.
type parts struct {
	pairs     []*pair
	client    *trust
	root      *root
	leafs     map[string]*tls.Certificate
	authority *authority
}

// prepare opens everything that the model names. Nothing that is served is touched.
func (s *Store) prepare(model *system.TLS, hosts []string) (parts, error) {
	var p parts
	var errs []error
	for _, c := range model.Certificates {
		known := slices.IndexFunc(s.pairs, func(p *pair) bool { return p.paths[0] == c.Certificate && p.paths[1] == c.Key })
		if known >= 0 {
			p.pairs = append(p.pairs, s.pairs[known])
			continue
		}
		fresh := newPair(c)
		if _, err := fresh.take(fresh.read()); err != nil {
			errs = append(errs, err)
		}
		p.pairs = append(p.pairs, fresh)
	}
	if c := model.Client; c != nil {
		p.client = s.client
		if p.client == nil || p.client.paths[0] != c.CA {
			p.client = newPool(c.CA)
			if _, err := p.client.take(p.client.read()); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if model.ACME != nil {
		a, err := s.openAuthority(model.ACME)
		if err != nil {
			errs = append(errs, err)
		}
		p.authority = a
	}
	if model.Internal != nil && len(errs) == 0 { // it may write files
		p.leafs = map[string]*tls.Certificate{}
		r, made, err := openRoot(s.opts.Dir, slices.Concat(hosts, usable(model.Internal.Hosts)), s.opts.now())
		if err != nil {
			errs = append(errs, err)
		}
		p.root = r
		if s.root != nil && r != nil && s.root.cert.Equal(r.cert) {
			p.leafs = s.leafs
		}
		if made {
			s.log.Info("internal authority made", "file", r.path)
			s.opts.Made(r.path)
		}
	}
	if err := errors.Join(errs...); err != nil {
		if p.authority != nil && p.authority != s.authority {
			p.authority.stop()
		}
		return parts{}, err
	}
	return p, nil
}

// usable returns the hosts that certificates can be made for, in one spelling, each
// once.
func usable(hosts []string) []string {
	var all []string
	for _, host := range hosts {
		host = strings.TrimSuffix(strings.ToLower(host), ".")
		if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			all = append(all, addr.Unmap().String())
		} else if isName(strings.TrimPrefix(host, "*.")) {
			all = append(all, host)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// isName says whether something may be a name in the DNS (RFC 1035, 2.3.4).
func isName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// glance looks at everything that changes by itself, and swaps what is served if
// something has. s.applying is held.
func (s *Store) glance() {
	// Files are read without s.mu: they may be far away.
	found := make([]content, len(s.pairs))
	for i, p := range s.pairs {
		found[i] = p.read()
	}
	var ofClients content
	if s.client != nil {
		ofClients = s.client.read()
	}
	s.mu.Lock()
	var warnings []string
	for i, p := range s.pairs {
		warnings = append(warnings, s.taken(p.take(found[i]))...)
	}
	if s.client != nil {
		warnings = append(warnings, s.taken(s.client.take(ofClients))...)
	}
	s.mu.Unlock()
	if s.authority != nil && s.stale {
		s.authority.want(s.asked()) // may wait for the storage
	}
	s.mu.Lock()
	warnings = append(warnings, s.renew()...)
	if s.authority != nil && s.authority.refresh() {
		s.stale = true
	}
	if s.stale {
		s.serve()
	}
	warnings = append(warnings, s.endings()...)
	s.mu.Unlock()
	for _, text := range warnings {
		s.warn(text)
	}
}

// taken tells what came of files that were looked at.
func (s *Store) taken(changed bool, err error) (warnings []string) {
	if err != nil {
		return []string{err.Error() + "; the one before it goes on"}
	}
	if changed {
		s.stale = true
		s.log.Info("certificate swapped")
	}
	return nil
}

func (s *Store) warn(text string) {
	s.log.Warn("certificate in trouble", wire.KeyReason, text)
	s.opts.Warn(text)
}

// renew makes the certificates of the internal authority that are missing or due.
// s.mu is held.
func (s *Store) renew() (warnings []string) {
	if s.root == nil {
		return nil
	}
	wanted := slices.Concat([]string{localhost}, s.hosts, usable(s.tls.Internal.Hosts))
	leafs := make(map[string]*tls.Certificate, len(wanted))
	now := s.opts.now()
	for _, host := range wanted {
		leafs[host] = s.leafs[host]
		if leafs[host] != nil && !due(leafs[host].Leaf, now) {
			continue
		}
		leaf, err := s.root.issue(host, now)
		if err != nil {
			warnings = append(warnings, err.Error())
			continue
		}
		leafs[host], s.stale = leaf, true
	}
	s.leafs = leafs
	return warnings
}

// serve builds what is served and swaps it. s.mu is held.
func (s *Store) serve() {
	next := newServed()
	next.minVersion = s.tls.MinVersion
	for _, p := range s.pairs {
		next.add(p.value)
		if next.unknown == nil {
			next.unknown = []*tls.Certificate{p.value}
		}
	}
	if a := s.authority; a != nil {
		next.challenges = a
		addMissing(next, a.certificates())
	}
	addMissing(next, s.leafs)
	if c := s.tls.Client; c != nil {
		next.clientCAs = s.client.value
		next.clientAuth = tls.VerifyClientCertIfGiven
		if c.Required {
			next.clientAuth = tls.RequireAndVerifyClientCert
		}
	}
	s.stale = false
	s.served.Store(next)
}

// addMissing adds the certificates for hosts that there is none for yet.
func addMissing(to *served, certs map[string]*tls.Certificate) {
	var missing []*tls.Certificate
	for _, host := range slices.Sorted(maps.Keys(certs)) {
		if cert := certs[host]; cert != nil && !to.covers(host) {
			missing = append(missing, cert)
		}
	}
	for _, cert := range missing {
		to.add(cert)
	}
}

// endings returns the warnings about certificates that end soon. Those of the
// internal authority are made anew in time. s.mu is held.
func (s *Store) endings() (warnings []string) {
	var leafs []*x509.Certificate
	note := func(leaf *x509.Certificate, what string) {
		leafs = append(leafs, leaf)
		if text := s.expiry.check(leaf, s.opts.now()); text != "" {
			warnings = append(warnings, "the certificate "+what+" "+text)
		}
	}
	for _, p := range s.pairs {
		note(p.value.Leaf, p.paths[0])
	}
	if s.authority != nil {
		for host, cert := range s.authority.certificates() {
			note(cert.Leaf, "for "+host)
		}
	}
	s.expiry.keep(leafs)
	return warnings
}

// Config returns how a listener makes TLS connections. alpn are the protocols that
// it speaks on them, the preferred first. Call it once for each listener and keep it
// for as long as that listens: what is applied later is used by the next handshake,
// and sessions begun before it can be resumed.
func (s *Store) Config(alpn ...string) *tls.Config {
	var last atomic.Pointer[view]
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: alpn,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			now := s.served.Load()
			if now.challenges != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ChallengeProtocol {
				return now.challengeConfig(), nil
			}
			v := last.Load()
			if v == nil || v.of != now {
				v = &view{of: now, config: now.config(alpn)}
				last.Store(v)
			}
			return v.config, nil
		},
	}
}

// view is how one listener serves.
type view struct {
	of     *served
	config *tls.Config
}

// ChallengeHandler answers an authority that looks whether a name is ours by plain
// HTTP (RFC 8555, 8.3), and leaves all other requests to next.
func (s *Store) ChallengeHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, challengePath) {
			if c := s.served.Load().challenges; c != nil && c.answer(w, r) {
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Root returns the path of the internal authority's certificate, which browsers have
// to trust; "" if there is none.
func (s *Store) Root() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root == nil {
		return ""
	}
	return s.root.path
}

// Status returns all certificates, those of files first.
func (s *Store) Status() []CertificateStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []CertificateStatus
	for _, p := range s.pairs {
		all = append(all, CertificateStatus{
			Names: spelled(p.value.Leaf), Source: FromFile, File: p.paths[0], NotAfter: p.value.Leaf.NotAfter, Problem: p.problem,
		})
	}
	if s.authority != nil {
		all = append(all, s.authority.status()...)
	}
	for _, host := range slices.Sorted(maps.Keys(s.leafs)) {
		if leaf := s.leafs[host]; leaf != nil {
			all = append(all, CertificateStatus{Names: spelled(leaf.Leaf), Source: FromInternal, NotAfter: leaf.Leaf.NotAfter})
		}
	}
	return all
}

func spelled(leaf *x509.Certificate) []string {
	names, addrs := namesOf(leaf)
	for _, addr := range addrs {
		names = append(names, addr.String())
	}
	return names
}
