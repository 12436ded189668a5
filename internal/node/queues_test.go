package node

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestCheckTypes(t *testing.T) {
	model := func(queue, typ string, schemas ...string) *system.System {
		sys := &system.System{Queues: []system.Queue{{Name: queue, Type: typ}}}
		for i := 0; i < len(schemas); i += 2 {
			sys.Types = append(sys.Types, system.Type{Name: schemas[i], Schema: []byte(schemas[i+1])})
		}
		return sys
	}
	const open, strict = `{"type": "object"}`, `{"type": "object", "required": ["id"]}`
	tests := []struct {
		name      string
		old, next *system.System
		want      string // part of the error, "" for none
	}{
		{"the same", model("q", "T", "T", open), model("q", "T", "T", open), ""},
		{"a new queue", model("q", "T", "T", open), model("r", "U", "U", strict), ""},
		{"a type for a queue that had none", model("q", ""), model("q", "T", "T", strict), ""},
		{"a safe change", model("q", "T", "T", open), model("q", "T", "T", `{"type": "object", "properties": {"a": {}}}`), ""},
		{"a change that breaks", model("q", "T", "T", open), model("q", "T", "T", strict), `type T: /required asks for "id" now`},
		{"another type that is the same", model("q", "T", "T", open), model("q", "U", "U", open), ""},
		{"another type", model("q", "T", "T", open), model("q", "U", "U", strict), `type U: /required asks for "id" now`},
		{"no type any more", model("q", "T", "T", open), model("q", ""), "queue q has no type any more"},
		{"a type that no queue has", model("q", "", "T", open), model("q", "", "T", strict), ""},
		{"a queue that is gone", model("q", "T", "T", open), &system.System{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := checkTypes(tt.old, tt.next)
			if tt.want == "" && err == nil {
				return
			}
			if tt.want == "" || err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(control.ErrorFrom(err).Hint, "--force-types") {
				t.Errorf("checkTypes: %v, want %q", err, tt.want)
			}
		})
	}
}

// TestAStartBreaksWhatIsStoredWithoutAWord took a schema that the stored messages do not
// satisfy; so did a rollback.
func TestAStartBreaksWhatIsStoredWithoutAWord(t *testing.T) {
	f := newFixture(t)
	f.write("system: small\ngateway: {listen: \"127.0.0.1:0\"}\nqueues: {data.a: {type: Order}, data.b: {type: Order}}\ntypes: {Order: order.json}\n")
	schema := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(f.dir, "order.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const open, strict = `{"type": "object"}`, `{"type": "object", "required": ["note"]}`
	warned := func() string {
		text := ""
		for _, e := range f.told(control.EventWarning) {
			if strings.Contains(e.Text, "type Order") {
				text = e.Text
			}
		}
		f.mu.Lock()
		f.events = nil
		f.mu.Unlock()
		return text
	}
	stop := func(n *Node) {
		t.Helper()
		if err := n.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	schema(open)
	n := f.up()
	if _, err := verb[control.PublishReply](f, control.VerbPublish, control.PublishRequest{Subject: "data.a", Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	stop(n)
	schema(strict)
	n = f.up()
	if got := warned(); !strings.Contains(got, `/required asks for "note" now`) || !strings.Contains(got, "(1 stored in data.a)") {
		t.Errorf("a start warns %q", got)
	}
	stop(n)
	f.up()
	if got := warned(); got != "" {
		t.Errorf("a start of the same warns %q", got)
	}
	if _, err := verb[control.ReloadReply](f, control.VerbRollback, control.RollbackRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := warned(); !strings.Contains(got, "1 stored in data.a") {
		t.Errorf("a rollback warns %q", got)
	}
}

func TestLiteral(t *testing.T) {
	for subject, ok := range map[string]bool{
		"data.vhf": true, "a": true, "": false, "data.*": false, "data.>": false, "$FLQ.ok.a": false, "_INBOX.a": false,
		"a..b": false, ".a": false, "a b": false,
	} {
		if err := literal(subject); (err == nil) != ok {
			t.Errorf("literal(%q): %v", subject, err)
		}
	}
}

// It was told with the name of a temporary file.
func TestBackupNamesTheFolderThatIsMissing(t *testing.T) {
	f := newFixture(t)
	f.write("system: small\ngateway: {listen: \"127.0.0.1:0\"}\nqueues: {data.a: {}}\n")
	f.up()
	dir := filepath.Join(f.dir, "gone")
	_, err := verb[control.Backup](f, control.VerbBackupBus, control.BackupRequest{File: filepath.Join(dir, "b.tar")})
	if e := control.ErrorFrom(err); e == nil || e.Message != "there is no folder "+dir || !strings.Contains(e.Hint, "mkdir") {
		t.Errorf("got %v", err)
	}
}

// filled is a system with a queue that has messages, and nothing else.
func filled(t *testing.T, queues, subject string, messages int) *fixture {
	t.Helper()
	f := newFixture(t)
	f.write("system: small\ngateway: {listen: \"127.0.0.1:0\"}\nqueues: {" + queues + "}\n")
	f.up()
	for range messages {
		must[control.PublishReply](t)(verb[control.PublishReply](f, control.VerbPublish, control.PublishRequest{Subject: subject, Data: []byte("1")}))
	}
	return f
}

// A queue that was widened kept its messages where nobody saw them, without a word.
func TestWidenedQueueTellsOfTheMessagesThatStay(t *testing.T) {
	f := filled(t, "orders.incoming: {}", "orders.incoming", 3)
	f.edit("orders.incoming", "orders.*")
	const want = "3 messages stay in orders.incoming, which is not in the file any more"
	for _, dry := range []bool{true, false} {
		r := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{DryRun: dry}))
		if len(r.Warnings) != 1 || !strings.HasPrefix(r.Warnings[0], want) || !strings.HasSuffix(r.Warnings[0], "fairlead queue orders.incoming move") {
			t.Fatalf("dry %t: got %q", dry, r.Warnings)
		}
	}
	if w := f.told(control.EventWarning); len(w) != 1 || !strings.HasPrefix(w[0].Text, want) {
		t.Errorf("told %v", w)
	}
	if _, err := verb[control.MoveReply](f, control.VerbMove, control.QueueRequest{Queue: "orders.*"}); err == nil {
		t.Error("a queue of the file was moved")
	}
	if r := must[control.MoveReply](t)(verb[control.MoveReply](f, control.VerbMove, control.QueueRequest{Queue: "orders.incoming"})); r.Moved != 3 {
		t.Errorf("moved %d", r.Moved)
	}
	for queue, want := range map[string]uint64{"orders.incoming": 0, "orders.*": 3} {
		if q := must[control.Queue](t)(verb[control.Queue](f, control.VerbQueue, control.QueueRequest{Queue: queue})); q.Messages != want {
			t.Errorf("%s has %d messages, want %d", queue, q.Messages, want)
		}
	}
	list := must[[]control.QueueMessage](t)(verb[[]control.QueueMessage](f, control.VerbPeek, control.PeekRequest{Queue: "orders.*", Most: 10}))
	if len(list) != 3 || list[0].Subject != "orders.incoming" {
		t.Errorf("got %+v", list)
	}
}

// A removed queue whose subjects nobody has now was to be moved for ever.
func TestMoveEndsWhereNoQueueHasTheSubject(t *testing.T) {
	f := filled(t, "orders.incoming: {}, other: {}", "orders.incoming", 1)
	f.edit("orders.incoming: {}, ", "")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	_, err := verb[control.MoveReply](f, control.VerbMove, control.QueueRequest{Queue: "orders.incoming"})
	if err == nil || !strings.Contains(err.Error(), "no queue of the file has the subject") {
		t.Errorf("got %v", err)
	}
	if q := must[control.Queue](t)(verb[control.Queue](f, control.VerbQueue, control.QueueRequest{Queue: "orders.incoming"})); q.Messages != 1 {
		t.Errorf("it has %d messages", q.Messages)
	}
}

// purge --dead of orders.* took the dead letters of orders.incoming, too.
func TestPurgeDeadLeavesTheLettersOfAnotherQueue(t *testing.T) {
	f := filled(t, "orders.incoming: {}", "orders.incoming", 1)
	f.edit("orders.incoming", "orders.*")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	nc := must[*nats.Conn](t)(f.node.bus.Operator("test"))
	defer nc.Close()
	js := must[jetstream.JetStream](t)(jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience)))
	for i, queue := range []string{"orders.incoming", "orders.*", "orders.incoming", "orders.*", "orders.*"} {
		m := catalogue.DeadLetter(nats.NewMsg("orders.incoming"), catalogue.Death{Queue: queue, Subject: "orders.incoming", Cause: catalogue.CauseRefused})
		m.Header.Set(jetstream.MsgIDHeader, strconv.Itoa(i))
		must[*jetstream.PubAck](t)(js.PublishMsg(t.Context(), m))
	}
	dead := func(queue string) uint64 {
		return must[control.Queue](t)(verb[control.Queue](f, control.VerbQueue, control.QueueRequest{Queue: queue})).Dead
	}
	if a, b := dead("orders.incoming"), dead("orders.*"); a != 2 || b != 3 {
		t.Fatalf("got %d and %d", a, b)
	}
	list := must[[]control.QueueMessage](t)(verb[[]control.QueueMessage](f, control.VerbPeek, control.PeekRequest{Queue: "orders.incoming", Dead: true, Most: 10}))
	if len(list) != 2 || list[0].Sequence != 1 || list[1].Sequence != 3 {
		t.Errorf("got %+v", list)
	}
	r := must[control.PurgeReply](t)(verb[control.PurgeReply](f, control.VerbPurge, control.PurgeRequest{Queue: "orders.*", Dead: true, Keep: 1}))
	if a, b := dead("orders.incoming"), dead("orders.*"); r.Removed != 2 || a != 2 || b != 1 {
		t.Errorf("removed %d, left %d and %d", r.Removed, a, b)
	}
}

// --dry-run was green for what reload refused then.
func TestDryRunRefusesWhatReloadRefuses(t *testing.T) {
	f := filled(t, "data.a: {max_messages: 10}", "data.a", 6)
	f.edit("max_messages: 10", "max_messages: 5")
	for _, dry := range []bool{true, false} {
		_, err := verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{DryRun: dry})
		if err == nil || !strings.Contains(err.Error(), "would delete 1 of 6 messages") {
			t.Errorf("dry %t: got %v", dry, err)
		}
	}
}

// A shell took fairlead queue c.* purge for files.
func TestHintsQuoteQueues(t *testing.T) {
	err := lossHint(&catalogue.LossError{Queue: "c.*", Limit: "max_messages"})
	if hint := control.ErrorFrom(err).Hint; !strings.Contains(hint, "queue 'c.*' purge --keep N") {
		t.Errorf("got %q", hint)
	}
}

// The reasons ran into the first line, and --force-types was not named.
func TestWatchTellsTheBreakOfATypeOnOneLine(t *testing.T) {
	got := unapplied(&control.Error{Message: "it would break:\ntype A: x\ntype B: y", Hint: "say --force-types"})
	if got != "it would break: type A: x; type B: y; say --force-types; what ran before goes on" {
		t.Errorf("got %q", got)
	}
}

// A user was added for a subject that nobody has to do with, without a word.
func TestUserOfASubjectThatNobodyKnows(t *testing.T) {
	sys := &system.System{
		Queues:   []system.Queue{{Name: "data.*"}},
		Services: []system.Service{{Bus: &system.ServiceBus{Answers: []string{"orders.find"}}}},
	}
	if got := lonely(sys, &addedUser{Publishes: []string{"data.vhf"}, Subscribes: []string{"data.>"}, Asks: []string{"orders.find"}}); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	got := lonely(sys, &addedUser{Publishes: []string{"no.such"}, Subscribes: []string{"nor.this"}, Asks: []string{"or.that"}})
	if len(got) != 3 || !strings.Contains(got[0], "no.such") {
		t.Errorf("got %q", got)
	}
}

// subscribe said sequence 0 of messages of queues.
func TestSubscribeTellsTheSequence(t *testing.T) {
	m := nats.NewMsg("data.a")
	m.Header.Set(jetstream.StreamHeader, "data_a")
	m.Header.Set(jetstream.SequenceHeader, "7")
	if got := heardMessage(m); got.Sequence != 7 {
		t.Errorf("got %+v", got)
	}
}

// TestQueueSaysNobodyThoughRoutesAndUsersPublish named services only; and a message that
// was quarantined looked like one that is stored.
func TestQueueSaysNobodyThoughRoutesAndUsersPublish(t *testing.T) {
	f := newFixture(t)
	f.write(`system: small
gateway: {listen: "127.0.0.1:0"}
queues: {orders.*: {type: Order, enforce: quarantine}}
types: {Order: order.json}
bus: {users: {lab: {secret: LAB, subscribes: ["orders.>"]}}}
secrets: {LAB: {generate: 32}}
routes:
  POST /orders/{shop}: {publish: "orders.{shop}"}
  /live: {subscribe: "orders.*"}
`)
	if err := os.WriteFile(filepath.Join(f.dir, "order.json"), []byte(`{"type": "object"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	n := f.up()
	if _, err := verb[control.BusCredentials](f, control.VerbBusUserAdd, control.BusUserAddRequest{Name: "tower", Publishes: []string{"orders.a"}}); err != nil {
		t.Fatal(err)
	}
	q, err := verb[control.Queue](f, control.VerbQueue, control.QueueRequest{Queue: "orders.*"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(q.Publishes, ", "); got != "route POST /orders/{shop}, user tower" {
		t.Errorf("published by %s", got)
	}
	if got := strings.Join(q.Subscribes, ", "); got != "route /live, user lab" {
		t.Errorf("subscribed by %s", got)
	}
	r, err := verb[control.PublishReply](f, control.VerbPublish, control.PublishRequest{Subject: "orders.a", Data: []byte("1")})
	if err != nil || !r.Quarantined {
		t.Errorf("the verb says %+v, %v", r, err)
	}
	res, err := http.Post(n.URL()+"/orders/a", "application/json", strings.NewReader("1"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusAccepted || !strings.Contains(string(body), `"quarantined":true`) {
		t.Errorf("the door says %d %s, %v", res.StatusCode, body, err)
	}
}
