package certs

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/system"
)

func shown(tb testing.TB, address, name string, roots *x509.CertPool) *x509.Certificate {
	tb.Helper()
	state, err := dial(address, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return state.PeerCertificates[0]
}

func TestFilesAreSwappedWithoutRestart(t *testing.T) {
	authority := newCA(t, "test")
	replace := map[string]func(t *testing.T, pair system.Certificate, certificate, key []byte){
		"written in place": func(t *testing.T, pair system.Certificate, certificate, key []byte) {
			t.Helper()
			write(t, pair.Certificate, certificate)
			write(t, pair.Key, key)
		},
		"renamed over": func(t *testing.T, pair system.Certificate, certificate, key []byte) {
			t.Helper()
			write(t, pair.Certificate+".new", certificate)
			write(t, pair.Key+".new", key)
			check(t, os.Rename(pair.Key+".new", pair.Key))
			check(t, os.Rename(pair.Certificate+".new", pair.Certificate))
		},
	}
	for name, replace := range replace {
		t.Run(name, func(t *testing.T) {
			pair := authority.files(t, order{names: []string{"a.example"}})
			s := open(t, Options{})
			check(t, s.Apply(&system.TLS{Certificates: []system.Certificate{pair}}, nil))
			address := serve(t, s.Config("h2"))
			first := shown(t, address, "a.example", authority.pool)
			certificate, key := authority.issue(t, order{names: []string{"a.example"}})
			replace(t, pair, certificate, key)
			look(s)
			if second := shown(t, address, "a.example", authority.pool); second.Equal(first) {
				t.Error("the old certificate is still shown")
			}
		})
	}
}

// certbot keeps live/NAME/*.pem as links into archive/NAME and swaps the links.
func TestLinksAreFollowedAnew(t *testing.T) {
	authority := newCA(t, "test")
	old, next := authority.files(t, order{names: []string{"a.example"}}), authority.files(t, order{names: []string{"a.example"}})
	live := t.TempDir()
	pair := system.Certificate{Certificate: filepath.Join(live, "fullchain.pem"), Key: filepath.Join(live, "privkey.pem")}
	link := func(to system.Certificate) {
		for link, target := range map[string]string{pair.Certificate: to.Certificate, pair.Key: to.Key} {
			_ = os.Remove(link)
			check(t, os.Symlink(target, link))
		}
	}
	link(old)
	s := open(t, Options{})
	check(t, s.Apply(&system.TLS{Certificates: []system.Certificate{pair}}, nil))
	address := serve(t, s.Config())
	first := shown(t, address, "a.example", authority.pool)
	link(next)
	look(s)
	if shown(t, address, "a.example", authority.pool).Equal(first) {
		t.Error("the old certificate is still shown")
	}
}

func TestCertificateBeforeItsKeyKeepsTheOldPair(t *testing.T) {
	authority := newCA(t, "test")
	pair := authority.files(t, order{names: []string{"a.example"}})
	var w told
	s := open(t, Options{Warn: w.warn})
	model := &system.TLS{Certificates: []system.Certificate{pair}}
	check(t, s.Apply(model, nil))
	address := serve(t, s.Config())
	first := shown(t, address, "a.example", authority.pool)

	certificate, key := authority.issue(t, order{names: []string{"a.example"}})
	write(t, pair.Certificate, certificate)
	look(s)
	look(s)
	if texts := w.take(); len(texts) != 1 || !strings.Contains(texts[0], "private key does not match") || !strings.Contains(texts[0], pair.Certificate) {
		t.Errorf("told %q, want the mismatch once", texts)
	}
	if !shown(t, address, "a.example", authority.pool).Equal(first) {
		t.Error("the old certificate is gone")
	}
	if st := s.Status(); st[0].Problem == "" {
		t.Error("the status shows no problem")
	}
	check(t, s.Apply(model, []string{"other.example"})) // a change of something else
	check(t, os.Remove(pair.Key))
	look(s)
	w.take()

	write(t, pair.Key, key)
	look(s)
	if shown(t, address, "a.example", authority.pool).Equal(first) {
		t.Error("the new certificate is not shown")
	}
	if st := s.Status(); st[0].Problem != "" || len(w.take()) != 0 {
		t.Errorf("the problem is not over: %v", st)
	}
}

func TestUnreadablePairChangesNothing(t *testing.T) {
	authority := newCA(t, "test")
	good, other := authority.files(t, order{names: []string{"a.example"}}), authority.files(t, order{names: []string{"b.example"}})
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	write(t, garbage, []byte("no certificate"))
	huge := filepath.Join(t.TempDir(), "huge.pem")
	write(t, huge, make([]byte, maxFile+1))
	pipe := filepath.Join(t.TempDir(), "pipe.pem")
	check(t, syscall.Mkfifo(pipe, 0o600))
	s := open(t, Options{})
	check(t, s.Apply(&system.TLS{Certificates: []system.Certificate{good}}, nil))
	address := serve(t, s.Config())
	for name, bad := range map[string]system.TLS{
		"missing":        {Certificates: []system.Certificate{other, {Certificate: "/nonexistent/c.pem", Key: other.Key}}},
		"of another key": {Certificates: []system.Certificate{{Certificate: other.Certificate, Key: good.Key}}},
		"garbage":        {Certificates: []system.Certificate{{Certificate: garbage, Key: other.Key}}},
		"huge":           {Certificates: []system.Certificate{{Certificate: huge, Key: other.Key}}},
		"a pipe":         {Certificates: []system.Certificate{{Certificate: pipe, Key: other.Key}}},
		"a folder":       {Certificates: []system.Certificate{{Certificate: t.TempDir(), Key: other.Key}}},
		"no client CA":   {Certificates: []system.Certificate{other}, Client: &system.ClientCertificates{CA: garbage}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Apply(&bad, nil); err == nil {
				t.Error("no error")
			}
			shown(t, address, "a.example", authority.pool)
			if st := s.Status(); len(st) != 1 || !slices.Equal(st[0].Names, []string{"a.example"}) {
				t.Errorf("status %v", st)
			}
		})
	}
}

func TestPipeInPlaceOfACertificateHoldsNothingUp(t *testing.T) {
	authority := newCA(t, "test")
	pair := authority.files(t, order{names: []string{"a.example"}})
	s := open(t, Options{})
	check(t, s.Apply(&system.TLS{Certificates: []system.Certificate{pair}}, nil))
	address := serve(t, s.Config())
	check(t, os.Remove(pair.Certificate))
	check(t, syscall.Mkfifo(pair.Certificate, 0o600))
	look(s) // must not wait for somebody who writes
	shown(t, address, "a.example", authority.pool)
	check(t, s.Close())
}

func TestEndsAreWarnedAboutOnceEach(t *testing.T) {
	authority := newCA(t, "test")
	start := time.Now()
	pair := authority.files(t, order{names: []string{"a.example"}, to: start.Add(90 * day)})
	var w told
	now := start
	s := open(t, Options{Warn: w.warn, now: func() time.Time { return now }})
	check(t, s.Apply(&system.TLS{Certificates: []system.Certificate{pair}}, nil))
	var got []string
	for ; now.Before(start.Add(92 * day)); now = now.Add(6 * time.Hour) {
		look(s)
		for _, text := range w.take() {
			_, text, _ = strings.Cut(text, "cert.pem ")
			text, _, _ = strings.Cut(text, ",")
			text, _, _ = strings.Cut(text, " on ")
			got = append(got, text)
		}
	}
	want := []string{"expires in 30 days", "expires in 14 days", "expires in 7 days", "expires in 3 days", "expires in 1 day", "has expired"}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("told %q, want %q", got, want)
		}
	}
	if len(got) != len(want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestShortLivesAreNotWarnedAboutFromTheirBeginning(t *testing.T) {
	start := time.Now()
	var e expiry
	leaf := &x509.Certificate{Raw: []byte("a"), NotBefore: start, NotAfter: start.Add(day)}
	if text := e.check(leaf, start.Add(time.Hour)); text != "" {
		t.Errorf("told %q", text)
	}
	if text := e.check(leaf, start.Add(25*time.Hour)); !strings.HasPrefix(text, "has expired") {
		t.Errorf("told %q", text)
	}
}

func TestInternalAuthority(t *testing.T) {
	dir := t.TempDir()
	var w told
	now := time.Now()
	opts := Options{Dir: dir, Warn: w.warn, Made: w.warn, now: func() time.Time { return now }}
	s := open(t, opts)
	model := &system.TLS{Internal: &system.InternalCA{Hosts: []string{"shop.dev.example"}}}
	check(t, s.Apply(model, []string{"api.dev.example", "*.apps.dev.example", ""}))
	if texts := w.take(); len(texts) != 1 || !strings.Contains(texts[0], s.Root()) {
		t.Errorf("told %q, want the root's path", texts)
	}
	if info, err := os.Stat(filepath.Join(dir, "root.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
	root, err := os.ReadFile(s.Root())
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	address := serve(t, s.Config("h2", "http/1.1"))
	first := shown(t, address, "api.dev.example", roots)
	for _, name := range []string{"localhost", "127.0.0.1", "shop.dev.example", "x.apps.dev.example", "API.dev.example"} {
		if leaf := shown(t, address, name, roots); leaf.NotAfter.Sub(now) > leafLife {
			t.Errorf("%s lives until %s", name, leaf.NotAfter)
		}
	}
	for _, name := range []string{"evil.example", "x.y.apps.dev.example", "xapi.dev.example"} {
		if _, err := dial(address, &tls.Config{ServerName: name, RootCAs: roots}); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	now = now.Add(leafLife * 2 / 3)
	look(s)
	state, err := dial(address, &tls.Config{ServerName: "api.dev.example", RootCAs: roots, Time: func() time.Time { return now }})
	check(t, err)
	if state.PeerCertificates[0].Equal(first) {
		t.Error("not renewed after two thirds of its life")
	}

	now = time.Now()
	again := open(t, opts)
	check(t, again.Apply(model, []string{"web.dev.example"}))
	shown(t, serve(t, again.Config()), "web.dev.example", roots)
	if texts := w.take(); len(texts) != 0 {
		t.Errorf("told %q: the root is to be kept", texts)
	}
}

// The new root would be on the disk, and the old one serve.
func TestRefusedModelKeepsTheRoot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	check(t, s.Apply(&system.TLS{Internal: &system.InternalCA{}}, []string{"a.example"}))
	before, err := os.ReadFile(s.Root())
	check(t, err)
	bad := &system.TLS{Internal: &system.InternalCA{}, Certificates: []system.Certificate{{Certificate: "/nonexistent/c.pem", Key: "/nonexistent/k.pem"}}}
	if err := s.Apply(bad, []string{"stranger.test"}); err == nil {
		t.Fatal("no error")
	}
	if after, err := os.ReadFile(s.Root()); err != nil || string(after) != string(before) {
		t.Errorf("the root was replaced, %v", err)
	}
}

func TestRootVouchesForItsDomainsOnly(t *testing.T) {
	dir := t.TempDir()
	r, made, err := openRoot(dir, []string{"shop.dev.example", "10.1.2.3"}, time.Now())
	check(t, err)
	if !made {
		t.Error("not made")
	}
	roots := x509.NewCertPool()
	roots.AddCert(r.cert)
	for name, want := range map[string]bool{
		"shop.dev.example": true, "api.dev.example": true, "localhost": true, "10.1.2.3": true,
		"bank.example": false, "10.1.2.4": false, "example": false,
	} {
		leaf, err := r.issue(name, time.Now())
		check(t, err)
		_, err = leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
		if (err == nil) != want {
			t.Errorf("%s: %v, want accepted: %v", name, err, want)
		}
	}
	if _, made, err := openRoot(dir, []string{"other.dev.example"}, time.Now()); err != nil || made {
		t.Errorf("a neighbour: made %v, %v", made, err)
	}
	if _, made, err := openRoot(dir, []string{"bank.example"}, time.Now()); err != nil || !made {
		t.Errorf("a stranger: made %v, %v", made, err)
	}
	write(t, filepath.Join(dir, rootKey), []byte("broken"))
	if _, _, err := openRoot(dir, nil, time.Now()); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a broken root: %v", err)
	}
}
