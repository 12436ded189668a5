package bus

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/system"
)

func TestInHandshake(t *testing.T) {
	now := time.Now()
	at := func(age time.Duration) time.Time { return now.Add(-age) }
	for _, c := range []struct {
		name string
		conn server.ConnInfo
		want bool
	}{
		{"accepted just now", server.ConnInfo{Start: at(0), LastActivity: at(0)}, true},
		{"has not told its user for too long", server.ConnInfo{Start: at(patience), LastActivity: at(patience)}, false},
		{"told its user just now", server.ConnInfo{AuthorizedUser: "a", Start: at(time.Millisecond), LastActivity: at(0)}, true},
		{"told its user a while ago", server.ConnInfo{AuthorizedUser: "a", Start: at(2 * afterConnect), LastActivity: at(afterConnect)}, false},
		{"subscribes", server.ConnInfo{AuthorizedUser: "a", Start: at(0), LastActivity: at(0), NumSubs: 1}, false},
		{"publishes", server.ConnInfo{AuthorizedUser: "a", Start: at(0), LastActivity: at(0), InMsgs: 1}, false},
		{"old and busy", server.ConnInfo{AuthorizedUser: "a", Start: at(time.Hour), LastActivity: at(0)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := inHandshake(&c.conn, now, at(time.Hour)); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestConnectionThatAReloadKeptWaitingIsNotCut: with reloads that take long on a slow
// machine, clients were refused with "Authorization Violation" before they could tell
// their user.
func TestConnectionThatAReloadKeptWaitingIsNotCut(t *testing.T) {
	now := time.Now()
	c := &server.ConnInfo{Start: now.Add(-3 * patience), LastActivity: now.Add(-3 * patience)}
	if !inHandshake(c, now, now.Add(-patience/2)) {
		t.Error("it is not waited for, though the last reload has just ended")
	}
	if inHandshake(c, now, now.Add(-patience)) {
		t.Error("one that says nothing is waited for without end")
	}
	c.AuthorizedUser = "a"
	if inHandshake(c, now, now) {
		t.Error("one that has told its user long ago is waited for")
	}
}

// TestAnotherRouteDoesNotReloadTheServer: the server, which stops all clients while it
// reloads, is left alone by what does not concern it.
func TestAnotherRouteDoesNotReloadTheServer(t *testing.T) {
	sys := shop()
	b := open(t, sys)
	loaded := func() time.Time {
		t.Helper()
		z, err := b.server.Load().Varz(nil)
		if err != nil {
			t.Fatal(err)
		}
		return z.ConfigLoadTime
	}
	apply := func(change func(*system.System)) {
		t.Helper()
		next := *sys
		change(&next)
		if err := b.Apply(&next); err != nil {
			t.Fatal(err)
		}
	}
	apply(func(*system.System) {}) // tells it for the first time
	was := loaded()
	apply(func(s *system.System) { s.Routes = []*system.Route{{Key: "/a", Path: "/a"}} })
	if is := loaded(); is != was {
		t.Error("another route reloads the server")
	}
	apply(func(s *system.System) { s.Services = s.Services[:1] })
	if is := loaded(); is == was {
		t.Error("without a service the server is not reloaded")
	}
}
