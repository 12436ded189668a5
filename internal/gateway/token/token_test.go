package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"fairlead/internal/gateway/token/tokentest"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

func newJWT(tb testing.TB, cfg system.JWT, i *tokentest.Issuer) *Authenticator {
	tb.Helper()
	return New(&cfg, i.Ask, slog.New(slog.DiscardHandler), nil)
}

func TestAuthTokens(t *testing.T) {
	priv, key := tokentest.Key(t, "k1")
	other, _ := tokentest.Key(t, "k1")
	_, second := tokentest.Key(t, "k2")
	now := time.Now()
	good := tokentest.Claims(now)
	head := map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}
	pub := key.Key.(ed25519.PublicKey) //nolint:forcetypeassert // made above
	mac := func(in []byte) []byte {
		h := hmac.New(sha256.New, pub)
		h.Write(in)
		return h.Sum(nil)
	}
	sign := tokentest.Ed(priv)

	tests := []struct {
		name         string
		head, claims map[string]any
		sign         func([]byte) []byte
		want         error
	}{
		{"good", head, good, sign, nil},
		{"type JWT", tokentest.With(head, "typ", "JWT"), good, sign, nil},
		{"type with prefix", tokentest.With(head, "typ", "application/at+jwt"), good, sign, nil},
		{"no type", tokentest.With(head, "typ", nil), good, sign, nil},
		{"audience in a list", head, tokentest.With(good, "aud", []string{"x", "commerce"}), sign, nil},
		{"expired within the leeway", head, tokentest.With(good, "exp", now.Add(-20*time.Second).Unix()), sign, nil},
		{"ahead within the leeway", head, tokentest.With(good, "nbf", now.Add(20*time.Second).Unix()), sign, nil},

		{"alg none", map[string]any{"alg": "none"}, good, func([]byte) []byte { return []byte("x") }, errForm},
		{"alg None", map[string]any{"alg": "nOnE", "kid": "k1"}, good, sign, errForm},
		{"HS256 with the public key", tokentest.With(head, "alg", "HS256"), good, mac, errForm},
		{"another asymmetric alg", tokentest.With(head, "alg", "ES256"), good, sign, errForm},
		{"refresh by type", tokentest.With(head, "typ", "rt+jwt"), good, sign, errKind},
		{"type that is no string", tokentest.With(head, "typ", 7), good, sign, errKind},
		{"refresh by token_use", head, tokentest.With(good, "token_use", "refresh"), sign, errKind},
		{"refresh by typ claim", head, tokentest.With(good, "typ", "Refresh"), sign, errKind},
		{"refresh by use", head, tokentest.With(good, "use", "refresh_token"), sign, errKind},
		{"critical extension", tokentest.With(head, "crit", []string{"b64"}, "b64", false), good, sign, errForm},
		{"another key", head, good, tokentest.Ed(other), errSignature},
		{"unknown kid", tokentest.With(head, "kid", "k9"), good, sign, errKey},
		{"kid of another key", tokentest.With(head, "kid", "k2"), good, sign, errSignature},
		{"no kid, several keys", tokentest.With(head, "kid", nil), good, sign, errKey},
		{"embedded key", tokentest.With(head, "kid", nil, "jwk", key), good, sign, errKey},
		{"another issuer", head, tokentest.With(good, "iss", "evil"), sign, errIssuer},
		{"no issuer", head, tokentest.With(good, "iss", nil), sign, errIssuer},
		{"another audience", head, tokentest.With(good, "aud", "evil"), sign, errAudience},
		{"no audience", head, tokentest.With(good, "aud", nil), sign, errAudience},
		{"expired", head, tokentest.With(good, "exp", now.Add(-time.Minute).Unix()), sign, errExpired},
		{"no expiry", head, tokentest.With(good, "exp", nil), sign, errEndless},
		{"expiry that is no number", head, tokentest.With(good, "exp", "soon"), sign, errClaims},
		{"not yet valid", head, tokentest.With(good, "nbf", now.Add(time.Minute).Unix()), sign, errEarly},
		{"issued in the future", head, tokentest.With(good, "iat", now.Add(time.Minute).Unix()), sign, errEarly},
		{"no subject", head, tokentest.With(good, "sub", nil), sign, errAnonymous},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := tokentest.NewIssuer(t, key, second)
			a := newJWT(t, tokentest.Config, i)
			token := tokentest.Sign(t, tt.head, tt.claims, tt.sign)
			for range 2 { // the second time what was remembered answers
				u, err := a.Authenticate(t.Context(), tokentest.Request(token))
				if !errors.Is(err, tt.want) {
					t.Fatalf("authenticate: %v, want %v", err, tt.want)
				}
				if (u != nil) != (tt.want == nil) {
					t.Fatalf("user is %v", u)
				}
				if err != nil && strings.Contains(err.Error(), token[:20]) {
					t.Fatal("the error holds the token")
				}
			}
		})
	}
}

func TestAuthTamperedTokenIsRefused(t *testing.T) {
	priv, key := tokentest.Key(t, "k1")
	i := tokentest.NewIssuer(t, key)
	a := newJWT(t, tokentest.Config, i)
	token := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "k1"}, tokentest.Claims(time.Now()), tokentest.Ed(priv))
	u, err := a.Authenticate(t.Context(), tokentest.Request(token))
	if err != nil {
		t.Fatal(err)
	}
	if u.Subject != "u1" || !slices.Equal(u.Roles, []string{"analyst"}) || u.Claims["name"] != "Ada" || u.Claims["iss"] != nil {
		t.Fatalf("user is %+v", u)
	}
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	forged := strings.Replace(string(payload), "analyst", "adminis", 1)
	_, err = a.Authenticate(t.Context(), tokentest.Request(parts[0]+"."+base64.RawURLEncoding.EncodeToString([]byte(forged))+"."+parts[2]))
	if !errors.Is(err, errSignature) {
		t.Fatalf("forged claims: %v", err)
	}
}

func TestAuthHeader(t *testing.T) {
	jws := "aaa.bbb.ccc"
	tests := []struct {
		name   string
		values []string
		want   string
		err    error
	}{
		{"none", nil, "", nil},
		{"bearer", []string{"Bearer " + jws}, jws, nil},
		{"scheme in capitals", []string{"BEARER  " + jws + " "}, jws, nil},
		{"another scheme", []string{"Basic dTpw"}, "", nil},
		{"two headers", []string{"Bearer " + jws, "Bearer " + jws}, "", ErrTwice},
		{"empty", []string{"Bearer "}, "", errForm},
		{"scheme alone", []string{"Bearer"}, "", errForm},
		{"two parts", []string{"Bearer aaa.bbb"}, "", errForm},
		{"four parts", []string{"Bearer aaa.bbb.ccc.ddd"}, "", errForm},
		{"unsigned", []string{"Bearer aaa.bbb."}, "", errForm},
		{"two tokens", []string{"Bearer aaa.bbb.ccc, aaa.bbb.ccc"}, "", errForm},
		{"padding", []string{"Bearer aaa=.bbb.ccc"}, "", errForm},
		{"too long", []string{"Bearer " + strings.Repeat("a", tokenBytes) + ".b.c"}, "", errLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := bearer(http.Header{"Authorization": tt.values})
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Fatalf("bearer is %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestAuthAlgorithmFitsTheKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := tokentest.Config
	cfg.Algorithms = []string{"RS256", "ES256", "PS256", "HS256", "none", "EdDSA"}
	i := tokentest.NewIssuer(t)
	i.Publish(
		jose.JSONWebKey{Key: &rsaKey.PublicKey, KeyID: "r", Algorithm: "RS256"},
		jose.JSONWebKey{Key: &ec.PublicKey, KeyID: "e"},
	)
	a := newJWT(t, cfg, i)
	if slices.Contains(a.algorithms, "HS256") || slices.Contains(a.algorithms, "none") {
		t.Fatalf("accepts %v", a.algorithms)
	}
	sign := func(alg jose.SignatureAlgorithm, key any, kid string) string {
		t.Helper()
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(tokentest.Claims(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		o, err := s.Sign(b)
		if err != nil {
			t.Fatal(err)
		}
		c, err := o.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	tests := []struct {
		name  string
		token string
		want  error
	}{
		{"RS256", sign(jose.RS256, rsaKey, "r"), nil},
		{"ES256", sign(jose.ES256, ec, "e"), nil},
		{"PS256 with a key for RS256", sign(jose.PS256, rsaKey, "r"), errKey},
		{"RS256 with the name of an EC key", sign(jose.RS256, rsaKey, "e"), errKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := a.Authenticate(t.Context(), tokentest.Request(tt.token)); !errors.Is(err, tt.want) {
				t.Fatalf("authenticate: %v, want %v", err, tt.want)
			}
		})
	}
}

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func newClock(c0 time.Time) *clock {
	c := &clock{}
	c.at.Store(c0.UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func TestAuthKeysRotate(t *testing.T) {
	oldPriv, oldKey := tokentest.Key(t, "old")
	newPriv, newKey := tokentest.Key(t, "new")
	c := newClock(time.Now())
	i := tokentest.NewIssuer(t, oldKey)
	a := newJWT(t, tokentest.Config, i)
	a.now, a.keys.now = c.now, c.now

	claims := tokentest.Claims(c.now().Add(-time.Second))
	claims["exp"] = c.now().Add(24 * time.Hour).Unix()
	oldToken := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "old"}, claims, tokentest.Ed(oldPriv))
	newToken := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "new"}, claims, tokentest.Ed(newPriv))
	check := func(what, token string, want error) {
		t.Helper()
		if _, err := a.Authenticate(t.Context(), tokentest.Request(token)); !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", what, err, want)
		}
	}
	check("old key", oldToken, nil)
	check("new key not published", newToken, errKey)
	if n := i.Asked(); n != 1 {
		t.Fatalf("asked %d times within a second", n)
	}
	i.Publish(newKey, oldKey)
	c.advance(2 * keysPause)
	check("new key published", newToken, nil)
	check("old key still published", oldToken, nil)
	if n := i.Asked(); n != 2 {
		t.Fatalf("asked %d times", n)
	}
	i.Publish(newKey)
	c.advance(2 * keysFresh)
	check("old key until the set was fetched", oldToken, nil)
	await.Until(t, "the fetched set to count", func() bool {
		_, err := a.Authenticate(t.Context(), tokentest.Request(oldToken))
		return errors.Is(err, errKey)
	})
	check("new key alone", newToken, nil)

	i.Leave(true)
	c.advance(30 * time.Minute)
	check("source away", newToken, nil)
	c.advance(keysStale)
	check("source away for too long", newToken, ErrUnavailable)
	i.Leave(false)
	c.advance(2 * keysPause)
	check("source back", newToken, nil)
}

func TestAuthUnknownKidsAreFetchedOncePerSecond(t *testing.T) {
	priv, key := tokentest.Key(t, "k1")
	i := tokentest.NewIssuer(t, key)
	a := newJWT(t, tokentest.Config, i)
	c := newClock(time.Now())
	a.keys.now = c.now
	token := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "k2"}, tokentest.Claims(time.Now()), tokentest.Ed(priv))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := a.Authenticate(context.Background(), tokentest.Request(token)); !errors.Is(err, errKey) {
				t.Errorf("authenticate: %v", err)
			}
		})
	}
	wg.Wait()
	if n := i.Asked(); n != 1 {
		t.Fatalf("asked %d times", n)
	}
}

func TestAuthReloadKeepsWhatIsKnown(t *testing.T) {
	i := tokentest.NewIssuer(t)
	log := slog.New(slog.DiscardHandler)
	first := New(&tokentest.Config, i.Ask, log, nil)
	same := tokentest.Config
	same.RolesClaim = ""
	if second := New(&same, i.Ask, log, first); second != first {
		t.Fatal("the same settings made another authenticator")
	}
	other := tokentest.Config
	other.Audience = "x"
	if second := New(&other, i.Ask, log, first); second == first || second.keys != first.keys || second.verified == first.verified {
		t.Fatal("another audience must share the keys and not the verified tokens")
	}
	if New(nil, i.Ask, log, first) != nil {
		t.Fatal("no settings made an authenticator")
	}
}

func TestAuthRoles(t *testing.T) {
	claims := map[string]any{
		"roles": []any{"a", 7, "", "b"}, "scope": "a  b",
		"realm_access": map[string]any{"roles": []any{"c"}}, "x.y": []any{"d"},
	}
	tests := []struct {
		claim string
		want  []string
	}{
		{"roles", []string{"a", "b"}},
		{"scope", []string{"a", "b"}},
		{"realm_access.roles", []string{"c"}},
		{"x.y", []string{"d"}},
		{"missing", nil},
		{"scope.roles", nil},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			if got := rolesOf(claims, tt.claim); !slices.Equal(got, tt.want) {
				t.Fatalf("roles are %q, want %q", got, tt.want)
			}
		})
	}
}

func TestKeysParse(t *testing.T) {
	priv, key := tokentest.Key(t, "k1")
	small, err := rsa.GenerateKey(rand.Reader, 1024) // the shortest that there is, to be refused
	if err != nil {
		t.Fatal(err)
	}
	list := func(keys ...jose.JSONWebKey) string {
		b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	one := list(key)
	tests := []struct {
		name string
		in   string
		want int // -1: error
	}{
		{"one", one, 1},
		{"twice the same id", list(key, key), 1},
		{"for encryption", list(jose.JSONWebKey{Key: key.Key, KeyID: "e", Use: "enc"}), -1},
		{"private", list(jose.JSONWebKey{Key: priv, KeyID: "p"}), -1},
		{"symmetric", list(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "s"}), -1},
		{"short RSA", list(jose.JSONWebKey{Key: &small.PublicKey, KeyID: "r"}), -1},
		{"unknown kind beside a good one", strings.Replace(one, `"keys":[`, `"keys":[{"kty":"XYZ"},`, 1), 1},
		{"only for signing", strings.Replace(one, `"kty"`, `"key_ops":["sign"],"kty"`, 1), -1},
		{"for verifying", strings.Replace(one, `"kty"`, `"key_ops":["verify"],"kty"`, 1), 1},
		{"none", `{"keys":[]}`, -1},
		{"no set", `[]`, -1},
		{"no JSON", `hello`, -1},
		{"too large", `{"keys":[],"x":"` + strings.Repeat("x", keysBytes) + `"}`, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, err := parseKeys([]byte(tt.in))
			if tt.want < 0 && err == nil || tt.want >= 0 && (err != nil || len(set) != tt.want) {
				t.Fatalf("keys are %d, %v; want %d", len(set), err, tt.want)
			}
		})
	}
}

func TestKeysFromFile(t *testing.T) {
	_, key := tokentest.Key(t, "k1")
	path := filepath.Join(t.TempDir(), "keys.json")
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	k := &keys{source: "file:" + path, logger: slog.New(slog.DiscardHandler), now: time.Now}
	if set, version, err := k.current(t.Context()); err != nil || len(set) != 1 || version != 1 {
		t.Fatalf("keys are %v, %d, %v", set, version, err)
	}
	k = &keys{source: "file:" + path + "x", logger: slog.New(slog.DiscardHandler), now: time.Now}
	if _, _, err := k.current(t.Context()); !errors.Is(err, errNoKeys) {
		t.Fatalf("keys of a missing file: %v", err)
	}
}

func TestMintOncePerUserAndService(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := newClock(time.Now().Truncate(time.Second))
	m := NewMinter(wire.NewSigner(priv, "commerce"))
	m.now = c.now
	u := &User{Subject: "u1", Roles: []string{"admin"}, Claims: map[string]any{"name": "Ada"}, Expires: c.now().Add(time.Hour)}
	mint := func(u *User, service string) string {
		t.Helper()
		token, err := m.Token(u, service)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := mint(u, "flows")
	id, err := wire.NewVerifier(pub, "commerce", "flows").Verify(first, c.now())
	if err != nil || id.Subject != "u1" || !id.HasRole("admin") || id.Claims["name"] != "Ada" || !id.Expires.Equal(c.now().Add(identityLife)) {
		t.Fatalf("identity is %+v, %v", id, err)
	}
	if _, err := wire.NewVerifier(pub, "commerce", "model").Verify(first, c.now()); !errors.Is(err, wire.ErrIdentityAudience) {
		t.Fatalf("another service accepts it: %v", err)
	}
	c.advance(10 * time.Second)
	if mint(u, "flows") != first {
		t.Fatal("minted again while fresh")
	}
	if mint(u, "model") == first {
		t.Fatal("one token for two services")
	}
	c.advance(35 * time.Second)
	if mint(u, "flows") == first {
		t.Fatal("not minted again before it expires")
	}

	soon := &User{Subject: "u2", Expires: c.now().Add(12 * time.Second)}
	id, err = wire.NewVerifier(pub, "commerce", "flows").Verify(mint(soon, "flows"), c.now())
	if err != nil || !id.Expires.Equal(soon.Expires) {
		t.Fatalf("identity outlives the user's token: %+v, %v", id, err)
	}
	late := &User{Subject: "u3", Expires: c.now().Add(-12 * time.Second)}
	if id, err = wire.NewVerifier(pub, "commerce", "flows").Verify(mint(late, "flows"), c.now()); err != nil {
		t.Fatalf("identity within the leeway is dead: %+v, %v", id, err)
	}
	huge := &User{Subject: "u4", Claims: map[string]any{"x": strings.Repeat("x", wire.MaxIdentityToken)}}
	if _, err := m.Token(huge, "flows"); !errors.Is(err, ErrUnmintable) {
		t.Fatalf("huge claims: %v", err)
	}
	if token, err := NewMinter(nil).Token(u, "flows"); token != "" || err != nil {
		t.Fatalf("without a key: %q, %v", token, err)
	}
}

func FuzzBearer(f *testing.F) {
	priv, key := tokentest.Key(f, "k1")
	i := tokentest.NewIssuer(f, key)
	a := newJWT(f, tokentest.Config, i)
	good := tokentest.Sign(f, map[string]any{"alg": "EdDSA", "kid": "k1"}, tokentest.Claims(time.Now()), tokentest.Ed(priv))
	f.Add("Bearer " + good)
	f.Add("bearer a.b.c")
	f.Add("Basic dTpw")
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, value string) {
		r := tokentest.Request("")
		r.Header.Set("Authorization", value)
		u, err := a.Authenticate(t.Context(), r)
		if u != nil && (err != nil || !strings.Contains(value, good)) {
			t.Fatalf("%q is accepted", value)
		}
		var refused *Error
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("error without a public text: %v", err)
		}
	})
}

func BenchmarkAuthRemembered(b *testing.B) {
	priv, key := tokentest.Key(b, "k1")
	i := tokentest.NewIssuer(b, key)
	a := newJWT(b, tokentest.Config, i)
	r := tokentest.Request(tokentest.Sign(b, map[string]any{"alg": "EdDSA", "kid": "k1"}, tokentest.Claims(time.Now()), tokentest.Ed(priv)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAuthFirstTime(b *testing.B) {
	priv, key := tokentest.Key(b, "k1")
	i := tokentest.NewIssuer(b, key)
	a := newJWT(b, tokentest.Config, i)
	r := tokentest.Request(tokentest.Sign(b, map[string]any{"alg": "EdDSA", "kid": "k1"}, tokentest.Claims(time.Now()), tokentest.Ed(priv)))
	b.ReportAllocs()
	for b.Loop() {
		a.verified.Clear()
		if _, err := a.Authenticate(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
