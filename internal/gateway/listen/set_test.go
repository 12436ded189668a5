package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"fairlead/internal/system"
	"fairlead/test/await"
)

func plain(address string) system.Listener { return system.Listener{Address: address} }

func secure() system.Listener {
	return system.Listener{Address: "127.0.0.1:0", TLS: true, HTTP2: true}
}

func TestProtocolsAreNegotiated(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(
		secure(),
		system.Listener{Address: "127.0.0.1:0", TLS: true},
		system.Listener{Address: "127.0.0.1:0", HTTP2: true},
		plain("127.0.0.1:0"),
	)
	for _, tt := range []struct {
		name      string
		listener  int
		scheme    string
		protocols []string
		want      string // the begin of the answer; "" for an error
	}{
		{"h2 is preferred", 0, "https", []string{"h2", "http/1.1"}, "HTTP/2.0 tls=true"},
		{"http/1.1 by TLS", 0, "https", []string{"http/1.1"}, "HTTP/1.1 tls=true"},
		{"no h2", 1, "https", []string{"h2", "http/1.1"}, "HTTP/1.1 tls=true"},
		{"h2 only, where there is none", 1, "https", []string{"h2"}, ""},
		{"h2c", 2, "http", []string{"h2c"}, "HTTP/2.0 tls=false"},
		{"plain, beside h2c", 2, "http", []string{"http/1.1"}, "HTTP/1.1 tls=false"},
		{"no h2c", 3, "http", []string{"h2c"}, ""},
		{"plain", 3, "http", []string{"http/1.1"}, "HTTP/1.1 tls=false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, err := d.client(tt.protocols...).Get(tt.scheme + "://" + d.at(tt.listener) + "/")
			if tt.want == "" {
				if err == nil {
					res.Body.Close()
					t.Fatalf("answered %s", res.Status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if body, _ := io.ReadAll(res.Body); !strings.HasPrefix(string(body), tt.want) {
				t.Errorf("answered %q, want %q", body, tt.want)
			}
		})
	}
}

func TestALPNThatNobodySpeaksIsRefused(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(secure())
	_, err := tls.Dial("tcp", d.at(0), &tls.Config{RootCAs: d.roots, NextProtos: []string{"spdy/3"}})
	if err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("error %v", err)
	}
	// No ALPN at all is a client of old.
	c, err := tls.Dial("tcp", d.at(0), &tls.Config{RootCAs: d.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(c); !strings.Contains(string(got), "HTTP/1.1 tls=true") {
		t.Errorf("answered %q", got)
	}
}

func TestPlainRequestWhereTLSIsSpoken(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(secure())
	for send, want := range map[string]string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n": "400 Bad Request", "\x00\x01\x02\x03\x04\x05\x06": ""} {
		c := d.dial(0)
		_, _ = io.WriteString(c, send)
		if got, _ := io.ReadAll(c); !strings.Contains(string(got), want) || want == "" && strings.Contains(string(got), "HTTP") {
			t.Errorf("%q: answered %q", send, got)
		}
	}
}

func TestHTTP3(t *testing.T) {
	d := newDoors(t, nil, Options{})
	l := secure()
	l.HTTP3 = true
	d.listen(l)
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots}}
	defer tr.Close()
	c := &http.Client{Transport: tr, Timeout: await.Patience}
	url := "https://" + d.at(0) + "/"
	if status, body := get(t, c, url); status != 200 || !strings.HasPrefix(body, "HTTP/3.0 tls=true client=127.0.0.1") {
		t.Errorf("%d %q", status, body)
	}
	big := strings.Repeat("0123456789", 100_000)
	res, err := c.Post(url, "text/plain", strings.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !strings.HasSuffix(string(body), "body="+big) {
		t.Errorf("%v, %d bytes", err, len(body))
	}
	await.Until(t, "the QUIC connection is counted", func() bool { return d.Connections() == 1 })
	// Without http3 the port is given back, and the same TCP listener goes on.
	l.HTTP3 = false
	at := d.at(0)
	d.listen(l)
	await.Until(t, "the UDP port is free", func() bool {
		c, err := net.ListenPacket("udp", at)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if status, _ := get(t, d.client("h2"), "https://"+d.at(0)+"/"); status != 200 || d.at(0) != at {
		t.Errorf("%d at %s, was at %s", status, d.at(0), at)
	}
}

func TestHTTP3RequestsFinishWhenTheListenerEnds(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	d := newDoors(t, func(Info) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-leave
			_, _ = io.WriteString(w, "whole")
		})
	}, Options{})
	l := secure()
	l.HTTP3 = true
	d.listen(l)
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots}}
	defer tr.Close()
	c := &http.Client{Transport: tr, Timeout: await.Patience}
	got := make(chan string, 1)
	url := "https://" + d.at(0) + "/"
	go func() {
		res, err := c.Get(url)
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		got <- string(body)
		if err != nil {
			got <- err.Error()
		}
	}()
	<-entered
	d.Retire()
	close(leave)
	if body := <-got; body != "whole" {
		t.Errorf("got %q", body)
	}
}

func TestChangesUnderLoadFailNothing(t *testing.T) {
	d := newDoors(t, nil, Options{})
	base := []system.Listener{plain("127.0.0.1:0"), secure()}
	d.listen(base...)
	urls := []string{"http://" + d.at(0) + "/", "https://" + d.at(1) + "/"}
	quit := make(chan struct{})
	var done, failed atomic.Int64
	var load sync.WaitGroup
	for i := range 6 {
		c := d.client([]string{"http/1.1", "http/1.1", "h2"}[i%3])
		url := urls[min(i%3, 1)]
		load.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				res, err := c.Post(url, "text/plain", strings.NewReader("payload"))
				if err != nil {
					failed.Add(1)
					t.Errorf("%s: %v", url, err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !strings.HasSuffix(string(body), "body=payload") {
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	for i := range 40 {
		next := append([]system.Listener{}, base...)
		switch i % 4 { // listeners come and go, and what is said of those that stay changes
		case 0:
			next = append(next, plain("127.0.0.1:0"))
		case 1:
			next = append(next, secure(), plain("localhost:0"))
		case 2:
			next[0].HTTP2 = true
		}
		if _, err := d.Prepare(t.Context(), Config{Listeners: append(next, plain("256.0.0.1:0"))}); err == nil {
			t.Fatal("an impossible address was bound")
		}
		d.listen(next...)
		seen := done.Load()
		await.Until(t, "requests after the change", func() bool { return done.Load() > seen+10 || failed.Load() > 0 })
	}
	close(quit)
	load.Wait()
	if failed.Load() > 0 || done.Load() < 400 {
		t.Errorf("%d of %d failed", failed.Load(), done.Load())
	}
}

func TestAFailedChangeChangesNothing(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(plain("127.0.0.1:0"))
	was := d.Infos()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	_, err = d.Prepare(t.Context(), Config{Listeners: []system.Listener{plain(address), plain(taken.Addr().String())}})
	var inUse *AddressInUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("error %v", err)
	}
	if now := d.Infos(); len(now) != 1 || now[0].Bound != was[0].Bound {
		t.Errorf("listens on %v, was %v", now, was)
	}
	if again, err := net.Listen("tcp", address); err != nil {
		t.Errorf("what was bound for it is not free: %v", err)
	} else {
		again.Close()
	}
}

func TestRemovedListenerFinishesWhatIsOpen(t *testing.T) {
	entered, leave := make(chan string, 1), make(chan struct{})
	d := newDoors(t, func(Info) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				entered <- r.Proto
				<-leave
			}
			_, _ = io.WriteString(w, "whole")
		})
	}, Options{})
	d.listen(plain("127.0.0.1:0"), plain("127.0.0.1:0"))
	gone := d.at(1)
	c := d.client("http/1.1")
	got := make(chan *http.Response, 1)
	go func() {
		res, err := c.Get("http://" + gone + "/slow")
		if err != nil {
			t.Error(err)
			res = &http.Response{Body: http.NoBody}
		}
		got <- res
	}()
	<-entered
	idle, err := net.Dial("tcp", gone)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	_ = idle.SetDeadline(time.Now().Add(await.Patience))
	_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	head := make([]byte, 12)
	if _, err := io.ReadFull(idle, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Fatalf("%q %v", head, err)
	}
	d.listen(plain("127.0.0.1:0"))
	await.Until(t, "nobody accepts", func() bool {
		c, err := net.Dial("tcp", gone)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	// What idles may ask once more.
	_, _ = io.WriteString(idle, "GET /again HTTP/1.1\r\nHost: x\r\n\r\n")
	if rest, _ := io.ReadAll(idle); !strings.Contains(string(rest), "Connection: close") || strings.Count(string(rest), "whole") != 2 {
		t.Errorf("the second answer is %q", rest)
	}
	close(leave)
	res := <-got
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "whole" || !res.Close {
		t.Errorf("got %q, close %t", body, res.Close)
	}
	await.Until(t, "the removed listener is forgotten", func() bool { servers, _ := d.all(); return len(servers) == 1 })
}

func TestConnectionsOfOneClientAreLimited(t *testing.T) {
	var log syncBuffer
	d := newDoors(t, nil, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	header := func(address string) string {
		family := "TCP4"
		if strings.Contains(address, ":") {
			family = "TCP6"
		}
		to := map[string]string{"TCP4": "127.0.0.1", "TCP6": "::1"}[family]
		return "PROXY " + family + " " + address + " " + to + " 1000 80\r\n"
	}
	l := system.Listener{Address: "127.0.0.1:0", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	d.apply(Config{Listeners: []system.Listener{l}, Connections: 2, Trusted: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	// open opens a connection and tells whether it was served.
	open := func(from string) (net.Conn, bool) {
		c := d.dial(0)
		_, _ = io.WriteString(c, header(from)+"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		first := make([]byte, 12)
		_, err := io.ReadFull(c, first)
		return c, err == nil && string(first) == "HTTP/1.1 200"
	}
	var last net.Conn
	for _, tt := range []struct {
		from string
		want bool
	}{
		{"192.0.2.7", true},
		{"192.0.2.7", true},
		{"192.0.2.7", false},
		{"192.0.2.8", true},
		{"2001:db8:1:2::1", true},
		{"2001:db8:1:2::2", true},
		{"2001:db8:1:2:3::3", false},
		{"2001:db8:1:3::1", true},
		{"198.51.100.1", true},
		{"198.51.100.1", true},
		{"198.51.100.1", true},
	} {
		c, served := open(tt.from)
		if served != tt.want {
			t.Errorf("from %s: served %t, want %t", tt.from, served, tt.want)
		}
		if tt.from == "192.0.2.8" {
			last = c
		}
	}
	last.Close()
	await.Until(t, "places are given back", func() bool { return d.Connections() == 8 })
	if n := strings.Count(log.String(), refusalTexts[refusedClient]); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
}

func TestAllConnectionsAreLimited(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(plain("127.0.0.1:0"))
	d.room.mu.Lock()
	d.room.most = 2
	d.room.mu.Unlock()
	first := d.dial(0)
	d.dial(0)
	await.Until(t, "two are open", func() bool { return d.Connections() == 2 })
	if got, err := io.ReadAll(d.dial(0)); len(got) > 0 {
		t.Errorf("the third got %q, %v", got, err)
	}
	if got := d.Refused(); got["full"] != 1 || got["connection"] != 0 {
		t.Errorf("refused %v", got)
	}
	first.Close()
	await.Until(t, "one is open", func() bool { return d.Connections() == 1 })
	if status, _ := get(t, d.client("http/1.1"), "http://"+d.at(0)+"/"); status != 200 {
		t.Errorf("status %d", status)
	}
}

func TestRoomTellsOnceAMinute(t *testing.T) {
	var log syncBuffer
	r := newRoom(slog.New(slog.NewTextHandler(&log, nil)))
	r.most = 0
	now := time.Now()
	for i := range 100 {
		r.enter(now.Add(time.Duration(i) * time.Second))
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "refused=60") {
		t.Errorf("told %d times: %s", n, log.String())
	}
}

func TestAnotherProcessTakesTheSocketsOver(t *testing.T) {
	who := func(name string) func(Info) http.Handler {
		return func(Info) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
		}
	}
	old := newDoors(t, who("old"), Options{})
	l := secure()
	l.HTTP3 = true
	list := []system.Listener{plain("127.0.0.1:0"), plain("127.0.0.1:0"), l}
	old.listen(list...)
	sockets, err := old.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	if len(sockets) != 3 {
		t.Fatalf("%d sockets", len(sockets))
	}
	sockets = append(sockets, Socket{Address: "127.0.0.1:1", File: sockets[0].File}) // of a listener that is gone
	at := []string{old.at(0), old.at(1), old.at(2)}
	c := old.client("http/1.1")
	c.Transport.(*http.Transport).DisableKeepAlives = true
	var failed, done atomic.Int64
	quit := make(chan struct{})
	var load sync.WaitGroup
	for _, a := range at[:2] {
		load.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				res, err := c.Get("http://" + a + "/")
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				res.Body.Close()
				done.Add(1)
			}
		})
	}
	await.Until(t, "requests to the old one", func() bool { return done.Load() > 20 })
	next := newDoors(t, who("new"), Options{Inherited: sockets})
	next.listen(list...)
	old.Retire()
	seen := done.Load()
	await.Until(t, "requests to the new one", func() bool { return done.Load() > seen+50 || failed.Load() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	if err := old.Stop(ctx); err != nil {
		t.Error(err)
	}
	if _, body := get(t, c, "http://"+at[1]+"/"); body != "new" {
		t.Errorf("answered by %q", body)
	}
	close(quit)
	load.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d failed", failed.Load(), done.Load())
	}
	for i := range at {
		if next.at(i) != at[i] {
			t.Errorf("listener %d is at %s, was at %s", i, next.at(i), at[i])
		}
	}
	// HTTP/3 follows once the old process has let go of the port.
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: next.roots}}
	defer tr.Close()
	h3 := &http.Client{Transport: tr, Timeout: await.Patience}
	await.Until(t, "HTTP/3 in the new process", func() bool {
		res, err := h3.Get("https://" + at[2] + "/")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body) == "new"
	})
	if _, err := old.Prepare(t.Context(), Config{}); !errors.Is(err, ErrRetired) {
		t.Errorf("error %v", err)
	}
}

func TestSocketsKeepTheListenerNonBlocking(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(plain("127.0.0.1:0"))
	sockets, err := d.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	defer sockets[0].File.Close()
	sockets[0].File.Fd() // some library may
	d.Retire()           // would hang in a blocking accept
	d.accepting.Wait()
}

func TestGoAwayOnHTTP2(t *testing.T) {
	d := newDoors(t, nil, Options{})
	d.listen(secure())
	c := d.client("h2")
	get(t, c, "https://"+d.at(0)+"/")
	if d.Connections() != 1 {
		t.Fatalf("%d connections", d.Connections())
	}
	d.Retire()
	await.Until(t, "the client leaves", func() bool { return d.Connections() == 0 })
}

func TestSilentConnectionsEnd(t *testing.T) {
	d := newDoors(t, nil, Options{HeadTime: 50 * time.Millisecond})
	d.listen(plain("127.0.0.1:0"), system.Listener{Address: "127.0.0.1:0", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	for i := range 2 {
		if _, err := io.ReadAll(d.dial(i)); err != nil {
			t.Errorf("listener %d: %v", i, err)
		}
	}
	await.Until(t, "they are gone", func() bool { return d.Connections() == 0 })
}

func TestStartStopStress(t *testing.T) {
	for i := range 15 {
		d := newDoors(t, nil, Options{})
		l := secure()
		l.HTTP3 = i%5 == 0
		d.listen(plain("127.0.0.1:0"), l)
		at := []string{"http://" + d.at(0), "https://" + d.at(1)}
		var clients sync.WaitGroup
		for k := range 4 {
			c := d.client([]string{"http/1.1", "h2"}[k%2])
			clients.Go(func() {
				if res, err := c.Get(at[k%2]); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		for k := range 3 {
			c := d.dial(k % 2) // says nothing
			clients.Go(func() { _, _ = io.ReadAll(c) })
		}
		if i%2 == 0 {
			d.Retire()
		}
		ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
		if err := d.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		clients.Wait()
		if d.Connections() != 0 {
			t.Fatalf("%d connections are left", d.Connections())
		}
	}
}

func TestStopIsBounded(t *testing.T) {
	entered := make(chan struct{}, 2)
	d := newDoors(t, func(Info) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			<-r.Context().Done()
		})
	}, Options{})
	d.listen(plain("127.0.0.1:0"), secure())
	var clients sync.WaitGroup
	for i, url := range []string{"http://" + d.at(0), "https://" + d.at(1)} {
		c := d.client([]string{"http/1.1", "h2"}[i])
		clients.Go(func() {
			if res, err := c.Get(url); err == nil {
				res.Body.Close()
				t.Error("answered")
			}
		})
		<-entered
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	d.Cut()
	clients.Wait()
}
