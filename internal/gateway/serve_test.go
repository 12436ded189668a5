package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// timedRecorder is a connection whose write deadline can be seen.
type timedRecorder struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (r *timedRecorder) SetWriteDeadline(t time.Time) error {
	r.until = t
	return nil
}

func TestEveryFailureHasTimeToBeWritten(t *testing.T) {
	g := New(Options{})
	if err := g.Apply(Config{Routes: []*system.Route{{Method: "GET", Path: "/a", Targets: []system.Target{{Service: "api", Weight: 1}}}}, Services: servicesOf("api")}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/nowhere": http.StatusNotFound, "/a/../b": http.StatusBadRequest} {
		// The deadline that an earlier request left on the connection.
		w := &timedRecorder{httptest.NewRecorder(), time.Now().Add(-time.Minute)}
		g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		if w.Code != want || time.Until(w.until) < streamIdle/2 {
			t.Errorf("%s: %d, and %s to write it", path, w.Code, time.Until(w.until))
		}
	}
}

func TestOnlyTheClientHasTracesSampled(t *testing.T) {
	const traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	for given, want := range map[string]byte{"": 0, "garbage": 0, traced + "00": 0, traced + "01": traceSampled} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		if given != "" {
			r.Header.Set(wire.HeaderTrace, given)
		}
		var x exchange
		x.identify(r)
		if x.trace.Flags&traceSampled != want {
			t.Errorf("%q: goes on as %s", given, x.trace)
		}
	}
}
