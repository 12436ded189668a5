package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// drainSoon drains an instance whose time is over at once.
func (d *door) drainSoon(service, instance string) error {
	ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Millisecond)
	defer cancel()
	return d.Drain(ctx, service, instance)
}

func (d *door) oneService(name string, eps ...Endpoint) {
	d.t.Helper()
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: name, Weight: 1}}}}, map[string][]Endpoint{name: eps})
}

func TestDrainClosesWebSocketsBothWays(t *testing.T) {
	d := openDoor(t, Options{})
	heard := make(chan websocket.StatusCode, 1)
	ep := serviceOf(t, "ws-1", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		for {
			_, b, err := c.Read(r.Context())
			if err != nil {
				heard <- websocket.CloseStatus(err)
				return
			}
			if err := c.Write(r.Context(), websocket.MessageText, b); err != nil {
				return
			}
		}
	})
	d.oneService("ws", ep)
	c := d.websocket("/")
	ping(t, c, "hello")
	read := make(chan error, 1)
	go func() { _, _, err := c.Read(t.Context()); read <- err }()
	d.SetEndpoints("ws", nil)
	if err := d.drainSoon("ws", "ws-1"); err != nil {
		t.Error(err)
	}
	if err := <-read; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the client got %v", err)
	}
	if s := <-heard; s != websocket.StatusGoingAway {
		t.Errorf("the service got %v", s)
	}
}

// rawWebSocket upgrades a connection to the door by hand.
func (d *door) rawWebSocket() (net.Conn, *bufio.Reader) {
	d.t.Helper()
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	br := bufio.NewReader(c)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			d.t.Fatal(err)
		}
		if line == "\r\n" {
			return c, br
		}
	}
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

// TestCloseFrameWaitsForTheEndOfAFrame drains while half a frame has gone by: the
// rest goes first, and nothing after the close frame.
func TestCloseFrameWaitsForTheEndOfAFrame(t *testing.T) {
	d := openDoor(t, Options{})
	half, rest := "\x81\x0ahello", "world\x81\x03abc"
	goOn, got := make(chan struct{}), make(chan string, 1)
	ep := rawService(t, "ws-1", func(c net.Conn, _ string) {
		io.WriteString(c, switching+half)
		<-goOn
		io.WriteString(c, rest)
		_ = c.SetReadDeadline(time.Now().Add(await.Patience))
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	d.oneService("ws", ep)
	c, br := d.rawWebSocket()
	first := make([]byte, len(half))
	if _, err := io.ReadFull(br, first); err != nil || string(first) != half {
		t.Fatalf("%q, %v", first, err)
	}
	d.SetEndpoints("ws", nil)
	drained := make(chan error, 1)
	go func() { drained <- d.drainSoon("ws", "ws-1") }()
	await.Until(t, "the drain to end the tunnel", func() bool {
		d.mu.Lock()
		e := d.instances["ws-1"]
		d.mu.Unlock()
		return e.place.Over() && d.lasting.Len() == 1 // what Len waits for has told the tunnel
	})
	close(goOn)
	end, _ := io.ReadAll(br)
	if !strings.HasPrefix(string(end), "world\x88") || strings.Contains(string(end), "abc") {
		t.Errorf("the client got %q", end)
	}
	c.Close()
	if b := <-got; len(b) < 8 || b[0] != 0x88 || b[1]&0x80 == 0 {
		t.Errorf("the service got %q, want a masked close frame", b)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestDrainEndsATunnelWhoseClientStalls(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Options{})
	ep := rawService(t, "ws-1", func(c net.Conn, _ string) {
		io.WriteString(c, switching)
		frame := append([]byte{0x82, 126, 0xff, 0xff}, make([]byte, 0xffff)...)
		for {
			if _, err := c.Write(frame); err != nil {
				return
			}
		}
	})
	d.oneService("ws", ep)
	d.rawWebSocket() // and does not read
	d.SetEndpoints("ws", nil)
	began := time.Now()
	if err := d.drainSoon("ws", "ws-1"); err != nil || time.Since(began) > await.Patience/2 {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestDrainEndsOtherTunnels(t *testing.T) {
	d := openDoor(t, Options{})
	ended := make(chan string, 1)
	ep := rawService(t, "raw-1", func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\nhi ")
		b, _ := io.ReadAll(c)
		io.WriteString(c, "bye")
		ended <- string(b)
	})
	d.oneService("raw", ep)
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n")
	br := bufio.NewReader(c)
	if _, err := br.ReadString(' '); err != nil {
		t.Fatal(err)
	}
	d.SetEndpoints("raw", nil)
	go d.drainSoon("raw", "raw-1")
	<-ended
	if all, err := io.ReadAll(br); err != nil || !strings.Contains(string(all), "hi ") {
		t.Errorf("the client got %q, %v", all, err)
	}
}

// streamOf answers with pieces, each written when the test says so.
func streamOf(tb testing.TB, kind string, pieces <-chan string) Endpoint {
	tb.Helper()
	return serviceOf(tb, "api-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.(http.Flusher).Flush()
		for {
			select {
			case p := <-pieces:
				io.WriteString(w, p)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
}

func TestHeadOfAStreamComesBeforeItsBody(t *testing.T) {
	d := openDoor(t, Options{})
	d.oneService("api", streamOf(t, "text/event-stream", nil))
	res, err := d.client.Get(d.URL() + "/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, kind, before, after string
		clean                     bool
		want                      string
	}{
		{"events", "text/event-stream", "data: 1\n\n", "", true, "data: 1\n\n"},
		{"events, one under way", "text/event-stream; charset=utf-8", "data: 1\n\ndata", ": 2\n\ndata: 3\n\n", true, "data: 1\n\ndata: 2\n\n"},
		{"events, none yet", "text/event-stream", "", "", true, ""},
		{"another stream", "application/x-ndjson", "{}\n", "", false, "{}\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t, Options{})
			pieces := make(chan string, 2)
			d.oneService("api", streamOf(t, tt.kind, pieces))
			res, err := d.client.Get(d.URL() + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			pieces <- tt.before
			got := make([]byte, len(tt.before))
			if _, err := io.ReadFull(res.Body, got); err != nil {
				t.Fatal(err)
			}
			d.SetEndpoints("api", nil)
			drained := make(chan error, 1)
			go func() { drained <- d.drainSoon("api", "api-1") }()
			await.Until(t, "the drain to end the stream", func() bool {
				d.mu.Lock()
				e := d.instances["api-1"]
				d.mu.Unlock()
				return e.place.Over()
			})
			if tt.after != "" {
				pieces <- tt.after
			}
			rest, err := io.ReadAll(res.Body)
			if (err == nil) != tt.clean || string(got)+string(rest) != tt.want {
				t.Errorf("got %q and then %v", string(got)+string(rest), err)
			}
			if err := <-drained; err != nil {
				t.Error(err)
			}
			if f := d.Pools()[0].Faults; f.Broken != 0 {
				t.Error("counts against the service")
			}
		})
	}
}

func TestDrainLeavesRequestsWithoutAnAnswer(t *testing.T) {
	d := openDoor(t, Options{})
	arrived, let := make(chan struct{}), make(chan struct{})
	d.oneService("api", serviceOf(t, "api-1", func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-let
		io.WriteString(w, "late")
	}))
	answered := make(chan string, 1)
	go func() {
		_, body := d.do("GET", "/", nil, nil)
		answered <- body
	}()
	<-arrived
	if err := d.drainSoon("api", "api-1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v", err)
	}
	close(let)
	if got := <-answered; got != "late" {
		t.Errorf("got %q", got)
	}
}

func TestStopEndsWebSocketsAndEvents(t *testing.T) {
	d := openDoor(t, Options{})
	pieces := make(chan string, 1)
	d.apply([]*system.Route{{Path: "/ws", Targets: []system.Target{{Service: "ws", Weight: 1}}}, {Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}},
		map[string][]Endpoint{"ws": {serviceOf(t, "ws-1", echo(t))}, "api": {streamOf(t, "text/event-stream", pieces)}})
	c := d.websocket("/ws")
	ping(t, c, "hello")
	res, err := d.client.Get(d.URL() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	pieces <- "data: 1\n\n"
	first := make([]byte, 9)
	if _, err := io.ReadFull(res.Body, first); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, _, err := c.Read(t.Context()); read <- err }()
	if err := d.Stop(t.Context()); err != nil { // has no deadline
		t.Error(err)
	}
	if err := <-read; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the WebSocket got %v", err)
	}
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("the stream got %q, %v", rest, err)
	}
}
