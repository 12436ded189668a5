package bus

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/crypto/bcrypt"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// guest is a user of the shop.
func guest(name string) User {
	return User{
		BusUser: system.BusUser{
			Name: name, Publishes: []string{"data.vhf"}, Subscribes: []string{"data.*"}, Asks: []string{"tradeflow.find"},
		},
		Password: "secret of " + name,
	}
}

func as(b *Bus, u User) Credentials {
	return Credentials{URL: b.URL(), User: u.Name, Password: u.Password, InboxPrefix: UserInbox(u.Name)}
}

func setUsers(tb testing.TB, b *Bus, users ...User) {
	tb.Helper()
	if err := b.SetUsers(tb.Context(), users); err != nil {
		tb.Fatal(err)
	}
}

func TestAccessOfUsers(t *testing.T) {
	b := open(t, shop())
	tower, ship := guest("tower"), guest("ship")
	setUsers(t, b, tower, ship)
	for _, c := range []struct {
		what string
		act  func(*nats.Conn) error
		deny bool
	}{
		{"publish what it publishes", publish("data.vhf"), false},
		{"publish what it only subscribes", publish("data.ais"), true},
		{"ask", publish("tradeflow.find"), false},
		{"ask whom it does not ask", publish("auth.login"), true},
		{"subscribe", subscribe("data.vhf"), false},
		{"subscribe its pattern", subscribe("data.*"), false},
		{"subscribe all", subscribe(">"), true},
		{"its inbox", subscribe("_FL.user.tower.abc.*"), false},
		{"another user's inbox", subscribe("_FL.user.ship.>"), true},
		{"all users' inboxes", subscribe("_FL.user.>"), true},
		{"an instance's inbox", subscribe("_FL.tradeflow.tradeflow-1.>"), true},
		{"the shared inbox", subscribe("_INBOX.>"), true},
		{"answer what a service answers", subscribe("tradeflow.find"), true},
		{"micro's discovery", subscribe("$SRV.PING"), true},
		{"reply to the operator's tools", publish("_INBOX.abc"), true},
		{"JetStream's API", publish("$JS.API.INFO"), true},
		{"the server's events", subscribe("$SYS.>"), true},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := refused(t, as(b, tower), c.act); got != c.deny {
				t.Errorf("refused: %t, want %t", got, c.deny)
			}
		})
	}
}

func TestUserAsksService(t *testing.T) {
	b := open(t, shop())
	// Also an instance that is older than the user may answer it.
	nc := dial(t, issue(t, b, "tradeflow", "tradeflow-1"))
	_, err := nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) { _ = m.Respond([]byte("wheat")) })
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	tower := guest("tower")
	setUsers(t, b, tower)
	m, err := dial(t, as(b, tower)).Request("tradeflow.find", nil, await.Patience)
	if err != nil || string(m.Data) != "wheat" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestUserIsCutWhenRevoked(t *testing.T) {
	b := open(t, shop())
	tower, ship, stays := guest("tower"), guest("ship"), guest("stays")
	hash, err := bcrypt.GenerateFromPassword([]byte(stays.Password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	hashed := stays
	hashed.Password = string(hash)
	setUsers(t, b, tower, ship, hashed)
	conns := map[string]*nats.Conn{}
	for _, u := range []User{tower, ship, stays} {
		conns[u.Name] = dial(t, as(b, u), nats.NoReconnect())
		await.Until(t, u.Name+" is counted", func() bool { return b.Connections(u.Name) == 1 })
	}
	changed := ship
	changed.Password = "another"
	setUsers(t, b, changed, hashed)
	for _, name := range []string{"tower", "ship"} {
		await.Until(t, name+" is cut", conns[name].IsClosed)
	}
	if err := conns["stays"].Flush(); err != nil {
		t.Errorf("the user that stays was cut: %v", err)
	}
	if _, err := nats.Connect(b.URL(), nats.Timeout(await.Patience), nats.UserInfo(tower.Name, tower.Password)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connect as a user that was revoked: %v", err)
	}
}

func TestUserIsCutWhenExpired(t *testing.T) {
	t.Parallel()
	b := open(t, shop())
	tower, past := guest("tower"), guest("past")
	tower.Expires = time.Now().Add(4 * time.Second) // by when it has connected
	past.Expires = time.Now().Add(-time.Second)
	setUsers(t, b, tower, past)
	nc := dial(t, as(b, tower), nats.NoReconnect())
	if _, err := nats.Connect(b.URL(), nats.Timeout(await.Patience), nats.UserInfo(past.Name, past.Password)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connect as a user that has expired: %v", err)
	}
	await.Until(t, "cut", nc.IsClosed)
	if time.Now().Before(tower.Expires) {
		t.Error("cut too early")
	}
}

// TestUserThatExpiresWhileOthersChange was let stay: whoever set users in that moment
// had told the server of it, and it was not looked for any more.
func TestUserThatExpiresWhileOthersChange(t *testing.T) {
	t.Parallel()
	b := open(t, shop())
	tower := guest("tower")
	setUsers(t, b, tower)
	nc := dial(t, as(b, tower), nats.NoReconnect())
	tower.Expires = time.Now().Add(100 * time.Millisecond)
	for time.Now().Before(tower.Expires.Add(10 * time.Millisecond)) {
		setUsers(t, b, tower, guest("ship"))
	}
	await.Until(t, "cut", nc.IsClosed)
}

func TestUsersAreThereAfterSuspend(t *testing.T) {
	b := open(t, shop())
	tower := guest("tower")
	setUsers(t, b, tower)
	if err := b.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := b.Former()
	if len(f.Users) != 1 || f.Users[0].Name != "tower" || f.Users[0].Password != tower.Password {
		t.Errorf("the next bus would know of %d users", len(f.Users))
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, as(b, tower)).Flush(); err != nil {
		t.Error(err)
	}
}

func TestUnsafeUsersAreRefused(t *testing.T) {
	b := open(t, shop())
	for name, change := range map[string]func(*User){
		"no password":           func(u *User) { u.Password = "" },
		"an instance's name":    func(u *User) { u.Name = "tradeflow-1" },
		"two tokens":            func(u *User) { u.Name = "a.b" },
		"everyone's inboxes":    func(u *User) { u.Subscribes = []string{">"} },
		"a group":               func(u *User) { u.Subscribes = []string{"data.vhf spies"} },
		"the server's subjects": func(u *User) { u.Publishes = []string{"$JS.API.>"} },
		"the checker's way":     func(u *User) { u.Publishes = []string{"$FLQ.ok.data.vhf"} },
	} {
		u := guest("tower")
		change(&u)
		if err := b.SetUsers(t.Context(), []User{u}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// BenchmarkReloadWithUsers is a reload while users are connected whose passwords are
// kept as hashes: the server checks each connection again.
func BenchmarkReloadWithUsers(b *testing.B) {
	for name, hashed := range map[string]bool{"plain": false, "bcrypt": true} {
		b.Run(name, func(b *testing.B) {
			bus := open(b, shop())
			u := guest("tower")
			kept := u
			if hashed {
				hash, err := bcrypt.GenerateFromPassword([]byte(u.Password), bcrypt.MinCost)
				if err != nil {
					b.Fatal(err)
				}
				kept.Password = string(hash)
			}
			setUsers(b, bus, kept)
			for range 16 {
				if err := dial(b, as(bus, u)).Flush(); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				setUsers(b, bus, kept)
			}
		})
	}
}
