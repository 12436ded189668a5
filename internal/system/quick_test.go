package system

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// sameAsThorough compares what is read quickly with what the library reads.
func sameAsThorough(t *testing.T, src string) (quick bool) {
	t.Helper()
	got, ok := quickly(src)
	if !ok {
		return false
	}
	rec := newRecorder(FileName, []byte(src))
	want := thorough(src, rec)
	if len(rec.findings) > 0 {
		t.Errorf("is read quickly, but the library says: %v\n%s", rec.findings, src)
		return true
	}
	if !reflect.DeepEqual(got, want) && dump(trusted(got), "") != dump(trusted(want), "") {
		t.Errorf("is read as\n%s\nnot as\n%s\nfrom\n%s", dump(got, ""), dump(want, ""), src)
	}
	return true
}

// trusted is a node without the columns of scalars: with spaces at the end of a line
// the library tells some of them wrong.
func trusted(n *node) *node {
	out := *n
	out.items = nil
	for _, m := range n.items {
		out.items = append(out.items, trusted(m))
	}
	if n.scalar() {
		out.at.column = 0
		if n.keyAt == n.at { // of a list
			out.keyAt.column = 0
		}
	}
	return &out
}

func dump(n *node, indent string) string {
	s := fmt.Sprintf("%s%q at %v: %v %q at %v, %s\n", indent, n.key, n.keyAt, n.kind, n.text, n.at, n.path)
	for _, m := range n.items {
		s += dump(m, indent+"  ")
	}
	return s
}

// TestQuickReadsAsTheLibrary compares the two for each file that is kept here.
func TestQuickReadsAsTheLibrary(t *testing.T) {
	var files []string
	for _, glob := range []string{"../../stacks/*/fairlead.yaml", "../../bench/fairlead.yaml", "../../test/nest/fairlead.yaml"} {
		found, err := filepath.Glob(glob)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !sameAsThorough(t, string(text)) {
			t.Errorf("%s is not read quickly", file)
		}
	}
	page, err := os.ReadFile("../../docs/file.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range examples(string(page)) {
		sameAsThorough(t, text)
	}
	for _, glob := range []string{"testdata/*.txtar", "testdata/valid/*.txtar"} {
		archives, _ := filepath.Glob(glob)
		for _, archive := range archives {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			sameAsThorough(t, string(ar.Files[0].Data))
		}
	}
}

// TestQuickLeavesToTheLibrary: what is not plain is not read in a way of its own.
func TestQuickLeavesToTheLibrary(t *testing.T) {
	for _, section := range []string{
		"a: |\n  b\n", "a: >\n  b\n", "a: &x b\n", "a: *x\n", "a: !x b\n", "a: b\n  c\n", "a: \"b\n  c\"\n", "a: \"\\t\"\n", "a: 'it''s'\n",
		"a:\n\tb: c\n", "a: [b c: d]\n", "a: {b}\n", "a: {b: c,}\n", "a: {b: {c: d}, b: e}\n", "a:\n  b: c\n  b: d\n", "a:\n  b: c\n   d: e\n",
		"a: b: c\n", "a: ä\n", "a: b\r\n", "a:\n  - - b\n", "? a\n: b\n", "a: [b # c\n  ]\n", "a:b\n", "<<: a\n", "null: a\n", "a: b\nc\n",
		"a:\n  b: c\n d: e\n", "a: {b: c} d\n", "a: \"b\" c\n",
	} {
		q := quick{src: section, line: 1}
		if n, ok := q.blockMap(""); ok && q.done {
			t.Errorf("%q is read as\n%s", section, dump(n, ""))
		}
		sameAsThorough(t, section)
		sameAsThorough(t, "system: a\n"+section+"z: [a]\n")
	}
}

// FuzzQuick: whatever is read quickly, the library reads in the same way.
func FuzzQuick(f *testing.F) {
	for _, glob := range []string{"testdata/*.txtar", "testdata/valid/*.txtar"} {
		archives, _ := filepath.Glob(glob)
		for _, archive := range archives {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(ar.Files[0].Data))
		}
	}
	f.Add("a:\n- b\n- c: d\n  e: f\ng: [1, 0x2, .5, true, ~, null]\n")
	f.Add("A:\r0\nB:")
	f.Add("A: {B: [0:0, C:0]}")
	f.Add("a: # b\n  c: 'd' # e\n\n  # f\n  g: h #i\n")
	f.Add("a: {b: [c, {d: e}],\n  f: g\n}\n")
	f.Fuzz(func(t *testing.T, src string) {
		if strings.Contains(src, "\ufeff") || bytes.ContainsRune([]byte(src), 0) {
			return
		}
		sameAsThorough(t, src)
	})
}
