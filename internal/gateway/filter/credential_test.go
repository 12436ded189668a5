package filter

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestCredentials(t *testing.T) {
	c := NewCredentials([]Credential{{"ada", "secret"}, {"bob", "secret"}, {"eve", ""}, {"", "key-1"}, {"ada", "other"}})
	tests := []struct {
		name  string
		given Credential
		want  int
	}{
		{"the first", Credential{"ada", "secret"}, 0},
		{"the second", Credential{"bob", "secret"}, 1},
		{"a second password", Credential{"ada", "other"}, 4},
		{"a key", Credential{"", "key-1"}, 3},
		{"wrong", Credential{"ada", "Secret"}, -1},
		{"nobody", Credential{"zoe", "secret"}, -1},
		{"an empty secret", Credential{"eve", ""}, -1},
		{"shifted", Credential{"adas", "ecret"}, -1},
		{"empty", Credential{}, -1},
	}
	for _, tt := range tests {
		if i, ok := c.Find(tt.given); i != tt.want || ok != (tt.want >= 0) {
			t.Errorf("%s: %d %v, want %d", tt.name, i, ok, tt.want)
		}
	}
	if _, ok := NewCredentials(nil).Find(Credential{}); ok {
		t.Error("found in nothing")
	}
}

func TestParseBasic(t *testing.T) {
	code := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	tests := []struct {
		name, value    string
		user, password string
		scheme, ok     bool
	}{
		{"good", "Basic " + code("ada:secret"), "ada", "secret", true, true},
		{"scheme in capitals, spaces", "BASIC   " + code("ada:secret") + " ", "ada", "secret", true, true},
		{"colons in the password", "Basic " + code("ada:se:cr:et"), "ada", "se:cr:et", true, true},
		{"empty both", "Basic " + code(":"), "", "", true, true},
		{"UTF-8", "Basic " + code("ada:gehe\u00efm"), "ada", "gehe\u00efm", true, true},
		{"no colon", "Basic " + code("ada"), "", "", true, false},
		{"control", "Basic " + code("ada:se\x00cret"), "", "", true, false},
		{"no base64", "Basic ###", "", "", true, false},
		{"line end within", "Basic YWRh\nOng=", "", "", true, false},
		{"no padding", "Basic YWRhOg", "", "", true, false},
		{"loose bits", "Basic YWRhOh==", "", "", true, false},
		{"nothing", "Basic", "", "", true, false},
		{"too long", "Basic " + code("a:"+strings.Repeat("x", MaxCredential)), "", "", true, false},
		{"bearer", "Bearer abc", "", "", false, false},
		{"empty", "", "", "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, scheme, ok := ParseBasic(tt.value)
			if c.Name != tt.user || c.Secret != tt.password || scheme != tt.scheme || ok != tt.ok {
				t.Errorf("got %+v %v %v", c, scheme, ok)
			}
		})
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, s := range []string{"Basic YWRhOnNlY3JldA==", "basic ", "Basic Og==", "Bearer x", "Basic \n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c, scheme, ok := ParseBasic(value)
		if ok && (!scheme || strings.Contains(c.Name, ":") || strings.ContainsAny(c.Name+c.Secret, "\r\n\x00")) {
			t.Fatalf("%q: %+v", value, c)
		}
		if !ok && c != (Credential{}) {
			t.Fatalf("%q: refused, but %+v", value, c)
		}
		if ok && !strings.HasSuffix(strings.TrimRight(value, " "), base64.StdEncoding.EncodeToString([]byte(c.Name+":"+c.Secret))) {
			t.Fatalf("%q has a second spelling: %+v", value, c)
		}
	})
}

func BenchmarkCredentialsFind(b *testing.B) {
	c := NewCredentials(make([]Credential, 20))
	b.ReportAllocs()
	for b.Loop() {
		c.Find(Credential{"ada", "secret"})
	}
}
