package document

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// read reads a document and returns what is wrong with it, too.
func read(src string) (n *Node, faults []Fault) {
	n = Read([]byte(src), func(f Fault) { faults = append(faults, f) })
	return n, faults
}

// told is a fault on one line.
func told(f Fault) string {
	s := fmt.Sprintf("%d:%d: ", f.At.Line, f.At.Column)
	if f.Path != "" {
		s += f.Path + ": "
	}
	return s + f.Problem + "; " + f.Advice
}

// goldens are the files of the goldens of the model.
func goldens(tb testing.TB) []string {
	tb.Helper()
	var texts []string
	for _, glob := range []string{"../testdata/*.txtar", "../testdata/valid/*.txtar"} {
		archives, err := filepath.Glob(glob)
		if err != nil || len(archives) == 0 {
			tb.Fatalf("%s: %v", glob, err)
		}
		for _, archive := range archives {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				tb.Fatal(err)
			}
			texts = append(texts, string(ar.Files[0].Data))
		}
	}
	return texts
}

// TestFaults wants every fault but those of [TestSyntax].
func TestFaults(t *testing.T) {
	const (
		data    = "a system is described by hand; keep data in files of its own"
		bracket = "is nested deeper than 32 levels; nothing in this file needs that; look for a missing bracket"
		feature = "which this file does without; write the value out, or quote the text if it begins with that sign"
	)
	tests := []struct {
		name string
		src  string
		code string
		goes bool // on, so that what follows is judged too
		want []string
	}{
		{"larger than a file may be", strings.Repeat("# comment\n", MaxSize/10+1), fileTooLarge, false, []string{"1:1: is larger than 1 MiB; " + data}},
		{"not UTF-8", "a: b\nc: d\xff\n", notText, false, []string{"2:5: is not UTF-8 text; save the file as UTF-8"}},
		{
			"more words than a file may have", "a: [" + strings.Repeat("a,", MaxWords/2) + "]", tooLong, false,
			[]string{"1:200002: has more than 200000 words and signs; " + data},
		},
		{"nested lists", strings.Repeat("[", MaxWords/2) + strings.Repeat("]", MaxWords/2), tooDeep, false, []string{"1:33: " + bracket}},
		{"nested block lists", strings.Repeat("- ", 20_000) + "x", tooDeep, false, []string{"1:65: " + bracket}},
		{"nested block maps", nested("a:"), tooDeep, false, []string{"33:66: " + bracket}},
		{"lists in maps in the same column", nested("a:", "- "), tooDeep, false, []string{"33:34: " + bracket}},
		{
			"more keys than a map may have", "routes:\n" + routes(MaxKeys+1), tooWide, false,
			[]string{"10002:8: has a map of more than 5000 keys; a system is described by hand; route whole folders of paths, keep data in files of its own"},
		},
		{
			"parts of YAML that expand or hide", "a: &x b\nc: *x\n", yamlFeature, false,
			[]string{"1:4: holds an anchor (&), " + feature, "2:4: holds an alias (*), " + feature},
		},
		{"second document", "---\na: b\n---\nc: d\n", secondDocument, false, []string{"4:1: begins a second document; keep one document, without --- in between"}},
		{"keys that are no text", "a:\n  ~: b\n  .inf: c\n", keyNotText, true, []string{"2:3: a: holds a key that is no text; quote the key", "3:3: a: holds a key that is no text; quote the key"}},
		{
			"duplicate keys", "a:\n  b: c\n  b: d\na: e\n", duplicateKey, true,
			[]string{"3:3: a.b: is already set at line 2:3; keep one of the two", "4:1: a: is already set at line 1:1; keep one of the two"},
		},
	}
	wanted := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, faults := read(tt.src)
			if (n != nil) != tt.goes {
				t.Errorf("Read = %v, want a node: %v", n, tt.goes)
			}
			var got []string
			for _, f := range faults {
				got = append(got, told(f))
				wanted[f.Code] = true
				if f.Code != tt.code {
					t.Errorf("the code is %s, want %s", f.Code, tt.code)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults (-want +got)\n%s", diff)
			}
		})
	}
	for code := range words {
		if !wanted[code] {
			t.Errorf("no test wants the fault %s", code)
		}
	}
}

// nested is 100 times some lines, each time indented deeper.
func nested(lines ...string) string {
	var b strings.Builder
	for i := range 100 {
		for _, line := range lines {
			b.WriteString(strings.Repeat("  ", i) + line + "\n")
		}
	}
	return b.String()
}

func routes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  /%d:\n    service: a\n", i)
	}
	return b.String()
}

// TestPlaces: every value and key comes with the place where it was written and its path.
func TestPlaces(t *testing.T) {
	const plain = `a: b c
"d.e": [1, {f: .5}]
g:
  # h
  i: null
  j:
  - k: TRUE
    l: 'm'
`
	want := `"" at line 0:0: a map "" at line 1:1, 
  "a" at line 1:1: text "b c" at line 1:4, a
  "d.e" at line 2:1: a list "" at line 2:8, "d.e"
    "" at line 2:9: a number "1" at line 2:9, "d.e"[0]
    "" at line 2:12: a map "" at line 2:12, "d.e"[1]
      "f" at line 2:13: a number ".5" at line 2:16, "d.e"[1].f
  "g" at line 3:1: a map "" at line 5:3, g
    "i" at line 5:3: nothing "" at line 5:3, g.i
    "j" at line 6:3: a list "" at line 7:3, g.j
      "" at line 7:5: a map "" at line 7:5, g.j[0]
        "k" at line 7:5: true or false "true" at line 7:8, g.j[0].k
        "l" at line 8:5: text "m" at line 8:8, g.j[0].l
`
	for name, src := range map[string]string{
		"line by line": plain,
		"library":      plain + "z: \"\\x62\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			n, faults := read(src)
			if n == nil || len(faults) > 0 {
				t.Fatalf("Read: %v", faults)
			}
			got := dump(n, "")
			if name == "library" {
				got = strings.TrimSuffix(got, "  \"z\" at line 9:1: text \"b\" at line 9:4, z\n")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Read (-want +got)\n%s", diff)
			}
		})
	}
}

// TestNothing: a document without anything is one, of the kind Null.
func TestNothing(t *testing.T) {
	for _, src := range []string{"", "\n", "# only a comment\n", "---\n", "~\n", "null\n", "\ufeff"} {
		n, faults := read(src)
		if n == nil || n.Kind != Null || len(faults) > 0 {
			t.Errorf("Read(%q) = %v, %v; want nothing", src, n, faults)
		}
	}
}

// FuzzRead: nothing panics; what is wrong has words; what cannot be judged was told.
func FuzzRead(f *testing.F) {
	for _, text := range goldens(f) {
		f.Add([]byte(text))
	}
	f.Add([]byte("a: |\r\n  b\r\n\r\n? c\r\n"))
	f.Add([]byte("\ufeffa: \xff\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		n, faults := read(string(src))
		if n == nil && len(faults) == 0 {
			t.Error("is not read, and nobody is told why")
		}
		for _, f := range faults {
			if f.Code == "" || f.Problem == "" || f.Advice == "" || strings.Contains(told(f), "%!") || strings.ContainsAny(told(f), "\n\r") {
				t.Errorf("%q is badly worded", told(f))
			}
		}
		if n != nil {
			n.Leaves()
			n.Plain()
		}
	})
}

// BenchmarkRead reads maps of many keys: plain ones line by line, those with an escape
// in the first line with the library.
func BenchmarkRead(b *testing.B) {
	for name, first := range map[string]string{"lines": "a: b\n", "library": "a: \"\\x62\"\n"} {
		b.Run(name, func(b *testing.B) {
			src := []byte(first + "routes:\n" + routes(1000))
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if Read(bytes.Clone(src), func(f Fault) { b.Fatal(told(f)) }) == nil {
					b.Fatal("is not read")
				}
			}
		})
	}
}
