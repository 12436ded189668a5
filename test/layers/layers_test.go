// Package layers holds the test that keeps docs/architecture.md true: which
// package may import which.
package layers

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed lists, for each room, what it may import of ours. A room's own
// sub-packages count as the room.
var allowed = map[string][]string{
	"internal/wire":      {},
	"internal/system":    {},
	"internal/bus":       {"internal/system", "internal/wire"},
	"internal/supervise": {"internal/system", "internal/wire"},
	"internal/gateway":   {"internal/system", "internal/wire"},
	"internal/secret":    {"internal/system", "internal/wire"},
	"internal/database":  {"internal/system", "internal/wire"},
	"internal/control":   {"internal/system", "internal/wire"},
	"internal/observe":   {"internal/system", "internal/wire"},
	"internal/watch":     {},
	"web":                {},
	"internal/node": {
		"internal/wire", "internal/system", "internal/bus", "internal/supervise", "internal/gateway",
		"internal/secret", "internal/database", "internal/control", "internal/observe", "internal/watch", "web",
	},
	"internal/cli": {"internal/control", "internal/node", "internal/system"},
	"cmd/fairlead": {"internal/cli"},
	"service":      {"internal/wire"},
	"stacks":       {"service"},
	"bench":        {"service", "internal/cli", "internal/control"},
	"test":         {"service", "internal/cli", "internal/control", "internal/wire"},
}

// banned are names of packages that say nothing about what belongs there.
var banned = []string{"util", "utils", "common", "types", "pkg", "manager", "helper", "helpers"}

func TestImportsFollowTheTableOfRooms(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(banned, d.Name()) {
				t.Errorf("%s: no package may be called %s", rel, d.Name())
			}
			if strings.HasPrefix(d.Name(), ".") && rel != ".." && rel != "." && d.Name() != ".." || d.Name() == "node_modules" || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		files++
		from := room(filepath.ToSlash(filepath.Dir(rel)))
		may, known := allowed[from]
		if !known {
			t.Errorf("%s: the room %s is not in the table; see docs/architecture.md", rel, from)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			target, ours := strings.CutPrefix(target, "fairlead/")
			if !ours {
				continue
			}
			if to := room(target); to != from && !slices.Contains(may, to) {
				t.Errorf("%s imports %s: %s may import only %v", rel, target, from, may)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < len(allowed) {
		t.Fatalf("only %d files were looked at", files)
	}
}

// room is the room that a folder belongs to.
func room(dir string) string {
	parts := strings.SplitN(dir, "/", 3)
	if (parts[0] == "internal" || parts[0] == "cmd") && len(parts) > 1 {
		return parts[0] + "/" + parts[1]
	}
	return parts[0]
}
