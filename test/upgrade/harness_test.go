// Package upgrade_test puts one fairlead in the place of another while a system
// runs under load, and looks at it as its users do: through the door, the verbs
// and the process table. It also makes each step of it fail.
package upgrade_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"fairlead/internal/control"
	"fairlead/service"
	"fairlead/test/await"
	"fairlead/test/stage"
)

// one and two are the fairlead command in two versions; two fails where the
// environment says so. foreign is no fairlead, old one that cannot take over.
var one, two, foreign, old string

const versionTwo = "0.2.0-test"

// TestMain builds the programs. The test binary itself plays the services.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "part" {
		os.Exit(play(os.Args[2], os.Args[3]))
	}
	if len(os.Args) > 2 && os.Args[1] == "role" {
		service.Main(roles[os.Args[2]])
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fairlead-upgrade-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	one, two, foreign, old = filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "foreign"), filepath.Join(dir, "old")
	for _, args := range [][]string{
		{"-tags", "faults", "-o", one, "fairlead/cmd/fairlead"},
		{"-tags", "faults", "-ldflags", "-X fairlead/internal/cli.Version=" + versionTwo, "-o", two, "fairlead/cmd/fairlead"},
	} {
		if err := stage.Build(args...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	for path, script := range map[string]string{foreign: "echo hello", old: `echo '{"version":"0.0.1"}'`} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// play is a service: it answers echo.> and other.> over the bus as an old NestJS
// client does, which connects again after a while, and serves HTTP: /ask asks
// other.x over the bus, /socket echoes over a WebSocket, /slow takes its time.
func play(group, wait string) int {
	pause, err := time.ParseDuration(wait)
	if err != nil {
		return 2
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.Timeout(await.Patience), nats.UserInfo(os.Getenv("NATS_USER"), os.Getenv("NATS_PASSWORD")),
		nats.CustomInboxPrefix(os.Getenv("NATS_INBOX_PREFIX")), nats.ReconnectWait(pause), nats.MaxReconnects(-1))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	id := os.Getenv("FAIRLEAD_INSTANCE")
	if _, err := nc.QueueSubscribe(group+".>", group, func(m *nats.Msg) {
		go func() {
			if d, err := time.ParseDuration(strings.TrimPrefix(m.Subject, group+".slow.")); err == nil {
				time.Sleep(d)
			}
			_ = m.Respond([]byte(strconv.Quote(id)))
		}()
	}); err != nil {
		return 1
	}
	if err := nc.Flush(); err != nil {
		return 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, id)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.Query().Get("for"))
		time.Sleep(d)
		fmt.Fprint(w, id)
	})
	mux.HandleFunc("/say", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("said " + r.URL.Query().Get("text"))
	})
	mux.HandleFunc("/ask", func(w http.ResponseWriter, _ *http.Request) {
		m, err := nc.Request("other.x", nil, 20*time.Second) // before the door gives up
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(m.Data)
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		both := websocket.NetConn(context.Background(), c, websocket.MessageText)
		_, _ = io.Copy(both, both)
	})
	go func() { _ = http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux) }()
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	<-terminate
	return 0
}

const systemText = `
system: upgraded
gateway: {listen: "127.0.0.1:0"}
services:
  echo: {command: [SELF, part, echo, 2s], replicas: 2, update: {drain: DRAIN}, bus: {group: echo, answers: ["echo.>"], asks: ["other.>"]}}
  other: {command: [SELF, part, other, WAIT], bus: {group: other, answers: ["other.>"]}}
routes:
  /bus: {request: echo.x}
  /bus/{how}/{for}: {request: "echo.{how}.{for}"}
  /other: {request: other.x}
  /publish: {publish: data.x}
  /once: {publish: data.x, dedupe: [body.a]}
  /: {service: echo}
queues: {data.x: {}}
`

// world is a system that runs.
type world struct{ *stage.System }

// newWorld starts the system with the first version, in an environment with more
// variables, and waits until it is ready.
func newWorld(t *testing.T, replace []string, env ...string) *world {
	t.Helper()
	w := &world{stage.New(t, one, systemText, append(replace, "DRAIN", "30s", "WAIT", "50ms")...)}
	t.Cleanup(w.end)
	w.start(env...)
	return w
}

func (w *world) start(env ...string) {
	w.T.Helper()
	w.Start(env...)
	w.Ready()
}

// end stops what runs. Former processes may end a moment after the first one.
func (w *world) end() {
	if w.Up != nil {
		_ = w.Up.Process.Signal(syscall.SIGTERM) // it may just have ended
		w.Wait()
	}
	await.Until(w.T, "nothing is left of "+w.Dir, func() bool { return len(w.Processes()) == 0 })
}

// instances returns the process ids by instance.
func (w *world) instances() map[string]int {
	w.T.Helper()
	st, err := w.Status()
	if err != nil {
		w.T.Fatal(err)
	}
	pids := map[string]int{}
	for _, s := range st.Services {
		for _, i := range s.Instance {
			pids[i.ID] = i.PID
		}
	}
	return pids
}

func (w *world) upgrade(binary string) (control.UpgradeReply, error) {
	return stage.Call[control.UpgradeRequest, control.UpgradeReply](w.System, control.VerbUpgrade, control.UpgradeRequest{Binary: binary})
}

// load is a mixture of requests that goes on until it is stopped.
type load struct {
	w      *world
	stop   chan struct{}
	wg     sync.WaitGroup
	client *http.Client

	mu       sync.Mutex // guards below
	requests int
	failures []string
	lost     int
	longest  time.Duration
}

// begin starts the load: each kind of request over connections that are kept, and
// over one for each request.
func (w *world) begin() *load {
	l := &load{w: w, stop: make(chan struct{})}
	kept := &http.Client{Timeout: await.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	fresh := &http.Client{Timeout: await.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	l.client = kept
	for _, kind := range []struct{ method, path string }{
		{"GET", "/"}, {"POST", "/"}, {"GET", "/bus"}, {"POST", "/bus"}, {"POST", "/other"}, {"POST", "/publish"}, {"POST", "/once"},
	} {
		for _, c := range []*http.Client{kept, fresh} {
			l.wg.Go(func() { l.ask(c, kind.method, kind.path) })
		}
	}
	l.wg.Go(func() { l.ask(kept, "GET", "/ask") })
	return l
}

func (l *load) ask(c *http.Client, method, path string) {
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(3 * time.Millisecond): // the rhythm of a client
		}
		begun := time.Now()
		problem := l.once(c, method, path)
		l.mu.Lock()
		l.requests++
		l.longest = max(l.longest, time.Since(begun))
		switch {
		case problem == "":
		case strings.Contains(problem, "nats: timeout"):
			l.lost++ // between two services
		default:
			l.failures = append(l.failures, problem)
		}
		l.mu.Unlock()
	}
}

func (l *load) once(c *http.Client, method, path string) string {
	req, err := http.NewRequestWithContext(context.Background(), method, l.w.URL+path, strings.NewReader(`{"a":1}`))
	if err != nil {
		return err.Error()
	}
	if method == "GET" {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
		req.GetBody = nil // the client must not send it again by itself
	}
	resp, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return fmt.Sprintf("%s %s: %d %s %v", method, path, resp.StatusCode, text, err)
	}
	return ""
}

// end stops the load and checks that nothing failed. A request of one service to
// another that is under way in the moment when the bus closes may be lost, because these
// services know nothing of package service: one at most of the one that asks, for each
// upgrade.
func (l *load) end(upgrades int) {
	l.w.T.Helper()
	close(l.stop)
	l.wg.Wait()
	l.client.CloseIdleConnections()
	l.w.T.Logf("%d requests, the longest took %v; lost between services: %d", l.requests, l.longest, l.lost)
	if l.lost > upgrades {
		l.w.T.Errorf("%d requests between services were lost in %d upgrades", l.lost, upgrades)
	}
	if len(l.failures) > 0 {
		l.w.T.Errorf("%d of %d requests failed: %s", len(l.failures), l.requests, strings.Join(l.failures[:min(5, len(l.failures))], "\n"))
	}
}

// socket is a WebSocket through the door.
func (w *world) socket() net.Conn {
	w.T.Helper()
	c, resp, err := websocket.Dial(w.T.Context(), strings.Replace(w.URL, "http", "ws", 1)+"/socket", nil)
	if err != nil {
		w.T.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	w.T.Cleanup(func() { _ = c.CloseNow() })
	return websocket.NetConn(context.Background(), c, websocket.MessageText)
}

// echoes reports whether a WebSocket lives.
func echoes(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	answer := make([]byte, 5)
	_, err := io.ReadFull(c, answer)
	return err
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, after, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}
