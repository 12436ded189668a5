package process

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/test/await"
)

func TestParseStat(t *testing.T) {
	line := func(name string) string {
		return "42 (" + name + ") S 7 42 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2 18446744073709551615\n"
	}
	for _, name := range []string{"sh", "a b", "a) S 1 1 1", "(((", "", "line\nfeed"} {
		got, err := ParseStat([]byte(line(name)))
		want := Stat{PID: 42, Parent: 7, Group: 42, Session: 9, State: 'S', Start: 123456, Name: name}
		if err != nil || got != want {
			t.Errorf("name %q: %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "42", "(sh) S", "x (sh) S 1 2 3", "42 (sh) S 1 2", "42 (sh", "-1 (sh) S 7 42 9 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 1"} {
		if got, err := ParseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
	self, err := Read(os.Getpid())
	if err != nil || self.PID != os.Getpid() || self.Parent != os.Getppid() || self.Dead() {
		t.Errorf("read itself as %+v, %v", self, err)
	}
	if _, err := Read(math.MaxInt32); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that does not exist: %v", err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (sh) S 7 42 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2"))
	f.Add([]byte("42 (a) b) S 7 42 9"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStat(b)
		if err == nil && s.PID <= 0 {
			t.Errorf("%q has the pid %d", b, s.PID)
		}
	})
}

func TestBelow(t *testing.T) {
	table := Table{
		{PID: 1},
		{PID: 2, Parent: 1, State: 'S'},
		{PID: 3, Parent: 2, State: 'Z'},
		{PID: 4, Parent: 3, State: 'S'},
		{PID: 5, Parent: 1},
		{PID: 6, Parent: 7},
		{PID: 7, Parent: 6}, // a loop that was read while it changed
	}
	tests := map[string]struct {
		roots []int
		want  []int
	}{
		"nothing": {nil, nil},
		"leaf":    {[]int{4}, nil},
		"tree":    {[]int{2}, []int{3, 4}},
		"loop":    {[]int{6}, []int{6, 7}},
		"unknown": {[]int{99}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			roots := make(map[int]bool)
			for _, r := range test.roots {
				roots[r] = true
			}
			got := table.Below(roots).PIDs()
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("below %v: %v, want %v", test.roots, got, test.want)
			}
		})
	}
	if got := table[1:4].Alive().PIDs(); !slices.Equal(got, []int{2, 4}) {
		t.Errorf("alive: %v", got)
	}
}

func TestTagsTellDataAndInstance(t *testing.T) {
	seen := make(map[uint64]Mark)
	for _, data := range []string{"a", "b"} {
		for _, instance := range []string{"", "x-1", "x-2", "y-1"} {
			m := Mark{Data: data, Instance: instance}
			tag := m.Tag()
			if other, twice := seen[tag]; twice {
				t.Errorf("%+v and %+v have the same tag", m, other)
			}
			seen[tag] = m
			if (tag>>instanceBits == Mark{Data: "a"}.Tag()>>instanceBits) != (data == "a") {
				t.Errorf("the tag of %+v does not tell its data folder", m)
			}
			if tag>>63 != 0 {
				t.Errorf("the tag of %+v looks like no limit", m)
			}
		}
	}
}

// sleeper starts a process that carries what it is given and nothing else.
func sleeper(t *testing.T, tag uint64, env []string, script string) *exec.Cmd {
	t.Helper()
	if err := SetTag(tag); err != nil {
		t.Skipf("this machine has a hard limit on file locks, so that tags cannot be set: %v", err)
	}
	defer SetTag(0)
	c := exec.Command("/bin/sh", "-c", script)
	c.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

func TestMarked(t *testing.T) {
	m := Mark{Data: t.Name() + time.Now().String(), Instance: "x-1"}
	all := Mark{Data: m.Data}
	other := Mark{Data: m.Data, Instance: "x-2"}
	const wait = "sleep 100; true"
	byTag := sleeper(t, m.Tag(), nil, wait)
	byEnv := sleeper(t, 0, m.Env(), wait)
	sibling := sleeper(t, other.Tag(), other.Env(), wait)
	stranger := sleeper(t, 0, []string{EnvData + "=" + m.Data + "x", EnvInstance + "=x-1"}, wait)
	bare := sleeper(t, m.Tag(), nil, "exec env -i setsid sleep 100")
	find := func(m Mark, roots ...int) []int {
		table, err := All()
		if err != nil {
			t.Fatal(err)
		}
		return table.Marked(m, roots, nil).PIDs()
	}
	for name, pid := range map[string]int{"tag": byTag.Process.Pid, "environment": byEnv.Process.Pid, "bare": bare.Process.Pid} {
		if !slices.Contains(find(m), pid) || !slices.Contains(find(all), pid) {
			t.Errorf("%s: %d is not found", name, pid)
		}
		if slices.Contains(find(other), pid) {
			t.Errorf("%s: %d is found for another instance", name, pid)
		}
	}
	if found := find(m); slices.Contains(found, sibling.Process.Pid) || slices.Contains(found, stranger.Process.Pid) {
		t.Errorf("found %v, also strangers", found)
	}
	if !slices.Contains(find(m, stranger.Process.Pid), stranger.Process.Pid) {
		t.Error("a root is not found")
	}
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	search := func() (Table, error) {
		table, err := All()
		return table.Marked(all, nil, nil), err
	}
	if err := Kill(ctx, search); err != nil {
		t.Fatal(err)
	}
	if now, err := Read(stranger.Process.Pid); err != nil || now.Dead() {
		t.Error("the stranger was killed")
	}
	table, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if orphans := table.Orphans(m, os.Getpid()).PIDs(); !slices.Contains(orphans, byTag.Process.Pid) {
		t.Errorf("ended and not reaped: %v, want %d among them", orphans, byTag.Process.Pid)
	}
}

func TestEndAsksFirst(t *testing.T) {
	file := t.TempDir() + "/asked"
	polite := sleeper(t, 0, nil, "trap 'echo > "+file+"; exit' TERM; while true; do sleep 0.01; done")
	id, err := Read(polite.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	find := func() (Table, error) {
		table, err := All()
		return slices.DeleteFunc(table.Alive(), func(s Stat) bool { return s.PID != id.PID || s.Start != id.Start }), err
	}
	// Until the shell has set its trap, the signal simply ends it.
	await.Until(t, "the shell sets its trap", func() bool {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(id.PID) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "SigCgt:\t")
		return len(rest) > 16 && strings.ContainsAny(rest[12:13], "4567cdef")
	})
	if err := End(t.Context(), await.Patience, find); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("it was not asked to end: %v", err)
	}
	deaf := sleeper(t, 0, nil, "trap '' TERM; while true; do sleep 0.01; done")
	if id, err = Read(deaf.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := End(t.Context(), 20*time.Millisecond, find); err != nil {
		t.Fatal(err)
	}
}

func TestSignalHitsOnlyTheOneThatIsMeant(t *testing.T) {
	c := sleeper(t, 0, nil, "exec sleep 100")
	s, err := Read(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, signal := range map[string]func(Stat, syscall.Signal) error{"pidfd": Signal, "number": signalByNumber} {
		before := s
		before.Start--
		if err := signal(before, syscall.SIGKILL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := Read(s.PID); err != nil || now.Dead() {
			t.Fatalf("%s: a process with another start time was hit", name)
		}
		if err := signal(Stat{PID: math.MaxInt32}, syscall.SIGKILL); err != nil {
			t.Errorf("%s: a process that has ended: %v", name, err)
		}
	}
}

func TestKillGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	stuck := Table{{PID: math.MaxInt32, Name: "stuck", State: 'D'}}
	err := Kill(ctx, func() (Table, error) { return stuck, nil })
	if left, ok := errors.AsType[*LeftError](err); !ok || !slices.Equal(left.Processes, stuck) {
		t.Errorf("kill says %v", err)
	}
	if want := "end processes: still there: 2147483647 (stuck, state D)"; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

func TestListeners(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", ":0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		found, err := Listening(port)
		if err != nil || len(found) != 1 {
			t.Errorf("%s: found %v, %v", address, found, err)
		}
		self, err := Read(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		parent := Stat{PID: os.Getppid()}
		if !(Table{parent, self}).Own(found) || (Table{parent}).Own(found) || (Table{self}).Own(nil) {
			t.Errorf("%s: the owner is not told", address)
		}
		l.Close()
		if found, _ := Listening(port); len(found) != 0 {
			t.Errorf("%s: found %v after it was closed", address, found)
		}
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n", 8080)
	f.Add("a b:c d 0A e f g h i j", 1)
	f.Fuzz(func(t *testing.T, text string, port int) {
		found, err := ParseListeners(strings.NewReader(text), port)
		if err != nil {
			return
		}
		for _, l := range found {
			if l.Port != port || l.Inode == 0 {
				t.Errorf("found %+v for port %d", l, port)
			}
		}
	})
}

func BenchmarkMarked(b *testing.B) {
	for b.Loop() {
		table, err := All()
		if err != nil {
			b.Fatal(err)
		}
		table.Marked(Mark{Data: "nobody"}, nil, nil)
	}
}
