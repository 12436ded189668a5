package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/bridge"
	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/token/tokentest"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// busGateway is a gateway without a listener in front of a bus.
type busGateway struct {
	*Gateway
	tb     testing.TB
	server *server.Server
	key    ed25519.PublicKey
}

func newBusGateway(tb testing.TB, config Config, opts Options) *busGateway {
	tb.Helper()
	s := bustest.Server(tb)
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	opts.Bus = bustest.Connect(tb, s, nats.CustomInboxPrefix("_FL.gateway.test"), nats.NoReconnect())
	opts.Signer = wire.NewSigner(priv, "commerce")
	opts.System = "commerce"
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	g := New(opts)
	tb.Cleanup(func() { g.bridge.Close() })
	config.Services = append(config.Services, servicesOf("flows")...)
	if err := g.Apply(config); err != nil {
		tb.Fatal(err)
	}
	return &busGateway{Gateway: g, tb: tb, server: s, key: pub}
}

func (g *busGateway) ready(instances ...string) {
	eps := make([]Endpoint, 0, len(instances))
	for _, id := range instances {
		eps = append(eps, Endpoint{Instance: id, Network: "bus"})
	}
	g.SetEndpoints("flows", eps)
}

// do serves one request.
func (g *busGateway) do(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	return g.doCtx(context.Background(), method, target, body, headers...)
}

func (g *busGateway) doCtx(ctx context.Context, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	var r io.Reader = http.NoBody
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequestWithContext(ctx, method, target, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, req)
	return w
}

func rawRoute(key string, req system.Request, more ...func(*system.Route)) *system.Route {
	method, path, ok := strings.Cut(key, " ")
	if !ok {
		method, path = "", key
	}
	req.Service = "flows"
	def := &system.Route{Key: key, Method: method, Path: path, Request: &req}
	for _, f := range more {
		f(def)
	}
	return def
}

func timeout(d time.Duration) func(*system.Route) {
	return func(r *system.Route) { r.Timeout = d }
}

func TestBridgeRaw(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{
		rawRoute("/echo/{id}", system.Request{Subject: "flows.echo"}),
		rawRoute("POST /sub/{id}", system.Request{Subject: "flows.sub.{id}"}),
		rawRoute("POST /mapped", system.Request{Subject: "flows.echo", Data: map[string]any{"n": "$body.n", "q": "$query.q"}}),
		rawRoute("/status", system.Request{Subject: "flows.status"}),
		rawRoute("POST /error", system.Request{Subject: "flows.error", Errors: map[string]int{"teapot": 418}}),
		rawRoute("POST /small", system.Request{Subject: "flows.echo"}, func(r *system.Route) { r.Limits.Body = 10 }),
	}}, Options{})
	g.ready("i1")
	nc := bustest.Connect(t, g.server)
	bustest.Subscribe(t, nc, "flows.echo", func(m *nats.Msg) { bustest.Respond(t, m, string(m.Data)) })
	bustest.Subscribe(t, nc, "flows.sub.*", func(m *nats.Msg) { bustest.Respond(t, m, `"`+m.Subject+`"`) })
	bustest.Subscribe(t, nc, "flows.status", func(m *nats.Msg) {
		out := nats.NewMsg(m.Reply)
		out.Header.Set(wire.HeaderStatus, "201")
		out.Header.Set(wire.HeaderType, "text/html")
		out.Header.Set("Set-Cookie", "a=b")
		out.Data = []byte("<b>x</b>")
		if err := m.RespondMsg(out); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	bustest.Subscribe(t, nc, "flows.error", func(m *nats.Msg) {
		var in struct{ Code, Text string }
		if err := json.Unmarshal(m.Data, &in); err != nil {
			t.Errorf("request is %q", m.Data)
		}
		out := nats.NewMsg(m.Reply)
		out.Header.Set(wire.HeaderError, in.Text)
		out.Header.Set(wire.HeaderErrorCode, in.Code)
		if err := m.RespondMsg(out); err != nil {
			t.Errorf("respond: %v", err)
		}
	})

	tests := []struct {
		name, method, target, body string
		status                     int
		want                       string // the body, or part of a problem
	}{
		{"body", "POST", "/echo/7?x=1", `{"a": 1}`, 200, `{"a": 1}`},
		{"query and path", "GET", "/echo/7?x=1&id=8&x=2", "", 200, `{"id":"7","x":["1","2"]}`},
		{"path in the subject", "POST", "/sub/abc", "{}", 200, `"flows.sub.abc"`},
		{"dot in the subject", "POST", "/sub/a.b", "{}", 400, "must not hold a dot"},
		{"encoded wildcard in the subject", "POST", "/sub/%2A", "{}", 400, "must not hold a wildcard"},
		{"encoded line break in the subject", "POST", "/sub/a%0D%0Ab", "{}", 400, ""},
		{"mapped", "POST", "/mapped?q=z", `{"n":{"x":[]}}`, 200, `{"n":{"x":[]},"q":"z"}`},
		{"status and type", "GET", "/status", "", 201, "<b>x</b>"},
		{"error", "POST", "/error", `{"code":"409","text":"dup"}`, 409, "dup"},
		{"error without a code", "POST", "/error", `{"text":"odd"}`, 502, "odd"},
		{"error with a success", "POST", "/error", `{"code":"200","text":"odd"}`, 502, "odd"},
		{"error by the route's map", "POST", "/error", `{"code":"500","text":"teapot"}`, 418, "teapot"},
		{"invalid JSON", "POST", "/echo/7", "{\"a\":1,\n}", 400, "line 2, column 1"},
		{"beyond the route's limit", "POST", "/small", `{"a":"12345"}`, 413, ""},
		{"beyond the bus's limit", "POST", "/echo/7", `"` + strings.Repeat("x", 2<<20) + `"`, 413, ""},
		{"bad query", "GET", "/echo/7?x=%zz", "", 400, "query"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do(tt.method, tt.target, tt.body)
			if w.Code != tt.status {
				t.Fatalf("status is %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if tt.status < 300 && w.Body.String() != tt.want || !strings.Contains(w.Body.String(), tt.want) {
				t.Fatalf("body is %s, want %s", w.Body, tt.want)
			}
		})
	}
	w := g.do("GET", "/status", "")
	if w.Header().Get("Content-Type") != "application/octet-stream" || w.Header().Get("Set-Cookie") != "" {
		t.Fatalf("headers are %v", w.Header())
	}
	if w := g.do("POST", "/echo/7", `{}`, "Content-Type", "text/plain"); w.Code != http.StatusUnsupportedMediaType {
		t.Fatalf("two content types: %d", w.Code)
	}
}

func TestBridgePassesOnlyHeadersOfTheList(t *testing.T) {
	priv, key := tokentest.Key(t, "k1")
	issuer := tokentest.NewIssuer(t)
	issuer.Publish(key)
	cfg := tokentest.Config
	g := newBusGateway(t, Config{
		Gateway: system.Gateway{Auth: system.Auth{JWT: &cfg}},
		Routes: []*system.Route{
			rawRoute("/who", system.Request{Subject: "flows.who"}, func(r *system.Route) { r.Roles = []string{"analyst"} }),
			rawRoute("/public", system.Request{Subject: "flows.who"}),
		},
	}, Options{})
	g.ready("i1")
	nc := bustest.Connect(t, g.server)
	bustest.Subscribe(t, nc, "auth.jwks", func(m *nats.Msg) {
		b, err := issuer.Ask(context.Background(), "auth.jwks")
		if err != nil {
			t.Error(err)
		}
		bustest.Respond(t, m, string(b))
	})
	seen := make(chan nats.Header, 1)
	bustest.Subscribe(t, nc, "flows.who", func(m *nats.Msg) {
		seen <- m.Header
		bustest.Respond(t, m, "{}")
	})
	token := tokentest.Sign(t, map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}, tokentest.Claims(time.Now()), tokentest.Ed(priv))
	forged := []string{
		"Fairlead-Identity", "forged", "FAIRLEAD-IDENTITY", "forged", "fairlead_identity", "forged", "Fairlead-Deadline", "1",
		"Nats-Msg-Id", "x", "Nats-Rollup", "all", "nats-ttl", "1", "Cookie", "a=b", "X-Other", "y", "Accept-Language", "de",
		"X-Request-Id", "request-0001", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	allowed := map[string]bool{
		"X-Request-Id": true, "Traceparent": true, "Tracestate": true, "Accept-Language": true, "Fairlead-Identity": true, "Fairlead-Deadline": true,
	}
	check := func(h nats.Header) {
		t.Helper()
		for name, values := range h {
			if !allowed[name] || len(values) != 1 || values[0] == "forged" || values[0] == "1" {
				t.Fatalf("header %s: %q reached the bus", name, values)
			}
		}
		if h.Get("X-Request-Id") != "request-0001" || h.Get("Accept-Language") != "de" {
			t.Fatalf("headers are %v", h)
		}
		if trace, ok := wire.ParseTrace(h.Get("Traceparent")); !ok || trace.TraceID() != "0af7651916cd43dd8448eb211c80319c" || trace.SpanID() == "b7ad6b7169203331" {
			t.Fatalf("trace is %q", h.Get("Traceparent"))
		}
		if at, ok := wire.ParseDeadline(h.Get("Fairlead-Deadline")); !ok || time.Until(at) <= 0 {
			t.Fatalf("deadline is %q", h.Get("Fairlead-Deadline"))
		}
	}

	if w := g.do("GET", "/public", "", forged...); w.Code != 200 {
		t.Fatalf("public: %d %s", w.Code, w.Body)
	}
	h := <-seen
	check(h)
	if h.Get(wire.HeaderIdentity) != "" {
		t.Fatal("identity of nobody")
	}
	if w := g.do("GET", "/who", "", forged...); w.Code != 401 || len(seen) != 0 {
		t.Fatalf("forged: %d %s", w.Code, w.Body)
	}
	if w := g.do("GET", "/who", "", append(forged, "Authorization", "Bearer "+token)...); w.Code != 200 {
		t.Fatalf("with a token: %d %s", w.Code, w.Body)
	}
	h = <-seen
	check(h)
	id, err := wire.NewVerifier(g.key, "commerce", "flows").Verify(h.Get(wire.HeaderIdentity), time.Now())
	if err != nil || id.Subject != "u1" || !id.HasRole("analyst") {
		t.Fatalf("identity is %+v, %v", id, err)
	}
}

func TestBridgeWaitsForAnInstance(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run(method, func(t *testing.T) {
			g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
			done := make(chan *httptest.ResponseRecorder, 1)
			go func() { done <- g.do(method, "/x", "") }()
			await.Until(t, "the request to wait", func() bool {
				p := g.pools["flows"]
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.waiting == 1
			})
			var asked atomic.Int64
			nc := bustest.Connect(t, g.server)
			bustest.Subscribe(t, nc, "flows.x", func(m *nats.Msg) {
				asked.Add(1)
				bustest.Respond(t, m, "1")
			})
			g.ready("i1")
			if w := <-done; w.Code != 200 || asked.Load() != 1 {
				t.Fatalf("answer is %d %s, asked %d times", w.Code, w.Body, asked.Load())
			}
		})
	}
}

func TestBridgeSubscribedLaterThanReady(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	done := make(chan *httptest.ResponseRecorder, 1)
	before := g.server.NumSubscriptions()
	go func() { done <- g.do("POST", "/x", "") }()
	await.Until(t, "the request to be sent", func() bool { return g.server.NumSubscriptions() > before })
	nc := bustest.Connect(t, g.server)
	bustest.Subscribe(t, nc, "flows.x", func(m *nats.Msg) { bustest.Respond(t, m, "1") })
	if w := <-done; w.Code != 200 {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
}

func TestBridgeTimeout(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{
		rawRoute("/x", system.Request{Subject: "flows.silent"}, timeout(500*time.Millisecond)),
	}}, Options{})
	g.ready("i1")
	nc := bustest.Connect(t, g.server)
	bustest.Subscribe(t, nc, "flows.silent", func(*nats.Msg) {})
	if w := g.do("GET", "/x", ""); w.Code != 504 || strings.Contains(w.Body.String(), "unknown") {
		t.Fatalf("GET: %d %s", w.Code, w.Body)
	}
	if w := g.do("POST", "/x", ""); w.Code != 504 || !strings.Contains(w.Body.String(), "unknown") {
		t.Fatalf("POST: %d %s", w.Code, w.Body)
	}
}

func TestBridgeNobodyAnswersTheSubject(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{
		rawRoute("/x", system.Request{Subject: "flows.unknown"}, timeout(await.Patience)),
	}}, Options{WaitForReady: 50 * time.Millisecond})
	begun := time.Now()
	w := g.do("GET", "/x", "")
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || time.Since(begun) > await.Patience/2 {
		t.Fatalf("nothing ready: %d %v", w.Code, w.Header())
	}
	g.ready("i1")
	if w := g.do("POST", "/x", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("nobody subscribed: %d %s", w.Code, w.Body)
	}
	if n := g.Failed("flows"); n != 2 {
		t.Fatalf("counts %d failures", n)
	}
}

func TestBridgeClientGone(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.silent"})}}, Options{})
	g.ready("i1")
	nc := bustest.Connect(t, g.server)
	got := make(chan struct{}, 1)
	bustest.Subscribe(t, nc, "flows.silent", func(*nats.Msg) { got <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }() // a request whose client has left is broken off
		g.doCtx(ctx, "GET", "/x", "")
	}()
	<-got
	cancel()
	<-done
	if n := g.Failed("flows"); n != 0 {
		t.Fatalf("counts %d failures", n)
	}
}

func TestBridgeInstanceLost(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1", "i2")
	nc := bustest.Connect(t, g.server)
	first := bustest.Hold(t, nc, "flows.x")
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- g.do("GET", "/x", "") }()
	<-first.Held
	first.Die(t, nc)
	second := bustest.Hold(t, nc, "flows.x")
	g.Lost("flows", "i1")
	bustest.Respond(t, <-second.Held, `"second"`)
	if w := <-done; w.Code != 200 || w.Body.String() != `"second"` {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
}

// TestBridgeMoves has the bus go and come back: what is asked meanwhile waits, within
// its deadline, and what had no reply is sent again.
func TestBridgeMoves(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{
		rawRoute("/x", system.Request{Subject: "flows.x"}),
		rawRoute("/short", system.Request{Subject: "flows.x"}, timeout(30*time.Millisecond)),
	}}, Options{})
	g.ready("i1")
	holder := bustest.Hold(t, bustest.Connect(t, g.server), "flows.x")
	got := make(chan *httptest.ResponseRecorder, 1)
	go func() { got <- g.do("GET", "/x", "") }()
	<-holder.Held
	g.HoldBus()
	if w := g.do("POST", "/short", ""); w.Code != 503 || len(holder.Held) != 0 {
		t.Errorf("while it is held: %d %s", w.Code, w.Body)
	}
	limited, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.SettleBus(limited); err == nil {
		t.Error("settled, though a request has no reply")
	}
	g.ReleaseBus()
	bustest.Respond(t, <-holder.Held, "2")
	if w := <-got; w.Code != 200 || w.Body.String() != "2" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if err := g.SettleBus(t.Context()); err != nil {
		t.Error(err)
	}
	if g.LongestHold() <= 0 {
		t.Error("nobody was held")
	}
}

// failingBus cannot publish.
type failingBus struct{ bridge.Conn }

func (failingBus) PublishMsg(*nats.Msg) error { return nats.ErrMaxPayload }

func TestBridgeCannotPublish(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	failing := bridge.New(failingBus{g.opts.Bus}, g.log)
	defer failing.Close()
	g.bridge = failing
	if w := g.do("POST", "/x", "{}"); w.Code != 413 {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
}

func TestBridgeDisconnected(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	g.server.Shutdown()
	g.server.WaitForShutdown()
	await.Until(t, "the connection to end", func() bool { return !g.opts.Bus.IsConnected() })
	if w := g.do("GET", "/x", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("answer is %d", w.Code)
	}
}

// TestBridgeErrors says what a client is told of each way in which there is no reply.
func TestBridgeErrors(t *testing.T) {
	g := newBusGateway(t, Config{}, Options{})
	tests := []struct {
		name   string
		err    error
		get    string // what is told of one that may be sent again
		post   string // of one that may not, "" for the same
		status int
	}{
		{"overdue", bridge.ErrOverdue, "the service did not answer in time", "the service did not answer in time; whether", 504},
		{"the context's time is over", context.DeadlineExceeded, "the service did not answer in time", "the service did not answer in time; whether", 504},
		{"nobody is left", bridge.ErrBereft, "the service broke off", "the service broke off; whether", 502},
		{"too large", fmt.Errorf("publish request: %w", nats.ErrMaxPayload), "the body is too large", "", 413},
		{"what no NestJS says", bridge.ErrForeign, "not a NestJS reply", "", 502},
		{"a stream without end", bridge.ErrTooLong, "too long", "", 502},
		{"full", bridge.ErrFull, "too many requests are under way", "", 503},
		{"closed before it was sent", bridge.ErrClosed, "no instance of the service is ready", "", 503},
		{"stopped on purpose", bridge.ErrHalted, "the service is stopped", "", 503},
		{"any other", errors.New("x"), "no instance of the service is ready", "", 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST"} {
				def := rawRoute("/x", system.Request{Subject: "flows.x"})
				to, err := bridge.NewRoute(def)
				if err != nil {
					t.Fatal(err)
				}
				c := bridge.NewCall()
				defer c.Free()
				if err := to.Fill(c, &data.Inputs{}, method, "request-0001"); err != nil {
					t.Fatal(err)
				}
				w := httptest.NewRecorder()
				x := &exchange{g: g.Gateway, id: "request-0001"}
				x.failAsking(w, httptest.NewRequestWithContext(t.Context(), method, "/x", http.NoBody), c, tt.err)
				want := tt.get
				if method == "POST" && tt.post != "" {
					want = tt.post
				}
				unsure := strings.Contains(w.Body.String(), "unknown")
				if w.Code != tt.status || !strings.Contains(w.Body.String(), want) || unsure != strings.Contains(want, "whether") {
					t.Errorf("%s: %d %s", method, w.Code, w.Body)
				}
				if w.Code == 503 && w.Header().Get("Retry-After") != "1" {
					t.Errorf("%s: headers are %v", method, w.Header())
				}
				if x.cause != tt.err.Error() {
					t.Errorf("%s: the access log says %q", method, x.cause)
				}
			}
		})
	}
}

// TestBridgeClosed tells the client of a request that was sent, and is not to be sent
// again, that it may have been done.
func TestBridgeClosed(t *testing.T) {
	for method, unsure := range map[string]bool{"GET": false, "POST": true} {
		t.Run(method, func(t *testing.T) {
			g := newBusGateway(t, Config{Routes: []*system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
			g.ready("i1")
			h := bustest.Hold(t, bustest.Connect(t, g.server), "flows.x")
			done := make(chan *httptest.ResponseRecorder, 1)
			go func() { done <- g.do(method, "/x", "") }()
			<-h.Held
			g.bridge.Close()
			w := <-done
			if w.Code != 503 || strings.Contains(w.Body.String(), "unknown") != unsure {
				t.Errorf("answer is %d %s", w.Code, w.Body)
			}
		})
	}
}
