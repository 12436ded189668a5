package system

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestARevisionKeepsTheSchemasThatItWasAppliedWith: what is stored of a revision reads
// the same later, whatever became of the files.
func TestARevisionKeepsTheSchemasThatItWasAppliedWith(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "n.json")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src := []byte("system: a\nqueues: {q: {type: N}}\ntypes: {N: n.json}\n")
	write(`{"type": "object"}`)
	first, err := Parse(FileName, src, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	write(`{"type": "string"}`)
	second, err := Parse(FileName, src, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	changes := Diff(first, second)
	if len(changes) != 1 || changes[0].Path != "types.N" || changes[0].Kind != Changed || !strings.HasPrefix(changes[0].New, "n.json (sha256 ") {
		t.Errorf("Diff: %+v, want the type changed", changes)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	again, err := Parse(FileName, src, dir, Options{Files: first.Files})
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := again.Type("N"); string(n.Schema) != `{"type": "object"}` || len(Diff(first, again)) > 0 {
		t.Errorf("the stored revision reads %q and differs by %+v", n.Schema, Diff(first, again))
	}
	var findings Findings
	if _, err := Parse(FileName, src, dir, Options{Files: map[string][]byte{}}); !errors.As(err, &findings) || findings[0].Code != string(notFound) {
		t.Errorf("a revision without the schema: %v, want %s", err, notFound)
	}
	if q := again.Queue("q"); q == nil || q.Type != "N" || again.Queue("q.r") != nil {
		t.Errorf("Queue: %+v", q)
	}
}
