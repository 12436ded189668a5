package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/service"
	"fairlead/test/await"
)

// The test binary plays every part: the test, the keeper, and the instances.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "keeper":
		os.Exit(KeeperMain(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "echo":
		echo()
	case len(os.Args) > 1 && os.Args[1] == "exit":
		fmt.Fprintln(os.Stderr, "no such luck")
		os.Exit(3)
	default:
		os.Exit(m.Run())
	}
}

// answer is what the echo service tells of itself.
type answer struct {
	Instance string
	Greeting string
	Got      map[string]any
}

func echo() {
	service.Main(func(s *service.Service) error {
		mine := answer{Instance: s.Instance(), Greeting: os.Getenv("GREETING")}
		if os.Getenv("NATS_URL") != "" {
			service.Answer(s, "echo.say", func(_ context.Context, got map[string]any) (answer, error) {
				a := mine
				a.Got = got
				return a, nil
			})
		}
		s.HTTP("/http", func(w http.ResponseWriter, _ *http.Request) error {
			return json.NewEncoder(w).Encode(mine)
		})
		return nil
	})
}

// fixture is a folder with a system in it.
type fixture struct {
	t     *testing.T
	dir   string
	node  *Node
	watch bool

	mu     sync.Mutex // guards events
	events []control.Event
}

const base = `
system: small
gateway: {listen: "127.0.0.1:0"}
services:
  echo:
    command: [%q, echo]
    replicas: 2
    environment: {GREETING: hello}
    secrets: [TOKEN]
    bus: {group: echo_queue, answers: ["echo.>"]}
    stop_grace_period: 60s
secrets: {TOKEN: {generate: 32}}
routes:
  GET /say/{what}: {request: echo.say}
  POST /say: {request: echo.say}
  /http: {service: echo}
`

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f.write(fmt.Sprintf(base, self))
	return f
}

func (f *fixture) file() string { return filepath.Join(f.dir, "fairlead.yaml") }

func (f *fixture) text() string {
	f.t.Helper()
	b, err := os.ReadFile(f.file())
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

func (f *fixture) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.file(), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// edit replaces a piece of the file, which must be there.
func (f *fixture) edit(old, next string) {
	f.t.Helper()
	text := f.text()
	if !strings.Contains(text, old) {
		f.t.Fatalf("the file lacks %q", old)
	}
	f.write(strings.Replace(text, old, next, 1))
}

func (f *fixture) up() *Node {
	f.t.Helper()
	n, err := New(Options{Path: f.dir, Events: f.note, Watch: f.watch})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*await.Patience)
	defer cancel()
	if err := n.Start(ctx); err != nil {
		f.t.Fatal(err)
	}
	f.node = n
	f.t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			f.t.Error(err)
		}
	})
	if err := n.Await(ctx); err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fixture) note(e control.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
}

func (f *fixture) told(kind control.EventKind) []control.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []control.Event
	for _, e := range f.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func (f *fixture) get(path string) (int, answer) {
	f.t.Helper()
	resp, err := http.Get(f.node.URL() + path) //nolint:noctx // bounded by the test
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a answer
	body, _ := io.ReadAll(resp.Body)
	_ = json.Unmarshal(body, &a)
	return resp.StatusCode, a
}

// verb calls a verb as the CLI does.
func verb[Rep any](f *fixture, name string, req any) (Rep, error) {
	f.t.Helper()
	var none Rep
	c, err := control.Dial(f.node.Data())
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*await.Patience)
	defer cancel()
	return control.Call[any, Rep](ctx, c, name, req, func(control.Event) {})
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestSystemAnswersOverTheBusAndOverHTTP(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	if code, a := f.get("/say/word?x=1"); code != 200 || a.Got["what"] != "word" || a.Got["x"] != "1" || a.Greeting != "hello" {
		t.Errorf("GET over the bus: %d %+v", code, a)
	}
	if code, a := f.get("/http"); code != 200 || !strings.HasPrefix(a.Instance, "echo-") {
		t.Errorf("GET over HTTP: %d %+v", code, a)
	}
	st := n.Status()
	if len(st.Services) != 1 || st.Services[0].Ready != 2 || st.Revision != 1 || st.System != "small" {
		t.Errorf("status is %+v", st)
	}
	await.Until(t, "the requests are counted", func() bool { // the bus's counts are some milliseconds old
		var served uint64
		for _, i := range n.Status().Services[0].Instance {
			served += i.Requests
		}
		return served == 2
	})
}

func TestReloadServesTheNewRouteAndReplacesOnlyWhatDiffers(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	before := n.sup.Instances()
	f.edit("routes:\n", "routes:\n  GET /also: {request: echo.say}\n")
	dry := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{DryRun: true}))
	if len(dry.Changes) == 0 || dry.Revision != 0 || len(dry.Replaces) != 0 {
		t.Errorf("dry run: %+v", dry)
	}
	if code, _ := f.get("/also"); code != 404 {
		t.Errorf("the dry run changed something: %d", code)
	}
	done := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if done.Revision != 2 || len(done.Replaces) != 0 {
		t.Errorf("reload: %+v, want revision 2 and no service replaced", done)
	}
	if code, _ := f.get("/also"); code != 200 {
		t.Errorf("the new route answers %d", code)
	}
	same := func(a, b []string) bool { return slices.Equal(a, b) }
	var was, is []string
	for _, i := range before {
		was = append(was, i.ID)
	}
	for _, i := range n.sup.Instances() {
		is = append(is, i.ID)
	}
	if !same(was, is) {
		t.Errorf("instances were %v, are %v", was, is)
	}
	if again := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{})); again.Revision != 0 {
		t.Errorf("a reload without a change made revision %d", again.Revision)
	}

	f.edit("hello", "bonjour")
	done = must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if len(done.Replaces) != 1 || len(done.Receipts) != 1 || len(done.Receipts[0].New) != 2 {
		t.Errorf("reload with another environment: %+v", done)
	}
	if _, a := f.get("/http"); a.Greeting != "bonjour" {
		t.Errorf("greeting is %q", a.Greeting)
	}

	back := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbRollback, control.RollbackRequest{Revision: 1}))
	if back.Revision != 4 {
		t.Errorf("rollback made revision %d, want 4", back.Revision)
	}
	if _, a := f.get("/http"); a.Greeting != "hello" {
		t.Errorf("greeting is %q after the rollback", a.Greeting)
	}
	if code, _ := f.get("/also"); code != 404 {
		t.Errorf("the route of revision 2 answers %d after the rollback", code)
	}
	all := must[[]control.Revision](t)(verb[[]control.Revision](f, control.VerbRevisions, control.Empty{}))
	if len(all) != 4 || !all[3].Current || all[3].From != 1 {
		t.Errorf("revisions are %+v", all)
	}
}

func TestReloadThatFailsChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.up()
	good := f.text()
	self, _ := os.Executable()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, broken := range map[string]string{
		"file":  strings.Replace(good, "replicas: 2", "replicas: 2000", 1),
		"build": strings.Replace(good, "replicas: 2", "replicas: 2\n    build: {command: \"echo broken >&2; false\"}", 1),
		"start": strings.Replace(good, fmt.Sprintf("[%q, echo]", self), fmt.Sprintf("[%q, exit]\n    healthcheck: {start_period: 1s}", self), 1),
		"not stored": strings.Replace(good, "replicas: 2", `replicas: 2
    build: {command: "mkdir $OUT/../fairlead.yaml"}`, 1),
		"port in use": strings.Replace(good, `"127.0.0.1:0"`, fmt.Sprintf("%q", taken.Addr()), 1),
	} {
		t.Run(name, func(t *testing.T) {
			f.write(broken)
			_, err := verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{})
			if err == nil {
				t.Fatal("the reload succeeded")
			}
			if !strings.Contains(fmt.Sprint(hint(err)), "revision 1 goes on") && name != "file" {
				t.Errorf("error %v has the hint %q", err, hint(err))
			}
			if code, a := f.get("/http"); code != 200 || a.Greeting != "hello" {
				t.Errorf("after the failed reload: %d %+v", code, a)
			}
			if st := f.node.Status(); st.Revision != 1 || st.Services[0].Ready != 2 || len(st.Services[0].Instance) != 2 {
				t.Errorf("status is %+v", st)
			}
			if _, err := os.Stat(f.node.revisionDir(2)); !os.IsNotExist(err) {
				t.Error("the folder of the failed revision is left")
			}
		})
	}
}

func hint(err error) string {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Hint
	}
	return ""
}

func TestReloadWarnsOfARouteThatNobodyAnswers(t *testing.T) {
	f := newFixture(t)
	f.up()
	f.edit("routes:\n", "routes:\n  GET /x: {request: echo.forgotten}\n")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	warned := f.told(control.EventWarning)
	if len(warned) != 1 || !strings.Contains(warned[0].Text, "asks echo.forgotten, which echo does not answer") {
		t.Errorf("warnings are %+v", warned)
	}
}

func TestVerbsWaitUntilTheSystemHasStarted(t *testing.T) {
	f := newFixture(t)
	gate := filepath.Join(f.dir, "gate")
	f.edit("replicas: 2", "replicas: 2\n    build: {command: \"until [ -e "+gate+" ]; do sleep 0.01; done\"}")
	n, err := New(Options{Path: f.dir, Events: f.note, Watch: f.watch})
	if err != nil {
		t.Fatal(err)
	}
	f.node = n
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	started := make(chan error, 1)
	go func() { started <- n.Start(context.Background()) }()
	await.Until(t, "it builds", func() bool { return len(f.told(control.EventBuilding)) > 0 })
	waits := make(chan string, 8)
	done := make(chan error, 1)
	go func() {
		c, err := control.Dial(n.Data())
		if err != nil {
			done <- err
			return
		}
		_, err = control.Call[control.ReloadRequest, control.ReloadReply](context.Background(), c, control.VerbReload, control.ReloadRequest{DryRun: true}, func(e control.Event) { waits <- e.Text })
		done <- err
	}()
	if text := <-waits; text != "waiting until the system has started" {
		t.Errorf("told %q", text)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-started, <-done); err != nil {
		t.Error(err)
	}
}

func TestDownEndsAStart(t *testing.T) {
	f := newFixture(t)
	f.edit("replicas: 2", "replicas: 2\n    build: {command: \"sleep 600\"}")
	n, err := New(Options{Path: f.dir, Events: f.note, Watch: f.watch})
	if err != nil {
		t.Fatal(err)
	}
	f.node = n
	started := make(chan error, 1)
	go func() { started <- n.Start(context.Background()) }()
	await.Until(t, "it builds", func() bool { return len(f.told(control.EventBuilding)) > 0 })
	must[control.DownReply](t)(verb[control.DownReply](f, control.VerbDown, control.Empty{}))
	if err := <-started; !errors.Is(err, ErrDown) {
		t.Errorf("start ended with %v, want ErrDown", err)
	}
	<-n.Done()
}

func TestRestartUnderLoadFailsNothing(t *testing.T) {
	f := newFixture(t)
	f.up()
	stop := f.load()
	r := must[control.Receipt](t)(verb[control.Receipt](f, control.VerbRestart, control.ServiceRequest{Service: "echo"}))
	stop()
	if r.Failed > 0 {
		t.Errorf("the receipt says that %d requests failed", r.Failed)
	}
	sum := func(list []control.Served) (n uint64) {
		for _, s := range list {
			n += s.Requests
		}
		return n
	}
	if r.Traffic == nil || r.Traffic.Failed > 0 || r.Traffic.Requests == 0 {
		t.Errorf("the receipt says of the door: %+v", r.Traffic)
	}
	if len(r.Old) != 2 || len(r.New) != 2 || sum(r.Old) == 0 || sum(r.New) == 0 {
		t.Errorf("receipt is %+v, want two old and two new instances that have served", r)
	}
}

func TestReloadUnderLoadFailsNothing(t *testing.T) {
	for _, order := range []string{"start-first", "stop-first"} {
		t.Run(order, func(t *testing.T) {
			f := newFixture(t)
			f.edit("stop_grace_period: 60s", "stop_grace_period: 5s\n    update: {order: "+order+"}")
			f.up()
			stop := f.load()
			for i, greeting := range []string{"bonjour", "salut"} {
				f.edit(f.greeting(), greeting)
				f.edit("routes:\n", fmt.Sprintf("routes:\n  GET /route%d: {request: echo.say}\n", i))
				done := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
				if len(done.Replaces) != 1 || len(done.Receipts) != 1 || done.Receipts[0].Failed > 0 {
					t.Errorf("reload: %+v", done)
				}
			}
			stop()
			if _, a := f.get("/http"); a.Greeting != "salut" {
				t.Errorf("greeting is %q", a.Greeting)
			}
		})
	}
}

func (f *fixture) greeting() string {
	_, rest, _ := strings.Cut(f.text(), "GREETING: ")
	word, _, _ := strings.Cut(rest, "}")
	return word
}

func TestReloadAddsAndRemovesServices(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	with := strings.Replace(strings.Replace(f.text(), "secrets: {TOKEN", fmt.Sprintf("  more:\n    command: [%q, echo]\nsecrets: {TOKEN", os.Args[0]), 1),
		"routes:\n", "routes:\n  /more: {service: more}\n", 1)
	without := f.text()
	f.write(with)
	done := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if !slices.Equal(done.Replaces, []string{"more"}) {
		t.Errorf("reload replaces %v, want [more]", done.Replaces)
	}
	f.edit("routes:\n  /more", "routes:\n  /http/more")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if code, _ := f.get("/more"); code != 404 {
		t.Errorf("the old path answers %d", code)
	}
	if code, _ := f.get("/http/more"); code != 404 { // the service itself does not know the path
		t.Errorf("the new path answers %d", code)
	}
	f.write(without)
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	for _, i := range n.sup.Instances() {
		if i.Service == "more" {
			t.Errorf("%s is %s after its service was removed", i.ID, i.State)
		}
	}
	if code, _ := f.get("/http"); code != 200 {
		t.Errorf("the service that stayed answers %d", code)
	}
}

func TestStopIsRememberedUntilStart(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	st := must[control.ServiceStatus](t)(verb[control.ServiceStatus](f, control.VerbStop, control.ServiceRequest{Service: "echo"}))
	if st.Wanted != 0 || st.Override == nil {
		t.Errorf("status after stop: %+v", st)
	}
	if _, err := verb[control.Receipt](f, control.VerbRestart, control.ServiceRequest{Service: "echo"}); err == nil {
		t.Error("a stopped service was restarted")
	}
	for _, path := range []string{"/http", "/say/x"} {
		resp, err := http.Get(f.node.URL() + path) //nolint:noctx // bounded by the test
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 503 || !strings.Contains(string(body), "the service is stopped") { // not: nothing is ready in time
			t.Errorf("GET %s of a stopped service: %s %s", path, resp.Status, body)
		}
	}
	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	n = f.up()
	if st := n.Status(); st.Services[0].Wanted != 0 || st.Revision != 1 {
		t.Errorf("status after down and up: %+v", st)
	}
	st = must[control.ServiceStatus](t)(verb[control.ServiceStatus](f, control.VerbStart, control.ServiceRequest{Service: "echo"}))
	if st.Ready != 2 || st.Override != nil {
		t.Errorf("status after start: %+v", st)
	}
	_, err := verb[control.ServiceStatus](f, control.VerbStart, control.ServiceRequest{Service: "ecco"})
	if e, ok := errors.AsType[*control.Error](err); !ok || !strings.Contains(e.Message, `no service "ecco"`) {
		t.Errorf("error is %v", err)
	}
}

func TestScaleIsRememberedUntilTheFileSaysSo(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	scale := func(replicas int) (control.ServiceStatus, error) {
		return verb[control.ServiceStatus](f, control.VerbScale, control.ScaleRequest{Service: "echo", Replicas: replicas})
	}
	st := must[control.ServiceStatus](t)(scale(3))
	if st.Wanted != 3 || st.Ready != 3 || st.Override == nil || st.Override.Replicas != 3 || st.Traffic == nil {
		t.Errorf("status after scale: %+v", st)
	}
	if _, err := scale(65); err == nil {
		t.Error("65 instances were allowed")
	}
	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	n = f.up()
	if st := n.Status().Services[0]; st.Wanted != 3 {
		t.Errorf("status after down and up: %+v", st)
	}
	if st := must[control.ServiceStatus](t)(scale(1)); st.Ready != 1 || st.Override == nil {
		t.Errorf("status after scaling down: %+v", st)
	}
	if st := must[control.ServiceStatus](t)(scale(2)); st.Ready != 2 || st.Override != nil {
		t.Errorf("the number of the file is an override: %+v", st)
	}
}

func TestSecondNodeIsToldWhoRunsTheSystem(t *testing.T) {
	f := newFixture(t)
	f.up()
	second, err := New(Options{Path: f.dir})
	if err != nil {
		t.Fatal(err)
	}
	err = second.Start(context.Background())
	running, ok := errors.AsType[*RunningError](err)
	if !ok || running.PID != os.Getpid() || running.Address != f.node.URL() {
		t.Errorf("error is %v, want a RunningError of this process at %s", err, f.node.URL())
	}
	if code, _ := f.get("/http"); code != 200 {
		t.Errorf("the first node answers %d", code)
	}
}

func TestSecretsAreGivenAndNotShown(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	b, err := os.ReadFile(filepath.Join(n.Data(), "secrets", "TOKEN"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(b))
	env := must[control.EnvReply](t)(verb[control.EnvReply](f, control.VerbEnv, control.ServiceRequest{Service: "echo"}))
	if !slices.ContainsFunc(env.Variables, func(v control.Variable) bool { return v.Name == "TOKEN" && v.Secret }) {
		t.Errorf("env lacks TOKEN: %+v", env)
	}
	shown, _ := json.Marshal(env)
	f.mu.Lock()
	events, _ := json.Marshal(f.events)
	f.mu.Unlock()
	status, _ := json.Marshal(n.Status())
	for name, text := range map[string][]byte{"env": shown, "events": events, "status": status} {
		if strings.Contains(string(text), token) {
			t.Errorf("%s shows the secret", name)
		}
	}
	pid := n.Status().Services[0].Instance[0].PID
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || strings.Contains(string(cmdline), token) {
		t.Errorf("the command line shows the secret (%v)", err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || !strings.Contains(string(environ), "TOKEN="+token+"\x00") {
		t.Errorf("the instance was not given its secret (%v)", err)
	}
	if len(f.told(control.EventSecret)) != 1 {
		t.Errorf("events of secrets: %+v", f.told(control.EventSecret))
	}
}

func TestUpAfterARollbackSaysThatTheFileIsApplied(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	f.edit("hello", "bonjour")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbRollback, control.RollbackRequest{}))
	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.up()
	warned := f.told(control.EventWarning)
	if len(warned) != 1 || !strings.Contains(warned[0].Text, "revision 3, which ran last, had taken up revision 1 again") {
		t.Errorf("warnings are %+v", warned)
	}
	if _, a := f.get("/http"); a.Greeting != "bonjour" {
		t.Errorf("greeting is %q, want the file's", a.Greeting)
	}
}

func TestDataFolderOfSomebodyElseIsRefused(t *testing.T) {
	dir := "/" // root's, for everybody else
	if os.Geteuid() == 0 {
		dir = t.TempDir()
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := owned(dir); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("error is %v", err)
	}
	if os.Geteuid() == 0 {
		dir = "/"
	} else {
		dir = t.TempDir()
	}
	if err := owned(dir); err != nil {
		t.Errorf("a folder of one's own: %v", err)
	}
}

func TestDataFolderIsNotServed(t *testing.T) {
	for name, prepare := range map[string]func(f *fixture) (files, data string){
		"itself": func(f *fixture) (string, string) { return ".fairlead", "" },
		"a folder in it": func(f *fixture) (string, string) {
			return ".fairlead/secrets", ""
		},
		"a link to it": func(f *fixture) (string, string) {
			if err := os.Symlink(".fairlead", filepath.Join(f.dir, "web")); err != nil {
				t.Fatal(err)
			}
			return "web", ""
		},
		"a folder around it": func(f *fixture) (string, string) { return ".", filepath.Join(f.dir, "data", "shop") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if err := os.MkdirAll(filepath.Join(f.dir, ".fairlead", "secrets"), 0o700); err != nil {
				t.Fatal(err)
			}
			files, data := prepare(f)
			f.edit("routes:\n", "routes:\n  /files/: {files: "+files+"}\n")
			n, err := New(Options{Path: f.dir, Data: data})
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "would serve fairlead's own data") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestStartStopLeavesNothing(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		n := f.up()
		var pids []int
		for _, i := range n.sup.Instances() {
			pids = append(pids, i.PID)
		}
		pids = append(pids, n.sup.KeeperPID())
		if err := n.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if startTicks(pid) != 0 {
				t.Errorf("process %d is left", pid)
			}
		}
		for _, name := range []string{control.SocketName, "operator.env"} {
			if _, err := os.Stat(filepath.Join(n.Data(), name)); !os.IsNotExist(err) {
				t.Errorf("%s is left (%v)", name, err)
			}
		}
	}
}

func TestFileAtFaultIsTold(t *testing.T) {
	f := newFixture(t)
	f.edit("replicas: 2", "replica: 2")
	_, err := New(Options{Path: f.dir})
	findings, ok := errors.AsType[system.Findings](err)
	if !ok || len(findings) != 1 || !strings.Contains(findings[0].String(), "replicas") {
		t.Errorf("error is %v, want one finding that suggests replicas", err)
	}
}

// load sends requests over HTTP and the bus from eight clients until stop is
// called, and fails the test for every one that fails. It returns after 200
// requests; stop sends 200 more first.
func (f *fixture) load() (stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var sent atomic.Int64
	var wg sync.WaitGroup
	client := &http.Client{Timeout: await.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	for i := range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				path, method := "/http", "GET"
				if i%2 == 0 {
					path, method = "/say", "POST"
				}
				req, _ := http.NewRequest(method, f.node.URL()+path, strings.NewReader("{}"))
				resp, err := client.Do(req)
				sent.Add(1)
				if err != nil {
					f.t.Error(err)
					continue
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 {
					f.t.Errorf("%s %s: %s %s", method, path, resp.Status, body)
				}
			}
		})
	}
	more := func() {
		before := sent.Load()
		await.Until(f.t, "more is sent", func() bool { return sent.Load() > before+200 })
	}
	more()
	return func() {
		more()
		cancel()
		wg.Wait()
	}
}
