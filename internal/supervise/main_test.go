package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/supervise/process"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// TestMain lets the test binary play the keeper, the instances, and the node
// that a test kills.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keeper":
			os.Exit(KeeperMain(os.Args[2:]))
		case "instance":
			os.Exit(instanceMain(os.Args[2], os.Args[3:]))
		case "node":
			os.Exit(nodeMain(os.Args[2]))
		}
	}
	await.Goroutines(m)
}

// instanceMain is what the instances of tests do.
func instanceMain(mode string, args []string) int {
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	listen := func(network, address string, status *atomic.Int64) {
		l, err := net.Listen(network, address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/break":
				status.Store(503)
			case "/env":
				json.NewEncoder(w).Encode(os.Environ())
				return
			}
			if s := status.Load(); s != 0 {
				w.WriteHeader(int(s))
			}
		}))
	}
	var status atomic.Int64
	switch mode {
	case "idle": // obeys SIGTERM
		fmt.Println("idle")
	case "exit": // exits at once, with a code
		fmt.Fprintln(os.Stderr, "panic: cannot go on")
		code, _ := strconv.Atoi(args[0])
		return code
	case "exit-when": // exits as long as a file is missing
		if _, err := os.Stat(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, "missing", args[0])
			return 3
		}
		listen("tcp", "127.0.0.1:"+os.Getenv("PORT"), &status)
	case "hang": // does not obey SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("hanging")
		select {}
	case "hang-port": // shows by its port that it is deaf by now
		signal.Ignore(syscall.SIGTERM)
		listen("tcp", "127.0.0.1:"+os.Getenv("PORT"), &status)
		select {}
	case "port":
		listen("tcp", "127.0.0.1:"+os.Getenv("PORT"), &status)
	case "any":
		listen("tcp", ":"+os.Getenv("PORT"), &status)
	case "socket":
		listen("unix", os.Getenv(wire.EnvSocket), &status)
	case "unhealthy":
		status.Store(503)
		listen("tcp", "127.0.0.1:"+os.Getenv("PORT"), &status)
	case "child-port": // a shell-like parent, the child listens
		child := exec.Command("/proc/self/exe", "instance", "port")
		child.Start()
	case "deaf": // another process listens on its port
	case "flood":
		n, _ := strconv.Atoi(args[0])
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		for i := range n {
			fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", 80))
		}
		w.Flush()
	case "log": // one line each time SIGUSR1 comes
		use := make(chan os.Signal, 10)
		signal.Notify(use, syscall.SIGUSR1)
		fmt.Println("begin")
		go func() {
			for range use {
				fmt.Println("used")
			}
		}()
	case "fork": // leaves children of every kind, which do not obey
		for _, setsid := range []bool{false, true} {
			for _, bare := range []bool{false, true} {
				fork(setsid, bare, "hang")
			}
		}
		// A double fork: the one in between ends.
		fork(true, true, "between").Wait()
		listen("tcp", "127.0.0.1:"+os.Getenv("PORT"), &status)
	case "between":
		fork(true, true, "hang")
		return 0
	case "bomb": // forks again and again, does not obey
		signal.Ignore(syscall.SIGTERM)
		for {
			c := fork(true, true, "mayfly")
			go c.Wait()
			time.Sleep(2 * time.Millisecond)
		}
	case "mayfly":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(20 * time.Millisecond)
		return 0
	}
	<-terminate
	fmt.Println("asked to end")
	return 0
}

func fork(setsid, bare bool, mode string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", "instance", mode)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: setsid}
	if bare {
		c.Env = []string{"NOTHING=1"}
	}
	if err := c.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	return c
}

// host is a node as small as can be.
type host struct {
	mu sync.Mutex

	strict     bool // an instance is registered only when register said so
	registered map[string]bool
	calls      []string // "admit a-1", "withdraw a-1", "gone a-1"
	admitted   map[string]Instance
	withdraw   func(context.Context, Instance)
	env        []string
}

func newHost() *host {
	return &host{registered: make(map[string]bool), admitted: make(map[string]Instance)}
}

func (h *host) Grant(_ context.Context, s Spec, id string) ([]string, error) {
	return append([]string{"PATH=/usr/bin:/bin", wire.EnvService + "=" + s.Service, wire.EnvInstance + "=" + id}, h.env...), nil
}

func (h *host) Unregistered(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.strict || h.registered[id] {
		return ""
	}
	return "has not connected to the bus"
}

func (h *host) register(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.registered[id] = true
}

func (h *host) Admit(i Instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, "admit "+i.ID)
	h.admitted[i.ID] = i
}

func (h *host) Withdraw(ctx context.Context, i Instance) {
	h.mu.Lock()
	h.calls = append(h.calls, "withdraw "+i.ID)
	delete(h.admitted, i.ID)
	w := h.withdraw
	h.mu.Unlock()
	if w != nil {
		w(ctx, i)
	}
}

func (h *host) Gone(i Instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, "gone "+i.ID)
	delete(h.admitted, i.ID)
}

func (h *host) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.calls...)
}

func (h *host) serving() map[string]Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.admitted)
}

// ids returns a source of ids.
func ids() func(string) (string, error) {
	var n atomic.Int64
	return func(service string) (string, error) { return fmt.Sprintf("%s-%d", service, n.Add(1)), nil }
}

// world is a supervisor under test.
type world struct {
	*Supervisor
	host *host
	dir  string

	mu     sync.Mutex
	events []Event
}

func newWorld(tb testing.TB, change ...func(*Options)) *world {
	tb.Helper()
	w := &world{dir: tb.TempDir(), host: newHost()}
	opts := Options{
		Dir: w.dir, Host: w.host, NextID: ids(), Logger: slog.New(slog.DiscardHandler),
		Events: func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
		Policy: RestartPolicy{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond},
	}
	for _, c := range change {
		c(&opts)
	}
	w.Supervisor = New(opts)
	if err := w.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		w.Kill()
		nothingLeft(tb, w.dataID)
	})
	return w
}

func (w *world) seen() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Event(nil), w.events...)
}

// nothingLeft checks that no process of the data folder exists.
func nothingLeft(tb testing.TB, dataID string) {
	tb.Helper()
	table, err := process.All()
	if err != nil {
		tb.Fatal(err)
	}
	if left := table.Marked(process.Mark{Data: dataID}, nil, nil); len(left) > 0 {
		tb.Errorf("left behind: %+v", left)
	}
}

// spec is a service that plays a mode. Those that do not obey are given 2 s.
func spec(name string, replicas int, mode ...string) Spec {
	grace := await.Patience
	if len(mode) > 0 && slices.Contains([]string{"hang", "hang-port", "fork", "bomb"}, mode[0]) {
		grace = 2 * time.Second
	}
	return Spec{
		Service: name, Revision: 1, Dir: "/", Replicas: replicas,
		Command:         append([]string{testBinary(), "instance"}, mode...),
		StopGracePeriod: grace, OnBus: true,
		Healthcheck: system.Healthcheck{StartPeriod: await.Patience},
	}
}

func httpSpec(name string, replicas int, mode ...string) Spec {
	s := spec(name, replicas, mode...)
	s.HTTP = true
	return s
}

var testBinary = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
})
