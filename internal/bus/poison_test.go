package bus

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/delivery"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// rejectAs asks the node, as page-1, to make a message a dead letter.
func rejectAs(t *testing.T, nc *nats.Conn, ack string) wire.RejectReply {
	t.Helper()
	body, err := json.Marshal(wire.RejectRequest{Ack: ack, Cause: catalogue.CauseRefused, Reason: "never"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.RequestWithContext(await.Context(t), wire.SubjectReject+"page-1", body)
	if err != nil {
		t.Fatal(err)
	}
	var r wire.RejectReply
	if err := json.Unmarshal(m.Data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// say speaks the protocol itself, as a client may that is none of the official ones.
func say(t *testing.T, c Credentials, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.URL, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "CONNECT {\"user\":%q,\"pass\":%q,\"headers\":true,\"verbose\":false,\"protocol\":1}\r\n%sPING\r\n", c.User, c.Password, text); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "-ERR") {
			t.Fatalf("the bus says %q, %v", line, err)
		}
		if strings.HasPrefix(line, "PONG") {
			return
		}
	}
}

func TestAMessageThatCanBeNoDeadLetterComesForEver(t *testing.T) {
	largest := DefaultMaxPayload - 2<<10
	if *elsewhere {
		largest = DefaultMaxPayload*3/4 - 5<<10
	}
	for _, tt := range []struct {
		name    string
		publish func(t *testing.T, c Credentials)
		data    int // bytes of the message when it is replayed
		header  string
	}{
		{
			"as large as may be", func(t *testing.T, c Credentials) {
				t.Helper()
				nc := dial(t, c)
				if _, err := nc.RequestWithContext(await.Context(t), "data.vhf", make([]byte, largest)); err != nil {
					t.Fatal(err)
				}
				if m, err := nc.RequestWithContext(await.Context(t), "data.vhf", make([]byte, nc.MaxPayload())); err != nil || !strings.Contains(string(m.Data), `"code":413`) {
					t.Fatalf("one that is larger is answered %s, %v", m.Data, err)
				}
			}, largest, "",
		},
		{
			"headers as large as may be", func(t *testing.T, c Credentials) {
				t.Helper()
				m := &nats.Msg{Subject: "data.vhf", Header: nats.Header{"X-Large": {strings.Repeat("x", 65_000)}}, Data: []byte("hello")}
				if _, err := dial(t, c).RequestMsgWithContext(await.Context(t), m); err != nil {
					t.Fatal(err)
				}
			}, 5, "X-Large",
		},
		{
			"headers that are none", func(t *testing.T, c Credentials) {
				t.Helper()
				const header = "NATS/1.0\r\nno colon here\r\n\r\n"
				say(t, c, fmt.Sprintf("HPUB data.vhf %d %d\r\n%shello\r\n", len(header), len(header)+5, header))
			}, 5, "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := open(t, observatory(system.Queue{Name: "data.vhf"}))
			page := dial(t, issue(t, b, "page", "page-1"))
			c := consumersFor(t, page, wire.SubscribeRequest{Subject: "data.vhf", Name: "show", Ordered: true}).Consumers[0]
			tt.publish(t, issue(t, b, "receiver", "receiver-1"))
			m, err := next(t, page, c)
			if err != nil {
				t.Fatal(err)
			}
			if r := rejectAs(t, page, m.Reply()); r.Code != 0 {
				t.Fatalf("reject: %+v", r)
			}
			store(t, b, "after it")
			if m, err = next(t, page, c); err != nil || string(m.Data()) != "after it" {
				t.Fatalf("then came %v, %v", m, err)
			}
			js := b.catalogue.js
			dead, err := catalogue.Read(t.Context(), js, catalogue.DeadLetters, catalogue.Dead+"data.vhf", 0, 10)
			if err != nil || len(dead) != 1 {
				t.Fatalf("dead letters: %d, %v", len(dead), err)
			}
			ack, err := catalogue.Replay(t.Context(), js, dead[0].Sequence)
			if err != nil {
				t.Fatalf("replay: %v", err)
			}
			again, err := catalogue.At(t.Context(), js, "data_vhf", ack.Sequence)
			if err != nil || len(again.Data) != tt.data || tt.header != "" && again.Header.Get(tt.header) == "" {
				t.Errorf("replayed: %+v, %v", again, err)
			}
		})
	}
}

func TestALongSubjectOfADeadLetterBreaksTheNodesConnection(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "activity.*"}))
	long := "activity." + strings.Repeat("x", 4000)
	js := b.catalogue.js
	m := &catalogue.Message{Subject: long, Data: []byte("hello")}
	if err := catalogue.Bury(await.Context(t), js, m, catalogue.Death{Queue: "activity.*", Subject: long, Sequence: 1}, "id"); err != nil {
		t.Fatal(err)
	}
	dead, err := catalogue.Read(t.Context(), js, catalogue.DeadLetters, catalogue.Dead+"activity.*", 0, 10)
	if err != nil || len(dead) != 1 || dead[0].Header.Get(catalogue.HeaderSubject) != long {
		t.Errorf("dead letters: %d, %v", len(dead), err)
	}
}

func TestTheDeadLetterOfAReaderIsWaitedFor(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	page := dial(t, issue(t, b, "page", "page-1"))
	c := consumersFor(t, page, wire.SubscribeRequest{Subject: "data.vhf", Reader: "r"}).Consumers[0]
	if r := rejectAs(t, page, "$JS.ACK."+c.Stream+"."+c.Name+".1.1.1.0.0"); r.Code != 400 {
		t.Errorf("reject: %+v", r)
	}
}

func TestReadersThatAreGoneCountForEver(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}, system.Queue{Name: "data.mxt"}))
	nc := dial(t, issue(t, b, "page", "page-1"))
	const most = 256
	for i := range most - 1 { // as if they had been asked for: what the server has decides
		c := delivery.Consumer{Owner: "page", User: "page-1", Queue: "data.vhf", Stream: "data_vhf", Name: fmt.Sprint("page-1__r", i), Filter: "data.vhf"}
		b.mu.Lock()
		b.consumers["page"] = append(b.consumers["page"], c)
		b.mu.Unlock()
	}
	if r := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.*", Reader: "again"}); r.Code != 0 || len(r.Consumers) != 2 {
		t.Fatalf("all readers are gone; another one: %+v", r)
	}
	if n := len(registry{b}.Owned("page")); n != 2 {
		t.Errorf("it has %d consumers", n)
	}
	// A durable one that is forgotten is gone at once.
	consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "show"})
	if err := b.Forget(await.Context(t), "data.vhf", "page_show"); err != nil {
		t.Fatal(err)
	}
	if n := len(registry{b}.Owned("page")); n != 2 {
		t.Errorf("with one that was forgotten it has %d consumers", n)
	}
}

func TestMessagesOfAKilledInstanceWaitForTheirTime(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	store(t, b, "one")
	store(t, b, "two")
	nc := dial(t, issue(t, b, "page", "page-1"))
	c := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.vhf", Name: "show", Ordered: true, AckWait: "10m"}).Consumers[0]
	if !b.Pulled(c.Stream, c.Name) {
		t.Error("nobody pulls from the consumer")
	}
	m, err := next(t, nc, c)
	if err != nil || string(m.Data()) != "one" {
		t.Fatalf("given %v, %v", m, err)
	}
	if err := b.Revoke("page-1"); err != nil {
		t.Fatal(err)
	}
	if b.Pulled(c.Stream, c.Name) {
		t.Error("one that is gone pulls from the consumer")
	}
	if err := b.GiveBack("page"); err != nil {
		t.Fatal(err)
	}
	if m, err = next(t, dial(t, issue(t, b, "page", "page-2")), c); err != nil || string(m.Data()) != "one" {
		t.Errorf("its successor was given %v, %v", m, err)
	}
	// While an instance is left, nobody knows which has what.
	if err := b.GiveBack("page"); err != nil {
		t.Fatal(err)
	}
	info, err := b.catalogue.js.Consumer(await.Context(t), c.Stream, c.Name)
	if err != nil || info.CachedInfo().NumRedelivered != 1 {
		t.Errorf("given again %d times, %v", info.CachedInfo().NumRedelivered, err)
	}
}
