package gateway

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
)

func TestHoldBus(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	holder := newBusHolder(t, nc, "flows.x")
	ask := func(method string) <-chan *httptest.ResponseRecorder {
		got := make(chan *httptest.ResponseRecorder, 1)
		go func() { got <- g.do(method, "/x", "") }()
		return got
	}
	before := ask("POST")
	asked := <-holder.held

	g.HoldBus()
	get, post := ask("GET"), ask("POST")
	busEventually(t, "both are in the bridge", func() bool {
		g.bridge.table.mu.Lock()
		defer g.bridge.table.mu.Unlock()
		return g.bridge.table.open == 3
	})
	limited, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.SettleBus(limited); err == nil {
		t.Error("settled, though a request has no reply")
	}
	busRespond(t, asked, "1")
	if w := <-before; w.Code != 200 {
		t.Errorf("what was on the bus: %d %s", w.Code, w.Body)
	}
	if err := g.SettleBus(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(holder.held); n != 0 {
		t.Errorf("%d held requests were sent", n)
	}
	g.ReleaseBus("others")
	if n := len(holder.held); n != 0 {
		t.Errorf("%d requests were sent when another service was released", n)
	}
	g.ReleaseBus("flows")
	for range 2 {
		busRespond(t, <-holder.held, "2")
	}
	if w := <-get; w.Code != 200 {
		t.Errorf("held GET: %d %s", w.Code, w.Body)
	}
	if w := <-post; w.Code != 200 {
		t.Errorf("held POST: %d %s", w.Code, w.Body)
	}
	if g.LongestHold() <= 0 {
		t.Error("nobody was held")
	}
	g.ReleaseBus()
	if g.bridge.table.hold.on {
		t.Error("it is still held")
	}
}

// TestReleaseSendsAgain loses a request with the bus and finds it sent again.
func TestReleaseSendsAgain(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	holder := newBusHolder(t, nc, "flows.x")
	got := make(chan *httptest.ResponseRecorder, 1)
	go func() { got <- g.do("GET", "/x", "") }()
	<-holder.held
	g.HoldBus()
	g.ReleaseBus()
	busRespond(t, <-holder.held, "2")
	if w := <-got; w.Code != 200 || w.Body.String() != "2" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestHeldTooLong answers a request whose deadline ends while it is held.
func TestHeldTooLong(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{
		rawRoute("/x", system.Request{Subject: "flows.x"}, timeout(30*time.Millisecond)),
	}}, Options{})
	g.ready("i1")
	busSubscribe(t, busConnect(t, g.server), "flows.x", func(*nats.Msg) { t.Error("it was sent") })
	g.HoldBus()
	if w := g.do("POST", "/x", ""); w.Code != 503 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
