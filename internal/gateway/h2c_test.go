package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// h2cService is a service that speaks HTTP/2 only.
func h2cService(tb testing.TB, instance string, h http.HandlerFunc) Endpoint {
	tb.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	tb.Cleanup(s.Close)
	return Endpoint{Instance: instance, Network: "tcp", Address: s.Listener.Addr().String()}
}

// openH2CDoor starts a gateway that takes HTTP/2 without TLS, in front of services
// that do.
func openH2CDoor(tb testing.TB, eps ...Endpoint) *door {
	tb.Helper()
	d := openDoor(tb, Options{Gateway: system.Gateway{Listeners: []system.Listener{{Address: "127.0.0.1:0", HTTP2: true}}}})
	d.using = map[string]system.Pool{"api": {Protocol: system.H2C}}
	d.oneService("api", eps...)
	return d
}

// h2Client speaks HTTP/2 with the door.
func h2Client(tb testing.TB) *http.Client {
	tb.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestH2CAnswersEveryClient(t *testing.T) {
	d := openH2CDoor(t, h2cService(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Server", "inner")
		w.Header().Set("X-Path", r.RequestURI)
		if r.ProtoMajor != 2 || r.Header.Get("X-Forwarded-For") == "" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s with %v", r.Proto, r.Header)
		}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %d %s", r.Method, r.Host, r.ContentLength, body)
	}))
	for name, c := range map[string]*http.Client{"HTTP/1.1": d.client, "HTTP/2": h2Client(t)} {
		for _, tt := range []struct{ method, body, want string }{
			{"GET", "", "GET example.com 0 "},
			{"POST", "hello", "POST example.com 5 hello"},
			{"POST", "", "POST example.com 0 "},
			{"PUT", strings.Repeat("x", replayBody+1), fmt.Sprintf("PUT example.com %d ", replayBody+1) + strings.Repeat("x", replayBody+1)},
		} {
			r, _ := http.NewRequestWithContext(t.Context(), tt.method, d.URL()+"/a%2Cb?q=1&r", strings.NewReader(tt.body))
			r.Host = "example.com"
			res, err := c.Do(r)
			if err != nil {
				t.Fatal(name, err)
			}
			got, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != http.StatusTeapot || string(got) != tt.want {
				t.Errorf("%s %s: %s %.100q", name, tt.method, res.Status, got)
			}
			if res.Header.Get("Server") == "inner" || res.Header.Get("X-Path") != "/a%2Cb?q=1&r" {
				t.Errorf("%s %s: header %v", name, tt.method, res.Header)
			}
		}
	}
}

// TestH2CCarriesGRPC is a call in the way of gRPC: both sides stream, the end is a
// trailer, and nothing is held back.
func TestH2CCarriesGRPC(t *testing.T) {
	d := openH2CDoor(t, h2cService(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" {
			t.Errorf("TE is %q", r.Header.Get("Te"))
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(bytes.ToUpper(buf[:n]))
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "client said "+r.Trailer.Get("X-End"))
	}))
	pr, pw := io.Pipe()
	r, _ := http.NewRequestWithContext(t.Context(), "POST", d.URL()+"/pkg.Service/Method", pr)
	r.Header.Set("Te", "trailers")
	r.Header.Set("Content-Type", "application/grpc")
	r.Trailer = http.Header{"X-End": nil}
	res, err := h2Client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 4)
	for _, word := range []string{"ping", "pong", "four"} {
		io.WriteString(pw, word)
		if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != strings.ToUpper(word) {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	r.Trailer.Set("X-End", "bye")
	pw.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "client said bye" {
		t.Errorf("trailers %v", res.Trailer)
	}
}

func TestH2CInformsAndCancels(t *testing.T) {
	left := make(chan struct{})
	d := openH2CDoor(t, h2cService(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(left)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	var hints atomic.Int64
	r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints && h.Get("Link") != "" {
			hints.Add(1)
		}
		return nil
	}}), "GET", d.URL()+"/", nil)
	res, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if hints.Load() != 1 || res.Header.Get("Link") != "" {
		t.Errorf("%d hints, then %v", hints.Load(), res.Header)
	}
	cancel()
	res.Body.Close()
	<-left
}

func TestH2CFaults(t *testing.T) {
	t.Parallel()
	t.Run("refused connection goes to the next", func(t *testing.T) {
		d := openH2CDoor(t, refusing(t, "api-1"), h2cService(t, "api-2", text("two")))
		for range 4 {
			if res, body := d.do("POST", "/", io.MultiReader(strings.NewReader("x")), nil); body != "two" {
				t.Errorf("%s %q", res.Status, body)
			}
		}
	})
	t.Run("HTTP/1.1 service is 502", func(t *testing.T) {
		d := openH2CDoor(t, serviceOf(t, "api-1", text("one")))
		if res, _ := d.do("POST", "/", strings.NewReader("x"), nil); res.StatusCode != http.StatusBadGateway {
			t.Errorf("%s", res.Status)
		}
	})
	t.Run("silence is 504", func(t *testing.T) {
		d := openH2CDoor(t)
		ep := h2cService(t, "api-1", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		d.apply([]*system.Route{{Path: "/", Timeout: 50 * time.Millisecond, Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
		if res, _ := d.do("GET", "/", nil, nil); res.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("%s", res.Status)
		}
	})
	t.Run("early answer to a body that never ends", func(t *testing.T) {
		d := openH2CDoor(t, h2cService(t, "api-1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
		c, err := net.Dial("tcp", d.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(await.Patience))
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000))
		if got, _ := io.ReadAll(c); !bytes.HasPrefix(got, []byte("HTTP/1.1 403 ")) {
			t.Errorf("got %.100q", got)
		}
	})
	t.Run("too large a body is 413", func(t *testing.T) {
		d := openH2CDoor(t)
		ep := h2cService(t, "api-1", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		d.apply([]*system.Route{{Path: "/", Limits: system.Limits{Body: 100}, Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
		if res, _ := d.do("POST", "/", io.MultiReader(strings.NewReader(strings.Repeat("x", 1000))), nil); res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s", res.Status)
		}
	})
}

// TestH2CSendsAgainWhatAServiceHasNotLookedAt has a service say goodbye to a
// request: it has looked at no stream, so another connection gets it.
func TestH2CSendsAgainWhatAServiceHasNotLookedAt(t *testing.T) {
	for _, how := range []string{"goaway", "refused"} {
		t.Run(how, func(t *testing.T) {
			var conns atomic.Int64
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			t.Cleanup(func() { l.Close(); all.Wait() })
			all.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					first := conns.Add(1) == 1
					all.Go(func() { rawH2(c, how, first) })
				}
			})
			d := openH2CDoor(t, Endpoint{Instance: "api-1", Network: "tcp", Address: l.Addr().String()})
			res, _ := d.do("POST", "/", strings.NewReader("hello"), nil)
			if res.StatusCode != http.StatusNoContent {
				t.Errorf("%s", res.Status)
			}
		})
	}
}

// rawH2 refuses the first stream of a connection in some way if it shall, and
// answers the others 204.
func rawH2(c net.Conn, how string, refuse bool) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(c, c)
	_ = fr.WriteSettings()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			if refuse && how == "goaway" {
				_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
				return
			}
			if refuse {
				refuse = false
				_ = fr.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream)
				continue
			}
			var b bytes.Buffer
			_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: true})
		}
	}
}

func TestH2CUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: text("by socket"), Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	d := openH2CDoor(t, Endpoint{"api-1", "unix", path})
	if res, body := d.do("GET", "/", nil, nil); body != "by socket" {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestH2CDrain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind  string
		clean bool
	}{{"text/event-stream", true}, {"application/grpc", false}} {
		t.Run(tt.kind, func(t *testing.T) {
			t.Parallel()
			d := openH2CDoor(t, h2cService(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				io.WriteString(w, "data: 1\n\n")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}))
			res, err := d.client.Get(d.URL() + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.ReadFull(res.Body, make([]byte, 9)); err != nil {
				t.Fatal(err)
			}
			d.SetEndpoints("api", []Endpoint{h2cService(t, "api-2", text("new"))})
			if err := d.drainSoon("api", "api-1"); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(res.Body); (err == nil) != tt.clean || len(rest) > 0 {
				t.Errorf("%q, %v", rest, err)
			}
			if _, body := d.do("GET", "/", nil, nil); body != "new" {
				t.Errorf("after the drain %q answers", body)
			}
		})
	}
}

// TestH2CUnderLoad has many streams while the endpoints change.
func TestH2CUnderLoad(t *testing.T) {
	eps := make([]Endpoint, 3)
	for i := range eps {
		eps[i] = h2cService(t, fmt.Sprint("api-", i), func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	}
	d := openH2CDoor(t, eps...)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 40 {
				res, body := d.do("POST", "/", strings.NewReader("hello"), nil)
				if res.StatusCode != http.StatusOK || body != "hello" {
					t.Errorf("%s %q", res.Status, body)
				}
			}
		})
	}
	for i := range 30 {
		d.SetEndpoints("api", []Endpoint{eps[i%3], eps[(i+1)%3]})
		ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
		if err := d.Drain(ctx, "api", eps[(i+2)%3].Instance); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	all.Wait()
}
