package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The README shows a whole file. It must be one.
func TestReadmeShowsAValidFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	src, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("README.md shows no file")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "goods.sql"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("fairlead.yaml", []byte(src), dir, Options{}); err != nil {
		t.Errorf("the file of README.md is at fault:\n%v", err)
	}
}
