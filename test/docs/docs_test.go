// Package docs_test holds docs/services.md against what there is: its Go program
// compiles, its file is valid.
package docs_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/cli"
)

const page = "../../docs/services.md"

// block returns the page's block of code in a language that comes after a text.
func block(t *testing.T, after, language string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), after)
	if ok {
		_, rest, ok = strings.Cut(rest, "\n```"+language+"\n")
	}
	code, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatalf("%s has no %s after %q", page, language, after)
	}
	return code
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestGoServiceCompiles compiles the Go service as if it stood in a folder of this
// module, so that nothing has to be fetched.
func TestGoServiceCompiles(t *testing.T) {
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "test", "docs", "notes", "main.go"): write(t, filepath.Join(dir, "main.go"), block(t, "`notes/main.go`", "go")),
	}})
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, "-overlay", write(t, filepath.Join(dir, "overlay.json"), string(overlay)), "./test/docs/notes")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("the Go service of %s: %v\n%s", page, err, out)
	}
}

func TestFileIsValid(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "fairlead.yaml"), block(t, "`fairlead.yaml`", "yaml"))
	write(t, filepath.Join(dir, "notes.sql"), block(t, "`notes.sql`", "sql"))
	var out, errs bytes.Buffer
	if code := cli.Main([]string{"fairlead", "check", dir}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Errorf("the file of %s: exit code %d\n%s%s", page, code, &out, &errs)
	}
}
