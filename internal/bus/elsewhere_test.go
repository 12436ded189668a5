package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/link"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
	"fairlead/test/certificate"
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
func newHub(tb testing.TB, change func(*server.Options)) *hub {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		tb.Helper()
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
		JetStream: true, JetStreamDomain: "hub", StoreDir: tb.TempDir(),
		TrustedOperators: []*jwt.OperatorClaims{jwt.NewOperatorClaims(operatorID)},
		SystemAccount:    systemID, AccountResolver: resolver,
	}}
	h.opts.LeafNode.Host, h.opts.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
	if change != nil {
		change(h.opts)
	}
	h.start(tb)
	tb.Cleanup(func() { h.stop() })
	return h
}

func (h *hub) start(tb testing.TB) {
	tb.Helper()
	opts := h.opts.Clone() // which the server changes
	s, err := server.NewServer(opts)
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(await.Patience) {
		tb.Fatal("the hub does not start")
	}
	h.server = s // its ports stay the same from now on
	h.opts.LeafNode.Port = opts.LeafNode.Port
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
func (h *hub) client(tb testing.TB) *nats.Conn {
	tb.Helper()
	text, err := h.place().User("stranger")
	if err != nil {
		tb.Fatal(err)
	}
	nc, err := nats.Connect(h.server.ClientURL(), nats.Timeout(await.Patience), nats.UserCredentialBytes(text), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

func (h *hub) open(tb testing.TB, o Options) *Bus {
	tb.Helper()
	b, err := h.tryOpen(tb, o)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func (h *hub) tryOpen(tb testing.TB, o Options) (*Bus, error) {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	if o.Elsewhere == nil {
		o.Elsewhere = h.place()
	}
	o.System = "test"
	b, err := Open(tb.Context(), o)
	if err == nil {
		tb.Cleanup(func() { shut(tb, b) })
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
	ctx := await.Context(t)

	receiver, nc := stream(t, b, "receiver")
	page := dial(t, issue(t, b, "page", "page-1"))
	heard, err := page.SubscribeSync("data.vhf")
	if err != nil {
		t.Fatal(err)
	}
	if err := heard.SetPendingLimits(16, 1<<20); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	flush(t, page)
	stranger := h.client(t)
	theirs, err := jetstream.New(stranger, jetstream.WithDefaultTimeout(await.Patience))
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
		m, err := heard.NextMsg(await.Patience)
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

// TestPermissionsElsewhere finds services to be granted what the file says and nothing
// else, JetStream's API over the link included.
func TestPermissionsElsewhere(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	sys := observatory(system.Queue{Name: "data.vhf", Type: "Level"})
	sys.Services = append(sys.Services, system.Service{Name: "tool", Bus: &system.ServiceBus{
		Asks: []string{"$JS.API.STREAM.INFO.data_vhf"}, Publishes: []string{"activity.vhf"},
	}})
	b := h.open(t, Options{Model: sys})
	nothing, tool, page := issue(t, b, "stranger", "stranger-1"), issue(t, b, "tool", "tool-1"), issue(t, b, "page", "page-1")
	for _, tt := range []struct {
		what string
		who  Credentials
		do   func(*nats.Conn) error
		want bool
	}{
		{"a service publishes to a queue that is not its own", nothing, publish("data.vhf"), false},
		{"past the checker", nothing, publish("$FLQ.ok.data.vhf"), false},
		{"it asks JetStream", nothing, publish("$JS.API.STREAM.INFO.data_vhf"), false},
		{"it asks JetStream by the domain's name", nothing, publish("$JS.hub.API.STREAM.INFO.data_vhf"), false},
		{"it writes fairlead's state", nothing, publish("$KV.fairlead.current"), false},
		{"another that may ask", tool, publish("$JS.API.STREAM.INFO.data_vhf"), true},
		{"and not more", tool, publish("$JS.API.STREAM.DELETE.data_vhf"), false},
		{"what is stored elsewhere is heard", page, subscribe("$FLQ.new.data.vhf"), false},
	} {
		if got := !refused(t, tt.who, tt.do); got != tt.want {
			t.Errorf("%s: allowed %v, want %v", tt.what, got, tt.want)
		}
	}
	js, err := jetstream.New(dial(t, tool), jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(await.Context(t), "data_vhf"); err != nil {
		t.Errorf("a service that may ask JetStream: %v", err)
	}
}

// TestADurableSubscriptionElsewhere reads a queue that another server keeps.
func TestADurableSubscriptionElsewhere(t *testing.T) {
	t.Parallel()
	b := newHub(t, nil).open(t, Options{Model: observatory(system.Queue{Name: "data.vhf"})})
	for _, data := range []string{"one", "two"} {
		store(t, b, data)
	}
	nc := dial(t, issue(t, b, "page", "page-1"))
	r := consumersFor(t, nc, wire.SubscribeRequest{Subject: "data.*", Name: "show"})
	if len(r.Consumers) != 1 {
		t.Fatalf("consumers: %+v", r)
	}
	for _, want := range []string{"one", "two"} {
		m, err := next(t, nc, r.Consumers[0])
		if err != nil || string(m.Data()) != want {
			t.Fatalf("got %v, %v, want %s", m, err, want)
		}
		if err := m.DoubleAck(await.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// What clients elsewhere acknowledge comes over the link, too.
func TestWhatIsAcknowledgedElsewhereIsNotAcknowledgedTwice(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	b := h.open(t, Options{Model: observatory(system.Queue{Name: "data.vhf"})})
	for _, data := range []string{"one", "two", "three", "four"} {
		store(t, b, data)
	}
	js, err := jetstream.New(h.client(t), jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	// What is acknowledged there, by whomever.
	var acks, fence atomic.Int64
	watch := h.client(t)
	if _, err := watch.Subscribe("$JS.ACK.>", func(m *nats.Msg) {
		switch tokens := strings.Split(m.Subject, "."); {
		case slices.Contains(tokens, "theirs"):
			acks.Add(1)
		case slices.Contains(tokens, "fence"):
			fence.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := watch.Flush(); err != nil {
		t.Fatal(err)
	}
	c, err := js.CreateConsumer(await.Context(t), "data_vhf", jetstream.ConsumerConfig{Durable: "theirs", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	// What is used from here is passed on, also by whom it comes from elsewhere.
	tools := dial(t, b.OperatorCredentials())
	if _, err := js.CreateConsumer(await.Context(t), "data_vhf", jetstream.ConsumerConfig{Durable: "fence", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	other, err := next(t, tools, wire.Consumer{Stream: "data_vhf", Name: "fence"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(await.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := js.Conn().Publish(other.Reply(), nil); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the gatekeeper has got all that was acknowledged elsewhere", func() bool { return fence.Load() >= 2 })
	// One that is used from here is acknowledged from here.
	if m, err := next(t, tools, wire.Consumer{Stream: "data_vhf", Name: "theirs"}); err != nil || m.DoubleAck(await.Context(t)) != nil {
		t.Fatalf("pulled from here: %v", err)
	}
	// The gatekeeper passes on in order: had it passed on theirs, they would be there.
	await.Until(t, "what is acknowledged from here has come", func() bool { return acks.Load() >= 3 })
	if n := acks.Load(); n != 3 {
		t.Errorf("%d messages acknowledge something, want 3", n)
	}
}

// TestWhatStaysHere finds that a client elsewhere cannot pass for one of ours, nor hear
// their replies, and that it can ask services.
func TestWhatStaysHere(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	sys := observatory(system.Queue{Name: "data.vhf", Type: "Level"})
	sys.Services = append(sys.Services, system.Service{Name: "api", Bus: &system.ServiceBus{Answers: []string{"api.>"}, Group: "api"}})
	b := h.open(t, Options{Model: sys})
	echo(t, issue(t, b, "api", "api-1"), "api", 0)
	awaitSubscribed(t, b)
	stranger := h.client(t)
	all, err := stranger.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, stranger)
	await.Until(t, "a client elsewhere can ask a service", func() bool {
		_, err := stranger.Request("api.x", []byte("hello"), time.Second)
		return err == nil
	})
	body := []byte(`{"subject": "data.vhf", "name": "mine"}`)
	if m, err := stranger.Request(wire.SubjectSubscribe+"page-1", body, 300*time.Millisecond); err == nil && len(m.Data) > 0 {
		t.Errorf("a client elsewhere is taken for page-1: %s", m.Data)
	}
	gate, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Request("api.x", []byte("secret"), await.Patience); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Publish("last", nil); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := all.NextMsg(await.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject == "last" {
			break
		}
		if strings.HasPrefix(m.Subject, wire.InboxPrefix+".") {
			t.Errorf("a reply is heard elsewhere: %s", m.Subject)
		}
	}
}

// TestTheServerElsewhereGoesAndComesBack ends the server elsewhere under a bus, and
// starts it again.
func TestTheServerElsewhereGoesAndComesBack(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	sys := observatory(system.Queue{Name: "data.vhf", Type: "Level"})
	sys.Services = append(sys.Services, system.Service{Name: "api", Bus: &system.ServiceBus{Answers: []string{"api.>"}, Group: "api"}})
	told := &sink{}
	b := h.open(t, Options{Model: sys, Logger: slog.New(slog.NewTextHandler(told, nil))})
	echo(t, issue(t, b, "api", "api-1"), "api", 0)
	awaitSubscribed(t, b)
	js, _ := stream(t, b, "receiver")
	gate, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(await.Context(t), "data.vhf", []byte(`{"level": 1}`)); err != nil {
		t.Fatal(err)
	}
	if err := b.Healthy(); err != nil {
		t.Errorf("healthy: %v", err)
	}
	h.stop()
	await.Until(t, "the bus tells", func() bool { return b.Healthy() != nil && strings.Contains(told.String(), "cannot reach its store") })
	if err := b.Healthy(); !strings.Contains(err.Error(), h.place().Name()) {
		t.Errorf("it does not say where: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if ack, err := js.Publish(ctx, "data.vhf", []byte(`{"level": 2}`)); err == nil {
		t.Errorf("a message is acknowledged that nobody keeps: %+v", ack)
	}
	if _, err := gate.Request("api.x", nil, await.Patience); err != nil {
		t.Errorf("services cannot ask each other meanwhile: %v", err)
	}
	h.start(t)
	await.Until(t, "the bus is linked again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "data.vhf", []byte(`{"level": 3}`), jetstream.WithMsgID("3")) // stored once, however often it is tried
		return err == nil && b.Healthy() == nil
	})
	if n := state(t, b, "data.vhf").Messages; n != 2 {
		t.Errorf("%d messages are stored, want the 2 that were acknowledged", n)
	}
	// Permissions that change do not break the link.
	if z, err := b.connz(&server.ConnzOptions{}); err != nil || slices.ContainsFunc(z.Conns, func(c *server.ConnInfo) bool { return c.Kind != "Client" }) {
		t.Errorf("the link is taken for a client's connection, which are cut when there are too many: %v", err)
	}
	conns, err := b.server.Load().Leafz(nil)
	if err != nil || len(conns.Leafs) != 1 {
		t.Fatalf("links: %+v, %v", conns, err)
	}
	for range 5 {
		issue(t, b, "page", "page-"+random())
	}
	if now, err := b.server.Load().Leafz(nil); err != nil || len(now.Leafs) != 1 || now.Leafs[0].ID != conns.Leafs[0].ID {
		t.Errorf("the link broke: %+v, %v", now, err)
	}
}

// TestAnotherBusFollowsElsewhere gives the bus to another process and back.
func TestAnotherBusFollowsElsewhere(t *testing.T) {
	t.Parallel()
	h, dir := newHub(t, nil), t.TempDir()
	sys := observatory(system.Queue{Name: "data.vhf"})
	old := h.open(t, Options{Dir: dir, Model: sys})
	nc := dial(t, issue(t, old, "receiver", "receiver-1"), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	creds := filepath.Join(dir, "link.creds")
	if info, err := os.Stat(creds); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credentials of the link: %v, %v", info, err)
	}
	if err := old.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(creds); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("they outlive the server: %v", err)
	}
	next := h.open(t, Options{Dir: dir, Model: sys, Former: old.Former()})
	old.Leave()
	await.Until(t, "a publisher goes on", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "data.vhf", nil)
		return err == nil
	})
	if err := next.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	if err := next.Resume(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "and after the bus was away", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "data.vhf", nil)
		return err == nil && nc.IsConnected()
	})
}

// TestWhoTheBusIsElsewhere links with each kind of credentials.
func TestWhoTheBusIsElsewhere(t *testing.T) {
	t.Parallel()
	password := func(o *server.Options) {
		o.TrustedOperators, o.SystemAccount, o.AccountResolver = nil, "", nil
		o.LeafNode.Username, o.LeafNode.Password = "shop", "hunter2"
	}
	own := certificate.New(t)
	roots := certificate.Roots(own)
	for name, tt := range map[string]struct {
		hub   func(*server.Options)
		place func(*hub, *link.Server) error
		err   string
	}{
		"signing key": {},
		"the account's own key": {place: func(h *hub, s *link.Server) error {
			seed, err := h.key.Seed()
			s.SigningKey, s.Account = string(seed), ""
			return err
		}},
		"credentials": {place: func(h *hub, s *link.Server) error {
			text, err := h.place().User("shop")
			s.Credentials, s.SigningKey = string(text), ""
			return err
		}},
		"password": {hub: password, place: func(_ *hub, s *link.Server) error {
			*s = link.Server{URL: strings.Replace(s.URL, "//", "//shop:hunter2@", 1)}
			return nil
		}},
		"TLS": {
			hub: func(o *server.Options) {
				o.LeafNode.TLSConfig, o.LeafNode.TLSTimeout = &tls.Config{Certificates: []tls.Certificate{own}}, await.Patience.Seconds()
			},
			place: func(_ *hub, s *link.Server) error {
				s.URL, s.Roots = strings.Replace(s.URL, "nats:", "tls:", 1), roots
				return nil
			},
		},
		"TLS before all else": {
			hub: func(o *server.Options) {
				o.LeafNode.TLSConfig, o.LeafNode.TLSTimeout = &tls.Config{Certificates: []tls.Certificate{own}}, await.Patience.Seconds()
				o.LeafNode.TLSHandshakeFirst = true
			},
			place: func(_ *hub, s *link.Server) error {
				s.URL, s.Roots = strings.Replace(s.URL, "nats:", "tls:", 1), roots
				return nil
			},
		},
		"TLS of nobody": {
			hub: func(o *server.Options) {
				o.LeafNode.TLSConfig, o.LeafNode.TLSTimeout = &tls.Config{Certificates: []tls.Certificate{own}}, await.Patience.Seconds()
			},
			place: func(_ *hub, s *link.Server) error {
				s.URL = strings.Replace(s.URL, "nats:", "tls:", 1)
				return nil
			},
			err: "certificate",
		},
		"a wrong password": {hub: password, place: func(_ *hub, s *link.Server) error {
			*s = link.Server{URL: strings.Replace(s.URL, "//", "//shop:hunter3@", 1)}
			return nil
		}, err: "Authorization Violation"},
		"a key of nobody": {place: func(_ *hub, s *link.Server) error {
			k, err := nkeys.CreateAccount()
			if err != nil {
				return err
			}
			seed, err := k.Seed()
			s.SigningKey = string(seed)
			return err
		}, err: "Authorization Violation"},
		"the port of clients": {place: func(h *hub, s *link.Server) error {
			s.URL = h.server.ClientURL()
			return nil
		}, err: "port of clients"},
		"no JetStream for the account": {
			hub: func(o *server.Options) {
				password(o)
				o.Accounts, o.LeafNode.Account = []*server.Account{server.NewAccount("POOR")}, "POOR"
			},
			place: func(_ *hub, s *link.Server) error {
				*s = link.Server{URL: strings.Replace(s.URL, "//", "//shop:hunter2@", 1)}
				return nil
			}, err: "JetStream",
		},
		"no domain": {hub: func(o *server.Options) { o.JetStreamDomain = "" }, err: "without a domain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t, tt.hub)
			s := h.place()
			if tt.place != nil {
				if err := tt.place(h, s); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
			if tt.err != "" {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second) // in which it is tried
			}
			defer cancel()
			b, err := Open(ctx, Options{Dir: t.TempDir(), System: "test", Model: observatory(system.Queue{Name: "data.vhf"}), Elsewhere: s})
			if err == nil {
				defer shut(t, b)
				js, _ := stream(t, b, "receiver")
				_, err = js.Publish(ctx, "data.vhf", nil)
			}
			if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter")) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// TestAClusterElsewhereLosesAServer ends the server of a cluster that the bus is linked
// to: it goes on with another one, and nothing that was acknowledged is lost.
func TestAClusterElsewhereLosesAServer(t *testing.T) {
	t.Parallel()
	var routes []*url.URL
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	join := func(o *server.Options, i int) {
		port, err := strconv.Atoi(routes[i].Port())
		if err != nil {
			t.Fatal(err)
		}
		o.ServerName = fmt.Sprintf("hub-%d", i)
		o.Cluster.Name, o.Cluster.Host, o.Cluster.Port, o.Routes = "hub", "127.0.0.1", port, routes
	}
	h := newHub(t, func(o *server.Options) { join(o, 0) })
	for i := 1; i < 3; i++ {
		o := h.opts.Clone()
		o.StoreDir, o.Port, o.LeafNode.Port = t.TempDir(), server.RANDOM_PORT, server.RANDOM_PORT
		join(o, i)
		other := &hub{opts: o}
		other.start(t)
		t.Cleanup(other.stop)
	}
	q := system.Queue{Name: "data.vhf", Type: "Level"}
	sys := observatory(q)
	sys.Queues[0].Replicas = 3
	b := h.open(t, Options{Model: sys})
	js, _ := stream(t, b, "receiver")
	acknowledged := 0
	publish := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "data.vhf", []byte(`{"level": 1}`))
		if err == nil {
			acknowledged++
		}
		return err == nil
	}
	await.Until(t, "the cluster stores", publish)
	for range 20 {
		publish()
	}
	h.stop()
	await.Until(t, "another server stores", publish)
	await.Until(t, "the count is known", func() bool {
		all, err := catalogue.States(t.Context(), b.catalogue.js)
		return err == nil && len(all) == 1 && all[0].Messages >= uint64(acknowledged)
	})
	if err := b.Healthy(); err != nil {
		t.Error(err)
	}
}

// TestTwoBusesOfOneAccount finds the second refused while the first one lives.
func TestTwoBusesOfOneAccount(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	first := h.open(t, Options{})
	if _, err := h.tryOpen(t, Options{}); !errors.Is(err, ErrElsewhereTaken) || !strings.Contains(err.Error(), "system test, process ") {
		t.Errorf("the second: %v", err)
	}
	if err := first.Healthy(); err != nil {
		t.Errorf("the first does not go on: %v", err)
	}
	shut(t, first)
	h.open(t, Options{})
}

// TestAMessageTooLargeForElsewhere finds that one client cannot break the link.
func TestAMessageTooLargeForElsewhere(t *testing.T) {
	t.Parallel()
	b := newHub(t, func(o *server.Options) { o.MaxPayload = 64 << 10 }).open(t, Options{Model: observatory(system.Queue{Name: "data.vhf"})})
	if got := b.MaxPayload(); got != 64<<10 {
		t.Errorf("the bus takes %d bytes", got)
	}
	_, nc := stream(t, b, "receiver")
	if err := nc.Publish("data.vhf", make([]byte, 65<<10)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("publish: %v", err)
	}
	if err := b.Healthy(); err != nil {
		t.Error(err)
	}
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}
