package gateway

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
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// jwtIssuer signs tokens and publishes its keys.
type jwtIssuer struct {
	tb testing.TB

	mu    sync.Mutex
	keys  []jose.JSONWebKey // public
	away  bool
	asked atomic.Int64
}

func (i *jwtIssuer) publish(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *jwtIssuer) leave(away bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.away = away
}

func (i *jwtIssuer) ask(_ context.Context, subject string) ([]byte, error) {
	i.asked.Add(1)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.away {
		return nil, errors.New("nobody answers")
	}
	if subject != "auth.jwks" {
		i.tb.Errorf("asked %q for keys", subject)
	}
	return json.Marshal(jose.JSONWebKeySet{Keys: i.keys})
}

func jwtKey(tb testing.TB, id string) (ed25519.PrivateKey, jose.JSONWebKey) {
	tb.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return priv, jose.JSONWebKey{Key: pub, KeyID: id, Use: "sig"}
}

// jwtSign makes a compact JWS of any header and claims, as a forger would.
func jwtSign(tb testing.TB, header, claims map[string]any, sign func(input []byte) []byte) string {
	tb.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	input := part(header) + "." + part(claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input)))
}

func edSign(priv ed25519.PrivateKey) func([]byte) []byte {
	return func(in []byte) []byte { return ed25519.Sign(priv, in) }
}

var jwtConfig = system.JWT{
	JWKS: "bus:auth.jwks", Algorithms: []string{"EdDSA"}, Issuer: "commerce", Audience: "commerce",
	RolesClaim: "roles", Leeway: 30 * time.Second,
}

func jwtClaims(now time.Time) map[string]any {
	return map[string]any{
		"iss": "commerce", "aud": "commerce", "sub": "u1", "roles": []string{"analyst"},
		"iat": now.Unix(), "exp": now.Add(15 * time.Minute).Unix(), "name": "Ada",
	}
}

// with returns a copy of m with some members replaced, nil removing one.
func with(m map[string]any, pairs ...any) map[string]any {
	out := maps.Clone(m)
	for i := 0; i < len(pairs); i += 2 {
		name := pairs[i].(string) //nolint:forcetypeassert // a test's own table
		if pairs[i+1] == nil {
			delete(out, name)
		} else {
			out[name] = pairs[i+1]
		}
	}
	return out
}

func jwtRequest(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func newJWT(tb testing.TB, cfg system.JWT, i *jwtIssuer) *authenticator {
	tb.Helper()
	return newAuthenticator(&cfg, i.ask, slog.New(slog.DiscardHandler), nil)
}

func TestAuthTokens(t *testing.T) {
	priv, key := jwtKey(t, "k1")
	other, _ := jwtKey(t, "k1")
	_, second := jwtKey(t, "k2")
	now := time.Now()
	good := jwtClaims(now)
	head := map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}
	pub := key.Key.(ed25519.PublicKey) //nolint:forcetypeassert // made above
	mac := func(in []byte) []byte {
		h := hmac.New(sha256.New, pub)
		h.Write(in)
		return h.Sum(nil)
	}
	sign := edSign(priv)

	tests := []struct {
		name         string
		head, claims map[string]any
		sign         func([]byte) []byte
		want         error
	}{
		{"good", head, good, sign, nil},
		{"type JWT", with(head, "typ", "JWT"), good, sign, nil},
		{"type with prefix", with(head, "typ", "application/at+jwt"), good, sign, nil},
		{"no type", with(head, "typ", nil), good, sign, nil},
		{"audience in a list", head, with(good, "aud", []string{"x", "commerce"}), sign, nil},
		{"expired within the leeway", head, with(good, "exp", now.Add(-20*time.Second).Unix()), sign, nil},
		{"ahead within the leeway", head, with(good, "nbf", now.Add(20*time.Second).Unix()), sign, nil},

		{"alg none", map[string]any{"alg": "none"}, good, func([]byte) []byte { return []byte("x") }, errTokenForm},
		{"alg None", map[string]any{"alg": "nOnE", "kid": "k1"}, good, sign, errTokenForm},
		{"HS256 with the public key", with(head, "alg", "HS256"), good, mac, errTokenForm},
		{"another asymmetric alg", with(head, "alg", "ES256"), good, sign, errTokenForm},
		{"refresh by type", with(head, "typ", "rt+jwt"), good, sign, errTokenKind},
		{"type that is no string", with(head, "typ", 7), good, sign, errTokenKind},
		{"refresh by token_use", head, with(good, "token_use", "refresh"), sign, errTokenKind},
		{"refresh by typ claim", head, with(good, "typ", "Refresh"), sign, errTokenKind},
		{"refresh by use", head, with(good, "use", "refresh_token"), sign, errTokenKind},
		{"critical extension", with(head, "crit", []string{"b64"}, "b64", false), good, sign, errTokenForm},
		{"another key", head, good, edSign(other), errTokenSignature},
		{"unknown kid", with(head, "kid", "k9"), good, sign, errTokenKey},
		{"kid of another key", with(head, "kid", "k2"), good, sign, errTokenSignature},
		{"no kid, several keys", with(head, "kid", nil), good, sign, errTokenKey},
		{"embedded key", with(head, "kid", nil, "jwk", key), good, sign, errTokenKey},
		{"another issuer", head, with(good, "iss", "evil"), sign, errTokenIssuer},
		{"no issuer", head, with(good, "iss", nil), sign, errTokenIssuer},
		{"another audience", head, with(good, "aud", "evil"), sign, errTokenAudience},
		{"no audience", head, with(good, "aud", nil), sign, errTokenAudience},
		{"expired", head, with(good, "exp", now.Add(-time.Minute).Unix()), sign, errTokenExpired},
		{"no expiry", head, with(good, "exp", nil), sign, errTokenEndless},
		{"expiry that is no number", head, with(good, "exp", "soon"), sign, errTokenClaims},
		{"not yet valid", head, with(good, "nbf", now.Add(time.Minute).Unix()), sign, errTokenEarly},
		{"issued in the future", head, with(good, "iat", now.Add(time.Minute).Unix()), sign, errTokenEarly},
		{"no subject", head, with(good, "sub", nil), sign, errTokenAnonymous},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := &jwtIssuer{tb: t}
			i.publish(key, second)
			a := newJWT(t, jwtConfig, i)
			token := jwtSign(t, tt.head, tt.claims, tt.sign)
			for range 2 { // the second time what was remembered answers
				u, err := a.authenticate(t.Context(), jwtRequest(token))
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
	priv, key := jwtKey(t, "k1")
	i := &jwtIssuer{tb: t}
	i.publish(key)
	a := newJWT(t, jwtConfig, i)
	token := jwtSign(t, map[string]any{"alg": "EdDSA", "kid": "k1"}, jwtClaims(time.Now()), edSign(priv))
	u, err := a.authenticate(t.Context(), jwtRequest(token))
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
	_, err = a.authenticate(t.Context(), jwtRequest(parts[0]+"."+base64.RawURLEncoding.EncodeToString([]byte(forged))+"."+parts[2]))
	if !errors.Is(err, errTokenSignature) {
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
		{"two headers", []string{"Bearer " + jws, "Bearer " + jws}, "", errTokenTwice},
		{"empty", []string{"Bearer "}, "", errTokenForm},
		{"scheme alone", []string{"Bearer"}, "", errTokenForm},
		{"two parts", []string{"Bearer aaa.bbb"}, "", errTokenForm},
		{"four parts", []string{"Bearer aaa.bbb.ccc.ddd"}, "", errTokenForm},
		{"unsigned", []string{"Bearer aaa.bbb."}, "", errTokenForm},
		{"two tokens", []string{"Bearer aaa.bbb.ccc, aaa.bbb.ccc"}, "", errTokenForm},
		{"padding", []string{"Bearer aaa=.bbb.ccc"}, "", errTokenForm},
		{"too long", []string{"Bearer " + strings.Repeat("a", tokenBytes) + ".b.c"}, "", errTokenLong},
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
	cfg := jwtConfig
	cfg.Algorithms = []string{"RS256", "ES256", "PS256", "HS256", "none", "EdDSA"}
	i := &jwtIssuer{tb: t}
	i.publish(
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
		b, err := json.Marshal(jwtClaims(time.Now()))
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
		{"PS256 with a key for RS256", sign(jose.PS256, rsaKey, "r"), errTokenKey},
		{"RS256 with the name of an EC key", sign(jose.RS256, rsaKey, "e"), errTokenKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := a.authenticate(t.Context(), jwtRequest(tt.token)); !errors.Is(err, tt.want) {
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
	oldPriv, oldKey := jwtKey(t, "old")
	newPriv, newKey := jwtKey(t, "new")
	c := newClock(time.Now())
	i := &jwtIssuer{tb: t}
	i.publish(oldKey)
	a := newJWT(t, jwtConfig, i)
	a.now, a.keys.now = c.now, c.now

	claims := jwtClaims(c.now().Add(-time.Second))
	claims["exp"] = c.now().Add(24 * time.Hour).Unix()
	oldToken := jwtSign(t, map[string]any{"alg": "EdDSA", "kid": "old"}, claims, edSign(oldPriv))
	newToken := jwtSign(t, map[string]any{"alg": "EdDSA", "kid": "new"}, claims, edSign(newPriv))
	check := func(what, token string, want error) {
		t.Helper()
		if _, err := a.authenticate(t.Context(), jwtRequest(token)); !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", what, err, want)
		}
	}
	check("old key", oldToken, nil)
	check("new key not published", newToken, errTokenKey)
	if n := i.asked.Load(); n != 1 {
		t.Fatalf("asked %d times within a second", n)
	}
	i.publish(newKey, oldKey)
	c.advance(2 * keysPause)
	check("new key published", newToken, nil)
	check("old key still published", oldToken, nil)
	if n := i.asked.Load(); n != 2 {
		t.Fatalf("asked %d times", n)
	}
	i.publish(newKey)
	c.advance(2 * keysFresh)
	check("old key until the set was fetched", oldToken, nil)
	busEventually(t, "the fetched set to count", func() bool {
		_, err := a.authenticate(t.Context(), jwtRequest(oldToken))
		return errors.Is(err, errTokenKey)
	})
	check("new key alone", newToken, nil)

	i.leave(true)
	c.advance(30 * time.Minute)
	check("source away", newToken, nil)
	c.advance(keysStale)
	check("source away for too long", newToken, errTokenUnavailable)
	i.leave(false)
	c.advance(2 * keysPause)
	check("source back", newToken, nil)
}

func TestAuthUnknownKidsAreFetchedOncePerSecond(t *testing.T) {
	priv, key := jwtKey(t, "k1")
	i := &jwtIssuer{tb: t}
	i.publish(key)
	a := newJWT(t, jwtConfig, i)
	c := newClock(time.Now())
	a.keys.now = c.now
	token := jwtSign(t, map[string]any{"alg": "EdDSA", "kid": "k2"}, jwtClaims(time.Now()), edSign(priv))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := a.authenticate(context.Background(), jwtRequest(token)); !errors.Is(err, errTokenKey) {
				t.Errorf("authenticate: %v", err)
			}
		})
	}
	wg.Wait()
	if n := i.asked.Load(); n != 1 {
		t.Fatalf("asked %d times", n)
	}
}

func TestAuthReloadKeepsWhatIsKnown(t *testing.T) {
	i := &jwtIssuer{tb: t}
	log := slog.New(slog.DiscardHandler)
	first := newAuthenticator(&jwtConfig, i.ask, log, nil)
	same := jwtConfig
	same.RolesClaim = ""
	if second := newAuthenticator(&same, i.ask, log, first); second != first {
		t.Fatal("the same settings made another authenticator")
	}
	other := jwtConfig
	other.Audience = "x"
	if second := newAuthenticator(&other, i.ask, log, first); second == first || second.keys != first.keys || second.verified == first.verified {
		t.Fatal("another audience must share the keys and not the verified tokens")
	}
	if newAuthenticator(nil, i.ask, log, first) != nil {
		t.Fatal("no settings made an authenticator")
	}
}

func TestAuthAdmit(t *testing.T) {
	priv, key := jwtKey(t, "k1")
	i := &jwtIssuer{tb: t}
	i.publish(key)
	good := jwtSign(t, map[string]any{"alg": "EdDSA", "kid": "k1"}, jwtClaims(time.Now()), edSign(priv))
	expired := jwtSign(t, map[string]any{"alg": "EdDSA", "kid": "k1"}, with(jwtClaims(time.Now()), "exp", 1), edSign(priv))
	away := &jwtIssuer{tb: t}
	away.leave(true)
	tests := []struct {
		name      string
		issuer    *jwtIssuer // nil: no authenticator
		roles     []string
		token     string
		status    int // 0: admitted
		user      bool
		challenge string
	}{
		{"role held", i, []string{"admin", "analyst"}, good, 0, true, ""},
		{"role missing", i, []string{"admin"}, good, 403, false, `error="insufficient_scope"`},
		{"no token", i, []string{"admin"}, "", 401, false, `Bearer realm="fairlead"`},
		{"expired", i, []string{"analyst"}, expired, 401, false, `error="invalid_token"`},
		{"keys away", away, []string{"analyst"}, good, 503, false, ""},
		{"public, good", i, nil, good, 0, true, ""},
		{"public, no token", i, nil, "", 0, false, ""},
		{"public, expired", i, nil, expired, 0, false, ""},
		{"public, keys away", away, nil, good, 0, false, ""},
		{"nothing configured, public", nil, nil, good, 0, false, ""},
		{"nothing configured, role", nil, []string{"x"}, good, 401, false, `error="invalid_token"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a *authenticator
			if tt.issuer != nil {
				a = newJWT(t, jwtConfig, tt.issuer)
			}
			all := authority{jwt: a}
			x := &exchange{g: New(Options{}), route: &route{def: &system.Route{Roles: tt.roles}}, id: "test-0001"}
			x.route.filters.methods, x.route.filters.required = all.methods(x.route.def)
			w := httptest.NewRecorder()
			ok := all.admit(w, jwtRequest(tt.token), x)
			if ok != (tt.status == 0) || (x.user != nil) != tt.user {
				t.Fatalf("admitted is %v, user is %v", ok, x.user)
			}
			if tt.status == 0 {
				return
			}
			if w.Code != tt.status || !strings.Contains(w.Header().Get("Www-Authenticate"), tt.challenge) {
				t.Fatalf("answer is %d, %v", w.Code, w.Header())
			}
			if tt.status == 503 && w.Header().Get("Retry-After") == "" {
				t.Fatal("no Retry-After")
			}
			if tt.token != "" && strings.Contains(w.Body.String(), tt.token[:20]) {
				t.Fatal("the answer holds the token")
			}
		})
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
	priv, key := jwtKey(t, "k1")
	small, err := rsa.GenerateKey(rand.Reader, 1024) // to be refused
	if err != nil {
		t.Skip("this runtime makes no short RSA keys")
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
	_, key := jwtKey(t, "k1")
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
	m := newMinter(wire.NewSigner(priv, "commerce"))
	m.now = c.now
	u := &User{Subject: "u1", Roles: []string{"admin"}, Claims: map[string]any{"name": "Ada"}, Expires: c.now().Add(time.Hour)}
	mint := func(u *User, service string) string {
		t.Helper()
		token, err := m.token(u, service)
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
	if _, err := m.token(huge, "flows"); !errors.Is(err, errUnmintable) {
		t.Fatalf("huge claims: %v", err)
	}
	if token, err := newMinter(nil).token(u, "flows"); token != "" || err != nil {
		t.Fatalf("without a key: %q, %v", token, err)
	}
}

func TestGenerationsAreBounded(t *testing.T) {
	g := &generations[int, int]{size: 10}
	for i := range 1000 {
		g.store(i, i)
		if _, ok := g.find(0); !ok {
			t.Fatal("forgot what is in use")
		}
	}
	if n := g.len(); n > 20 {
		t.Fatalf("keeps %d", n)
	}
	g.remove(0)
	if _, ok := g.find(0); ok {
		t.Fatal("found what was removed")
	}
}

func FuzzBearer(f *testing.F) {
	priv, key := jwtKey(f, "k1")
	i := &jwtIssuer{tb: f}
	i.publish(key)
	a := newJWT(f, jwtConfig, i)
	good := jwtSign(f, map[string]any{"alg": "EdDSA", "kid": "k1"}, jwtClaims(time.Now()), edSign(priv))
	f.Add("Bearer " + good)
	f.Add("bearer a.b.c")
	f.Add("Basic dTpw")
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, value string) {
		r := jwtRequest("")
		r.Header.Set("Authorization", value)
		u, err := a.authenticate(t.Context(), r)
		if u != nil && (err != nil || !strings.Contains(value, good)) {
			t.Fatalf("%q is accepted", value)
		}
		var refused *authError
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("error without a public text: %v", err)
		}
	})
}

func BenchmarkAuthRemembered(b *testing.B) {
	priv, key := jwtKey(b, "k1")
	i := &jwtIssuer{tb: b}
	i.publish(key)
	a := newJWT(b, jwtConfig, i)
	r := jwtRequest(jwtSign(b, map[string]any{"alg": "EdDSA", "kid": "k1"}, jwtClaims(time.Now()), edSign(priv)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.authenticate(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAuthFirstTime(b *testing.B) {
	priv, key := jwtKey(b, "k1")
	i := &jwtIssuer{tb: b}
	i.publish(key)
	a := newJWT(b, jwtConfig, i)
	r := jwtRequest(jwtSign(b, map[string]any{"alg": "EdDSA", "kid": "k1"}, jwtClaims(time.Now()), edSign(priv)))
	b.ReportAllocs()
	for b.Loop() {
		a.verified.clear()
		if _, err := a.authenticate(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
