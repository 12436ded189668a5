package control_test

import (
	"context"
	"path/filepath"
	"testing"

	"fairlead/internal/control"
)

// TestLeave gives the socket to another server while a call goes on at the first.
func TestLeave(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	first, dir := listen(t, control.ServerOptions{}, func(s *control.Server) {
		control.Handle(s, control.VerbStatus, func(context.Context, control.Empty, func(control.Event)) (string, error) {
			close(asked)
			<-goOn
			return "first", nil
		})
	})
	c := dial(t, dir)
	slow := make(chan string, 1)
	go func() {
		who, err := control.Call[control.Empty, string](t.Context(), c, control.VerbStatus, control.Empty{}, nil)
		if err != nil {
			t.Error(err)
		}
		slow <- who
	}()
	<-asked
	file, err := first.Socket()
	if err != nil {
		t.Fatal(err)
	}
	second, err := control.Listen(filepath.Join(dir, control.SocketName), control.ServerOptions{Inherited: file})
	if err != nil {
		t.Fatal(err)
	}
	control.Handle(second, control.VerbStatus, func(context.Context, control.Empty, func(control.Event)) (string, error) {
		return "second", nil
	})
	if err := first.Leave(); err != nil {
		t.Error(err)
	}
	served := make(chan error, 1)
	go func() { served <- second.Serve() }()
	for range 20 {
		who, err := control.Call[control.Empty, string](t.Context(), c, control.VerbStatus, control.Empty{}, nil)
		if err != nil || who != "second" {
			t.Errorf("answered by %q %v", who, err)
		}
	}
	close(goOn)
	if who := <-slow; who != "first" {
		t.Errorf("the call that went on was answered by %q", who)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := control.Dial(dir); err != nil {
		t.Errorf("after the first has closed: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := control.Dial(dir); err == nil {
		t.Error("the socket is left")
	}
}
