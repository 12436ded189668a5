// Package tokentest has an issuer of bearer tokens for tests. It signs whatever it
// is told to, as a forger would, and is of no use outside of tests.
package tokentest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"fairlead/internal/system"
)

// Config is the configuration that takes the tokens made of [Claims].
var Config = system.JWT{
	JWKS: "bus:auth.jwks", Algorithms: []string{"EdDSA"}, Issuer: "commerce", Audience: "commerce",
	RolesClaim: "roles", Leeway: 30 * time.Second,
}

// Claims returns good claims of the user u1, an analyst, for a quarter of an hour.
func Claims(now time.Time) map[string]any {
	return map[string]any{
		"iss": "commerce", "aud": "commerce", "sub": "u1", "roles": []string{"analyst"},
		"iat": now.Unix(), "exp": now.Add(15 * time.Minute).Unix(), "name": "Ada",
	}
}

// With returns a copy of m with some members replaced, given as names and values;
// nil removes one.
func With(m map[string]any, pairs ...any) map[string]any {
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

// Issuer publishes keys.
type Issuer struct {
	tb    testing.TB
	asked atomic.Int64

	mu   sync.Mutex        // guards the fields below
	keys []jose.JSONWebKey // public
	away bool
}

// NewIssuer returns an issuer with some public keys.
func NewIssuer(tb testing.TB, keys ...jose.JSONWebKey) *Issuer {
	tb.Helper()
	return &Issuer{tb: tb, keys: keys}
}

// Publish replaces the keys.
func (i *Issuer) Publish(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Leave says whether questions are answered with an error from now on.
func (i *Issuer) Leave(away bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.away = away
}

// Asked returns how often it was asked.
func (i *Issuer) Asked() int64 { return i.asked.Load() }

// Ask answers with the key set. Another subject than that of [Config] fails the test.
func (i *Issuer) Ask(_ context.Context, subject string) ([]byte, error) {
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

// Key makes a key pair.
func Key(tb testing.TB, id string) (ed25519.PrivateKey, jose.JSONWebKey) {
	tb.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return priv, jose.JSONWebKey{Key: pub, KeyID: id, Use: "sig"}
}

// Sign makes a compact JWS of any header and claims.
func Sign(tb testing.TB, header, claims map[string]any, sign func(input []byte) []byte) string {
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

// Ed signs with a key of [Key].
func Ed(priv ed25519.PrivateKey) func([]byte) []byte {
	return func(in []byte) []byte { return ed25519.Sign(priv, in) }
}

// Request returns a request with a bearer token, without one if that is "".
func Request(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}
