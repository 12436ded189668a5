package bus

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

func suspendModel() *system.System {
	return &system.System{Name: "s", Services: []system.Service{
		{Name: "api", Bus: &system.ServiceBus{Answers: []string{"api.>"}, Group: "api"}},
		{Name: "caller", Bus: &system.ServiceBus{Asks: []string{"api.>"}}},
	}}
}

// connectAs connects with an instance's credentials, again after a pause whenever
// the bus is away. The channel tells that it is back.
func connectAs(t *testing.T, c Credentials, pause time.Duration) (*nats.Conn, <-chan struct{}) {
	t.Helper()
	again := make(chan struct{}, 8)
	nc, err := nats.Connect(c.URL, nats.Timeout(await.Patience), nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix),
		nats.ReconnectWait(pause), nats.ReconnectJitter(0, 0), nats.MaxReconnects(-1),
		nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, again
}

// echo answers what is asked of an instance.
func echo(t *testing.T, c Credentials, group string, pause time.Duration) <-chan struct{} {
	t.Helper()
	nc, again := connectAs(t, c, pause)
	if _, err := nc.QueueSubscribe("api.>", group, func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return again
}

func mustIssue(t *testing.T, b *Bus, service, id string) Credentials {
	t.Helper()
	c, err := b.Issue(service, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// awaitSubscribed waits until api-1 is on the bus with its subscriptions.
func awaitSubscribed(t *testing.T, b *Bus) {
	t.Helper()
	await.Until(t, "it has subscribed again", func() bool {
		reg, err := b.Registered("api-1")
		return err == nil && reg.Subscriptions > 0
	})
}

// TestAnotherBusFollows ends a bus and opens another one of the same store, as
// another process does, and finds the connections of before on it.
func TestAnotherBusFollows(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	old, err := Open(ctx, Options{Dir: dir, System: "s", Model: suspendModel()})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close(ctx)
	returned := echo(t, mustIssue(t, old, "api", "api-1"), "api", 10*time.Millisecond)
	back := make(chan struct{}, 8)
	gate, err := old.Gateway(nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Request("api.x", []byte("1"), await.Patience); err != nil {
		t.Fatal(err)
	}
	kept := streams(t, old)
	if _, err := kept.CreateStream(ctx, jetstream.StreamConfig{Name: "kept", Subjects: []string{"kept"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Publish(ctx, "kept", nil); err != nil {
		t.Fatal(err)
	}

	if err := old.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Registered("api-1"); !errors.Is(err, ErrSuspended) {
		t.Errorf("a suspended bus says %v", err)
	}
	text, err := json.Marshal(old.Former())
	if err != nil {
		t.Fatal(err)
	}
	var former Former
	if err := json.Unmarshal(text, &former); err != nil {
		t.Fatal(err)
	}
	next, err := Open(ctx, Options{Dir: dir, System: "s", Model: suspendModel(), Former: &former})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close(ctx)
	old.Leave()
	if next.URL() != old.URL() {
		t.Errorf("it is at %s, was at %s", next.URL(), old.URL())
	}
	await.From(t, "the instance is back", returned)
	await.From(t, "the gateway's connection of the old process is back", back)
	awaitSubscribed(t, next)
	next.Deliver()
	if m, err := gate.Request("api.x", []byte("2"), await.Patience); err != nil || string(m.Data) != "2" {
		t.Errorf("the gateway got %v %v", m, err)
	}
	next.lookAgain()
	if reg, err := next.Registered("api-1"); err != nil || reg.Delivered != 2 || reg.Subscriptions != 1 {
		t.Errorf("the instance is registered as %+v %v, want both requests", reg, err)
	}
	if _, err := next.Issue("api", "api-1"); err == nil {
		t.Error("an id was given twice")
	}
	if err := next.Revoke("api-1"); err != nil {
		t.Error(err)
	}
	if s, err := streams(t, next).Stream(ctx, "kept"); err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("the stream is %v %v", s, err)
	}
}

func streams(t *testing.T, b *Bus) jetstream.JetStream {
	t.Helper()
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// TestResume ends the server and starts it again in place, several times: everybody
// comes back, also the connection within the process.
func TestResume(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: suspendModel()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(ctx)
	back := make(chan struct{}, 8)
	operator, err := b.Operator("test", nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	returned := echo(t, mustIssue(t, b, "api", "api-1"), "api", 10*time.Millisecond)
	for range 3 {
		if err := b.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		if err := b.Suspend(ctx); err != nil {
			t.Errorf("suspend again: %v", err)
		}
		if err := b.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		await.From(t, "the instance is back", returned)
		await.From(t, "the operator is back", back)
		awaitSubscribed(t, b)
		b.Deliver()
		if _, err := operator.Request("api.x", nil, await.Patience); err != nil {
			t.Error(err)
		}
	}
	mustIssue(t, b, "caller", "caller-1")
	if err := b.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(ctx); err != nil {
		t.Errorf("close a suspended bus: %v", err)
	}
	if err := b.Resume(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("resume a closed bus: %v", err)
	}
}

// TestRequestsBetweenServicesAreKept has a client ask all the time while the bus
// ends and starts again, and the one who answers comes back late.
func TestRequestsBetweenServicesAreKept(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"queue group": "api", "no queue group": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			sys := suspendModel()
			sys.Services[0].Bus.Group = group
			b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: sys})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close(ctx)
			echo(t, mustIssue(t, b, "api", "api-1"), group, 300*time.Millisecond)
			nc, noticed := connectAs(t, mustIssue(t, b, "caller", "caller-1"), 5*time.Millisecond)
			stop, done, turn := make(chan struct{}), make(chan int), make(chan struct{}, 1)
			turn <- struct{}{}
			go func() {
				for asked := 0; ; asked++ {
					select {
					case <-stop:
						done <- asked
						return
					default:
					}
					// A request that is under way when the server ends may be lost, or made
					// before the client has noticed it; here it is suspended between two.
					<-turn
					_, err := nc.Request("api.x", []byte("1"), await.Patience)
					turn <- struct{}{}
					if err != nil {
						t.Errorf("request %d: %v", asked, err)
					}
				}
			}()
			for range 2 {
				<-turn
				if err := b.Suspend(ctx); err != nil {
					t.Fatal(err)
				}
				if err := b.Resume(ctx); err != nil {
					t.Fatal(err)
				}
				await.From(t, "the caller is back", noticed)
				turn <- struct{}{}
				awaitSubscribed(t, b)
				b.Deliver("api")
				b.Deliver()
			}
			close(stop)
			t.Logf("asked %d times", <-done)
		})
	}
}

// TestRepliesAreKept has a service answer before who asked is back.
func TestRepliesAreKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: suspendModel()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(ctx)
	api, back := connectAs(t, mustIssue(t, b, "api", "api-1"), 5*time.Millisecond)
	asked, answer := make(chan struct{}), make(chan struct{})
	if _, err := api.QueueSubscribe("api.>", "api", func(m *nats.Msg) {
		close(asked)
		<-answer
		_ = m.Respond([]byte("late"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := api.Flush(); err != nil {
		t.Fatal(err)
	}
	nc, _ := connectAs(t, mustIssue(t, b, "caller", "caller-1"), 400*time.Millisecond)
	got := make(chan error, 1)
	go func() {
		_, err := nc.Request("api.x", nil, await.Patience)
		got <- err
	}()
	<-asked
	if err := b.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	await.From(t, "the one who answers is back", back)
	close(answer)
	awaitSubscribed(t, b)
	b.Deliver()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// resumed ends the server of a bus and starts it again, as soon as caller-1 has connected,
// whose connection it returns, with the keeper of what came meanwhile.
func resumed(t *testing.T, b *Bus) (*nats.Conn, *keeper) {
	t.Helper()
	nc, noticed := connectAs(t, mustIssue(t, b, "caller", "caller-1"), time.Millisecond)
	if err := b.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.From(t, "the caller is back", noticed)
	b.mu.Lock()
	defer b.mu.Unlock()
	return nc, b.keeping
}

// On a busy machine a request was taken only after the service had got the others, and
// who asked waited in vain.
func TestARequestThatIsTakenLateIsDelivered(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: suspendModel()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(ctx)
	echo(t, mustIssue(t, b, "api", "api-1"), "api", time.Millisecond)
	nc, k := resumed(t, b)
	awaitSubscribed(t, b)
	b.Deliver("api")
	reply := nc.NewInbox()
	answers, err := nc.SubscribeSync(reply)
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	for sub, a := range k.subs {
		if a.party.service == "api" && a.instance == "" {
			k.take(&nats.Msg{Sub: sub, Subject: "api.x", Reply: reply, Header: nats.Header{"Nats-Trace-Dest": {"x"}}})
		}
	}
	if m, err := answers.NextMsg(await.Patience); err != nil || m.Header.Get("Status") != "" {
		t.Errorf("%v, %v", m, err)
	}
	b.Deliver()
}

// An instance that seemed to be back was cut again, and what it was asked then was lost:
// the server told nobody but the keeper.
func TestARequestIsGivenAgainWhenNobodyWasThere(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]bool{"comes back": true, "stays away": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: suspendModel()})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close(ctx)
			api := mustIssue(t, b, "api", "api-1")
			nc, k := resumed(t, b)
			got := make(chan error, 1)
			go func() {
				_, err := nc.Request("api.x", nil, await.Patience)
				got <- err
			}()
			holds := func(n int) func() bool {
				return func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.kept) == n }
			}
			await.Until(t, "the request is kept", holds(1))
			b.Deliver()
			await.Until(t, "the request is kept again", holds(1))
			want := nats.ErrNoResponders
			if back {
				want = nil
				echo(t, api, "api", time.Millisecond)
			}
			if err := <-got; !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
}

// An instance that answers in the server's words that nobody is there would be given the
// same request as long as the keeper is there.
func TestARequestIsGivenAFewTimesAtMost(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: suspendModel()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(ctx)
	api := mustIssue(t, b, "api", "api-1")
	nc, k := resumed(t, b)
	got := make(chan error, 1)
	go func() {
		_, err := nc.Request("api.x", nil, await.Patience)
		got <- err
	}()
	state := func(kept, given int) func() bool {
		return func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return len(k.kept) == kept && len(k.given) == given
		}
	}
	await.Until(t, "the request is kept", state(1, 0))
	answering, _ := connectAs(t, api, time.Millisecond)
	var asked atomic.Int64
	if _, err := answering.QueueSubscribe("api.>", "api", func(m *nats.Msg) {
		asked.Add(1)
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {noResponders}}})
	}); err != nil {
		t.Fatal(err)
	}
	awaitSubscribed(t, b)
	b.Deliver()
	if err := <-got; !errors.Is(err, nats.ErrNoResponders) {
		t.Error(err)
	}
	await.Until(t, "the keeper has given up", state(0, 0))
	if n := asked.Load(); n > 3 || k.size != 0 || k.bytes != 0 {
		t.Errorf("asked %d times, %d and %d bytes are left", n, k.size, k.bytes)
	}
}

// TestAnotherBusKnowsItsQueuesFromTheStart has a client publish and ask for the queues
// while another bus follows: it was told for a moment that there are none.
func TestAnotherBusKnowsItsQueuesFromTheStart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	model := &system.System{
		Name:     "s",
		Services: []system.Service{{Name: "api", Bus: &system.ServiceBus{Publishes: []string{"data.x"}}}},
		Queues:   []system.Queue{{Name: "data.x"}},
	}
	b, err := Open(ctx, Options{Dir: dir, System: "s", Model: model})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close(ctx) }()
	nc, _ := connectAs(t, mustIssue(t, b, "api", "api-1"), time.Millisecond)
	stop, done := make(chan struct{}), make(chan struct{})
	var stored atomic.Int64
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if m, err := nc.Request("data.x", []byte("1"), time.Second); err == nil {
				if !strings.Contains(string(m.Data), `"stream"`) {
					t.Errorf("a message is answered with %s", m.Data)
				}
				stored.Add(1)
			}
			if m, err := nc.Request(wire.SubjectNames+"api-1", nil, time.Second); err == nil && string(m.Data) != `{"queues":["data.x"]}` {
				t.Errorf("the queues are %s", m.Data)
			}
		}
	}()
	for range 3 {
		from := stored.Load()
		for stored.Load() < from+5 {
			select {
			case <-done:
				t.FailNow()
			case <-time.After(time.Millisecond):
			}
		}
		if err := b.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		next, err := Open(ctx, Options{Dir: dir, System: "s", Model: model, Former: b.Former()})
		if err != nil {
			t.Fatal(err)
		}
		b.Leave()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
		b = next
		b.Deliver()
	}
	close(stop)
	<-done
}

// TestDeliveryLosesNoRequest has clients ask while what was kept is delivered: what was
// on its way to the keeper then was lost.
func TestDeliveryLosesNoRequest(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(ctx, Options{Dir: t.TempDir(), System: "s", Model: suspendModel()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(ctx)
	echo(t, mustIssue(t, b, "api", "api-1"), "api", 5*time.Millisecond)
	nc, noticed := connectAs(t, mustIssue(t, b, "caller", "caller-1"), 5*time.Millisecond)
	var quiet sync.RWMutex // held while the bus is away
	var stop atomic.Bool
	var asked atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for !stop.Load() {
				quiet.RLock()
				_, err := nc.Request("api.x", []byte("1"), await.Patience)
				quiet.RUnlock()
				if err != nil {
					t.Error(err)
				}
				asked.Add(1)
			}
		})
	}
	for i := range 8 {
		quiet.Lock()
		if err := b.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		await.From(t, "the caller is back", noticed)
		awaitSubscribed(t, b)
		quiet.Unlock()
		<-time.After(time.Duration(i) * 100 * time.Microsecond) // they ask, and the keeper gets some of it
		b.Deliver("api")
		b.Deliver()
	}
	stop.Store(true)
	clients.Wait()
	t.Logf("asked %d times", asked.Load())
}
