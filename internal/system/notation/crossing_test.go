package notation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestMeetingPathsAreThoseThatMeet compares the tree with a look at each pair.
func TestMeetingPathsAreThoseThatMeet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	path := func() []segment {
		var b strings.Builder
		for i := range random.IntN(4) {
			b.WriteString([]string{"/a", "/b", fmt.Sprintf("/{x%d}", i)}[random.IntN(3)])
		}
		b.WriteString([]string{"/a", "/{z}", "/", "/{$}", "/{rest...}"}[random.IntN(5)])
		segments, bad := parseSegments(b.String())
		if bad != nil {
			t.Fatalf("%s: %s", b.String(), bad.Problem)
		}
		return segments
	}
	var tree crossing
	var paths [][]segment
	for range 500 {
		q := path()
		var want, got []int
		for i, p := range paths {
			if pathsMeet(p, q) {
				want = append(want, i)
			}
		}
		tree.meeting(q, func(i int) { got = append(got, i) })
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%v meets %v, want %v", q, got, want)
		}
		tree.add(q, len(paths))
		paths = append(paths, q)
	}
}

// TestPatternsTellTheFirst: of several that stand in the way it is the first, and those
// of other hosts do not.
func TestPatternsTellTheFirst(t *testing.T) {
	var patterns Patterns
	for i, tt := range []struct {
		key   string
		first int
		how   Relation
	}{
		{"/{x}/b", 0, Apart},
		{"a.com/a/{y}", 1, Apart},
		{"/a/{y}", 0, Crossed},
		{"/c/{z}", 0, Crossed},
		{"/a/{z}", 0, Crossed},
		{"POST A.com/a/{z}", 5, Apart},
		{"a.com/a/{z}", 1, Same},
		{"/d/e/{$}", 7, Apart},
		{"/d/e/{$}", 7, Same},
	} {
		p, bad := ParsePattern(tt.key)
		if bad != nil {
			t.Fatalf("%s: %s", tt.key, bad.Problem)
		}
		if first, how := patterns.Add(&p); first != tt.first || how != tt.how {
			t.Errorf("%d, %s: %d, %v; want %d, %v", i, tt.key, first, how, tt.first, tt.how)
		}
	}
}
