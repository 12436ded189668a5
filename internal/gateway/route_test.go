package gateway

import (
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"fairlead/internal/system"
)

// toAPI is where the routes of most tests lead.
var toAPI = []system.Target{{Service: "api", Weight: 1}}

// headers sets headers of a request.
func headers(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Add(pairs[i], pairs[i+1])
		}
	}
}

func TestThePathThatServicesSee(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{
		{Path: "/plain/", Targets: toAPI},
		{Path: "/api/v1/", Targets: toAPI, StripPrefix: true},
		{Path: "/item/{id}/{rest...}", Targets: toAPI, StripPrefix: true},
		{Path: "/exact", Targets: toAPI, StripPrefix: true},
		{Path: "/old/{id}/{rest...}", Targets: toAPI, Rewrite: "/v2/{id}.json/{rest}"},
		{Path: "/fixed/", Targets: toAPI, Rewrite: "/all"},
		{Path: "/mid/{rest...}", Targets: toAPI, Rewrite: "/a/{rest}/b"},
	}, map[string][]Endpoint{"api": {mirror(t)}})
	tests := []struct {
		name, path string
		seen       string // "" for 400
		prefix     string
		changed    bool
	}{
		{"as it is", "/plain/a%20b?q=1&x=%20", "/plain/a%20b?q=1&x=%20", "", false},
		{"stripped", "/api/v1/users/7?q=1", "/users/7?q=1", "/api/v1", true},
		{"stripped to nothing", "/api/v1/", "/", "/api/v1", true},
		{"escapes stay", "/api/v1/a%20b/%C3%BC%25", "/a%20b/%C3%BC%25", "/api/v1", true},
		{"escaped prefix", "/%61pi/v1/x", "/x", "/%61pi/v1", true},
		{"wildcards stay", "/item/7/a/b", "/7/a/b", "/item", true},
		{"whole path", "/exact?x", "/?x", "/exact", true},
		{"rewritten", "/old/7/a/b?q=1", "/v2/7.json/a/b?q=1", "", true},
		{"rewritten, escaped anew", "/old/a%20b%3F/%C3%BC", "/v2/a%20b%3F.json/%C3%BC", "", true},
		{"rewritten, empty rest", "/old/7/", "/v2/7.json/", "", true},
		{"fixed", "/fixed/a/b?q=1", "/all?q=1", "", true},
		{"no clean path comes out", "/mid/", "", "", true},
		{"no clean path either", "/mid/a/", "", "", true},
		{"clean", "/mid/a", "/a/a/b", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, head := d.do("GET", tt.path, nil, headers("X-Original-Uri", "/forged", "X-Forwarded-Prefix", "/forged", "X_Forwarded_Prefix", "/forged"))
			if tt.seen == "" {
				if res.StatusCode != http.StatusBadRequest {
					t.Errorf("%s %q", res.Status, head)
				}
				return
			}
			if !strings.HasPrefix(head, "GET "+tt.seen+" HTTP/1.1\r\n") {
				t.Fatalf("service saw %.200q, want %q", head, tt.seen)
			}
			if strings.Contains(head, "forged") {
				t.Errorf("a forged header got through: %q", head)
			}
			if got := strings.Contains(head, "\r\nX-Original-Uri: "+tt.path+"\r\n"); got != tt.changed {
				t.Errorf("told the original: %v, want %v: %q", got, tt.changed, head)
			}
			if tt.prefix != "" && !strings.Contains(head, "\r\nX-Forwarded-Prefix: "+tt.prefix+"\r\n") || tt.prefix == "" && strings.Contains(head, "X-Forwarded-Prefix") {
				t.Errorf("prefix is not %q: %q", tt.prefix, head)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{
		{Path: "/old/{id}/{rest...}", Redirect: &system.Redirect{To: "/new/{id}/{rest}"}},
		{Path: "/away/{rest...}", Redirect: &system.Redirect{To: "https://example.com/{rest}", Status: 302}},
		{Path: "/root/{rest...}", Redirect: &system.Redirect{To: "/{rest}", Status: 301}},
		{Method: "POST", Path: "/form", Redirect: &system.Redirect{To: "/done?ok=1", Status: 303}},
		{Path: "/temp", Redirect: &system.Redirect{To: "/x", Status: 307}},
	}, nil)
	tests := []struct {
		name, method, path string
		status             int
		to                 string
	}{
		{"default", "GET", "/old/7/a/b", 308, "/new/7/a/b"},
		{"query kept", "GET", "/old/7/a?x=1&y=%0d%0a", 308, "/new/7/a?x=1&y=%0d%0a"},
		{"escaped", "GET", "/old/a%20b%3Fq/%23", 308, "/new/a%20b%3Fq/%23"},
		{"url", "GET", "/away/a", 302, "https://example.com/a"},
		{"permanent", "HEAD", "/root/a", 301, "/a"},
		{"after a form", "POST", "/form?x=1", 303, "/done?ok=1"},
		{"temporary", "PUT", "/temp", 307, "/x"},
		{"to another host", "GET", "/root//evil.example", 400, ""},
		{"to another host by a backslash", "GET", "/root/%5cevil.example", 400, ""},
		{"line break", "GET", "/root/a%0d%0aSet-Cookie:x", 400, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var body *strings.Reader
			if tt.method != "GET" && tt.method != "HEAD" {
				body = strings.NewReader("some body")
			} else {
				body = strings.NewReader("")
			}
			res, text := d.do(tt.method, tt.path, body, nil)
			if res.StatusCode != tt.status || res.Header.Get("Location") != tt.to || res.StatusCode < 400 && text != "" {
				t.Errorf("%s to %q with %q, want %d to %q", res.Status, res.Header.Get("Location"), text, tt.status, tt.to)
			}
		})
	}
}

func TestHeaderRules(t *testing.T) {
	d := openDoor(t, Options{})
	service := rawService(t, "api-1", func(c net.Conn, head string) {
		head, _, _ = strings.Cut(head, "\r\n\r\n")
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nConnection: close\r\nX-Powered-By: php\r\nX-Both: service\r\nX-Frame-Options: ALLOW\r\n\r\n" + head))
	})
	d.applyDoor(system.Gateway{Headers: system.HeaderRules{
		Request: map[string]string{"X-Env": "prod", "X-Debug": "", "x-team": "door"},
		Answer:  map[string]string{"X-Powered-By": "", "X-Frame-Options": "DENY", "X-Both": "door"},
	}}, []*system.Route{
		{Path: "/", Targets: toAPI},
		{Path: "/own/", Targets: toAPI, Headers: system.HeaderRules{
			Request: map[string]string{"X-Team": "route", "Authorization": "", "X-Env": ""},
			Answer:  map[string]string{"X-Both": "route", "X-Frame-Options": ""},
		}},
		{Path: "/to", Redirect: &system.Redirect{To: "/x"}},
	}, map[string][]Endpoint{"api": {service}})
	edit := headers("X-Env", "forged", "X_Env", "forged", "X-Debug", "forged", "Authorization", "Bearer abc", "X-Mine", "kept")
	t.Run("of the gateway", func(t *testing.T) {
		res, head := d.do("GET", "/", nil, edit)
		if strings.Contains(head, "forged") || !strings.Contains(head, "\r\nX-Env: prod\r\n") || !strings.Contains(head, "\r\nX-Team: door") || !strings.Contains(head, "Bearer abc") || !strings.Contains(head, "X-Mine: kept") {
			t.Errorf("service saw %q", head)
		}
		if h := res.Header; h.Get("X-Powered-By") != "" || h.Get("X-Frame-Options") != "DENY" || h.Get("X-Both") != "door" || len(h["X-Both"]) != 1 {
			t.Errorf("client saw %v", h)
		}
	})
	t.Run("of the route", func(t *testing.T) {
		res, head := d.do("GET", "/own/", nil, edit)
		if strings.Contains(head, "forged") || strings.Contains(head, "X-Env") || !strings.Contains(head, "X-Team: route") || strings.Contains(head, "Bearer abc") {
			t.Errorf("service saw %q", head)
		}
		if h := res.Header; h.Get("X-Powered-By") != "" || h.Get("X-Frame-Options") != "" || h.Get("X-Both") != "route" {
			t.Errorf("client saw %v", h)
		}
	})
	for _, path := range []string{"/to", "/a//b"} {
		if res, _ := d.do("GET", path, nil, nil); res.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: client saw %v", path, res.Header)
		}
	}
}

func TestHeadersThatRulesCannotSet(t *testing.T) {
	request := []string{
		"Connection", "Content-Length", "Transfer-Encoding", "transfer_encoding", "Te", "Trailer", "Upgrade", "Expect", "Keep-Alive", "Host", "X-Forwarded-For", "X-Forwarded-Proto",
		"Forwarded", "Traceparent", "Tracestate", "X-Request-Id", "X-Real-Ip", "X-Original-Uri", "X-Forwarded-Prefix", "Fairlead-Identity", "fairlead_identity", "Nats-Msg-Id", "a b", "", "X:Y",
	}
	for _, name := range request {
		if _, err := newRules(system.HeaderRules{}, system.HeaderRules{Request: map[string]string{name: "x"}}); err == nil {
			t.Errorf("%q can be set for services", name)
		}
		if _, err := newRules(system.HeaderRules{Request: map[string]string{name: ""}}, system.HeaderRules{}); err == nil {
			t.Errorf("%q can be removed for services", name)
		}
	}
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding", "Server", "X-Request-Id", "Fairlead-Identity", "Nats-Msg-Id"} {
		if _, err := newRules(system.HeaderRules{}, system.HeaderRules{Answer: map[string]string{name: "x"}}); err == nil {
			t.Errorf("%q can be set for clients", name)
		}
	}
	for _, value := range []string{"a\r\nb", "a\nb", "a\x00"} {
		if _, err := newRules(system.HeaderRules{}, system.HeaderRules{Answer: map[string]string{"X-A": value}}); err == nil {
			t.Errorf("the value %q is taken", value)
		}
	}
}

func TestRoutesThatDoNotCompile(t *testing.T) {
	tests := []struct {
		name string
		def  system.Route
		want string
	}{
		{"unknown service", system.Route{Path: "/", Targets: []system.Target{{Service: "nobody", Weight: 1}}}, "no service"},
		{"no weight", system.Route{Path: "/", Targets: []system.Target{{Service: "api"}}}, "weight 0"},
		{"strip and rewrite", system.Route{Path: "/a/", Targets: toAPI, StripPrefix: true, Rewrite: "/x"}, "exclude"},
		{"rewrite with an unknown name", system.Route{Path: "/a/", Targets: toAPI, Rewrite: "/{x}"}, "{x}"},
		{"redirect nowhere", system.Route{Path: "/a/", Redirect: &system.Redirect{To: "//evil"}}, "redirect"},
		{"monitor that nobody gave", system.Route{Path: "/a/", Monitor: system.MonitorMetrics}, "monitor"},
		{"framing header", system.Route{Path: "/a/", Targets: toAPI, Headers: system.HeaderRules{Request: map[string]string{"Content-Length": "0"}}}, "Content-Length"},
		{"nothing", system.Route{Path: "/a/"}, "leads nowhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.def.Key = tt.def.Path
			err := New(Options{}).Apply(Config{Routes: []*system.Route{&tt.def}, Services: servicesOf("api")})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestMonitors(t *testing.T) {
	d := openDoor(t, Options{Monitors: map[system.Monitor]http.Handler{
		system.MonitorBus: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(r.URL.Path + " " + r.URL.RawQuery))
		}),
	}})
	d.applyDoor(system.Gateway{Maintenance: &system.Maintenance{}}, []*system.Route{
		{Path: "/ops/bus/", Monitor: system.MonitorBus},
		{Method: "GET", Path: "/health", Monitor: system.MonitorHealth},
		{Path: "/shut/", Monitor: system.MonitorBus, Maintenance: &system.Maintenance{}},
	}, nil)
	for path, want := range map[string]string{
		"/ops/bus/varz?x=1": "/varz x=1", "/ops/bus/": "/ ", "/ops/bus/js%20z": "/js z ", "/health": `{"status":"ok"}` + "\n",
	} {
		if res, body := d.do("GET", path, nil, nil); res.StatusCode != 200 || body != want {
			t.Errorf("%s: %s %q, want %q", path, res.Status, body, want)
		}
	}
	if res, _ := d.do("GET", "/shut/varz", nil, nil); res.StatusCode != 503 {
		t.Errorf("a monitor that is closed itself: %s", res.Status)
	}
}

// Routes that stayed are not compiled again, but what is around them counts.
func TestRoutesThatStayFollowTheDoor(t *testing.T) {
	folder := t.TempDir()
	routes := []*system.Route{
		{Key: "/a", Path: "/a", Targets: toAPI},
		{Key: "/files/", Path: "/files/", Files: &system.Files{Dir: folder}},
		{Key: "/own", Path: "/own", Targets: toAPI, Limits: system.Limits{Body: 7}},
	}
	g := New(Options{})
	apply := func(t *testing.T, c Config) []route {
		t.Helper()
		if c.Routes == nil {
			c.Routes = routes
		}
		if err := g.Apply(c); err != nil {
			t.Fatal(err)
		}
		return g.snap.Load().routes
	}
	both := servicesOf("api", "other")
	first := apply(t, Config{Services: both})
	again := apply(t, Config{Services: both})
	if again[0].meter != first[0].meter || again[0].split != first[0].split || again[0].filters == first[0].filters {
		t.Error("a route that stayed is another one, or goes by the filters of before")
	}
	if again[1].files == first[1].files {
		t.Error("a folder was not opened again")
	}
	for _, tt := range []struct {
		name string
		c    Config
		is   func(r []route) bool
	}{
		{"the body", Config{Services: both, Gateway: system.Gateway{Limits: system.Limits{Body: 5}}}, func(r []route) bool { return r[0].body == 5 && r[2].body == 7 }},
		{"and back", Config{Services: both}, func(r []route) bool { return r[0].body == defaultLimits.Body }},
		{"the headers", Config{Services: both, Gateway: system.Gateway{Headers: system.HeaderRules{Answer: map[string]string{"X-A": "b"}}}}, func(r []route) bool {
			return !reflect.DeepEqual(r[0].rules, first[0].rules)
		}},
		{"a service goes", Config{Services: servicesOf("api")}, func(r []route) bool { return r[0].split == g.pools["api"].alone }},
		{"another route", Config{Services: both, Routes: []*system.Route{routes[0], {Key: "/b", Path: "/b", Targets: toAPI}, {Key: "/own", Path: "/own", Targets: toAPI}}}, func(r []route) bool {
			return r[0].def == routes[0] && r[1].def.Key == "/b" && r[1].split != nil && r[2].body == defaultLimits.Body
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := apply(t, tt.c); !tt.is(r) {
				t.Errorf("routes are %+v", r)
			}
		})
	}
	elsewhere := apply(t, Config{Services: servicesOf("api")})[0].split
	if apply(t, Config{Services: servicesOf("other"), Routes: []*system.Route{{Key: "/a", Path: "/a", Targets: []system.Target{{Service: "other", Weight: 1}}}}})[0].split == elsewhere {
		t.Error("a route leads to the service of before")
	}
	if got := apply(t, Config{Services: servicesOf("api")})[0].split; got == elsewhere || got != g.pools["api"].alone {
		t.Error("a route leads to a pool that is gone")
	}
}
