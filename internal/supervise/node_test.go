package supervise

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/process"
	"fairlead/test/await"
)

// nodeMain is a node that a test kills.
func nodeMain(dir string) int {
	fail := func(err error) int {
		fmt.Println("error", err)
		return 1
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return fail(err)
	}
	s := New(Options{Dir: dir, Host: newHost(), NextID: ids(), Lock: lock})
	if err := s.Start(context.Background()); err != nil {
		return fail(err)
	}
	specs := []Spec{httpSpec("fork", 1, "fork"), httpSpec("hang", 1, "hang-port"), httpSpec("port", 2, "port")}
	if err := s.Launch(context.Background(), specs); err != nil {
		return fail(err)
	}
	if err := s.Await(context.Background()); err != nil {
		return fail(err)
	}
	fmt.Println("ready", s.KeeperPID(), s.dataID)
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

// lockFolder takes the lock of a data folder without waiting.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// startNode starts a node with running instances as a process of its own.
func startNode(t *testing.T, dir string) (node *exec.Cmd, keeperPID int, dataID string) {
	t.Helper()
	node = exec.Command(testBinary(), "node", dir)
	in, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	node.Stderr = os.Stderr
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		node.Process.Kill()
		node.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if _, err := fmt.Sscanf(line, "ready %d %s", &keeperPID, &dataID); err != nil {
		t.Fatalf("the node says %q", line)
	}
	return node, keeperPID, dataID
}

func marked(t *testing.T, dataID string) process.Table {
	t.Helper()
	table, err := process.All()
	if err != nil {
		t.Fatal(err)
	}
	return table.Marked(process.Mark{Data: dataID}, nil, nil)
}

const processesOfNode = 6 + 1 + 2 // of fork, hang, port

func TestNodeIsKilled(t *testing.T) {
	dir := t.TempDir()
	node, keeperPID, dataID := startNode(t, dir)
	if n := len(marked(t, dataID)); n != processesOfNode {
		t.Fatalf("%d processes run, want %d", n, processesOfNode)
	}
	begin := time.Now()
	node.Process.Kill()
	node.Wait()
	if _, err := lockFolder(dir); err == nil {
		t.Error("the folder is not locked while the keeper ends the instances")
	}
	var lock *os.File
	await.Until(t, "the folder can be locked again", func() bool {
		var err error
		lock, err = lockFolder(dir)
		return err == nil
	})
	defer lock.Close()
	t.Logf("all had ended %v after the node", time.Since(begin))
	if left := marked(t, dataID); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
	await.Until(t, "the keeper has ended", func() bool { s, err := process.Read(keeperPID); return err != nil || s.Dead() })
}

func TestNodeAndKeeperAreKilled(t *testing.T) {
	dir := t.TempDir()
	node, keeperPID, dataID := startNode(t, dir)
	node.Process.Signal(syscall.SIGSTOP) // it must not see the keeper end
	syscall.Kill(keeperPID, syscall.SIGKILL)
	node.Process.Kill()
	node.Wait()
	await.Until(t, "the direct children died with the keeper", func() bool { return len(marked(t, dataID)) == 5 })
	// The next run finds those that had gone their own ways.
	w := newWorld(t, func(o *Options) { o.Dir = dir })
	if w.dataID != dataID {
		t.Fatalf("the data folder has another id: %s, want %s", w.dataID, dataID)
	}
	if left := marked(t, dataID); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
	w.launch(t, httpSpec("port", 1, "port"))
}

func TestLeftOverIsFoundByItsRecord(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, func(o *Options) { o.Dir = dir })
	w.Kill()
	// A process without any mark, as an instance that a keeper had recorded.
	c := exec.Command("/bin/sleep", "100")
	c.Env = []string{}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	innocent := exec.Command("/bin/sleep", "100")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { innocent.Process.Kill(); innocent.Wait() }()
	boot, err := process.BootID()
	if err != nil {
		t.Fatal(err)
	}
	s, err := process.Read(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other, err := process.Read(innocent.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// The second has the pid of a process that ended, and another start time.
	record := fmt.Sprintf(`{"boot":%q,"instances":{"a-1":{"pid":%d,"start":%d},"a-2":{"pid":%d,"start":%d}}}`,
		boot, s.PID, s.Start, other.PID, other.Start-1)
	if err := os.WriteFile(filepath.Join(dir, "keeper.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	newWorld(t, func(o *Options) { o.Dir = dir })
	if err := c.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the left-over ended with %v", err)
	}
	if now, err := process.Read(other.PID); err != nil || now.Dead() {
		t.Error("a process that took over a pid was killed")
	}
}

func TestKeeperIsKilled(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("fork", 1, "fork"), httpSpec("hang", 1, "hang-port"), httpSpec("port", 2, "port"))
	before := w.Instances()
	old := w.KeeperPID()
	begin := time.Now()
	syscall.Kill(old, syscall.SIGKILL)
	await.Until(t, "all serve again under another keeper", func() bool {
		serving := w.host.serving()
		for _, i := range before {
			if _, still := serving[i.ID]; still {
				return false
			}
		}
		return len(serving) == len(before) && w.KeeperPID() != 0 && w.KeeperPID() != old
	})
	t.Logf("all served again after %v", time.Since(begin))
	if n := len(marked(t, w.dataID)); n != processesOfNode {
		t.Errorf("%d processes run, want %d", n, processesOfNode)
	}
	told := false
	for _, e := range w.seen() {
		told = told || e.Kind == Backoff && strings.Contains(e.Text, "it ended together with the keeper")
	}
	if !told {
		t.Error("nobody was told why the instances ended")
	}
	// Nothing of the old ones waits to be reaped by us.
	table, err := process.All()
	if err != nil {
		t.Fatal(err)
	}
	if left := table.Orphans(process.Mark{Data: w.dataID}, os.Getpid()); len(left) > 0 {
		t.Errorf("not reaped: %+v", left)
	}
	walks(t, w.seen())
}

func TestTerminalSignalsDoNotReachTheKeeper(t *testing.T) {
	w := newWorld(t)
	w.launch(t, httpSpec("web", 1, "port"))
	pid := w.KeeperPID()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		syscall.Kill(pid, s)
	}
	s, err := process.Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	if s.Session != pid || s.Group != pid {
		t.Errorf("the keeper has session %d and group %d, want its own", s.Session, s.Group)
	}
	// It still does its work, and its children do not inherit a deaf ear.
	if _, err := w.Restart(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if w.KeeperPID() != pid {
		t.Error("the keeper ended")
	}
	for _, e := range w.seen() {
		if e.Kind == Stopped && e.Text != "" {
			t.Errorf("an instance did not end by SIGTERM: %s", e.Text)
		}
	}
}
