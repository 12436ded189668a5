package gateway

import (
	"net/http"
	"testing"
	"time"

	"fairlead/internal/gateway/lasting"
)

func TestTrafficSinceAMark(t *testing.T) {
	g := New(Options{})
	mark := g.Mark()
	if got := g.Since(mark); got != (Traffic{}) {
		t.Fatalf("nothing happened, but %+v", got)
	}
	open := g.connections.Enter()
	g.lasting.Add(&lasting.Tunnel{}, lasting.Ends{})
	mark = g.Mark()
	g.connections.Enter()
	w := &nullWriter{h: http.Header{}}
	for range 3 { // no snapshot yet: the gateway itself answers 503
		g.ServeHTTP(w, mustRequest(t, "/"))
	}
	got := g.Since(mark)
	want := Traffic{Requests: 3, Failed: 3, Connections: Carried{1, 1}, Tunnels: Carried{1, 1}}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	g.connections.Leave(open)
	if got := g.Since(mark); got.Connections != (Carried{1, 0}) {
		t.Errorf("a connection that has ended was carried over: %+v", got)
	}
	if got := g.Since(g.Mark()); got.Requests != 0 || got.Connections != (Carried{1, 1}) {
		t.Errorf("since a later mark: %+v", got)
	}
}

func TestStallIsTheLongestWaitSinceTheMark(t *testing.T) {
	g := New(Options{})
	p := g.poolFor("api")
	g.pools["api"] = p
	now := time.Now()
	p.waited(now.Add(-2*time.Hour), now.Add(-time.Hour))
	mark := g.Mark()
	p.waited(now.Add(-time.Hour), time.Now())
	got := g.Since(mark).Stall
	if got <= 0 || got > time.Since(mark.at) {
		t.Errorf("stall %v: what a request waited before the mark does not count", got)
	}
}

func mustRequest(t *testing.T, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *nullWriter) WriteHeader(int)             {}
