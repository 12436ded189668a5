package bus

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"fairlead/test/await"
)

// member is an instance of tradeflow that answers and counts.
type member struct {
	id  string
	nc  *nats.Conn
	got atomic.Uint64
}

func join(tb testing.TB, b *Bus, id string) *member {
	tb.Helper()
	m := &member{id: id, nc: dial(tb, issue(tb, b, "tradeflow", id))}
	_, err := m.nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(msg *nats.Msg) {
		msg.Respond([]byte(id))
		m.got.Add(1)
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := m.nc.Flush(); err != nil {
		tb.Fatal(err)
	}
	return m
}

// load asks from n goroutines until the returned function is called, which
// returns how many requests were answered and the errors.
func load(nc *nats.Conn, n int) func() (uint64, []error) {
	var (
		wg   sync.WaitGroup
		ok   atomic.Uint64
		mu   sync.Mutex // guards errs
		errs []error
	)
	stop := make(chan struct{})
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := nc.Request("tradeflow.find", nil, await.Patience); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				} else {
					ok.Add(1)
				}
			}
		})
	}
	return func() (uint64, []error) {
		close(stop)
		wg.Wait()
		return ok.Load(), errs
	}
}

// TestDrainUnderLoad: members come and go under load; no request is lost, none is
// given to a member once it is drained, and the counts are exact.
func TestDrainUnderLoad(t *testing.T) {
	b := open(t, shop())
	gateway, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	first := join(t, b, "tradeflow-0")
	all := []*member{first}
	finish := load(gateway, 16)
	var delivered uint64
	for i := range 20 {
		next := join(t, b, fmt.Sprintf("tradeflow-%d", i+1))
		old := all[len(all)-1]
		all = append(all, next)
		await.Until(t, "the new member was asked", func() bool { return next.got.Load() > 0 })
		n, err := b.Drain(old.id)
		if err != nil {
			t.Fatal(err)
		}
		await.Until(t, "the old member has answered all it was given", func() bool { return old.got.Load() >= n })
		if err := old.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		delivered += n
		again, err := b.Drain(old.id)
		if err != nil || again != n {
			t.Errorf("drained again: %d, %v; first %d", again, err, n)
		}
		r, err := b.Registered(old.id)
		if err != nil || !r.Connected || r.Subscriptions != 0 || r.Delivered != n {
			t.Errorf("after drain: %+v, %v; want connected, no subscriptions, %d delivered", r, err, n)
		}
		if i%2 == 0 {
			if err := b.Revoke(old.id); err != nil {
				t.Fatal(err)
			}
		}
	}
	ok, errs := finish()
	if len(errs) > 0 {
		t.Errorf("%d of %d requests failed, first: %v", len(errs), ok, errs[0])
	}
	last := all[len(all)-1]
	n, err := b.Drain(last.id)
	if err != nil {
		t.Fatal(err)
	}
	delivered += n
	var got uint64
	for _, m := range all {
		got += m.got.Load()
	}
	if got != ok || delivered != ok {
		t.Errorf("answered %d, members got %d, bus counted %d; want all the same", ok, got, delivered)
	}
}

// TestDrainKeepsRepliesOwed: handlers that were busy when the drain came still
// reply, plain ones and those of micro, and ask others meanwhile.
func TestDrainKeepsRepliesOwed(t *testing.T) {
	b := open(t, shop())
	model := dial(t, issue(t, b, "model", "model-1"))
	model.QueueSubscribe("model.tree", "model_queue", func(m *nats.Msg) { m.Respond([]byte("tree")) })
	model.Flush()
	gateway, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	answer := func(nc *nats.Conn, respond func([]byte) error) {
		<-release
		// The old revision's work may need others.
		m, err := nc.Request("model.tree", nil, await.Patience)
		if err != nil {
			respond([]byte(err.Error()))
			return
		}
		respond(m.Data)
	}
	for name, serve := range map[string]func(nc *nats.Conn, busy chan<- struct{}) error{
		"plain": func(nc *nats.Conn, busy chan<- struct{}) error {
			_, err := nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) {
				close(busy)
				go answer(nc, m.Respond)
			})
			return err
		},
		"micro": func(nc *nats.Conn, busy chan<- struct{}) error {
			s, err := micro.AddService(nc, micro.Config{Name: "tradeflow", Version: "1.0.0", QueueGroup: "tradeflow_queue"})
			if err != nil {
				return err
			}
			return s.AddEndpoint("find", micro.HandlerFunc(func(r micro.Request) {
				close(busy)
				go answer(nc, func(b []byte) error { return r.Respond(b) })
			}), micro.WithEndpointSubject("tradeflow.find"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			release = make(chan struct{})
			id := "tradeflow-" + name
			nc := dial(t, issue(t, b, "tradeflow", id))
			busy := make(chan struct{})
			if err := serve(nc, busy); err != nil {
				t.Fatal(err)
			}
			nc.Flush()
			type result struct {
				m   *nats.Msg
				err error
			}
			got := make(chan result, 1)
			go func() {
				m, err := gateway.Request("tradeflow.find", nil, await.Patience)
				got <- result{m, err}
			}()
			<-busy
			if n, err := b.Drain(id); err != nil || n != 1 {
				t.Fatalf("drain: %d, %v", n, err)
			}
			if _, err := gateway.Request("tradeflow.find", nil, await.Patience); !errors.Is(err, nats.ErrNoResponders) {
				t.Errorf("request after drain: %v", err)
			}
			close(release)
			r := <-got
			if r.err != nil || string(r.m.Data) != "tree" {
				t.Errorf("reply owed: %v, %v", r.m, r.err)
			}
			// What was drained cannot come back, on this connection or a new one.
			c := b.credentials(id)
			if !refused(t, c, queue("tradeflow.find", "tradeflow_queue")) {
				t.Error("a drained instance may subscribe again")
			}
			if refused(t, c, subscribe(c.InboxPrefix+".x")) {
				t.Error("a drained instance lost its inbox")
			}
		})
	}
}

// credentials are those of a live instance again.
func (b *Bus) credentials(id string) Credentials {
	b.mu.Lock()
	defer b.mu.Unlock()
	in := b.instances[id]
	return Credentials{
		URL: b.url, User: id, Password: in.password,
		InboxPrefix: "_FL." + in.party.service + "." + id,
	}
}

// TestDeliveredSurvivesReconnect: the count is of the instance, not of a
// connection.
func TestDeliveredSurvivesReconnect(t *testing.T) {
	b := open(t, shop())
	gateway, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	c := issue(t, b, "tradeflow", "tradeflow-1")
	var want uint64
	for round := range 3 {
		nc := dial(t, c)
		nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) { m.Respond(nil) })
		nc.Flush()
		for range 5 {
			if _, err := gateway.Request("tradeflow.find", nil, await.Patience); err != nil {
				t.Fatal(err)
			}
			want++
		}
		await.Until(t, "counted", func() bool {
			r, err := b.Registered("tradeflow-1")
			return err == nil && r.Delivered == want
		})
		if round == 1 {
			// Requests that were never looked at before the connection broke off.
			for range 7 {
				if _, err := gateway.Request("tradeflow.find", nil, await.Patience); err != nil {
					t.Fatal(err)
				}
				want++
			}
		}
		nc.Close()
		await.Until(t, "closed", func() bool {
			r, err := b.Registered("tradeflow-1")
			return err == nil && !r.Connected
		})
	}
	if n, err := b.Drain("tradeflow-1"); err != nil || n != want {
		t.Errorf("delivered %d, %v; want %d", n, err, want)
	}
}

func TestRevokeCutsConnections(t *testing.T) {
	b := open(t, shop())
	c := issue(t, b, "auth", "auth-1")
	cut := make(chan struct{}, 2)
	for range 2 {
		dial(t, c, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { cut <- struct{}{} }))
	}
	other := dial(t, issue(t, b, "auth", "auth-2"), nats.NoReconnect())
	if err := b.Revoke("auth-1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		await.From(t, "the connection of a revoked instance is cut", cut)
	}
	if err := other.Flush(); err != nil {
		t.Errorf("another instance's connection: %v", err)
	}
	if _, err := b.Registered("auth-1"); !errors.Is(err, ErrUnknownInstance) {
		t.Errorf("registered: %v", err)
	}
}

// TestConnectingDuringReloads: clients that connect while others are issued,
// drained and revoked are never refused. Without settleHandshakes two of three
// are.
func TestConnectingDuringReloads(t *testing.T) {
	b := open(t, shop())
	var connecting sync.WaitGroup
	done := make(chan struct{})
	for i := range 4 {
		c := issue(t, b, "tradeflow", fmt.Sprintf("tradeflow-%d", i))
		connecting.Go(func() {
			for range 100 {
				nc, err := nats.Connect(c.URL, nats.Timeout(await.Patience), nats.UserInfo(c.User, c.Password))
				if err != nil {
					t.Errorf("connect: %v", err)
					continue
				}
				nc.Close()
			}
		})
	}
	var reloading sync.WaitGroup
	reloading.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			id := fmt.Sprintf("other-%d", i)
			if _, err := b.Issue("auth", id); err != nil {
				t.Error(err)
			}
			if err := b.Revoke(id); err != nil {
				t.Error(err)
			}
		}
	})
	connecting.Wait()
	close(done)
	reloading.Wait()
}

// TestManyInstances: 64 come, serve, drain and go at the same time.
func TestManyInstances(t *testing.T) {
	b := open(t, shop())
	gateway, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	join(t, b, "tradeflow-stays")
	finish := load(gateway, 4)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			id := fmt.Sprintf("tradeflow-%d", i)
			c, err := b.Issue("tradeflow", id)
			if err != nil {
				t.Error(err)
				return
			}
			nc, err := nats.Connect(c.URL, nats.Timeout(await.Patience), nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix),
				nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) { m.Respond(nil) })
			if err := nc.Flush(); err != nil {
				t.Error(err)
			}
			await.Until(t, "registered", func() bool {
				r, err := b.Registered(id)
				return err == nil && r.Subscriptions == 1
			})
			if _, err := b.Drain(id); err != nil {
				t.Error(err)
			}
			if err := nc.Drain(); err != nil { // it answers all it was given
				t.Error(err)
			}
			await.Until(t, "closed", nc.IsClosed)
			if err := b.Revoke(id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ok, errs := finish()
	if len(errs) > 0 {
		t.Errorf("%d of %d requests failed, first: %v", len(errs), ok, errs[0])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.instances) != 1 {
		t.Errorf("%d instances left, want the one that stays", len(b.instances))
	}
}
