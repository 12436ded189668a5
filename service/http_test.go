package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

func do(tb testing.TB, c *http.Client, r *http.Request) (*http.Response, string) {
	tb.Helper()
	res, err := c.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res, "broken: " + string(b)
	}
	return res, string(b)
}

func get(tb testing.TB, c *http.Client, method, path string) (*http.Response, string) {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, "http://s"+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return do(tb, c, r)
}

func TestHTTP(t *testing.T) {
	i := start(t, testEnv(t, nil, "tradeflow"), func(s *Service) error {
		s.HTTP("GET /flows/{hs}", func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.WriteString(w, r.PathValue("hs"))
			return err
		})
		s.HTTP("GET /missing", func(http.ResponseWriter, *http.Request) error { return Errorf(404, "no such flow") })
		s.HTTP("GET /plain", func(http.ResponseWriter, *http.Request) error { return errors.New("secret cause") })
		s.HTTP("GET /panic", func(http.ResponseWriter, *http.Request) error { panic("secret panic") })
		s.HTTP("GET /half", func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, strings.Repeat("x", 100))
			w.(http.Flusher).Flush()
			return errors.New("secret middle")
		})
		s.HTTP("GET /abort", func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) })
		s.HTTP("GET /file", func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.Copy(w, strings.NewReader("from a reader"))
			return err
		})
		s.HTTP("GET /early", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints) // is not the response yet
			return Errorf(409, "later")
		})
		s.HTTP("GET /deadline", func(_ http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			return r.Context().Err()
		})
		return nil
	})
	c := i.client(t)
	tests := []struct {
		name, method, path string
		status             int
		want               string // the body, or detail of the problem
	}{
		{"path value", "GET", "/flows/0101", 200, "0101"},
		{"health", "GET", "/healthz", 200, "ok\n"},
		{"reader", "GET", "/file", 200, "from a reader"},
		{"public error", "GET", "/missing", 404, "no such flow"},
		{"private error", "GET", "/plain", 500, "internal error"},
		{"panic", "GET", "/panic", 500, "internal error"},
		{"error after early hints", "GET", "/early", 409, "later"},
		{"no pattern", "GET", "/nowhere", 404, "there is nothing at this path"},
		{"no method", "POST", "/missing", 405, "the method is not allowed here"},
		{"error in the middle", "GET", "/half", 200, "broken: " + strings.Repeat("x", 100)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := get(t, c, tt.method, tt.path)
			if res.Header.Get("Content-Type") == wire.MediaProblem {
				var p wire.Problem
				if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != res.StatusCode || p.RequestID == "" {
					t.Errorf("problem %s, %v", body, err)
				}
				if strings.Contains(body, "secret") {
					t.Errorf("a private text was sent: %s", body)
				}
				body = p.Detail
			}
			if res.StatusCode != tt.status || body != tt.want {
				t.Errorf("got %d %q", res.StatusCode, body)
			}
			if tt.status == 405 && !strings.Contains(res.Header.Get("Allow"), "GET") {
				t.Errorf("Allow is %q", res.Header.Get("Allow"))
			}
		})
	}
	t.Run("deadline", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://s/deadline", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(wire.HeaderDeadline, wire.FormatDeadline(time.Now().Add(20*time.Millisecond)))
		if res, _ := do(t, c, r); res.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("got %d", res.StatusCode)
		}
	})
	t.Run("abort", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://s/abort", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Do(r); err == nil {
			t.Error("the connection was not cut")
		}
	})
	for _, want := range []string{"secret cause", "secret panic", "secret middle"} {
		if !strings.Contains(i.log.String(), want) {
			t.Errorf("%q is not in the log", want)
		}
	}
	if info, err := os.Stat(i.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	c.CloseIdleConnections()
	if err := i.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(i.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestHTTPWebSocketAndDrain(t *testing.T) {
	i := start(t, testEnv(t, nil, "live"), func(s *Service) error {
		s.HTTP("GET /ws", func(w http.ResponseWriter, r *http.Request) error {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return err
			}
			defer ws.CloseNow()
			typ, b, err := ws.Read(r.Context())
			if err != nil {
				return err
			}
			if err := ws.Write(r.Context(), typ, append([]byte("got "), b...)); err != nil {
				return err
			}
			<-s.Context().Done()
			return ws.Close(websocket.StatusGoingAway, "bye")
		})
		s.HTTP("GET /assert", func(w http.ResponseWriter, _ *http.Request) error {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return err
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 299 Own\r\nContent-Length: 0\r\n\r\n")
			return errors.Join(conn.Close(), errors.New("after hijack"))
		})
		return nil
	})
	if res, _ := get(t, i.client(t), "GET", "/assert"); res.StatusCode != 299 {
		t.Errorf("got %d", res.StatusCode)
	}
	ws, _, err := websocket.Dial(t.Context(), "ws://s/ws", &websocket.DialOptions{HTTPClient: i.client(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := ws.Read(t.Context()); err != nil || string(b) != "got hi" {
		t.Fatalf("%s, %v", b, err)
	}
	i.cancel()
	if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("got %v", err)
	}
	if err := i.stop(); err != nil {
		t.Error(err)
	}
}

func TestHTTPDrainFinishesOpenRequests(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	i := start(t, testEnv(t, nil, "slow"), func(s *Service) error {
		s.HTTP("GET /slow", func(w http.ResponseWriter, _ *http.Request) error {
			close(entered)
			<-release
			_, err := io.WriteString(w, "done")
			return err
		})
		return nil
	})
	c := i.client(t)
	got := make(chan string)
	go func() {
		_, body := get(t, c, "GET", "/slow")
		got <- body
	}()
	<-entered
	i.cancel()
	await.Until(t, "no new connections are taken", func() bool {
		conn, err := net.Dial("unix", i.socket)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(release)
	if body := <-got; body != "done" {
		t.Errorf("got %q", body)
	}
	if err := i.stop(); err != nil {
		t.Error(err)
	}
}

func TestHTTPNeedsAnAddress(t *testing.T) {
	env := testEnv(t, nil, "x")
	delete(env, wire.EnvSocket)
	i := launch(t, env, func(s *Service) error {
		s.HTTP("GET /", func(http.ResponseWriter, *http.Request) error { return nil })
		return nil
	})
	if <-i.done; i.err == nil || !strings.Contains(i.err.Error(), "neither FAIRLEAD_SOCKET nor PORT") {
		t.Errorf("got %v", i.err)
	}
}

func TestHTTPOnPortAndOwnHealth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env := testEnv(t, nil, "x")
	delete(env, wire.EnvSocket)
	env[wire.EnvPort] = fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	setup := func(s *Service) error {
		s.HTTP("GET /healthz", func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.WriteString(w, "own")
			return err
		})
		return nil
	}
	taken := launch(t, env, setup)
	if <-taken.done; taken.err == nil || !strings.Contains(taken.err.Error(), "address already in use") {
		t.Errorf("got %v", taken.err)
	}
	l.Close()
	start(t, env, setup)
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+env[wire.EnvPort]+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, body := do(t, c, r); body != "own" {
		t.Errorf("got %q", body)
	}
}

func TestHTTPTakesOverAnOldSocket(t *testing.T) {
	env := testEnv(t, nil, "x")
	old, err := net.Listen("unix", env[wire.EnvSocket])
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	i := start(t, env, func(*Service) error { return nil })
	if res, _ := get(t, i.client(t), "GET", "/healthz"); res.StatusCode != 200 {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestGraceEndsHandlers(t *testing.T) {
	for name, obeys := range map[string]bool{"obeys its context": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := testEnv(t, nil, "stuck")
			env[wire.EnvGrace] = "300ms"
			if obeys {
				env[wire.EnvGrace] = "5s" // a tenth of it is left for the answer
			}
			entered, release := make(chan struct{}), make(chan struct{})
			i := start(t, env, func(s *Service) error {
				s.HTTP("GET /stuck", func(_ http.ResponseWriter, r *http.Request) error {
					close(entered)
					if obeys {
						<-r.Context().Done()
						return r.Context().Err()
					}
					<-release
					return nil
				})
				return nil
			})
			c := i.client(t)
			status := make(chan int, 1)
			go func() {
				r, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://s/stuck", nil)
				res, err := c.Do(r)
				if err != nil {
					status <- 0
					return
				}
				res.Body.Close()
				status <- res.StatusCode
			}()
			<-entered
			err := i.stop() // for ever, if it waits for the handler
			close(release)
			got := <-status
			if obeys && (err != nil || got != http.StatusServiceUnavailable) {
				t.Errorf("got %d, %v", got, err)
			}
			if !obeys && (err == nil || !strings.Contains(err.Error(), "still running")) {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

// A stream that had begun was ended when the deadline for its head came.
func TestStreamOutlivesTheDeadlineOfItsHead(t *testing.T) {
	t.Parallel()
	passed := make(chan struct{})
	i := start(t, testEnv(t, nil, "tradeflow"), func(s *Service) error {
		s.HTTP("GET /events", func(w http.ResponseWriter, r *http.Request) error {
			deadline, ok := r.Context().Deadline()
			if !ok {
				return errors.New("the head has no deadline")
			}
			if _, err := io.WriteString(w, "first "); err != nil {
				return err
			}
			if _, ok := r.Context().Deadline(); ok {
				return errors.New("the deadline counts although the response has begun")
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(time.Until(deadline) + 50*time.Millisecond):
			case <-r.Context().Done():
				return r.Context().Err()
			}
			close(passed)
			_, err := io.WriteString(w, "last")
			return err
		})
		s.HTTP("GET /late", func(_ http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			return r.Context().Err()
		})
		return nil
	})
	ask := func(path string, within time.Duration) (*http.Response, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://s"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(wire.HeaderDeadline, wire.FormatDeadline(time.Now().Add(within)))
		return do(t, i.client(t), r)
	}
	if res, body := ask("/events", 3*time.Second); res.StatusCode != http.StatusOK || body != "first last" {
		t.Errorf("the stream is %d %q", res.StatusCode, body)
	}
	await.From(t, "the deadline has passed", passed)
	if res, _ := ask("/late", 100*time.Millisecond); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a handler that is late is answered %d", res.StatusCode)
	}
}
