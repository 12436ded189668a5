package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/control"
	"fairlead/test/await"
)

func TestUsersOfTheBusSurviveARestart(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	c := must[control.BusCredentials](t)(verb[control.BusCredentials](f, control.VerbBusUserAdd, control.BusUserAddRequest{
		Name: "tower", Publishes: []string{"weather.now"}, Subscribes: []string{"weather.*"},
	}))
	connect := func() (*nats.Conn, error) {
		return nats.Connect(f.node.bus.URL(), nats.Timeout(await.Patience), nats.UserInfo(c.Name, c.Password), nats.CustomInboxPrefix(c.InboxPrefix), nats.NoReconnect())
	}
	nc, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.up()
	if nc, err = connect(); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	defer nc.Close()
	list := must[[]control.BusUser](t)(verb[[]control.BusUser](f, control.VerbBusUsers, control.Empty{}))
	if len(list) != 1 || list[0].Name != "tower" || list[0].Since.IsZero() || len(list[0].Publishes) != 1 {
		t.Errorf("the users are %+v", list)
	}
	gone := must[control.BusUser](t)(verb[control.BusUser](f, control.VerbBusUserRevoke, control.BusUserRevokeRequest{Name: "tower"}))
	if gone.Name != "tower" {
		t.Errorf("%+v was revoked", gone)
	}
	await.Until(t, "the revoked user is cut", nc.IsClosed)
	if _, err := connect(); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connect after the revocation: %v", err)
	}
}

func TestUsersThatMakeNoSenseAreRefused(t *testing.T) {
	f := newFixture(t)
	f.up()
	good := control.BusUserAddRequest{Name: "tower", Publishes: []string{"weather.now"}}
	must[control.BusCredentials](t)(verb[control.BusCredentials](f, control.VerbBusUserAdd, good))
	for what, change := range map[string]func(*control.BusUserAddRequest){
		"already":           func(*control.BusUserAddRequest) {},
		"no name of a user": func(r *control.BusUserAddRequest) { r.Name = "Tower" },
		"an instance":       func(r *control.BusUserAddRequest) { r.Name = "tower-1" },
		"do nothing":        func(r *control.BusUserAddRequest) { r.Name, r.Publishes = "idle", nil },
		"expired already":   func(r *control.BusUserAddRequest) { r.Name, r.Expires = "late", time.Now().Add(-time.Hour) },
		"publish \">\"":     func(r *control.BusUserAddRequest) { r.Name, r.Publishes = "all", []string{">"} },
		"the service echo":  func(r *control.BusUserAddRequest) { r.Name = "echo" },
	} {
		req := good
		change(&req)
		if _, err := verb[control.BusCredentials](f, control.VerbBusUserAdd, req); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := verb[control.BusUser](f, control.VerbBusUserRevoke, control.BusUserRevokeRequest{Name: "nobody"}); err == nil {
		t.Error("nobody was revoked")
	}
}
