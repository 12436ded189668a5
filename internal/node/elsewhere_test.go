package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/test/await"
)

// hub is a NATS server that something else runs; users of its leaf nodes log in with a
// password.
type hub struct {
	*server.Server
	leaves string // URL with user and password
}

func newHub(t *testing.T) hub {
	t.Helper()
	o := &server.Options{
		ServerName: "hub", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, JetStreamDomain: "hub", StoreDir: t.TempDir(),
	}
	o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
	o.LeafNode.Username, o.LeafNode.Password = "small", "hunter2"
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(await.Patience) {
		t.Fatal("the hub does not start")
	}
	at := url.URL{Scheme: "nats", User: url.UserPassword("small", "hunter2"), Host: net.JoinHostPort("127.0.0.1", fmt.Sprint(o.LeafNode.Port))}
	return hub{s, at.String()}
}

// TestSystemOnABusElsewhere runs a system whose queues and state another server keeps.
func TestSystemOnABusElsewhere(t *testing.T) {
	h := newHub(t)
	t.Setenv("HUB", h.leaves)
	f := newFixture(t)
	f.edit("secrets: {", "bus: {url: {secret: HUB}}\nqueues: {data.vhf: {}}\nsecrets: {HUB: {env: HUB}, ")
	n := f.up()
	if code, a := f.get("/say/word"); code != 200 || a.Got["what"] != "word" {
		t.Errorf("GET over the bus: %d %+v", code, a)
	}
	st := must[control.Status](t)(verb[control.Status](f, control.VerbStatus, nil))
	if st.BusStore == "" || strings.Contains(st.BusStore, "hunter2") || st.BusFault != "" {
		t.Errorf("status: store %q, fault %q", st.BusStore, st.BusFault)
	}
	nc, err := nats.Connect(h.ClientURL(), nats.Timeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	for _, stream := range []string{"KV_fairlead", "data_vhf", "DEAD"} {
		if _, err := js.Stream(ctx, stream); err != nil {
			t.Errorf("%s is not elsewhere: %v", stream, err)
		}
	}

	f.edit("url: {secret: HUB}", `url: "nats://127.0.0.1:7422"`)
	_, err = verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{})
	if err == nil || !strings.Contains(err.Error(), "cannot change while the system runs") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a reload to another server: %v", err)
	}
	f.edit(`url: "nats://127.0.0.1:7422"`, "url: {secret: HUB}")
	f.edit("routes:\n", "routes:\n  GET /also: {request: echo.say}\n")
	if done := must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{})); done.Revision != 2 {
		t.Errorf("reload: %+v", done)
	}

	other := newFixture(t)
	other.edit("secrets: {", "bus: {url: {secret: HUB}}\nsecrets: {HUB: {env: HUB}, ")
	other.edit("system: small", "system: other")
	second := func() error {
		n, err := New(Options{Path: other.dir})
		if err != nil {
			t.Fatal(err)
		}
		return n.Start(ctx)
	}
	if err := second(); !errors.Is(err, bus.ErrElsewhereTaken) || !strings.Contains(err.Error(), "system small") {
		t.Errorf("another system in the same account: %v", err)
	}
	if err := n.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second(); err == nil || !strings.Contains(err.Error(), "keeps the state of system small") {
		t.Errorf("another system after the first: %v", err)
	}
	n = f.up()
	if st := n.Status(); st.Revision < 2 {
		t.Errorf("the state was forgotten: revision %d", st.Revision)
	}
	h.Shutdown()
	await.Until(t, "the fault of the bus is told", func() bool { return n.Status().BusFault != "" })
	if _, err := verb[[]control.Queue](f, control.VerbQueues, nil); err == nil || !strings.Contains(err.Error(), "queues cannot be reached") {
		t.Errorf("queues of a server that is gone: %v", err)
	}
	if code, _ := f.get("/say/word"); code != 200 {
		t.Errorf("a request without the server elsewhere: %d", code)
	}
	if err := n.Stop(ctx); err != nil {
		t.Errorf("stop without the server elsewhere: %v", err)
	}
}

// TestABusElsewhereThatIsNotThere tells at the start what is missing.
func TestABusElsewhereThatIsNotThere(t *testing.T) {
	f := newFixture(t)
	f.edit("secrets: {", "bus: {url: {secret: HUB}}\nsecrets: {HUB: {env: HUB}, ")
	n, err := New(Options{Path: f.dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "HUB") {
		t.Errorf("without the secret: %v", err)
	}
	t.Setenv("HUB", "nats://small:hunter2@127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // in which it comes as far as that
	defer cancel()
	if n, err = New(Options{Path: f.dir}); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("without the server: %v", err)
	}
}
