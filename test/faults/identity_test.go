package faults_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

// guarded has the commerce system's own service for tokens.
const guarded = `
system: commerce
gateway:
  listen: "127.0.0.1:0"
  auth:
    jwt: {jwks: "bus:auth.jwks", issuer: commerce, audience: commerce}
services:
  auth:
    command: AUTH
    secrets: [ADMIN_PASSWORD]
    databases: [auth]
    bus: {group: auth_queue, answers: ["auth.>"]}
  clerk:
    command: [SELF, part, clerk]
    bus: {group: clerk, answers: ["clerk.>"]}
  mirror:
    command: [SELF, part, mirror]
    bus: {group: mirror, answers: ["mirror.>"]}
secrets:
  ADMIN_PASSWORD: {generate: 24}
databases:
  auth: {engine: sqlite, init: INIT, owner: auth}
routes:
  POST /login: {request: auth.login}
  GET /me: {request: auth.me, role: admin}
  GET /owner: {request: clerk.who, role: owner}
  GET /bus/who: {request: clerk.who}
  /who: {service: clerk}
  GET /bus/headers: {request: mirror.headers}
  /headers: {service: mirror}
`

// signed is a system with a signing service, its key, and tokens of its making.
type signed struct {
	*world
	kid             string
	key             ed25519.PrivateKey
	access, refresh string
}

func newSigned(t *testing.T) *signed {
	t.Helper()
	script, err := filepath.Abs("../../stacks/commerce/init.auth.sql")
	if err != nil {
		t.Fatal(err)
	}
	s := &signed{world: newWorld(t, strings.Replace(guarded, "INIT", script, 1))}
	s.Start()
	s.Ready()
	password, err := os.ReadFile(s.Path(".fairlead/secrets/ADMIN_PASSWORD"))
	if err != nil {
		t.Fatal(err)
	}
	a := s.ask("POST", "/login", fmt.Sprintf(`{"username": "admin", "password": %q}`, strings.TrimSpace(string(password))), "Content-Type", "application/json")
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal([]byte(a.body), &tokens); err != nil || a.status != 200 || tokens.Access == "" || tokens.Refresh == "" {
		t.Fatalf("login: %v", a)
	}
	s.access, s.refresh = tokens.Access, tokens.Refresh
	// The key is taken from the service's database, as the worst thief would.
	db, err := sql.Open("sqlite", "file:"+s.Path(".fairlead/databases/auth/auth.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var seed []byte
	if err := db.QueryRowContext(t.Context(), "SELECT kid, seed FROM signing_keys ORDER BY active LIMIT 1").Scan(&s.kid, &seed); err != nil {
		t.Fatal(err)
	}
	s.key = ed25519.NewKeyFromSeed(seed)
	return s
}

// token makes a compact JWS.
func token(t *testing.T, head, claims map[string]any, sign func([]byte) []byte) string {
	t.Helper()
	part := func(v map[string]any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(head) + "." + part(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(text)))
}

// claims reads those of a token without checking it.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTokens shows a door with a real signing service behind it tokens that it
// must not take.
func TestTokens(t *testing.T) {
	t.Parallel()
	s := newSigned(t)
	now := time.Now()
	good := claims(t, s.access)
	head := map[string]any{"alg": "EdDSA", "kid": s.kid, "typ": "at+jwt"}
	with := func(m map[string]any, name string, v any) map[string]any {
		m = maps.Clone(m)
		m[name] = v
		return m
	}
	sign := func(b []byte) []byte { return ed25519.Sign(s.key, b) }
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := s.key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // of an ed25519 key
	mac := func(key []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			h := hmac.New(sha256.New, key)
			h.Write(b)
			return h.Sum(nil)
		}
	}
	tests := []struct {
		name, token string
	}{
		{"expired", token(t, head, with(good, "exp", now.Add(-time.Minute).Unix()), sign)},
		{"not yet valid", token(t, head, with(good, "nbf", now.Add(time.Hour).Unix()), sign)},
		{"of another issuer", token(t, head, with(good, "iss", "evil"), sign)},
		{"for another audience", token(t, head, with(good, "aud", "evil"), sign)},
		{"alg none", token(t, with(head, "alg", "none"), good, func([]byte) []byte { return nil })},
		{"alg none with a signature", token(t, with(head, "alg", "none"), good, sign)},
		{"HS256 with the public key", token(t, with(head, "alg", "HS256"), good, mac(public))},
		{"HS256 with the public key as published", token(t, with(head, "alg", "HS256"), good, mac([]byte(base64.RawURLEncoding.EncodeToString(public))))},
		{"another key under the same name", token(t, head, good, func(b []byte) []byte { return ed25519.Sign(other, b) })},
		{"refresh token", s.refresh},
		{"refresh token as a JWT", token(t, head, with(good, "token_use", "refresh"), sign)},
		{"refresh token by its type", token(t, with(head, "typ", "rt+jwt"), good, sign)},
		{"other claims under the old signature", strings.Join([]string{
			strings.Split(s.access, ".")[0],
			strings.Split(token(t, head, with(good, "roles", []string{"owner"}), sign), ".")[1],
			strings.Split(s.access, ".")[2],
		}, ".")},
		{"no token at all", "x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.ask("GET", "/me", "", "Authorization", "Bearer "+tt.token)
			a.refused(t, 401, "")
			if !strings.HasPrefix(a.header.Get("Www-Authenticate"), "Bearer") {
				t.Errorf("the answer does not say how: %v", a.header)
			}
			if len(tt.token) > 8 && strings.Contains(a.body, tt.token) {
				t.Error("the answer repeats the token")
			}
			// Where everybody may come, its bearer is nobody.
			for _, path := range []string{"/bus/who", "/who"} {
				if a := s.ask("GET", path, "", "Authorization", "Bearer "+tt.token); a.status != 200 || strings.TrimSpace(a.body) != "[]" {
					t.Errorf("%s: the answer is %v", path, a)
				}
			}
		})
	}
	t.Run("good", func(t *testing.T) {
		if a := s.ask("GET", "/me", "", "Authorization", "Bearer "+s.access); a.status != 200 || !strings.Contains(a.body, `"admin"`) {
			t.Errorf("the answer is %v", a)
		}
		mine := token(t, head, good, sign)
		if a := s.ask("GET", "/me", "", "Authorization", "Bearer "+mine); a.status != 200 {
			t.Errorf("the test's own tokens are not like the service's: %v", a)
		}
		s.ask("GET", "/owner", "", "Authorization", "Bearer "+s.access).refused(t, 403, "")
		s.ask("GET", "/me", "").refused(t, 401, "")
	})
}

// TestForgedIdentity sends headers that only the gateway may set, to services
// over HTTP and over the bus.
func TestForgedIdentity(t *testing.T) {
	t.Parallel()
	s := newSigned(t)
	bearer := "Authorization: Bearer " + s.access + "\r\n"
	get := func(t *testing.T, path, lines string) string {
		t.Helper()
		resp, body := s.rawAnswer(t, "GET "+path+" HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n"+lines+"\r\n")
		if resp.StatusCode != 200 {
			t.Fatalf("GET %s: %s %s", path, resp.Status, body)
		}
		return body
	}
	// What a user's services really are given, as the mirror sees it.
	identity := func(path string) string {
		var seen map[string][]string
		if err := json.Unmarshal([]byte(get(t, path, bearer)), &seen); err != nil {
			t.Fatal(err)
		}
		values := http.Header(seen)[wire.HeaderIdentity]
		if len(values) != 1 || claims(t, values[0])["sub"] != "admin" {
			t.Fatalf("%s: the mirror saw %v", path, seen)
		}
		return values[0]
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forge := func(service string) string {
		text, err := wire.NewSigner(key, "commerce").Sign(wire.Identity{
			Subject: "admin", Roles: []string{"admin"}, Service: service, System: "commerce",
			Issued: time.Now(), Expires: time.Now().Add(time.Minute),
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	values := map[string]string{
		"forged": forge("clerk"), "of another service over HTTP": identity("/headers"), "of another service over the bus": identity("/bus/headers"),
	}
	spellings := []string{
		"Fairlead-Identity", "fairlead-identity", "FAIRLEAD-IDENTITY", "Fairlead_Identity", "fairlead_identity", "FAIRLEAD_IDENTITY",
		"FairLead-Identity", "Fairlead.Identity", "Fairlead-_Identity", "fAiRlEaD-iDeNtItY",
	}
	for what, value := range values {
		t.Run(what, func(t *testing.T) {
			for _, name := range spellings {
				line := name + ": " + value + "\r\n"
				for _, path := range []string{"/headers", "/bus/headers"} {
					if got := get(t, path, line); strings.Contains(got, value) {
						t.Errorf("%s reached the service at %s: %s", name, path, got)
					}
					// Beside a real one, it must not win, nor be told too.
					if got := get(t, path, line+bearer+line); strings.Count(got, value) > 1 || strings.Contains(got, values["forged"]) {
						t.Errorf("%s beside a token reached the service at %s: %s", name, path, got)
					}
				}
				for _, path := range []string{"/who", "/bus/who"} {
					if got := strings.TrimSpace(get(t, path, line)); got != "[]" {
						t.Errorf("%s at %s: the service believes to know %s", name, path, got)
					}
				}
			}
			if got := get(t, "/who", "Connection: close, Authorization, Fairlead-Identity\r\nFairlead-Identity: "+value+"\r\n"); strings.TrimSpace(got) != "[]" {
				t.Errorf("as a hop's own header: %s", got)
			}
		})
	}
	t.Run("past the door", func(t *testing.T) {
		// Whoever may send on the bus is still nobody's user.
		nc := s.operator(t)
		for what, value := range values {
			m := nats.NewMsg("clerk.who")
			m.Header.Set(wire.HeaderIdentity, value)
			reply, err := nc.RequestMsg(m, await.Patience)
			if err != nil || reply.Header.Get(wire.HeaderErrorCode) != "401" || reply.Header.Get(wire.HeaderError) != "the identity is not valid" {
				t.Errorf("%s: %v %v, want 401", what, reply, err)
			}
		}
	})
}

// operator connects to the bus with the credentials that the node leaves for its
// operator.
func (w *world) operator(t *testing.T) *nats.Conn {
	t.Helper()
	b, err := os.ReadFile(w.Path(".fairlead/operator.env"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	nc, err := nats.Connect(env["NATS_URL"], nats.Timeout(await.Patience), nats.UserInfo(env["NATS_USER"], env["NATS_PASSWORD"]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
