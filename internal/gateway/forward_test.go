package gateway

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// openForwarded starts a gateway that asks a service about the requests of /in and
// /role.
func openForwarded(t *testing.T, s *seen, ask http.HandlerFunc, timeout time.Duration) (*door, ed25519.PublicKey) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := openDoor(t, Options{Signer: wire.NewSigner(private, "test"), WaitForReady: 200 * time.Millisecond})
	c := Config{
		Gateway: system.Gateway{Auth: system.Auth{Forward: &system.Forward{
			Service: "auth", Path: "/verify?from=door", Headers: []string{"X-Forwarded-User", "X-Team"}, Timeout: timeout,
			SubjectHeader: "X-Subject", RolesHeader: "x-roles",
		}}},
		Services: servicesOf("api", "auth"),
		Endpoints: map[string][]Endpoint{
			"api": {serviceOf(t, "api-1", s.serve)},
		},
	}
	if ask != nil {
		c.Endpoints["auth"] = []Endpoint{serviceOf(t, "auth-1", ask)}
	}
	to := []system.Target{{Service: "api", Weight: 1}}
	c.Routes = []*system.Route{
		{Key: "/", Path: "/", Targets: to},
		{Key: "/in/", Path: "/in/", Targets: to, Auth: []system.AuthMethod{system.AuthForward}},
		{Key: "/role", Path: "/role", Targets: to, Auth: []system.AuthMethod{system.AuthForward}, Roles: []string{"admin"}},
	}
	if err := d.Apply(c); err != nil {
		t.Fatal(err)
	}
	return d, pub
}

func TestForwardAuthenticationAsksTheService(t *testing.T) {
	var s, asked seen
	d, pub := openForwarded(t, &s, func(w http.ResponseWriter, r *http.Request) {
		asked.mu.Lock()
		asked.r = r
		asked.mu.Unlock()
		w.Header().Set("X-Forwarded-User", "Ada L.")
		w.Header()["X-Team"] = []string{"a", "b"}
		w.Header().Set("X-Subject", "ada")
		w.Header().Set("X-Roles", "admin, writer")
		w.Header().Set("X-Other", "not copied")
		w.WriteHeader(http.StatusNoContent)
	}, 0)
	res, body := d.do("POST", "/in/a%20b?q=1", strings.NewReader("the body"), header(
		"Cookie", "session=1", "X-Original-Method", "GET", "X_Original_Uri", "/public", "X-Original-Host", "evil",
		"X-Team", "forged", "X_Forwarded_User", "forged", "X-Subject", "forged", "X_roles", "forged", "If-None-Match", `"x"`, "Content-Type", "text/plain",
	))
	if res.StatusCode != 200 || body != "served" {
		t.Fatalf("status %d: %s", res.StatusCode, body)
	}
	a := asked.r
	if a.Method != "GET" || a.RequestURI != "/verify?from=door" || a.ContentLength > 0 {
		t.Errorf("asked %s %s with %d bytes", a.Method, a.RequestURI, a.ContentLength)
	}
	for name, want := range map[string]string{
		"X-Original-Method": "POST", "X-Original-Uri": "/in/a%20b?q=1", "X-Original-Host": d.Addr().String(), "Cookie": "session=1",
		"X-Forwarded-For": "127.0.0.1", "Content-Type": "", "If-None-Match": "", "X-Subject": "", "X-Team": "", wire.HeaderIdentity: "",
	} {
		if got := strings.Join(a.Header[http.CanonicalHeaderKey(name)], "|"); got != want {
			t.Errorf("asked with %s: %q, want %q", name, got, want)
		}
	}
	h := s.header()
	for name, want := range map[string]string{
		"X-Forwarded-User": "Ada L.", "X-Team": "a|b", "X-Other": "", "X-Subject": "", "X-Roles": "", "Content-Type": "text/plain", "X-Original-Method": "",
	} {
		if got := strings.Join(h[name], "|"); got != want {
			t.Errorf("the service got %s: %q, want %q", name, got, want)
		}
	}
	for name, values := range h {
		if strings.Contains(strings.Join(values, ""), "forged") {
			t.Errorf("the service got %s: %q", name, values)
		}
	}
	id, err := wire.NewVerifier(pub, "test", "api").Verify(h.Get(wire.HeaderIdentity), time.Now())
	if err != nil || id.Subject != "ada" || !id.HasRole("writer") {
		t.Errorf("identity %+v: %v", id, err)
	}
	if res, _ := d.do("GET", "/role", nil, nil); res.StatusCode != 200 {
		t.Errorf("role: %d", res.StatusCode)
	}
	// What a client sends under these names reaches nobody on other routes either.
	d.do("GET", "/", nil, header("X-Team", "forged", "x_subject", "forged"))
	if h := s.header(); h.Get("X-Team") != "" || h.Get("X_subject") != "" {
		t.Errorf("a public route's service got %v", h)
	}
}

func TestForwardAuthenticationAnswers(t *testing.T) {
	big := strings.Repeat("x", forwardBody+1)
	tests := []struct {
		name, path string
		ask        http.HandlerFunc
		status     int
		body       string // "" : a problem document
		header     [2]string
		reason     refusal
	}{
		{"let in as nobody", "/in/", func(http.ResponseWriter, *http.Request) {}, 200, "served", [2]string{}, refusals},
		{"nobody has no role", "/role", func(http.ResponseWriter, *http.Request) {}, 401, "", [2]string{}, refusedLogin},
		{"another role", "/role", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Subject", "bob")
			w.Header().Set("X-Roles", "writer")
		}, 403, "", [2]string{}, refusedRole},
		{"role without a name", "/role", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Roles", "x admin") }, 200, "served", [2]string{}, refusals},
		{"401", "/in/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Www-Authenticate", `Custom x="1"`)
			w.Header().Set("X-Inside", "secret")
			w.WriteHeader(401)
			_, _ = io.WriteString(w, "log in, please")
		}, 401, "log in, please", [2]string{"Www-Authenticate", `Custom x="1"`}, refusedLogin},
		{"403", "/in/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/why")
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "not you")
		}, 403, "not you", [2]string{"Location", "/why"}, refusedRole},
		{"a refusal too large to pass on", "/in/", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, big)
		}, 502, "", [2]string{}, refusedForward},
		{"a redirect", "/in/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/login")
			w.WriteHeader(302)
		}, 502, "", [2]string{"Location", ""}, refusedForward},
		{"an error of its own", "/in/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 502, "", [2]string{}, refusedForward},
		{"unavailable, by its own word", "/in/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, 502, "", [2]string{}, refusedForward},
		{"broken off", "/in/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "x")
			panic(http.ErrAbortHandler)
		}, 502, "", [2]string{}, refusedForward},
		{"too slow", "/in/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 504, "", [2]string{}, refusedForward},
		{"not there", "/in/", nil, 503, "", [2]string{}, refusedForward},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s seen
			limit := await.Patience
			if tt.status == 504 {
				limit = 400 * time.Millisecond
			}
			d, _ := openForwarded(t, &s, tt.ask, limit)
			res, body := d.do("GET", tt.path, nil, nil)
			if res.StatusCode != tt.status {
				t.Fatalf("status %d: %.100s", res.StatusCode, body)
			}
			if tt.body != "" && body != tt.body {
				t.Errorf("body %q", body)
			}
			if tt.body == "" && res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %.100s", res.Header.Get("Content-Type"), body)
			}
			if tt.header[0] != "" && res.Header.Get(tt.header[0]) != tt.header[1] {
				t.Errorf("%s: %q", tt.header[0], res.Header.Get(tt.header[0]))
			}
			if res.Header.Get("X-Inside") != "" || strings.Contains(body, "auth-1") {
				t.Error("something of the inside is told")
			}
			if tt.status != 200 && s.r != nil {
				t.Error("the service was asked")
			}
			for why := range refusals {
				if n := d.Refused()[why.String()]; (n == 1) != (why == tt.reason) {
					t.Errorf("%s was counted %d times", why, n)
				}
			}
		})
	}
}

func TestForwardAuthenticationIsAskedOnlyWhenNothingElseDoes(t *testing.T) {
	var s seen
	var asked atomic.Int64
	d := openDoor(t, Options{})
	to := []system.Target{{Service: "api", Weight: 1}}
	err := d.Apply(Config{
		Gateway: system.Gateway{Auth: system.Auth{
			Forward: &system.Forward{Service: "auth", Path: "/"},
			Keys:    &system.Keys{Header: "X-API-Key", Keys: []system.Credential{{Name: "robot", Secret: "ROBOT", Roles: []string{"admin"}}}},
		}},
		Services: servicesOf("api", "auth"), Secrets: map[string]string{"ROBOT": "key-1"},
		Routes: []*system.Route{
			{Key: "/both", Path: "/both", Targets: to, Auth: []system.AuthMethod{system.AuthForward, system.AuthKeys}},
			{Key: "/roles", Path: "/roles", Targets: to, Roles: []string{"admin"}},
		},
		Endpoints: map[string][]Endpoint{
			"api":  {serviceOf(t, "api-1", s.serve)},
			"auth": {serviceOf(t, "auth-1", func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(401) })},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path, key string
		status    int
		asked     int64
	}{
		{"/both", "key-1", 200, 0},
		{"/both", "key-2", 401, 1},
		{"/both", "", 401, 2},
		{"/roles", "key-1", 200, 2},
		{"/roles", "", 401, 2}, // roles alone never ask
	}
	for _, tt := range tests {
		res, _ := d.do("GET", tt.path, nil, func(r *http.Request) {
			if tt.key != "" {
				r.Header.Set("X-API-Key", tt.key)
			}
		})
		if res.StatusCode != tt.status || asked.Load() != tt.asked {
			t.Errorf("%+v: status %d, asked %d times", tt, res.StatusCode, asked.Load())
		}
	}
}
