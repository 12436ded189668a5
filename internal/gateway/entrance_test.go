package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"fairlead/internal/gateway/certs"
	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestSecureURL(t *testing.T) {
	for _, tt := range []struct {
		name, host, target string
		port               int
		want               string // "" for none
	}{
		{"as it is", "shop.example", "/a/b?q=1&x=%20y", 443, "https://shop.example/a/b?q=1&x=%20y"},
		{"the port of plain http goes", "shop.example:80", "/", 443, "https://shop.example/"},
		{"another port comes", "shop.example", "/", 8443, "https://shop.example:8443/"},
		{"one port for another", "shop.example:8080", "/", 8443, "https://shop.example:8443/"},
		{"address", "192.0.2.7:80", "/", 443, "https://192.0.2.7/"},
		{"address of six", "[2001:db8::7]:80", "/x", 8443, "https://[2001:db8::7]:8443/x"},
		{"address of six without a port", "[2001:db8::7]", "/x", 443, "https://[2001:db8::7]/x"},
		{"encoded path", "shop.example", "/a%2Fb%3F/%C3%BC", 443, "https://shop.example/a%2Fb%3F/%C3%BC"},
		{"another host in the path", "shop.example", "//evil.example/x", 443, "https://shop.example//evil.example/x"},
		{"empty query", "shop.example", "/a?", 443, "https://shop.example/a?"},
		{"absolute form", "shop.example", "http://shop.example/a?b", 443, "https://shop.example/a?b"},
		{"no host", "", "/", 443, ""},
		{"no host that is one", "shop.example/x", "/", 443, ""},
		{"a user before the host", "me@shop.example", "/", 443, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), "GET", tt.target, nil)
			r.Host = tt.host
			got, ok := secureURL(r, tt.port)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, %t, want %q", got, ok, tt.want)
			}
		})
	}
}

// secured is a door that speaks everything, with an authority of its own.
type secured struct {
	*door
	gateway system.Gateway
	roots   *x509.CertPool
}

// openSecured starts a door with a TLS listener and one that redirects.
func openSecured(t *testing.T, http3 bool) *secured {
	t.Helper()
	store, err := certs.Open(certs.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s := &secured{roots: x509.NewCertPool(), gateway: system.Gateway{
		Listeners: []system.Listener{
			{Address: "127.0.0.1:0", TLS: true, HTTP2: true, HTTP3: http3},
			{Address: "127.0.0.1:0", Redirect: true},
		},
		TLS: &system.TLS{Internal: &system.InternalCA{Hosts: []string{"127.0.0.1"}}, MinVersion: tls.VersionTLS12, HSTS: 24 * time.Hour},
	}}
	s.door = openDoor(t, Options{Gateway: s.gateway, Certificates: store})
	pem, err := os.ReadFile(store.Root())
	if err != nil || !s.roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no root: %v", err)
	}
	return s
}

// serve makes everything go to one service.
func (s *secured) serve(routes []*system.Route, ep Endpoint) {
	s.t.Helper()
	for i := range routes {
		routes[i].Key = routes[i].Path
		routes[i].Targets = []system.Target{{Service: "api", Weight: 1}}
	}
	c := Config{Gateway: s.gateway, Routes: routes, Services: servicesOf("api"), Endpoints: map[string][]Endpoint{"api": {ep}}}
	if err := s.Apply(c); err != nil {
		s.t.Fatal(err)
	}
}

func (s *secured) config() *tls.Config {
	return &tls.Config{RootCAs: s.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// clients are clients of all protocols, by what the access log calls them.
func (s *secured) clients(t *testing.T) map[string]*http.Client {
	t.Helper()
	all := map[string]*http.Client{}
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		tr := &http.Transport{TLSClientConfig: s.config(), Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(!h2)
		tr.Protocols.SetHTTP2(h2)
		t.Cleanup(tr.CloseIdleConnections)
		all[name] = &http.Client{Transport: tr, Timeout: await.Patience}
	}
	if s.gateway.Listeners[0].HTTP3 {
		tr := &http3.Transport{TLSClientConfig: s.config()}
		t.Cleanup(func() { _ = tr.Close() })
		all["HTTP/3.0"] = &http.Client{Transport: tr, Timeout: await.Patience}
	}
	return all
}

func TestRedirectListener(t *testing.T) {
	s := openSecured(t, false)
	s.serve([]*system.Route{{Path: "/"}}, serviceOf(t, "api-1", text("ok")))
	secure, plain := s.Listening()[0], s.Listening()[1]
	port := secure[strings.LastIndexByte(secure, ':'):]
	for _, tt := range []struct {
		method string
		status int
	}{{"GET", 301}, {"HEAD", 301}, {"POST", 308}, {"DELETE", 308}} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, plain+"/a?b=c", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "shop.example:80"
		res, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if to := res.Header.Get("Location"); res.StatusCode != tt.status || to != "https://shop.example"+port+"/a?b=c" {
			t.Errorf("%s: %s to %q", tt.method, res.Status, to)
		}
		if res.Header.Get("Strict-Transport-Security") != "" {
			t.Error("HSTS over plain HTTP, which browsers ignore")
		}
	}
	await.Until(t, "redirects are in the access log", func() bool { return strings.Contains(s.log.String(), `"status":301`) })
}

func TestEveryProtocolThroughTheDoor(t *testing.T) {
	s := openSecured(t, true)
	s.serve([]*system.Route{{Path: "/"}, {Path: "/small", Limits: system.Limits{Body: 10}}, {Path: "/stream"}}, serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			fmt.Fprint(w, "first ")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Seen", strings.Join([]string{r.Proto, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Forwarded"), r.Trailer.Get("X-End")}, " "))
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", fmt.Sprint(len(body)))
	}))
	url := s.URL()
	for name, c := range s.clients(t) {
		t.Run(name, func(t *testing.T) {
			res, err := c.Get(url + "/")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if got := res.Header.Get("Strict-Transport-Security"); got != "max-age=86400" {
				t.Errorf("HSTS is %q", got)
			}
			if got, want := res.Header.Get("Alt-Svc"), "h3="; !strings.HasPrefix(got, want) {
				t.Errorf("Alt-Svc is %q", got)
			}
			if seen := res.Header.Get("X-Seen"); !strings.HasPrefix(seen, "HTTP/1.1 https for=127.0.0.1") || !strings.Contains(seen, "proto=https") {
				t.Errorf("the service saw %q", seen)
			}

			big := make([]byte, 3<<20)
			_, _ = rand.Read(big)
			res, err = c.Post(url+"/big", "application/octet-stream", bytes.NewReader(big))
			if err != nil {
				t.Fatal(err)
			}
			back, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !bytes.Equal(back, big) || res.Trailer.Get("X-Sum") != fmt.Sprint(len(big)) {
				t.Errorf("%d bytes came back, %v, trailers %v", len(back), err, res.Trailer)
			}

			// A body of unknown length that turns out too large is refused, and the
			// connection goes on.
			for range 2 {
				res, err = c.Post(url+"/small", "text/plain", io.MultiReader(strings.NewReader("more than ten bytes")))
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("status %d", res.StatusCode)
				}
			}

			// What streams comes at once, and the client's leaving reaches the service.
			ctx, leave := context.WithCancel(t.Context())
			r, err := http.NewRequestWithContext(ctx, "GET", url+"/stream", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err = c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 6)
			if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first " {
				t.Errorf("%q, %v", first, err)
			}
			leave()
			res.Body.Close()
			await.Until(t, "nothing is open", func() bool { return s.Open().Requests == 0 })
			await.Until(t, "the protocol is in the access log", func() bool { return strings.Contains(s.log.String(), `"proto":"`+name+`"`) })
		})
	}
}

func TestWebSocketThroughTLS(t *testing.T) {
	s := openSecured(t, false)
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	s.serve([]*system.Route{{Path: "/"}}, rawService(t, "api-1", func(c net.Conn, head string) {
		_, rest, _ := strings.Cut(head, "\r\n\r\n")
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.WriteString(c, rest)
		_, _ = io.Copy(c, c)
		_ = c.(*net.TCPConn).CloseWrite()
	}))
	c, err := tls.Dial("tcp", s.Addr().String(), s.config())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	if n := s.Open(); n.Tunnels != 1 || n.Requests != 0 || n.Connections != 1 {
		t.Errorf("open is %+v", n)
	}
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	back, err := io.ReadAll(br)
	if err != nil || !bytes.Equal(back, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(back), len(sent), err)
	}
	await.Until(t, "the tunnel is over", func() bool { return s.Open() == Open{} })
}

func TestUpgradeIsNotOfferedOverHTTP2(t *testing.T) {
	s := openSecured(t, false)
	s.serve([]*system.Route{{Path: "/"}}, serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Upgrade", r.Header.Get("Upgrade"))
	}))
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.clients(t)["HTTP/2.0"].Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("X-Upgrade") != "" {
		t.Errorf("%s, %v", res.Status, res.Header)
	}
}

func TestListenersChangeByApply(t *testing.T) {
	s := openSecured(t, false)
	ep := serviceOf(t, "api-1", text("ok"))
	s.serve([]*system.Route{{Path: "/"}}, ep)
	was := s.Listening()
	s.gateway.Listeners = append(s.gateway.Listeners, system.Listener{Address: "127.0.0.1:0"})
	s.serve([]*system.Route{{Path: "/"}}, ep)
	now := s.Listening()
	if len(now) != 3 || now[0] != was[0] || now[1] != was[1] {
		t.Fatalf("listens on %v, was %v", now, was)
	}
	res, err := s.client.Get(now[2])
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("the new listener answers %s", res.Status)
	}
	bad := s.gateway
	bad.Listeners = append([]system.Listener{}, s.gateway.Listeners...)
	bad.Listeners[2].Address = strings.TrimPrefix(was[1], "http://") // the redirect's
	if err := s.Apply(Config{Gateway: bad, Routes: routesOf("/"), Services: servicesOf("api")}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v", err)
	}
	if again := s.Listening(); fmt.Sprint(again) != fmt.Sprint(now) {
		t.Errorf("a failed change left %v", again)
	}
}

func TestMalformedRequestGetsAProblem(t *testing.T) {
	d := openDoor(t, Options{})
	got := d.raw("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "application/problem+json") || !strings.Contains(got, "X-Request-Id: ") {
		t.Errorf("answered %q", got)
	}
	await.Until(t, "it is in the access log", func() bool {
		return strings.Contains(d.log.String(), `"status":400`) && strings.Contains(d.log.String(), `"client":"127.0.0.1"`)
	})
}
