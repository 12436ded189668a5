package upgrade_test

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/test/await"
	"fairlead/test/stage"
)

// TestUnderLoad upgrades three times in a row.
func TestUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	before, first := w.instances(), w.Ready()
	sockets := []net.Conn{w.socket(), w.socket(), w.socket()}
	l := w.begin()
	was := first
	for i, binary := range []string{two, one, two} {
		r, err := w.upgrade(binary)
		if err != nil {
			t.Fatal(err)
		}
		st := w.Ready()
		if st.PID != r.PID || st.PID == was.PID || st.Version != r.Version || r.From != was.Version || st.KeeperPID != first.KeeperPID {
			t.Errorf("the upgrade says %+v, status %+v", r, st)
		}
		if len(r.Missing) > 0 || r.NoBus <= 0 || r.NoBus > await.Patience/2 || r.Traffic == nil || r.Traffic.Requests == 0 || r.Traffic.Failed != 0 {
			t.Errorf("the receipt is %+v %+v", r, r.Traffic)
		}
		if i == 0 {
			if r.Finishing.Tunnels != len(sockets) {
				t.Errorf("the process before finishes %+v", r.Finishing)
			}
			for range 20 {
				for _, c := range sockets {
					if err := echoes(c); err != nil {
						t.Errorf("a WebSocket of before: %v", err)
					}
				}
			}
			for _, c := range sockets {
				_ = c.Close()
			}
		}
		was = st
	}
	l.end(3)
	if now := w.instances(); !maps.Equal(before, now) {
		t.Errorf("instances were %v, are %v", before, now)
	}
	if err := echoes(w.socket()); err != nil {
		t.Error(err)
	}
	await.Until(t, "only the stand-in, the keeper, its instances and the last node run", func() bool {
		list := w.Processes()
		return len(list) == 2+len(before) && standsIn(w.Up.Process.Pid)
	})
	checkLogs(t, w)
}

// standsIn reports whether a process only waits for another one that runs the system.
func standsIn(pid int) bool {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return err == nil && strings.Contains(string(name), "waits")
}

// checkLogs reads what several processes wrote line by line.
func checkLogs(t *testing.T, w *world) {
	t.Helper()
	for _, name := range []string{"access.log", "fairlead.log"} {
		text, err := os.ReadFile(filepath.Join(w.Dir, control.DataDir, "logs", name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			if !json.Valid([]byte(line)) {
				t.Fatalf("%s:%d is torn: %s", name, i+1, line)
			}
		}
	}
}

// TestOpenRequestsFinish upgrades while requests of every kind are open.
func TestOpenRequestsFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	l := &load{w: w}
	client := &http.Client{Timeout: await.Patience}
	results := make(chan string, 6)
	for _, path := range []string{"/slow?for=15s", "/bus/slow/2s", "/bus/slow/8s"} {
		for _, method := range []string{"GET", "POST"} {
			go func() { results <- l.once(client, method, path) }()
		}
	}
	await.Until(t, "they are open", func() bool {
		st, err := w.Status()
		if err != nil {
			return false
		}
		var sum uint64
		for _, s := range st.Services {
			for _, i := range s.Instance {
				sum += i.Requests
			}
		}
		return sum >= 6
	})
	r, err := w.upgrade(two)
	if err != nil {
		t.Fatal(err)
	}
	if r.Finishing.Requests < 2 {
		t.Errorf("the process before finishes %+v", r.Finishing)
	}
	for range cap(results) {
		if problem := <-results; problem != "" {
			t.Error(problem)
		}
	}
}

// TestChangeWhileTheFormerProcessFinishes restarts a service on which a WebSocket
// of the former process is open: it must leave in good order, not be cut.
func TestChangeWhileTheFormerProcessFinishes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"DRAIN", "1s"})
	c := w.socket()
	if _, err := w.upgrade(two); err != nil {
		t.Fatal(err)
	}
	l := w.begin()
	if err := echoes(c); err != nil {
		t.Error(err)
	}
	if _, err := stage.Call[control.ServiceRequest, control.Receipt](w.System, control.VerbRestart, control.ServiceRequest{Service: "echo"}); err != nil {
		t.Error(err)
	}
	l.end(0)
}

// TestLogsGoOn follows the output of a service through an upgrade.
func TestLogsGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, one, "-C", w.Dir, "logs", "-f", "echo")
	out, err := os.Create(filepath.Join(t.TempDir(), "logs.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	shown := func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	l := &load{w: w}
	for i, text := range []string{"before", "after", "later"} {
		if problem := l.once(http.DefaultClient, "GET", "/say?text="+text); problem != "" {
			t.Fatal(problem)
		}
		await.Until(t, "it shows "+text, func() bool { return strings.Contains(shown(), "said "+text) })
		if i == 0 {
			if _, err := w.upgrade(two); err != nil {
				t.Fatal(err)
			}
			http.DefaultClient.CloseIdleConnections()
			await.Until(t, "the former process has finished", func() bool { return standsIn(w.Up.Process.Pid) })
		}
	}
	if n := strings.Count(shown(), "said before"); n != 1 {
		t.Errorf("a line was shown %d times:\n%s", n, shown())
	}
}

// TestSignals ends an upgraded system through the process that was started first.
func TestSignals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	r, err := w.upgrade(two)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Up.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-w.Ended
	if code := w.Up.ProcessState.ExitCode(); code != 0 || alive(r.PID) {
		t.Errorf("it ended with %v, the node lives: %v", w.Up.ProcessState, alive(r.PID))
	}
	w.Up = nil
}

// TestSystemd tells a service manager who the main process is, and leaves no stand-in.
func TestSystemd(t *testing.T) {
	t.Parallel()
	address := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: address})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_ = socket.SetReadDeadline(time.Now().Add(await.Patience))
	next := func() string {
		buf := make([]byte, 256)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	w := newWorld(t, nil, "NOTIFY_SOCKET="+address)
	if got := next(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	r, err := w.upgrade(two)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"READY=1": true, "MAINPID=" + strconv.Itoa(r.PID): true}
	for range 2 {
		got := next()
		if !want[got] {
			t.Errorf("it told %q", got)
		}
		delete(want, got)
	}
	<-w.Ended
	if code := w.Up.ProcessState.ExitCode(); code != 0 || !alive(r.PID) {
		t.Errorf("the first process ended with %d, the next lives: %v", code, alive(r.PID))
	}
	w.Up = nil
	if _, err := stage.Call[control.Empty, control.DownReply](w.System, control.VerbDown, control.Empty{}); err != nil {
		t.Error(err)
	}
	if got := next(); got != "STOPPING=1" {
		t.Errorf("last %q", got)
	}
}
