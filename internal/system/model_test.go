package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestModel reads testdata/valid/*.txtar: a file, and the model that is wanted.
func TestModel(t *testing.T) {
	archives, _ := filepath.Glob("testdata/valid/*.txtar")
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			src, want := unpack(t, ar, dir)
			sys, err := Parse(FileName, src, dir, optionsOf(ar))
			if err != nil {
				t.Fatalf("Parse:\n%v", err)
			}
			if string(sys.Source) != string(src) {
				t.Error("Source is not the text of the file")
			}
			sys.Source, sys.Files = nil, nil
			model, err := json.MarshalIndent(sys, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(string(model), dir, "DIR") + "\n"
			if *update {
				writeWant(t, archive, ar, got)
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("model (-want +got)\n%s", diff)
			}
		})
	}
}

// TestDiff reads testdata/diff/*.txtar: two files, and the changes between them.
func TestDiff(t *testing.T) {
	archives, _ := filepath.Glob("testdata/diff/*.txtar")
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			ar, err := txtar.ParseFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			_, want := unpack(t, ar, t.TempDir())
			systems := map[string]*System{}
			for _, f := range ar.Files[:2] {
				if systems[f.Name], err = Parse(f.Name, f.Data, t.TempDir(), Options{}); err != nil {
					// What Diff compares does not depend on it, but a golden should be right.
					t.Fatalf("Parse:\n%v", err)
				}
			}
			var got strings.Builder
			for _, c := range Diff(systems["old"], systems["new"]) {
				fmt.Fprintf(&got, "%s %s: %q -> %q\n", c.Kind, c.Path, c.Old, c.New)
			}
			if *update {
				writeWant(t, archive, ar, got.String())
				return
			}
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("changes (-want +got)\n%s", diff)
			}
			if same := Diff(systems["old"], systems["old"]); len(same) != 0 {
				t.Errorf("Diff of a system with itself: %v", same)
			}
		})
	}
}

func TestDiffOfNothing(t *testing.T) {
	sys := mustParse(t, "system: shop\nservices: {a: {command: a}}\n")
	want := []Change{
		{Kind: Added, Path: "services.a.command", New: "a"},
		{Kind: Added, Path: "system", New: "shop"},
	}
	if diff := cmp.Diff(want, Diff(nil, sys)); diff != "" {
		t.Errorf("Diff(nil, sys) (-want +got)\n%s", diff)
	}
	if got := Diff(nil, nil); got != nil {
		t.Errorf("Diff(nil, nil) = %v", got)
	}
}

func mustParse(t *testing.T, src string) *System {
	t.Helper()
	sys, err := Parse(FileName, []byte(src), t.TempDir(), Options{})
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return sys
}

func TestServiceEqual(t *testing.T) {
	service := func(src string) *Service {
		sys, err := Parse(FileName, []byte("system: shop\nservices: {a: {command: a"+src+"}}\n"), "/", Options{})
		if err != nil {
			t.Fatalf("Parse:\n%v", err)
		}
		return &sys.Services[0]
	}
	external := func(addresses string) *Service {
		sys := mustParse(t, "system: shop\nservices: {a: {external: ["+addresses+"]}}\n")
		return &sys.Services[0]
	}
	tests := []struct {
		name string
		a, b *Service
		want bool
	}{
		{"same", service(""), service(""), true},
		{"replicas do not count", service(", replicas: 2"), service(", replicas: 5"), true},
		{"a default written out", service(""), service(", stop_grace_period: 10s"), true},
		{"durations by value", service(", stop_grace_period: 60s"), service(", stop_grace_period: 1m"), true},
		{"environment", service(""), service(", environment: {A: b}"), false},
		{"bus", service(", bus: {answers: [a]}"), service(", bus: {answers: [b]}"), false},
		{"no bus and an empty one", service(""), service(", bus: {}"), false},
		{"the pool, the drain and what is watched are not the instances' business", service(""), service(", pool: {balance: hash}, update: {drain: 5s}, watch: /"), true},
		{"update order", service(""), service(", update: {order: stop-first}"), false},
		{"elsewhere", external(`"a:1"`), external(`"b:1", "c:1"`), true},
		{"no longer run by fairlead", service(""), external(`"a:1"`), false},
		{"run by fairlead from now on", external(`"a:1"`), service(""), false},
		{"nil", nil, nil, true},
		{"one nil", nil, service(""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ServiceEqual(tt.a, tt.b); got != tt.want {
				t.Errorf("ServiceEqual = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestHTTPIsWhatARouteOrAProbeNeeds(t *testing.T) {
	sys := mustParse(t, `system: shop
services:
  routed: {command: a}
  probed: {command: a, healthcheck: {http: /}}
  tcp: {command: a, healthcheck: {tcp: true}}
  asked: {command: a, bus: {answers: [a.b]}}
  alone: {command: a}
routes: {/: {service: routed}, /b: {request: a.b}}
`)
	for _, s := range sys.Services {
		if want := s.Name != "asked" && s.Name != "alone"; s.HTTP != want {
			t.Errorf("service %s: HTTP = %v, want %v", s.Name, s.HTTP, want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	if err := os.WriteFile(file, []byte("system: shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"folder": dir, "file": file} {
		t.Run(name, func(t *testing.T) {
			sys, err := Load(path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if sys.File != file || sys.Dir != dir || sys.Name != "shop" {
				t.Errorf("Load(%s) = file %s, dir %s, name %s", path, sys.File, sys.Dir, sys.Name)
			}
		})
	}
	t.Run("relative", func(t *testing.T) {
		t.Chdir(dir)
		sys, err := Load(".", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if sys.File != file || sys.Dir != dir {
			t.Errorf("Load(.) = file %s, dir %s", sys.File, sys.Dir)
		}
	})
	t.Run("nothing there", func(t *testing.T) {
		for _, path := range []string{t.TempDir(), filepath.Join(dir, "none.yaml")} {
			if _, err := Load(path, Options{}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Load(%s): %v, want fs.ErrNotExist", path, err)
			}
		}
	})
	t.Run("a pipe does not block", func(t *testing.T) {
		pipe := filepath.Join(t.TempDir(), FileName)
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(pipe, Options{}); err == nil {
			t.Error("Load of a pipe succeeded")
		}
	})
	t.Run("findings name the file as it was given", func(t *testing.T) {
		bad := filepath.Join(t.TempDir(), "other.yaml")
		if err := os.WriteFile(bad, []byte("system: Shop\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(bad, Options{})
		var findings Findings
		if !errors.As(err, &findings) || findings[0].File != bad {
			t.Errorf("Load: %v, want a finding in %s", err, bad)
		}
	})
}

// TestUnbuilt: what the design names and is not built is told as such, everywhere.
func TestUnbuilt(t *testing.T) {
	within := map[string]struct {
		schema schema
		wrap   string
	}{
		"file":        {fileSchema, "%s: {}"},
		"gateway":     {gatewaySchema, "gateway: {%s: {}}"},
		"bus":         {busSchema, "bus: {%s: {}}"},
		"service":     {serviceSchema, "services: {a: {%s: {}}}"},
		"build":       {buildSchema, "services: {a: {build: {%s: x}}}"},
		"healthcheck": {healthcheckSchema, "services: {a: {healthcheck: {%s: x}}}"},
		"route":       {routeSchema, "routes: {/: {%s: {}}}"},
		"database":    {databaseSchema, "databases: {a: {%s: {}}}"},
	}
	for where, tt := range within {
		for key := range tt.schema.unbuilt {
			_, err := Parse(FileName, []byte("system: shop\n"+fmt.Sprintf(tt.wrap, key)), "/", Options{})
			var findings Findings
			if !errors.As(err, &findings) || findings[0].Code != string(notBuilt) && findings[len(findings)-1].Code != string(notBuilt) {
				t.Errorf("%s in %s: %v, want not-built", key, where, err)
			}
		}
	}
}

// TestValuesOfVariablesAreNotRepeated: whatever is wrong with a variable, its value
// stays out of the findings.
func TestValuesOfVariablesAreNotRepeated(t *testing.T) {
	_, err := Parse(FileName, []byte(`system: shop
services:
  a: {command: a, environment: {PORT: hunter2, 1X: hunter2, L: [hunter2], M: {hunter2: 1}}}
`), "/", Options{})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("findings repeat a value: %v", err)
	}
}

func TestUnknownEnvironmentIsNoFaultOfTheFile(t *testing.T) {
	const file = "system: s\nenvironments:\n  production: {gateway: {listen: \":80\"}}\n  staging:\n"
	tests := []struct{ name, src, environment, advice string }{
		{"near", file, "prodution", `did you mean "production"?`},
		{"far", file, "test", "there are production and staging"},
		{"none declared", "system: s\n", "prod", "the file declares none: leave it out, or declare it under environments"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tt.src), t.TempDir(), Options{Environment: tt.environment})
			unknown, ok := errors.AsType[*EnvironmentError](err)
			if !ok || unknown.Advice() != tt.advice || err.Error() != `there is no environment "`+tt.environment+`"` {
				t.Errorf("Parse: %v, %+v", err, unknown)
			}
		})
	}
	_, err := Parse("f", []byte("system: s\nx: 1\n"), t.TempDir(), Options{Environment: "prod"})
	if _, ok := errors.AsType[Findings](err); !ok {
		t.Errorf("Parse of a file with a fault: %v", err)
	}
}
