package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// consumersFor asks the node for consumers, as page-1.
func consumersFor(t *testing.T, nc *nats.Conn, req wire.SubscribeRequest) wire.SubscribeReply {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.RequestWithContext(await.Context(t), wire.SubjectSubscribe+"page-1", body)
	if err != nil {
		t.Fatalf("ask for consumers: %v", err)
	}
	var reply wire.SubscribeReply
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

// next pulls a message as any client of JetStream does that knows the consumer's name.
func next(t *testing.T, nc *nats.Conn, c wire.Consumer) (jetstream.Msg, error) {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(await.Context(t), c.Stream, c.Name)
	if err != nil {
		return nil, err
	}
	return consumer.Next(jetstream.FetchMaxWait(await.Patience))
}

func store(t *testing.T, b *Bus, data string) {
	t.Helper()
	if _, err := b.catalogue.js.Publish(await.Context(t), "data.vhf", []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func TestADurableSubscriptionGoesOnWhereItStopped(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}, system.Queue{Name: "data.mxt"}))
	for _, data := range []string{"one", "two", "three"} {
		store(t, b, data)
	}
	first, second := issue(t, b, "page", "page-1"), issue(t, b, "page", "page-2")
	nc := dial(t, first)
	r := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.*", Name: "show"})
	if len(r.Consumers) != 2 || r.Consumers[1].Stream != "data_vhf" || r.Consumers[1].Name != "page_show" || r.Consumers[1].Filter != "data.vhf" {
		t.Fatalf("consumers: %+v", r)
	}
	vhf := r.Consumers[1]
	m, err := next(t, nc, vhf)
	if err != nil || string(m.Data()) != "one" || m.Subject() != "data.vhf" {
		t.Fatalf("first message: %v, %v", m, err)
	}
	if err := m.DoubleAck(await.Context(t)); err != nil {
		t.Fatal(err)
	}

	// Another instance goes on, and the one that drains may finish what it has.
	if m, err = next(t, nc, vhf); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Drain("page-1"); err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(await.Context(t)); err != nil {
		t.Errorf("acknowledge while it drains: %v", err)
	}
	if !refused(t, first, publish("$JS.API.CONSUMER.MSG.NEXT.data_vhf.page_show")) {
		t.Error("an instance that drains pulls more")
	}
	if r := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.*", Name: "show"}); r.Code != 503 {
		t.Errorf("asked while it drains: %+v", r)
	}
	other := dial(t, second)
	if m, err = next(t, other, vhf); err != nil || string(m.Data()) != "three" {
		t.Fatalf("the other instance was given %v, %v", m, err)
	}

	// The bus away and back: what was not acknowledged is given again, to whoever asks.
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	again := dial(t, second)
	await.Until(t, "the catalogue is back", func() bool { return b.catalogue.conn.IsConnected() && b.Healthy() == nil })
	store(t, b, "four")
	if m, err = next(t, again, vhf); err != nil || string(m.Data()) != "four" {
		t.Errorf("after the bus was away: %v, %v", m, err)
	}
}

func TestConsumersOutliveTheBus(t *testing.T) {
	dir := t.TempDir()
	sys := observatory(system.Queue{Name: "data.vhf"})
	b, err := Open(await.Context(t), Options{Dir: dir, Model: sys})
	if err != nil {
		t.Fatal(err)
	}
	nc := dial(t, issue(t, b, "page", "page-1"))
	vhf := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "show", AckWait: "500ms"}).Consumers[0]
	for _, data := range []string{"one", "two"} {
		store(t, b, data)
	}
	m, err := next(t, nc, vhf)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	former := b.Former()
	if err := b.Close(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*Former{former, nil} {
		b, err := Open(await.Context(t), Options{Dir: dir, Model: sys, Former: f})
		if err != nil {
			t.Fatal(err)
		}
		c := Credentials{URL: b.URL(), User: "page-1", InboxPrefix: "_FL.page.page-1"}
		if f != nil {
			c.Password = f.Instances[0].Password
			if r, err := b.Registered("page-1"); err != nil || r.Consumers != 1 {
				t.Errorf("the bus that follows knows of %+v, %v; want that it has a consumer", r, err)
			}
		} else {
			c = issue(t, b, "page", "page-1")
		}
		nc := dial(t, c)
		if m, err = next(t, nc, vhf); err != nil || string(m.Data()) != "two" {
			t.Errorf("after the bus came back: %v, %v", m, err)
		} else if err := m.Nak(); err != nil {
			t.Error(err)
		}
		if err := nc.Flush(); err != nil {
			t.Error(err)
		}
		nc.Close()
		if err := b.Close(await.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoMaySubscribeWhat(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}, system.Queue{Name: "secret.keys"}))
	page, stranger := dial(t, issue(t, b, "page", "page-1")), issue(t, b, "stranger", "stranger-1")
	tests := []struct {
		name string
		req  wire.SubscribeRequest
		code int
	}{
		{"what the file says", wire.SubscribeRequest{Subject: "data.vhf", Name: "a"}, 0},
		{"another's", wire.SubscribeRequest{Subject: "secret.keys", Name: "a"}, 403},
		{"more than the file says", wire.SubscribeRequest{Subject: "*.vhf", Name: "a"}, 403},
		{"all", wire.SubscribeRequest{Subject: ">", Name: "a"}, 403},
		{"nothing", wire.SubscribeRequest{Name: "a"}, 400},
		{"no queue", wire.SubscribeRequest{Subject: "activity.x", Name: "a"}, 404},
		{"no name", wire.SubscribeRequest{Subject: "data.vhf"}, 400},
		{"a name with a dot", wire.SubscribeRequest{Subject: "data.vhf", Name: "a.b"}, 400},
		{"two names", wire.SubscribeRequest{Subject: "data.vhf", Name: "a", Reader: "b"}, 400},
		{"too much in flight", wire.SubscribeRequest{Subject: "data.vhf", Name: "a", InFlight: 1e6}, 400},
		{"no time", wire.SubscribeRequest{Subject: "data.vhf", Name: "a", From: "yesterday"}, 400},
		{"no duration", wire.SubscribeRequest{Subject: "data.vhf", Name: "a", AckWait: "1"}, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := consumersFor(t, page, tt.req); r.Code != tt.code || (r.Code == 0) != (len(r.Consumers) > 0) || (r.Code == 0) != (r.Reason == "") {
				t.Errorf("got %+v, want code %d", r, tt.code)
			}
		})
	}
	for _, subject := range []string{
		"$FLQ.subscribe.page-1", "$FLQ.reject.page-1", "$JS.API.CONSUMER.MSG.NEXT.data_vhf.page_a",
		"$JS.ACK.data_vhf.page_a.1.1.1.1.1", "$JS.API.CONSUMER.CREATE.data_vhf.x", "$JS.API.CONSUMER.DELETE.data_vhf.page_a",
	} {
		if !refused(t, stranger, publish(subject)) {
			t.Errorf("a stranger may publish %s", subject)
		}
	}
}

func TestARejectedMessageIsADeadLetterAndIsNotGivenAgain(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}, system.Queue{Name: "activity.*"}))
	nc := dial(t, issue(t, b, "page", "page-1"))
	store(t, b, "poison")
	c := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.*", Name: "show", AckWait: "200ms"}).Consumers[0]
	m, err := next(t, nc, c)
	if err != nil {
		t.Fatal(err)
	}
	reject := func(req wire.RejectRequest) wire.RejectReply {
		t.Helper()
		body, _ := json.Marshal(req)
		answer, err := nc.RequestWithContext(await.Context(t), wire.SubjectReject+"page-1", body)
		if err != nil {
			t.Fatal(err)
		}
		var r wire.RejectReply
		if err := json.Unmarshal(answer.Data, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, ack := range []string{"", "hello", strings.Replace(m.Reply(), "page_show", "page_other", 1), strings.Replace(m.Reply(), "$JS.ACK.", "$JS.ACK._.x.", 1)} {
		if r := reject(wire.RejectRequest{Ack: ack, Cause: catalogue.CauseRefused}); r.Code == 0 {
			t.Errorf("rejected %q", ack)
		}
	}
	if r := reject(wire.RejectRequest{Ack: m.Reply(), Cause: catalogue.CauseRefused, Reason: "no such burst"}); r.Code != 0 {
		t.Fatalf("reject: %+v", r)
	}
	dead, err := catalogue.Read(t.Context(), b.catalogue.js, catalogue.DeadLetters, catalogue.Dead+"data.vhf", 0, 10)
	if err != nil || len(dead) != 1 {
		t.Fatalf("dead letters: %+v, %v", dead, err)
	}
	was, death, err := catalogue.Revive(dead[0].Header, dead[0].Data)
	if err != nil || string(was.Data) != "poison" || death.Consumer != "page_show" || death.Reason != "no such burst" || death.Sequence != 1 || death.Cause != catalogue.CauseRefused {
		t.Errorf("dead letter: %+v %+v, %v", was, death, err)
	}
	js, err := b.catalogue.js.Consumer(t.Context(), c.Stream, c.Name)
	if err != nil {
		t.Fatal(err)
	}
	if i := js.CachedInfo(); i.NumAckPending != 0 || i.AckFloor.Stream != 1 {
		t.Errorf("the consumer has still to do with it: %+v", i)
	}
}

func TestAClientThatKnowsNothingOfDeadLettersHasThem(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	nc := dial(t, issue(t, b, "page", "page-1"))
	store(t, b, "poison")
	store(t, b, "good")
	c := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "show", Attempts: 2}).Consumers[0]
	for _, want := range []string{"poison", "poison", "good"} {
		m, err := next(t, nc, c)
		if err != nil || string(m.Data()) != want {
			t.Fatalf("given %v, %v; want %s", m, err, want)
		}
		if want == "good" {
			err = m.DoubleAck(await.Context(t))
		} else {
			err = m.Nak()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	await.Until(t, "it is a dead letter", func() bool {
		dead, err := catalogue.Read(t.Context(), b.catalogue.js, catalogue.DeadLetters, catalogue.Dead+"data.vhf", 0, 10)
		if err != nil || len(dead) != 1 {
			return false
		}
		was, death, err := catalogue.Revive(dead[0].Header, dead[0].Data)
		return err == nil && string(was.Data) == "poison" && death.Reason == "it was given 2 times and never acknowledged" && death.Consumer == "page_show"
	})
	await.Until(t, "the advisory is done", func() bool {
		s, err := b.catalogue.js.Stream(t.Context(), "EXCEEDED")
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	if err := b.Suspend(await.Context(t)); err != nil { // it can be closed while it is away, too
		t.Fatal(err)
	}
}

// TestAConsumerIsNotLostWhenWhoRewindsItLeaves ends the operator's context as soon as
// the former consumer is gone.
func TestAConsumerIsNotLostWhenWhoRewindsItLeaves(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	store(t, b, "one")
	nc := dial(t, issue(t, b, "page", "page-1"))
	c := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "show"}).Consumers[0]
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Rewind(ctx, "data.vhf", c.Name, "first") }()
	await.Until(t, "the former consumer is gone, or there is a new one before that was seen", func() bool {
		_, err := b.catalogue.js.Consumer(await.Context(t), c.Stream, c.Name)
		return errors.Is(err, jetstream.ErrConsumerNotFound) || len(done) == 1
	})
	leave()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if m, err := next(t, nc, c); err != nil || string(m.Data()) != "one" {
		t.Errorf("after the rewinding: %v, %v", m, err)
	}
}
