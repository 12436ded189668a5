package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"fairlead/internal/gateway/listen"
	"fairlead/internal/gateway/match"
	"fairlead/internal/gateway/meter"
	"fairlead/internal/gateway/upstream"
	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestLeastOutstandingTakesTurns(t *testing.T) {
	up := upstream.New("tcp", "127.0.0.1:1", "")
	eps := []*endpoint{{up: up}, {up: up}, {up: up}}
	rd := newReady(eps)
	p := newPool(New(Options{}), "api")
	now := time.Now()
	got := map[*endpoint]int{}
	for range 9 {
		e := p.choose(rd, now, nil, wish{})
		got[e]++
		e.leave()
	}
	if len(got) != 3 || got[eps[0]] != 3 {
		t.Errorf("idle endpoints are taken %v", got)
	}
	eps[0].enter()
	eps[1].enter()
	for range 3 {
		e := p.choose(rd, now, nil, wish{})
		if e != eps[2] {
			t.Error("not the least busy one")
		}
		e.leave()
	}
	eps[2].shun.Store(now.Add(time.Second).UnixNano())
	if e := p.choose(rd, now, nil, wish{}); e == eps[2] {
		t.Error("one that refuses connections is preferred")
	}
	eps[0].retire()
	eps[1].retire()
	if e := p.choose(rd, now, nil, wish{}); e != eps[2] {
		t.Error("the only one left is not taken")
	}
	if e := p.choose(rd, now, eps[2:], wish{}); e != nil {
		t.Error("one that was tried is taken again")
	}
}

func TestBudget(t *testing.T) {
	now := time.Now()
	spend := func(b *budget, at time.Time) (n int) {
		for b.spend(at) {
			n++
		}
		return n
	}
	var b budget
	if n := spend(&b, now); n != budgetInitial {
		t.Errorf("at first %d", n)
	}
	for range 100 {
		b.earn()
	}
	if n := spend(&b, now); n != 20 {
		t.Errorf("%d after 100 requests, want a fifth", n)
	}
	if n := spend(&b, now.Add(time.Second)); n != budgetRate {
		t.Errorf("%d after a second", n)
	}
	if n := spend(&b, now.Add(time.Hour)); n != budgetMost {
		t.Errorf("%d after an hour", n)
	}
}

func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{})
		p := newPool(g, "api")
		g.snap.Store(&snapshot{ready: map[string]*ready{}})
		start := time.Now()
		if err := p.Wait(t.Context()); !errors.Is(err, errNotReady) || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after the context's end", err)
		}
		var wg sync.WaitGroup
		for range maxWaiting {
			wg.Go(func() {
				if err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := p.Wait(t.Context()); !errors.Is(err, errCrowded) {
			t.Errorf("%v besides a thousand", err)
		}
		g.snap.Store(&snapshot{ready: map[string]*ready{"api": newReady([]*endpoint{{}})}})
		p.announce()
		wg.Wait()
	})
}

func TestRequestWaitsForAnInstance(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, nil)
	ep := serviceOf(t, "api-1", text("here"))
	go func() {
		await.Until(t, "the request to wait", func() bool {
			d.mu.Lock()
			p := d.pools["api"]
			d.mu.Unlock()
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.waiting == 1
		})
		d.SetEndpoints("api", []Endpoint{{Instance: "api-0", Network: "bus"}}) // of no use for HTTP
		d.SetEndpoints("api", []Endpoint{ep})
	}()
	if res, body := d.do("POST", "/", nil, nil); body != "here" {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestNothingReadyIs503(t *testing.T) {
	d := openDoor(t, Options{WaitForReady: 20 * time.Millisecond})
	if res, _ := d.do("GET", "/", nil, nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before the first Apply: %s", res.Status)
	}
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, nil)
	res, _ := d.do("GET", "/", nil, nil)
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("%s, %v", res.Status, res.Header)
	}
	if d.Failed("api") != 1 {
		t.Errorf("Failed is %d", d.Failed("api"))
	}
}

// refusing is an endpoint that nobody listens on.
func refusing(t *testing.T, instance string) Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return Endpoint{Instance: instance, Network: "tcp", Address: l.Addr().String()}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	dies := func(t *testing.T, n *atomic.Int64) Endpoint {
		t.Helper()
		return rawService(t, "dies", func(net.Conn, string) { n.Add(1) })
	}
	tests := []struct {
		name, method, body string
		chunked, retry     bool
		refuses            bool
		want               int
	}{
		{"get", "GET", "", false, false, false, 200},
		{"put with a small body", "PUT", "hello", false, false, false, 200},
		{"put with a streamed body", "PUT", "hello", true, false, false, 502},
		{"put with a large body", "PUT", strings.Repeat("x", replayBody+1), false, false, false, 502},
		{"post", "POST", "hello", false, false, false, 502},
		{"post that may", "POST", "hello", false, true, false, 200},
		{"patch", "PATCH", "", false, false, false, 502},
		{"post, refused", "POST", "hello", false, false, true, 200},
		{"streamed post, refused", "POST", "hello", true, false, true, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := openDoor(t, Options{})
			var died atomic.Int64
			var bad Endpoint
			if tt.refuses {
				bad = refusing(t, "refuses")
			} else {
				bad = dies(t, &died)
			}
			good := serviceOf(t, "good", func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if string(body) != tt.body {
					t.Errorf("body %q", body)
				}
			})
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}, Retry: tt.retry}}, map[string][]Endpoint{"api": {bad, good}})
			statuses := map[int]int{}
			for range 2 { // turns: one of the two begins with the bad one
				var body io.Reader
				if tt.body != "" {
					body = strings.NewReader(tt.body)
				}
				if tt.chunked {
					body = io.MultiReader(body)
				}
				res, _ := d.do(tt.method, "/", body, nil)
				statuses[res.StatusCode]++
			}
			if statuses[tt.want] == 0 || tt.want == 200 && len(statuses) > 1 {
				t.Errorf("statuses %v, want %d", statuses, tt.want)
			}
			if !tt.refuses && died.Load() != 1 {
				t.Errorf("the dying one was asked %d times", died.Load())
			}
		})
	}
}

func TestRefusedConnectionsWaitForTheNextInstance(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {refusing(t, "api-1")}})
	next := serviceOf(t, "api-2", text("next"))
	time.AfterFunc(30*time.Millisecond, func() { d.SetEndpoints("api", []Endpoint{next}) })
	if res, body := d.do("POST", "/", strings.NewReader("x"), nil); body != "next" {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestStaleConnectionsAreNotUsed(t *testing.T) {
	d := openDoor(t, Options{})
	ep := rawService(t, "api-1", func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") // and closes without saying so
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	u := func() interface{ Live() int } {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.instances["api-1"].up.(interface{ Live() int })
	}()
	for range 20 {
		if res, _ := d.do("POST", "/", strings.NewReader("x"), nil); res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
		await.Until(t, "the end to arrive", func() bool { return u.Live() == 0 })
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			w.(http.Flusher).Flush()
			for range 6 {
				io.WriteString(w, "tick ")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(250 * time.Millisecond):
				}
			}
			return
		}
		<-r.Context().Done()
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}, Timeout: time.Second}}, map[string][]Endpoint{"api": {ep}})
	if res, _ := d.do("GET", "/hangs", nil, nil); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("hangs: %s", res.Status)
	}
	if res, body := d.do("GET", "/stream", nil, nil); res.StatusCode != http.StatusOK || strings.Count(body, "tick") != 6 {
		t.Errorf("an answer that has begun is cut off: %s %q", res.Status, body)
	}
}

func TestClientThatLeavesFreesTheService(t *testing.T) {
	d := openDoor(t, Options{})
	arrived, left := make(chan struct{}), make(chan struct{})
	ep := serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(left)
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-arrived
	c.Close()
	<-left
	await.Until(t, "the log", func() bool { return strings.Contains(d.log.String(), `"status":499`) })
	if d.Failed("api") != 0 {
		t.Error("counts as the service's failure")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	var reached atomic.Int64
	ep := serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		io.Copy(io.Discard, r.Body)
	})
	if err := d.Apply(Config{
		Gateway: system.Gateway{Limits: system.Limits{Body: 100, Header: 2000}},
		Routes: []*system.Route{
			{Key: "/", Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}},
			{Key: "/large", Path: "/large", Targets: []system.Target{{Service: "api", Weight: 1}}, Limits: system.Limits{Body: 1 << 20}},
		},
		Services:  servicesOf("api"),
		Endpoints: map[string][]Endpoint{"api": {ep}},
	}); err != nil {
		t.Fatal(err)
	}
	post := func(path string, n int, chunked bool) int {
		var body io.Reader = bytes.NewReader(make([]byte, n))
		if chunked {
			body = io.MultiReader(body)
		}
		res, _ := d.do("POST", path, body, nil)
		return res.StatusCode
	}
	tests := []struct {
		name, path string
		n          int
		chunked    bool
		want       int
	}{
		{"at the limit", "/", 100, false, 200},
		{"at the limit, chunked", "/", 100, true, 200},
		{"above", "/", 101, false, 413},
		{"above, chunked", "/", 101, true, 413},
		{"far above, chunked", "/large", 1<<20 + 1, true, 413},
		{"at the route's own", "/large", 1 << 20, false, 200},
		{"at the route's own, chunked", "/large", 1 << 20, true, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := post(tt.path, tt.n, tt.chunked); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
		})
	}
	if res, _ := d.do("GET", "/", nil, func(r *http.Request) { r.Header.Set("X-Large", strings.Repeat("x", 2000)) }); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("large head: %s", res.Status)
	}
	t.Run("told before the body is sent", func(t *testing.T) {
		before := reached.Load()
		got := d.raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 413 ") || reached.Load() != before {
			t.Errorf("got %q", got)
		}
	})
	for _, m := range []string{"TRACE", "CONNECT"} {
		if got := d.raw(m + " / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 4") {
			t.Errorf("%s: %q", m, got)
		}
	}
}

func TestSlowBodyIs408(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"small":   "Content-Length: 10\r\n\r\nab",
		"large":   "Content-Length: 100000\r\n\r\nab",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t, Options{})
			ep := serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}, Timeout: 100 * time.Millisecond}}, map[string][]Endpoint{"api": {ep}})
			got := d.raw("POST / HTTP/1.1\r\nHost: x\r\n" + head)
			if !strings.HasPrefix(got, "HTTP/1.1 408 ") {
				t.Errorf("got %.100q", got)
			}
		})
	}
}

func TestMalformedChunkIs400(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	whole := make(chan bool, 1)
	ep := serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err == nil
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	got := d.raw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("got %.100q", got)
	}
	if <-whole {
		t.Error("the service takes half a body for a whole one")
	}
}

func TestEarlyAnswerToALargeBody(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	ep := rawService(t, "api-1", func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	// The body never becomes whole.
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000))
	got, _ := io.ReadAll(c)
	if !bytes.HasPrefix(got, []byte("HTTP/1.1 403 ")) || !bytes.HasSuffix(got, []byte("no")) || !bytes.Contains(got, []byte("Connection: close")) {
		t.Errorf("got %q", got)
	}
}

func TestFullDuplex(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(bytes.ToUpper(buf[:n]))
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	pr, pw := io.Pipe()
	r, _ := http.NewRequestWithContext(t.Context(), "POST", d.URL()+"/", pr)
	go io.WriteString(pw, "ping")
	res, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 4)
	if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "PING" {
		t.Fatalf("%q, %v", buf, err)
	}
	io.WriteString(pw, "pong")
	if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "PONG" {
		t.Fatalf("%q, %v", buf, err)
	}
	pw.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: text("by socket")}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {{"api-1", "unix", path}}})
	for range 3 {
		if _, body := d.do("GET", "/", nil, nil); body != "by socket" {
			t.Errorf("%q", body)
		}
	}
}

func echo(tb testing.TB) http.HandlerFunc {
	tb.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			tb.Error(err)
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	}
}

func (d *door) websocket(path string) *websocket.Conn {
	d.t.Helper()
	c, _, err := websocket.Dial(d.t.Context(), "ws"+strings.TrimPrefix(d.URL(), "http")+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.CloseNow() })
	return c
}

func ping(tb testing.TB, c *websocket.Conn, msg string) {
	tb.Helper()
	if err := c.Write(tb.Context(), websocket.MessageText, []byte(msg)); err != nil {
		tb.Fatal(err)
	}
	if _, b, err := c.Read(tb.Context()); err != nil || string(b) != msg {
		tb.Fatalf("echo %q, %v", b, err)
	}
}

func TestWebSocketsSurviveChanges(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	one, two := serviceOf(t, "ws-1", echo(t)), serviceOf(t, "ws-2", echo(t))
	routes := func() []*system.Route {
		return []*system.Route{{Path: "/ws", Targets: []system.Target{{Service: "ws", Weight: 1}}, Timeout: time.Second}}
	}
	d.apply(routes(), map[string][]Endpoint{"ws": {one}})
	c := d.websocket("/ws")
	ping(t, c, "hello")
	d.SetEndpoints("ws", []Endpoint{two})
	ping(t, c, "after SetEndpoints")
	d.apply([]*system.Route{{Path: "/other", Targets: []system.Target{{Service: "ws", Weight: 1}}}}, map[string][]Endpoint{"ws": {two}})
	ping(t, c, "after Apply")
	ping(t, c, strings.Repeat("x", 20_000))
	select {
	case <-time.After(1100 * time.Millisecond): // past the route's timeout
	case <-t.Context().Done():
	}
	ping(t, c, "after the timeout")

	done := make(chan error, 1)
	go func() { done <- d.Drain(t.Context(), "ws", "ws-1") }()
	ping(t, c, "while Drain waits")
	c.Close(websocket.StatusNormalClosure, "")
	if err := <-done; err != nil {
		t.Errorf("drain after the close: %v", err)
	}
}

func TestTunnelPassesHalfClose(t *testing.T) {
	d := openDoor(t, Options{})
	ep := rawService(t, "api-1", func(c net.Conn, head string) {
		if !strings.Contains(head, "Upgrade: echo\r\n") {
			t.Errorf("head %q", head)
		}
		_, early, _ := strings.Cut(head, "\r\n\r\n")
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\nServer: inner\r\n\r\nwelcome ")
		all, _ := io.ReadAll(c) // until the client has closed its half
		fmt.Fprintf(c, "%s%s", early, all)
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nbefore ")
	br := bufio.NewReader(c)
	welcome, err := br.ReadString(' ')
	for err == nil && !strings.HasSuffix(welcome, "welcome ") {
		var more string
		more, err = br.ReadString(' ')
		welcome += more
	}
	io.WriteString(c, "after")
	c.(*net.TCPConn).CloseWrite()
	rest, _ := io.ReadAll(br)
	got := welcome + string(rest)
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || strings.Contains(head, "Server") || body != "welcome before after" {
		t.Errorf("got %q", got)
	}
}

func TestDrainWaitsForOpenRequests(t *testing.T) {
	d := openDoor(t, Options{})
	arrived, let := make(chan struct{}), make(chan struct{})
	old := serviceOf(t, "api-1", func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-let
		io.WriteString(w, "old")
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {old}})
	answered := make(chan string, 1)
	go func() {
		_, body := d.do("GET", "/", nil, nil)
		answered <- body
	}()
	<-arrived
	d.SetEndpoints("api", []Endpoint{serviceOf(t, "api-2", text("new"))})
	drained := make(chan error, 1)
	go func() { drained <- d.Drain(t.Context(), "api", "api-1") }()
	if _, body := d.do("GET", "/", nil, nil); body != "new" {
		t.Errorf("after the swap %q answers", body)
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a request open: %v", err)
	default:
	}
	close(let)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if body := <-answered; body != "old" {
		t.Errorf("the open request got %q", body)
	}
	if d.Served("api-1") != 1 || d.Served("api-2") != 1 || d.Served("nobody") != 0 {
		t.Errorf("served %d and %d", d.Served("api-1"), d.Served("api-2"))
	}
	if err := d.Drain(t.Context(), "api", "nobody"); err != nil {
		t.Error(err)
	}
}

func TestStopWaitsThenCuts(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"request", "websocket"} {
		t.Run(name, func(t *testing.T) {
			d := openDoor(t, Options{})
			arrived := make(chan struct{})
			hang := serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
				close(arrived)
				<-r.Context().Done()
			})
			d.apply([]*system.Route{{Path: "/ws", Targets: []system.Target{{Service: "ws", Weight: 1}}}, {Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {hang}, "ws": {serviceOf(t, "ws-1", echo(t))}})
			if name == "request" {
				go d.client.Get(d.URL() + "/")
				<-arrived
			} else {
				ping(t, d.websocket("/ws"), "x")
			}
			silent, err := net.Dial("tcp", d.Addr().String()) // says nothing and must not hold anything up
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := d.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("stop: %v", err)
			}
			if c, err := net.Dial("tcp", d.Addr().String()); err == nil {
				c.Close()
				t.Error("still listens")
			}
		})
	}
}

func TestStopLetsOpenRequestsEnd(t *testing.T) {
	d := openDoor(t, Options{})
	arrived, let := make(chan struct{}), make(chan struct{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {serviceOf(t, "api-1", func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-let
		io.WriteString(w, "done")
	})}})
	answered := make(chan string, 1)
	go func() {
		_, body := d.do("GET", "/", nil, nil)
		answered <- body
	}()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop(t.Context()) }()
	<-d.stopping
	close(let)
	if body := <-answered; body != "done" {
		t.Errorf("got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestPanicIs500(t *testing.T) {
	d := openDoor(t, Options{})
	table, err := match.New([]match.Pattern{{Path: "/"}})
	if err != nil {
		t.Fatal(err)
	}
	d.snap.Store(&snapshot{table: table, routes: []route{{def: &system.Route{}, timeout: time.Minute, meter: &meter.Meter{}}}, limits: defaultLimits})
	// A route that was not compiled has no pool: the proxy panics.
	if res, body := d.do("GET", "/", nil, nil); res.StatusCode != http.StatusInternalServerError || strings.Contains(body, "goroutine") {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestPortInUseNamesTheHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = New(Options{Listen: l.Addr().String()}).Start(t.Context())
	var inUse *listen.AddressInUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() || inUse.Command == "" {
		t.Errorf("error %v", err)
	}
}

func TestApplyChangesNothingOnError(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {serviceOf(t, "api-1", text("ok"))}})
	bad := []Config{
		{Routes: routesOf("/a", "/a"), Services: servicesOf("api")},
		{Routes: []*system.Route{{Path: "/", Targets: []system.Target{{Service: "nobody", Weight: 1}}}}},
		{Routes: []*system.Route{{Path: "/"}}},
		{Routes: []*system.Route{{Path: "/", Files: &system.Files{Dir: "/does/not/exist"}}}},
		{Routes: []*system.Route{{Path: "/", Request: &system.Request{Subject: "a.b", Service: "api"}}}, Services: servicesOf("api")},
	}
	for i, c := range bad {
		if err := d.Apply(c); err == nil {
			t.Errorf("%d was applied", i)
		}
		if _, body := d.do("GET", "/", nil, nil); body != "ok" {
			t.Errorf("%d changed something: %q", i, body)
		}
	}
}

func TestStartStopStress(t *testing.T) {
	ep := serviceOf(t, "api-1", text("ok"))
	for range 20 {
		g := New(Options{Listen: "127.0.0.1:0", AccessLog: io.Discard})
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := g.Apply(Config{Routes: routesOf("/"), Services: servicesOf("api"), Endpoints: map[string][]Endpoint{"api": {ep}}}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				tr := &http.Transport{}
				defer tr.CloseIdleConnections()
				c := &http.Client{Transport: tr}
				for range 5 {
					res, err := c.Get(g.URL())
					if err != nil {
						return // the gateway has stopped
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		wg.Go(func() {
			if err := g.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if err := g.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestSwapUnderLoad changes routes and endpoints all the time: no request may fail.
func TestSwapUnderLoad(t *testing.T) {
	d := openDoor(t, Options{})
	var eps []Endpoint
	for i := range 4 {
		eps = append(eps, serviceOf(t, fmt.Sprintf("api-%d", i), func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		}))
	}
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": eps[:2]})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var served atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				method := []string{"POST", "GET", "PUT"}[i%3]
				res, body := d.do(method, "/x", strings.NewReader("hello"), nil)
				if res.StatusCode != http.StatusOK || body != "hello" {
					t.Errorf("%s %q", res.Status, body)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range 200 {
		in := []Endpoint{eps[i%4], eps[(i+1)%4]}
		if i%2 == 0 {
			d.SetEndpoints("api", in)
		} else {
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}, {Path: fmt.Sprintf("/other%d", i), Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": in})
		}
		out := eps[(i+2)%4].Instance
		d.mu.Lock()
		e := d.instances[out]
		d.mu.Unlock()
		if e != nil && e.gone.Load() {
			if err := e.drain(ctx); err != nil {
				t.Error(err)
			}
			if n := e.open.Load(); n != 0 {
				t.Errorf("%s is drained with %d open", out, n)
			}
		}
	}
	await.Until(t, "some load", func() bool { return served.Load() > 200 })
	cancel()
	wg.Wait()
}
