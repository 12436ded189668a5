package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	_ "modernc.org/sqlite" // the driver

	"fairlead/internal/bus"
	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/delivery"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// observe is a system with queues, and services that may use them.
func observe(queues ...string) *system.System {
	sys := &system.System{
		Name: "svom",
		Types: []system.Type{
			{Name: "Level", Schema: []byte(`{"type": "object", "properties": {"level": {"type": "integer"}}}`)},
		},
		Services: []system.Service{
			{Name: "receiver", Bus: &system.ServiceBus{Publishes: []string{"data.*", "result.*"}}},
			{Name: "reader", Bus: &system.ServiceBus{Subscribes: []string{"data.*"}, Publishes: []string{"result.*", "plain"}}},
		},
	}
	for _, name := range queues {
		q := system.Queue{Name: name, Keep: time.Hour, Dedupe: time.Minute, Replicas: 1, Enforce: system.EnforceReject}
		if name == "data.typed" {
			q.Type = "Level"
		}
		sys.Queues = append(sys.Queues, q)
	}
	return sys
}

// observatory is its bus.
func observatory(tb testing.TB, queues ...string) *bus.Bus {
	tb.Helper()
	b, err := bus.Open(tb.Context(), bus.Options{Dir: tb.TempDir(), System: "svom", Model: observe(queues...), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// busEnv is the environment of an instance with credentials of the bus.
func busEnv(tb testing.TB, b *bus.Bus, service, id string) map[string]string {
	tb.Helper()
	c, err := b.Issue(service, id)
	if err != nil {
		tb.Fatal(err)
	}
	env := testEnv(tb, nil, service)
	env[wire.EnvInstance] = id
	env[wire.EnvNATSURL], env[wire.EnvNATSUser], env[wire.EnvNATSPass], env[wire.EnvNATSInbox] = c.URL, c.User, c.Password, c.InboxPrefix
	env[wire.EnvQueues] = "data.vhf data.mxt data.typed result.*"
	return env
}

// operator is JetStream with all rights.
func operator(tb testing.TB, b *bus.Bus) jetstream.JetStream {
	tb.Helper()
	nc, err := b.Operator("test")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

func put(tb testing.TB, js jetstream.JetStream, subject string, values ...string) {
	tb.Helper()
	for _, v := range values {
		if _, err := js.Publish(tb.Context(), subject, []byte(v)); err != nil {
			tb.Fatal(err)
		}
	}
}

// got keeps what handlers were given.
type got struct {
	mu   sync.Mutex
	list []string
}

func (g *got) add(v string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = append(g.list, v)
}

func (g *got) all() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.list)
}

func (g *got) sorted() string {
	all := g.all()
	slices.Sort(all)
	return strings.Join(all, " ")
}

// quick makes what fails come again soon.
var quick = []time.Duration{5 * time.Millisecond}

// deadLetters lists the dead letters of a queue: what it was, the cause, the reason.
func deadLetters(tb testing.TB, js jetstream.JetStream, queue string) []string {
	tb.Helper()
	list, err := catalogue.Read(tb.Context(), js, catalogue.DeadLetters, catalogue.Dead+queue, 0, 100)
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for _, l := range list {
		m, death, err := catalogue.Revive(l.Header, l.Data)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s: %s: %s", m.Data, death.Cause, death.Reason))
	}
	return out
}

// unfinished is how many messages a consumer of data.vhf has given and not got acknowledged, and how
// many it has not given.
func unfinished(tb testing.TB, js jetstream.JetStream, consumer string) int {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), "data_vhf", consumer)
	if err != nil {
		tb.Fatal(err)
	}
	i := c.CachedInfo()
	return i.NumAckPending + int(i.NumPending)
}

func TestADurableSubscriptionSharesItsMessages(t *testing.T) {
	b := observatory(t, "data.vhf", "data.mxt")
	js := operator(t, b)
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprint(1000+i))
		put(t, js, []string{"data.vhf", "data.mxt"}[i%2], want[i])
	}
	var seen got
	setup := func(s *Service) error {
		Subscribe(s, "data.*", func(ctx context.Context, n int) error {
			d, ok := DeliveryOf(ctx)
			if !ok || d.Attempt != 1 || d.Sequence == 0 || d.Subject != Subject(ctx) || d.Consumer != "reader_show" || d.Time.IsZero() {
				t.Errorf("delivery %+v", d)
			}
			seen.add(fmt.Sprint(n))
			return nil
		}, SubscribeOptions{Name: "show", InFlight: 4, Confirm: true})
		return nil
	}
	first := start(t, busEnv(t, b, "reader", "reader-1"), setup)
	start(t, busEnv(t, b, "reader", "reader-2"), setup)
	await.Until(t, "all are handled", func() bool { return len(seen.all()) >= len(want) })
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	put(t, js, "data.vhf", "2000")
	want = append(want, "2000")
	await.Until(t, "the other goes on", func() bool { return len(seen.all()) >= len(want) })
	if got := seen.sorted(); got != strings.Join(want, " ") {
		t.Errorf("handled %s", got)
	}
	await.Until(t, "all is acknowledged", func() bool { return unfinished(t, js, "reader_show") == 0 })
}

func TestAMessageThatFailsIsGivenAgain(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", `"third"`, `"never"`, `"hopeless"`, `"panics"`, `5`)
	var seen got
	i := start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(ctx context.Context, v string) error {
			d, _ := DeliveryOf(ctx)
			seen.add(fmt.Sprint(v, d.Attempt))
			switch {
			case v == "third" && d.Attempt < 3, v == "never":
				return errors.New("not today")
			case v == "hopeless":
				return fmt.Errorf("look at it: %w", Reject(errors.New("there is no such burst")))
			case v == "panics" && d.Attempt == 1:
				panic("oops")
			}
			return nil
		}, SubscribeOptions{Name: "show", Attempts: 4, Backoff: quick})
		return nil
	})
	await.Until(t, "all is settled", func() bool { return unfinished(t, js, "reader_show") == 0 })
	if got, want := seen.sorted(), "hopeless1 never1 never2 never3 never4 panics1 panics2 third1 third2 third3"; got != want {
		t.Errorf("handled %s, want %s", got, want)
	}
	dead := deadLetters(t, js, "data.vhf")
	slices.Sort(dead)
	want := []string{
		`"hopeless": refused: there is no such burst`,
		`"never": attempts: not today`,
		"5: type: the request must be a string, is a number",
	}
	if !slices.Equal(dead, want) {
		t.Errorf("dead letters %q, want %q", dead, want)
	}
	await.Until(t, "the log tells of them", func() bool { return len(i.log.records(t, "message is a dead letter")) == 3 })
}

func TestAMessageThatKillsItsReceiversIsADeadLetter(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", `"poison"`)
	opts := SubscribeOptions{Name: "show", Attempts: 2, AckWait: time.Second}
	for n := range 2 { // they take the message and are gone without a word
		c, err := b.Issue("reader", fmt.Sprintf("victim-%d", n))
		if err != nil {
			t.Fatal(err)
		}
		began, killed := make(chan struct{}), make(chan struct{})
		env := busEnv(t, b, "reader", fmt.Sprintf("reader-%d", n))
		env[wire.EnvGrace] = "50ms"
		i := start(t, env, func(s *Service) error {
			Subscribe(s, "data.vhf", func(context.Context, string) error {
				close(began)
				<-killed
				return nil
			}, opts)
			return nil
		})
		<-began
		if err := b.Revoke(c.User); err != nil {
			t.Fatal(err)
		}
		if err := b.Revoke(fmt.Sprintf("reader-%d", n)); err != nil {
			t.Fatal(err)
		}
		// The server still takes what it has read when it cuts a connection.
		await.Until(t, "the instance has lost the bus", func() bool { return !i.svc.conn.IsConnected() })
		close(killed)
		_ = i.stop() // it may have lost the bus for good
	}
	start(t, busEnv(t, b, "reader", "reader-9"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(context.Context, string) error { t.Error("handled once more"); return nil }, opts)
		return nil
	})
	await.Until(t, "it is a dead letter", func() bool { return len(deadLetters(t, js, "data.vhf")) == 1 })
	if dead := deadLetters(t, js, "data.vhf"); dead[0] != `"poison": attempts: it was given 2 times and never acknowledged` {
		t.Errorf("dead letter %s", dead)
	}
}

func TestAStopGivesBackWhatWasNotBegun(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", "1", "2", "3", "4", "5", "6")
	var first, second got
	began, end := make(chan struct{}, 10), make(chan struct{})
	opts := SubscribeOptions{Name: "show", InFlight: 2, AckWait: time.Hour}
	i := start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(ctx context.Context, n int) error {
			began <- struct{}{}
			<-end
			first.add(fmt.Sprint(n))
			return ctx.Err()
		}, opts)
		return nil
	})
	<-began
	<-began
	i.cancel()
	start(t, busEnv(t, b, "reader", "reader-2"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { second.add(fmt.Sprint(n)); return nil }, opts)
		return nil
	})
	await.Until(t, "the other has the rest", func() bool { return second.sorted() == "3 4 5 6" })
	close(end)
	if err := i.stop(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "all is acknowledged", func() bool { return unfinished(t, js, "reader_show") == 0 })
	if first.sorted() != "1 2" || second.sorted() != "3 4 5 6" {
		t.Errorf("handled %s and %s", first.sorted(), second.sorted())
	}
}

func TestALongHandlerKeepsItsMessage(t *testing.T) {
	t.Parallel()
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", "1")
	var seen got
	enough := make(chan struct{})
	start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { seen.add(fmt.Sprint(n)); <-enough; return nil },
			SubscribeOptions{Name: "show", AckWait: 3 * time.Second})
		return nil
	})
	await.Until(t, "it is handled", func() bool { return len(seen.all()) > 0 })
	c, err := js.Consumer(t.Context(), "data_vhf", "reader_show")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if i, err := c.Info(t.Context()); err != nil || i.NumRedelivered > 0 || i.NumAckPending != 1 {
			t.Fatalf("given again: %+v, %v", i, err)
		}
	}
	close(enough)
	await.Until(t, "it is acknowledged", func() bool { return unfinished(t, js, "reader_show") == 0 })
}

func TestASubscriptionGoesOnWhenTheBusWasAway(t *testing.T) {
	b := observatory(t, "data.vhf")
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	var durable, read got
	start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { durable.add(fmt.Sprint(n)); return nil }, SubscribeOptions{Name: "show"})
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { read.add(fmt.Sprint(n)); return nil }, SubscribeOptions{From: First})
		return nil
	})
	want := ""
	for round := range 3 {
		put(t, js, "data.vhf", fmt.Sprint(round), fmt.Sprint(round+10))
		want = strings.TrimSpace(fmt.Sprint(want, " ", round, " ", round+10))
		await.Until(t, "handled "+want, func() bool { return len(durable.all()) >= 2*round+2 && strings.Join(read.all(), " ") == want })
		if err := b.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		await.Until(t, "the bus is back", func() bool { return nc.IsConnected() })
	}
}

func TestAReaderGetsAllInOrderAndPassesOver(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	for n := range 200 {
		put(t, js, "data.vhf", fmt.Sprint(n))
	}
	var all, late got
	i := start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.*", func(ctx context.Context, n int) error {
			d, _ := DeliveryOf(ctx)
			if n == 7 && d.Attempt < 3 || n == 9 {
				return errors.New("no")
			}
			all.add(fmt.Sprint(n))
			return nil
		}, SubscribeOptions{From: First, InFlight: 10, Attempts: 3, Backoff: quick})
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { late.add(fmt.Sprint(n)); return nil }, SubscribeOptions{From: FromSequence(198)})
		return nil
	})
	await.Until(t, "all are read", func() bool { return len(all.all()) == 199 && len(late.all()) == 3 })
	for n, v := range all.all() {
		if n < 9 && v != fmt.Sprint(n) || n >= 9 && v != fmt.Sprint(n+1) {
			t.Fatalf("at place %d came %s", n, v)
		}
	}
	if got := strings.Join(late.all(), " "); got != "197 198 199" {
		t.Errorf("from a sequence on: %s", got)
	}
	await.Until(t, "the log tells what was passed over", func() bool { return len(i.log.records(t, "message is passed over")) == 1 })
}

func TestOrderedMessagesWaitForTheOneBefore(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", "1", "2", "3", "4")
	var seen got
	setup := func(s *Service) error {
		Subscribe(s, "data.vhf", func(ctx context.Context, n int) error {
			seen.add(fmt.Sprint(n))
			if d, _ := DeliveryOf(ctx); n == 2 && d.Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		}, SubscribeOptions{Name: "show", Ordered: true, Backoff: quick})
		return nil
	}
	start(t, busEnv(t, b, "reader", "reader-1"), setup)
	start(t, busEnv(t, b, "reader", "reader-2"), setup)
	await.Until(t, "all are handled", func() bool { return len(seen.all()) == 6 })
	if got := strings.Join(seen.all(), " "); got != "1 2 2 2 3 4" {
		t.Errorf("handled %s", got)
	}
}

func TestPublishToAQueueWaitsUntilItIsStored(t *testing.T) {
	b := observatory(t, "data.typed", "result.*")
	js := operator(t, b)
	i := start(t, busEnv(t, b, "receiver", "receiver-1"), func(*Service) error { return nil })
	type level struct {
		Level any `json:"level"`
	}
	for range 2 {
		if err := Publish(t.Context(), i.svc, "data.typed", level{5}, PublishOptions{ID: "one", Headers: map[string]string{"X-Source": "antenna"}}); err != nil {
			t.Fatal(err)
		}
	}
	err := Publish(t.Context(), i.svc, "data.typed", level{"high"})
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 422 || !strings.Contains(e.Public, "/level must be a whole number") {
		t.Errorf("a message of another type: %v", err)
	}
	s, err := js.Stream(t.Context(), "data_typed")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d messages are stored, want 1", n)
	}
	if m, err := s.GetMsg(t.Context(), 1); err != nil || m.Header.Get("X-Source") != "antenna" || string(m.Data) != `{"level":5}` {
		t.Errorf("stored: %+v, %v", m, err)
	}
	for _, o := range []PublishOptions{{Headers: map[string]string{"nats-rollup": "all"}}, {Headers: map[string]string{"Fairlead-Dead-Queue": "x"}}, {ID: "a\nb"}} {
		if err := Publish(t.Context(), i.svc, "data.typed", level{1}, o); err == nil {
			t.Errorf("published with %+v", o)
		}
	}
}

func TestProcessStoresItsResultOnce(t *testing.T) {
	b := observatory(t, "data.vhf", "result.*")
	js := operator(t, b)
	put(t, js, "data.vhf", "1", "2", "3")
	var tries got
	start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Process(s, "data.vhf", "result.double", func(ctx context.Context, n int) (int, error) {
			d, _ := DeliveryOf(ctx)
			if tries.add(fmt.Sprint(n)); n == 2 && d.Attempt == 1 {
				return 0, errors.New("not yet")
			}
			return 2 * n, nil
		}, SubscribeOptions{Name: "double", Backoff: quick})
		return nil
	})
	await.Until(t, "all are handled", func() bool { return unfinished(t, js, "reader_double") == 0 })
	s, err := js.Stream(t.Context(), "result_ANY")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 3 || len(tries.all()) != 4 {
		t.Errorf("%d results of %v", n, tries.all())
	}
}

func TestWhatASubscriptionCannotBe(t *testing.T) {
	b := observatory(t, "data.vhf")
	handle := func(context.Context, int) error { return nil }
	tests := []struct {
		name, subject, want string
		opts                SubscribeOptions
	}{
		{"not named in the file", "secret.x", "must name it under subscribes", SubscribeOptions{Name: "a"}},
		{"no queue", "data.other", "no queue keeps data.other", SubscribeOptions{Name: "a"}},
		{"options without a name", "data.vhf", "give it a Name", SubscribeOptions{Attempts: 3}},
		{"a bad name", "data.vhf", "must be at most 64 letters", SubscribeOptions{Name: "a b"}},
		{"too much in flight", "data.vhf", "in_flight must be", SubscribeOptions{Name: "a", InFlight: 1 << 20}},
	}
	for n, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := launch(t, busEnv(t, b, "reader", fmt.Sprintf("reader-%d", n)), func(s *Service) error {
				Subscribe(s, tt.subject, handle, tt.opts)
				return nil
			})
			<-i.done
			if i.err == nil || !strings.Contains(i.err.Error(), tt.want) {
				t.Errorf("got %v, want %s", i.err, tt.want)
			}
		})
	}
}

func TestABatchIsStoredAsAWhole(t *testing.T) {
	b := observatory(t, "data.typed", "result.*")
	js := operator(t, b)
	i := start(t, busEnv(t, b, "receiver", "receiver-1"), func(*Service) error { return nil })
	type level struct {
		Level any `json:"level"`
	}
	batch := make([]level, 1000)
	for n := range batch {
		batch[n].Level = n
	}
	stored := func() uint64 {
		s, err := js.Stream(t.Context(), "data_typed")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	for n := range 2 {
		if err := PublishBatch(await.Context(t), i.svc, "data.typed", batch[:n]); err != nil {
			t.Fatal(err)
		}
	}
	if err := PublishBatch(await.Context(t), i.svc, "data.typed", batch); err != nil {
		t.Fatal(err)
	}
	if n := stored(); n != 1001 {
		t.Fatalf("%d messages are stored, want 1001", n)
	}
	batch[17].Level = "high"
	err := PublishBatch(await.Context(t), i.svc, "data.typed", batch[:20])
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 422 || !strings.Contains(e.Public, "message 17: ") || !strings.Contains(e.Public, "/level") {
		t.Errorf("a batch with a message of another type: %v", err)
	}
	if err := PublishBatch(await.Context(t), i.svc, "data.typed", make([]level, 1001)); err == nil {
		t.Error("a batch that is too large is published")
	}
	if err := PublishBatch(await.Context(t), i.svc, "plain", batch); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("a batch that no queue keeps: %v", err)
	}
	if n := stored(); n != 1001 {
		t.Errorf("%d messages are stored, want 1001 as before", n)
	}
}

func TestOnceIsOnceWhateverIsGivenAgain(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", "1", "2", "3", "4", "5")
	db, err := sql.Open("sqlite", "file:"+t.TempDir()+"/once.db?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE sums (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	setup := func(s *Service) error {
		Subscribe(s, "data.vhf", func(ctx context.Context, n int) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			first, err := Once(ctx, tx)
			if err != nil {
				return err
			}
			if first {
				if _, err := tx.ExecContext(ctx, "INSERT INTO sums VALUES (?)", n); err != nil {
					return err
				}
			}
			if err := tx.Commit(); err != nil {
				return err
			}
			if d, _ := DeliveryOf(ctx); d.Attempt == 1 {
				return errors.New("the acknowledgement is lost")
			}
			return nil
		}, SubscribeOptions{Name: "sum", InFlight: 1, Backoff: quick})
		return nil
	}
	sum := func() (n int) {
		if err := db.QueryRowContext(t.Context(), "SELECT coalesce(sum(n), 0) FROM sums").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	i := start(t, busEnv(t, b, "reader", "reader-1"), setup)
	await.Until(t, "all are acknowledged", func() bool { return unfinished(t, js, "reader_sum") == 0 })
	if got := sum(); got != 15 {
		t.Errorf("the sum is %d, want 15", got)
	}
	// The operator wants them all handled again.
	if err := b.Rewind(t.Context(), "data.vhf", "reader_sum", "3"); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "from the third on again", func() bool { return sum() == 15+3+4+5 && unfinished(t, js, "reader_sum") == 0 })
	for _, name := range []string{"reader_none", "", "a.b"} {
		if err := b.Rewind(t.Context(), "data.vhf", name, "first"); !errors.Is(err, delivery.ErrNoConsumer) {
			t.Errorf("rewind %q: %v", name, err)
		}
	}
	if err := b.Forget(t.Context(), "data.vhf", "reader_sum"); !errors.Is(err, delivery.ErrBusy) {
		t.Errorf("forget what is in use: %v", err)
	}
	if err := i.stop(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "nobody pulls", func() bool { return b.Forget(t.Context(), "data.vhf", "reader_sum") == nil })
	start(t, busEnv(t, b, "reader", "reader-2"), setup)
	await.Until(t, "all once more", func() bool { return sum() == 27+15 })
}

func TestOnceIsForDurableSubscriptions(t *testing.T) {
	if _, err := Once(t.Context(), nil); err == nil {
		t.Error("no error outside of a message")
	}
}

func TestAQueueThatIsAddedIsSubscribedToo(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	var seen got
	start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.*", func(_ context.Context, n int) error { seen.add(fmt.Sprint(n)); return nil }, SubscribeOptions{Name: "show"})
		return nil
	})
	i := start(t, busEnv(t, b, "receiver", "receiver-1"), func(*Service) error { return nil })
	put(t, js, "data.vhf", "1")
	await.Until(t, "the first queue's", func() bool { return seen.sorted() == "1" })
	if err := b.Apply(observe("data.vhf", "data.late")); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the publisher knows the new queue", func() bool { return i.svc.queues.keep("data.late") })
	if err := Publish(t.Context(), i.svc, "data.late", 2); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the new queue's too", func() bool { return seen.sorted() == "1 2" })
}

func TestAnInstanceThatDrainsPullsNoMore(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	var first, second got
	i := start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { first.add(fmt.Sprint(n)); return nil }, SubscribeOptions{Name: "show", InFlight: 2})
		return nil
	})
	put(t, js, "data.vhf", "1")
	await.Until(t, "it is handled", func() bool { return unfinished(t, js, "reader_show") == 0 })
	if _, err := b.Drain("reader-1"); err != nil {
		t.Fatal(err)
	}
	start(t, busEnv(t, b, "reader", "reader-2"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { second.add(fmt.Sprint(n)); return nil }, SubscribeOptions{Name: "show"})
		return nil
	})
	var want []string
	for n := range 50 {
		put(t, js, "data.vhf", fmt.Sprint(100+n))
		want = append(want, fmt.Sprint(100+n))
	}
	await.Until(t, "all are handled", func() bool { return len(first.all())+len(second.all()) == 51 })
	await.Until(t, "all are acknowledged", func() bool { return unfinished(t, js, "reader_show") == 0 })
	if n := len(first.all()); n > 3 { // what it had asked for before
		t.Errorf("the instance that drains has handled %d", n)
	}
	if all := append(first.all(), second.all()...); len(all) != len(want)+1 {
		t.Errorf("handled %v", all)
	}
	if denied := i.log.records(t, "bus denies sending"); slices.ContainsFunc(denied, func(r map[string]any) bool { return r["level"] == "ERROR" }) {
		t.Errorf("the log is alarmed: %v", denied)
	}
	if err := i.stop(); err != nil {
		t.Error(err)
	}
}

// TestSubscriptionsStartAndStop has instances come and go in the middle of their work.
func TestSubscriptionsStartAndStop(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	var seen got
	var want []string
	for round := range 15 {
		for n := range 5 {
			v := fmt.Sprint(1000 + 10*round + n)
			put(t, js, "data.vhf", v)
			want = append(want, v)
		}
		i := launch(t, busEnv(t, b, "reader", fmt.Sprintf("reader-%d", round)), func(s *Service) error {
			Subscribe(s, "data.vhf", func(_ context.Context, n int) error { seen.add(fmt.Sprint(n)); return nil },
				SubscribeOptions{Name: "show", InFlight: 3, AckWait: time.Second, Confirm: round%2 == 0})
			Subscribe(s, "data.vhf", func(context.Context, int) error { return nil }, SubscribeOptions{From: First})
			return nil
		})
		switch round % 3 {
		case 0:
			await.Until(t, "it handles", func() bool { return slices.Contains(seen.all(), want[len(want)-5]) })
		case 1:
			await.Until(t, "it has begun", func() bool { return strings.Contains(i.log.String(), "bus connected") })
		}
		if err := i.stop(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	start(t, busEnv(t, b, "reader", "reader-99"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { seen.add(fmt.Sprint(n)); return nil }, SubscribeOptions{Name: "show", AckWait: time.Second})
		return nil
	})
	await.Until(t, "all are acknowledged", func() bool { return unfinished(t, js, "reader_show") == 0 })
	for _, v := range want {
		if !slices.Contains(seen.all(), v) {
			t.Errorf("%s was not handled", v)
		}
	}
}

// TestMessagesAreNotKeptForAnInstanceThatIsGone: after the bus was away it keeps
// replies for those who are not back yet, which must not look as if they pulled.
func TestMessagesAreNotKeptForAnInstanceThatIsGone(t *testing.T) {
	b := observatory(t, "data.vhf")
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	var seen got
	setup := func(s *Service) error {
		Subscribe(s, "data.vhf", func(_ context.Context, n int) error { seen.add(fmt.Sprint(n)); return nil }, SubscribeOptions{Name: "show", AckWait: time.Hour})
		return nil
	}
	i := start(t, busEnv(t, b, "reader", "reader-1"), setup)
	if err := b.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the bus is back", nc.IsConnected)
	put(t, js, "data.vhf", "1")
	await.Until(t, "it goes on", func() bool { return seen.sorted() == "1" })
	if err := i.stop(); err != nil {
		t.Fatal(err)
	}
	put(t, js, "data.vhf", "2", "3", "4")
	start(t, busEnv(t, b, "reader", "reader-2"), setup)
	await.Until(t, "another has the rest", func() bool { return seen.sorted() == "1 2 3 4" })
	await.Until(t, "all are acknowledged", func() bool { return unfinished(t, js, "reader_show") == 0 })
	if s, err := js.Stream(t.Context(), "data_vhf"); err != nil || s.CachedInfo().State.Msgs != 4 {
		t.Errorf("the queue holds %+v, %v; want 4 messages", s, err)
	}
}

func TestEnvironmentIsReadWhileTheServiceRuns(t *testing.T) {
	s := &Service{surroundings: surroundings{lookup: func(name string) (string, bool) {
		t.Errorf("%s is looked for", name)
		return "", false
	}}}
	s.askQueues() // as when the bus is there again
	if err := s.heedQueues(); err != nil {
		t.Error(err)
	}
}

func TestTheLogOfAFailingHandlerDoesNotSayWhichMessage(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	put(t, js, "data.vhf", `"hello"`)
	i := start(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		Subscribe(s, "data.vhf", func(context.Context, string) error { return errors.New("no room") },
			SubscribeOptions{Name: "show", Attempts: 2, Backoff: quick})
		return nil
	})
	await.Until(t, "both attempts are logged", func() bool { return len(i.log.records(t, "message is not handled")) == 2 })
	r := i.log.records(t, "message is not handled")[1]
	if r["sequence"] != 1.0 || r["attempt"] != 2.0 || r["consumer"] != "reader_show" || r["subject"] != "data.vhf" || r["error"] != "no room" {
		t.Errorf("logged: %v", r)
	}
}

func TestASetupThatFailsLeavesAConsumerBehind(t *testing.T) {
	b := observatory(t, "data.vhf")
	js := operator(t, b)
	i := launch(t, busEnv(t, b, "reader", "reader-1"), func(s *Service) error {
		none := func(context.Context, string) error { return nil }
		Subscribe(s, "data.vhf", none, SubscribeOptions{Name: "show"})
		Subscribe(s, "zzz.*", none, SubscribeOptions{Name: "other"})
		return nil
	})
	<-i.done
	if _, err := js.Consumer(t.Context(), "data_vhf", "reader_show"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("the consumer of the other subscription: %v", err)
	}
}
