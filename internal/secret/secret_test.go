package secret

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/system"
)

func env(pairs map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := pairs[name]; return v, ok }
}

func TestResolveTakesEachSourceAndNamesAllThatIsMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	write(t, file, "from-file\n")
	secrets := []system.Secret{
		{Name: "A", Env: "A_VAR"},
		{Name: "B", File: file},
		{Name: "C", Generate: 40},
	}
	s := Open(filepath.Join(dir, "secrets"))
	got, generated, err := s.Resolve(secrets, env(map[string]string{"A_VAR": "from-env"}))
	if err != nil {
		t.Fatal(err)
	}
	if got["A"] != "from-env" || got["B"] != "from-file" || len(got["C"]) != 40 {
		t.Errorf("values are %d, %d and %d characters long, want 8, 9 and 40", len(got["A"]), len(got["B"]), len(got["C"]))
	}
	if len(generated) != 1 || generated[0] != "C" {
		t.Errorf("generated %v, want [C]", generated)
	}

	_, _, err = s.Resolve(append(secrets, system.Secret{Name: "D", File: filepath.Join(dir, "none")}), env(nil))
	for _, want := range []string{"secret A: the variable A_VAR is not set", "secret D: read its file: " + filepath.Join(dir, "none")} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if _, ok := errors.AsType[*MissingError](err); !ok {
		t.Errorf("error %T is not a MissingError", err)
	}
}

func TestGeneratedValueStaysAndIsPrivate(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "secrets"))
	secrets := []system.Secret{{Name: "X", Generate: 24}, {Name: "Y", Generate: 24}}
	first, _, err := s.Resolve(secrets, env(nil))
	if err != nil {
		t.Fatal(err)
	}
	second, generated, err := Open(filepath.Dir(s.Path("X"))).Resolve(secrets, env(nil))
	if err != nil {
		t.Fatal(err)
	}
	if first["X"] != second["X"] || len(generated) != 0 {
		t.Error("the second call generated the value anew")
	}
	if first["X"] == first["Y"] {
		t.Error("two secrets have one value")
	}
	info, err := os.Stat(s.Path("X"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode().Perm())
	}
}

func TestUnusableValuesAreRefusedWithoutShowingThem(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "\n", "nul": "hush\x00", "large": strings.Repeat("hush", MaxSize)} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, name)
			write(t, file, content)
			_, _, err := Open(dir).Resolve([]system.Secret{{Name: "S", File: file}}, env(nil))
			if err == nil || strings.Contains(err.Error(), "hush") {
				t.Errorf("error is %v, want one without the value", err)
			}
		})
	}
	for _, path := range []string{dir, "/dev/zero"} {
		if _, _, err := Open(dir).Resolve([]system.Secret{{Name: "S", File: path}}, env(nil)); err == nil || !strings.Contains(err.Error(), path+" is no plain file") {
			t.Errorf("error of %s is %v", path, err)
		}
	}
	_, _, err := Open(dir).Resolve([]system.Secret{{Name: "S", Env: "EMPTY"}}, env(map[string]string{"EMPTY": ""}))
	if err == nil || !strings.Contains(err.Error(), "EMPTY is empty") {
		t.Errorf("error is %v, want one about the empty variable", err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
