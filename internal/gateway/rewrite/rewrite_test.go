package rewrite

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"fairlead/internal/gateway/match"
)

func names(list ...string) func(string) bool {
	return func(name string) bool { return strings.Contains(" "+strings.Join(list, " ")+" ", " "+name+" ") }
}

func values(pairs ...string) match.Values {
	var vs match.Values
	for i := 0; i < len(pairs); i += 2 {
		vs = append(vs, match.Value{Name: pairs[i], Value: pairs[i+1]})
	}
	return vs
}

func TestPath(t *testing.T) {
	tests := []struct {
		name, template string
		values         match.Values
		want           string // "" for ErrUnsafe
	}{
		{"fixed", "/v2/all", nil, "/v2/all"},
		{"value", "/v2/{a}", values("a", "17"), "/v2/17"},
		{"within a segment", "/v2/{a}.json", values("a", "17"), "/v2/17.json"},
		{"two", "/{b}/{a}", values("a", "1", "b", "2"), "/2/1"},
		{"rest", "/new/{a}", values("a", "x/y z"), "/new/x/y%20z"},
		{"empty rest", "/new/{a}", values("a", ""), "/new/"},
		{"escaped", "/v/{a}", values("a", "ü%?#&"), "/v/%C3%BC%25%3F%23&"},
		{"escaped twice stays a dot segment in disguise", "/v/{a}", values("a", "%2e%2e"), ""},
		{"dots", "/v/{a}", values("a", ".."), ""},
		{"dots made of two", "/v/.{a}", values("a", "."), ""},
		{"another host", "/{a}", values("a", "/evil.example"), ""},
		{"empty in the middle", "/v/{a}/x", values("a", ""), ""},
		{"line break", "/v/{a}", values("a", "x\r\nSet-Cookie: a=b"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePath(tt.template, names("a", "b"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Fill(tt.values)
			if got != tt.want || errors.Is(err, ErrUnsafe) != (tt.want == "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestBadTemplates(t *testing.T) {
	for _, s := range []string{
		"", "x", "{a}", "{a}/x", "/{x}", "/{a", "/a}", "/{}", "//x", "/a/../b", "/a b", "/a?x=1", "/a#f", "/%zz", "/%2f", "/ü",
	} {
		if _, err := ParsePath(s, names("a")); err == nil {
			t.Errorf("path %q is taken", s)
		}
	}
	for _, s := range []string{
		"", "x", "{a}", "//evil.example/", "ftp://x/", "javascript:alert(1)", "https://{a}/", "https:///x", "https://u@h/", "https://h{a}/", "/a\r\nb", "/a/../b", "/{x}", "/a?{x}", "/a#{x}", "https://h//x", "http://[", "https://h:x/", "/#%", "/#%{a}",
	} {
		if _, err := ParseRedirect(s, names("a")); err == nil {
			t.Errorf("redirect %q is taken", s)
		}
	}
}

func TestRedirect(t *testing.T) {
	tests := []struct {
		name, to string
		values   match.Values
		query    string
		want     string // "" for ErrUnsafe
	}{
		{"path", "/new", nil, "", "/new"},
		{"query kept", "/new", nil, "a=1&b=%20", "/new?a=1&b=%20"},
		{"query replaced", "/new?x=1", nil, "a=1", "/new?x=1"},
		{"query taken away", "/new?", nil, "a=1", "/new"},
		{"url", "https://example.com", nil, "a=1", "https://example.com/?a=1"},
		{"url with a query only", "https://example.com?x=1", nil, "", "https://example.com/?x=1"},
		{"port", "http://h:8080/x", nil, "", "http://h:8080/x"},
		{"value", "https://h/u/{a}", values("a", "ann b"), "", "https://h/u/ann%20b"},
		{"value in the query", "/find?q={a}&x=1", values("a", "a&b=c\r\n"), "", "/find?q=a%26b%3Dc%0D%0A&x=1"},
		{"value in the fragment", "/find#{a}", values("a", "b c"), "q=1", "/find?q=1#b%20c"},
		{"rest", "/new/{a}", values("a", "x/y"), "", "/new/x/y"},
		{"to another host by a value", "/{a}", values("a", "/evil.example/x"), "", ""},
		{"to another host by a backslash", "/{a}", values("a", `\evil.example`), "", ""},
		{"dot segments", "/x/{a}", values("a", "../y"), "", ""},
		{"bad bytes in the query", "/x", nil, "a=\xff \"#", "/x?a=%FF%20%22%23"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseRedirect(tt.to, names("a"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Location(tt.values, tt.query)
			if got != tt.want || errors.Is(err, ErrUnsafe) != (tt.want == "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestStrip(t *testing.T) {
	tests := []struct{ pattern, path, prefix, rest string }{
		{"/", "/a/b", "", "/a/b"},
		{"/api/", "/api/x/y", "/api", "/x/y"},
		{"/api/", "/api/", "/api", "/"},
		{"/api/v1/{id}", "/api/v1/7", "/api/v1", "/7"},
		{"/api/{rest...}", "/%61pi/b%20c/", "/%61pi", "/b%20c/"},
		{"/api/{$}", "/api/", "/api", "/"},
		{"/api", "/api", "/api", "/"},
		{"/{a}/x", "/1/x", "", "/1/x"},
	}
	for _, tt := range tests {
		t.Run(tt.pattern, func(t *testing.T) {
			prefix, rest := Strip(tt.path, Prefix(tt.pattern))
			if prefix != tt.prefix || rest != tt.rest {
				t.Errorf("%q and %q, want %q and %q", prefix, rest, tt.prefix, tt.rest)
			}
		})
	}
}

// FuzzTemplates: whatever a template, a value and a query are, the path is safe,
// the host is the template's, and nothing but printable ASCII comes out.
func FuzzTemplates(f *testing.F) {
	f.Add("/v2/{a}", "x/y", "q=1")
	f.Add("https://h:1/{a}?x={a}#{a}", "..", "")
	f.Add("/{a}", "/evil.example", "\r\n")
	f.Fuzz(func(t *testing.T, template, value, query string) {
		vs := values("a", value)
		if p, err := ParsePath(template, names("a")); err == nil {
			if got, err := p.Fill(vs); err == nil && !match.SafePath(got) {
				t.Errorf("%q with %q is %q", template, value, got)
			}
		}
		r, err := ParseRedirect(template, names("a"))
		if err != nil {
			return
		}
		got, err := r.Location(vs, query)
		if err != nil {
			return
		}
		for i := range len(got) {
			if got[i] <= ' ' || got[i] >= 0x7f {
				t.Fatalf("%q with %q and %q is %q", template, value, query, got)
			}
		}
		u, err := url.Parse(got)
		if err != nil {
			t.Fatalf("%q with %q and %q is %q: %v", template, value, query, got, err)
		}
		if origin := strings.TrimSuffix(u.Scheme+"://"+u.Host, "://"); origin != r.origin {
			t.Errorf("%q with %q leads to %q", template, value, got)
		}
	})
}

func BenchmarkFill(b *testing.B) {
	p, err := ParsePath("/v2/{a}/parts/{b}", names("a", "b"))
	if err != nil {
		b.Fatal(err)
	}
	vs := values("a", "17", "b", "3")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Fill(vs); err != nil {
			b.Fatal(err)
		}
	}
}
