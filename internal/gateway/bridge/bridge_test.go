package bridge

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/gateway/data"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// instances are those of a service that are ready.
type instances struct {
	most time.Duration // that is waited for one

	mu      sync.Mutex // guards the fields below
	ready   int
	halted  bool
	waiting int
	changed chan struct{}
}

func (i *instances) Wait(ctx context.Context) error {
	limit := time.NewTimer(i.most)
	defer limit.Stop()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waiting++
	defer func() { i.waiting-- }()
	for i.ready == 0 {
		if i.halted {
			return ErrHalted
		}
		changed := i.changed
		i.mu.Unlock()
		err := error(nil)
		select {
		case <-changed:
		case <-limit.C:
			err = errors.New("no instance is ready")
		case <-ctx.Done():
			err = ctx.Err()
		}
		i.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *instances) set(ready int, halted bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ready, i.halted = ready, halted
	close(i.changed)
	i.changed = make(chan struct{})
}

// testBridge is a bridge to a bus of its own.
type testBridge struct {
	*Bridge
	tb     testing.TB
	server *server.Server
	flows  *instances // of the service that its requests are for
	limit  time.Duration
}

func newTestBridge(tb testing.TB) *testBridge {
	tb.Helper()
	s := bustest.Server(tb)
	conn := bustest.Connect(tb, s, nats.CustomInboxPrefix("_FL.gateway.test"), nats.NoReconnect())
	b := New(conn, slog.New(slog.DiscardHandler))
	tb.Cleanup(b.Close)
	return &testBridge{Bridge: b, tb: tb, server: s, flows: &instances{most: 10 * time.Second, changed: make(chan struct{})}}
}

// ready says which instances are.
func (b *testBridge) ready(ids ...string) {
	for _, id := range ids {
		b.Joined("flows", id)
	}
	b.flows.set(len(ids), false)
}

// waits waits until a request waits for an instance.
func (b *testBridge) waits() {
	b.tb.Helper()
	await.Until(b.tb, "the request to wait for an instance", func() bool {
		b.flows.mu.Lock()
		defer b.flows.mu.Unlock()
		return b.flows.waiting == 1
	})
}

// empty checks that nothing is left of any request.
func (b *testBridge) empty() {
	b.tb.Helper()
	b.table.mu.Lock()
	defer b.table.mu.Unlock()
	if t := b.table; len(t.replies) != 0 || t.open != 0 {
		b.tb.Fatalf("left behind: %d attempts, %d calls", len(t.replies), t.open)
	}
	for name, tr := range b.table.traffic {
		if tr.first != nil || tr.last != nil {
			b.tb.Fatalf("left behind: traffic of %s", name)
		}
	}
}

// result is what came of a request.
type result struct {
	Answer
	err  error
	sent int
}

// is reports whether a service has answered that.
func (r result) is(data string) bool {
	return r.err == nil && !r.Fault && string(r.Data) == data
}

// do asks the service, at flows.x.
func (b *testBridge) do(method, body string) result {
	return b.doRoute(context.Background(), method, body, system.Route{Path: "/x", Request: &system.Request{Subject: "flows.x"}})
}

func (b *testBridge) doRoute(ctx context.Context, method, body string, def system.Route) result {
	b.tb.Helper()
	def.Request.Service = "flows"
	r, err := NewRoute(&def)
	if err != nil {
		b.tb.Error(err)
		return result{err: err}
	}
	c := NewCall()
	defer c.Free()
	c.Body = append(c.Body, body...)
	if err := r.Fill(c, &data.Inputs{Body: c.Body}, method, "request-0001"); err != nil {
		return result{err: err}
	}
	c.Ready = b.flows
	if b.limit > 0 {
		c.Deadline = time.Now().Add(b.limit)
	}
	answer, err := b.Do(ctx, c)
	return result{answer, err, c.Sent()}
}

// begin is do on a goroutine of its own.
func (b *testBridge) begin(method, body string) <-chan result {
	done := make(chan result, 1)
	go func() { done <- b.do(method, body) }()
	return done
}

func TestNobodyAnswersTheSubject(t *testing.T) {
	b := newTestBridge(t)
	b.limit, b.flows.most = await.Patience, 50*time.Millisecond
	begun := time.Now()
	if r := b.do("GET", ""); r.err == nil || time.Since(begun) > await.Patience/2 {
		t.Fatalf("nothing ready: %+v", r)
	}
	b.ready("i1")
	if r := b.do("POST", ""); !errors.Is(r.err, errUnanswered) || r.sent < 2 {
		t.Fatalf("nobody subscribed: %+v", r)
	}
	b.empty()
}

func TestOverdue(t *testing.T) {
	b := newTestBridge(t)
	b.limit = 50 * time.Millisecond
	b.ready("i1")
	bustest.Subscribe(t, bustest.Connect(t, b.server), "flows.x", func(*nats.Msg) {})
	if r := b.do("GET", ""); !errors.Is(r.err, ErrOverdue) || r.sent != 1 {
		t.Fatalf("got %+v", r)
	}
	b.empty()
}

func TestClientGone(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	h := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan result, 1)
	go func() {
		done <- b.doRoute(ctx, "GET", "", system.Route{Path: "/x", Request: &system.Request{Subject: "flows.x"}})
	}()
	<-h.Held
	cancel()
	if r := <-done; !errors.Is(r.err, context.Canceled) {
		t.Fatalf("got %+v", r)
	}
	b.empty()
}

func TestInstanceLost(t *testing.T) {
	b := newTestBridge(t)
	b.limit = 2 * time.Second
	b.ready("i1", "i2")
	nc := bustest.Connect(t, b.server)
	first := bustest.Hold(t, nc, "flows.x")
	get, post := b.begin("GET", `"get"`), b.begin("POST", `"post"`)
	again := make(chan result, 1)
	go func() {
		again <- b.doRoute(context.Background(), "POST", `"again"`, system.Route{Path: "/again", Retry: true, Request: &system.Request{Subject: "flows.x"}})
	}()
	var held []*nats.Msg
	for range 3 {
		held = append(held, <-first.Held)
	}
	first.Die(t, nc)
	second := bustest.Hold(t, nc, "flows.x")
	b.Lost("flows", "i1")
	for range 2 { // the GET and the POST that may be sent again
		m := <-second.Held
		if strings.Contains(string(m.Data), "post") {
			t.Fatal("a POST was sent again")
		}
		bustest.Respond(t, m, `"second"`)
	}
	for what, got := range map[string]<-chan result{"GET": get, "the POST that may be sent again": again} {
		if r := <-got; !r.is(`"second"`) || r.sent != 2 {
			t.Fatalf("%s: %+v", what, r)
		}
	}
	// What the first instance says after all is too late for two of them.
	for _, m := range held {
		bustest.Respond(t, m, `"first"`)
	}
	if r := <-post; !r.is(`"first"`) || r.sent != 1 {
		t.Fatalf("POST: %+v", r)
	}
	if len(second.Held) != 0 {
		t.Fatal("sent more than once more")
	}
}

func TestLastInstanceLost(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	nc := bustest.Connect(t, b.server)
	first := bustest.Hold(t, nc, "flows.x")
	done := b.begin("GET", "")
	<-first.Held
	first.Die(t, nc)
	b.ready()
	b.Lost("flows", "i1")
	b.waits()
	second := bustest.Hold(t, nc, "flows.x")
	b.ready("i2")
	bustest.Respond(t, <-second.Held, `"second"`)
	if r := <-done; !r.is(`"second"`) {
		t.Fatalf("got %+v", r)
	}
}

func TestDrainingInstanceAnswersWhileNoneIsReady(t *testing.T) {
	for _, halted := range []bool{false, true} {
		b := newTestBridge(t)
		b.flows.most = time.Minute
		b.ready("i1")
		nc := bustest.Connect(t, b.server)
		first := bustest.Hold(t, nc, "flows.x")
		done := b.begin("GET", "")
		m := <-first.Held
		first.Die(t, nc) // its subscription ends, it goes on with what it has
		b.ready()
		b.Lost("flows", "other")
		b.waits()
		if halted {
			b.flows.set(0, true)
			if r := b.do("GET", ""); !errors.Is(r.err, ErrHalted) {
				t.Fatalf("of a service that is stopped: %+v", r)
			}
		}
		bustest.Respond(t, m, `"first"`)
		if r := <-done; !r.is(`"first"`) {
			t.Fatalf("stopped %v: got %+v", halted, r)
		}
	}
}

func TestResendsAreBounded(t *testing.T) {
	b := newTestBridge(t)
	b.limit = await.Patience
	b.ready("i1")
	h := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	done := b.begin("GET", "")
	for range 1 + resendsMost {
		m := <-h.Held
		b.Lost("flows", "other")
		defer bustest.Respond(t, m, "1")
	}
	b.Lost("flows", "other")
	tr := b.table.traffic["flows"]
	await.Until(t, "the last wish to be refused", func() bool {
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		return !tr.first.resend
	})
	if got := tr.budget; got != resendsFirst+1-resendsMost {
		t.Fatalf("budget is %d", got)
	}
	if len(h.Held) != 0 {
		t.Fatal("sent more often than allowed")
	}
	b.table.mu.Lock()
	tr.budget = 0
	b.table.mu.Unlock()
	second := b.begin("GET", "")
	m := <-h.Held
	b.table.mu.Lock()
	tr.budget = 0
	b.table.mu.Unlock()
	b.Lost("flows", "other")
	await.Until(t, "the wish to be refused", func() bool {
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		return !tr.last.resend
	})
	bustest.Respond(t, m, "2")
	if r := <-second; !r.is("2") {
		t.Fatalf("got %+v", r)
	}
	if len(h.Held) != 0 {
		t.Fatal("sent without a budget")
	}
	b.Close()
	if r := <-done; !errors.Is(r.err, ErrClosed) || r.sent != 1+resendsMost {
		t.Fatalf("closed: %+v", r)
	}
	if r := b.do("GET", ""); !errors.Is(r.err, ErrClosed) || r.sent != 0 {
		t.Fatalf("after Close: %+v", r)
	}
}

func TestWokenForNothingSendsNothing(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	h := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	done := b.begin("GET", "")
	m := <-h.Held
	for range 3 {
		b.table.mu.Lock()
		c := b.table.traffic["flows"].first
		c.rouse()
		b.table.mu.Unlock()
		await.Until(t, "the wake-up to be taken", func() bool { return len(c.wake) == 0 })
	}
	bustest.Respond(t, m, "1")
	if r := <-done; !r.is("1") || len(h.Held) != 0 {
		t.Fatalf("got %+v, sent %d times more", r, len(h.Held))
	}
}

// TestLastWordsCount: an instance may have answered just before it died.
func TestLastWordsCount(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	h := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	done := b.begin("POST", "{}")
	m := <-h.Held
	b.sender.mu.Lock() // so that the loss is looked at when the reply is there
	b.ready()
	b.Lost("flows", "i1")
	bustest.Respond(t, m, `"done"`)
	await.Until(t, "the reply", func() bool {
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		first := b.table.traffic["flows"].first
		// It may have seen the loss and the reply at once, and be done.
		return first == nil || len(first.inbox) == 1 || len(done) == 1
	})
	b.sender.mu.Unlock()
	if r := <-done; !r.is(`"done"`) {
		t.Fatalf("got %+v", r)
	}
}

// TestNobodyIsLeft: what only instances that are lost can have got ends long before
// its deadline.
func TestNobodyIsLeft(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	h := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	begun := time.Now()
	done := b.begin("POST", "{}")
	<-h.Held
	b.ready()
	b.Lost("flows", "i1")
	if r := <-done; !errors.Is(r.err, ErrBereft) || time.Since(begun) > defaultTime/2 {
		t.Fatalf("got %+v", r)
	}
	b.empty()
}

// failingBus cannot publish.
type failingBus struct{ Conn }

func (failingBus) PublishMsg(*nats.Msg) error { return nats.ErrMaxPayload }

func TestCannotPublish(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	b.sender.conn = failingBus{b.conn}
	if r := b.do("POST", "{}"); !errors.Is(r.err, nats.ErrMaxPayload) {
		t.Fatalf("got %+v", r)
	}
	b.empty()
}

func TestSenderWithdraws(t *testing.T) {
	s := &sender{conn: failingBus{}}
	c := NewCall()
	defer c.Free()
	s.leading = true // somebody else is about to publish
	s.send(c)
	if !c.queued || len(s.queue) != 1 {
		t.Fatal("not queued")
	}
	s.withdraw(c)
	s.withdraw(c)
	if c.queued || s.queue[0] != nil {
		t.Fatal("still queued")
	}
	s.leading = false
	other := NewCall()
	defer other.Free()
	s.send(other)
	if c.unsent != nil || s.failure(other) == nil || len(s.queue) != 0 {
		t.Fatalf("published %v, %v", c.unsent, other.unsent)
	}
}

func TestSettle(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	if err := b.Settle(t.Context(), "flows"); err != nil {
		t.Fatalf("nothing outstanding: %v", err)
	}
	h := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	var wg sync.WaitGroup
	ask := func() *nats.Msg {
		wg.Go(func() {
			if r := b.do("GET", ""); !r.is("1") {
				t.Errorf("got %+v", r)
			}
		})
		return <-h.Held
	}
	old := ask()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Settle(short, "flows"); err == nil {
		t.Fatal("settled with a request outstanding")
	}
	settled := make(chan error, 1)
	go func() { settled <- b.Settle(context.Background(), "flows") }()
	await.Until(t, "somebody to wait", func() bool {
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		return len(b.table.traffic["flows"].settlers) == 1
	})
	young := ask() // sent after the call: not waited for
	bustest.Respond(t, old, "1")
	if err := <-settled; err != nil {
		t.Fatal(err)
	}
	bustest.Respond(t, young, "1")
	wg.Wait()
}

func TestSettleIgnoresWhatWaitsForAnInstance(t *testing.T) {
	b := newTestBridge(t)
	done := b.begin("POST", "")
	b.waits()
	if err := b.Settle(t.Context(), "flows"); err != nil {
		t.Fatal(err)
	}
	bustest.Subscribe(t, bustest.Connect(t, b.server), "flows.x", func(m *nats.Msg) { bustest.Respond(t, m, "1") })
	b.ready("i1")
	if r := <-done; !r.is("1") {
		t.Fatalf("got %+v", r)
	}
}

func TestIsBounded(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	b.table.mu.Lock()
	b.table.open = openMost
	b.table.mu.Unlock()
	if r := b.do("GET", ""); !errors.Is(r.err, ErrFull) {
		t.Fatalf("got %+v", r)
	}
	if b.table.open != openMost {
		t.Fatalf("counts %d", b.table.open)
	}
}

func TestWithoutBus(t *testing.T) {
	var b *Bridge
	b.Joined("flows", "i1")
	b.Lost("flows", "i1")
	b.Hold()
	b.Release()
	if took := b.LongestHold(); took != 0 {
		t.Fatalf("held for %v", took)
	}
	b.Close()
	if err := b.Settle(t.Context(), "flows"); err != nil {
		t.Fatal(err)
	}
	if err := b.SettleAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Ask(t.Context(), "auth.jwks"); err == nil {
		t.Fatal("asked nobody")
	}
	if _, err := b.Do(t.Context(), NewCall()); err == nil {
		t.Fatal("nobody answered")
	}
}

func TestDisconnected(t *testing.T) {
	b := newTestBridge(t)
	b.limit = 100 * time.Millisecond
	b.ready("i1")
	if r := b.do("GET", ""); !errors.Is(r.err, errUnanswered) {
		t.Fatalf("connected: %+v", r)
	}
	b.server.Shutdown()
	b.server.WaitForShutdown()
	await.Until(t, "the connection to end", func() bool { return !b.conn.IsConnected() })
	if r := b.do("GET", ""); !errors.Is(r.err, errDown) {
		t.Fatalf("got %+v", r)
	}
}

func TestAsk(t *testing.T) {
	b := newTestBridge(t)
	nc := bustest.Connect(t, b.server)
	bustest.Subscribe(t, nc, "auth.jwks", func(m *nats.Msg) { bustest.Respond(t, m, string(m.Data)) })
	if body, err := b.Ask(t.Context(), "auth.jwks"); err != nil || string(body) != "{}" {
		t.Fatalf("ask: %q, %v", body, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Ask(ctx, "nobody.home"); err == nil {
		t.Fatal("nobody answered")
	}
}

// TestStress has instances come, die and drain under load: every request is
// answered once, with a success or a clear status, and nothing is left behind.
func TestStress(t *testing.T) {
	b := newTestBridge(t)
	b.limit = await.Patience
	b.ready("i1")
	nc := bustest.Connect(t, b.server)
	handle := func(m *nats.Msg) { bustest.Respond(t, m, string(m.Data)) }
	keep := bustest.Subscribe(t, nc, "flows.x", handle)
	stop := make(chan struct{})
	var churn, load sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			h := bustest.Hold(t, nc, "flows.x")
			for len(h.Held) == 0 { // takes some requests to its grave
				select {
				case <-stop:
					h.Die(t, nc)
					b.Lost("flows", "i2")
					return
				case m := <-h.Held:
					h.Held <- m
				}
			}
			h.Die(t, nc)
			b.Lost("flows", "i2")
			_ = b.Settle(t.Context(), "flows")
		}
	})
	var failed atomic.Int64
	for range 8 {
		load.Go(func() {
			for range 100 {
				if r := b.do("GET", `{"n":"7"}`); !r.is(`{"n":"7"}`) {
					failed.Add(1)
				}
			}
		})
	}
	load.Wait()
	close(stop)
	churn.Wait()
	if n := failed.Load(); n != 0 {
		t.Fatalf("%d requests failed", n)
	}
	if err := keep.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	b.empty()
}

func TestStartStop(t *testing.T) {
	s := bustest.Server(t)
	nc := bustest.Connect(t, s)
	log := slog.New(slog.DiscardHandler)
	for range 20 {
		b := New(nc, log)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				defer cancel()
				_, _ = b.Ask(ctx, "nobody.home")
			})
		}
		wg.Go(func() { b.Lost("", "") })
		wg.Go(func() { _ = b.Settle(context.Background(), "") })
		b.Close()
		wg.Wait()
		b.Close()
	}
	await.Until(t, "the subscriptions to end", func() bool { return nc.NumSubscriptions() == 0 })
}
