package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

// TestHolding holds requests and looks when they go on, by the clock.
func TestHolding(t *testing.T) {
	const second = time.Second
	owing := &callContext{Context: context.Background()}
	owing.owes.Store(true)
	answered := &callContext{Context: context.Background()}
	tests := []struct {
		name     string
		ctx      context.Context
		deadline time.Duration // of the request, 0 for none
		act      func(*holding)
		goes     time.Duration // after which the request goes on
	}{
		{"nobody says more", context.Background(), 0, func(*holding) {}, 10 * second},
		{"it is released", context.Background(), 0, func(h *holding) { time.Sleep(3 * second); h.end() }, 3 * second},
		{"it is released twice", context.Background(), 0, func(h *holding) { time.Sleep(second); h.end(); h.end() }, second},
		{"its deadline comes near", context.Background(), 4 * second, func(*holding) {}, 2 * second},
		{"it answers a request", owing, 0, func(*holding) {}, 0},
		{"the request that it was made for is answered", answered, 0, func(*holding) {}, 10 * second},
		{"a second hold", context.Background(), 0, func(h *holding) { time.Sleep(6 * second); h.hold(10 * second) }, 16 * second},
		{"a second hold that is released", context.Background(), 0, func(h *holding) {
			time.Sleep(6 * second)
			h.hold(10 * second)
			time.Sleep(second)
			h.end()
		}, 7 * second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h holding
				h.hold(10 * second)
				go tt.act(&h)
				ctx := tt.ctx
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				begun := time.Now()
				over := h.begin(ctx)
				if took := time.Since(begun); took != tt.goes {
					t.Errorf("it went on after %v, want %v", took, tt.goes)
				}
				if n := h.out.count(); (n == 1) == (ctx == owing) {
					t.Errorf("%d requests are counted", n)
				}
				over()
				if n := h.out.count(); n != 0 {
					t.Errorf("%d requests are counted at the end", n)
				}
				h.hold(time.Hour) // whatever the act still does
				h.end()
			})
		})
	}
	t.Run("its context ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var h holding
			h.hold(10 * second)
			ctx, cancel := context.WithTimeout(context.Background(), 20*second)
			time.AfterFunc(second, cancel)
			begun := time.Now()
			h.begin(ctx)()
			if took := time.Since(begun); took != second {
				t.Errorf("it was held for %v", took)
			}
			h.end()
		})
	})
}

// held is a service on a bus whose node is the test.
type held struct {
	*instance

	t    *testing.T
	srv  *server.Server
	node *nats.Conn
}

func newHeld(t *testing.T, setup func(*Service) error) *held {
	t.Helper()
	srv := startBus(t, server.Options{})
	env := testEnv(t, srv, "held")
	env[wire.EnvQueues], env[wire.EnvNATSUser] = "kept", "held-1"
	h := &held{t: t, srv: srv, node: busConn(t, srv, nats.ReconnectWait(5*time.Millisecond), nats.MaxReconnects(-1))}
	if _, err := h.node.Subscribe(wire.SubjectNames+"*", func(m *nats.Msg) { _ = m.Respond([]byte(`{"queues":["kept"]}`)) }); err != nil {
		t.Fatal(err)
	}
	h.instance = start(t, env, setup)
	return h
}

// hold asks the service to hold its requests, as the node does. The channel tells what
// it answers.
func (h *held) hold() <-chan error {
	h.t.Helper()
	const d = 4 * await.Patience
	before := h.held()
	answer := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		b, _ := json.Marshal(wire.Hold{Until: time.Now().Add(d).UnixMilli()})
		err := nats.ErrNoResponders
		for errors.Is(err, nats.ErrNoResponders) { // it is just connecting
			_, err = h.node.RequestWithContext(ctx, wire.SubjectHold+"held-1", b)
		}
		answer <- err
	}()
	await.Until(h.t, "it holds", func() bool { now := h.held(); return now != nil && now != before })
	return answer
}

// held is the hold that the service obeys, or obeyed last.
func (h *held) held() context.Context {
	h.svc.holding.mu.Lock()
	defer h.svc.holding.mu.Unlock()
	return h.svc.holding.held
}

func (h *held) release() {
	h.t.Helper()
	if err := h.node.Publish(wire.SubjectHold+"held-1", []byte(`{}`)); err != nil {
		h.t.Fatal(err)
	}
}

// leaf answers on a subject of its own, when it may.
func (h *held) leaf(subject string) (asked *atomic.Int64, may chan struct{}) {
	h.t.Helper()
	asked, may = &atomic.Int64{}, make(chan struct{})
	nc := busConn(h.t, h.srv, nats.ReconnectWait(5*time.Millisecond), nats.MaxReconnects(-1))
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		asked.Add(1)
		go func() {
			<-may
			_ = m.Respond([]byte(`{"stream":"kept"}`)) // as a queue does
		}()
	}); err != nil {
		h.t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		h.t.Fatal(err)
	}
	return asked, may
}

// patient gives a request more time than anything here waits: one that is held goes on
// when half of its own time is over.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 4*await.Patience)
}

func (h *held) ask(ctx context.Context, subject string) <-chan error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := patient(ctx)
		defer cancel()
		_, err := Ask[struct{}, json.RawMessage](ctx, h.svc, subject, struct{}{})
		done <- err
	}()
	return done
}

// quiet checks that nothing comes for a moment.
func quiet(t *testing.T, what string, ch <-chan error) {
	t.Helper()
	select {
	case err := <-ch:
		t.Errorf("%s: %v", what, err)
	case <-time.After(30 * time.Millisecond):
	}
}

func soon(t *testing.T, what string, ch <-chan error) {
	t.Helper()
	select {
	case err := <-ch:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(await.Patience): // what is held for its bound takes longer
		t.Errorf("never: %s", what)
	}
}

func TestAsksUnderWayAreWaitedFor(t *testing.T) {
	h := newHeld(t, func(*Service) error { return nil })
	asked, may := h.leaf("leaf")
	first := h.ask(t.Context(), "leaf")
	await.Until(t, "it is asked", func() bool { return asked.Load() == 1 })
	answer := h.hold()
	second := h.ask(t.Context(), "leaf")
	published := make(chan error, 2)
	_, stored := h.leaf("kept")
	close(stored)
	go func() { published <- Publish(t.Context(), h.svc, "kept", 1) }()
	go func() { published <- PublishBatch(t.Context(), h.svc, "kept", []int{1}) }()
	quiet(t, "it says that nothing is under way", answer)
	close(may)
	soon(t, "the first request is answered", first)
	soon(t, "it says that nothing is under way", answer)
	quiet(t, "a request went on", second)
	quiet(t, "a message was stored", published)
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	h.release()
	soon(t, "the second request goes on", second)
	soon(t, "a message is stored", published)
	soon(t, "a message is stored", published)
}

// TestNestedAsksGoOn holds a service that asks while it answers: the one who asked it
// waits for that, and is waited for.
func TestNestedAsksGoOn(t *testing.T) {
	later := make(chan error, 1)
	h := newHeld(t, func(s *Service) error {
		Answer(s, "middle", func(ctx context.Context, _ struct{}) (json.RawMessage, error) {
			return Ask[struct{}, json.RawMessage](ctx, s, "leaf", struct{}{})
		})
		Answer(s, "spawn", func(ctx context.Context, _ struct{}) (struct{}, error) {
			go func() {
				for callOf(ctx).owes.Load() {
					<-time.After(time.Millisecond)
				}
				ctx, cancel := patient(context.WithoutCancel(ctx))
				defer cancel()
				_, err := Ask[struct{}, json.RawMessage](ctx, s, "leaf", struct{}{})
				later <- err
			}()
			return struct{}{}, nil
		})
		Subscribe(s, "event", func(ctx context.Context, _ struct{}) error {
			ctx, cancel := patient(ctx)
			defer cancel()
			_, err := Ask[struct{}, json.RawMessage](ctx, s, "leaf", struct{}{})
			later <- err
			return nil
		})
		s.HTTP("GET /", func(w http.ResponseWriter, r *http.Request) error {
			ctx, cancel := patient(r.Context())
			defer cancel()
			_, err := Ask[struct{}, json.RawMessage](ctx, s, "leaf", struct{}{})
			return err
		})
		return nil
	})
	asked, may := h.leaf("leaf")
	own := h.ask(t.Context(), "middle")
	await.Until(t, "it is under way", func() bool { return asked.Load() > 0 })
	answer := h.hold()
	close(may)
	soon(t, "a request of its own that leads to one of its handlers", own)
	soon(t, "it says that nothing is under way", answer)
	if _, err := h.node.Request("middle", nil, await.Patience); err != nil {
		t.Errorf("a handler's request while requests are held: %v", err)
	}
	for name, act := range map[string]func() error{
		"after the answer": func() error { _, err := h.node.Request("spawn", nil, await.Patience); return err },
		"for an event":     func() error { return h.node.Publish("event", nil) },
		"nobody waits":     func() error { return h.node.Publish("spawn", nil) },
		"HTTP": func() error {
			go func() {
				resp, err := h.client(t).Get("http://held/")
				if err == nil {
					err = resp.Body.Close()
				}
				later <- err
			}()
			return nil
		},
	} {
		h.hold()
		if err := act(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		quiet(t, name+": a request went on", later)
		h.release()
		soon(t, name+": the request goes on", later)
	}
}

// TestHoldEndsWithTheConnection has the bus go and come back, as it does for an
// upgrade, and as it does when the node dies.
func TestHoldEndsWithTheConnection(t *testing.T) {
	h := newHeld(t, func(*Service) error { return nil })
	for range 3 {
		soon(t, "it says that nothing is under way", h.hold())
		asked := h.ask(t.Context(), "leaf")
		quiet(t, "a request went on", asked)
		addr := h.srv.Addr().String()
		h.srv.Shutdown()
		h.srv.WaitForShutdown()
		quiet(t, "a request went on", asked)
		var port int
		if _, err := fmt.Sscanf(addr[strings.LastIndex(addr, ":"):], ":%d", &port); err != nil {
			t.Fatal(err)
		}
		h.srv = startBus(t, server.Options{Port: port})
		_, may := h.leaf("leaf")
		close(may)
		soon(t, "the request goes on", asked)
		await.Until(t, "the node is back", h.node.IsConnected)
	}
}

// TestHoldThatComesLate is not obeyed: the node has gone on long ago, and nobody would
// end it.
func TestHoldThatComesLate(t *testing.T) {
	h := newHeld(t, func(*Service) error { return nil })
	_, may := h.leaf("leaf")
	close(may)
	for _, text := range []string{`{"until_ms":1}`, fmt.Sprintf(`{"until_ms":%d}`, time.Now().UnixMilli()), `no JSON`, ``, `{"until_ms":-9223372036854775808}`} {
		if err := h.node.Publish(wire.SubjectHold+"held-1", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := h.node.Flush(); err != nil {
			t.Fatal(err)
		}
		soon(t, text+": a request", h.ask(t.Context(), "leaf"))
	}
	if h.held() != nil {
		t.Error("it was obeyed")
	}
}

// TestStopWhileRequestsAreHeld ends a service whose handler waits for a hold that
// nobody ends.
func TestStopWhileRequestsAreHeld(t *testing.T) {
	began := make(chan struct{})
	h := newHeld(t, func(s *Service) error {
		Answer(s, "late", func(_ context.Context, _ struct{}) (json.RawMessage, error) {
			close(began)
			return Ask[struct{}, json.RawMessage](s.Context(), s, "leaf", struct{}{}) // not its own context
		})
		return nil
	})
	answer := h.hold()
	soon(t, "it says that nothing is under way", answer)
	own := h.ask(t.Context(), "leaf")
	if err := h.node.PublishRequest("late", nats.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	<-began
	begun := time.Now()
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > await.Patience/2 {
		t.Errorf("the stop took %v of a grace period of %v", took, await.Patience)
	}
	if err := await.From(t, "the held request ends", own); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("a held request ends with %v", err)
	}
}

// TestHoldStress holds and releases requests again and again while many are made, in
// handlers and outside. Whenever the service says that nothing is under way, nothing
// is; and each request is made once.
func TestHoldStress(t *testing.T) {
	h := newHeld(t, func(s *Service) error {
		Answer(s, "middle", func(ctx context.Context, n int) (int, error) { return Ask[int, int](ctx, s, "sum", n) })
		return nil
	})
	var begun, ended atomic.Int64
	nc := busConn(t, h.srv)
	if _, err := nc.Subscribe("sum", func(m *nats.Msg) {
		begun.Add(1)
		go func() {
			_ = m.Respond(m.Data)
			ended.Add(1)
		}()
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var asked atomic.Int64
	var loops sync.WaitGroup
	for i := range 16 {
		loops.Go(func() {
			for n := 0; !stop.Load(); n++ {
				subject := []string{"sum", "middle"}[i%2]
				ctx, cancel := patient(t.Context())
				got, err := Ask[int, int](ctx, h.svc, subject, n)
				cancel()
				if err != nil || got != n {
					t.Errorf("%s: %d %v", subject, got, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for range 100 {
		before := asked.Load()
		soon(t, "it says that nothing is under way", h.hold())
		await.Until(t, "what was asked is answered", func() bool { return begun.Load() == ended.Load() })
		was := begun.Load()
		for range 10 {
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if now := begun.Load(); now != was {
			t.Fatalf("%d requests were made while they are held", now-was)
		}
		h.release()
		await.Until(t, "requests go on", func() bool { return asked.Load() > before })
	}
	stop.Store(true)
	loops.Wait()
	if n, m := asked.Load(), begun.Load(); n != m {
		t.Errorf("asked %d times, answered %d times", n, m)
	}
	t.Logf("asked %d times", asked.Load())
}

// BenchmarkBegin is what a request costs for being counted.
func BenchmarkBegin(b *testing.B) {
	owing := &callContext{Context: context.Background()}
	owing.owes.Store(true)
	for name, ctx := range map[string]context.Context{"own": context.Background(), "in a handler": owing} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var h holding
			for b.Loop() {
				h.begin(ctx)()
			}
		})
	}
}
