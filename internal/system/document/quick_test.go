package document

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// sameAsThorough compares what is read quickly with what the library reads.
func sameAsThorough(t *testing.T, src string) (quick bool) {
	t.Helper()
	got, ok := quickly(src)
	if !ok {
		return false
	}
	var faults []Fault
	want := thorough(src, func(f Fault) { faults = append(faults, f) })
	if len(faults) > 0 {
		t.Errorf("is read quickly, but the library says: %v\n%s", faults, src)
		return true
	}
	if !reflect.DeepEqual(got, want) && dump(trusted(got), "") != dump(trusted(want), "") {
		t.Errorf("is read as\n%s\nnot as\n%s\nfrom\n%s", dump(got, ""), dump(want, ""), src)
	}
	return true
}

// trusted is a node without the columns of scalars: with spaces at the end of a line
// the library tells some of them wrong.
func trusted(n *Node) *Node {
	out := *n
	out.Items = nil
	for _, m := range n.Items {
		out.Items = append(out.Items, trusted(m))
	}
	if n.Scalar() || n.Kind == Null {
		out.At.Column = 0
		if n.KeyAt == n.At { // of a list
			out.KeyAt.Column = 0
		}
	}
	return &out
}

func dump(n *Node, indent string) string {
	s := fmt.Sprintf("%s%q at %v: %v %q at %v, %s\n", indent, n.Key, n.KeyAt, n.Kind, n.Text, n.At, n.Path)
	for _, m := range n.Items {
		s += dump(m, indent+"  ")
	}
	return s
}

// TestQuickReadsAsTheLibrary compares the two for each file that is kept here.
func TestQuickReadsAsTheLibrary(t *testing.T) {
	var files []string
	for _, glob := range []string{"../../../stacks/*/fairlead.yaml", "../../../bench/fairlead.yaml", "../../../test/nest/fairlead.yaml"} {
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
	page, err := os.ReadFile("../../../docs/file.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range strings.Split(string(page), "```") {
		if block, ok := strings.CutPrefix(text, "yaml\n"); ok && i%2 == 1 {
			sameAsThorough(t, block)
		}
	}
	for _, text := range goldens(t) {
		sameAsThorough(t, text)
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
	for _, text := range goldens(f) {
		f.Add(text)
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

// TestQuickReadsWhatPeopleWrite compares the two for files made of what people write,
// in every order and at every depth.
func TestQuickReadsWhatPeopleWrite(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	quick, all := 0, 1500
	for range all {
		w := writer{random: random}
		w.block(0, 3)
		if sameAsThorough(t, w.b.String()) {
			quick++
		}
		if t.Failed() {
			return
		}
	}
	if quick < all/4 {
		t.Errorf("%d of %d files are read quickly", quick, all)
	}
}

// writer writes YAML at random.
type writer struct {
	random *rand.Rand
	b      strings.Builder
	keys   int
}

func (w *writer) one(of ...string) string { return of[w.random.IntN(len(of))] }

// key is another one each time.
func (w *writer) key() string {
	w.keys++
	n := strconv.Itoa(w.keys)
	return w.one("a"+n, "services-"+n, "GET /api/{id}/"+n, "/x/"+n, `"quoted key `+n+`"`, "'single"+n+"'", n, "with space "+n, "data.vhf.x"+n, "activity.*."+n, "x-y_z"+n)
}

func (w *writer) scalar() string {
	if w.random.IntN(20) == 0 { // what may be the library's
		return w.one("-1", "~", "./x", "a,b", "http://x/y", "a:b", "a#b", "a - b", "*.x", "&a", "{id}", "a{b}", "ä", "", "a: b", "'it''s'", `"\t"`)
	}
	return w.one("a", "a b", "1", "1.5", "0x1F", "010", "true", "False", "null", "5s", "10MiB", "/srv/x", "$OUT/x", `"q"`, "'q'", `""`,
		"it's", `say "x"`, "2027-01-31", "go build -o $OUT/a ./x", "yes", "on", ".5", "1_000", "1e3", "orders.>", "a.*")
}

func (w *writer) flow(depth int) string {
	var parts []string
	list := w.random.IntN(2) == 0
	for range w.random.IntN(4) {
		v := w.scalar()
		if depth > 0 && w.random.IntN(4) == 0 {
			v = w.flow(depth - 1)
		}
		if !list {
			v = w.key() + ":" + w.one(" ", " ", " ", "  ") + v
		}
		parts = append(parts, v)
	}
	s := strings.Join(parts, w.one(", ", ", ", ",", " , ", ",\n    "))
	if list {
		return "[" + s + "]"
	}
	return "{" + w.one("", "", " ") + s + w.one("", "", " ") + "}"
}

func (w *writer) end() {
	w.b.WriteString(w.one("", "", "", " ", " # note", "  # note: [x]") + w.one("\n", "\n", "\n", "\n\n", "\n# line\n", "\n   # line\n"))
}

// block writes a map or a list, indented by some spaces.
func (w *writer) block(indent, depth int) {
	pad := strings.Repeat(" ", indent)
	list := indent > 0 && w.random.IntN(4) == 0
	for range 1 + w.random.IntN(4) {
		w.b.WriteString(pad)
		if list {
			w.b.WriteString("- ")
		}
		if !list || w.random.IntN(3) == 0 {
			w.b.WriteString(w.key() + ":")
			if depth > 0 && w.random.IntN(3) == 0 && !list {
				w.end()
				w.block(indent+w.random.IntN(3), depth-1)
				continue
			}
			w.b.WriteString(" ")
		}
		if w.random.IntN(3) == 0 {
			w.b.WriteString(w.flow(2))
		} else {
			w.b.WriteString(w.scalar())
		}
		w.end()
	}
}
