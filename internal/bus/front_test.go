package bus

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
	"fairlead/test/await"
	"fairlead/test/certificate"
)

// openToOutside is the shop with a listener for clients on other machines, at a port
// that is free now.
func openToOutside(tb testing.TB) *system.System {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // bounded by the test
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	out := &system.Outside{Listen: l.Addr().String()}
	out.Certificate, out.Key = certificate.Write(tb, tb.TempDir())
	sys := shop()
	sys.Bus.Outside = out
	return sys
}

// from is how somebody connects from another machine.
func from(sys *system.System, c Credentials, opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("nats://"+sys.Bus.Outside.Listen, append([]nats.Option{
		nats.Timeout(await.Patience),
		nats.RootCAs(sys.Bus.Outside.Certificate), nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
}

func TestOnlyUsersComeFromOutside(t *testing.T) {
	sys := openToOutside(t)
	b := open(t, sys)
	if at := b.Outside(); at != "" {
		t.Fatalf("it listens at %s before anybody may come", at)
	}
	tower := guest("tower")
	setUsers(t, b, tower)
	nc, err := from(sys, as(b, tower), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Flush(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]Credentials{
		"an instance": issue(t, b, "auth", "auth-1"), "the operator's tools": b.OperatorCredentials(), "the gateway": b.gateway,
	} {
		if _, err := from(sys, c); err == nil || !strings.Contains(strings.ToLower(err.Error()), "authorization") {
			t.Errorf("%s came from outside: %v", name, err)
		}
	}
	setUsers(t, b)
	await.Until(t, "the user is cut", nc.IsClosed)
}

func TestUsersFromOutsideFollowToTheNextProcess(t *testing.T) {
	sys := openToOutside(t)
	dir := t.TempDir()
	old, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: sys})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, old)
	tower := guest("tower")
	setUsers(t, old, tower)
	nc, err := from(sys, as(old, tower), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := old.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: sys, Former: old.Former()})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, next)
	await.Until(t, "it is back", func() bool { return nc.IsConnected() && next.Connections("tower") == 1 })
}

func TestUsersFromOutsideComeBackAfterSuspend(t *testing.T) {
	sys := openToOutside(t)
	b := open(t, sys)
	tower := guest("tower")
	setUsers(t, b, tower)
	nc, err := from(sys, as(b, tower), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := b.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it is cut", func() bool { return !nc.IsConnected() })
	if at := b.Outside(); at != "" {
		t.Errorf("a bus that is suspended listens at %s", at)
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it is back", nc.IsConnected)
	if err := nc.Flush(); err != nil {
		t.Error(err)
	}
}
