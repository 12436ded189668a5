//go:build real

package http1

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/test/await"
)

// meaning is what a backend makes of requests: what nginx passes on must be what
// our handlers see. The body counts, not how it was framed: nginx gives a body in
// chunks a length.
func meaning(s *seen) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(400)
			return // nginx passes no such request on
		}
		// nginx's $host has small letters and no port.
		host := strings.ToLower(r.Host)
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
			host = host[:i]
		}
		path := r.URL.EscapedPath()
		if r.URL.RawQuery != "" || r.URL.ForceQuery {
			path += "?" + r.URL.RawQuery
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lines = append(s.lines, fmt.Sprintf("%s %s %s %q", r.Method, path, host, body))
	}
}

// stricter are the shapes that nginx takes and we refuse, by the reason. Whatever
// else one of both takes and the other does not is a failure of the test, and so is
// any shape that both take and that does not mean the same, but for sooner.
var stricter = reasons{
	"nginx skips any number of empty lines": {
		"two empty lines before",
	},
	"a bare LF (or CR LF with a CR more) ends a line for nginx": {
		"bare line feed before",
		"bare line feeds everywhere",
		"bare line feed behind the request line",
		"bare CR before the end",
		"bare line feed behind a field",
		"bare line feed at the end",
		"line feed, CR",
		"a length behind a bare line feed",
		"line feed behind the size",
		"chunk shorter than its size",
		"line feed behind a chunk",
		"line feed at the end of chunks",
		"line feed behind the last size",
		"trailer with a bare line feed",
	},
	"nginx skips spaces in the request line": {
		"two spaces before the target",
		"two spaces behind the target",
		"space behind the version",
	},
	"nginx takes every 1.x for 1.1": {
		"version with two digits",
		"version 1.2",
	},
	"nginx does not look at the scheme": {
		"another scheme",
	},
	"nginx cuts the port off without looking at it": {
		"absolute form with a bad port",
		"name in brackets",
		"port of letters",
		"port too large",
		"port zero",
		"negative port",
		"port with a sign",
		"two ports",
		"something behind the bracket",
	},
	"nginx ignores a malformed field, and its line": {
		"no colon",
		"name beyond ASCII",
		"name in quotes",
		"name with a slash",
		"name with a semicolon",
		"name with a comma",
	},
	"nginx skips whatever follows the size of a chunk": {
		"space behind the size",
		"tab behind the size",
		"space before the extension",
		"NUL in an extension",
		"long extension",
		"many extensions",
	},
	"nginx counts no leading zeros": {
		"many zeros",
	},
	"nginx skips trailers without looking at them": {
		"trailer without a colon",
		"trailer with a space before the colon",
		"folded trailer",
		"trailer with NUL",
		"length in the trailer",
		"coding in the trailer",
		"host in the trailer",
		"large trailer",
	},
	"nginx passes unknown expectations on": {
		"something else",
		"a list of expectations",
		"empty expectation",
	},
}

// laxer are those that we take and nginx refuses.
var laxer = reasons{
	"nginx takes letters, digits, _ and - in a method": {
		"method of odd token characters",
	},
	"nginx takes capitals only; the gateway refuses it too, but with a route's 400": {
		"method in small letters",
	},
	"nginx has no use for OPTIONS *": {
		"asterisk",
	},
	"nginx refuses CONNECT; the gateway does too": {
		"authority form",
	},
	"nginx passes an empty Host on, which the backend refuses": {
		"none in HTTP/1.0",
		"a body of HTTP/1.0",
		"unknown expectation in HTTP/1.0",
	},
	"a tab behind the value is white space (RFC 9110, 5.5), and for nginx part of it": {
		"spaces around the coding",
	},
}

// sooner are those behind which nginx closes the connection and we do not.
var sooner = reasons{
	"nginx looks for close anywhere in Connection": {"a token that begins with close"},
}

type reasons map[string][]string

func (r reasons) has(name string) bool {
	for _, names := range r {
		if slices.Contains(names, name) {
			return true
		}
	}
	return false
}

// openNginx starts nginx before the backend and returns its address.
func openNginx(t *testing.T, backend string) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatalf("this test needs nginx: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer("DIR", dir, "LISTEN", addr, "BACKEND", backend).Replace(`
daemon off; master_process off; pid DIR/pid; error_log DIR/error.log debug;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
	large_client_header_buffers 8 64k;
	keepalive_requests 1000; client_header_timeout 1s; client_body_timeout 1s; lingering_close off;
	server {
		listen LISTEN;
		merge_slashes off;
		location / {
			proxy_pass http://BACKEND;
			proxy_http_version 1.1;
			proxy_set_header Host $host;
			proxy_set_header Connection "";
			proxy_pass_request_headers on;
		}
	}
}
`)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", conf, "-p", dir)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	await.Until(t, "nginx to listen", func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	return addr
}

// ask sends bytes and returns what comes back until the connection is closed.
func ask(t *testing.T, addr, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// nginx waits for more where it takes a body for unfinished.
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	_, _ = io.WriteString(c, raw)

	all, _ := io.ReadAll(c)
	return string(all)
}

func TestRealShapesMeanTheSameToNginx(t *testing.T) {
	var theirs, ours seen
	backend := open1(t, Options{}, meaning(&theirs))
	nginx := openNginx(t, backend.addr)
	d := open1(t, Options{}, meaning(&ours))
	both := 0
	for _, tt := range shapes {
		raw := tt.raw + behind
		answer := d.raw(raw)
		saw := ours.take()
		theirAnswer := ask(t, nginx, raw)
		sawThere := theirs.take()
		taken, takenThere := saw != "" && !strings.HasPrefix(saw, "GET /behind"), sawThere != "" && !strings.HasPrefix(sawThere, "GET /behind")
		switch {
		case taken && takenThere:
			both++
			if sooner.has(tt.name) {
				sawThere += "\n" + behindSeen
			}
			if saw != sawThere {
				t.Errorf("%s: handlers see\n%.300s\nbehind nginx\n%.300s", tt.name, saw, sawThere)
			}
		case !taken && takenThere:
			if !stricter.has(tt.name) {
				t.Errorf("%s: refused here (%.40q), behind nginx seen as\n%.300s", tt.name, answer, sawThere)
			}
		case taken && !takenThere:
			if !laxer.has(tt.name) {
				t.Errorf("%s: taken as %.300s, refused by nginx: %.40q", tt.name, saw, theirAnswer)
			}
		}
		if stricter.has(tt.name) && (taken || !takenThere) || laxer.has(tt.name) && (!taken || takenThere) {
			t.Errorf("%s: is no known difference any more", tt.name)
		}
	}
	t.Logf("%d shapes, %d taken by both and understood in the same way", len(shapes), both)
}
