// Package bustest has a bus for tests, and services on it that answer nothing until
// they are told to. Everything it opens is closed when the test ends.
package bustest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server runs a NATS server on a loopback port.
func Server(tb testing.TB) *server.Server {
	tb.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(time.Minute) {
		tb.Fatal("server does not start")
	}
	return s
}

// Connect connects over TCP.
func Connect(tb testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.ClientURL(), append(opts, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// Subscribe answers a subject as one of a queue group, from when it returns.
func Subscribe(tb testing.TB, nc *nats.Conn, subject string, h nats.MsgHandler) *nats.Subscription {
	tb.Helper()
	sub, err := nc.QueueSubscribe(subject, "group", h)
	if err != nil {
		tb.Fatal(err)
	}
	flush(tb, nc)
	return sub
}

// Respond replies to a request.
func Respond(tb testing.TB, m *nats.Msg, body string) {
	tb.Helper()
	if err := m.Respond([]byte(body)); err != nil {
		tb.Errorf("respond: %v", err)
	}
}

// Holder is a service that answers nothing by itself.
type Holder struct {
	Held chan *nats.Msg // the requests that it got
	sub  *nats.Subscription
}

// Hold subscribes a holder to a subject.
func Hold(tb testing.TB, nc *nats.Conn, subject string) *Holder {
	tb.Helper()
	h := &Holder{Held: make(chan *nats.Msg, 10000)}
	h.sub = Subscribe(tb, nc, subject, func(m *nats.Msg) { h.Held <- m })
	return h
}

// Die takes it from the bus; no request comes after it has returned.
func (h *Holder) Die(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	if err := h.sub.Unsubscribe(); err != nil {
		tb.Fatal(err)
	}
	flush(tb, nc)
}

func flush(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	if err := nc.Flush(); err != nil {
		tb.Fatal(err)
	}
}
