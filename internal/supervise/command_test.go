package supervise

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tool, plainFile := write("bin/tool", 0o700), write("bin/plain", 0o600)
	path := "PATH=relative:" + dir + "/nowhere:" + dir + "/bin"
	tests := map[string]struct {
		name, dir string
		env       []string
		want      string
		problem   string
	}{
		"in PATH":             {name: "tool", dir: dir, env: []string{path}, want: tool},
		"last PATH counts":    {name: "tool", dir: dir, env: []string{"PATH=/nowhere", path}, want: tool},
		"relative":            {name: "bin/tool", dir: dir, want: tool},
		"absolute":            {name: tool, dir: "/", want: tool},
		"not in PATH":         {name: "nosuch", dir: dir, env: []string{path}, problem: `command "nosuch" not found in PATH`},
		"no PATH":             {name: "tool", dir: dir, problem: `command "tool" not found: there is no PATH`},
		"not executable":      {name: "plain", dir: dir, env: []string{path}, problem: `command "plain": ` + plainFile + " is not executable"},
		"a folder":            {name: "./bin", dir: dir, problem: `command "./bin": ` + dir + "/bin is a folder"},
		"no such file":        {name: "./nosuch", dir: dir, problem: `command "./nosuch": ` + dir + "/nosuch: no such file or directory"},
		"no such path":        {name: dir + "/nosuch", dir: dir, problem: `command "` + dir + `/nosuch": no such file or directory`},
		"no working folder":   {name: "tool", dir: dir + "/gone", env: []string{path}, problem: "working folder: " + dir + "/gone: no such file or directory"},
		"working folder file": {name: "tool", dir: tool, env: []string{path}, problem: "working folder: " + tool + " is not a folder"},
		"empty":               {name: "", dir: dir, problem: "the command is empty"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := lookUp(test.name, test.dir, test.env)
			if test.problem == "" && (err != nil || got != test.want) {
				t.Errorf("found %q, %v, want %q", got, err, test.want)
			}
			if test.problem != "" && (err == nil || err.Error() != test.problem) {
				t.Errorf("error is\n %v, want\n %v", err, test.problem)
			}
		})
	}
}

func TestPortsAreNeverGivenTwice(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().(*net.TCPAddr).Port
	p := newPorts(busy-1, busy+1)
	seen := make(map[int]bool)
	for {
		port, err := p.take()
		if err != nil {
			if !strings.Contains(err.Error(), "are in use") {
				t.Error(err)
			}
			break
		}
		if port == busy || seen[port] {
			t.Fatalf("port %d was given although it is in use", port)
		}
		seen[port] = true
	}
	for port := range seen {
		p.release(port)
		if again, err := p.take(); err != nil || again != port {
			t.Errorf("after a release: %d, %v, want %d", again, err, port)
		}
	}
}

func TestSocketPathsStayShort(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp")
	long := filepath.Join(t.TempDir(), strings.Repeat("long/", 20))
	s := &sockets{dir: long}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	path, err := s.path("auth-1")
	if err != nil || len(path) > maxSocketPath {
		t.Fatalf("path %q, %v", path, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v, want one that is ours alone", info, err)
	}
	if _, err := s.path(strings.Repeat("x", 90)); err == nil {
		t.Error("a path that is too long was given")
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{long, filepath.Dir(path)} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s was left: %v", dir, err)
		}
	}
}
