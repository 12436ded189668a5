package bus

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"fairlead/internal/system"
	"fairlead/test/await"
)

const findAll = `{"area":"tradeflow","cmd":"findAll"}`

// refused runs one action on a connection of its own and reports whether the
// server answered with a violation of permissions.
func refused(t *testing.T, c Credentials, act func(*nats.Conn) error) bool {
	t.Helper()
	nc := dial(t, c)
	defer nc.Close()
	if err := act(nc); err != nil {
		t.Fatal(err)
	}
	// The server answers in order: what it refused, it refused before the pong.
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	err := nc.LastError()
	if err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Fatal(err)
	}
	return err != nil
}

func subscribe(subject string) func(*nats.Conn) error {
	return func(nc *nats.Conn) error {
		_, err := nc.SubscribeSync(subject)
		return err
	}
}

func queue(subject, group string) func(*nats.Conn) error {
	return func(nc *nats.Conn) error {
		_, err := nc.QueueSubscribeSync(subject, group)
		return err
	}
}

func publish(subject string) func(*nats.Conn) error {
	return func(nc *nats.Conn) error { return nc.Publish(subject, []byte("x")) }
}

func TestAccess(t *testing.T) {
	b := open(t, shop())
	creds := map[string]Credentials{
		"auth":      issue(t, b, "auth", "auth-1"),
		"model":     issue(t, b, "model", "model-1"),
		"tradeflow": issue(t, b, "tradeflow", "tradeflow-1"),
		"legacy":    issue(t, b, "legacy", "legacy-1"),
		"operator":  b.OperatorCredentials(),
		"gateway":   b.gateway,
	}
	for _, c := range []struct {
		who  string
		what string
		act  func(*nats.Conn) error
		deny bool
	}{
		{"tradeflow", "queue subscription in its group", queue("tradeflow.find", "tradeflow_queue"), false},
		{"tradeflow", "queue subscription on the whole pattern", queue("tradeflow.>", "tradeflow_queue"), false},
		{"tradeflow", "plain subscription where a group is declared", subscribe("tradeflow.find"), true},
		{"tradeflow", "subscription in another group", queue("tradeflow.find", "spy"), true},
		{"tradeflow", "subscription in the group on another's subject", queue("model.find", "tradeflow_queue"), true},
		{"tradeflow", "a wildcard wider than granted", queue("*.find", "tradeflow_queue"), true},
		{"tradeflow", "everything", subscribe(">"), true},
		{"tradeflow", "everything in its group", queue(">", "tradeflow_queue"), true},
		{"tradeflow", "what it subscribes", subscribe("data.vhf"), false},
		{"tradeflow", "what it subscribes, wider", subscribe("data.*"), true},
		{"tradeflow", "its inbox", subscribe("_FL.tradeflow.tradeflow-1.abc"), false},
		{"tradeflow", "its whole inbox", subscribe("_FL.tradeflow.tradeflow-1.>"), false},
		{"tradeflow", "the inbox of its sibling", subscribe("_FL.tradeflow.tradeflow-2.>"), true},
		{"tradeflow", "the inboxes of its service", subscribe("_FL.tradeflow.>"), true},
		{"tradeflow", "the inboxes of its service by a star", subscribe("_FL.tradeflow.*.abc"), true},
		{"tradeflow", "another's inbox", subscribe("_FL.model.model-1.>"), true},
		{"tradeflow", "the gateway's inbox", subscribe("_FL.gateway.>"), true},
		{"tradeflow", "all inboxes", subscribe("_FL.>"), true},
		{"tradeflow", "the default inbox", subscribe("_INBOX.>"), true},
		{"tradeflow", "micro's discovery", subscribe("$SRV.PING"), false},
		{"tradeflow", "micro's discovery of itself", subscribe("$SRV.INFO.tradeflow.x1"), false},
		{"tradeflow", "micro's discovery of another", subscribe("$SRV.INFO.model"), true},
		{"tradeflow", "all of micro's discovery", subscribe("$SRV.>"), true},
		{"tradeflow", "the server's events", subscribe("$SYS.>"), true},
		{"tradeflow", "JetStream's advisories", subscribe("$JS.EVENT.>"), true},
		{"tradeflow", "publish what it publishes", publish("data.tradeflow"), false},
		{"tradeflow", "publish below what it publishes", publish("data.tradeflow.x"), true},
		{"tradeflow", "publish what it only subscribes", publish("data.vhf"), true},
		{"tradeflow", "ask", publish("model.find"), false},
		{"tradeflow", "ask whom it does not ask", publish("auth.login"), true},
		{"tradeflow", "ask itself", publish("tradeflow.find"), true},
		{"tradeflow", "reply to the gateway", publish("_FL.gateway.abc.def"), false},
		{"tradeflow", "reply to who asks it", publish("_FL.legacy.legacy-1.abc"), false},
		{"tradeflow", "reply to who does not ask it", publish("_FL.model.model-1.abc"), true},
		{"tradeflow", "reply to its own kind", publish("_FL.tradeflow.tradeflow-2.abc"), true},
		{"tradeflow", "reply to the operator", publish("_FL.operator.abc.def"), false},
		{"tradeflow", "reply to the operator's tools", publish("_INBOX.abc.def"), false},
		{"tradeflow", "JetStream's API", publish("$JS.API.INFO"), true},
		{"tradeflow", "JetStream's acknowledgements", publish("$JS.ACK.s.c.1.1.1.1.1"), true},
		{"tradeflow", "a key-value bucket", publish("$KV.bucket.key"), true},
		{"tradeflow", "ask for discovery", publish("$SRV.PING"), true},
		{"tradeflow", "the server's system requests", publish("$SYS.REQ.SERVER.PING"), true},
		{"auth", "plain subscription without a group", subscribe("auth.login"), false},
		{"auth", "queue subscription without a group", queue("auth.login", "auth_queue"), false},
		{"model", "reply to who asks it", publish("_FL.tradeflow.tradeflow-1.abc"), false},
		{"model", "reply to who does not ask it", publish("_FL.legacy.legacy-1.abc"), true},
		{"legacy", "an object pattern", queue(findAll, "legacy_queue"), false},
		{"legacy", "an object pattern, plain", subscribe(findAll), true},
		{"legacy", "another object pattern", queue(`{"area":"tradeflow","cmd":"drop"}`, "legacy_queue"), true},
		{"legacy", "a star as granted", queue("time.*", "legacy_queue"), false},
		{"legacy", "one of the star", queue("time.utc", "legacy_queue"), false},
		{"legacy", "longer than the star", queue("time.utc.now", "legacy_queue"), true},
		{"legacy", "the shared inbox", subscribe("_INBOX.>"), false},
		{"gateway", "ask", publish("tradeflow.find"), false},
		{"gateway", "ask an object pattern", publish(findAll), false},
		{"gateway", "ask for the signing keys", publish("auth.jwks"), false},
		{"gateway", "publish what is not answered", publish("data.tradeflow"), true},
		{"gateway", "JetStream's API", publish("$JS.API.INFO"), true},
		{"gateway", "its inbox", subscribe(b.inbox + ".>"), false},
		{"gateway", "another gateway's inbox", subscribe("_FL.gateway.>"), true},
		{"gateway", "a service's subject", subscribe("tradeflow.find"), true},
		{"operator", "everything", subscribe(">"), false},
		{"operator", "any subject", publish("auth.login"), false},
		{"operator", "JetStream's API", publish("$JS.API.INFO"), false},
	} {
		t.Run(c.who+": "+c.what, func(t *testing.T) {
			if got := refused(t, creds[c.who], c.act); got != c.deny {
				t.Errorf("refused %v, want %v", got, c.deny)
			}
		})
	}
}

// TestStarGrantsOneToken: the server lets "time.>" pass for "time.*"; what is
// denied besides keeps the messages away that it would bring.
func TestStarGrantsOneToken(t *testing.T) {
	b := open(t, shop())
	nc := dial(t, issue(t, b, "legacy", "legacy-1"))
	sub, err := nc.QueueSubscribeSync("time.>", "legacy_queue")
	if err != nil {
		t.Fatal(err)
	}
	nc.Flush()
	operator, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"time.zone.find", "time.utc.now.exactly", "time.utc"} {
		if err := operator.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	m, err := sub.NextMsg(await.Patience)
	if err != nil || m.Subject != "time.utc" {
		t.Errorf("first message %v, %v; want time.utc", m, err)
	}
	if _, err := operator.Request("time.utc.now", nil, await.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("request beyond the star: %v", err)
	}
}

func TestSystemAccountIsOutOfReach(t *testing.T) {
	b := open(t, shop())
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	// Allowed in the system's own account, where nobody answers.
	if _, err := nc.Request("$SYS.REQ.SERVER.PING", nil, await.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v, want no responders", err)
	}
	sys, sub := b.server.Load().SystemAccount(), b.server.Load().GlobalAccount()
	if sys == nil || sys == sub {
		t.Errorf("system account %v, account of the services %v", sys, sub)
	}
}

func TestCredentialsRefused(t *testing.T) {
	b := open(t, shop())
	good := issue(t, b, "auth", "auth-1")
	gone := issue(t, b, "auth", "auth-2")
	if err := b.Revoke("auth-2"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		opts []nats.Option
		ok   bool
	}{
		{"right", []nats.Option{nats.UserInfo(good.User, good.Password)}, true},
		{"none", nil, false},
		{"wrong password", []nats.Option{nats.UserInfo(good.User, gone.Password)}, false},
		{"empty password", []nats.Option{nats.UserInfo(good.User, "")}, false},
		{"password as token", []nats.Option{nats.Token(good.Password)}, false},
		{"unknown user", []nats.Option{nats.UserInfo("nobody", good.Password)}, false},
		{"revoked user", []nats.Option{nats.UserInfo(gone.User, gone.Password)}, false},
		{"operator of this process, from outside", []nats.Option{nats.UserInfo(b.operator.User, b.operator.Password)}, false},
		{"operator's tools", []nats.Option{nats.UserInfo(b.tools.User, b.tools.Password)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			nc, err := nats.Connect(b.URL(), append(c.opts, nats.Timeout(await.Patience))...)
			if err == nil {
				nc.Close()
			}
			if ok := err == nil; ok != c.ok {
				t.Errorf("connected %v: %v", ok, err)
			}
			if err != nil && !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("got %v, want a violation of authorization", err)
			}
		})
	}
}

func TestIssueRefused(t *testing.T) {
	b := open(t, nil)
	if _, err := b.Issue("auth", "auth-1"); !errors.Is(err, ErrUnknownService) {
		t.Errorf("without a model: %v", err)
	}
	if err := b.Apply(shop()); err != nil {
		t.Fatal(err)
	}
	issue(t, b, "auth", "auth-1")
	for _, c := range []struct {
		name, service, instance string
		is                      error
	}{
		{"twice", "auth", "auth-1", nil},
		{"twice, for another service", "model", "auth-1", nil},
		{"unknown service", "nobody", "nobody-1", ErrUnknownService},
		{"no bus section", "page", "page-1", ErrNoBus},
		{"two tokens", "auth", "auth.2", nil},
		{"wildcard", "auth", "*", nil},
		{"name of the gateway's user", "auth", b.gateway.User, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := b.Issue(c.service, c.instance)
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := b.Registered("nobody-1"); !errors.Is(err, ErrUnknownInstance) {
		t.Errorf("registered: %v", err)
	}
	if _, err := b.Drain("nobody-1"); !errors.Is(err, ErrUnknownInstance) {
		t.Errorf("drain: %v", err)
	}
	if err := b.Revoke("nobody-1"); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if c := issue(t, b, "auth", "auth-3"); len(c.Password) != 43 || c.InboxPrefix != "_FL.auth.auth-3" || c.URL != b.URL() {
		t.Errorf("credentials %+v", c)
	}
	if c := issue(t, b, "legacy", "legacy-1"); c.InboxPrefix != "_INBOX" {
		t.Errorf("inbox of a service that shares it: %q", c.InboxPrefix)
	}
}

// TestRequestsBetweenServices: everyone's replies arrive, by inboxes of their
// own and by the shared one.
func TestRequestsBetweenServices(t *testing.T) {
	b := open(t, shop())
	reply := func(m *nats.Msg) { m.Respond([]byte("from " + m.Subject)) }
	model := dial(t, issue(t, b, "model", "model-1"))
	trade := dial(t, issue(t, b, "tradeflow", "tradeflow-1"))
	legacy := dial(t, issue(t, b, "legacy", "legacy-1"))
	for _, s := range []struct {
		nc             *nats.Conn
		subject, group string
	}{
		{model, "model.>", "model_queue"},
		{trade, "tradeflow.find", "tradeflow_queue"},
		{legacy, findAll, "legacy_queue"},
	} {
		if _, err := s.nc.QueueSubscribe(s.subject, s.group, reply); err != nil {
			t.Fatal(err)
		}
		s.nc.Flush()
	}
	operator, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	tools := dial(t, b.OperatorCredentials(), nats.CustomInboxPrefix("_INBOX"))
	for _, c := range []struct {
		name    string
		nc      *nats.Conn
		subject string
	}{
		{"tradeflow asks model", trade, "model.tree"},
		{"legacy asks tradeflow by the shared inbox", legacy, "tradeflow.find"},
		{"gateway asks tradeflow", gateway, "tradeflow.find"},
		{"gateway asks an object pattern", gateway, findAll},
		{"operator asks model", operator, "model.tree"},
		{"operator's tools ask model", tools, "model.tree"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := c.nc.Request(c.subject, nil, await.Patience)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(m.Data); got != "from "+c.subject {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestMicroServiceIsVisible(t *testing.T) {
	b := open(t, shop())
	nc := dial(t, issue(t, b, "model", "model-1"))
	s, err := micro.AddService(nc, micro.Config{Name: "model", Version: "1.0.0", QueueGroup: "model_queue"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if err := s.AddEndpoint("tree", micro.HandlerFunc(func(r micro.Request) { r.Respond([]byte("tree")) }),
		micro.WithEndpointSubject("model.tree")); err != nil {
		t.Fatal(err)
	}
	nc.Flush()
	if err := nc.LastError(); err != nil {
		t.Fatal(err)
	}
	operator, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	tools := dial(t, b.OperatorCredentials())
	for name, asker := range map[string]*nats.Conn{"operator": operator, "tools": tools} {
		for _, subject := range []string{"$SRV.PING", "$SRV.INFO.model", "$SRV.STATS.model." + s.Info().ID} {
			m, err := asker.Request(subject, nil, await.Patience)
			if err != nil {
				t.Fatalf("%s asks %s: %v", name, subject, err)
			}
			var id micro.ServiceIdentity
			if err := json.Unmarshal(m.Data, &id); err != nil || id.Name != "model" {
				t.Errorf("%s asks %s: got %s, %v", name, subject, m.Data, err)
			}
		}
	}
	r, err := b.Registered("model-1")
	if err != nil || r.Subscriptions != 1 || !slices.Equal(r.Patterns, []string{"model.tree"}) {
		t.Errorf("registration %+v, %v: micro's discovery must not count", r, err)
	}
}

func TestJetStreamIsTheOperators(t *testing.T) {
	b := open(t, shop())
	operator, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(operator, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "DATA", Subjects: []string{"data.>"}}); err != nil {
		t.Fatal(err)
	}
	// A reload must not disturb it.
	c := issue(t, b, "tradeflow", "tradeflow-1")
	if _, err := js.Publish(t.Context(), "data.vhf", []byte("x")); err != nil {
		t.Fatal(err)
	}
	theirs, err := jetstream.New(dial(t, c), jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := theirs.AccountInfo(ctx); err == nil {
		t.Error("an instance has JetStream")
	}
}

// TestApplyKeepsLiveInstances: during a reload the old revision serves on.
func TestApplyKeepsLiveInstances(t *testing.T) {
	b := open(t, shop())
	old := dial(t, issue(t, b, "tradeflow", "tradeflow-1"))
	model := dial(t, issue(t, b, "model", "model-1"))
	reply := func(m *nats.Msg) { m.Respond(nil) }
	old.QueueSubscribe("tradeflow.find", "tradeflow_queue", reply)
	old.Flush()
	model.QueueSubscribe("model.tree", "model_queue", reply)
	model.Flush()
	gateway, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}

	next := shop()
	s, _ := next.Service("tradeflow")
	s.Bus = &system.ServiceBus{Group: "flows", Answers: []string{"flows.>"}}
	if err := b.Apply(next); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.Request("tradeflow.find", nil, await.Patience); err != nil {
		t.Errorf("gateway asks the old instance: %v", err)
	}
	if _, err := old.Request("model.tree", nil, await.Patience); err != nil {
		t.Errorf("old instance asks, which the new model does not: %v", err)
	}
	fresh := issue(t, b, "tradeflow", "tradeflow-2")
	if refused(t, fresh, queue("flows.find", "flows")) {
		t.Error("new instance may not answer what the new model says")
	}
	if !refused(t, fresh, queue("tradeflow.find", "tradeflow_queue")) {
		t.Error("new instance may answer what the old model said")
	}
	if refused(t, b.gateway, publish("flows.find")) {
		t.Error("gateway may not ask what the new model says")
	}
	if err := b.Revoke("tradeflow-1"); err != nil {
		t.Fatal(err)
	}
	if !refused(t, b.gateway, publish("tradeflow.find")) {
		t.Error("gateway may ask what nobody answers any more")
	}
	c := issue(t, b, "model", "model-2")
	if !refused(t, c, publish("_FL.tradeflow.tradeflow-2.abc")) {
		t.Error("model may reply to who does not ask it any more")
	}
}

func TestApplyRefused(t *testing.T) {
	b := open(t, shop())
	bad := shop()
	bad.Services[0].Bus.Answers = []string{">"}
	if err := b.Apply(bad); err == nil {
		t.Error("answers everything")
	}
	bad = shop()
	bad.Gateway.Auth.JWT.JWKS = "bus:$SYS.>"
	if err := b.Apply(bad); err == nil {
		t.Error("signing keys from the server's subjects")
	}
	issue(t, b, "auth", "auth-1") // the model before still holds
}
