package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// source writes a file of the fixture's folder.
func (f *fixture) source(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) toldText(kind control.EventKind, text string) bool {
	for _, e := range f.told(kind) {
		if strings.Contains(e.Text, text) {
			return true
		}
	}
	return false
}

func TestWatchBuildsAgainAndReplacesOnlyWhatCameOutDifferent(t *testing.T) {
	f := newFixture(t)
	f.watch = true
	f.source("src/a", "one")
	f.source("other/b", "one")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f.edit("secrets: {TOKEN", `  other:
    command: ["`+self+`", echo]
    working_dir: other
secrets: {TOKEN`)
	f.edit("    replicas: 2\n", "    replicas: 1\n    build: {command: 'grep -v broken src/a > \"$OUT/a\" && date +%N > src/stamp'}\n    watch: [src]\n")
	n := f.up()
	ids := func() map[string]string {
		is := map[string]string{}
		for _, i := range n.Status().Services {
			for _, one := range i.Instance {
				if one.State == "ready" {
					is[i.Name] = one.ID
				}
			}
		}
		return is
	}
	before := ids()

	f.source("src/a", "two")
	await.Until(t, "echo is replaced", func() bool { is := ids(); return is["echo"] != before["echo"] && is["echo"] != "" })
	if is := ids(); is["other"] != before["other"] {
		t.Errorf("a service that nobody touched was replaced: %v, %v", before, is)
	}
	if !f.toldText(control.EventInfo, "changed: src/a") {
		t.Errorf("told: %v", f.told(control.EventInfo))
	}

	// A failed build leaves the old one serving and shows why.
	before = ids()
	f.source("src/a", "broken")
	await.Until(t, "the failed build is told", func() bool { return f.toldText(control.EventWarning, "build echo") })
	if code, _ := f.get("/http"); code != 200 || ids()["echo"] != before["echo"] {
		t.Errorf("after a failed build: %d, %v, %v", code, before, ids())
	}
	if len(f.told(control.EventBuildError)) == 0 {
		t.Error("the build's output is not told")
	}

	// A changed file is applied; one with a fault is not.
	f.source("src/a", "three")
	await.Until(t, "echo is replaced", func() bool { return ids()["echo"] != before["echo"] && ids()["echo"] != "" })
	f.edit("routes:\n", "routes:\n  GET /also: {request: echo.say}\n")
	await.Until(t, "the new route answers", func() bool { code, _ := f.get("/also"); return code == 200 })
	f.edit("GET /also:", "GET /also: {}\n  GET /more:")
	await.Until(t, "the fault is told", func() bool { return f.toldText(control.EventWarning, "exactly one of") })
	if code, _ := f.get("/also"); code != 200 {
		t.Errorf("the file with a fault was applied: %d", code)
	}

	// A service without a build runs its sources as they are.
	f.edit("GET /also: {}\n  GET /more:", "GET /also:")
	before = ids()
	f.source("other/b", "two")
	await.Until(t, "other is replaced", func() bool { return ids()["other"] != before["other"] && ids()["other"] != "" })
	if is := ids(); is["echo"] != before["echo"] {
		t.Errorf("a service that nobody touched was replaced: %v, %v", before, is)
	}
}

func TestWhichServicesAreRestartedForTheirSources(t *testing.T) {
	tests := []struct {
		name string
		svc  system.Service
		want bool
	}{
		{"its folder", system.Service{Watch: []string{"/s/api"}}, true},
		{"another folder", system.Service{Watch: []string{"/s/web"}}, false},
		{"built", system.Service{Build: "make", Watch: []string{"/s/api"}}, false},
		{"the whole system", system.Service{Watch: []string{"/s"}}, false},
		{"elsewhere", system.Service{External: []string{"a:1"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := restarts(&tt.svc, "/s", []string{"/s/api/main.py"}); got != tt.want {
				t.Errorf("restarts = %v, want %v", got, tt.want)
			}
		})
	}
}
