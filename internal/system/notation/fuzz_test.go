package notation

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzSplitCommand: nothing panics, and what was split is split alike once quoted.
func FuzzSplitCommand(f *testing.F) {
	for _, s := range []string{"", "a b", `a 'b c' "d\"e"`, `a\ b`, "a && b", "'", `"`, `\`, "a\\\nb", "$OUT/a '' x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		args, err := SplitCommand(s)
		if err != nil {
			if args != nil {
				t.Fatalf("splitCommand(%q) = %q and %v", s, args, err)
			}
			return
		}
		quoted := make([]string, len(args))
		for i, a := range args {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		again, err := SplitCommand(strings.Join(quoted, " "))
		if err != nil || strings.Join(again, "\x00") != strings.Join(args, "\x00") || len(again) != len(args) {
			t.Errorf("%q, quoted and split again: %q, %v", args, again, err)
		}
	})
}

// FuzzParsePattern: nothing panics, and a route is the same as itself.
func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"/", "GET /a/{b}/{c...}", "*.a.com/{$}", "/%2e", "GET", "/{", "/}", "POST  x/"} {
		f.Add(s, "/a/")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		p, bad := ParsePattern(a)
		if bad != nil {
			return
		}
		if relate(p, p) != Same {
			t.Errorf("%q is not the same as itself", a)
		}
		if q, bad := ParsePattern(b); bad == nil && relate(p, q) != relate(q, p) {
			t.Errorf("%q and %q are %v one way and %v the other", a, b, relate(p, q), relate(q, p))
		}
	})
}

// FuzzPrefix: nothing panics; what is read is a network that is read alike again.
func FuzzPrefix(f *testing.F) {
	for _, s := range []string{"", "10.0.0.7", "10.0.0.0/8", "10.0.0.7/8", "::1", "fe80::1%a", "::ffff:1.2.3.4", "::ffff:0:0/96", "1.2.3.4/33"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, advice := ParsePrefix(s)
		if advice != "" {
			return
		}
		again, advice := ParsePrefix(p.String())
		if advice != "" || again != p || p != p.Masked() || p.Addr().Is4In6() {
			t.Errorf("parsePrefix(%q) = %v, again %v, %s", s, p, again, advice)
		}
	})
}

// FuzzOrigin: nothing panics; an origin is read alike again, and cannot break out of
// a header.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"", "*", "https://*.a.b", "http://[::1]:3000", "https://a/", "HTTPS://A", "https://a:443", "http://a\r\nb", "null", "https://a:b@c", "https://*.*.a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		origin, advice := ParseOrigin(s)
		if advice != "" {
			return
		}
		if again, advice := ParseOrigin(origin); advice != "" || again != origin || !IsHeaderValue(origin) {
			t.Errorf("parseOrigin(%q) = %q, again %q, %s", s, origin, again, advice)
		}
	})
}

// FuzzRedirectable: whatever values the path has, they do not choose the host.
func FuzzRedirectable(f *testing.F) {
	for _, s := range []string{"/", "//a", "/\\a", "https://a.b/{x}", "https://{x}/", "https://a{x}", "http:/a", "javascript:a", "https://a?{x}", "https://a#{x}", "https://a@{x}/", "http:}//0{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !IsRedirect(s) {
			return
		}
		host := func(value string) string {
			u, err := url.Parse(strings.ReplaceAll(strings.ReplaceAll(s, "{", value), "}", ""))
			if err != nil {
				return "" // no browser gets that far
			}
			return u.Host
		}
		if a, b := host("a"), host("evil.example.com"); a != "" && b != "" && a != b {
			t.Errorf("%q leads to %q or %q", s, a, b)
		}
	})
}

// FuzzNestPattern: nothing panics, and what is canonical stays as it is.
func FuzzNestPattern(f *testing.F) {
	for _, s := range []string{`{"cmd":"a"}`, `{"b":{"c":1.50},"a":null}`, `{"a":"b c"}`, `{`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := NestText(s)
		if err != nil {
			return
		}
		if again, err := NestText(got); err != nil || again != got {
			t.Errorf("nestText(%s) = %s, %v", got, again, err)
		}
	})
}
