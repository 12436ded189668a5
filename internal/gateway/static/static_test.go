package static

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/internal/system"
)

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// site makes a folder of files; all are of the same time.
func site(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	at := time.Now().Add(-time.Hour)
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func folder(t *testing.T, files system.Files, pattern string, private bool) func(method, path string, headers ...string) *http.Response {
	t.Helper()
	f, err := Open(&files, pattern, private)
	if err != nil {
		t.Fatal(err)
	}
	return func(method, path string, headers ...string) *http.Response {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		if err := f.Serve(w, r); err != nil {
			if !errors.Is(err, fs.ErrNotExist) || len(w.Header()) > 0 {
				t.Fatalf("%s: %v, %v", path, err, w.Header())
			}
			w.WriteHeader(http.StatusNotFound)
		}
		return w.Result()
	}
}

func bodyOf(t *testing.T, res *http.Response) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestVariants(t *testing.T) {
	dir := site(t, map[string]string{
		"app.js": "plain", "app.js.br": "as br", "app.js.zst": "as zst", "app.js.gz": "as gz",
		"only.css": "plain", "only.css.gz": "as gz", "none.html": "plain", "old.js": "new text", "old.js.gz": "as gz",
		"pic.png": "plain", "pic.png.gz": "as gz", "x.js": "plain",
	})
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "old.js.gz"), past, past); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "x.js.gz")); err != nil {
		t.Fatal(err)
	}
	get := folder(t, system.Files{Dir: dir, Precompressed: true}, "/", false)
	plain := folder(t, system.Files{Dir: dir}, "/", false)
	tests := []struct{ name, path, accept, body, coding, media, vary string }{
		{"best", "/app.js", "gzip, br, zstd", "as br", "br", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"by weight", "/app.js", "gzip, br;q=0.5", "as gz", "gzip", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"zstd", "/app.js", "zstd", "as zst", "zstd", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"refused", "/app.js", "br;q=0", "plain", "", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"none accepted", "/app.js", "", "plain", "", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"next best", "/only.css", "br, gzip;q=0.1", "as gz", "gzip", "text/css; charset=utf-8", "Accept-Encoding"},
		{"none there", "/none.html", "br, gzip", "plain", "", "text/html; charset=utf-8", "Accept-Encoding"},
		{"older than the file", "/old.js", "gzip", "new text", "", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"of an image", "/pic.png", "gzip", "plain", "", "image/png", ""},
		{"link out", "/x.js", "gzip", "plain", "", "text/javascript; charset=utf-8", "Accept-Encoding"},
		{"asked for by name", "/app.js.gz", "gzip", "as gz", "", mediaType("x.gz"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				res := get(method, tt.path, "Accept-Encoding", tt.accept)
				body, h := bodyOf(t, res), res.Header
				if res.StatusCode != 200 || method == "GET" && body != tt.body || method == "HEAD" && body != "" {
					t.Fatalf("%s: %s %q", method, res.Status, body)
				}
				if h.Get("Content-Encoding") != tt.coding || h.Get("Content-Type") != tt.media || h.Get("Vary") != tt.vary || res.ContentLength != int64(len(tt.body)) {
					t.Errorf("%s: %v", method, h)
				}
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		if res := plain("GET", "/app.js", "Accept-Encoding", "gzip"); bodyOf(t, res) != "plain" || res.Header.Get("Vary") != "" {
			t.Error(res.Header)
		}
	})
	t.Run("conditions and ranges", func(t *testing.T) {
		tags := map[string]string{}
		for _, coding := range []string{"", "br", "zstd", "gzip"} {
			tags[coding] = get("GET", "/app.js", "Accept-Encoding", coding).Header.Get("Etag")
		}
		if tags[""] == tags["br"] || tags["br"] == tags["gzip"] || tags["zstd"] == tags["br"] {
			t.Fatalf("tags %q", tags)
		}
		for _, tt := range []struct {
			name, coding string
			headers      []string
			status       int
			body         string
		}{
			{"its own tag", "gzip", []string{"If-None-Match", tags["gzip"]}, 304, ""},
			{"another's tag", "gzip", []string{"If-None-Match", tags["br"]}, 200, "as gz"},
			{"match fails", "gzip", []string{"If-Match", tags["br"]}, 412, ""},
			{"range", "gzip", []string{"Range", "bytes=3-"}, 206, "gz"},
			{"range if the same", "gzip", []string{"Range", "bytes=3-", "If-Range", tags["gzip"]}, 206, "gz"},
			{"range of another form", "gzip", []string{"Range", "bytes=3-", "If-Range", tags["br"]}, 200, "as gz"},
			{"range behind the end", "gzip", []string{"Range", "bytes=100-"}, 416, "*"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				res := get("GET", "/app.js", append(tt.headers, "Accept-Encoding", tt.coding)...)
				body := bodyOf(t, res)
				if res.StatusCode != tt.status || tt.body != "*" && body != tt.body {
					t.Fatalf("%s %q", res.Status, body)
				}
				if length := res.Header.Get("Content-Length"); res.StatusCode == 412 && length != "" {
					t.Errorf("an answer without a body has the length %s", length)
				}
				if res.StatusCode < 300 && res.Header.Get("Content-Encoding") != tt.coding {
					t.Errorf("%v", res.Header)
				}
			})
		}
	})
	t.Run("a true one decodes", func(t *testing.T) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(strings.Repeat("x", 100_000)))
		_ = z.Close()
		if err := os.WriteFile(filepath.Join(dir, "none.html.gz"), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(get("GET", "/none.html", "Accept-Encoding", "gzip").Body)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if n, err := out.ReadFrom(r); n != 100_000 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

func TestFallback(t *testing.T) {
	dir := site(t, map[string]string{"index.html": "app", "index.html.gz": "as gz", "real.html": "real", ".env": "secret", "sub/x.js": "x"})
	get := folder(t, system.Files{Dir: dir, Fallback: "index.html", Precompressed: true, MaxAge: time.Hour}, "/app/", false)
	tests := []struct {
		name, path, accept string
		body               string // "" for 404
	}{
		{"page", "/app/users/7", browser, "app"},
		{"page with a dot", "/app/users/john.doe", browser, "app"},
		{"folder", "/app/users/", browser, "app"},
		{"folder without an index", "/app/sub/", browser, "app"},
		{"file there", "/app/real.html", browser, "real"},
		{"missing page", "/app/none.html", browser, "app"},
		{"missing script", "/app/none.js", browser, ""},
		{"missing image", "/app/none.PNG", browser, ""},
		{"script that asks for anything", "/app/users/7", "*/*", ""},
		{"data", "/app/users/7", "application/json", ""},
		{"says nothing", "/app/users/7", "", ""},
		{"refuses pages", "/app/users/7", "text/html;q=0, */*", ""},
		{"dot file", "/app/.env", browser, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := get("GET", tt.path, "Accept", tt.accept)
			body := bodyOf(t, res)
			if want := map[bool]int{true: 200, false: 404}[tt.body != ""]; res.StatusCode != want || want == 200 && body != tt.body {
				t.Fatalf("%s %q", res.Status, body)
			}
			if tt.body == "app" && (res.Header.Get("Cache-Control") != "no-cache" || !strings.Contains(strings.Join(res.Header.Values("Vary"), ","), "Accept,")) {
				t.Errorf("headers %v", res.Header)
			}
		})
	}
	t.Run("compressed", func(t *testing.T) {
		res := get("GET", "/app/users/7", "Accept", browser, "Accept-Encoding", "gzip")
		if body := bodyOf(t, res); body != "as gz" || res.Header.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%q %v", body, res.Header)
		}
	})
	for _, name := range []string{"../x", "/etc/passwd", ".env", "a/../b", "x/"} {
		if _, err := Open(&system.Files{Dir: dir, Fallback: name}, "/", false); err == nil {
			t.Errorf("the fallback %q is taken", name)
		}
	}
}

func TestMaxAge(t *testing.T) {
	dir := site(t, map[string]string{"app.js": "x", "index.html": "x"})
	for _, tt := range []struct {
		name    string
		age     time.Duration
		private bool
		path    string
		want    string
	}{
		{"none", 0, false, "/app.js", "no-cache"},
		{"hour", time.Hour, false, "/app.js", "max-age=3600"},
		{"private", time.Hour, true, "/app.js", "private, max-age=3600"},
		{"pages never", time.Hour, false, "/", "no-cache"},
		{"below a second", time.Millisecond, false, "/app.js", "no-cache"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := folder(t, system.Files{Dir: dir, MaxAge: tt.age}, "/", tt.private)("GET", tt.path)
			if got := res.Header.Get("Cache-Control"); got != tt.want {
				t.Errorf("Cache-Control %q, want %q", got, tt.want)
			}
		})
	}
}

func BenchmarkServe(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.js"), bytes.Repeat([]byte("x"), 10<<10), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := Open(&system.Files{Dir: dir, Precompressed: true}, "/", false)
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequestWithContext(b.Context(), "GET", "/app.js", nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Serve(httptest.NewRecorder(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// A request of 12 KB made an answer of 3,000 parts, and took 47 ms of a processor.
func TestManyRangesGetTheWholeFile(t *testing.T) {
	get := folder(t, system.Files{Dir: site(t, map[string]string{"a.txt": strings.Repeat("x", 100)})}, "/", false)
	tests := map[string]struct {
		ranges, status int
	}{"one": {1, 206}, "some": {32, 206}, "many": {33, 200}}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := get("GET", "/a.txt", "Range", "bytes="+strings.Repeat("0-1,", tt.ranges-1)+"0-1")
			if body := bodyOf(t, res); res.StatusCode != tt.status || tt.status == 200 && len(body) != 100 {
				t.Errorf("%s, %d bytes", res.Status, len(body))
			}
		})
	}
}
