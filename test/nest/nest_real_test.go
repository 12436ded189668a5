//go:build real

package nest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fairlead/test/await"
)

// running is the system of fairlead.yaml, run by the binary.
type running struct {
	t       *testing.T
	binary  string
	dir     string
	address string
	log     *syncBuffer
}

// syncBuffer collects a program's output.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// up builds fairlead and runs the system from a copy of its folder, with the
// packages that `npm ci` has installed here.
func up(t *testing.T) *running {
	t.Helper()
	if _, err := os.Stat("node_modules"); err != nil {
		t.Fatal("node_modules is missing; run: npm ci --ignore-scripts")
	}
	r := &running{t: t, dir: t.TempDir(), log: &syncBuffer{}}
	r.binary = filepath.Join(t.TempDir(), "fairlead")
	if out, err := exec.Command("go", "build", "-o", r.binary, "fairlead/cmd/fairlead").CombinedOutput(); err != nil {
		t.Fatalf("build fairlead: %v\n%s", err, out)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node_modules", "src", "package.json", "tsconfig.json"} {
		if err := os.Symlink(filepath.Join(here, name), filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("fairlead.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "fairlead.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	l.Close()

	cmd := exec.Command(r.binary, "up", r.dir, "--listen", r.address)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("fairlead up ended with %v:\n%s", err, r.log)
			}
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			t.Errorf("fairlead up does not end:\n%s", r.log)
		}
	})
	deadline := time.Now().Add(3 * time.Minute)
	for !strings.Contains(r.log.String(), "ready: 3 instances") {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("fairlead up ended with %v:\n%s", err, r.log)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the system is not ready:\n%s", r.log)
		}
	}
	return r
}

func (r *running) do(method, path, mediaType, body string, header ...string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.address+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// verb runs a command of the CLI and decodes its JSON.
func (r *running) verb(into any, args ...string) {
	r.t.Helper()
	cmd := exec.Command(r.binary, append([]string{"--file", r.dir, "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("fairlead %v: %v\n%s%s", args, err, stderr.String(), out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		r.t.Fatalf("fairlead %v: %v in %s", args, err, out)
	}
}

func TestRealNestServicesBehindTheDoor(t *testing.T) {
	r := up(t)
	const js = "application/json"
	tests := []struct {
		name, method, path, mediaType, body string
		status                              int
		want                                string // all of it, or with a trailing … its beginning
	}{
		{"object pattern", "POST", "/flows", js, `{"hs":"8517"}`, 200, `{"got":{"hs":"8517"},"subject":"{\"area\":\"tradeflow\",\"cmd\":\"findAll\"}"…`},
		{"query becomes data", "GET", "/flows?hs=8517", "", "", 200, `{"got":{"hs":"8517"}…`},
		{"string pattern", "POST", "/login", js, `{"u":1}`, 200, `{"token":"t","d":{"u":1}}`},
		{"wildcard pattern", "GET", "/time/fr", "", "", 200, `"time.fr"`},
		{"stream", "GET", "/stream", "", "", 200, `[1,2,3]`},
		{"undefined result", "GET", "/undef", "", "", 204, ``},
		{"null result", "GET", "/nul", "", "", 200, `null`},
		{"RpcException with a string", "GET", "/err/rpcstr", "", "", 502, `…"detail":"Invalid credentials."`},
		{"RpcException with an object", "GET", "/err/rpcobj", "", "", 409, `…"detail":"dup"`},
		{"HttpException", "GET", "/err/http", "", "", 502, `…"detail":"Internal server error"`},
		{"plain error", "GET", "/err/plain", "", "", 502, `…"detail":"Internal server error"`},
		{"body that is not JSON", "POST", "/login", js, `hello`, 400, `…the body is not JSON`},
		{"body of another type", "POST", "/login", "text/plain", `hello`, 415, `…JSON`},
		{"NestJS client asks over the bus", "GET", "/nest/flows", "", "", 200, `{"got":{"hs":"8517"}…`},
		{"NestJS client takes a stream", "GET", "/nest/stream", "", "", 200, `3`},
		{"NestJS client emits an event", "POST", "/nest/users", js, `{"id":5}`, 201, `{"emitted":true}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := r.do(tt.method, tt.path, tt.mediaType, tt.body)
			good := body == tt.want
			if before, ok := strings.CutSuffix(tt.want, "…"); ok {
				good = strings.HasPrefix(body, before)
			} else if within, ok := strings.CutPrefix(tt.want, "…"); ok {
				good = strings.Contains(body, within)
			}
			if status != tt.status || !good {
				t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, status, body, tt.status, tt.want)
			}
		})
	}
	t.Run("the event arrived", func(t *testing.T) {
		await.Until(t, "an instance has got the event", func() bool {
			_, body := r.do("GET", "/users/count", "", "") // two instances count for themselves; the queue group picks one of them
			return body == "1"
		})
	})
	t.Run("headers that reach the service", func(t *testing.T) {
		_, body := r.do("GET", "/who", "", "", "X-Request-Id", "abc-12345678", "X-Forged", "1", "Fairlead-Identity", "forged", "fairlead_identity", "forged")
		var who struct {
			RequestID, Traceparent string
			Identity               bool
			Forged                 string
		}
		if err := json.Unmarshal([]byte(body), &who); err != nil {
			t.Fatal(err)
		}
		if who.RequestID != "abc-12345678" || who.Traceparent == "" || who.Identity || who.Forged != "" {
			t.Errorf("the service saw %s", body)
		}
	})

	var st struct {
		Services []struct {
			Name      string
			Instances []struct {
				ID, State     string
				PID, Restarts int
			}
		}
	}
	r.verb(&st, "status")
	for _, s := range st.Services {
		for _, i := range s.Instances {
			if i.State != "ready" || i.Restarts != 0 {
				t.Errorf("after all that, %s is %s with %d restarts", i.ID, i.State, i.Restarts)
			}
		}
	}

	t.Run("restart under load", func(t *testing.T) {
		stop := r.load(t)
		var receipt struct {
			Old, New []struct{ Requests int }
			Failed   int
		}
		r.verb(&receipt, "restart", "tradeflow")
		sent, failed := stop()
		old, next := 0, 0
		for _, s := range receipt.Old {
			old += s.Requests
		}
		for _, s := range receipt.New {
			next += s.Requests
		}
		t.Logf("%d requests, old instances served %d, new ones %d meanwhile", sent, old, next)
		if failed > 0 || receipt.Failed > 0 || old == 0 || next == 0 {
			t.Errorf("%d of %d failed; the receipt is %+v", failed, sent, receipt)
		}
	})
}

// load sends 100 requests a second, half of them POST, until stop is called.
func (r *running) load(t *testing.T) (stop func() (sent, failed int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	client := &http.Client{Timeout: await.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			wg.Go(func() {
				req, _ := http.NewRequest([]string{"GET", "POST"}[i%2], "http://"+r.address+"/slow", strings.NewReader([]string{"", fmt.Sprintf(`{"n":%d}`, i)}[i%2]))
				if i%2 == 1 {
					req.Header.Set("Content-Type", "application/json")
				}
				sent.Add(1)
				resp, err := client.Do(req)
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("%s: %s", resp.Status, body)
				}
			})
		}
	})
	await.Until(t, "there is load", func() bool { return sent.Load() >= 100 })
	return func() (int64, int64) {
		before := sent.Load()
		await.Until(t, "there is more load", func() bool { return sent.Load() >= before+100 })
		cancel()
		wg.Wait()
		return sent.Load(), failed.Load()
	}
}
