package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fairlead/internal/system"
)

func filesDoor(t *testing.T) (*door, string) {
	t.Helper()
	dir := t.TempDir()
	web := filepath.Join(dir, "web")
	for name, text := range map[string]string{
		"secret": "secret", "web/index.html": "<h1>home</h1>", "web/app.js": "let x", "web/a b.txt": "spaced", "web/sub/index.html": "sub",
		"web/sub/data.json": "{}", "web/.env": "secret", "web/.git/config": "secret", "web/empty/x.unknown": "x", "web/big.bin": strings.Repeat("x", 3<<20),
		"web/sub/.hidden/x": "secret",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"web/out": "../secret", "web/root": "/", "web/in.js": "app.js", "web/env.txt": ".env", "web/git": ".git", "web/abs": filepath.Join(dir, "secret")} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(web, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openDoor(t, Options{})
	d.apply([]*system.Route{
		{Path: "/", Files: &system.Files{Dir: web}}, {Path: "/static/", Files: &system.Files{Dir: filepath.Join(web, "sub")}}, {Path: "/x/{rest...}", Files: &system.Files{Dir: web}}, {Path: "/app.css/app.js", Files: &system.Files{Dir: web}},
	}, nil)
	return d, web
}

func TestFiles(t *testing.T) {
	d, _ := filesDoor(t)
	tests := []struct {
		name, method, path string
		status             int
		body, media        string
	}{
		{"index", "GET", "/", 200, "<h1>home</h1>", "text/html; charset=utf-8"},
		{"file", "GET", "/app.js", 200, "let x", "text/javascript; charset=utf-8"},
		{"head", "HEAD", "/app.js", 200, "", "text/javascript; charset=utf-8"},
		{"encoded", "GET", "/a%20b.txt", 200, "spaced", "text/plain; charset=utf-8"},
		{"index of a folder", "GET", "/sub/", 200, "sub", "text/html; charset=utf-8"},
		{"folder without a slash", "GET", "/sub", 404, "", ""},
		{"folder without an index", "GET", "/empty/", 404, "", ""},
		{"unknown kind", "GET", "/empty/x.unknown", 200, "x", "application/octet-stream"},
		{"prefix", "GET", "/static/data.json", 200, "{}", "application/json"},
		{"prefix does not reach up", "GET", "/static/app.js", 404, "", ""},
		{"rest", "GET", "/x/sub/data.json", 200, "{}", "application/json"},
		{"one file", "GET", "/app.css/app.js", 200, "let x", "text/javascript; charset=utf-8"},
		{"link inside", "GET", "/in.js", 200, "let x", "text/javascript; charset=utf-8"},
		{"link out", "GET", "/out", 404, "", ""},
		{"absolute link out", "GET", "/abs", 404, "", ""},
		{"through a link out", "GET", "/root/etc/passwd", 404, "", ""},
		{"dot file", "GET", "/.env", 404, "", ""},
		{"link to a dot file", "GET", "/env.txt", 404, "", ""},
		{"link to a dot folder", "GET", "/git/config", 404, "", ""},
		{"dot folder", "GET", "/.git/config", 404, "", ""},
		{"dot folder below", "GET", "/sub/.hidden/x", 404, "", ""},
		{"encoded dot file", "GET", "/%2eenv", 404, "", ""},
		{"encoded slash to a dot file", "GET", "/sub%2f.hidden%2fx", 400, "", ""},
		{"traversal", "GET", "/%2e%2e/secret", 400, "", ""},
		{"traversal with a backslash", "GET", "/..%5csecret", 400, "", ""},
		{"pipe", "GET", "/pipe", 404, "", ""},
		{"missing", "GET", "/nothing", 404, "", ""},
		{"file as folder", "GET", "/app.js/", 404, "", ""},
		{"post", "POST", "/app.js", 405, "", ""},
		{"delete", "DELETE", "/app.js", 405, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := d.do(tt.method, tt.path, nil, nil)
			if res.StatusCode != tt.status || tt.status == 200 && body != tt.body || strings.Contains(body, "secret") {
				t.Fatalf("%s %q", res.Status, body)
			}
			if tt.status == 405 && res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow %q", res.Header.Get("Allow"))
			}
			if tt.status != 200 {
				return
			}
			h := res.Header
			if h.Get("Content-Type") != tt.media || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-cache" || h.Get("Etag") == "" {
				t.Errorf("headers %v", h)
			}
		})
	}
}

func TestFilesConditionsAndRanges(t *testing.T) {
	d, web := filesDoor(t)
	with := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	res, _ := d.do("GET", "/app.js", nil, nil)
	tag, modified := res.Header.Get("Etag"), res.Header.Get("Last-Modified")
	tests := []struct {
		name   string
		edit   func(*http.Request)
		status int
		body   string
	}{
		{"same tag", with("If-None-Match", tag), 304, ""},
		{"other tag", with("If-None-Match", `"x"`), 200, "let x"},
		{"not modified since", with("If-Modified-Since", modified), 304, ""},
		{"range", with("Range", "bytes=1-2"), 206, "et"},
		{"end range", with("Range", "bytes=-2"), 206, " x"},
		{"range behind the end", with("Range", "bytes=100-"), 416, ""},
		{"match fails", with("If-Match", `"x"`), 412, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := d.do("GET", "/app.js", nil, tt.edit)
			if res.StatusCode != tt.status || tt.status < 400 && body != tt.body {
				t.Errorf("%s %q", res.Status, body)
			}
		})
	}
	t.Run("large", func(t *testing.T) {
		if res, body := d.do("GET", "/big.bin", nil, nil); len(body) != 3<<20 || res.ContentLength != 3<<20 {
			t.Errorf("%d bytes", len(body))
		}
	})
	t.Run("changed", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(web, "app.js"), []byte("let y!"), 0o600); err != nil {
			t.Fatal(err)
		}
		if res, body := d.do("GET", "/app.js", nil, with("If-None-Match", tag)); res.StatusCode != http.StatusOK || body != "let y!" {
			t.Errorf("%s %q", res.Status, body)
		}
	})
	t.Run("folder replaced as a whole", func(t *testing.T) {
		if err := os.Rename(web, web+".old"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(web, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(web, "app.js"), []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, body := d.do("GET", "/app.js", nil, nil); body != "new" {
			t.Errorf("%q", body)
		}
	})
}
