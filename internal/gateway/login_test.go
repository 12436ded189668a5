package gateway

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fairlead/internal/gateway/token"
	"fairlead/internal/gateway/token/tokentest"
	"fairlead/internal/system"
)

func TestAuthAdmit(t *testing.T) {
	priv, key := tokentest.Key(t, "k1")
	i := tokentest.NewIssuer(t, key)
	good := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "k1"}, tokentest.Claims(time.Now()), tokentest.Ed(priv))
	expired := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "k1"}, tokentest.With(tokentest.Claims(time.Now()), "exp", 1), tokentest.Ed(priv))
	away := tokentest.NewIssuer(t)
	away.Leave(true)
	tests := []struct {
		name      string
		issuer    *tokentest.Issuer // nil: no authenticator
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
			var a *token.Authenticator
			if tt.issuer != nil {
				a = token.New(&tokentest.Config, tt.issuer.Ask, slog.New(slog.DiscardHandler), nil)
			}
			all := authority{jwt: a}
			x := &exchange{g: New(Options{}), route: &route{def: &system.Route{Roles: tt.roles}}, id: "test-0001"}
			x.route.filters = &routeFilters{}
			x.route.filters.methods, x.route.filters.required = all.methods(x.route.def)
			w := httptest.NewRecorder()
			ok := all.admit(w, tokentest.Request(tt.token), x)
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
