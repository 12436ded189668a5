package bridge

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/test/await"
)

func TestHold(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	holder := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	before := b.begin("POST", "")
	asked := <-holder.Held

	b.Hold()
	get, post := b.begin("GET", ""), b.begin("POST", "")
	await.Until(t, "both are in the bridge", func() bool {
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		return b.table.open == 3
	})
	limited, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := b.SettleAll(limited); err == nil {
		t.Error("settled, though a request has no reply")
	}
	bustest.Respond(t, asked, "1")
	if r := <-before; !r.is("1") {
		t.Errorf("what was on the bus: %+v", r)
	}
	if err := b.SettleAll(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(holder.Held); n != 0 {
		t.Errorf("%d held requests were sent", n)
	}
	b.Release("others")
	if n := len(holder.Held); n != 0 {
		t.Errorf("%d requests were sent when another service was released", n)
	}
	b.Release("flows")
	for range 2 {
		bustest.Respond(t, <-holder.Held, "2")
	}
	if r := <-get; !r.is("2") {
		t.Errorf("held GET: %+v", r)
	}
	if r := <-post; !r.is("2") {
		t.Errorf("held POST: %+v", r)
	}
	if b.LongestHold() <= 0 {
		t.Error("nobody was held")
	}
	b.Release()
	if b.table.hold.on {
		t.Error("it is still held")
	}
}

// TestReleaseSendsAgain loses a request with the bus and finds it sent again.
func TestReleaseSendsAgain(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1")
	holder := bustest.Hold(t, bustest.Connect(t, b.server), "flows.x")
	got := b.begin("GET", "")
	<-holder.Held
	b.Hold()
	b.Release()
	bustest.Respond(t, <-holder.Held, "2")
	if r := <-got; !r.is("2") || r.sent != 2 {
		t.Errorf("got %+v", r)
	}
}

// TestHeldTooLong ends a request whose deadline comes while it is held.
func TestHeldTooLong(t *testing.T) {
	b := newTestBridge(t)
	b.limit = 30 * time.Millisecond
	b.ready("i1")
	bustest.Subscribe(t, bustest.Connect(t, b.server), "flows.x", func(*nats.Msg) { t.Error("it was sent") })
	b.Hold()
	if r := b.do("POST", ""); !errors.Is(r.err, errUnanswered) || r.sent != 0 {
		t.Errorf("got %+v", r)
	}
}
