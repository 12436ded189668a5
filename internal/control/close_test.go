package control_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/test/await"
)

func TestCloseWhileStreaming(t *testing.T) {
	tests := []struct {
		name  string
		reads bool
	}{{"caller who reads", true}, {"caller who does not read", false}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var items atomic.Int64
			s, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
				control.HandleStream(s, control.VerbLogs, func(ctx context.Context, _ control.Empty, emit func(string) error) error {
					for ctx.Err() == nil {
						if err := emit(strings.Repeat("x", 4096)); err != nil {
							return err
						}
						items.Add(1)
					}
					return ctx.Err()
				})
			})
			first := make(chan struct{}, 1)
			unblock := make(chan struct{})
			done := make(chan error, 1)
			c := dial(t, dir)
			go func() {
				done <- control.Stream(t.Context(), c, control.VerbLogs, control.Empty{}, func(string) error {
					select {
					case first <- struct{}{}:
					default:
					}
					if !tt.reads {
						<-unblock
					}
					return nil
				})
			}()
			<-first
			begun := time.Now()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > await.Patience/2 {
				t.Errorf("close took %v", took)
			}
			close(unblock)
			err := <-done
			wantCode(t, err, control.CodeClosed)
		})
	}
}

func TestCloseLetsOpenCallsAnswer(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, control.VerbDown, func(context.Context, control.Empty, func(control.Event)) (control.DownReply, error) {
			close(started)
			<-release
			return control.DownReply{Stopped: 5}, nil
		})
	})
	c := dial(t, dir)
	type answer struct {
		rep control.DownReply
		err error
	}
	got := make(chan answer, 1)
	go func() {
		rep, err := control.Call[control.Empty, control.DownReply](t.Context(), c, control.VerbDown, control.Empty{}, nil)
		got <- answer{rep, err}
	}()
	<-started
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	// The socket is gone while the call still goes on.
	for {
		if _, err := control.Dial(dir); errors.Is(err, control.ErrNotRunning) {
			break
		}
	}
	close(release)
	if a := <-got; a.err != nil || a.rep.Stopped != 5 {
		t.Errorf("got %+v", a)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestCloseEndsStuckCalls(t *testing.T) {
	started := make(chan struct{})
	s, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, control.VerbRestart, func(ctx context.Context, _ control.Empty, _ func(control.Event)) (control.Empty, error) {
			close(started)
			<-ctx.Done()
			return control.Empty{}, fmt.Errorf("wait for api: %w", ctx.Err())
		})
	})
	c := dial(t, dir)
	got := make(chan error, 1)
	go func() {
		_, err := control.Call[control.Empty, control.Empty](t.Context(), c, control.VerbRestart, control.Empty{}, nil)
		got <- err
	}()
	<-started
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if e := wantCode(t, <-got, control.CodeClosed); e.Message != "fairlead stops" {
		t.Errorf("got %q", e.Message)
	}
}

// TestStartStopStress opens, uses and closes servers in one folder while
// clients come and go at any moment.
func TestStartStopStress(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := control.Dial(dir)
				if err != nil {
					continue
				}
				st, err := status(context.Background(), c)
				if err == nil && st.System != "commerce" {
					t.Errorf("got %+v", st)
				}
				if err == nil {
					answered.Add(1)
				}
			}
		})
	}
	for range 60 {
		s, err := control.Listen(filepath.Join(dir, control.SocketName), control.ServerOptions{})
		if err != nil {
			t.Error(err)
			break
		}
		handleStatus(s)
		served := make(chan error, 1)
		go func() { served <- s.Serve() }()
		before := answered.Load()
		await.Until(t, "a call is answered", func() bool {
			if c, err := control.Dial(dir); err == nil {
				_, _ = status(t.Context(), c)
			}
			return answered.Load() > before
		})
		if err := errors.Join(s.Close(), <-served); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if answered.Load() < 60 {
		t.Errorf("%d calls were answered, want at least one for each server", answered.Load())
	}
}

func BenchmarkCall(b *testing.B) {
	dir := b.TempDir()
	s, err := control.Listen(filepath.Join(dir, control.SocketName), control.ServerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	handleStatus(s)
	go func() { _ = s.Serve() }()
	defer s.Close()
	c, err := control.Dial(dir)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := status(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStreamLine(b *testing.B) {
	dir := b.TempDir()
	s, err := control.Listen(filepath.Join(dir, control.SocketName), control.ServerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	control.HandleStream(s, control.VerbLogs, func(_ context.Context, n int, emit func(control.Line) error) error {
		for range n {
			if err := emit(control.Line{Time: time.Now(), Instance: "tradeflow-12", Stream: "out", Text: strings.Repeat("x", 120)}); err != nil {
				return err
			}
		}
		return nil
	})
	go func() { _ = s.Serve() }()
	defer s.Close()
	c, err := control.Dial(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	n := 0
	if err := control.Stream(b.Context(), c, control.VerbLogs, b.N, func(control.Line) error { n++; return nil }); err != nil || n != b.N {
		b.Fatal(n, err)
	}
}
