package service

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

// testMain is the program of TestMainEndsOnSignals.
func testMain() {
	Main(func(s *Service) error {
		switch os.Getenv(envTestMain) {
		case "fail":
			return errors.New("no setup today")
		default:
			return nil
		}
	})
}

func TestMainEndsOnSignals(t *testing.T) {
	for _, tt := range []struct {
		name, mode string
		signal     os.Signal
		code       int
		log        string
	}{
		{"SIGTERM", "run", syscall.SIGTERM, 0, "service stopped"},
		{"SIGINT", "run", syscall.SIGINT, 0, "service stopped"},
		{"setup fails", "fail", nil, 1, "set up: no setup today"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logBuffer
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), envTestMain+"="+tt.mode, wire.EnvSocket+"="+t.TempDir()+"/s", wire.EnvService+"=x")
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if tt.signal != nil {
				await.Until(t, "service runs", func() bool { return strings.Contains(log.String(), "service runs") })
				if err := cmd.Process.Signal(tt.signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(log.String(), tt.log) {
				t.Errorf("exit code %d\n%s", code, log.String())
			}
		})
	}
}

func TestEnvironmentIsChecked(t *testing.T) {
	env := map[string]string{
		wire.EnvIdentityKey: "short", wire.EnvGrace: "-1s", envLogLevel: "loud", wire.EnvPort: "70000",
		wire.EnvService: "a.b", wire.EnvInstance: "a b",
	}
	i := launch(t, env, func(*Service) error { return nil })
	<-i.done
	if i.err == nil {
		t.Fatal("no error")
	}
	for name := range env {
		if !strings.Contains(i.err.Error(), name) {
			t.Errorf("%s is not in %v", name, i.err)
		}
	}
}

func TestLogHasTheRequest(t *testing.T) {
	var b bytes.Buffer
	log := newLogger(&b, config{service: "s", instance: "s-1"})
	c := &callContext{Context: context.Background(), call: call{requestID: "r-12345678", trace: wire.NewTrace()}}
	log.InfoContext(c, "one", "k", 1)
	log.With("a", 1).WithGroup("g").With("b", 2).WithGroup("h").InfoContext(c, "two", "k", 3)
	log.InfoContext(context.Background(), "three")
	log.DebugContext(c, "not logged")
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %s", b.String())
	}
	head := `"service":"s","instance":"s-1"`
	ids := `"request_id":"r-12345678","trace_id":"` + c.trace.TraceID() + `","span_id":"` + c.trace.SpanID() + `"`
	for i, want := range []string{
		`"msg":"one",` + head + `,"k":1,` + ids + `}`,
		`"msg":"two",` + head + `,"a":1,` + ids + `,"g":{"b":2,"h":{"k":3}}}`,
		`"msg":"three",` + head + `}`,
	} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("got  %s\nwant %s", lines[i], want)
		}
	}
}

func TestErrorf(t *testing.T) {
	cause := errors.New("cause")
	tests := []struct {
		name   string
		err    error
		public string
		cause  bool
	}{
		{"plain", Errorf(400, "bad %s", "x"), "bad x", false},
		{"cause at the end", Errorf(400, "bad %s: %w", "x", cause), "bad x", true},
		{"cause in the middle", Errorf(400, "bad (%w) %d%%", cause, 5), "bad () 5%", true},
		{"literal percent", Errorf(400, "100%%w"), "100%w", false},
		{"two causes", Errorf(400, "bad: %w, %w", cause, errors.New("x")), "bad", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e *Error
			if !errors.As(tt.err, &e) || e.Status != 400 || e.Public != tt.public || errors.Is(tt.err, cause) != tt.cause {
				t.Errorf("got %#v", tt.err)
			}
		})
	}
}
