package filter

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"fairlead/internal/system"
)

func TestCORSAllowed(t *testing.T) {
	c := NewCORS(&system.CORS{Origins: []string{"https://App.example.com", "https://*.shop.example.com", "http://localhost:3000"}, Credentials: true})
	tests := []struct {
		origin string
		want   bool
	}{
		{"https://app.example.com", true},
		{"http://app.example.com", false},
		{"https://app.example.com:444", false},
		{"https://app.example.com.evil.com", false},
		{"https://xapp.example.com", false},
		{"https://a.shop.example.com", true},
		{"https://a.b.shop.example.com", true},
		{"https://shop.example.com", false},
		{"https://.shop.example.com", false},
		{"https://evil.com/.shop.example.com", false},
		{"https://user@x.shop.example.com", false},
		{"https://evil.com:1.shop.example.com", false},
		{"https://a..b.shop.example.com", false},
		{"http://a.shop.example.com", false},
		{"http://localhost:3000", true},
		{"http://localhost", false},
		{"null", false},
		{"", false},
		{"*", false},
		{"https://" + strings.Repeat("a", maxOrigin) + ".shop.example.com", false},
	}
	for _, tt := range tests {
		if got := c.Allowed(tt.origin); got != tt.want {
			t.Errorf("%s: %v", tt.origin, got)
		}
	}
	if (*CORS)(nil).Allowed("https://a") || NewCORS(nil) != nil {
		t.Error("no CORS allows nobody")
	}
}

func TestCORSHeaders(t *testing.T) {
	some := &system.CORS{
		Origins: []string{"https://a.com"}, Methods: []string{"GET", "PUT"}, Headers: []string{"X-A", "X-B"},
		Expose: []string{"X-C"}, Credentials: true, MaxAge: 90 * time.Second,
	}
	tests := []struct {
		name   string
		cors   *system.CORS
		origin string
		given  http.Header
		want   http.Header
	}{
		{"allowed", some, "https://a.com", http.Header{}, http.Header{
			"Access-Control-Allow-Origin": {"https://a.com"}, "Access-Control-Allow-Credentials": {"true"},
			"Access-Control-Expose-Headers": {"X-C"}, "Vary": {"Origin"},
		}},
		{"another origin", some, "https://b.com", http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"no origin", some, "", http.Header{"Vary": {"Accept-Encoding"}}, http.Header{"Vary": {"Accept-Encoding", "Origin"}}},
		{"the service's own are replaced", some, "https://b.com", http.Header{
			"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"}, "Vary": {"accept, origin"},
		}, http.Header{"Vary": {"accept, origin"}}},
		{"everybody", &system.CORS{Origins: []string{"*"}, Credentials: true}, "https://b.com", http.Header{}, http.Header{"Access-Control-Allow-Origin": {"*"}}},
		{"everybody, no origin", &system.CORS{Origins: []string{"*"}}, "", http.Header{}, http.Header{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.given.Clone()
			NewCORS(tt.cors).Answer(h, tt.origin)
			if !reflect.DeepEqual(h, tt.want) {
				t.Errorf("got %v, want %v", h, tt.want)
			}
		})
	}
	h := http.Header{}
	c := NewCORS(some)
	c.VaryPreflight(h)
	c.Preflight(h, "https://a.com")
	want := http.Header{
		"Access-Control-Allow-Origin": {"https://a.com"}, "Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Allow-Methods": {"GET, PUT"}, "Access-Control-Allow-Headers": {"X-A, X-B"}, "Access-Control-Max-Age": {"90"},
		"Vary": {"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("preflight: %v, want %v", h, want)
	}
}

// FuzzOrigin checks that an origin is allowed only if a browser's reading of it has
// a host below the allowed one.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example.com", "https://example.com", "https://evil.com#.example.com", "https://evil.com?.example.com", "https://evil.com\\.example.com", "https://a@b.example.com", "null"} {
		f.Add(s)
	}
	c := NewCORS(&system.CORS{Origins: []string{"https://*.example.com", "https://one.org"}})
	f.Fuzz(func(t *testing.T, origin string) {
		if !c.Allowed(origin) {
			return
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "https" || u.Host != "one.org" && !strings.HasSuffix(u.Host, ".example.com") || u.User != nil || u.Path != "" || u.Port() != "" {
			t.Fatalf("%q is allowed", origin)
		}
	})
}
