package gateway

import (
	"bufio"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fairlead/internal/gateway/token"
	"fairlead/internal/gateway/upstream"
	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// mirror answers with the head it got.
func mirror(tb testing.TB) Endpoint {
	tb.Helper()
	return rawService(tb, "api-1", func(c net.Conn, head string) {
		head, _, _ = strings.Cut(head, "\r\n\r\n")
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+head)
	})
}

func TestRequestHygiene(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {mirror(t)}})
	gone := []string{
		"Fairlead-Identity: forged", "fairlead-identity: forged", "FAIRLEAD-IDENTITY: forged", "Fairlead_Identity: forged",
		"fairlead_identity: forged", "FairLead-Identity: forged", "Fairlead.Identity: forged", "Fairlead-_Identity: forged", "Fairlead-Deadline: forged",
		"fairlead_anything: forged", "Nats-Msg-Id: forged", "nats_rollup: forged", "NATS-Service-Error: forged",
		"X-Forwarded-For: forged", "X_Forwarded_For: forged", "x-forwarded-proto: forged", "X-Forwarded-Host: forged", "X-Forwarded-Prefix: forged",
		"Forwarded: for=forged", "X-Real-IP: forged", "X-Real_Ip: forged", "X-Original-URL: /forged", "X-Rewrite-Url: /forged",
		"X_Request_Id: forged-forged", "Keep-Alive: forged", "Proxy-Connection: forged", "Proxy-Authorization: forged",
		"Te: forged", "Trailer: forged", "Connection: X-Mine\r\nX-Mine: forged", "Connection: close, x-Other\r\nX-Other: forged",
		"Upgrade: forged", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: forged",
		"Upgrade: TLS/1.0-forged\r\nConnection: Upgrade", "Traceparent: forged", "Tracestate: forged=1",
	}
	for _, lines := range gone {
		t.Run(lines, func(t *testing.T) {
			got := d.raw("GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n" + lines + "\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Fatalf("answer %q", got)
			}
			if strings.Contains(strings.ToLower(got), "forged") || strings.Contains(got, ": h2c") { // a request id may hold the letters
				t.Errorf("reached the service: %q", got)
			}
		})
	}
	t.Run("what stays and what is set", func(t *testing.T) {
		got := d.raw("GET /x?a=1 HTTP/1.1\r\nHost: shop.example:80\r\nConnection: close\r\nAccept: a/b\r\nAccept: c/d\r\nCookie: k=v\r\nAuthorization: Bearer t\r\n" +
			"X-Request-Id: my-request-17\r\nTE: trailers\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: a=b\r\n\r\n")
		head, seen, _ := strings.Cut(got, "\r\n\r\n")
		for _, want := range []string{
			"GET /x?a=1 HTTP/1.1\r\nHost: shop.example:80\r\n", "\r\nAccept: a/b\r\nAccept: c/d", "\r\nCookie: k=v", "\r\nAuthorization: Bearer t",
			"\r\nX-Forwarded-For: 127.0.0.1\r\n", "\r\nX-Forwarded-Proto: http\r\n", "\r\nX-Forwarded-Host: shop.example:80\r\n",
			"\r\nForwarded: for=127.0.0.1;host=\"shop.example:80\";proto=http\r\n", "\r\nX-Request-Id: my-request-17", "\r\nTe: trailers",
			"\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-", "\r\nTracestate: a=b", "\r\nFairlead-Deadline: ",
		} {
			if !strings.Contains("\r\n"+seen+"\r\n", want) && !strings.HasPrefix(seen, want) {
				t.Errorf("missing %q in %q", want, seen)
			}
		}
		if strings.Contains(seen, "b7ad6b7169203331") {
			t.Error("the client's span is passed on as the gateway's")
		}
		if !strings.Contains(head, "\r\nX-Request-Id: my-request-17\r\n") {
			t.Errorf("the client is not told the id: %q", head)
		}
	})
	for _, bad := range []string{"short", "has space inside", strings.Repeat("x", 65), "<script>alert</script>"} {
		t.Run("request id "+bad, func(t *testing.T) {
			res, seen := d.do("GET", "/", nil, func(r *http.Request) { r.Header.Set("X-Request-Id", bad) })
			id := res.Header.Get("X-Request-Id")
			if !wire.ValidRequestID(id) || id == bad || !strings.Contains(seen, "X-Request-Id: "+id) {
				t.Errorf("id %q, service saw %q", id, seen)
			}
		})
	}
}

func TestAnswerHygiene(t *testing.T) {
	d := openDoor(t, Options{})
	ep := rawService(t, "api-1", func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nServer: inner/1.0\r\nFairlead-Identity: secret\r\nfairlead_status: secret\r\nNats-Service-Error: secret\r\n"+
			"Connection: close, X-Hop\r\nX-Hop: secret\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: secret\r\nX-Request-Id: secret-secret\r\n"+
			"Upgrade: secret\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nX-Mine: yes\r\nContent-Length: 2\r\n\r\nok")
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	res, body := d.do("GET", "/", nil, nil)
	if body != "ok" || res.Header.Get("X-Mine") != "yes" || len(res.Header.Values("Set-Cookie")) != 2 {
		t.Errorf("answer %q with %v", body, res.Header)
	}
	for name, values := range res.Header {
		if strings.Contains(strings.Join(values, ""), "secret") || name == "Server" || name == "Keep-Alive" {
			t.Errorf("%s: %v reached the client", name, values)
		}
	}
}

func TestMalformedAnswersAre502(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, answer string }{
		{"not http", "SSH-2.0-OpenSSH_9.2\r\n\r\n"},
		{"bare line feed", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n"},
		{"folded header", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"},
		{"space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"},
		{"control character", "HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n"},
		{"bare carriage return", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n"},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"},
		{"status 099", "HTTP/1.1 099 OK\r\n\r\n"},
		{"switches unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"},
		{"nothing", ""},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-"},
		{"a head too large", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", upstream.MaxHead) + "\r\n\r\n"},
		{"too many headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", upstream.MaxFields+1) + "\r\n"},
		{"informational for ever", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", upstream.MaxInformation+1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := openDoor(t, Options{})
			ep := rawService(t, "api-1", func(c net.Conn, _ string) { io.WriteString(c, tt.answer) })
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
			res, body := d.do("POST", "/", strings.NewReader("x"), nil)
			if res.StatusCode != http.StatusBadGateway || res.Header.Get("Content-Type") != wire.MediaProblem {
				t.Errorf("status %d, %q", res.StatusCode, body)
			}
			if strings.Contains(body, ep.Address) {
				t.Errorf("the answer shows an inside address: %s", body)
			}
			if d.Failed("api") != 1 {
				t.Errorf("Failed is %d", d.Failed("api"))
			}
		})
	}
}

// TestAnswerShapes goes through the ways an answer can be framed, twice each, so
// that a connection that was left in disorder shows.
func TestAnswerShapes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, answer string
		status               int
		body                 string
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
		{"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
		{"not even a space", "GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, "hello"},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello"},
		{"http 1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, ""},
		{"head of a chunked one", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, ""},
		{"no content", "DELETE", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
		{"no content, with a length", "DELETE", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, ""},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n", 304, ""},
		{"continue unasked", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
		{"an error", "GET", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nhello", 503, "hello"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := openDoor(t, Options{})
			ep := rawService(t, "api-1", func(c net.Conn, _ string) {
				closes := tt.name == "until the end"
				for {
					if _, err := io.WriteString(c, tt.answer); err != nil || closes {
						return
					}
					if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
						return
					}
				}
			})
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
			for range 2 {
				res, body := d.do(tt.method, "/", nil, nil)
				if res.StatusCode != tt.status || body != tt.body {
					t.Fatalf("status %d, body %q", res.StatusCode, body)
				}
				if tt.name == "head" && res.ContentLength != 5 {
					t.Errorf("length %d", res.ContentLength)
				}
			}
		})
	}
}

func TestTruncatedAnswersBreakOff(t *testing.T) {
	for name, answer := range map[string]string{
		"length":        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"bad chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
		"after a flush": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	} {
		t.Run(name, func(t *testing.T) {
			d := openDoor(t, Options{})
			ep := rawService(t, "api-1", func(c net.Conn, _ string) { io.WriteString(c, answer) })
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
			got := d.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
			if err != nil {
				return // not even a head: clear enough
			}
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("passes for a whole answer: %q", body)
			}
		})
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	d := openDoor(t, Options{})
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum, X-Echo")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "17")
		w.Header().Set("X-Echo", r.Trailer.Get("X-Mine")+r.Trailer.Get("Fairlead-Identity"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
		w.Header().Set(http.TrailerPrefix+"Fairlead-Secret", "no")
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	res, _ := d.do("POST", "/", io.MultiReader(strings.NewReader("x")), func(r *http.Request) {
		r.Header.Set("Te", "trailers")
		r.Trailer = http.Header{"X-Mine": {"mine"}, "Fairlead-Identity": {"forged"}}
	})
	if res.Trailer.Get("X-Sum") != "17" || res.Trailer.Get("X-Echo") != "mine" || res.Trailer.Get("X-Late") != "yes" || res.Trailer.Get("Fairlead-Secret") != "" {
		t.Errorf("trailers %v", res.Trailer)
	}
}

func TestEarlyHintsPass(t *testing.T) {
	d := openDoor(t, Options{})
	ep := rawService(t, "api-1", func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nFairlead-Status: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	got := d.raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	hints, final, ok := strings.Cut(got, "\r\n\r\n")
	if !ok || !strings.HasPrefix(hints, "HTTP/1.1 103 ") || !strings.Contains(hints, "Link: </a.css>") || strings.Contains(hints, "Fairlead") {
		t.Errorf("hints %q", hints)
	}
	if !strings.HasPrefix(final, "HTTP/1.1 200 ") || strings.Contains(final, "Link") || !strings.HasSuffix(final, "ok") {
		t.Errorf("answer %q", final)
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		serve  func(c net.Conn)
		prefix string // of all that the client gets, which sends its body only after a 100
	}{
		{"goes on", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body := make([]byte, 5)
			io.ReadFull(c, body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"+string(body))
		}, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"},
		{"refuses at once", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		}, "HTTP/1.1 403 Forbidden\r\n"},
		{"does not know it", func(c net.Conn) {
			body := make([]byte, 5)
			io.ReadFull(c, body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"+string(body))
		}, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t, Options{})
			ep := rawService(t, "api-1", func(c net.Conn, head string) {
				if !strings.Contains(head, "Expect: 100-continue") {
					t.Errorf("the service was not asked: %q", head)
				}
				tt.serve(c)
			})
			d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
			c, err := net.Dial("tcp", d.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(await.Patience))
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			got := string(buf[:n])
			if strings.HasPrefix(got, "HTTP/1.1 100 ") {
				io.WriteString(c, "hello")
			}
			rest, _ := io.ReadAll(c)
			got += string(rest)
			if !strings.HasPrefix(got, tt.prefix) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestUncleanPathsAreRefused(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/public/", Targets: []system.Target{{Service: "api", Weight: 1}}}, {Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {mirror(t)}})
	for _, path := range []string{"/public/../admin", "/public/%2e%2e/admin", "/public/..%2fadmin", "/public//admin", "/public/..;/admin", "/public/%252e%252e/admin", `/public/..\admin`, "/secure%2fx", "/%2fsecure/x", "/secure%5cx", "/secure%252fx", "/a%0d%0ab", "/a%7f"} {
		got := d.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%s: %.60q", path, got)
		}
	}
}

func TestAccessLogLine(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Method: "GET", Path: "/a/{x}", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {serviceOf(t, "api-1", text("hello"))}})
	res, _ := d.do("GET", "/a/%22%C3%BC?token=secret", nil, func(r *http.Request) { r.Header.Set("X-Request-Id", "request-17") })
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	d.do("GET", "/nowhere", nil, nil)
	await.Until(t, "two lines", func() bool { return strings.Count(d.log.String(), "\n") == 2 })
	var lines []map[string]any
	for dec := json.NewDecoder(strings.NewReader(d.log.String())); dec.More(); {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	want := map[string]any{
		"request_id": "request-17", "client": "127.0.0.1", "method": "GET", "path": "/a/%22%C3%BC", "route": "GET /a/{x}",
		"status": 200.0, "bytes": 5.0, "service": "api", "instance": "api-1", "host": d.Addr().String(),
	}
	for k, v := range want {
		if lines[0][k] != v {
			t.Errorf("%s is %v, want %v", k, lines[0][k], v)
		}
	}
	if _, err := time.Parse(time.RFC3339, lines[0]["time"].(string)); err != nil || len(lines[0]["trace_id"].(string)) != 32 {
		t.Errorf("line %v", lines[0])
	}
	if strings.Contains(d.log.String(), "secret") {
		t.Error("the query is in the log")
	}
	if lines[1]["status"] != 404.0 || lines[1]["route"] != nil {
		t.Errorf("second line %v", lines[1])
	}
}

// A service that raises methods to capitals would take "get" for GET, behind the
// back of a role on GET; one that believes an override header, POST.
func TestMethodsAndHostsMeanTheSameToEveryone(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}, {Method: "GET", Path: "/admin", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {mirror(t)}})
	for _, request := range []string{
		"get /admin HTTP/1.1\r\nHost: x",
		"gEt / HTTP/1.1\r\nHost: x",
		"GET http://[fe80::1%25a%20\"b]/ HTTP/1.1\r\nHost: x",
		"GET http://a%22b/ HTTP/1.1\r\nHost: x",
	} {
		if got := d.raw(request + "\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%q: %.100q", request, got)
		}
	}
	got := d.raw("POST / HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE\r\nX-Http-Method: DELETE\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Contains(got, "DELETE") {
		t.Errorf("with override headers: %q", got)
	}
	if got := d.raw("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "X-Request-Id: ") {
		t.Errorf("OPTIONS * is answered past the door: %q", got)
	}
}

func TestServicesAreToldTheUser(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	g := New(Options{Signer: wire.NewSigner(priv, "shop")})
	d := openDoor(t, Options{Signer: wire.NewSigner(priv, "shop")})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {mirror(t)}})
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{g: g, pool: newPool(g, "api"), route: &route{}, path: "/", user: &token.User{Subject: "ann", Roles: []string{"admin"}}, id: "request-17", start: time.Now()}
	var q upstream.Request
	if !x.prepare(nil, r, &q) {
		t.Fatal("not prepared")
	}
	_, token, ok := strings.Cut(string(q.Head), wire.HeaderIdentity+": ")
	token, _, _ = strings.Cut(token, "\r\n")
	if !ok {
		t.Fatalf("no identity in %q", q.Head)
	}
	id, err := wire.NewVerifier(pub, "shop", "api").Verify(token, time.Now())
	if err != nil || id.Subject != "ann" || !id.HasRole("admin") {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := wire.NewVerifier(pub, "shop", "other").Verify(token, time.Now()); err == nil {
		t.Error("another service takes the token")
	}
	if _, seen := d.do("GET", "/", nil, nil); strings.Contains(seen, "Fairlead-Identity") {
		t.Errorf("an anonymous request has an identity: %q", seen)
	}
}
