package document

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMerge(t *testing.T) {
	read := func(src string) *Node {
		n := Read([]byte(src), func(f Fault) { t.Fatalf("Read(%q): %v", src, f) })
		if n == nil {
			t.Fatalf("Read(%q) = nil", src)
		}
		return n
	}
	tests := []struct{ name, base, over, want string }{
		{"maps merge", "{a: {b: 1, c: 2}}", "{a: {c: 3, d: 4}}", "{a: {b: 1, c: 3, d: 4}}"},
		{"lists replace", "{a: [1, 2]}", "{a: [3]}", "{a: [3]}"},
		{"null removes", "{a: 1, b: {c: 2, d: 3}}", "{a: null, b: {c: null}}", "{b: {d: 3}}"},
		{"a map replaces a scalar", "{a: 1}", "{a: {b: 2}}", "{a: {b: 2}}"},
		{"a scalar replaces a map", "{a: {b: 2}}", "{a: 1}", "{a: 1}"},
		{"what is new has no nulls", "{a: 1}", "{b: {c: null, d: 1}}", "{a: 1, b: {d: 1}}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := read(tt.base)
			before := canonical(base)
			got := canonical(Merge(base, read(tt.over), func(*Node) {}))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Merge (-want +got)\n%s", diff)
			}
			if after := canonical(base); after != before {
				t.Errorf("Merge changed its base to %s", after)
			}
		})
	}
}
