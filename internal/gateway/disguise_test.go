package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestPathParametersDoNotLeadPastAGuard(t *testing.T) {
	d := openDoor(t, Options{})
	d.guarded(system.Gateway{}, []*system.Route{
		{Path: "/"},
		{Path: "/open/"},
		{Path: "/admin", Roles: []string{"operator"}},
		{Path: "/admin/", Roles: []string{"operator"}},
		{Path: "/inside/", Filters: system.Filters{Allow: networks(t, "192.0.2.0/24")}},
	}, serviceOf(t, "api-1", text("served")), nil)
	for path, want := range map[string]int{
		"/admin;x": 400, "/admin;x/y": 400, "/admin%3bx/y": 400, "/admin%3Bx/y": 400, "/admin%253bx/y": 400,
		"/;/admin": 400, "/;a=b/admin/x": 400, "/inside;/x": 400,
		"/admin": 401, "/admin/;x": 401, "/admin/a;b": 401, "/inside/x;y": 403,
		"/": 200, "/x;color=red": 200, "/;": 200, "/open;x/y": 200, "/x/;/admin": 200, "/x%25": 200, "/x%253": 200,
	} {
		if res, body := d.do(http.MethodGet, path, nil, nil); res.StatusCode != want {
			t.Errorf("%s: %d, want %d: %s", path, res.StatusCode, want, body)
		}
	}
}

func TestHeadersWithUnderscoresInTheFileAreKeptFromClients(t *testing.T) {
	var s seen
	d := openDoor(t, Options{})
	d.guarded(system.Gateway{Auth: system.Auth{
		Keys:    &system.Keys{Header: "X_Key", Keys: []system.Credential{{Name: "partner", Secret: "KEY"}}},
		Forward: &system.Forward{Service: "auth", Path: "/", Headers: []string{"X_Tenant"}, SubjectHeader: "X_User"},
	}}, []*system.Route{{Path: "/", Headers: system.HeaderRules{
		Request: map[string]string{"X_Inside": "", "X_Fixed": "1"},
	}}}, serviceOf(t, "api-1", s.serve), map[string]string{"KEY": "secret-of-the-partner"})
	d.do(http.MethodGet, "/", nil, header("X_Key", "secret-of-the-partner", "X_Tenant", "forged", "X-Tenant", "forged", "x_user", "forged",
		"X_Inside", "forged", "X_Fixed", "forged", "X-Fixed", "forged"))
	for name, values := range s.header() {
		switch {
		case name == "X_fixed" && len(values) == 1 && values[0] == "1":
		case strings.Contains(strings.Join(values, ","), "forged"), strings.Contains(strings.Join(values, ","), "secret"):
			t.Errorf("the service was told %s: %q", name, values)
		}
	}
}

func TestTrailersDoNotCarryWhatHeadersMayNot(t *testing.T) {
	d := openDoor(t, Options{})
	told := make(chan http.Header, 1)
	d.guarded(system.Gateway{Auth: system.Auth{
		Forward: &system.Forward{Service: "auth", Path: "/", SubjectHeader: "X-User"},
	}}, []*system.Route{{Path: "/", Headers: system.HeaderRules{Request: map[string]string{"X-Inside": ""}}}},
		serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			told <- r.Trailer
		}), nil)
	res := d.raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-User, X-Inside, X-Sum\r\n\r\n" +
		"2\r\nhi\r\n0\r\nX-User: forged\r\nX_User: forged\r\nX-Inside: forged\r\nX-Sum: 1\r\n\r\n")
	if !strings.HasPrefix(res, "HTTP/1.1 200") {
		t.Fatalf("%.200q", res)
	}
	if got := <-told; len(got) != 1 || got.Get("X-Sum") != "1" {
		t.Errorf("the service was told the trailers %v", got)
	}
}

// h2Raw sends the head of a request of HTTP/2 as it is, and returns the status.
func h2Raw(t *testing.T, d *door, fields ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	if err := f.WriteData(1, true, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status[0] != '1' {
				return status
			}
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		}
	}
}

func TestHTTP2QueriesDoNotBreakTheRequestLineOfHTTP1(t *testing.T) {
	d := openDoor(t, Options{Gateway: system.Gateway{Listeners: []system.Listener{{Address: "127.0.0.1:0", HTTP2: true}}}})
	lines := make(chan string, 1)
	d.oneService("api", rawService(t, "api-1", func(c net.Conn, head string) {
		line, _, _ := strings.Cut(head, "\r\n")
		lines <- line
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}))
	for _, query := range []string{"a HTTP/1.0", "a ", " ", "a#b", "#"} {
		if got := h2Raw(t, d, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x?"+query); got != "400" && got != "PROTOCOL_ERROR" {
			t.Errorf("%q: %s", query, got)
		}
	}
	if got := h2Raw(t, d, ":method", "POST", ":scheme", "http", ":path", "/x"); got != "400" {
		t.Errorf("without a host: %s", got)
	}
	if got := h2Raw(t, d, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x?a=b&c=%20"); got != "200" {
		t.Errorf("a plain query: %s", got)
	}
	if got := <-lines; got != "POST /x?a=b&c=%20 HTTP/1.1" {
		t.Errorf("the service got %q", got)
	}
	select {
	case line := <-lines:
		t.Errorf("the service got %q, too", line)
	default:
	}
}

func TestHTTP2LengthsThatAreNoneReachNoService(t *testing.T) {
	d := openDoor(t, Options{Gateway: system.Gateway{Listeners: []system.Listener{{Address: "127.0.0.1:0", HTTP2: true}}}})
	bodies := make(chan string, 16)
	d.oneService("api", serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		bodies <- fmt.Sprintf("%s %v", b, err)
	}))
	for _, length := range []string{"-1", "+2", "2, 2", "0x2", "two", "", "99999999999999999999"} {
		if got := h2Raw(t, d, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x", "content-length", length); got != "400" && got != "PROTOCOL_ERROR" {
			t.Errorf("%q: %s", length, got)
		}
	}
	if got := h2Raw(t, d, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x", "content-length", "2"); got != "200" {
		t.Errorf("the right length: %s", got)
	}
	if got := <-bodies; got != "hi <nil>" {
		t.Errorf("the service got %q", got)
	}
	select {
	case body := <-bodies:
		t.Errorf("the service got %q, too", body)
	default:
	}
}

func TestTrailersThatAreNoNamesEjectNoInstance(t *testing.T) {
	d := openH2CDoor(t, h2cService(t, "api-1", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	for range 8 {
		if got := h2Raw(t, d, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x", "trailer", "x ok: y, a\tb"); got != "200" {
			t.Fatalf("answered %s", got)
		}
	}
}

func TestServicesSeeNoChunksBehindAGetOfHTTP3(t *testing.T) {
	s := openSecured(t, true)
	heads := make(chan string, 1)
	s.serve([]*system.Route{{Path: "/"}}, rawService(t, "api-1", func(c net.Conn, head string) {
		heads <- head
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL()+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.clients(t)["HTTP/3.0"].Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if head := <-heads; strings.Contains(head, "Transfer-Encoding") || strings.Contains(head, "Content-Length") {
			t.Errorf("%s: the service got %q", method, head)
		}
	}
}

func TestGetsOfHTTP3KeepTheirBody(t *testing.T) {
	s := openSecured(t, true)
	s.serve([]*system.Route{{Path: "/"}}, serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/", io.MultiReader(strings.NewReader("a body")))
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.clients(t)["HTTP/3.0"].Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "a body" {
		t.Errorf("the service got %q", b)
	}
}

func TestOneClientHoldsNoMoreStreamsThanConnections(t *testing.T) {
	gw := system.Gateway{Listeners: []system.Listener{{Address: "127.0.0.1:0", HTTP2: true}}, Limits: system.Limits{Connections: 3}}
	d := openDoor(t, Options{Gateway: gw})
	hold, here := make(chan struct{}), make(chan struct{}, 8)
	ep := serviceOf(t, "api-1", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			here <- struct{}{}
			<-hold
		}
	})
	d.applyDoor(gw, []*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	c := h2Client(t)
	ask := func(path string) int {
		res, err := c.Get(d.URL() + path)
		if err != nil {
			t.Error(err)
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	var held sync.WaitGroup
	for range 3 {
		held.Go(func() {
			if got := ask("/hold"); got != 200 {
				t.Errorf("held: %d", got)
			}
		})
		<-here
	}
	if got := ask("/"); got != 429 {
		t.Errorf("one more: %d", got)
	}
	if n := d.Refused()["stream"]; n != 1 {
		t.Errorf("counted %d", n)
	}
	close(hold)
	held.Wait()
	await.Until(t, "places are given back", func() bool { return ask("/") == 200 })
}
