package match

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestNextIsLikeNew goes through many small changes, each compared with a table
// that is built anew, for all paths that the patterns are about.
func TestNextIsLikeNew(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	key := func() string {
		k := pick("", "", "GET ", "POST ", "HEAD ") + pick("", "", "", "a.test", "*.test")
		for range random.IntN(3) {
			k += pick("/a", "/b", "/c", "/{x}", fmt.Sprintf("/n%d", random.IntN(20)))
		}
		return k + pick("/a", "/b", "/", "/{$}", "/{y}", "/{z...}")
	}
	var keys []string
	table, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	refused, shared := 0, 0
	for step := range 3000 {
		next := slices.Clone(keys)
		for range random.IntN(3) {
			if at := random.IntN(len(next) + 1); at < len(next) && (len(next) > 60 || random.IntN(2) == 0) {
				next = slices.Delete(next, at, at+1)
			} else {
				next = slices.Insert(next, at, key())
			}
		}
		want, werr := New(patternsOf(next...))
		got, err := table.Next(patternsOf(next...))
		if fmt.Sprint(err) != fmt.Sprint(werr) {
			t.Fatalf("step %d: %q: %v, want %v", step, next, err, werr)
		}
		if err != nil {
			refused++
			continue
		}
		keys = next
		if got != table && len(got.at) != len(next) {
			shared++
		}
		previous := table
		table = got
		for _, host := range []string{"", "a.test", "b.test"} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
				for _, path := range []string{"/", "/a", "/a/", "/a/b", "/b/a/", "/c/q/a", "/q/q/q/q", "/n1/a", "/n2/b", "/n3/", "/q"} {
					i, vs := got.Find(method, host, path, nil)
					j, ws := want.Find(method, host, path, nil)
					if i != j || !slices.Equal(vs, ws) {
						t.Fatalf("step %d: %s %s%s is %d %v, want %d %v, of %q", step, method, host, path, i, vs, j, ws, keys)
					}
					if k, _ := previous.Find(method, host, path, nil); k >= len(previous.patterns) {
						t.Fatalf("step %d: the table before has changed", step)
					}
				}
			}
		}
		if !sameBlur(got.any, want.any) {
			t.Fatalf("step %d: nodes know too much or too little of what is below them: %q", step, keys)
		}
	}
	if refused == 0 || shared == 0 {
		t.Errorf("%d were refused, %d shared: a test of nothing", refused, shared)
	}
}

// sameBlur reports whether two trees have the same nodes with the same marks.
func sameBlur(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.blurred != b.blurred || len(a.few)+len(a.literals) != len(b.few)+len(b.literals) || !sameBlur(a.wild, b.wild) {
		return false
	}
	for _, c := range a.few {
		if !sameBlur(c.node, b.literal(c.text)) {
			return false
		}
	}
	for text, next := range a.literals {
		if !sameBlur(next, b.literal(text)) {
			return false
		}
	}
	return true
}

func TestNextOfTheSameIsTheSame(t *testing.T) {
	m, err := (*Table)(nil).Next(patternsOf("GET /a", "/b/{x}"))
	if err != nil {
		t.Fatal(err)
	}
	if next, err := m.Next(patternsOf("GET /a", "/b/{x}")); next != m || err != nil {
		t.Errorf("%p %v, want %p", next, err, m)
	}
}

// TestNextLeavesTheTableBeforeAlone: requests are still matched with it.
func TestNextLeavesTheTableBeforeAlone(t *testing.T) {
	keys := manyKeys()
	before, err := New(patternsOf(keys...))
	if err != nil {
		t.Fatal(err)
	}
	without := slices.Delete(slices.Clone(keys), 2, 3)
	after, err := before.Next(patternsOf(without...))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range map[int]string{0: "/api/service0/resource0", 2: "/api/service0/resource0/1"} {
		if got, _ := before.Find("GET", "", path, nil); got != i {
			t.Errorf("%s is %d before, want %d", path, got, i)
		}
	}
	if got, _ := after.Find("GET", "", "/api/service0/resource0/1", nil); got != -1 {
		t.Errorf("found %d", got)
	}
	if got, _ := after.Find("PUT", "", "/api/service0/resource0/1", nil); got != 2 {
		t.Errorf("found %d, want 2", got)
	}
}

func BenchmarkNext(b *testing.B) {
	keys := manyKeys()
	one, other := patternsOf(keys...), patternsOf(append(slices.Clone(keys), "/another")...)
	m, err := New(one)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if m, err = m.Next(other); err != nil {
			b.Fatal(err)
		}
		one, other = other, one
	}
}
