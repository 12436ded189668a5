package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// observatory is a system like the svom stack: a receiver publishes, a page hears.
func observatory(queues ...system.Queue) *system.System {
	for i := range queues {
		q := &queues[i]
		if q.Keep == 0 {
			q.Keep = time.Hour
		}
		if q.Enforce == "" {
			q.Enforce = system.EnforceReject
		}
		q.Dedupe, q.Replicas = 2*time.Minute, 1
	}
	return &system.System{
		Name: "svom",
		Types: []system.Type{
			{Name: "Level", Schema: []byte(`{"type": "object", "required": ["level"], "properties": {"level": {"type": "integer"}}}`)},
			{Name: "Text", Schema: []byte(`{"type": "string"}`)},
		},
		Queues: queues,
		Services: []system.Service{
			{Name: "page", Bus: &system.ServiceBus{Subscribes: []string{"data.*", "activity.>"}}},
			{Name: "receiver", Bus: &system.ServiceBus{Publishes: []string{"data.*", "activity.vhf"}}},
			{Name: "stranger", Bus: &system.ServiceBus{Publishes: []string{"other"}}},
		},
	}
}

// stream connects as an instance of a service that publishes.
func stream(t *testing.T, b *Bus, service string) (jetstream.JetStream, *nats.Conn) {
	t.Helper()
	nc := dial(t, issue(t, b, service, service+"-"+random()))
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	return js, nc
}

// state returns what a queue holds.
func state(t *testing.T, b *Bus, queue string) catalogue.State {
	t.Helper()
	all, err := catalogue.States(t.Context(), b.catalogue.js)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Queue == queue {
			return s
		}
	}
	t.Fatalf("there is no queue %s among %+v", queue, all)
	return catalogue.State{}
}

// refusal returns the error that a publisher got of the checker, nil for none.
func refusal(err error) *jetstream.APIError {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == catalogue.RefusedCode {
		return api
	}
	return nil
}

func TestAQueueStoresOnlyWhatSatisfiesItsType(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf", Type: "Level"}, system.Queue{Name: "data.raw"}))
	js, nc := stream(t, b, "receiver")
	_, page := stream(t, b, "page")
	heard, err := page.SubscribeSync("data.*")
	if err != nil {
		t.Fatal(err)
	}
	if err := page.Flush(); err != nil {
		t.Fatal(err)
	}

	ack, err := js.Publish(await.Context(t), "data.vhf", []byte(`{"level": 1}`), jetstream.WithMsgID("one"))
	if err != nil || ack.Stream != "data_vhf" || ack.Sequence != 1 || ack.Duplicate {
		t.Fatalf("a valid message: %+v, %v", ack, err)
	}
	if ack, err = js.Publish(await.Context(t), "data.vhf", []byte(`{"level": 1}`), jetstream.WithMsgID("one")); err != nil || !ack.Duplicate || ack.Sequence != 1 {
		t.Errorf("the same again: %+v, %v, want a duplicate", ack, err)
	}
	_, err = js.Publish(await.Context(t), "data.vhf", []byte(`{"level": "high"}`))
	if r := refusal(err); r == nil || r.Code != catalogue.RefusedStatus || r.Description != "data.vhf: is no Level: /level must be a whole number, is a string" {
		t.Errorf("a message of another type: %v", err)
	}
	// A client that asks and knows nothing of JetStream is told the same.
	reply, err := nc.RequestWithContext(await.Context(t), "data.vhf", []byte(`hello`))
	if err != nil || !strings.Contains(string(reply.Data), `"code":422`) {
		t.Errorf("a plain request: %v", err)
	}
	if ack, err = js.Publish(await.Context(t), "data.raw", []byte("anything")); err != nil || ack.Stream != "data_raw" {
		t.Errorf("a queue without a type: %+v, %v", ack, err)
	}
	if err := nc.Publish("data.vhf", []byte("nobody waits for an answer")); err != nil {
		t.Fatal(err)
	}
	if _, err = js.Publish(await.Context(t), "data.vhf", []byte(`{"level": 2}`)); err != nil {
		t.Fatal(err)
	}
	if s := state(t, b, "data.vhf"); s.Messages != 2 || s.Last != 2 {
		t.Errorf("the queue holds %+v, want 2 messages", s)
	}
	for _, want := range []string{`{"level": 1}`, "anything", `{"level": 2}`} {
		m, err := heard.NextMsgWithContext(await.Context(t))
		if err != nil || string(m.Data) != want {
			t.Fatalf("a subscriber heard %+v, %v; want %s", m, err, want)
		}
	}
	if n, _, _ := heard.Pending(); n > 0 {
		t.Errorf("a subscriber heard %d more", n)
	}
	if c := b.Refused()["data.vhf"]; c.Accepted != 3 || c.Refused != 3 {
		t.Errorf("counts %+v, want 3 accepted, the duplicate too, and 3 refused", c)
	}
}

func TestNobodyPublishesPastTheChecker(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf", Type: "Level"}, system.Queue{Name: "activity.>", Type: "Level"}, system.Queue{Name: "data.raw"}))
	receiver, stranger := issue(t, b, "receiver", "receiver-1"), issue(t, b, "stranger", "stranger-1")
	page, tools := issue(t, b, "page", "page-1"), b.OperatorCredentials()
	tests := []struct {
		name    string
		who     Credentials
		act     func(*nats.Conn) error
		refused bool
	}{
		{"the way in", receiver, publish("data.vhf"), false},
		{"a queue that is wider than what is granted", receiver, publish("activity.vhf"), false},
		{"beside what is granted", receiver, publish("activity.mxt"), true},
		{"a subject that is in no queue", receiver, publish("data.other"), false},
		{"the stream's own subject", receiver, publish("$FLQ.ok.data.vhf"), true},
		{"the dead letters", receiver, publish("$FLQ.dead.data.vhf"), true},
		{"the checker's mail", receiver, subscribe("$FLQ.in.data.vhf"), true},
		{"a queue of others", stranger, publish("data.vhf"), true},
		{"the way in, said plainly", stranger, publish("$FLQ.in.data.vhf"), true},
		{"who only hears", page, publish("data.vhf"), true},
		{"the tools, to the stream's own subject", tools, publish("$FLQ.ok.data.vhf"), true},
		{"the tools, to the dead letters", tools, publish("$FLQ.dead.data.vhf"), true},
		{"the tools", tools, publish("data.vhf"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := refused(t, tt.who, tt.act); got != tt.refused {
				t.Errorf("refused: %v, want %v", got, tt.refused)
			}
		})
	}
	if s := state(t, b, "data.vhf"); s.Messages != 0 {
		t.Errorf("%d messages were stored, though none satisfies the type", s.Messages)
	}
}

func TestWhatBecomesOfAMessageOfAnotherType(t *testing.T) {
	queues := []system.Queue{
		{Name: "data.q", Type: "Level", Enforce: system.EnforceQuarantine},
		{Name: "data.o", Type: "Level", Enforce: system.EnforceObserve},
	}
	b := open(t, observatory(queues...))
	js, _ := stream(t, b, "receiver")
	advisories, err := b.catalogue.conn.SubscribeSync(catalogue.Refused + ">")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.catalogue.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("data.q")
	m.Data = []byte(`{"level": "x"}`)
	m.Header.Set("Trace", "abc")
	m.Header.Set(jetstream.MsgIDHeader, "id-1")
	m.Header.Set("Fairlead-Dead-Reason", "forged")
	ack, err := js.PublishMsg(await.Context(t), m)
	if err != nil || ack.Stream != catalogue.DeadLetters || ack.Sequence != 1 {
		t.Fatalf("to quarantine: %+v, %v", ack, err)
	}
	if ack, err = js.Publish(await.Context(t), "data.o", []byte("1")); err != nil || ack.Stream != "data_o" {
		t.Errorf("observed: %+v, %v", ack, err)
	}
	for _, want := range []string{`"fate":"quarantined"`, `"fate":"stored"`} {
		if a, err := advisories.NextMsgWithContext(await.Context(t)); err != nil || !strings.Contains(string(a.Data), want) {
			t.Errorf("advisory %v, %v; want %s", a, err, want)
		}
	}
	if s := state(t, b, "data.q"); s.Messages != 0 {
		t.Errorf("the queue holds %d messages in quarantine", s.Messages)
	}
	if c := b.Refused(); c["data.q"].Quarantined != 1 || c["data.o"].Observed != 1 || c["data.o"].Accepted != 1 {
		t.Errorf("counts: %+v", c)
	}

	// The copy is full, and says why.
	letters, err := catalogue.Read(await.Context(t), b.catalogue.js, catalogue.DeadLetters, catalogue.Dead+"data.q", 1, 10)
	if err != nil || len(letters) != 1 {
		t.Fatalf("dead letters: %+v, %v", letters, err)
	}
	revived, death, err := catalogue.Revive(letters[0].Header, letters[0].Data)
	if err != nil || revived.Subject != "data.q" || string(revived.Data) != string(m.Data) ||
		!maps.Equal(first(revived.Header), map[string]string{"Trace": "abc", jetstream.MsgIDHeader: "id-1"}) {
		t.Errorf("the copy: %+v, %v", revived, err)
	}
	if death.Queue != "data.q" || death.Cause != catalogue.CauseType || death.Pointer != "/level" || death.Reason != "is no Level: /level must be a whole number, is a string" || time.Since(death.Time) > time.Minute {
		t.Errorf("the reason: %+v", death)
	}

	// Replayed, it is refused as before and stays; once the type allows it, it is stored.
	if _, err := catalogue.Replay(await.Context(t), b.catalogue.js, 1); refusal(err) == nil {
		t.Errorf("a replay of what is no better: %v", err)
	}
	queues[0].Type = ""
	if err := b.Apply(observatory(queues...)); err != nil {
		t.Fatal(err)
	}
	if ack, err := catalogue.Replay(await.Context(t), b.catalogue.js, 1); err != nil || ack.Stream != "data_q" {
		t.Errorf("a replay: %+v, %v", ack, err)
	}
	if letters, err := catalogue.Read(await.Context(t), b.catalogue.js, catalogue.DeadLetters, ">", 1, 10); err != nil || len(letters) != 0 {
		t.Errorf("dead letters after the replay: %+v, %v", letters, err)
	}
}

// first are the first values of headers.
func first(h nats.Header) map[string]string {
	m := map[string]string{}
	for name := range h {
		m[name] = h[name][0]
	}
	return m
}

func TestAChangeOfTheFileKeepsTheMessages(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	js, _ := stream(t, b, "receiver")
	send := func(data string) error {
		_, err := js.Publish(await.Context(t), "data.vhf", []byte(data))
		return err
	}
	apply := func(queues ...system.Queue) error { return b.Apply(observatory(queues...)) }
	for range 3 {
		if err := send("x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := apply(system.Queue{Name: "data.vhf", Type: "Level", MaxCount: 10}); err != nil {
		t.Fatal(err)
	}
	if err := send("x"); refusal(err) == nil {
		t.Errorf("the type is not in force: %v", err)
	}
	if err := send(`{"level": 1}`); err != nil {
		t.Error(err)
	}
	err := apply(system.Queue{Name: "data.vhf", MaxCount: 3})
	if loss, ok := errors.AsType[*catalogue.LossError](err); !ok || loss.Limit != "max_messages" || !strings.Contains(err.Error(), "would delete 1 of 4 messages") {
		t.Errorf("a limit below what is stored: %v", err)
	}
	if err := apply(system.Queue{Name: "data.vhf", MaxBytes: 1024, MaxCount: 4}); err != nil {
		t.Errorf("limits that suffice: %v", err)
	}
	// Taken out of the file it keeps what it has; a queue with the same subjects may be
	// there meanwhile.
	if err := apply(system.Queue{Name: "data.*"}); err != nil {
		t.Fatal(err)
	}
	if err := send("wide"); err != nil {
		t.Error(err)
	}
	if s := state(t, b, "data.vhf"); !s.Apart || s.Messages != 4 {
		t.Errorf("a queue that is not in the file: %+v", s)
	}
	if err := apply(system.Queue{Name: "data.vhf"}); err != nil {
		t.Fatal(err)
	}
	if err := send("back"); err != nil {
		t.Error(err)
	}
	if s := state(t, b, "data.vhf"); s.Apart || s.Messages != 5 {
		t.Errorf("a queue that is back in the file: %+v", s)
	}
	if s := state(t, b, "data.*"); !s.Apart || s.Messages != 1 {
		t.Errorf("the queue that was there meanwhile: %+v", s)
	}
	if err := apply(); err != nil {
		t.Fatal(err)
	}
	if err := send("nowhere"); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("without a queue: %v", err)
	}
}

func TestMessagesAreStoredInTheOrderInWhichTheyCame(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf", Type: "Text"}))
	js, nc := stream(t, b, "receiver")
	const n = 200
	for i := range n {
		// Large and small take turns, which take longer and less long to check.
		text := fmt.Sprintf("%03d", i)
		if i%3 == 0 {
			text += strings.Repeat("x", 10_000)
		}
		if err := nc.Publish("data.vhf", []byte(`"`+text+`"`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if ack, err := js.Publish(await.Context(t), "data.vhf", []byte(`"last"`)); err != nil || ack.Sequence != n+1 {
		t.Fatalf("the last: %+v, %v", ack, err)
	}
	stored, err := catalogue.Read(await.Context(t), b.catalogue.js, "data_vhf", ">", 1, n)
	if err != nil || len(stored) != n {
		t.Fatalf("read %d, %v", len(stored), err)
	}
	for i, m := range stored {
		if got := string(m.Data[1:4]); got != fmt.Sprintf("%03d", i) || m.Subject != "data.vhf" {
			t.Fatalf("message %d is %s of %s", i, got, m.Subject)
		}
	}
}

// TestNothingIsStoredUnchecked publishes while the bus is suspended and resumed: each
// message is either acknowledged and valid, or not acknowledged.
func TestNothingIsStoredUncheckedWhileTheBusMoves(t *testing.T) {
	dir := t.TempDir()
	sys := observatory(system.Queue{Name: "data.vhf", Type: "Level"})
	b, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: sys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	c := issue(t, b, "receiver", "receiver-1")
	nc := dial(t, c, nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1))
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var acked, wrong int
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			sending, cancel := context.WithTimeout(ctx, time.Second)
			data := `{"level": 1}`
			if i%2 == 1 {
				data = `{"level": "no"}`
			}
			_, err := js.Publish(sending, "data.vhf", []byte(data))
			cancel()
			switch {
			case err == nil && i%2 == 1:
				wrong++
			case err == nil:
				acked++
			}
		}
	})
	enough := func(b *Bus) {
		t.Helper()
		was := b.Refused()["data.vhf"].Accepted
		await.Until(t, "five more are accepted", func() bool { return b.Refused()["data.vhf"].Accepted >= was+5 })
	}
	enough(b)
	for range 3 {
		if err := b.Suspend(await.Context(t)); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(await.Context(t)); err != nil {
			t.Fatal(err)
		}
		enough(b)
	}
	// To another process, as an upgrade does.
	former := b.Former()
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	next, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: sys, Former: former, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, next) })
	enough(next)
	stop()
	sending.Wait()
	stored, err := catalogue.Read(await.Context(t), next.catalogue.js, "data_vhf", ">", 1, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range stored {
		if string(m.Data) != `{"level": 1}` {
			t.Fatalf("stored without a check: %s", m.Data)
		}
	}
	if wrong > 0 || len(stored) < acked || acked == 0 {
		t.Errorf("%d of %d acknowledged are stored; %d of another type were acknowledged", len(stored), acked, wrong)
	}
}

func TestAnAtomicBatchGoesThroughTheChecker(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf", Type: "Level"}))
	_, nc := stream(t, b, "receiver")
	batch := func(id string, data ...string) string {
		t.Helper()
		var reply *nats.Msg
		for i, d := range data {
			m := nats.NewMsg("data.vhf")
			m.Data = []byte(d)
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
			if i == len(data)-1 {
				m.Header.Set("Nats-Batch-Commit", "1")
			}
			var err error
			switch i {
			case 0, len(data) - 1:
				reply, err = nc.RequestMsgWithContext(await.Context(t), m)
			default:
				err = nc.PublishMsg(m)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return string(reply.Data)
	}
	if got := batch("a", `{"level": 1}`, `{"level": 2}`, `{"level": 3}`); !strings.Contains(got, `"count":3`) {
		t.Errorf("a batch: %s", got)
	}
	if got := batch("b", `{"level": 1}`, `{"level": "no"}`, `{"level": 3}`); !strings.Contains(got, `"error"`) {
		t.Errorf("a batch with a message of another type: %s", got)
	}
	if s := state(t, b, "data.vhf"); s.Messages != 3 {
		t.Errorf("%d messages are stored, want the 3 of the first batch", s.Messages)
	}
}

// BenchmarkQueue is one publisher that waits for each acknowledgement, and some that
// do not wait for each other: to a bare stream, to a queue without a type, and to one
// whose messages are checked.
func BenchmarkQueue(bench *testing.B) {
	sys := observatory(system.Queue{Name: "data.raw"}, system.Queue{Name: "data.vhf", Type: "Level"})
	sys.Services[1].Bus.Publishes = append(sys.Services[1].Bus.Publishes, "bare")
	for _, publishers := range []int{1, 32} {
		for _, subject := range []string{"bare", "data.raw", "data.vhf"} {
			bench.Run(fmt.Sprintf("%s/publishers=%d", subject, publishers), func(bench *testing.B) {
				b := open(bench, sys)
				if _, err := b.catalogue.js.CreateStream(bench.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare"}}); err != nil {
					bench.Fatal(err)
				}
				js, err := jetstream.New(dial(bench, issue(bench, b, "receiver", "receiver-1")), jetstream.WithDefaultTimeout(await.Patience))
				if err != nil {
					bench.Fatal(err)
				}
				data := []byte(`{"level": 1, "text": "` + strings.Repeat("x", 220) + `"}`)
				work := make(chan struct{})
				var all sync.WaitGroup
				for range publishers {
					all.Go(func() {
						for range work {
							if _, err := js.Publish(bench.Context(), subject, data); err != nil {
								bench.Error(err)
							}
						}
					})
				}
				for bench.Loop() {
					work <- struct{}{}
				}
				close(work)
				all.Wait()
			})
		}
	}
}
