package gateway

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestExternalService(t *testing.T) {
	d := openDoor(t, Options{})
	one, two := httptest.NewServer(text("one")), httptest.NewServer(text("two"))
	t.Cleanup(one.Close)
	t.Cleanup(two.Close)
	routes := []*system.Route{{Key: "/", Path: "/", Targets: []system.Target{{Service: "billing", Weight: 1}}}}
	apply := func(external ...string) {
		t.Helper()
		if err := d.Apply(Config{Routes: routes, Services: []system.Service{{
			Name: "billing", External: external, Healthcheck: system.Healthcheck{Interval: 20 * time.Millisecond, Timeout: time.Second, Retries: 2},
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	apply(one.Listener.Addr().String())
	if res, body := d.do("GET", "/", nil, nil); body != "one" { // it waits for the first probe
		t.Errorf("%s %q", res.Status, body)
	}
	apply(one.Listener.Addr().String(), two.Listener.Addr().String())
	await.Until(t, "both to be there", func() bool { return len(d.Pools()[0].Endpoints) == 2 })
	one.Close()
	await.Until(t, "the one that ended to leave", func() bool { return len(d.Pools()[0].Endpoints) == 1 })
	if res, body := d.do("GET", "/", nil, nil); body != "two" {
		t.Errorf("%s %q", res.Status, body)
	}
	s, ok := d.External("billing")
	if !ok || len(s.Endpoints) != 2 {
		t.Fatalf("status %+v", s)
	}
	for _, e := range s.Endpoints {
		if e.Ready == (e.Reason != "") {
			t.Errorf("status %+v", e)
		}
	}
	id := "billing@" + two.Listener.Addr().String()
	if d.Served(id) == 0 {
		t.Errorf("%s has served nothing", id)
	}
	if err := d.Apply(Config{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.External("billing"); ok {
		t.Error("still followed")
	}
}

func TestExternalInstanceComesBackAtItsAddress(t *testing.T) {
	d := openDoor(t, Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if err := d.Apply(Config{
		Routes:   []*system.Route{{Key: "/", Path: "/", Targets: []system.Target{{Service: "billing", Weight: 1}}}},
		Services: []system.Service{{Name: "billing", External: []string{address}, Healthcheck: system.Healthcheck{Interval: 10 * time.Millisecond}}},
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: text("here")}
		go s.Serve(l)
		if res, body := d.do("GET", "/", nil, nil); body != "here" {
			t.Errorf("%s %q", res.Status, body)
		}
		s.Close()
		await.Until(t, "it to leave", func() bool { return len(d.Pools()[0].Endpoints) == 0 })
	}
}
