package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/token/tokentest"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// busEventually waits for a condition.
func busEventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}

// busServer runs a NATS server on a loopback port.
func busServer(tb testing.TB) *server.Server {
	tb.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatal("server does not start")
	}
	return s
}

// busConnect connects over TCP and disconnects when the test ends.
func busConnect(tb testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.ClientURL(), append(opts, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

func busFlush(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	if err := nc.Flush(); err != nil {
		tb.Fatal(err)
	}
}

func busSubscribe(tb testing.TB, nc *nats.Conn, subject string, h nats.MsgHandler) *nats.Subscription {
	tb.Helper()
	sub, err := nc.QueueSubscribe(subject, "group", h)
	if err != nil {
		tb.Fatal(err)
	}
	busFlush(tb, nc)
	return sub
}

func busRespond(tb testing.TB, m *nats.Msg, body string) {
	tb.Helper()
	if err := m.Respond([]byte(body)); err != nil {
		tb.Errorf("respond: %v", err)
	}
}

// busGateway is a gateway without a listener in front of a bus.
type busGateway struct {
	*Gateway
	tb     testing.TB
	server *server.Server
	key    ed25519.PublicKey
}

func newBusGateway(tb testing.TB, config Config, opts Options) *busGateway {
	tb.Helper()
	s := busServer(tb)
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	opts.Bus = busConnect(tb, s, nats.CustomInboxPrefix("_FL.gateway.test"), nats.NoReconnect())
	opts.Signer = wire.NewSigner(priv, "commerce")
	opts.System = "commerce"
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	g := New(opts)
	tb.Cleanup(func() { g.bridge.close() })
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

func rawRoute(key string, req system.Request, more ...func(*system.Route)) system.Route {
	method, path, ok := strings.Cut(key, " ")
	if !ok {
		method, path = "", key
	}
	req.Service = "flows"
	def := system.Route{Key: key, Method: method, Path: path, Request: &req}
	for _, f := range more {
		f(&def)
	}
	return def
}

func timeout(d time.Duration) func(*system.Route) {
	return func(r *system.Route) { r.Timeout = d }
}

func TestBridgeRaw(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{
		rawRoute("/echo/{id}", system.Request{Subject: "flows.echo"}),
		rawRoute("POST /sub/{id}", system.Request{Subject: "flows.sub.{id}"}),
		rawRoute("POST /mapped", system.Request{Subject: "flows.echo", Data: map[string]any{"n": "$body.n", "q": "$query.q"}}),
		rawRoute("/status", system.Request{Subject: "flows.status"}),
		rawRoute("POST /error", system.Request{Subject: "flows.error", Errors: map[string]int{"teapot": 418}}),
		rawRoute("POST /small", system.Request{Subject: "flows.echo"}, func(r *system.Route) { r.Limits.Body = 10 }),
	}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	busSubscribe(t, nc, "flows.echo", func(m *nats.Msg) { busRespond(t, m, string(m.Data)) })
	busSubscribe(t, nc, "flows.sub.*", func(m *nats.Msg) { busRespond(t, m, `"`+m.Subject+`"`) })
	busSubscribe(t, nc, "flows.status", func(m *nats.Msg) {
		out := nats.NewMsg(m.Reply)
		out.Header.Set(wire.HeaderStatus, "201")
		out.Header.Set(wire.HeaderType, "text/html")
		out.Header.Set("Set-Cookie", "a=b")
		out.Data = []byte("<b>x</b>")
		if err := m.RespondMsg(out); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	busSubscribe(t, nc, "flows.error", func(m *nats.Msg) {
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
		Routes: []system.Route{
			rawRoute("/who", system.Request{Subject: "flows.who"}, func(r *system.Route) { r.Roles = []string{"analyst"} }),
			rawRoute("/public", system.Request{Subject: "flows.who"}),
		},
	}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	busSubscribe(t, nc, "auth.jwks", func(m *nats.Msg) {
		b, err := issuer.Ask(context.Background(), "auth.jwks")
		if err != nil {
			t.Error(err)
		}
		busRespond(t, m, string(b))
	})
	seen := make(chan nats.Header, 1)
	busSubscribe(t, nc, "flows.who", func(m *nats.Msg) {
		seen <- m.Header
		busRespond(t, m, "{}")
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
			g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
			done := make(chan *httptest.ResponseRecorder, 1)
			go func() { done <- g.do(method, "/x", "") }()
			busEventually(t, "the request to wait", func() bool {
				p := g.pools["flows"]
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.waiting == 1
			})
			var asked atomic.Int64
			nc := busConnect(t, g.server)
			busSubscribe(t, nc, "flows.x", func(m *nats.Msg) {
				asked.Add(1)
				busRespond(t, m, "1")
			})
			g.ready("i1")
			if w := <-done; w.Code != 200 || asked.Load() != 1 {
				t.Fatalf("answer is %d %s, asked %d times", w.Code, w.Body, asked.Load())
			}
		})
	}
}

func TestBridgeSubscribedLaterThanReady(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	done := make(chan *httptest.ResponseRecorder, 1)
	before := g.server.NumSubscriptions()
	go func() { done <- g.do("POST", "/x", "") }()
	busEventually(t, "the request to be sent", func() bool { return g.server.NumSubscriptions() > before })
	nc := busConnect(t, g.server)
	busSubscribe(t, nc, "flows.x", func(m *nats.Msg) { busRespond(t, m, "1") })
	if w := <-done; w.Code != 200 {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
}

func TestBridgeNobodyAnswersTheSubject(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{
		rawRoute("/x", system.Request{Subject: "flows.unknown"}, timeout(5*time.Second)),
	}}, Options{WaitForReady: 50 * time.Millisecond})
	begun := time.Now()
	w := g.do("GET", "/x", "")
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || time.Since(begun) > 5*time.Second {
		t.Fatalf("nothing ready: %d %v", w.Code, w.Header())
	}
	g.ready("i1")
	if w := g.do("POST", "/x", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("nobody subscribed: %d %s", w.Code, w.Body)
	}
	if n := g.Failed("flows"); n != 2 {
		t.Fatalf("counts %d failures", n)
	}
	if b := g.bridge.table; len(b.replies) != 0 || b.open != 0 {
		t.Fatalf("left behind: %d attempts, %d calls", len(b.replies), b.open)
	}
}

func TestBridgeTimeout(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{
		rawRoute("/x", system.Request{Subject: "flows.silent"}, timeout(50*time.Millisecond)),
	}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	busSubscribe(t, nc, "flows.silent", func(*nats.Msg) {})
	if w := g.do("GET", "/x", ""); w.Code != 504 || strings.Contains(w.Body.String(), "unknown") {
		t.Fatalf("GET: %d %s", w.Code, w.Body)
	}
	if w := g.do("POST", "/x", ""); w.Code != 504 || !strings.Contains(w.Body.String(), "unknown") {
		t.Fatalf("POST: %d %s", w.Code, w.Body)
	}
}

func TestBridgeClientGone(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.silent"})}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	got := make(chan struct{}, 1)
	busSubscribe(t, nc, "flows.silent", func(*nats.Msg) { got <- struct{}{} })
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
	if b := g.bridge.table; len(b.replies) != 0 || b.open != 0 {
		t.Fatalf("left behind: %d attempts, %d calls", len(b.replies), b.open)
	}
	if n := g.Failed("flows"); n != 0 {
		t.Fatalf("counts %d failures", n)
	}
}

// busHolder answers nothing until it is told to.
type busHolder struct {
	sub  *nats.Subscription
	held chan *nats.Msg
}

func newBusHolder(tb testing.TB, nc *nats.Conn, subject string) *busHolder {
	tb.Helper()
	h := &busHolder{held: make(chan *nats.Msg, 10000)}
	h.sub = busSubscribe(tb, nc, subject, func(m *nats.Msg) { h.held <- m })
	return h
}

func (h *busHolder) die(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	if err := h.sub.Unsubscribe(); err != nil {
		tb.Fatal(err)
	}
	busFlush(tb, nc)
}

func TestBridgeInstanceLost(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{
		rawRoute("/x", system.Request{Subject: "flows.x"}, timeout(2*time.Second)),
		rawRoute("POST /again", system.Request{Subject: "flows.x"}, func(r *system.Route) { r.Retry = true }),
	}}, Options{})
	g.ready("i1", "i2")
	nc := busConnect(t, g.server)
	first := newBusHolder(t, nc, "flows.x")
	type result struct {
		what string
		w    *httptest.ResponseRecorder
	}
	results := make(chan result, 3)
	go func() { results <- result{"get", g.do("GET", "/x?n=get", "")} }()
	go func() { results <- result{"post", g.do("POST", "/x", `{"n":"post"}`)} }()
	go func() { results <- result{"again", g.do("POST", "/again", `{"n":"again"}`)} }()
	var held []*nats.Msg
	for range 3 {
		held = append(held, <-first.held)
	}
	first.die(t, nc)
	second := newBusHolder(t, nc, "flows.x")
	g.Lost("flows", "i1")
	for range 2 { // the GET and the POST that may be sent again
		m := <-second.held
		if strings.Contains(string(m.Data), "post") {
			t.Fatal("a POST was sent again")
		}
		busRespond(t, m, `"second"`)
	}
	for range 2 {
		if r := <-results; r.what == "post" || r.w.Code != 200 || r.w.Body.String() != `"second"` {
			t.Fatalf("%s: %d %s", r.what, r.w.Code, r.w.Body)
		}
	}
	// What the first instance says after all is too late for two of them.
	for _, m := range held {
		busRespond(t, m, `"first"`)
	}
	if r := <-results; r.what != "post" || r.w.Code != 200 || r.w.Body.String() != `"first"` {
		t.Fatalf("%s: %d %s", r.what, r.w.Code, r.w.Body)
	}
	if len(second.held) != 0 {
		t.Fatal("sent more than once more")
	}
}

func TestBridgeLastInstanceLost(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	first := newBusHolder(t, nc, "flows.x")
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- g.do("GET", "/x", "") }()
	<-first.held
	first.die(t, nc)
	g.ready()
	g.Lost("flows", "i1")
	busEventually(t, "the request to wait for an instance", func() bool {
		p := g.pools["flows"]
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.waiting == 1
	})
	second := newBusHolder(t, nc, "flows.x")
	g.ready("i2")
	busRespond(t, <-second.held, `"second"`)
	if w := <-done; w.Code != 200 || w.Body.String() != `"second"` {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
}

func TestBridgeDrainingInstanceAnswersWhileNoneIsReady(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{WaitForReady: time.Minute})
	g.ready("i1")
	nc := busConnect(t, g.server)
	first := newBusHolder(t, nc, "flows.x")
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- g.do("GET", "/x", "") }()
	m := <-first.held
	first.die(t, nc) // its subscription ends, it goes on with what it has
	g.ready()
	g.Lost("flows", "other")
	busEventually(t, "the request to wait for an instance", func() bool {
		p := g.pools["flows"]
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.waiting == 1
	})
	busRespond(t, m, `"first"`)
	if w := <-done; w.Code != 200 || w.Body.String() != `"first"` {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
}

func TestBridgeResendsAreBounded(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"}, timeout(5*time.Second))}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	h := newBusHolder(t, nc, "flows.x")
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- g.do("GET", "/x", "") }()
	for range 1 + resendsMost {
		m := <-h.held
		g.Lost("flows", "i1")
		defer busRespond(t, m, "1")
	}
	g.Lost("flows", "i1")
	tr := g.bridge.table.traffic["flows"]
	busEventually(t, "the last wish to be refused", func() bool {
		g.bridge.table.mu.Lock()
		defer g.bridge.table.mu.Unlock()
		return !tr.first.resend
	})
	if got := tr.budget; got != resendsFirst+1-resendsMost {
		t.Fatalf("budget is %d", got)
	}
	if len(h.held) != 0 {
		t.Fatal("sent more often than allowed")
	}
	g.bridge.table.mu.Lock()
	tr.budget = 0
	g.bridge.table.mu.Unlock()
	second := make(chan *httptest.ResponseRecorder, 1)
	go func() { second <- g.do("GET", "/x", "") }()
	m := <-h.held
	g.bridge.table.mu.Lock()
	tr.budget = 0
	g.bridge.table.mu.Unlock()
	g.Lost("flows", "i1")
	busEventually(t, "the wish to be refused", func() bool {
		g.bridge.table.mu.Lock()
		defer g.bridge.table.mu.Unlock()
		return !tr.last.resend
	})
	busRespond(t, m, "2")
	if w := <-second; w.Code != 200 {
		t.Fatalf("answer is %d", w.Code)
	}
	if len(h.held) != 0 {
		t.Fatal("sent without a budget")
	}
	g.bridge.close()
	if w := <-done; w.Code != 503 {
		t.Fatalf("closed: %d", w.Code)
	}
	if w := g.do("GET", "/x", ""); w.Code != 503 {
		t.Fatalf("after close: %d", w.Code)
	}
}

func TestBridgeWokenForNothingSendsNothing(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	h := newBusHolder(t, nc, "flows.x")
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- g.do("GET", "/x", "") }()
	m := <-h.held
	b := g.bridge.table
	for range 3 {
		b.mu.Lock()
		c := b.traffic["flows"].first
		c.rouse()
		b.mu.Unlock()
		busEventually(t, "the wake-up to be taken", func() bool { return len(c.wake) == 0 })
	}
	busRespond(t, m, "1")
	if w := <-done; w.Code != 200 || len(h.held) != 0 {
		t.Fatalf("answer is %d, sent %d times more", w.Code, len(h.held))
	}
}

// failingBus cannot publish.
type failingBus struct{ BusConn }

func (failingBus) PublishMsg(*nats.Msg) error { return nats.ErrMaxPayload }

func TestBridgeCannotPublish(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	g.bridge.sender.conn = failingBus{g.bridge.conn}
	if w := g.do("POST", "/x", "{}"); w.Code != 413 {
		t.Fatalf("answer is %d %s", w.Code, w.Body)
	}
	if b := g.bridge.table; len(b.replies) != 0 || b.open != 0 {
		t.Fatalf("left behind: %d attempts, %d calls", len(b.replies), b.open)
	}
}

func TestBridgeSenderWithdraws(t *testing.T) {
	s := &sender{conn: failingBus{}}
	c := newCall()
	defer c.free()
	s.leading = true // somebody else is about to publish
	s.send(c)
	if !c.queued || len(s.queue) != 1 {
		t.Fatal("not queued")
	}
	s.withdraw(c)
	s.withdraw(c)
	if c.queued || s.queue[0] != nil {
		t.Fatal("still queued")
	}
	s.leading = false
	other := newCall()
	defer other.free()
	s.send(other)
	if c.unsent != nil || s.failure(other) == nil || len(s.queue) != 0 {
		t.Fatalf("published %v, %v", c.unsent, other.unsent)
	}
}

func TestBridgeSettle(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	b := g.bridge
	if err := b.settle(t.Context(), "flows"); err != nil {
		t.Fatalf("nothing outstanding: %v", err)
	}
	nc := busConnect(t, g.server)
	h := newBusHolder(t, nc, "flows.x")
	var wg sync.WaitGroup
	ask := func() *nats.Msg {
		wg.Go(func() {
			if w := g.do("GET", "/x", ""); w.Code != 200 {
				t.Errorf("answer is %d", w.Code)
			}
		})
		return <-h.held
	}
	old := ask()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.settle(short, "flows"); err == nil {
		t.Fatal("settled with a request outstanding")
	}
	settled := make(chan error, 1)
	go func() { settled <- b.settle(context.Background(), "flows") }()
	busEventually(t, "somebody to wait", func() bool {
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		return len(b.table.traffic["flows"].settlers) == 1
	})
	young := ask() // sent after the call: not waited for
	busRespond(t, old, "1")
	if err := <-settled; err != nil {
		t.Fatal(err)
	}
	busRespond(t, young, "1")
	wg.Wait()
}

func TestBridgeSettleIgnoresWhatWaitsForAnInstance(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- g.do("POST", "/x", "") }()
	busEventually(t, "the request to wait", func() bool {
		p := g.pools["flows"]
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.waiting == 1
	})
	if err := g.bridge.settle(t.Context(), "flows"); err != nil {
		t.Fatal(err)
	}
	nc := busConnect(t, g.server)
	busSubscribe(t, nc, "flows.x", func(m *nats.Msg) { busRespond(t, m, "1") })
	g.ready("i1")
	if w := <-done; w.Code != 200 {
		t.Fatalf("answer is %d", w.Code)
	}
}

func TestBridgeIsBounded(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	b := g.bridge.table
	b.mu.Lock()
	b.open = openMost
	b.mu.Unlock()
	if w := g.do("GET", "/x", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("answer is %d %v", w.Code, w.Header())
	}
	if b.open != openMost {
		t.Fatalf("counts %d", b.open)
	}
}

func TestBridgeWithoutBus(t *testing.T) {
	var b *bridge
	b.lost("flows", "i1")
	b.close()
	if err := b.settle(t.Context(), "flows"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ask(t.Context(), "auth.jwks"); err == nil {
		t.Fatal("asked nobody")
	}
	w := httptest.NewRecorder()
	b.serve(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody), &exchange{g: New(Options{}), id: "test-0001"})
	if w.Code != 503 {
		t.Fatalf("answer is %d", w.Code)
	}
}

func TestBridgeDisconnected(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x", system.Request{Subject: "flows.x"})}}, Options{})
	g.ready("i1")
	if w := g.do("GET", "/x", "", "Accept", "application/json"); w.Code != 503 {
		t.Fatalf("answer is %d", w.Code)
	}
	g.server.Shutdown()
	g.server.WaitForShutdown()
	busEventually(t, "the connection to end", func() bool { return !g.bridge.conn.IsConnected() })
	if w := g.do("GET", "/x", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("answer is %d", w.Code)
	}
}

func TestBridgeAsk(t *testing.T) {
	g := newBusGateway(t, Config{}, Options{})
	nc := busConnect(t, g.server)
	busSubscribe(t, nc, "auth.jwks", func(m *nats.Msg) { busRespond(t, m, string(m.Data)) })
	if b, err := g.bridge.ask(t.Context(), "auth.jwks"); err != nil || string(b) != "{}" {
		t.Fatalf("ask: %q, %v", b, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := g.bridge.ask(ctx, "nobody.home"); err == nil {
		t.Fatal("nobody answered")
	}
}

// TestBridgeStress has instances come, die and drain under load: every request is
// answered once, with a success or a clear status, and nothing is left behind.
func TestBridgeStress(t *testing.T) {
	g := newBusGateway(t, Config{Routes: []system.Route{rawRoute("/x/{n}", system.Request{Subject: "flows.x"}, timeout(5*time.Second))}}, Options{})
	g.ready("i1")
	nc := busConnect(t, g.server)
	handle := func(m *nats.Msg) { busRespond(t, m, string(m.Data)) }
	keep := busSubscribe(t, nc, "flows.x", handle)
	stop := make(chan struct{})
	var churn, load sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			h := newBusHolder(t, nc, "flows.x")
			for len(h.held) == 0 { // takes some requests to its grave
				select {
				case <-stop:
					h.die(t, nc)
					g.Lost("flows", "i2")
					return
				case m := <-h.held:
					h.held <- m
				}
			}
			h.die(t, nc)
			g.Lost("flows", "i2")
			_ = g.bridge.settle(t.Context(), "flows")
		}
	})
	var failed atomic.Int64
	for range 8 {
		load.Go(func() {
			for range 100 {
				w := g.do("GET", "/x/7", "")
				if w.Code != 200 || w.Body.String() != `{"n":"7"}` {
					failed.Add(1)
				}
			}
		})
	}
	load.Wait()
	close(stop)
	churn.Wait()
	if n := failed.Load(); n != 0 {
		t.Fatalf("%d requests failed", n)
	}
	if err := keep.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	b := g.bridge.table
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.replies) != 0 || b.open != 0 || b.traffic["flows"].first != nil {
		t.Fatalf("left behind: %d attempts, %d calls", len(b.replies), b.open)
	}
}

func TestBridgeStartStop(t *testing.T) {
	s := busServer(t)
	nc := busConnect(t, s)
	log := slog.New(slog.DiscardHandler)
	for range 20 {
		b := newBridge(nc, nil, log)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				defer cancel()
				_, _ = b.ask(ctx, "nobody.home")
			})
		}
		wg.Go(func() { b.lost("", "") })
		wg.Go(func() { _ = b.settle(context.Background(), "") })
		b.close()
		wg.Wait()
		b.close()
	}
	busEventually(t, "the subscriptions to end", func() bool { return nc.NumSubscriptions() == 0 })
}
