// Package faults_test breaks running systems on purpose and looks at them as
// their users do: through the door, the verbs and the process table. README.md
// lists which fault is shown by which test, here and in the rooms.
package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
)

// program and auth are the fairlead command and the commerce system's service
// that signs tokens, as users have them.
var program, auth string

// TestMain builds the programs. The test binary itself plays the services.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "part" {
		os.Exit(play(os.Args[2], os.Args[3:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fairlead-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, auth = filepath.Join(dir, "fairlead"), filepath.Join(dir, "auth")
	build := exec.Command("go", "build", "-o", dir+"/", "fairlead/cmd/fairlead", "fairlead/stacks/commerce/services/auth")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	// Most of what these tests do is to wait. An explicit -parallel still counts.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const patience = 25 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("it did not come to pass: %s", what)
		}
	}
}

// buffer is written by one process and read by a test.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// world is a folder with a system in it.
type world struct {
	t   *testing.T
	dir string
	url string // of the door, once up

	up     *exec.Cmd // nil: it does not run
	ended  chan struct{}
	output *buffer // of up
}

// newWorld writes the system. In the text, SELF stands for the test binary, DIR
// for the folder, AUTH for the commerce system's auth.
func newWorld(t *testing.T, text string) *world {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), output: &buffer{}}
	text = strings.NewReplacer("SELF", self, "DIR", w.dir, "AUTH", auth).Replace(text)
	w.write("fairlead.yaml", text)
	t.Cleanup(w.end)
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// start runs `fairlead up` and does not wait for anything.
func (w *world) start() {
	w.t.Helper()
	w.output, w.ended = &buffer{}, make(chan struct{})
	w.up = exec.Command(program, "up", w.dir)
	w.up.Stdout, w.up.Stderr = w.output, w.output
	if err := w.up.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { // ended is closed after Wait, whose result is read only then
		_ = w.up.Wait()
		close(w.ended)
	}()
}

// ready waits until every instance takes traffic.
func (w *world) ready() control.Status {
	w.t.Helper()
	var st control.Status
	eventually(w.t, "all is ready\n"+w.output.String(), func() bool {
		select {
		case <-w.ended:
			w.t.Fatalf("up ended:\n%s", w.output)
		default:
		}
		var err error
		st, err = w.status()
		if err != nil || st.Revision == 0 || len(st.Services) == 0 || st.PID != w.up.Process.Pid {
			return false // it has not got so far
		}
		for _, s := range st.Services {
			if s.Ready != s.Wanted {
				return false
			}
		}
		return true
	})
	w.url = st.Address
	return st
}

func (w *world) status() (control.Status, error) {
	return call[control.Empty, control.Status](w, control.VerbStatus, control.Empty{})
}

// service returns the state of one service.
func (w *world) service(name string) control.ServiceStatus {
	w.t.Helper()
	st, err := w.status()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range st.Services {
		if s.Name == name {
			return s
		}
	}
	w.t.Fatalf("there is no service %s", name)
	return control.ServiceStatus{}
}

// call calls a verb as the command does.
func call[Req, Rep any](w *world, verb string, req Req) (Rep, error) {
	var none Rep
	c, err := control.Dial(w.path(control.DataDir))
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return control.Call[Req, Rep](ctx, c, verb, req, func(control.Event) {})
}

// command runs a verb of the command and returns its exit code and output.
func (w *world) command(args ...string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-C", w.dir}, args...)...).CombinedOutput()
	if err == nil {
		return 0, string(out)
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		w.t.Fatal(err)
	}
	return exit.ExitCode(), string(out)
}

// wait waits until up has ended and returns its exit code.
func (w *world) wait() int {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Fatalf("up does not end:\n%s", w.output)
	}
	code := w.up.ProcessState.ExitCode()
	w.up = nil
	return code
}

// kill sends SIGKILL to the node and waits for its end.
func (w *world) kill() {
	w.t.Helper()
	_ = w.up.Process.Kill()
	w.wait()
}

// end stops what still runs, and checks that nothing is left.
func (w *world) end() {
	if w.up != nil {
		_ = w.up.Process.Signal(os.Interrupt)
		select {
		case <-w.ended:
		case <-time.After(patience):
			_ = w.up.Process.Kill()
			<-w.ended
			w.t.Errorf("up did not end when interrupted:\n%s", w.output)
		}
	}
	if w.t.Failed() {
		w.t.Logf("up wrote:\n%s", w.output)
	}
	w.nothingLeft()
}

// processes returns those that live and whose environment or arguments name the
// folder, with their arguments.
func (w *world) processes() map[int]string {
	found := map[int]string{}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, dir := range all {
		env, _ := os.ReadFile(dir + "/environ") // it may just have ended
		args, _ := os.ReadFile(dir + "/cmdline")
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && bytes.Contains(append(env, args...), []byte(w.dir)) {
			found[pid] = string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
		}
	}
	return found
}

// nothingLeft checks that no process and no socket of the system is left.
func (w *world) nothingLeft() {
	w.t.Helper()
	if left := w.processes(); len(left) > 0 {
		w.t.Errorf("processes are left: %v", left)
		for pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// answer is what the door said.
type answer struct {
	status int
	header http.Header
	body   string
	detail string // of a problem
	took   time.Duration
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

var client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// ask sends a request through the door; header lists names and values.
func (w *world) ask(method, path, body string, header ...string) answer {
	w.t.Helper()
	var reader io.Reader = http.NoBody
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, w.url+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		w.t.Errorf("%s %s: %v", method, path, err)
		return answer{}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Errorf("%s %s: %v", method, path, err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(text), took: time.Since(begin)}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		var p struct {
			Detail string
			Status int
		}
		if err := json.Unmarshal(text, &p); err != nil || p.Status != a.status {
			w.t.Errorf("%s %s: the problem is %s", method, path, text)
		}
		a.detail = p.Detail
	}
	return a
}

// refused checks that an answer is a problem with that status and a text for a person.
func (a answer) refused(t *testing.T, status int, detail string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.detail, detail) || a.detail == "" {
		t.Errorf("the answer is %v, want %d with a problem that says %q", a, status, detail)
	}
}

// raw sends bytes to the door and returns all that it answers.
func (w *world) raw(t *testing.T, text string) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		t.Logf("the connection ended with %v", err)
	}
	return string(b)
}

// rawAnswer sends bytes to the door and reads one answer.
func (w *world) rawAnswer(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	got := w.raw(t, text)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
	if err != nil {
		t.Fatalf("the answer is %q: %v", got, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// containsAll reports whether every part is in s.
func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func contains(t *testing.T, what, s, part string) {
	t.Helper()
	if !strings.Contains(s, part) {
		t.Errorf("%s does not hold %q:\n%s", what, part, s)
	}
}
