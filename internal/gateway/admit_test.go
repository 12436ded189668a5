package gateway

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

func networks(tb testing.TB, list ...string) []netip.Prefix {
	tb.Helper()
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			tb.Fatal(err)
		}
		out[i] = p
	}
	return out
}

// seen is what a service was told last.
type seen struct {
	mu sync.Mutex
	r  *http.Request
}

func (s *seen) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.r = r
	s.mu.Unlock()
	_, _ = io.WriteString(w, "served")
}

func (s *seen) header() http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil {
		return http.Header{}
	}
	return s.r.Header
}

// guarded applies a configuration whose routes all lead to one service.
func (d *door) guarded(gw system.Gateway, routes []*system.Route, ep Endpoint, secrets map[string]string) {
	d.t.Helper()
	for i := range routes {
		routes[i].Key = strings.TrimPrefix(routes[i].Method+" "+routes[i].Path, " ")
		if routes[i].Targets == nil {
			routes[i].Targets = []system.Target{{Service: "api", Weight: 1}}
		}
	}
	err := d.Apply(Config{
		Gateway: gw, Routes: routes, Services: servicesOf("api", "auth"), Secrets: secrets,
		Endpoints: map[string][]Endpoint{"api": {ep}},
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

func header(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			// As it stands, not in canonical form.
			r.Header[pairs[i]] = append(r.Header[pairs[i]], pairs[i+1])
		}
	}
}

func TestForwardedHeadersOfUntrustedPeersAreNotBelieved(t *testing.T) {
	var s seen
	d := openDoor(t, Options{})
	ep := serviceOf(t, "api-1", s.serve)
	d.guarded(system.Gateway{TrustedProxies: networks(t, "10.0.0.0/8")}, []*system.Route{
		{Path: "/"}, {Path: "/inside", Filters: system.Filters{Allow: networks(t, "192.0.2.0/24")}},
	}, ep, nil)
	lie := "192.0.2.7"
	for _, name := range []string{
		"X-Forwarded-For", "x-forwarded-for", "X_Forwarded_For", "X-Forwarded_For", "X.Forwarded.For", "X-FORWARDED-FOR", "x_forwarded-for",
		"Forwarded", "FORWARDED", "X-Real-Ip", "X_Real_IP", "X-Real_ip", "X-Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host",
		"X_Forwarded_Proto", "X-Forwarded-Port", "X-Forwarded-Server", "X-Original-Uri", "X-Original_Method", "x-original-host",
	} {
		value := lie
		if strings.EqualFold(name, "Forwarded") {
			value = "for=" + lie + ";proto=https;host=evil.example"
		}
		raw := func(path string) string {
			return d.raw("GET " + path + " HTTP/1.1\r\nHost: door.example\r\n" + name + ": " + value + "\r\nConnection: close\r\n\r\n")
		}
		if res := raw("/inside"); !strings.HasPrefix(res, "HTTP/1.1 403") {
			t.Errorf("%s was believed: %.40q", name, res)
		}
		if res := raw("/"); !strings.HasPrefix(res, "HTTP/1.1 200") {
			t.Fatalf("%s: %.80q", name, res)
		}
		want := map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "door.example",
			"Forwarded": `for=127.0.0.1;host="door.example";proto=http`,
		}
		for got, values := range s.header() {
			if hop.Same(got, "x-forwarded-for") || hop.Same(got, "x-forwarded-proto") || hop.Same(got, "x-forwarded-host") || hop.Same(got, "forwarded") {
				if len(values) != 1 || want[got] != values[0] {
					t.Errorf("%s: the service was told %s: %q", name, got, values)
				}
				delete(want, got)
				continue
			}
			if slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, lie) }) {
				t.Errorf("%s: the service was told %s: %q", name, got, values)
			}
		}
		if len(want) != 0 {
			t.Errorf("%s: the service was not told %v", name, want)
		}
	}
	if strings.Contains(d.log.String(), lie) {
		t.Error("the access log names an address that was made up")
	}
}

func TestTrustedProxyNamesTheClient(t *testing.T) {
	var s seen
	d := openDoor(t, Options{})
	d.guarded(system.Gateway{TrustedProxies: networks(t, "127.0.0.0/8", "10.0.0.0/8"), Filters: system.Filters{Deny: networks(t, "198.51.100.0/24")}},
		[]*system.Route{{Path: "/"}, {Path: "/inside", Filters: system.Filters{Allow: networks(t, "192.0.2.0/24"), Deny: networks(t, "192.0.2.66/32")}}},
		serviceOf(t, "api-1", s.serve), nil)
	tests := []struct {
		name, path, chain string
		status            int
	}{
		{"allowed", "/inside", "1.1.1.1, 192.0.2.7, 10.0.0.1", 200},
		{"denied comes before allowed", "/inside", "192.0.2.66", 403},
		{"not allowed", "/inside", "203.0.113.1", 403},
		{"denied by the gateway", "/", "198.51.100.1", 403},
		{"denied by the gateway, without a route", "/none/at/all", "198.51.100.1", 403},
		{"an allowed address further left", "/inside", "192.0.2.7, 203.0.113.1", 403},
		{"a denied address further left", "/", "198.51.100.1, 203.0.113.1", 200},
		{"mapped", "/", "::ffff:198.51.100.1", 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := d.do("GET", tt.path, nil, header("X-Forwarded-For", tt.chain, "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.example"))
			if res.StatusCode != tt.status {
				t.Fatalf("status %d, %s", res.StatusCode, body)
			}
			if tt.status == 403 && (!strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") || strings.Contains(body, "198.51")) {
				t.Errorf("refused with %s: %s", res.Header.Get("Content-Type"), body)
			}
		})
	}
	d.do("GET", "/", nil, header("X-Forwarded-For", "1.1.1.1, 203.0.113.9, 10.0.0.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.example"))
	h := s.header()
	if got := h.Get("X-Forwarded-For"); got != "203.0.113.9, 10.0.0.1, 127.0.0.1" {
		t.Errorf("X-Forwarded-For: %s", got)
	}
	if h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-Host") != "shop.example" {
		t.Errorf("the service was told %v", h)
	}
	await.Until(t, "the access log names the client", func() bool { return strings.Contains(d.log.String(), `"client":"203.0.113.9"`) })
	if n := d.Refused()["address"]; n != 6 {
		t.Errorf("%d refusals by address were counted", n)
	}
	await.Until(t, "the access log says why", func() bool { return strings.Contains(d.log.String(), `"error":"address: `) })
}

// knock asks on a new connection and returns all that comes back. The gateway may
// close it before it has read anything.
func (d *door) knock() string {
	d.t.Helper()
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n")
	all, _ := io.ReadAll(c)
	return string(all)
}

func TestBansHoldOnKeptConnections(t *testing.T) {
	d := openDoor(t, Options{})
	d.guarded(system.Gateway{}, []*system.Route{{Path: "/"}}, serviceOf(t, "api-1", text("served")), nil)
	get := func() int {
		res, _ := d.do("GET", "/", nil, nil)
		return res.StatusCode
	}
	if get() != 200 || len(d.Bans()) != 0 {
		t.Fatal("refused without a ban")
	}
	d.SetBans([]Ban{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Reason: "a secret reason"}})
	if get() != 403 || d.turnsAway(netip.MustParseAddr("10.0.0.1")) {
		t.Error("the ban does not hold")
	}
	if answer := d.knock(); answer != "" {
		t.Errorf("a new connection of a banned client got %q", answer)
	}
	if len(d.Bans()) != 1 {
		t.Error("the ban is not listed")
	}
	await.Until(t, "the access log says why", func() bool { return strings.Contains(d.log.String(), "ban: 127.0.0.0/8 a secret reason") })
	d.SetBans([]Ban{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Until: time.Now().Add(-time.Second)}})
	if get() != 200 || len(d.Bans()) != 0 {
		t.Error("a ban that is over holds")
	}
	d.SetBans(nil)
	if get() != 200 || d.Refused()["ban"] != 2 {
		t.Error("lifted, but refused")
	}
}

// TestBansCutWhatIsOpen bans a client that holds a WebSocket and a stream of events.
func TestBansCutWhatIsOpen(t *testing.T) {
	d := openDoor(t, Options{})
	d.oneService("api", serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, switching)
		io.Copy(io.Discard, c)
	}))
	res, err := d.client.Get(d.URL() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, socket := d.rawWebSocket()
	await.Until(t, "both are open", func() bool { return d.lasting.Len() == 2 })
	d.SetBans([]Ban{{Prefix: netip.MustParsePrefix("203.0.113.0/24")}})
	if d.lasting.Len() != 2 {
		t.Error("the ban of another ends them")
	}
	d.SetBans([]Ban{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}})
	if b, err := io.ReadAll(socket); len(b) > 0 {
		t.Errorf("the WebSocket got %q, then %v", b, err)
	}
	if b, _ := io.ReadAll(res.Body); len(b) > 0 {
		t.Errorf("the stream got %q", b)
	}
	await.Until(t, "none is open", func() bool { return d.lasting.Len() == 0 })
	if f := d.Pools()[0].Faults; f.Broken != 0 {
		t.Error("it counts against the service")
	}
}

func TestBansWhileTheSystemStarts(t *testing.T) {
	d := openDoor(t, Options{})
	d.SetBans([]Ban{{Prefix: netip.MustParsePrefix("127.0.0.1/32")}})
	if answer := d.knock(); answer != "" {
		t.Errorf("got %q", answer)
	}
}

func TestBanBehindTrustedProxy(t *testing.T) {
	d := openDoor(t, Options{})
	d.guarded(system.Gateway{TrustedProxies: networks(t, "127.0.0.0/8")}, []*system.Route{{Path: "/"}}, serviceOf(t, "api-1", text("served")), nil)
	d.SetBans([]Ban{{Prefix: netip.MustParsePrefix("203.0.113.0/24")}, {Prefix: netip.MustParsePrefix("127.0.0.0/8")}})
	for chain, want := range map[string]int{"203.0.113.5": 403, "203.0.114.5": 200, "203.0.114.5, 203.0.113.5": 403} {
		if res, _ := d.do("GET", "/", nil, header("X-Forwarded-For", chain)); res.StatusCode != want {
			t.Errorf("%s: %d", chain, res.StatusCode)
		}
	}
	if d.turnsAway(netip.MustParseAddr("127.0.0.1")) {
		t.Error("the connection of a trusted proxy would be closed")
	}
}

func TestBansStress(t *testing.T) {
	d := openDoor(t, Options{AccessLog: io.Discard})
	d.guarded(system.Gateway{}, []*system.Route{{Path: "/"}}, serviceOf(t, "api-1", text("served")), nil)
	var quit atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := 0; !quit.Load(); i++ {
				d.SetBans([]Ban{{Prefix: netip.MustParsePrefix(fmt.Sprintf("127.0.0.%d/32", 1+i%2))}})
				d.Bans()
			}
		})
	}
	for range 300 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.RemoteAddr = "127.0.0.1:9"
		d.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 403 {
			t.Fatalf("status %d", w.Code)
		}
	}
	quit.Store(true)
	wg.Wait()
}

func TestRatesAnswer429(t *testing.T) {
	d := openDoor(t, Options{})
	gw := system.Gateway{
		TrustedProxies: networks(t, "127.0.0.0/8"),
		Filters:        system.Filters{Rates: []system.Rate{{Requests: 3, Per: time.Hour, By: system.ByClient}}},
	}
	routes := func() []*system.Route {
		return []*system.Route{
			{Path: "/"},
			{Path: "/free", Filters: system.Filters{RatesSet: true}},
			{Path: "/tight", Filters: system.Filters{Rates: []system.Rate{{Requests: 1, Per: time.Minute, Burst: 2, By: system.ByRoute}}}},
		}
	}
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("RateLimit", "of the service") })
	d.guarded(gw, routes(), ep, nil)
	get := func(path, client string) *http.Response {
		res, _ := d.do("GET", path, nil, header("X-Forwarded-For", client))
		return res
	}
	for i := range 3 {
		res := get("/", "192.0.2.1")
		if res.StatusCode != 200 || res.Header.Get("RateLimit-Policy") != `"client-3-1h";q=3;w=3600` {
			t.Fatalf("request %d: %d %v", i, res.StatusCode, res.Header)
		}
		if got, want := res.Header["Ratelimit"], fmt.Sprintf(`"client-3-1h";r=%d;t=%d`, 2-i, 1200*(i+1)); len(got) != 1 || got[0] != want {
			t.Errorf("RateLimit: %q, want %q", got, want)
		}
	}
	d.guarded(gw, routes(), ep, nil) // a reload forgives nothing
	res := get("/", "192.0.2.1")
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" || res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(res.Header.Get("RateLimit"), ";r=0;") {
		t.Errorf("beyond the rate: %d %v", res.StatusCode, res.Header)
	}
	if get("/", "192.0.2.2").StatusCode != 200 || get("/free", "192.0.2.1").StatusCode != 200 {
		t.Error("another client, or a route without rates, is refused")
	}
	if get("/tight", "192.0.2.1").StatusCode != 200 || get("/tight", "192.0.2.2").StatusCode != 200 || get("/tight", "192.0.2.3").StatusCode != 429 {
		t.Error("the rate of a route counts all its clients")
	}
	if n := d.Refused()["rate"]; n != 2 {
		t.Errorf("%d refusals by rate were counted", n)
	}
	await.Until(t, "the access log says why", func() bool { return strings.Contains(d.log.String(), `"error":"rate: by route`) })
}

func TestRatesByTokenFollowTheUser(t *testing.T) {
	d := openDoor(t, Options{})
	rates := []system.Rate{{Requests: 2, Per: time.Hour, By: system.ByToken}}
	d.guarded(system.Gateway{
		TrustedProxies: networks(t, "127.0.0.0/8"),
		Auth:           system.Auth{Keys: &system.Keys{Header: "X-API-Key", Keys: []system.Credential{{Name: "ada", Secret: "A"}, {Name: "bob", Secret: "B"}}}},
	}, []*system.Route{{Path: "/", Filters: system.Filters{Rates: rates}}}, serviceOf(t, "api-1", text("served")), map[string]string{"A": "key-a", "B": "key-b"})
	tests := []struct {
		key, client string
		want        int
	}{
		{"key-a", "192.0.2.1", 200},
		{"key-a", "192.0.2.2", 200},
		{"key-a", "192.0.2.3", 429},
		{"key-b", "192.0.2.3", 200},
		{"", "192.0.2.4", 200},
		{"", "192.0.2.4", 200},
		{"", "192.0.2.4", 429},
		{"", "192.0.2.5", 200},
	}
	for _, tt := range tests {
		edit := header("X-Forwarded-For", tt.client)
		if tt.key != "" {
			edit = header("X-Forwarded-For", tt.client, "X-Api-Key", tt.key)
		}
		if res, _ := d.do("GET", "/", nil, edit); res.StatusCode != tt.want {
			t.Errorf("%+v: %d", tt, res.StatusCode)
		}
	}
}

func TestCORSAtTheDoor(t *testing.T) {
	d := openDoor(t, Options{})
	hits := atomic.Int64{}
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		_, _ = io.WriteString(w, r.Method)
	})
	some := &system.CORS{Origins: []string{"https://app.example.com"}, Methods: []string{"GET", "POST"}, Headers: []string{"X-A"}, Credentials: true, MaxAge: time.Minute}
	d.guarded(system.Gateway{
		Filters: system.Filters{CORS: some},
		Auth:    system.Auth{Basic: &system.Basic{Realm: "door", Users: []system.Credential{{Name: "ada", Secret: "A"}}}},
	}, []*system.Route{
		{Path: "/"},
		{Method: "POST", Path: "/post", Auth: []system.AuthMethod{system.AuthBasic}},
		{Path: "/own", Filters: system.Filters{CORS: &system.CORS{}}},
	}, ep, map[string]string{"A": "secret"})
	const good, evil = "https://app.example.com", "https://evil.example.com"
	tests := []struct {
		name, method, path, origin, asks string
		status                           int
		allow                            string // Access-Control-Allow-Origin
		served                           bool
	}{
		{"preflight", "OPTIONS", "/", good, "POST", 204, good, false},
		{"preflight of a route of one method, without credentials", "OPTIONS", "/post", good, "POST", 204, good, false},
		{"preflight of another origin", "OPTIONS", "/", evil, "POST", 403, "", false},
		{"preflight of no route", "OPTIONS", "/post", good, "DELETE", 204, good, false}, // that of "/"
		{"plain OPTIONS", "OPTIONS", "/", good, "", 200, good, true},
		{"request", "GET", "/", good, "", 200, good, true},
		{"request of another origin", "GET", "/", evil, "", 200, "", true},
		{"request without origin", "GET", "/", "", "", 200, "", true},
		{"refused request", "POST", "/post", good, "", 401, good, false},
		{"a route that leaves it to the service", "GET", "/own", evil, "", 200, "*", true},
		{"preflight of such a route", "OPTIONS", "/own", evil, "GET", 200, "*", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := hits.Load()
			res, _ := d.do(tt.method, tt.path, nil, func(r *http.Request) {
				if tt.origin != "" {
					r.Header.Set("Origin", tt.origin)
				}
				if tt.asks != "" {
					r.Header.Set("Access-Control-Request-Method", tt.asks)
				}
			})
			if got := strings.Join(res.Header["Access-Control-Allow-Origin"], "|"); res.StatusCode != tt.status || got != tt.allow {
				t.Errorf("status %d, Access-Control-Allow-Origin %q", res.StatusCode, got)
			}
			if served := hits.Load() > before; served != tt.served {
				t.Errorf("served is %v", served)
			}
			if tt.path != "/own" && tt.status != 403 && !strings.Contains(strings.Join(res.Header["Vary"], ","), "Origin") {
				t.Errorf("Vary: %q", res.Header["Vary"])
			}
			if tt.allow == "" && res.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
		})
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestLoginMethods(t *testing.T) {
	var s seen
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := openDoor(t, Options{Signer: wire.NewSigner(private, "test")})
	gw := system.Gateway{
		TrustedProxies: networks(t, "127.0.0.0/8"),
		Auth: system.Auth{
			Basic: &system.Basic{Realm: "the door", Users: []system.Credential{{Name: "ada", Secret: "ADA", Roles: []string{"admin"}}, {Name: "bob", Secret: "BOB"}}},
			Keys:  &system.Keys{Header: "X-API-Key", Keys: []system.Credential{{Name: "robot", Secret: "ROBOT", Roles: []string{"writer"}}}},
		},
	}
	d.guarded(gw, []*system.Route{
		{Path: "/public"},
		{Path: "/basic", Auth: []system.AuthMethod{system.AuthBasic}},
		{Path: "/key", Auth: []system.AuthMethod{system.AuthKeys}},
		{Path: "/any", Auth: []system.AuthMethod{system.AuthBasic, system.AuthKeys}},
		{Path: "/admin", Roles: []string{"admin", "writer"}},
		{Path: "/admin-basic", Roles: []string{"admin"}, Auth: []system.AuthMethod{system.AuthBasic}},
	}, serviceOf(t, "api-1", s.serve), map[string]string{"ADA": "a:da", "BOB": "bobs", "ROBOT": "key-1"})
	ada, bob, robot := []string{"Authorization", basic("ada", "a:da")}, []string{"Authorization", basic("bob", "bobs")}, []string{"X-Api-Key", "key-1"}
	tests := []struct {
		name, path string
		with       []string
		status     int
		user       string
	}{
		{"password", "/basic", ada, 200, "ada"},
		{"password, any", "/any", bob, 200, "bob"},
		{"key", "/key", robot, 200, "robot"},
		{"key in another spelling", "/key", []string{"x-api-key", "key-1"}, 200, "robot"},
		{"key, any", "/any", robot, 200, "robot"},
		{"role by password", "/admin", ada, 200, "ada"},
		{"role by key", "/admin", robot, 200, "robot"},
		{"role missing", "/admin", bob, 403, ""},
		{"role, but another way", "/admin-basic", robot, 401, ""},
		{"nothing", "/basic", nil, 401, ""},
		{"wrong password", "/basic", []string{"Authorization", basic("ada", "x")}, 401, ""},
		{"unknown user", "/basic", []string{"Authorization", basic("zoe", "a:da")}, 401, ""},
		{"key where a password is asked for", "/basic", robot, 401, ""},
		{"password where a key is asked for", "/key", ada, 401, ""},
		{"wrong key", "/key", []string{"X-Api-Key", "key-2"}, 401, ""},
		{"wrong key, right password", "/any", []string{"X-Api-Key", "key-2", "Authorization", basic("bob", "bobs")}, 200, "bob"},
		{"wrong password, right key", "/any", []string{"X-Api-Key", "key-1", "Authorization", basic("bob", "")}, 200, "robot"},
		{"two keys", "/key", []string{"X-Api-Key", "key-1", "X-Api-Key", "key-1"}, 401, ""},
		{"two authorizations", "/basic", []string{"Authorization", basic("ada", "a:da"), "Authorization", basic("ada", "a:da")}, 400, ""},
		{"bearer", "/basic", []string{"Authorization", "Bearer a.b.c"}, 401, ""},
		{"malformed", "/basic", []string{"Authorization", "Basic !"}, 401, ""},
		{"public, password", "/public", ada, 200, "ada"},
		{"public, key", "/public", robot, 200, "robot"},
		{"public, nothing", "/public", nil, 200, ""},
		{"public, wrong", "/public", []string{"Authorization", basic("own", "service")}, 200, ""},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Each from an address of its own, so that guesses do not add up.
			res, body := d.do("GET", tt.path, nil, header(append([]string{"X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)}, tt.with...)...))
			if tt.name == "two keys" && res.StatusCode == 400 {
				return
			}
			if res.StatusCode != tt.status {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			challenge := strings.Join(res.Header["Www-Authenticate"], "|")
			switch {
			case res.StatusCode == 401 && challenge == "":
				t.Error("a 401 without a challenge")
			case res.StatusCode == 401 && tt.path == "/basic" && challenge != `Basic realm="the door", charset="UTF-8"`:
				t.Errorf("challenge %s", challenge)
			}
			if res.StatusCode != 200 {
				return
			}
			h := s.header()
			user := ""
			if token := h.Get(wire.HeaderIdentity); token != "" {
				id, err := wire.NewVerifier(pub, "test", "api").Verify(token, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				user = id.Subject
			}
			if user != tt.user {
				t.Errorf("the service was told the user %q, want %q", user, tt.user)
			}
			if h.Get("X-Api-Key") != "" {
				t.Error("the service got the API key")
			}
			if got := h.Get("Authorization"); got != "" && tt.user != "" && tt.user != "robot" {
				t.Errorf("the service got %q", got)
			} else if tt.name == "public, wrong" && got == "" {
				t.Error("the service's own password did not reach it")
			}
		})
	}
	for _, secret := range []string{"a:da", "bobs", "key-1", base64.StdEncoding.EncodeToString([]byte("ada:a:da"))} {
		if strings.Contains(d.log.String(), secret) {
			t.Errorf("the access log holds the secret %q", secret)
		}
	}
}

func TestGuessesAreLimited(t *testing.T) {
	d := openDoor(t, Options{})
	d.guarded(system.Gateway{
		TrustedProxies: networks(t, "127.0.0.0/8"),
		Auth:           system.Auth{Basic: &system.Basic{Realm: "door", Users: []system.Credential{{Name: "ada", Secret: "A"}}}},
	}, []*system.Route{{Path: "/", Auth: []system.AuthMethod{system.AuthBasic}}, {Path: "/public"}}, serviceOf(t, "api-1", text("served")), map[string]string{"A": "secret"})
	try := func(path, password, client string) *http.Response {
		res, _ := d.do("GET", path, nil, header("Authorization", basic("ada", password), "X-Forwarded-For", client))
		return res
	}
	for range 30 { // meant for the service, as far as anybody knows
		if try("/public", "wrong", "192.0.2.1").StatusCode != 200 {
			t.Fatal("refused on a public route")
		}
	}
	for i := range 10 {
		if res := try("/", "wrong", "192.0.2.1"); res.StatusCode != 401 {
			t.Fatalf("guess %d: %d", i, res.StatusCode)
		}
	}
	for _, password := range []string{"wrong", "secret"} { // right or wrong, nobody learns
		if res := try("/", password, "192.0.2.1"); res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d", password, res.StatusCode)
		}
	}
	if res := try("/", "secret", "192.0.2.2"); res.StatusCode != 200 {
		t.Errorf("another client: %d", res.StatusCode)
	}
	if r := d.Refused(); r["guesses"] != 2 || r["login"] != 10 {
		t.Errorf("counted %v", r)
	}
}

func TestApplyRefusesSecretsWithoutValue(t *testing.T) {
	d := openDoor(t, Options{})
	err := d.Apply(Config{Gateway: system.Gateway{Auth: system.Auth{Keys: &system.Keys{Keys: []system.Credential{{Name: "ada", Secret: "MISSING"}}}}}})
	if err == nil || !strings.Contains(err.Error(), "MISSING") {
		t.Errorf("apply: %v", err)
	}
	g := New(Options{Logger: slog.New(slog.DiscardHandler)})
	for _, why := range []string{"ban", "address", "rate", "origin", "login", "guesses", "role", "forward", "head", "body", "slow", "connection", "full", "proxy", "stream"} {
		if n, there := g.Refused()[why]; !there || n != 0 {
			t.Errorf("%s: %d, %t", why, n, there)
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	g := New(Options{})
	bans := make([]Ban, 10_000)
	for i := range bans {
		bans[i] = Ban{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24)}
	}
	g.SetBans(bans)
	tests := []struct {
		name string
		gw   system.Gateway
	}{
		{"nothing", system.Gateway{}},
		{"deny and rate", system.Gateway{Filters: system.Filters{
			Deny: networks(b, "198.51.100.0/24"), Rates: []system.Rate{{Requests: 1_000_000, Per: time.Millisecond, By: system.ByClient}},
		}}},
	}
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			routes := []route{{def: &system.Route{}}}
			a, err := g.admission(&Config{Gateway: tt.gw}, routes, nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			w := httptest.NewRecorder()
			x := &exchange{g: g, snap: &snapshot{admission: a}, route: &routes[0], entrance: &entrance{}, start: time.Now()}
			b.ReportAllocs()
			for b.Loop() {
				x.answer.stamp = stamp{}
				if !x.welcome(w, r) || !x.admit(w, r) {
					b.Fatal("refused")
				}
			}
		})
	}
}
