package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv("CONTROL_TEST_CALL"); ok {
		os.Exit(callFromChild(dir))
	}
	// net/http waits for half a second after it has cut a body off.
	await.Goroutines(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// callFromChild is the other process of TestAllow.
func callFromChild(dir string) int {
	c, err := control.Dial(dir)
	if err == nil {
		_, err = control.Call[control.Empty, control.Status](context.Background(), c, control.VerbStatus, control.Empty{}, nil)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// listen starts a server in a folder of its own and ends it with the test.
func listen(t *testing.T, opts control.ServerOptions, register func(*control.Server)) (*control.Server, string) {
	t.Helper()
	dir := t.TempDir()
	return listenIn(t, dir, opts, register), dir
}

func listenIn(t *testing.T, dir string, opts control.ServerOptions, register func(*control.Server)) *control.Server {
	t.Helper()
	s, err := control.Listen(filepath.Join(dir, control.SocketName), opts)
	if err != nil {
		t.Fatal(err)
	}
	if register != nil {
		register(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func dial(t *testing.T, dir string) *control.Client {
	t.Helper()
	c, err := control.Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func handleStatus(s *control.Server) {
	control.Handle(s, control.VerbStatus, func(context.Context, control.Empty, func(control.Event)) (control.Status, error) {
		return control.Status{System: "commerce", Revision: 3}, nil
	})
}

func status(ctx context.Context, c *control.Client) (control.Status, error) {
	return control.Call[control.Empty, control.Status](ctx, c, control.VerbStatus, control.Empty{}, nil)
}

func wantCode(t *testing.T, err error, code string) *control.Error {
	t.Helper()
	e, ok := errors.AsType[*control.Error](err)
	if !ok || e.Code != code {
		t.Fatalf("got %#v, want a control error with code %s", err, code)
	}
	return e
}

func TestCallTellsEventsThenAnswers(t *testing.T) {
	_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, control.VerbRestart, func(_ context.Context, req control.ServiceRequest, tell func(control.Event)) (control.Receipt, error) {
			tell(control.Event{Kind: control.EventStarting, Service: req.Service, Instance: "api-2"})
			tell(control.Event{Kind: control.EventReady, Service: req.Service, Instance: "api-2", Took: time.Second})
			return control.Receipt{Service: req.Service, Took: 2 * time.Second}, nil
		})
	})
	var kinds []control.EventKind
	got, err := control.Call[control.ServiceRequest, control.Receipt](t.Context(), dial(t, dir), control.VerbRestart,
		control.ServiceRequest{Service: "api"}, func(e control.Event) { kinds = append(kinds, e.Kind) })
	if err != nil {
		t.Fatal(err)
	}
	if want := (control.Receipt{Service: "api", Old: control.List[control.Served]{}, New: control.List[control.Served]{}, Took: 2 * time.Second}); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if want := []control.EventKind{control.EventStarting, control.EventReady}; !cmp.Equal(kinds, want) {
		t.Error(cmp.Diff(want, kinds))
	}
}

func TestSocketModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", control.DataDir)
	listenIn(t, dir, control.ServerOptions{}, handleStatus)
	for path, want := range map[string]os.FileMode{
		dir: 0o700 | os.ModeDir, filepath.Join(dir, control.SocketName): 0o600 | os.ModeSocket,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
}

func TestPathLongerThanASocketAddress(t *testing.T) {
	dir := t.TempDir()
	for len(dir) < 400 {
		dir = filepath.Join(dir, strings.Repeat("d", 60))
	}
	s := listenIn(t, dir, control.ServerOptions{}, handleStatus)
	if st, err := status(t.Context(), dial(t, dir)); err != nil || st.System != "commerce" {
		t.Fatalf("got %+v, %v", st, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, control.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after close: %v", err)
	}
}

func TestErrorsTravel(t *testing.T) {
	findings := system.Findings{{File: "fairlead.yaml", Line: 12, Column: 7, Field: "services.api.replicas", Problem: "must be 0 to 64, is 640"}}
	tests := []struct {
		name string
		err  error
		want *control.Error
	}{
		{"plain", errors.New("no way"), &control.Error{Code: control.CodeFailed, Message: "no way"}},
		{
			"own", &control.Error{Code: control.CodeNotFound, Message: "no service apj", Hint: "did you mean api?"},
			&control.Error{Code: control.CodeNotFound, Message: "no service apj", Hint: "did you mean api?"},
		},
		{
			"own wrapped", fmt.Errorf("restart: %w", &control.Error{Code: control.CodeConflict, Message: "a reload goes on"}),
			&control.Error{Code: control.CodeConflict, Message: "restart: a reload goes on"},
		},
		{"findings", fmt.Errorf("reload: %w", findings), &control.Error{
			Code: control.CodeFile, Message: "reload: " + findings.Error(), Findings: []control.Finding{control.Finding(findings[0])},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
				control.Handle(s, "fail", func(context.Context, control.Empty, func(control.Event)) (control.Empty, error) {
					return control.Empty{}, tt.err
				})
				control.HandleStream(s, "break", func(_ context.Context, _ control.Empty, emit func(int) error) error {
					return errors.Join(emit(1), tt.err)
				})
			})
			c := dial(t, dir)
			_, err := control.Call[control.Empty, control.Empty](t.Context(), c, "fail", control.Empty{}, nil)
			if got := wantCode(t, err, tt.want.Code); !cmp.Equal(got, tt.want) {
				t.Error(cmp.Diff(tt.want, got))
			}
			items := 0
			err = control.Stream(t.Context(), c, "break", control.Empty{}, func(int) error { items++; return nil })
			if got := wantCode(t, err, tt.want.Code); !cmp.Equal(got, tt.want) || items != 1 {
				t.Error(cmp.Diff(tt.want, got), "items:", items)
			}
			if list, ok := errors.AsType[system.Findings](err); ok != (tt.name == "findings") || ok && !cmp.Equal(list, findings) {
				t.Errorf("findings that arrive: %v", list)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	_, dir := listen(t, control.ServerOptions{Version: "1.2.3"}, func(s *control.Server) {
		handleStatus(s)
		control.Handle(s, control.VerbStop, func(context.Context, control.ServiceRequest, func(control.Event)) (control.Empty, error) {
			return control.Empty{}, nil
		})
	})
	c := dial(t, dir)

	t.Run("unknown method names the version", func(t *testing.T) {
		_, err := control.Call[control.Empty, control.Empty](t.Context(), c, "scale", control.Empty{}, nil)
		e := wantCode(t, err, control.CodeUnknownMethod)
		if want := `the running fairlead (version 1.2.3) has no verb "scale"`; e.Message != want || !strings.Contains(e.Hint, "status, stop") {
			t.Errorf("got %q, %q", e.Message, e.Hint)
		}
	})
	t.Run("unknown field", func(t *testing.T) {
		_, err := control.Call[map[string]any, control.Empty](t.Context(), c, control.VerbStop, map[string]any{"service": "a", "dry_run": true}, nil)
		if e := wantCode(t, err, control.CodeBadRequest); !strings.Contains(e.Message, "dry_run") {
			t.Errorf("got %q", e.Message)
		}
	})
	t.Run("request too large, refused by the client", func(t *testing.T) {
		_, err := control.Call[control.ServiceRequest, control.Empty](t.Context(), c, control.VerbStop,
			control.ServiceRequest{Service: strings.Repeat("x", control.MaxRequest)}, nil)
		wantCode(t, err, control.CodeTooLarge)
	})

	raw := []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"request too large, refused by the server", "POST", "/v1/stop", `{"service":"` + strings.Repeat("x", control.MaxRequest) + `"}`, 413, control.CodeTooLarge},
		{"GET", "GET", "/v1/status", "", 400, control.CodeBadRequest},
		{"not JSON", "POST", "/v1/stop", "service=api", 400, control.CodeBadRequest},
		{"two objects", "POST", "/v1/stop", `{} {}`, 400, control.CodeBadRequest},
		{"another path", "POST", "/status", "", 404, control.CodeUnknownMethod},
		{"another version", "POST", "/v2/status", "", 404, control.CodeUnknownMethod},
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, control.SocketName))
	}}}
	for _, tt := range raw {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://x"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Error control.Error }
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			if resp.StatusCode != tt.status || got.Error.Code != tt.code || got.Error.Message == "" {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestSlowHeadIsCut(t *testing.T) {
	_, dir := listen(t, control.ServerOptions{}, handleStatus)
	conn, err := net.Dial("unix", filepath.Join(dir, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/status HTTP/1.1\r\nX: "+strings.Repeat("y", 64<<10)); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(await.Patience)); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn)
	if !strings.Contains(string(answer), "431") {
		t.Errorf("a head that is too large got %q", answer)
	}
}

// TestAllow has a child process call: it is refused, we are not.
func TestAllow(t *testing.T) {
	refused := errors.New("a service of the system may not control it")
	_, dir := listen(t, control.ServerOptions{Allow: func(pid int) error {
		if pid == os.Getpid() {
			return nil
		}
		return refused
	}}, handleStatus)
	if _, err := status(t.Context(), dial(t, dir)); err != nil {
		t.Errorf("own process: %v", err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "CONTROL_TEST_CALL="+dir)
	out, err := child.CombinedOutput()
	if err == nil || !strings.Contains(string(out), refused.Error()) {
		t.Errorf("child: %v, %s", err, out)
	}
}

// TestForeignUser has a child with another user id connect; it needs root, as
// containers of builds have it.
func TestForeignUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	_, dir := listen(t, control.ServerOptions{}, handleStatus)
	// The modes alone would refuse the child: open them, what is left is the check.
	for p := dir; p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil && p != os.TempDir() {
			t.Fatal(err)
		}
		if filepath.Dir(p) == filepath.Clean(os.TempDir()) {
			break
		}
	}
	socket := filepath.Join(dir, control.SocketName)
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		child := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c"}, args...)...)
		child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := child.CombinedOutput()
		return string(out)
	}
	bin := filepath.Join(dir, "test-binary")
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	// Our own client refuses first: the node is another user's.
	if out := run("CONTROL_TEST_CALL=" + dir + " " + bin); !strings.Contains(out, "belongs to user 0") {
		t.Errorf("client as another user: %s", out)
	}
	if curl, err := exec.LookPath("curl"); err == nil {
		if out := run(curl + " -s --unix-socket " + socket + " -X POST http://x/v1/status"); !strings.Contains(out, "user 65534 may not use this socket") {
			t.Errorf("curl as another user: %s", out)
		}
	}
}

func TestCancellationReachesTheHandler(t *testing.T) {
	ended := make(chan error, 2)
	started := make(chan struct{}, 2)
	_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, "wait", func(ctx context.Context, _ control.Empty, _ func(control.Event)) (control.Empty, error) {
			started <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return control.Empty{}, ctx.Err()
		})
		control.HandleStream(s, "follow", func(ctx context.Context, _ control.Empty, emit func(int) error) error {
			started <- struct{}{}
			if err := emit(1); err != nil {
				return err
			}
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		})
	})
	c := dial(t, dir)
	calls := map[string]func(context.Context) error{
		"call": func(ctx context.Context) error {
			_, err := control.Call[control.Empty, control.Empty](ctx, c, "wait", control.Empty{}, nil)
			return err
		},
		"stream": func(ctx context.Context) error {
			return control.Stream(ctx, c, "follow", control.Empty{}, func(int) error { return nil })
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			<-started
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("caller got %v", err)
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("handler saw %v", err)
			}
		})
	}
}

func TestStreamEndsByTheCallersError(t *testing.T) {
	enough := errors.New("enough")
	gone := make(chan error, 1)
	_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.HandleStream(s, "count", func(ctx context.Context, _ control.Empty, emit func(int) error) error {
			for i := 0; ; i++ {
				if err := emit(i); err != nil {
					gone <- err
					return err
				}
			}
		})
	})
	n := 0
	err := control.Stream(t.Context(), dial(t, dir), "count", control.Empty{}, func(int) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 3 {
		t.Errorf("got %v after %d items", err, n)
	}
	<-gone
}

func TestBigAnswer(t *testing.T) {
	reply := control.BusReply{Data: []byte(strings.Repeat("0123456789", 1<<20))}
	_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, control.VerbRequest, func(context.Context, control.BusRequest, func(control.Event)) (control.BusReply, error) {
			return reply, nil
		})
		control.HandleStream(s, control.VerbLogs, func(_ context.Context, _ control.LogsRequest, emit func(control.Line) error) error {
			for i := range 20_000 {
				if err := emit(control.Line{Instance: "api-1", Text: fmt.Sprint("<line> & ", i)}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	c := dial(t, dir)
	got, err := control.Call[control.BusRequest, control.BusReply](t.Context(), c, control.VerbRequest, control.BusRequest{Subject: "a"}, nil)
	if err != nil || string(got.Data) != string(reply.Data) {
		t.Errorf("got %d bytes, %v", len(got.Data), err)
	}
	n := 0
	err = control.Stream(t.Context(), c, control.VerbLogs, control.LogsRequest{}, func(l control.Line) error {
		if l.Text != fmt.Sprint("<line> & ", n) {
			return fmt.Errorf("line %d is %q", n, l.Text)
		}
		n++
		return nil
	})
	if err != nil || n != 20_000 {
		t.Errorf("got %d lines, %v", n, err)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, "boom", func(context.Context, control.Empty, func(control.Event)) (control.Empty, error) {
			panic("secret value")
		})
		handleStatus(s)
	})
	c := dial(t, dir)
	_, err := control.Call[control.Empty, control.Empty](t.Context(), c, "boom", control.Empty{}, nil)
	if e := wantCode(t, err, control.CodeInternal); strings.Contains(e.Message, "secret") {
		t.Errorf("got %q", e.Message)
	}
	if _, err := status(t.Context(), c); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStrayTellIsHarmless(t *testing.T) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	_, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, "go", func(_ context.Context, _ control.Empty, tell func(control.Event)) (control.Empty, error) {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						tell(control.Event{Kind: control.EventInfo, Text: "late"})
					}
				}
			})
			return control.Empty{}, nil
		})
	})
	c := dial(t, dir)
	for range 20 {
		if _, err := control.Call[control.Empty, control.Empty](t.Context(), c, "go", control.Empty{}, nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestSocketInTheWay(t *testing.T) {
	t.Run("stale socket is replaced", func(t *testing.T) {
		dir := t.TempDir()
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, control.SocketName)})
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		ln.Close()
		if _, err := control.Dial(dir); !errors.Is(err, control.ErrNotRunning) {
			t.Errorf("dial a stale socket: %v", err)
		}
		listenIn(t, dir, control.ServerOptions{}, handleStatus)
		if _, err := status(t.Context(), dial(t, dir)); err != nil {
			t.Error(err)
		}
	})
	t.Run("a living node's socket is kept", func(t *testing.T) {
		_, dir := listen(t, control.ServerOptions{}, handleStatus)
		_, err := control.Listen(filepath.Join(dir, control.SocketName), control.ServerOptions{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d listens there", os.Getpid())) {
			t.Errorf("got %v", err)
		}
		if _, err := status(t.Context(), dial(t, dir)); err != nil {
			t.Error(err)
		}
	})
	t.Run("a file is kept", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, control.SocketName)
		if err := os.WriteFile(path, []byte("notes"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := control.Listen(path, control.ServerOptions{}); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("close keeps the socket that took our place", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, control.SocketName)
		s, err := control.Listen(path, control.ServerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		listenIn(t, dir, control.ServerOptions{}, handleStatus)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := status(t.Context(), dial(t, dir)); err != nil {
			t.Error(err)
		}
	})
}

func TestNotRunning(t *testing.T) {
	root := t.TempDir()
	tests := []struct{ name, data, file, want string }{
		{"beside the file", root + "/shop/.fairlead", "", "no fairlead runs for " + root + "/shop/fairlead.yaml; start it with: fairlead up " + root + "/shop"},
		{"file known", root + "/shop/.fairlead", root + "/shop/fairlead.yaml", "no fairlead runs for " + root + "/shop/fairlead.yaml; start it with: fairlead up " + root + "/shop"},
		{"another file name", root + "/shop/.fairlead", root + "/shop/other.yaml", "no fairlead runs for " + root + "/shop/other.yaml; start it with: fairlead up " + root + "/shop/other.yaml"},
		{"moved", root + "/data", root + "/shop/fairlead.yaml", "no fairlead runs for " + root + "/shop/fairlead.yaml with its data in " + root + "/data; start it with: fairlead up --data " + root + "/data " + root + "/shop"},
		{"moved, file unknown", root + "/data", "", "no fairlead runs with its data in " + root + "/data; start it with: fairlead up --data " + root + "/data DIR"},
		{"to be quoted", root + "/it's here/.fairlead", "", "no fairlead runs for " + root + "/it's here/fairlead.yaml; start it with: fairlead up '" + root + `/it'\''s here'`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := control.Dial(tt.data)
			e, ok := errors.AsType[*control.NotRunningError](err)
			if !ok || !errors.Is(err, control.ErrNotRunning) {
				t.Fatalf("got %v", err)
			}
			e.File = tt.file
			if e.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", e, tt.want)
			}
		})
	}
}

func TestHandleTwicePanics(t *testing.T) {
	s, err := control.Listen(filepath.Join(t.TempDir(), control.SocketName), control.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	handleStatus(s)
	defer func() {
		if recover() == nil {
			t.Error("the second registration of a name went through")
		}
	}()
	handleStatus(s)
}
