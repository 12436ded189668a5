package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"fairlead/internal/gateway/filter"
	"fairlead/internal/system"
)

// parrot lets clients hear what they say.
type parrot struct {
	t      *testing.T
	away   atomic.Bool
	inside atomic.Int64 // places that are taken
}

func (p *parrot) Enter(from netip.Addr) (serve func(context.Context, net.Conn), leave func(), err error) {
	if p.away.Load() {
		return nil, nil, errors.New("it is suspended")
	}
	if from != netip.MustParseAddr("127.0.0.1") {
		p.t.Errorf("a client from %v", from)
	}
	p.inside.Add(1)
	return func(_ context.Context, conn net.Conn) {
		defer conn.Close()
		_, _ = io.WriteString(conn, "INFO {}\r\n")
		_, _ = io.Copy(conn, conn)
	}, func() { p.inside.Add(-1) }, nil
}

// speaking is a door with a route for clients of NATS, who hear what they say.
func speaking(t *testing.T) *door {
	t.Helper()
	d, _ := speakingWith(t)
	return d
}

func speakingWith(t *testing.T) (*door, *parrot) {
	t.Helper()
	p := &parrot{t: t}
	d := openDoor(t, Options{NATS: p})
	if err := d.Apply(Config{Routes: []*system.Route{{Key: "/nats", Path: "/nats", NATS: &system.NATS{}}}}); err != nil {
		t.Fatal(err)
	}
	return d, p
}

// socket opens a WebSocket as a page of an origin would, "" for a program.
func (d *door) socket(origin string) (*websocket.Conn, *http.Response, error) {
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if origin != "" {
		opts.HTTPHeader.Set("Origin", origin)
	}
	return websocket.Dial(d.t.Context(), "ws"+strings.TrimPrefix(d.URL(), "http")+"/nats", opts)
}

func TestNATSOverWebSocket(t *testing.T) {
	d := speaking(t)
	c, _, err := d.socket("")
	if err != nil {
		t.Fatal(err)
	}
	conn := websocket.NetConn(t.Context(), c, websocket.MessageBinary)
	defer conn.Close()
	said := strings.Repeat("PUB a.b 5\r\nhello\r\n", 10_000)
	go func() { _, _ = io.WriteString(conn, said) }()
	got := make([]byte, len("INFO {}\r\n")+len(said))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "INFO {}\r\n"+said {
		t.Errorf("%v, %d bytes", err, len(got))
	}
}

func TestNATSOverWebSocketOnlyFromKnownOrigins(t *testing.T) {
	d := speaking(t)
	for _, tt := range []struct {
		name    string
		origins []string
		origin  string
		in      bool
	}{
		{"a program", nil, "", true},
		{"the door's own", nil, d.URL(), true},
		{"another", nil, "https://evil.example", false},
		{"a sandbox", nil, "null", false},
		{"one that is named", []string{"https://page.example"}, "https://page.example", true},
		{"the door's own where others are named", []string{"https://page.example"}, d.URL(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := d.Apply(Config{Routes: []*system.Route{{Key: "/nats", Path: "/nats", NATS: &system.NATS{Origins: tt.origins}}}})
			if err != nil {
				t.Fatal(err)
			}
			c, resp, err := d.socket(tt.origin)
			if c != nil {
				_ = c.CloseNow()
			}
			if in := err == nil; in != tt.in || !in && resp.StatusCode != http.StatusForbidden {
				t.Errorf("let in: %t, %v", in, resp)
			}
		})
	}
}

func TestNATSIsNotSpokenOverHTTP(t *testing.T) {
	d := speaking(t)
	resp, err := d.client.Get(d.URL() + "/nats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%d", resp.StatusCode)
	}
}

// TestNATSOverWebSocketWhileTheBusIsAway had clients wait for 20 s, while the bus moved
// to another process, for the first word over a WebSocket that was open.
func TestNATSOverWebSocketWhileTheBusIsAway(t *testing.T) {
	d, p := speakingWith(t)
	p.away.Store(true)
	if _, resp, err := d.socket(""); err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%v, %v", resp, err)
	}
	p.away.Store(false)
	c, _, err := d.socket("")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.CloseNow()
}

// TestNATSOverWebSocketThatFailsKeepsNoPlace lets clients ask for a switch that cannot be.
func TestNATSOverWebSocketThatFailsKeepsNoPlace(t *testing.T) {
	d, p := speakingWith(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL()+"/nats", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket") // without a key
	resp, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 || p.inside.Load() != 0 {
		t.Errorf("answered %d, %d places are taken", resp.StatusCode, p.inside.Load())
	}
}

func TestNATSOverWebSocketEnds(t *testing.T) {
	for name, end := range map[string]func(*door){
		"with the door": func(d *door) { _ = d.Stop(context.Background()) },
		"for the banned": func(d *door) {
			d.SetBans([]filter.Ban{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := speaking(t)
			c, _, err := d.socket("")
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if _, _, err := c.Read(t.Context()); err != nil { // INFO
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() { _, _, err := c.Read(t.Context()); read <- err }()
			end(d)
			if err := <-read; websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the client got %v", err)
			}
		})
	}
}
