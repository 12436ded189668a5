package gateway

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// answering is an instance that answers with its own id.
func answering(tb testing.TB, instance string) Endpoint {
	tb.Helper()
	return serviceOf(tb, instance, text(instance))
}

func TestWeightsShareARoute(t *testing.T) {
	tests := []struct {
		name    string
		weights map[string]int
		want    map[string]int // of 1,000 requests
	}{
		{"canary", map[string]int{"api": 95, "next": 5}, map[string]int{"api": 950, "next": 50}},
		{"three", map[string]int{"api": 1, "next": 1, "old": 2}, map[string]int{"api": 250, "next": 250, "old": 500}},
		{"none", map[string]int{"api": 10, "next": 0}, map[string]int{"api": 1000}},
		{"one", map[string]int{"api": 7}, map[string]int{"api": 1000}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pools := map[string]*pool{}
			var defs []system.Target
			for _, name := range []string{"api", "next", "old"} {
				if w, ok := tt.weights[name]; ok {
					pools[name] = newPool(New(Options{}), name)
					defs = append(defs, system.Target{Service: name, Weight: w})
				}
			}
			s, err := newSplit(defs, pools)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			longest, run, last := 0, 0, ""
			for range 1000 {
				name := s.at(s.next(), func(*pool) bool { return true }).service
				got[name]++
				if run++; name != last {
					run, last = 1, name
				}
				longest = max(longest, run)
			}
			for name, want := range tt.want {
				if math.Abs(float64(got[name]-want)) > 3 {
					t.Errorf("%s got %d of 1,000, want %d", name, got[name], want)
				}
			}
			if tt.name == "canary" && longest > 40 {
				t.Errorf("%d in a row went the same way: that is not smooth", longest)
			}
		})
	}
}

func TestAServiceWithoutInstancesGetsNothingWhileAnotherHasSome(t *testing.T) {
	d := openDoor(t, Options{})
	shared := []system.Target{{Service: "api", Weight: 1}, {Service: "next", Weight: 1}}
	api, next := answering(t, "api-1"), answering(t, "next-1")
	get := func() string { _, body := d.do("GET", "/", nil, nil); return body }
	d.apply([]*system.Route{{Path: "/", Targets: shared}}, map[string][]Endpoint{"api": {api}, "next": nil})
	for range 20 {
		if body := get(); body != "api-1" {
			t.Fatalf("answered by %q", body)
		}
	}
	d.SetEndpoints("next", []Endpoint{next})
	seen := map[string]int{}
	for range 20 {
		seen[get()]++
	}
	if seen["api-1"] < 9 || seen["next-1"] < 9 {
		t.Errorf("shared as %v", seen)
	}
	d.SetEndpoints("api", nil)
	d.SetEndpoints("next", nil)
	d.SetStopped("next", true)
	done := make(chan string)
	for range 4 { // all of them wait for api
		go func() {
			res, err := d.client.Get(d.URL() + "/")
			if err != nil {
				done <- err.Error()
				return
			}
			defer res.Body.Close()
			done <- res.Status
		}()
	}
	await.Until(t, "requests to wait", func() bool { return d.open.Load() == 4 })
	d.SetEndpoints("api", []Endpoint{api})
	for range 4 {
		if status := <-done; status != "200 OK" {
			t.Error(status)
		}
	}
}

func TestStickyByCookie(t *testing.T) {
	d := openDoor(t, Options{})
	routes := []*system.Route{
		{Path: "/", Sticky: "cookie", Targets: []system.Target{{Service: "api", Weight: 50}, {Service: "next", Weight: 50}}},
		{Path: "/same/", Sticky: "cookie", Targets: []system.Target{{Service: "api", Weight: 1}, {Service: "next", Weight: 0}}},
		{Path: "/other/", Sticky: "cookie", Targets: toAPI},
	}
	endpoints := map[string][]Endpoint{
		"api":  {answering(t, "api-1"), answering(t, "api-2"), answering(t, "api-3")},
		"next": {answering(t, "next-1"), answering(t, "next-2")},
	}
	d.apply(routes, endpoints)
	get := func(path, cookie string) (body, set string) {
		t.Helper()
		res, body := d.do("GET", path, nil, func(r *http.Request) {
			if cookie != "" {
				r.Header.Set("Cookie", "a=b; "+cookie+"; c=d")
			}
		})
		return body, res.Header.Get("Set-Cookie")
	}
	first, set := get("/", "")
	cookie, attributes, _ := strings.Cut(set, ";")
	if attributes != " Path=/; HttpOnly; SameSite=Lax" || strings.Contains(set, first) || len(cookie) > 60 {
		t.Fatalf("Set-Cookie is %q", set)
	}
	stays := func(path string) {
		t.Helper()
		for range 20 {
			if body, set := get(path, cookie); body != first || set != "" {
				t.Fatalf("went to %q with %q, want %q", body, set, first)
			}
		}
	}
	stays("/")
	d.apply(routes, endpoints) // survives a reload
	stays("/")
	if body, set := get("/other/", cookie); set == "" || !strings.HasPrefix(body, "api-") {
		t.Errorf("a cookie for other services counts: %q %q", body, set)
	}
	for _, bad := range []string{"", "x", strings.Repeat("A", 22), cookie[strings.IndexByte(cookie, '=')+1:] + "A"} {
		name, _, _ := strings.Cut(cookie, "=")
		if _, set := get("/", name+"="+bad); !strings.HasPrefix(set, name+"=") {
			t.Errorf("the forged ticket %q is taken", bad)
		}
	}
	// The instance goes: another takes over, and is kept.
	service, _, _ := strings.Cut(first, "-")
	gone := first
	var left []Endpoint
	for _, e := range endpoints[service] {
		if e.Instance != gone {
			left = append(left, e)
		}
	}
	d.SetEndpoints(service, left)
	var body string
	if body, set = get("/", cookie); body == gone || set == "" {
		t.Fatalf("went to %q with %q", body, set)
	}
	first = body
	cookie, _, _ = strings.Cut(set, ";")
	stays("/")
	// A service that gets no share any more loses those who stuck to it.
	for i := 0; !strings.HasPrefix(first, "next-"); i++ {
		if i > 100 {
			t.Fatal("next gets nothing")
		}
		first, set = get("/", "")
		cookie, _, _ = strings.Cut(set, ";")
	}
	if body, _ := get("/same/", cookie); !strings.HasPrefix(body, "api-") {
		t.Errorf("a service of weight 0 got a request: %q", body)
	}
}

func TestWebSocketsAreStickyToo(t *testing.T) {
	d := openDoor(t, Options{})
	upgrading := rawService(t, "api-1", func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\nX-Powered-By: x\r\n\r\n")
	})
	d.applyDoor(system.Gateway{
		Headers:        system.HeaderRules{Answer: map[string]string{"X-Powered-By": ""}},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}, []*system.Route{{Path: "/", Sticky: "cookie", Targets: toAPI}}, map[string][]Endpoint{"api": {upgrading}})
	got := d.raw("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 101 ") || !strings.Contains(got, "\r\nSet-Cookie: fairlead_") || !strings.Contains(got, "; Secure\r\n") || strings.Contains(got, "Powered") {
		t.Errorf("%q", got)
	}
}

func TestStickyByHash(t *testing.T) {
	d := openDoor(t, Options{})
	endpoints := map[string][]Endpoint{
		"api":  {answering(t, "api-1"), answering(t, "api-2")},
		"next": {answering(t, "next-1"), answering(t, "next-2")},
	}
	apply := func(weights ...int) {
		d.apply([]*system.Route{{Path: "/", Sticky: "header:X-Tenant", Targets: []system.Target{{Service: "api", Weight: weights[0]}, {Service: "next", Weight: weights[1]}}}}, endpoints)
	}
	ask := func(tenant int) string {
		_, body := d.do("GET", "/", nil, headers("X-Tenant", fmt.Sprint(tenant)))
		return body
	}
	apply(90, 10)
	const tenants = 200
	home := map[int]string{}
	canary := 0
	for i := range tenants {
		home[i] = ask(i)
		if strings.HasPrefix(home[i], "next") {
			canary++
		}
	}
	if canary < 5 || canary > 45 {
		t.Errorf("%d of %d tenants are on the canary, want about 20", canary, tenants)
	}
	apply(80, 20)
	for i := range tenants {
		if now := ask(i); now != home[i] && !strings.HasPrefix(now, "next") {
			t.Errorf("tenant %d moved from %s to %s", i, home[i], now)
		}
	}
	seen := map[string]bool{}
	for range 40 { // without the header there is nothing to stick to
		_, body := d.do("GET", "/", nil, nil)
		seen[body] = true
	}
	if len(seen) < 3 {
		t.Errorf("requests without the header went to %v", seen)
	}
}

func BenchmarkSticky(b *testing.B) {
	g := New(Options{})
	var eps []Endpoint
	for i := range 16 {
		eps = append(eps, Endpoint{fmt.Sprintf("api-%d", i), "tcp", "127.0.0.1:1"})
	}
	if err := g.Apply(Config{
		Routes:   []*system.Route{{Key: "/", Path: "/", Sticky: "cookie", Targets: toAPI}},
		Services: servicesOf("api"), Endpoints: map[string][]Endpoint{"api": eps},
	}); err != nil {
		b.Fatal(err)
	}
	x := &exchange{g: g, snap: g.snap.Load()}
	x.route, _ = x.snap.find("GET", "h", "/", nil)
	r := &http.Request{Header: http.Header{"Cookie": {x.route.sticky + "=" + g.tickets.of("api-15")}}}
	b.ReportAllocs()
	for b.Loop() {
		if x.choosePool(r); x.wish.prefer != "api-15" {
			b.Fatal("not found")
		}
	}
}
