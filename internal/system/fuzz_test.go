package system

import (
	"bytes"
	"errors"
	"fmt"
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

func BenchmarkParse5000Routes(b *testing.B) {
	var src bytes.Buffer
	src.WriteString("system: a\nservices:\n  backend: {external: ['127.0.0.1:1']}\nroutes:\n")
	for i := range maxRoutes {
		fmt.Fprintf(&src, "  /r%d/: {service: backend}\n", i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(FileName, src.Bytes(), "/", Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
