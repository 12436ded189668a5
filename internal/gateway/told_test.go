package gateway

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// The tests of this file are about what clients are told when no service answers.

// TestPathWithoutRoute: a person sees what is wrong, a program too.
func TestPathWithoutRoute(t *testing.T) {
	g := New(Options{})
	if err := g.Apply(Config{Routes: []*system.Route{{Path: "/a", Targets: []system.Target{{Service: "api", Weight: 1}}}}, Services: servicesOf("api")}); err != nil {
		t.Fatal(err)
	}
	for accept, media := range map[string]string{"application/json": wire.MediaProblem, "text/html": "text/html; charset=utf-8"} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/nowhere", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound || w.Header().Get("Content-Type") != media || !strings.Contains(w.Body.String(), "there is no route for this path") {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
}

// TestDoubtIsTold: of what a client cannot simply ask again it is told whether it
// may have been done.
func TestDoubtIsTold(t *testing.T) {
	t.Parallel()
	const short = time.Second // is waited for, of those that are silent
	dies := rawService(t, "dies", func(net.Conn, string) {})
	silent := rawService(t, "silent", func(c net.Conn, _ string) { _, _ = io.Copy(io.Discard, c) })
	garbled := rawService(t, "garbled", func(c net.Conn, _ string) { _, _ = io.WriteString(c, "what?\r\n\r\n") })
	tests := []struct {
		name, method string
		ep           Endpoint
		retry        bool
		status       int
		detail       string
	}{
		{"POST that broke", "POST", dies, false, 502, "the service broke off; whether it has done what was asked is unknown"},
		{"PATCH that broke", "PATCH", dies, false, 502, "the service broke off; whether it has done what was asked is unknown"},
		{"POST without an answer", "POST", silent, false, 504, "the service did not answer in time; whether it has done what was asked is unknown"},
		{"POST with nonsense for an answer", "POST", garbled, false, 502, "the service broke off; whether it has done what was asked is unknown"},
		{"GET without an answer", "GET", silent, false, 504, "the service did not answer in time"},
		{"POST that may be repeated", "POST", silent, true, 504, "the service did not answer in time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t, Options{})
			limit := await.Patience
			if tt.ep == silent {
				limit = short
			}
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}, Retry: tt.retry, Timeout: limit}}, map[string][]Endpoint{"api": {tt.ep}})
			res, body := d.do(tt.method, "/", nil, nil)
			var p wire.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || res.StatusCode != tt.status || p.Detail != tt.detail {
				t.Errorf("%s %q, %v", res.Status, p.Detail, err)
			}
		})
	}
}

// TestStoppedServiceIsTold: nobody waits for what was stopped on purpose.
func TestStoppedServiceIsTold(t *testing.T) {
	d := openDoor(t, Options{WaitForReady: time.Minute})
	routes := []*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}
	d.SetStopped("api", true) // before anybody knows it
	d.apply(routes, nil)
	refused := func(when string) {
		t.Helper()
		start := time.Now()
		res, body := d.do("GET", "/", nil, nil)
		if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "the service is stopped") || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %s", when, res.Status, body)
		}
		if took := time.Since(start); took > await.Patience/2 {
			t.Errorf("%s: it took %v", when, took)
		}
	}
	refused("at once")
	d.apply(routes, nil)
	refused("after another Apply")

	ep := serviceOf(t, "api-1", text("here"))
	d.SetEndpoints("api", []Endpoint{ep})
	if res, body := d.do("GET", "/", nil, nil); body != "here" {
		t.Errorf("while an instance is still ready: %s %q", res.Status, body)
	}
	d.SetEndpoints("api", nil)
	d.SetStopped("api", false)
	go func() {
		waitFor(t, d.Gateway, "api", 1)
		d.SetStopped("api", true)
	}()
	refused("while it waits")

	d.SetStopped("api", false)
	go func() {
		waitFor(t, d.Gateway, "api", 1)
		d.SetEndpoints("api", []Endpoint{ep})
	}()
	if res, body := d.do("GET", "/", nil, nil); body != "here" {
		t.Errorf("once it is started again: %s %q", res.Status, body)
	}
}

// waitFor waits until n requests wait for an instance.
func waitFor(tb testing.TB, g *Gateway, service string, n int) {
	tb.Helper()
	await.Until(tb, "requests to wait", func() bool {
		g.mu.Lock()
		p := g.pools[service]
		g.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.waiting == n
	})
}

func TestBridgeStoppedService(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{WaitForReady: time.Minute})
	told := func(w *httptest.ResponseRecorder) {
		t.Helper()
		if w.Code != 503 || !strings.Contains(w.Body.String(), "the service is stopped") || w.Header().Get("Retry-After") == "" {
			t.Errorf("answer is %d %s", w.Code, w.Body)
		}
	}
	waiting := make(chan *httptest.ResponseRecorder, 1)
	go func() { waiting <- g.do("POST", "/x", "") }()
	waitFor(t, g.Gateway, "flows", 1)
	g.SetStopped("flows", true)
	told(<-waiting)
	told(g.do("GET", "/x", ""))

	// One that drains may still answer what was sent again in vain.
	g.SetStopped("flows", false)
	g.ready("i1")
	nc := bustest.Connect(t, g.server)
	first := bustest.Hold(t, nc, "flows.x")
	go func() { waiting <- g.do("GET", "/x", "") }()
	m := <-first.Held
	g.SetStopped("flows", true)
	first.Die(t, nc)
	g.ready()
	g.Lost("flows", "other")
	told(g.do("POST", "/x", "")) // goes the same way, behind it
	bustest.Respond(t, m, `"first"`)
	if w := <-waiting; w.Code != 200 || w.Body.String() != `"first"` {
		t.Errorf("answer is %d %s", w.Code, w.Body)
	}
}

// TestBridgeOnlyInstanceDies: what only instances that are lost can have got is
// answered long before its time is over.
func TestBridgeOnlyInstanceDies(t *testing.T) {
	tests := []struct {
		name  string
		ready []string
		then  func(g *busGateway)
		ends  bool
	}{
		{"the only one", []string{"i1"}, func(g *busGateway) {
			g.ready()
			g.Lost("flows", "i1")
		}, true},
		{"one of two", []string{"i1", "i2"}, func(g *busGateway) {
			g.ready("i2")
			g.Lost("flows", "i1")
		}, false},
		{"one of two while the other drains", []string{"i1", "i2"}, func(g *busGateway) {
			g.ready()
			g.Lost("flows", "i1")
		}, false},
		{"both, and one has come since", []string{"i1", "i2"}, func(g *busGateway) {
			g.ready("i2")
			g.Lost("flows", "i1")
			g.ready("i2", "i3")
			g.ready("i3")
			g.Lost("flows", "i2")
		}, true},
		{"one whose successor was ready before", []string{"i1"}, func(g *busGateway) {
			g.ready("i1", "i2")
			g.ready("i2")
			g.Lost("flows", "i1")
		}, false},
		{"one that never was ready", []string{"i1"}, func(g *busGateway) {
			g.ready()
			g.Lost("flows", "i2")
		}, false},
		{"one of another service", []string{"i1"}, func(g *busGateway) {
			g.SetEndpoints("other", []Endpoint{{Instance: "o1", Network: "bus"}})
			g.Lost("other", "o1")
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
			g.ready(tt.ready...)
			nc := bustest.Connect(t, g.server)
			h := bustest.Hold(t, nc, "flows.x")
			done := make(chan *httptest.ResponseRecorder, 1)
			start := time.Now()
			go func() { done <- g.do("POST", "/x", "{}") }()
			m := <-h.Held
			tt.then(g)
			if !tt.ends {
				select {
				case w := <-done:
					t.Fatalf("it is not waited for: %d %s", w.Code, w.Body)
				case <-time.After(200 * time.Millisecond): // what is not waited for ends after half of that
				}
				bustest.Respond(t, m, `"late"`)
				if w := <-done; w.Code != 200 || w.Body.String() != `"late"` {
					t.Errorf("answer is %d %s", w.Code, w.Body)
				}
				return
			}
			w := <-done
			if w.Code != 502 || !strings.Contains(w.Body.String(), "the service broke off; whether it has done what was asked is unknown") {
				t.Errorf("answer is %d %s", w.Code, w.Body)
			}
			if took := time.Since(start); took > defaultTimeout/2 {
				t.Errorf("it took %v", took)
			}
			if n := g.Failed("flows"); n != 1 {
				t.Errorf("counts %d failures", n)
			}
		})
	}
}

// TestBridgeResendsUsedUp: one that was sent again as often as may be, and whose
// instances all died, is not waited for either.
func TestBridgeResendsUsedUp(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	nc := bustest.Connect(t, g.server)
	h := bustest.Hold(t, nc, "flows.x")
	done := make(chan *httptest.ResponseRecorder, 1)
	instances := []string{"i1", "i2", "i3", "i4"}
	for n, id := range instances {
		g.ready(id)
		if n == 0 {
			go func() { done <- g.do("GET", "/x", "") }()
		}
		<-h.Held
		g.ready(instances[n+1:]...)
		g.Lost("flows", id)
	}
	w := <-done
	if w.Code != 502 || !strings.Contains(w.Body.String(), "the service broke off") || strings.Contains(w.Body.String(), "unknown") {
		t.Errorf("answer is %d %s", w.Code, w.Body)
	}
}
