package gateway

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"fairlead/internal/gateway/encode"
	"fairlead/internal/system"
	"fairlead/test/await"
)

func decoded(t *testing.T, coding, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	var err error
	switch coding {
	case encode.Gzip:
		r, err = gzip.NewReader(r)
	case encode.Zstd:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r); err == nil {
			defer z.Close()
			r = z
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("decode %s: %v", coding, err)
	}
	return string(all)
}

func TestAnswersAreCompressed(t *testing.T) {
	large := strings.Repeat(`{"name":"all happy families"},`, 1000)
	// The service answers as the query says: header=value, body, chunked.
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Etag", `"v1"`)
		h.Set("Accept-Ranges", "bytes")
		q := r.URL.Query()
		for name, values := range q {
			if name[0] >= 'A' && name[0] <= 'Z' {
				h[name] = values
			}
		}
		body := large
		if q.Has("small") {
			body = "{}"
		}
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if !q.Has("chunked") {
			h.Set("Content-Length", fmt.Sprint(len(body)))
		}
		status := 200
		_, _ = fmt.Sscan(q.Get("status"), &status)
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, body)
		}
	})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.js"), []byte(large), 0o600); err != nil {
		t.Fatal(err)
	}
	no := false
	d := openDoor(t, Options{})
	d.apply([]*system.Route{
		{Path: "/", Targets: toAPI},
		{Path: "/off/", Targets: toAPI, Filters: system.Filters{Compress: &no}},
		{Path: "/files/", Files: &system.Files{Dir: dir, Precompressed: true}},
	}, map[string][]Endpoint{"api": {ep}})
	tests := []struct {
		name, method, path, accept string
		edit                       []string
		coding                     string
		vary                       bool
	}{
		{"zstd", "GET", "/", "gzip, deflate, br, zstd", nil, "zstd", true},
		{"gzip", "GET", "/", "gzip", nil, "gzip", true},
		{"chunked", "GET", "/?chunked", "gzip", nil, "gzip", true},
		{"post", "POST", "/", "zstd", nil, "zstd", true},
		{"head", "HEAD", "/", "gzip", nil, "gzip", true},
		{"an error of the service", "GET", "/?status=404", "gzip", nil, "gzip", true},
		{"file", "GET", "/files/a.js", "gzip", nil, "gzip", true},
		{"head of a file", "HEAD", "/files/a.js", "gzip", nil, "gzip", true},
		{"range of a file", "GET", "/files/a.js", "gzip", []string{"Range", "bytes=0-2999"}, "", true},
		{"not accepted", "GET", "/", "br", nil, "", true},
		{"nothing accepted", "GET", "/", "", nil, "", true},
		{"refused", "GET", "/", "gzip;q=0", nil, "", true},
		{"off", "GET", "/off/", "gzip", nil, "", false},
		{"small", "GET", "/?small", "gzip", nil, "", false},
		{"image", "GET", "/?Content-Type=image/png", "gzip", nil, "", false},
		{"event stream", "GET", "/?Content-Type=text/event-stream", "gzip", nil, "", false},
		{"coded by the service", "GET", "/?Content-Encoding=br", "gzip", nil, "br", false},
		{"no-transform", "GET", "/?Cache-Control=no-transform", "gzip", nil, "", false},
		{"partial", "GET", "/?status=206&Content-Range=bytes+0-1/2", "gzip", nil, "", false},
		{"for a page of another site", "GET", "/", "gzip", []string{"Sec-Fetch-Site", "cross-site", "Cookie", "s=1"}, "", true},
		{"for another site without a user", "GET", "/", "gzip", []string{"Sec-Fetch-Site", "cross-site"}, "gzip", true},
		{"for its own pages", "GET", "/", "gzip", []string{"Sec-Fetch-Site", "same-origin", "Cookie", "s=1"}, "gzip", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := d.do(tt.method, tt.path, nil, func(r *http.Request) {
				if tt.accept != "" {
					r.Header.Set("Accept-Encoding", tt.accept)
				}
				headers(tt.edit...)(r)
			})
			h := res.Header
			if h.Get("Content-Encoding") != tt.coding {
				t.Fatalf("%s %v", res.Status, h)
			}
			if got := strings.Contains(strings.Join(h["Vary"], ","), "Accept-Encoding"); got != tt.vary {
				t.Errorf("Vary %q", h["Vary"])
			}
			if coded := tt.coding == "gzip" || tt.coding == "zstd"; coded {
				// A server may find out the length of what is short.
				if length := h.Get("Content-Length"); length != "" && (tt.method == "HEAD" || length != fmt.Sprint(len(body))) {
					t.Errorf("the length is said to be %s", length)
				}
				if h.Get("Accept-Ranges") != "" || !strings.HasPrefix(h.Get("Etag"), "W/") {
					t.Errorf("head of a coded answer: %v", h)
				}
				if tt.method != "HEAD" && (decoded(t, tt.coding, body) != large || len(body) > len(large)/5) {
					t.Errorf("%d bytes on the wire", len(body))
				}
			} else if strings.HasPrefix(h.Get("Etag"), "W/") {
				t.Errorf("the tag is weak: %v", h)
			}
			if tt.method == "HEAD" && body != "" {
				t.Errorf("a body: %q", body)
			}
		})
	}
	t.Run("not modified", func(t *testing.T) {
		for asked, want := range map[string]string{`W/"v1"`: `W/"v1"`, `"v1"`: `"v1"`, `"v0", W/"v1"`: `W/"v1"`} {
			res, _ := d.do("GET", "/", nil, headers("Accept-Encoding", "gzip", "If-None-Match", asked))
			if res.StatusCode != 304 || res.Header.Get("Etag") != want {
				t.Errorf("asked with %s: %s %v", asked, res.Status, res.Header)
			}
		}
		res, _ := d.do("GET", "/files/a.js", nil, headers("Accept-Encoding", "gzip"))
		tag := res.Header.Get("Etag")
		if res, _ = d.do("GET", "/files/a.js", nil, headers("Accept-Encoding", "gzip", "If-None-Match", tag)); res.StatusCode != 304 || res.Header.Get("Etag") != tag {
			t.Errorf("file asked with %s: %s %v", tag, res.Status, res.Header)
		}
	})
	t.Run("the log counts what went out", func(t *testing.T) {
		_, body := d.do("GET", "/logged", nil, headers("Accept-Encoding", "gzip"))
		await.Until(t, "the line", func() bool { return strings.Contains(d.log.String(), `"/logged"`) })
		_, line, _ := strings.Cut(d.log.String(), `"/logged"`)
		if !strings.Contains(line, fmt.Sprintf(`"bytes":%d,`, len(body))) {
			t.Errorf("%d bytes went out, the log says %.100q", len(body), line)
		}
	})
}

// TestCompressedStreamsGoOnStreaming reads each part before the service sends the next.
func TestCompressedStreamsGoOnStreaming(t *testing.T) {
	next := make(chan struct{})
	ep := serviceOf(t, "api-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		for i := range 3 {
			fmt.Fprintf(w, "{\"line\":%d}\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	d := openDoor(t, Options{})
	d.apply(routesOf("/"), map[string][]Endpoint{"api": {ep}})
	r, err := http.NewRequestWithContext(t.Context(), "GET", d.URL()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	res, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	z, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(z)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if err != nil || line != fmt.Sprintf("{\"line\":%d}\n", i) {
			t.Fatalf("%q, %v", line, err)
		}
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v at the end", rest, err)
	}
}

func TestACompressedAnswerThatBreaksOffDoesNotLookWhole(t *testing.T) {
	ep := rawService(t, "api-1", func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n")
		noise := make([]byte, 300_000) // does not fit into any buffer
		_, _ = rand.Read(noise)
		_, _ = c.Write(noise)
	})
	d := openDoor(t, Options{})
	d.apply(routesOf("/"), map[string][]Endpoint{"api": {ep}})
	got := d.raw("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
	if !strings.Contains(got, "Content-Encoding: gzip") || strings.HasSuffix(got, "\r\n0\r\n\r\n") {
		t.Errorf("%d bytes that end in %q", len(got), got[max(0, len(got)-20):])
	}
}

func TestProblemsAreNotCompressed(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply(routesOf("/"), map[string][]Endpoint{"api": nil})
	d.SetStopped("api", true)
	res, _ := d.do("GET", "/", nil, headers("Accept-Encoding", "gzip", "Accept", "text/html"))
	if res.StatusCode != 503 || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
}

// BenchmarkCompress proxies 20 KB of JSON.
func BenchmarkCompress(b *testing.B) {
	var body bytes.Buffer
	for i := range 250 {
		fmt.Fprintf(&body, `{"id":%d,"hs":"%06d","country":"CH","year":%d,"value":%d.5},`, i, i*7919%999999, 1990+i%30, i*i*31)
	}
	ep := serviceOf(b, "api-1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(body.Len()))
		_, _ = w.Write(body.Bytes())
	})
	d := openDoor(b, Options{AccessLog: io.Discard})
	d.apply(routesOf("/"), map[string][]Endpoint{"api": {ep}})
	for _, accept := range []string{"identity", "gzip", "zstd"} {
		b.Run(accept, func(b *testing.B) {
			size := 0
			start := time.Now()
			for b.Loop() {
				r, err := http.NewRequestWithContext(b.Context(), "GET", d.URL()+"/", nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Header.Set("Accept-Encoding", accept)
				res, err := d.client.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, res.Body)
				if err != nil {
					b.Fatal(err)
				}
				size = int(n)
				_ = res.Body.Close()
			}
			b.ReportMetric(float64(size), "bytes/answer")
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "req/s")
		})
	}
}
