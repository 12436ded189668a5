package system

import (
	"bytes"
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
			t.Fatalf("%s: %s", b.String(), bad.problem)
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
