package gateway

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// nestExchange is one entry of testdata/nest/exchanges.json.
type nestExchange struct {
	Name    string
	Subject string // of the route, with path values
	Listens string // where the service listens, default Subject
	Path    string // of the route, default made of the subject
	Errors  map[string]int
	HTTP    struct{ Method, Path, Body string }
	Request string // as the service must get it, "" if it must not
	Replies []string
	Answer  struct {
		Status int
		Body   *string
		Detail string
	}
}

func nestExchanges(tb testing.TB) []nestExchange {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "nest", "exchanges.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var doc struct{ Exchanges []nestExchange }
	if err := json.Unmarshal(b, &doc); err != nil {
		tb.Fatal(err)
	}
	for i := range doc.Exchanges {
		e := &doc.Exchanges[i]
		if e.Listens == "" {
			e.Listens = e.Subject
		}
		if e.Path == "" {
			e.Path = "/" + strings.NewReplacer(`"`, "", "{", "", "}", "", ":", "-", ",", "-").Replace(e.Subject)
		}
		if e.HTTP.Path == "" {
			e.HTTP.Path = e.Path
		}
	}
	return doc.Exchanges
}

// fakeNest behaves as NestJS microservices were seen to: a payload that is no JSON
// ends the process (and the test), a request without id or data gets no answer,
// everything else gets the recorded replies.
type fakeNest struct {
	tb testing.TB

	mu       sync.Mutex // guards the fields below
	requests []string
	headers  []nats.Header
}

func (f *fakeNest) listen(nc *nats.Conn, subject string, replies []string) {
	bustest.Subscribe(f.tb, nc, subject, func(m *nats.Msg) {
		if !json.Valid(m.Data) {
			f.tb.Errorf("a payload that is no JSON reached the service: %q", m.Data)
			return
		}
		f.mu.Lock()
		f.requests = append(f.requests, string(m.Data))
		f.headers = append(f.headers, m.Header)
		f.mu.Unlock()
		var packet map[string]json.RawMessage
		if json.Unmarshal(m.Data, &packet) != nil || packet["id"] == nil || packet["data"] == nil {
			return
		}
		var id string
		if err := json.Unmarshal(packet["id"], &id); err != nil {
			f.tb.Errorf("id is %s", packet["id"])
		}
		for _, r := range replies {
			bustest.Respond(f.tb, m, strings.ReplaceAll(r, "$id", id))
		}
	})
}

// take returns the requests since the last call.
func (f *fakeNest) take() ([]string, []nats.Header) {
	f.mu.Lock()
	defer f.mu.Unlock()
	requests, headers := f.requests, f.headers
	f.requests, f.headers = nil, nil
	return requests, headers
}

func TestNestReplay(t *testing.T) {
	exchanges := nestExchanges(t)
	var routes []*system.Route
	for _, e := range exchanges {
		limit := await.Patience
		if e.Answer.Status == 504 {
			limit = 500 * time.Millisecond
		}
		def := rawRoute(e.Path, system.Request{Subject: e.Subject, Format: system.Nest, Errors: e.Errors}, timeout(limit))
		routes = append(routes, def)
	}
	g := newBusGateway(t, Config{Routes: routes}, Options{})
	g.ready("i1")
	nc := bustest.Connect(t, g.server)
	service := &fakeNest{tb: t}
	for _, e := range exchanges {
		if e.Replies != nil {
			service.listen(nc, e.Listens, e.Replies)
		}
	}
	for _, e := range exchanges {
		t.Run(e.Name, func(t *testing.T) {
			w := g.do(e.HTTP.Method, e.HTTP.Path, e.HTTP.Body, "X-Request-Id", "request-0001")
			if w.Code != e.Answer.Status {
				t.Fatalf("status is %d, want %d: %s", w.Code, e.Answer.Status, w.Body)
			}
			if e.Answer.Body != nil && w.Body.String() != *e.Answer.Body {
				t.Fatalf("body is %s, want %s", w.Body, *e.Answer.Body)
			}
			if e.Answer.Status >= 400 {
				var p wire.Problem
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != e.Answer.Status || e.Answer.Detail != "" && p.Detail != e.Answer.Detail {
					t.Fatalf("problem is %s", w.Body)
				}
			}
			requests, headers := service.take()
			if e.Request == "" {
				if len(requests) != 0 {
					t.Fatalf("reached the service: %q", requests)
				}
				return
			}
			if want := strings.ReplaceAll(e.Request, "$id", "request-0001"); len(requests) != 1 || requests[0] != want {
				t.Fatalf("the service got %q, want %q", requests, want)
			}
			if headers[0].Get("X-Request-Id") != "request-0001" {
				t.Fatalf("headers are %v", headers[0])
			}
		})
	}
}

func TestNestBodyTypes(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{
		rawRoute("/x", system.Request{Subject: "auth.login", Format: system.Nest}),
	}}, Options{})
	g.ready("i1")
	service := &fakeNest{tb: t}
	service.listen(bustest.Connect(t, g.server), "auth.login", []string{`{"response":1,"isDisposed":true,"id":"$id"}`})
	tests := []struct {
		name, media, body string
		want              int
	}{
		{"json", "application/json", `{"u":1}`, 200},
		{"form", "application/x-www-form-urlencoded", `u=1`, 415},
		{"text that is JSON", "text/plain", `{"u":1}`, 415},
		{"invalid UTF-8", "application/json", "{\"u\":\"\xff\"}", 400},
		{"control character", "application/json", "{\"u\":\"\x01\"}", 400},
		{"deep", "application/json", strings.Repeat("[", 100_000), 400},
		{"white space", "application/json", "  ", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := httptest.NewRequest("POST", "/x", strings.NewReader(tt.body))
			req.Header.Set("Content-Type", tt.media)
			w := httptest.NewRecorder()
			g.ServeHTTP(w, req)
			if w.Code != tt.want {
				t.Fatalf("status is %d, want %d: %s", w.Code, tt.want, w.Body)
			}
			if requests, _ := service.take(); (len(requests) > 0) != (tt.want == 200) {
				t.Fatalf("the service got %q", requests)
			}
		})
	}
}
