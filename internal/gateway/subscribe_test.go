package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"fairlead/internal/gateway/live"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// air is a bus of a test that keeps nothing.
type air struct {
	mu        sync.Mutex
	listeners map[*listening]bool
}

type listening struct {
	pattern string
	take    func(*live.Message, bool)
}

func (a *air) publish(subject, data string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.listeners {
		l.take(&live.Message{Subject: subject, Data: []byte(data), Time: time.Unix(1, 0)}, false)
	}
}

func (a *air) Listen(pattern string, take func(*live.Message, bool), _ func()) (func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.listeners == nil {
		a.listeners = map[*listening]bool{}
	}
	l := &listening{pattern, take}
	a.listeners[l] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.listeners, l)
	}, nil
}

func (a *air) Streams(context.Context, string) ([]live.Stream, error) { return nil, nil }

func (a *air) Read(context.Context, live.Stream, []string, uint64, int) (live.Page, error) {
	return live.Page{}, errors.New("nothing is kept")
}

// openLive starts a gateway with subscribe routes.
func openLive(t *testing.T, routes ...*system.Route) (*door, *air) {
	t.Helper()
	a := &air{}
	d := openDoor(t, Options{Live: a})
	d.apply(routes, nil)
	return d, a
}

// subscriber opens a WebSocket; the hello has been read.
func (d *door) subscriber(path string, opts *websocket.DialOptions) *websocket.Conn {
	d.t.Helper()
	c, res, err := websocket.Dial(d.t.Context(), strings.Replace(d.URL(), "http", "ws", 1)+path, opts)
	if err != nil {
		status := 0
		if res != nil {
			status = res.StatusCode
		}
		d.t.Fatalf("open %s: %d, %v", path, status, err)
	}
	d.t.Cleanup(func() { _ = c.CloseNow() })
	if e := hear(d.t, c); e["event"] != "hello" {
		d.t.Fatalf("the first event is %v", e)
	}
	return c
}

// hear reads the next event.
func hear(tb testing.TB, c *websocket.Conn) map[string]any {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), await.Patience)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(b, &e); err != nil {
		tb.Fatalf("%s: %v", b, err)
	}
	return e
}

func liveAt(path, subject string) *system.Route {
	return &system.Route{Path: path, Subscribe: &system.Subscribe{Subject: subject}}
}

func TestSubscribeByWebSocket(t *testing.T) {
	d, bus := openLive(t, liveAt("/live/{room}", "chat.{room}.>"))
	c := d.subscriber("/live/blue?subject=chat.*.said", nil)
	bus.publish("chat.red.said", `"other room"`)
	bus.publish("chat.blue.typing", `"not asked for"`)
	bus.publish("chat.blue.said", `{"text": "hello"}`)
	e := hear(t, c)
	data, _ := e["data"].(map[string]any)
	if e["event"] != "message" || e["subject"] != "chat.blue.said" || data["text"] != "hello" {
		t.Errorf("%v", e)
	}
}

func TestSubscribeByServerSentEvents(t *testing.T) {
	d, bus := openLive(t, liveAt("/live", "data.>"))
	res, err := d.client.Get(d.URL() + "/live")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "text/event-stream" {
		t.Fatal(res.StatusCode, ct)
	}
	lines := bufio.NewScanner(res.Body)
	find := func(prefix string) string {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), prefix) {
				return lines.Text()
			}
		}
		t.Fatalf("the stream ended before %s: %v", prefix, lines.Err())
		return ""
	}
	find("event: hello")
	find("data: {")
	bus.publish("data.a", "two\nlines")
	if got := find("data: "); got != `data: {"subject":"data.a","time":"1970-01-01T00:00:01Z","text":"two\nlines"}` {
		t.Error(got)
	}
	go d.Retire()
	find("event: end")
}

func TestSubscribeRefuses(t *testing.T) {
	d, _ := openLive(t, liveAt("/live", "data.*"), liveAt("/of/{room}", "chat.{room}"),
		&system.Route{Path: "/mine", Subscribe: &system.Subscribe{Subject: "orders.{claim:customer}", Origins: []string{"https://app.example"}}})
	upgrade := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	with := func(more ...string) map[string]string {
		h := maps.Clone(upgrade)
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	tests := []struct {
		name, method, path string
		header             map[string]string
		want               int
	}{
		{"another method", "POST", "/live", nil, 405},
		{"a subject of others", "GET", "/live?subject=orders.1", nil, 403},
		{"a subject that is none", "GET", "/live?subject=data..a", nil, 400},
		{"the bus's own", "GET", "/live?subject=$SYS.a", nil, 400},
		{"too many subjects", "GET", "/live?" + strings.Repeat("subject=data.a&", 17), nil, 400},
		{"a wildcard in the path", "GET", "/of/*", nil, 400},
		{"no claim", "GET", "/mine", nil, 403},
		{"another page", "GET", "/live", with("Origin", "https://evil.example"), 403},
		{"a page that is not listed", "GET", "/mine", with("Origin", "https://other.example"), 403},
		{"another version", "GET", "/live", with("Sec-WebSocket-Version", "8"), 426},
		{"a bad key", "GET", "/live", with("Sec-WebSocket-Key", "short"), 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := d.do(tt.method, tt.path, nil, func(r *http.Request) {
				for k, v := range tt.header {
					r.Header.Set(k, v)
				}
			})
			if res.StatusCode != tt.want {
				t.Errorf("%d, want %d: %s", res.StatusCode, tt.want, body)
			}
		})
	}
	if n := d.Refused()["origin"]; n != 2 {
		t.Errorf("%d pages were counted", n)
	}
}

// TestSubscribersOfAChangedRoute come back; those of one that stays do not notice.
func TestSubscribersOfAChangedRoute(t *testing.T) {
	d, bus := openLive(t, liveAt("/a", "data.a"), liveAt("/b", "data.b"))
	a, b := d.subscriber("/a", nil), d.subscriber("/b", nil)
	d.apply([]*system.Route{liveAt("/a", "data.a"), liveAt("/b", "data.c")}, nil)
	if _, _, err := b.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the changed one: %v", err)
	}
	bus.publish("data.a", "1")
	if e := hear(t, a); e["subject"] != "data.a" {
		t.Errorf("the other one: %v", e)
	}
}

// TestStopTellsSubscribers that they shall come back.
func TestStopTellsSubscribers(t *testing.T) {
	d, _ := openLive(t, liveAt("/a", "data.a"))
	a := d.subscriber("/a", nil)
	go func() { _ = d.Stop(context.Background()) }()
	if _, _, err := a.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("it ended with %v", err)
	}
}

// TestTokenOfABrowser comes as a subprotocol, and stands in no log.
func TestTokenOfABrowser(t *testing.T) {
	a := &air{}
	d := openDoor(t, Options{Live: a})
	if err := d.Apply(Config{
		Gateway: system.Gateway{Auth: system.Auth{Keys: &system.Keys{Header: "Authorization", Keys: []system.Credential{{Name: "page", Secret: "KEY"}}}}},
		Routes:  []*system.Route{{Key: "/a", Path: "/a", Auth: []system.AuthMethod{system.AuthKeys}, Subscribe: &system.Subscribe{Subject: "data.{claim:sub}"}}},
		Secrets: map[string]string{"KEY": "Bearer secret-token"},
	}); err != nil {
		t.Fatal(err)
	}
	c := d.subscriber("/a", &websocket.DialOptions{Subprotocols: []string{"fairlead", "bearer.secret-token"}})
	if c.Subprotocol() != "fairlead" {
		t.Errorf("the subprotocol is %q", c.Subprotocol())
	}
	a.publish("data.page", "1")
	if e := hear(t, c); e["subject"] != "data.page" {
		t.Errorf("%v", e)
	}
	_ = c.Close(websocket.StatusNormalClosure, "")
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := d.log.String(); strings.Contains(log, "secret-token") || !strings.Contains(log, `"status":101`) {
		t.Errorf("the log is %s", log)
	}
}

func TestSubscribersAreCounted(t *testing.T) {
	d, _ := openLive(t, &system.Route{Key: "/live", Path: "/live", Subscribe: &system.Subscribe{Subject: "data.vhf"}})
	if n, there := d.Subscribers()["/live"]; n != 0 || !there {
		t.Errorf("%d at first, %t", n, there)
	}
	a, b := d.subscriber("/live", nil), d.subscriber("/live", nil)
	if n := d.Subscribers()["/live"]; n != 2 {
		t.Errorf("%d of two", n)
	}
	_ = a.CloseNow()
	_ = b.CloseNow()
	await.Until(t, "they have left", func() bool { return d.Subscribers()["/live"] == 0 })
}
