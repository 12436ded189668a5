package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// door is a started gateway of a test.
type door struct {
	*Gateway
	t      testing.TB
	client *http.Client
	log    *syncBuffer
	using  map[string]system.Pool // how apply has the pools used
}

// openDoor starts a gateway that is stopped at the end of the test.
func openDoor(tb testing.TB, opts Options) *door {
	tb.Helper()
	d := &door{t: tb, log: &syncBuffer{}}
	opts.Listen = "127.0.0.1:0"
	if opts.AccessLog == nil {
		opts.AccessLog = d.log
	}
	if opts.WaitForReady == 0 {
		opts.WaitForReady = 2 * time.Second
	}
	d.Gateway = New(opts)
	if err := d.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	d.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			tb.Errorf("stop: %v", err)
		}
	})
	return d
}

// service is a service by its name, with the pool that the test wants.
func (d *door) service(name string) system.Service {
	return system.Service{Name: name, Pool: d.using[name]}
}

func (d *door) apply(routes []*system.Route, endpoints map[string][]Endpoint) {
	d.t.Helper()
	d.applyDoor(system.Gateway{}, routes, endpoints)
}

// applyDoor is apply with settings of the whole door.
func (d *door) applyDoor(gw system.Gateway, routes []*system.Route, endpoints map[string][]Endpoint) {
	d.t.Helper()
	c := Config{Gateway: gw, Routes: routes, Endpoints: endpoints}
	seen := map[string]bool{}
	for i := range routes {
		if routes[i].Key == "" {
			routes[i].Key = strings.TrimPrefix(routes[i].Method+" "+routes[i].Host+routes[i].Path, " ")
		}
		for _, t := range routes[i].Targets {
			if !seen[t.Service] {
				seen[t.Service] = true
				c.Services = append(c.Services, d.service(t.Service))
			}
		}
	}
	for s := range endpoints {
		if !seen[s] {
			c.Services = append(c.Services, d.service(s))
		}
	}
	if err := d.Apply(c); err != nil {
		d.t.Fatal(err)
	}
}

// do sends a request; a nil edit is fine.
func (d *door) do(method, path string, body io.Reader, edit func(*http.Request)) (*http.Response, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.URL()+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	if edit != nil {
		edit(r)
	}
	res, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res, string(text)
}

// raw sends bytes on a connection of its own and returns all that comes back until
// the gateway closes, or the first n bytes' worth of a whole answer.
func (d *door) raw(request string) string {
	d.t.Helper()
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	if _, err := io.WriteString(c, request); err != nil {
		d.t.Fatal(err)
	}
	all, _ := io.ReadAll(c)
	return string(all)
}

// serviceOf starts an HTTP service and returns its endpoint.
func serviceOf(tb testing.TB, instance string, h http.HandlerFunc) Endpoint {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return Endpoint{Instance: instance, Network: "tcp", Address: s.Listener.Addr().String()}
}

// rawService answers every connection with f, which gets what a request began with.
func rawService(tb testing.TB, instance string, f func(c net.Conn, head string)) Endpoint {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(ctx, func() { c.Close() })
				defer stop()
				buf := make([]byte, 64<<10)
				got := 0
				for !bytes.Contains(buf[:got], []byte("\r\n\r\n")) {
					n, err := c.Read(buf[got:])
					if err != nil {
						return
					}
					got += n
				}
				f(c, string(buf[:got]))
			})
		}
	})
	tb.Cleanup(func() { l.Close(); cancel(); open.Wait() })
	return Endpoint{Instance: instance, Network: "tcp", Address: l.Addr().String()}
}

// syncBuffer is a buffer that a test reads while the gateway writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
}

func TestProxyPassesRequestAndAnswer(t *testing.T) {
	d := openDoor(t, Options{})
	var hits atomic.Int64
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Method+" "+r.Host+" "+r.RequestURI)
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(append([]byte("got "), body...))
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	tests := []struct {
		name, method, path, body string
		chunked                  bool
	}{
		{"get", "GET", "/a/b?q=1&x=%20y", "", false},
		{"encoded", "GET", "/a%20b/%C3%BC", "", false},
		{"empty post", "POST", "/a", "", false},
		{"small post", "POST", "/a", "hello", false},
		{"chunked post", "POST", "/a", "hello", true},
		{"large post", "PUT", "/a", strings.Repeat("0123456789", 200_000), false},
		{"large chunked post", "PUT", "/a", strings.Repeat("0123456789", 200_000), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			if tt.chunked {
				body = io.MultiReader(body)
			}
			res, got := d.do(tt.method, tt.path, body, nil)
			if res.StatusCode != http.StatusTeapot || got != "got "+tt.body {
				t.Fatalf("status %d, body of %d bytes %.100q", res.StatusCode, len(got), got)
			}
			if seen, want := res.Header.Get("X-Seen"), tt.method+" "+d.Addr().String()+" "+tt.path; seen != want {
				t.Errorf("service saw %q, want %q", seen, want)
			}
		})
	}
	if n := d.Served("api-1"); n != uint64(len(tests)) || hits.Load() != int64(n) {
		t.Errorf("Served is %d, the service counted %d, want %d", n, hits.Load(), len(tests))
	}
}

// routesOf are routes of the service api, from paths or from keys with a method.
func routesOf(keys ...string) []*system.Route {
	out := make([]*system.Route, len(keys))
	for i, key := range keys {
		method, path, ok := strings.Cut(key, " ")
		if !ok {
			method, path = "", key
		}
		out[i] = &system.Route{Key: key, Method: method, Path: path, Targets: []system.Target{{Service: "api", Weight: 1}}}
	}
	return out
}

// manyRoutes are 5,000 routes like those of a large system.
func manyRoutes() []*system.Route {
	keys := make([]string, 0, 5000)
	for i := range 1000 {
		base := fmt.Sprintf("/api/service%d/resource%d", i%50, i)
		keys = append(keys, "GET "+base, "POST "+base, "GET "+base+"/{id}", "PUT "+base+"/{id}", "GET "+base+"/{id}/parts/{part}")
	}
	return routesOf(keys...)
}

// servicesOf are services of which only the names matter.
func servicesOf(names ...string) []system.Service {
	list := make([]system.Service, len(names))
	for i, name := range names {
		list[i].Name = name
	}
	return list
}
