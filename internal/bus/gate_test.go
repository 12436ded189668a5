package bus

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// ask asks the node for consumers, as a user of the bus.
func (u *User) ask(t *testing.T, nc *nats.Conn, req wire.SubscribeRequest) wire.Consumer {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.RequestWithContext(await.Context(t), wire.SubjectSubscribe+u.Name, body)
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.SubscribeReply
	if err := json.Unmarshal(m.Data, &reply); err != nil || len(reply.Consumers) != 1 {
		t.Fatalf("asked for %+v: %s, %v", req, m.Data, err)
	}
	return reply.Consumers[0]
}

// laboratory is a bus with a user that may publish to, and get, data.vhf and nothing
// else, and with queues of others.
func laboratory(t *testing.T, typ string) (b *Bus, lab User, nc *nats.Conn) {
	t.Helper()
	b = open(t, observatory(
		system.Queue{Name: "data.vhf", Type: typ}, system.Queue{Name: "data.mxt"}, system.Queue{Name: "orders.paid", Type: "Level"},
	))
	lab = User{BusUser: system.BusUser{Name: "lab", Publishes: []string{"data.vhf"}, Subscribes: []string{"data.vhf"}}, Password: "x"}
	setUsers(t, b, lab)
	nc = dial(t, as(b, lab), nats.CustomInboxPrefix(UserInbox("lab")))
	for _, subject := range []string{"orders.paid", "data.mxt"} {
		if _, err := b.catalogue.js.Publish(await.Context(t), subject, []byte(`{"level":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	page := dial(t, issue(t, b, "page", "page-1"))
	consumersFor(t, page, wire.SubscribeRequest{Subject: "data.mxt", Name: "show"})
	return b, lab, nc
}

// places are where no answer to the user lab must ever go.
var places = []string{
	"$FLQ.ok.orders.paid", "$FLQ.in.orders.paid", "orders.paid", "activity.secret", "$FLQ.dead.x",
	"$JS.API.STREAM.PURGE.orders_paid", "$JS.API.STREAM.DELETE.orders_paid",
	"$JS.API.CONSUMER.DELETE.data_mxt.page_show", "$FLQ.do.ack.data_mxt.page_show.1.1.1.0.0",
	"$JS.API.CONSUMER.MSG.NEXT.data_mxt.page_show", "$FLQ.do.next.data_mxt.page_show",
	"$FLQ.subscribe.page-1", "$SRV.PING", "_FLX.y",
}

// inboxes are others'. Where it is not known who publishes, only that their names are
// random keeps answers away from them.
var inboxes = []string{"_FL.page.page-1.x", "_FL.gateway.x", "_FL.user.labor.x"}

// untouched is what others have, and what anybody hears: it fails if an answer to lab
// went to any of the places.
func untouched(t *testing.T, b *Bus, attacker *nats.Conn, places []string, attack func(place string)) {
	t.Helper()
	nc, err := b.Operator("listener", nats.NoEcho())
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan *nats.Msg, 1024)
	for _, place := range places {
		if !strings.HasPrefix(place, "$JS.API.CONSUMER.MSG") {
			if _, err := nc.ChanSubscribe(place, heard); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		attack(place)
	}
	flush(t, attacker)
	// Whatever comes by the gatekeeper and the checker has come when these have.
	for _, subject := range []string{"data.vhf", "data.vhf"} {
		if _, err := b.catalogue.js.Publish(await.Context(t), subject, []byte(`{"level":7}`)); err != nil {
			t.Fatal(err)
		}
	}
	info := func() *jetstream.ConsumerInfo {
		c, err := b.catalogue.js.Consumer(await.Context(t), "data_mxt", "page_show")
		if err != nil {
			t.Fatalf("the consumer of another: %v", err)
		}
		return c.CachedInfo()
	}
	if is := info(); is.Delivered.Consumer != 0 || is.AckFloor.Stream != 0 || is.NumWaiting != 0 {
		t.Errorf("the consumer of another was used: %+v", is)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for len(heard) > 0 {
		m := <-heard
		t.Errorf("heard on %s: %q, %v", m.Subject, m.Data, m.Header)
	}
	for _, queue := range []string{"orders.paid", "data.mxt"} {
		if n := state(t, b, queue).Messages; n != 1 {
			t.Errorf("%s has %d messages, had 1", queue, n)
		}
	}
}

func TestAPullIsNotAnsweredWhereItsAskerMayNotPublish(t *testing.T) {
	places := slices.Concat(places, inboxes)
	b, lab, nc := laboratory(t, "")
	c := lab.ask(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "c"})
	name := c.Stream + "." + c.Name
	for _, stored := range []int{0, 3 * len(places)} {
		t.Run(fmt.Sprintf("stored=%d", stored), func(t *testing.T) {
			for range stored {
				if _, err := nc.RequestWithContext(await.Context(t), "data.vhf", []byte("of no type")); err != nil {
					t.Fatal(err)
				}
			}
			untouched(t, b, nc, places, func(place string) {
				for _, body := range []string{`{"batch":1,"no_wait":true}`, `{"batch":1,"expires":1000000}`, `{"batch":0}`, "x"} {
					if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+name, place, []byte(body)); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
	if n := b.gate.Dropped(); n < uint64(8*len(places)) {
		t.Errorf("%d are counted", n)
	}
}

func TestAQuestionAboutAConsumerIsNotAnsweredElsewhere(t *testing.T) {
	places := slices.Concat(places, inboxes)
	b, lab, nc := laboratory(t, "")
	c := lab.ask(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "c"})
	untouched(t, b, nc, places, func(place string) {
		if err := nc.PublishRequest("$JS.API.CONSUMER.INFO."+c.Stream+"."+c.Name, place, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAnAcknowledgementIsNotAnsweredElsewhere(t *testing.T) {
	places := slices.Concat(places, inboxes)
	b, lab, nc := laboratory(t, "")
	c := lab.ask(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "c"})
	for _, word := range []string{"+ACK", "", "+NXT", `+NXT {"batch":1,"no_wait":true}`, "+WPI", "-NAK", "+TERM"} {
		t.Run(word, func(t *testing.T) {
			for range 2 * len(places) {
				if _, err := nc.RequestWithContext(await.Context(t), "data.vhf", []byte(`{"level":1}`)); err != nil {
					t.Fatal(err)
				}
			}
			var acks []string
			for range places {
				m, err := next(t, nc, c)
				if err != nil {
					t.Fatal(err)
				}
				acks = append(acks, m.Reply())
			}
			untouched(t, b, nc, places, func(place string) {
				ack := acks[0]
				acks = acks[1:]
				if err := nc.PublishRequest(ack, place, []byte(word)); err != nil {
					t.Fatal(err)
				}
			})
			for _, ack := range acks {
				_ = nc.Publish(ack, nil)
			}
		})
	}
}

func TestAPublishIsNotAcknowledgedElsewhere(t *testing.T) {
	for _, typ := range []string{"", "Level"} {
		t.Run("type="+typ, func(t *testing.T) {
			b, _, nc := laboratory(t, typ)
			untouched(t, b, nc, places, func(place string) {
				for _, body := range []string{`{"level":1}`, `{"level":"x"}`} {
					if err := nc.PublishRequest("data.vhf", place, []byte(body)); err != nil {
						t.Fatal(err)
					}
				}
			})
			if n := state(t, b, "data.vhf").Messages; n != 2 { // untouched's own
				t.Errorf("%d messages are stored", n)
			}
			// They came by another connection than what is stored.
			await.Until(t, "all are counted", func() bool { return b.Refused()["data.vhf"].Refused == uint64(2*len(places)) })
		})
	}
}

func TestTheOpeningOfABatchIsNotAnsweredElsewhere(t *testing.T) {
	for _, typ := range []string{"", "Level"} {
		t.Run("type="+typ, func(t *testing.T) {
			b, _, nc := laboratory(t, typ)
			untouched(t, b, nc, places, func(place string) {
				for _, commit := range []bool{false, true} {
					m := &nats.Msg{Subject: "data.vhf", Reply: place, Data: []byte(`{"level":1}`), Header: nats.Header{
						"Nats-Batch-Id": {place}, "Nats-Batch-Sequence": {"1"},
					}}
					if commit {
						m.Header.Set("Nats-Batch-Commit", "1")
					}
					if err := nc.PublishMsg(m); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func TestAMessageIsNotTracedToWhereItsPublisherMayNotPublish(t *testing.T) {
	b, lab, nc := laboratory(t, "Level")
	c := lab.ask(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "c"})
	untouched(t, b, nc, places, func(place string) {
		for _, subject := range []string{"data.vhf", "$JS.API.CONSUMER.INFO." + c.Stream + "." + c.Name} {
			m := &nats.Msg{Subject: subject, Reply: nc.NewRespInbox(), Data: []byte(`{"level":1}`), Header: nats.Header{}}
			for _, key := range []string{"Nats-Trace-Dest", "nats-trace-dest"} {
				m.Header[key] = []string{place}
				if err := nc.PublishMsg(m); err != nil {
					t.Fatal(err)
				}
				delete(m.Header, key)
			}
		}
	})
}

func TestTheNodeAnswersAPartyOnlyInItsInboxes(t *testing.T) {
	places := slices.Concat(places, inboxes)
	b, lab, nc := laboratory(t, "")
	untouched(t, b, nc, places, func(place string) {
		for _, subject := range []string{wire.SubjectSubscribe, wire.SubjectReject, wire.SubjectNames} {
			if err := nc.PublishRequest(subject+lab.Name, place, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		// What came before it is served.
		if _, err := nc.RequestWithContext(await.Context(t), wire.SubjectNames+lab.Name, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNobodyGoesRoundTheGatekeeper(t *testing.T) {
	b, lab, nc := laboratory(t, "")
	c := lab.ask(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "c"})
	name := c.Stream + "." + c.Name
	for _, subject := range []string{
		"$FLQ.do.next." + name, "$FLQ.do.info." + name, "$FLQ.do.ack." + name + ".1.1.1.0.0", "$FLQ.ok.data.vhf",
		"$FLQ.js.next.data_mxt.page_show", "$JS.API.CONSUMER.MSG.NEXT.data_mxt.page_show", "$FLQ.js.ack.data_mxt.page_show.1.1.1.0.0",
	} {
		if !refused(t, as(b, lab), publish(subject)) {
			t.Errorf("may publish on %s", subject)
		}
	}
	for _, subject := range []string{"$FLQ.js.next." + name, "$FLQ.js.ack." + name + ".1.1.1.0.0", "$FLQ.in.data.vhf"} {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if sub.IsValid() && nc.LastError() == nil {
			t.Errorf("may subscribe %s", subject)
		}
	}
}

// A client is told that nobody answers if it comes before the gatekeeper.
func TestClientsFindTheGatekeeperAfterTheBusWasAway(t *testing.T) {
	ownStore(t) // a link comes back a little later
	b, lab, nc := laboratory(t, "")
	c := lab.ask(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "c"})
	nc.Close()
	for range 20 {
		if err := b.Suspend(await.Context(t)); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(await.Context(t)); err != nil {
			t.Fatal(err)
		}
		nc := dial(t, as(b, lab), nats.CustomInboxPrefix(UserInbox("lab")))
		if _, err := nc.RequestWithContext(await.Context(t), "$JS.API.CONSUMER.INFO."+c.Stream+"."+c.Name, nil); err != nil {
			t.Fatal(err)
		}
		nc.Close()
	}
}

// Who was granted more than the file's queues by the file keeps it.
func TestGrantsOfJetStreamsAPIHoldForTheGatekeeper(t *testing.T) {
	tests := map[string][]string{
		"$JS.API.CONSUMER.INFO.a.b":     {"$FLQ.js.info.a.b"},
		"$JS.API.CONSUMER.MSG.NEXT.a.*": {"$FLQ.js.next.a.*"},
		"$JS.API.CONSUMER.INFO.>":       {"$FLQ.js.info.*.*", "$JS.API.CONSUMER.INFO.>"},
		"$JS.API.>":                     {"$FLQ.js.info.*.*", "$FLQ.js.next.*.*", "$JS.API.>"},
		"$JS.ACK.a.b.>":                 {"$FLQ.js.ack.a.b.>"},
		"$JS.API.STREAM.INFO.a":         {"$JS.API.STREAM.INFO.a"},
		"data.vhf":                      {"data.vhf"},
	}
	for granted, want := range tests {
		if got := mappedToGate([]string{granted}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s becomes %v, want %v", granted, got, want)
		}
	}
}
