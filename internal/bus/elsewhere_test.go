package bus

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"fairlead/internal/bus/link"
	"fairlead/internal/system"
)

// hub is a NATS server that something else runs, with operators and accounts, as a
// company or a provider has it.
type hub struct {
	server  *server.Server
	opts    *server.Options
	account string        // public key
	key     nkeys.KeyPair // of the account
	signing string        // seed of a key that signs for the account
}

// newHub starts one; change may change its options.
func newHub(t *testing.T, change func(*server.Options)) *hub {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		t.Helper()
		k, err := create()
		must(err)
		public, err := k.PublicKey()
		must(err)
		return k, public
	}
	operator, operatorID := pair(nkeys.CreateOperator)
	_, systemID := pair(nkeys.CreateAccount)
	account, accountID := pair(nkeys.CreateAccount)
	signing, signingID := pair(nkeys.CreateAccount)
	resolver := &server.MemAccResolver{}
	store := func(id string, fill func(*jwt.AccountClaims)) {
		c := jwt.NewAccountClaims(id)
		fill(c)
		token, err := c.Encode(operator)
		must(err)
		must(resolver.Store(id, token))
	}
	store(systemID, func(*jwt.AccountClaims) {})
	store(accountID, func(c *jwt.AccountClaims) {
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
		c.SigningKeys.Add(signingID)
	})
	seed, err := signing.Seed()
	must(err)
	h := &hub{account: accountID, key: account, signing: string(seed), opts: &server.Options{
		ServerName: "hub", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, JetStreamDomain: "hub", StoreDir: t.TempDir(),
		TrustedOperators: []*jwt.OperatorClaims{jwt.NewOperatorClaims(operatorID)},
		SystemAccount:    systemID, AccountResolver: resolver,
	}}
	h.opts.LeafNode.Host, h.opts.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
	if change != nil {
		change(h.opts)
	}
	h.start(t)
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *hub) start(t *testing.T) {
	t.Helper()
	s, err := server.NewServer(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the hub does not start")
	}
	h.server = s // its ports stay the same from now on
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		h.opts.Port = a.Port
	}
}

func (h *hub) stop() {
	h.server.Shutdown()
	h.server.WaitForShutdown()
}

// place is the hub as the file would name it, with its signing key.
func (h *hub) place() *link.Server {
	return &link.Server{URL: fmt.Sprintf("nats://127.0.0.1:%d", h.opts.LeafNode.Port), SigningKey: h.signing, Account: h.account}
}

// client connects to the hub itself, as a program that is not of the system.
func (h *hub) client(t *testing.T) *nats.Conn {
	t.Helper()
	text, err := h.place().User("stranger")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(h.server.ClientURL(), nats.UserCredentialBytes(text), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func (h *hub) open(t *testing.T, o Options) *Bus {
	t.Helper()
	b, err := h.tryOpen(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (h *hub) tryOpen(t *testing.T, o Options) (*Bus, error) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Elsewhere == nil {
		o.Elsewhere = h.place()
	}
	o.System = "test"
	b, err := Open(t.Context(), o)
	if err == nil {
		t.Cleanup(func() { shut(t, b) })
	}
	return b, err
}

// TestQueuesElsewhere publishes to a queue with a type that another server keeps, from
// a service and from a program of that server, and reads it on both sides.
func TestQueuesElsewhere(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	sys := observatory(system.Queue{Name: "data.vhf", Type: "Level"}, system.Queue{Name: "activity.*"})
	b := h.open(t, Options{Model: sys})
	ctx := within(t)

	receiver, nc := stream(t, b, "receiver")
	heard, err := dial(t, issue(t, b, "page", "page-1")).SubscribeSync("data.vhf")
	if err != nil {
		t.Fatal(err)
	}
	if err := heard.SetPendingLimits(16, 1<<20); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	stranger := h.client(t)
	theirs, err := jetstream.New(stranger)
	if err != nil {
		t.Fatal(err)
	}
	for sequence, publish := range []func() (*jetstream.PubAck, error){
		func() (*jetstream.PubAck, error) { return receiver.Publish(ctx, "data.vhf", []byte(`{"level": 1}`)) },
		func() (*jetstream.PubAck, error) { return theirs.Publish(ctx, "data.vhf", []byte(`{"level": 2}`)) },
	} {
		ack, err := publish()
		if err != nil || ack.Stream != "data_vhf" || ack.Sequence != uint64(sequence+1) {
			t.Fatalf("publish %d: %+v, %v", sequence+1, ack, err)
		}
		m, err := heard.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatalf("message %d: %v", sequence+1, err)
		}
		if got := m.Header.Get("Nats-Sequence"); got != fmt.Sprint(sequence+1) || m.Subject != "data.vhf" {
			t.Errorf("heard %s %s, want data.vhf %d", m.Subject, got, sequence+1)
		}
	}
	for who, js := range map[string]jetstream.JetStream{"service": receiver, "stranger": theirs} {
		if _, err := js.Publish(ctx, "data.vhf", []byte(`{"level": "no"}`)); refusal(err) == nil {
			t.Errorf("%s publishes what does not satisfy the type: %v", who, err)
		}
	}
	if ack, err := receiver.Publish(ctx, "activity.vhf", []byte(`x`)); err != nil || ack.Stream != "activity_ANY" {
		t.Errorf("publish to a queue without a type: %+v, %v", ack, err)
	}
	if ack, err := theirs.Publish(ctx, "activity.mxt", []byte(`x`)); err != nil || ack.Sequence != 2 {
		t.Errorf("a stranger publishes to a queue without a type: %+v, %v", ack, err)
	}
	if m, err := heard.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("heard %s once more: %s", m.Subject, m.Data)
	}
	if s := state(t, b, "data.vhf"); s.Messages != 2 {
		t.Errorf("the queue holds %d messages, want 2", s.Messages)
	}
	if _, err := theirs.Stream(ctx, "data_vhf"); err != nil {
		t.Errorf("the stream is not elsewhere: %v", err)
	}
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}
