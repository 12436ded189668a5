package bus

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

// TestHold asks instances of all kinds to hold their requests.
func TestHold(t *testing.T) {
	t.Parallel()
	b := open(t, suspendModel())
	plain := issue(t, b, "api", "api-1") // knows nothing of it
	dial(t, plain)
	issue(t, b, "api", "api-2") // has not connected
	told := make(chan wire.Hold, 16)
	listen := func(c Credentials, answer bool) {
		t.Helper()
		nc := dial(t, c)
		if _, err := nc.Subscribe(wire.SubjectHold+c.User, func(m *nats.Msg) {
			var h wire.Hold
			if err := json.Unmarshal(m.Data, &h); err != nil {
				t.Error(err)
			}
			if m.Reply != "" && answer {
				_ = m.Respond(nil)
			}
			told <- h
		}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	answers := issue(t, b, "caller", "caller-1")
	listen(answers, true)
	draining := issue(t, b, "caller", "caller-2")
	listen(draining, true)
	if _, err := b.Drain("caller-2"); err != nil {
		t.Fatal(err)
	}

	hold := func(d time.Duration) (late []string, took time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		begun := time.Now()
		late, err := b.Hold(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return late, time.Since(begun)
	}
	want := func(n int, ok func(wire.Hold) bool) {
		t.Helper()
		for range n {
			if h := await.From(t, "an instance is told", told); !ok(h) {
				t.Errorf("an instance was told %+v", h)
			}
		}
	}
	soon := func(h wire.Hold) bool { return time.Until(time.UnixMilli(h.Until)) > 0 }
	if late, took := hold(await.Patience); len(late) > 0 || took > await.Patience/2 {
		t.Errorf("after %v, %v have not answered", took, late)
	}
	want(2, soon)
	if err := b.Release(); err != nil {
		t.Error(err)
	}
	want(2, func(h wire.Hold) bool { return h.Until == 0 })

	listen(issue(t, b, "caller", "caller-3"), false)
	if late, took := hold(2 * time.Second); !slices.Equal(late, []string{"caller-3"}) || took > await.Patience/2 {
		t.Errorf("after %v, %v have not answered", took, late)
	}

	if !refused(t, plain, subscribe(wire.SubjectHold+"caller-1")) || !refused(t, plain, publish(wire.SubjectHold+"caller-1")) {
		t.Error("an instance hears, or says, what is another's")
	}
	if !refused(t, plain, publish(wire.SubjectHold+"api-1")) {
		t.Error("an instance may tell itself to hold")
	}

	if err := b.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Hold(t.Context()); !errors.Is(err, ErrSuspended) {
		t.Errorf("hold while the bus is suspended: %v", err)
	}
	if err := b.Release(); !errors.Is(err, ErrSuspended) {
		t.Errorf("release while the bus is suspended: %v", err)
	}
}
