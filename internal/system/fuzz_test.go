package system

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"

	"fairlead/internal/system/document"
)

// FuzzParse: nothing panics; findings stand inside the file and have words; a system
// that is accepted is accepted again, unchanged.
func FuzzParse(f *testing.F) {
	for _, glob := range []string{"testdata/*.txtar", "testdata/valid/*.txtar"} {
		archives, _ := filepath.Glob(glob)
		for _, archive := range archives {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(ar.Files[0].Data, optionsOf(ar).Environment)
		}
	}
	f.Add([]byte("system: a\r\nservices:\r\n  a: {command: |\r\n    b\r\n  }\r\n"), "")
	f.Add([]byte("\ufeffsystem: ä\n"), "b")
	f.Fuzz(func(t *testing.T, src []byte, environment string) {
		opts := Options{Environment: environment}
		sys, err := Parse(FileName, src, "/nonexistent", opts)
		var findings Findings
		if err == nil {
			again, err := Parse(FileName, src, "/nonexistent", opts)
			if err != nil || len(Diff(sys, again)) > 0 {
				t.Fatalf("the same file again: %v, %v", err, Diff(sys, again))
			}
			return
		}
		if _, ok := errors.AsType[*EnvironmentError](err); ok {
			return
		}
		if !errors.As(err, &findings) || len(findings) == 0 || sys != nil {
			t.Fatalf("Parse: %v, %#v, want Findings", sys, err)
		}
		lines := strings.Split(string(src), "\n")
		for i, f := range findings {
			if f.Line < 1 || f.Line > len(lines) || f.Column < 1 || f.Column > utf8.RuneCountInString(lines[f.Line-1])+1 {
				t.Errorf("%v is outside of the file", f)
			}
			if f.Problem == "" || strings.Contains(f.String(), "%!") || strings.ContainsAny(f.String(), "\n\r") {
				t.Errorf("%q is badly worded", f.String())
			}
			if i > 0 && (f.Line < findings[i-1].Line || f.Line == findings[i-1].Line && f.Column < findings[i-1].Column) {
				t.Errorf("%v is not sorted", f)
			}
		}
	})
}

// FuzzSplitCommand: nothing panics, and what was split is split alike once quoted.
func FuzzSplitCommand(f *testing.F) {
	for _, s := range []string{"", "a b", `a 'b c' "d\"e"`, `a\ b`, "a && b", "'", `"`, `\`, "a\\\nb", "$OUT/a '' x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		args, err := splitCommand(s)
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
		again, err := splitCommand(strings.Join(quoted, " "))
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
		p, bad := parsePattern(a)
		if bad != nil {
			return
		}
		if relate(p, p) != same {
			t.Errorf("%q is not the same as itself", a)
		}
		if q, bad := parsePattern(b); bad == nil && relate(p, q) != relate(q, p) {
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
		p, advice := parsePrefix(s)
		if advice != "" {
			return
		}
		again, advice := parsePrefix(p.String())
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
		origin, advice := parseOrigin(s)
		if advice != "" {
			return
		}
		if again, advice := parseOrigin(origin); advice != "" || again != origin || !headerValue(origin) {
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
		if !redirectable(s) {
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
		got, err := nestText(s)
		if err != nil {
			return
		}
		if again, err := nestText(got); err != nil || again != got {
			t.Errorf("nestText(%s) = %s, %v", got, again, err)
		}
	})
}

// large30x200 is a file of 30 services and 200 routes with two environments.
func large30x200() []byte {
	var b bytes.Buffer
	b.WriteString("system: large\nservices:\n")
	for i := range 30 {
		fmt.Fprintf(&b, `  service-%d:
    build: {command: go build -o "$OUT/service" ./services/service-%d}
    command: $OUT/service --level 'very loud'
    replicas: 2
    environment: {LOG_LEVEL: info, REGION: eu, NUMBER: %d}
    secrets: [KEY_%d]
    databases: [data-%d]
    bus: {group: g%d, answers: ["s%d.>"], asks: ["s%d.find"], publishes: [data.s%d]}
    healthcheck: {http: /healthz, interval: 2s}
`, i, i, i, i, i, i, i, (i+1)%30, i)
	}
	b.WriteString("routes:\n")
	for i := range 200 {
		fmt.Fprintf(&b, "  GET /api/s%d/thing%d/{id}: {request: \"s%d.find.{id}\", timeout: 2s, limits: {body: 1MiB}}\n", i%30, i, i%30)
	}
	b.WriteString("secrets:\n")
	for i := range 30 {
		fmt.Fprintf(&b, "  KEY_%d: {generate: 24}\n", i)
	}
	b.WriteString("databases:\n")
	for i := range 30 {
		fmt.Fprintf(&b, "  data-%d: {engine: sqlite, owner: service-%d}\n", i, i)
	}
	b.WriteString("environments:\n  production:\n    services: {service-1: {replicas: 4}}\n  development:\n    services: {service-1: {replicas: 1}}\n")
	return b.Bytes()
}

func BenchmarkParse(b *testing.B) {
	src := large30x200()
	dir := b.TempDir()
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(FileName, src, dir, Options{Environment: "production"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseAtTheBounds is the slowest file known that is read to the end: the
// most words, in block maps of the most keys, with an escape that the library reads.
func BenchmarkParseAtTheBounds(b *testing.B) {
	var src bytes.Buffer
	src.WriteString("system: \"\\x61\"\nservices:\n")
	for i := range (document.MaxWords - 300) / 3 {
		if i%document.MaxKeys == 0 {
			fmt.Fprintf(&src, " a%d:\n  command: a\n  environment:\n", i)
		}
		fmt.Fprintf(&src, "   K%d: v\n", i)
	}
	for b.Loop() {
		if _, err := Parse(FileName, src.Bytes(), "/", Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	src := large30x200()
	was, err := Parse(FileName, src, "/", Options{})
	if err != nil {
		b.Fatal(err)
	}
	is, err := Parse(FileName, src, "/", Options{Environment: "production"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if len(Diff(was, is)) != 1 {
			b.Fatal("one value differs")
		}
	}
}
