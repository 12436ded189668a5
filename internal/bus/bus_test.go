package bus

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// elsewhere runs the tests that open a bus with another server that keeps its store:
//
//	go test ./internal/bus -elsewhere
var elsewhere = flag.Bool("elsewhere", false, "let another server keep the store")

// ownStore skips a test of what a bus has only that keeps its store itself.
func ownStore(t *testing.T) {
	t.Helper()
	if *elsewhere {
		t.Skip("the store is elsewhere")
	}
}

// open starts a bus that ends with the test.
func open(tb testing.TB, sys *system.System) *Bus {
	tb.Helper()
	o := Options{Dir: tb.TempDir(), System: "test", Logger: slog.New(slog.DiscardHandler)}
	if *elsewhere {
		o.Elsewhere = newHub(tb, nil).place()
	}
	b, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { shut(tb, b) })
	if sys != nil {
		if err := b.Apply(sys); err != nil {
			tb.Fatal(err)
		}
	}
	return b
}

func shut(tb testing.TB, b *Bus) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		tb.Error(err)
	}
}

// shop is a system like the commerce stack.
func shop() *system.System {
	return &system.System{
		Name: "shop",
		Gateway: system.Gateway{Auth: system.Auth{JWT: &system.JWT{
			JWKS: "bus:auth.jwks", Algorithms: []string{"EdDSA"}, RolesClaim: "roles",
		}}},
		Services: []system.Service{
			{Name: "auth", Bus: &system.ServiceBus{Answers: []string{"auth.>"}}},
			{Name: "legacy", Bus: &system.ServiceBus{
				Group: "legacy_queue", Format: system.Nest, Asks: []string{"tradeflow.find"}, SharedInbox: true,
				Answers: []string{`{"area":"tradeflow","cmd":"findAll"}`, "time.*"},
			}},
			{Name: "model", Bus: &system.ServiceBus{Group: "model_queue", Answers: []string{"model.>"}}},
			{Name: "page"},
			{Name: "tradeflow", Bus: &system.ServiceBus{
				Group: "tradeflow_queue", Answers: []string{"tradeflow.>"}, Asks: []string{"model.>"},
				Publishes: []string{"data.tradeflow"}, Subscribes: []string{"data.vhf"},
			}},
		},
	}
}

// dial connects as an instance does.
func dial(tb testing.TB, c Credentials, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(c.URL, append([]nats.Option{
		nats.Timeout(await.Patience),
		nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
	if err != nil {
		tb.Fatalf("connect as %s: %v", c.User, err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

func issue(tb testing.TB, b *Bus, service, id string) Credentials {
	tb.Helper()
	c, err := b.Issue(service, id)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestRequestThroughGatewayConnection(t *testing.T) {
	b := open(t, shop())
	c := issue(t, b, "tradeflow", "tradeflow-1")
	nc := dial(t, c)
	if _, err := nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) {
		m.Respond([]byte("found " + string(m.Data)))
	}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "registered", func() bool {
		r, err := b.Registered("tradeflow-1")
		if err != nil {
			t.Fatal(err)
		}
		return r.Connected && r.Subscriptions == 1
	})
	gw, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	m, err := gw.Request("tradeflow.find", []byte("wheat"), await.Patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.Data); got != "found wheat" {
		t.Errorf("got %q", got)
	}
	n, err := b.Drain("tradeflow-1")
	if err != nil || n != 1 {
		t.Errorf("drain: delivered %d, %v; want 1", n, err)
	}
	if _, err := gw.Request("tradeflow.find", nil, await.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("request after drain: %v", err)
	}
	if err := b.Revoke("tradeflow-1"); err != nil {
		t.Error(err)
	}
	await.Until(t, "cut", func() bool { return !nc.IsConnected() })
}
