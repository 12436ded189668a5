package system

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what was found into the goldens")

// TestFindings reads testdata/*.txtar: a fairlead.yaml, the files it names, and what
// is wanted: one line for each finding with its code, or for each warning of a file that
// is valid. "environment: NAME" on the
// first line of the archive chooses one. Every code must be wanted somewhere.
func TestFindings(t *testing.T) {
	covered := map[string]bool{}
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("find goldens: %v", err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			src, want := unpack(t, ar, dir)
			sys, err := Parse(FileName, src, dir, optionsOf(ar))
			var got strings.Builder
			var findings Findings
			if err != nil && !errors.As(err, &findings) {
				t.Fatalf("Parse: %v, want Findings", err)
			}
			for _, f := range findings {
				covered[f.Code] = true
				fmt.Fprintf(&got, "%s [%s]\n", f, f.Code)
			}
			if err == nil {
				for _, f := range sys.Warnings {
					covered[f.Code] = true
					fmt.Fprintf(&got, "warning: %s [%s]\n", f, f.Code)
				}
			}
			if *update {
				writeWant(t, archive, ar, got.String())
				return
			}
			if got.String() != want {
				t.Errorf("findings\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
	for _, tt := range large {
		t.Run(tt.name, func(t *testing.T) {
			var findings Findings
			if _, err := Parse(FileName, tt.src(), t.TempDir(), Options{}); !errors.As(err, &findings) {
				t.Fatalf("Parse: %v, want Findings", err)
			}
			last := findings[len(findings)-1]
			covered[last.Code] = true
			if last.Code != string(tt.want) {
				t.Errorf("Parse: %v, want %s", last, tt.want)
			}
		})
	}
	for c := range problems {
		if !covered[string(c)] {
			t.Errorf("no golden wants the diagnostic %s", c)
		}
	}
}

// large are files that are too large to stand in an archive; those that are too large
// to be read at all are document's.
var large = []struct {
	name string
	src  func() []byte
	want code
}{
	{"more problems than anyone reads", func() []byte {
		var b bytes.Buffer
		for i := range maxFindings + 10 {
			fmt.Fprintf(&b, "zzz%d: 1\n", i)
		}
		return b.Bytes()
	}, tooManyProblems},
	{"more routes than a table holds", func() []byte {
		var b bytes.Buffer
		b.WriteString("system: a\nservices: {a: {command: a}}\nroutes: {")
		for i := range maxRoutes + 1 {
			fmt.Fprintf(&b, "/%d: {service: a},", i)
		}
		b.WriteString("}")
		return b.Bytes()
	}, tooMany},
}

func optionsOf(ar *txtar.Archive) Options {
	first, _, _ := strings.Cut(string(ar.Comment), "\n")
	name, ok := strings.CutPrefix(first, "environment: ")
	if !ok {
		return Options{}
	}
	return Options{Environment: name}
}

// unpack writes an archive's files to dir and returns the system's file and what is
// wanted.
func unpack(t *testing.T, ar *txtar.Archive, dir string) (src []byte, want string) {
	t.Helper()
	for _, f := range ar.Files {
		switch f.Name {
		case FileName:
			src = f.Data
			continue
		case "want":
			want = string(f.Data)
			continue
		}
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return src, want
}

func writeWant(t *testing.T, path string, ar *txtar.Archive, want string) {
	t.Helper()
	ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return f.Name == "want" })
	ar.Files = append(ar.Files, txtar.File{Name: "want", Data: []byte(want)})
	if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}
