package encode

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestChoose(t *testing.T) {
	tests := []struct {
		name   string
		accept []string
		want   string
	}{
		{"nothing", nil, ""},
		{"empty", []string{""}, ""},
		{"browser", []string{"gzip, deflate, br, zstd"}, "br"},
		{"one", []string{"gzip"}, "gzip"},
		{"capitals", []string{"GZIP"}, "gzip"},
		{"old name", []string{"x-gzip"}, "gzip"},
		{"unknown", []string{"deflate, compress"}, ""},
		{"weights", []string{"br;q=0.5, gzip;q=0.8"}, "gzip"},
		{"weights with space", []string{"br ; q=0.5 ,\tgzip ; q=0.8"}, "gzip"},
		{"two lines", []string{"br;q=0.5", "gzip;q=0.8"}, "gzip"},
		{"refused", []string{"br;q=0, zstd;q=0.000, gzip"}, "gzip"},
		{"all refused", []string{"br;q=0, zstd;q=0, gzip;q=0"}, ""},
		{"star", []string{"*"}, "br"},
		{"star but one", []string{"br;q=0, *"}, "zstd"},
		{"star refused", []string{"gzip, *;q=0"}, "gzip"},
		{"identity liked best", []string{"gzip;q=0.5, identity"}, ""},
		{"identity liked less", []string{"gzip, identity;q=0.5"}, "gzip"},
		{"identity the same", []string{"gzip, identity"}, "gzip"},
		{"three digits", []string{"gzip;q=0.001"}, "gzip"},
		{"four digits", []string{"gzip;q=0.0001"}, ""},
		{"above one", []string{"gzip;q=1.1"}, ""},
		{"one with zeros", []string{"gzip;q=1.000"}, "gzip"},
		{"no number", []string{"gzip;q=x"}, ""},
		{"other parameter", []string{"gzip;level=9"}, ""},
		{"commas", []string{",,gzip,,"}, "gzip"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Choose(tt.accept, Brotli, Zstd, Gzip); got != tt.want {
				t.Errorf("chose %q, want %q", got, tt.want)
			}
		})
	}
}

func TestGains(t *testing.T) {
	head := func(pairs ...string) http.Header {
		h := http.Header{"Content-Type": {"application/json"}}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	tests := []struct {
		name   string
		status int
		head   http.Header
		want   bool
	}{
		{"json", 200, head(), true},
		{"an error's page", 404, head("Content-Type", "text/html; charset=utf-8"), true},
		{"large", 200, head("Content-Length", "1024"), true},
		{"small", 200, head("Content-Length", "1023"), false},
		{"svg", 200, head("Content-Type", "image/svg+xml"), true},
		{"image", 200, head("Content-Type", "image/png"), false},
		{"no type", 200, http.Header{}, false},
		{"event stream", 200, head("Content-Type", "text/event-stream"), false},
		{"coded", 200, head("Content-Encoding", "br"), false},
		{"said not to be coded", 200, head("Content-Encoding", "identity"), false},
		{"range", 206, head("Content-Range", "bytes 0-1/2000"), false},
		{"digest", 200, head("Repr-Digest", "sha-256=:AA==:"), false},
		{"no-transform", 200, head("Cache-Control", "public, No-Transform"), false},
		{"no content", 204, head(), false},
		{"not modified", 304, head(), false},
		{"informational", 103, head(), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Gains(tt.status, tt.head); got != tt.want {
				t.Errorf("gains: %v", got)
			}
		})
	}
}

func TestAnnounce(t *testing.T) {
	h := http.Header{"Etag": {`"x"`}, "Content-Length": {"5000"}, "Accept-Ranges": {"bytes"}, "Vary": {"Accept"}}
	Vary(h)
	Vary(h)
	Announce(h, Gzip)
	if got := fmt.Sprint(h); got != `map[Content-Encoding:[gzip] Etag:[W/"x"] Vary:[Accept Accept-Encoding]]` {
		t.Error(got)
	}
	h = http.Header{"Etag": {`W/"x"`}, "Vary": {"*"}}
	Vary(h)
	Announce(h, Gzip)
	if h.Get("Etag") != `W/"x"` || h.Get("Vary") != "*" {
		t.Error(h)
	}
}

func decode(tb testing.TB, coding string, b []byte) (string, error) {
	tb.Helper()
	var r io.Reader
	if coding == Gzip {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return "", err
		}
		r = z
	} else {
		z, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			return "", err
		}
		defer z.Close()
		r = z
	}
	all, err := io.ReadAll(r)
	return string(all), err
}

func TestWriter(t *testing.T) {
	body := strings.Repeat("all happy families are alike; ", 5000)
	for _, coding := range offers {
		t.Run(coding, func(t *testing.T) {
			for range 3 { // those that were used before too
				var out bytes.Buffer
				w := New(coding, &out)
				_, _ = io.WriteString(w, body[:100])
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
				if got, _ := decode(t, coding, out.Bytes()); got != body[:100] {
					t.Fatalf("after a flush a client can read %q", got)
				}
				_, _ = io.WriteString(w, body[100:])
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if got, err := decode(t, coding, out.Bytes()); got != body || err != nil || out.Len() > len(body)/10 {
					t.Fatalf("%d bytes, decoded to %d: %v", out.Len(), len(got), err)
				}
				var broken bytes.Buffer
				w = New(coding, &broken)
				_, _ = io.WriteString(w, body)
				w.Drop()
				if got, err := decode(t, coding, broken.Bytes()); err == nil && got != "" {
					t.Fatal("what broke off looks whole")
				}
			}
		})
	}
}

func FuzzChoose(f *testing.F) {
	f.Add("gzip;q=0.5, *;q=0", "br")
	f.Add("x-gzip;q=1.000,identity;q=0", "")
	f.Add(";;,=q;*", "zstd ; q=.5")
	f.Fuzz(func(t *testing.T, one, two string) {
		lines := []string{one, two}
		got := Choose(lines, Brotli, Zstd, Gzip)
		if got == "" {
			return
		}
		q := quality(lines, got)
		if q < 1 || q > 1000 {
			t.Fatalf("%q: chose %s with %d", lines, got, q)
		}
		for _, other := range []string{Brotli, Zstd, Gzip} {
			if quality(lines, other) > q {
				t.Fatalf("%q: chose %s although %s is liked better", lines, got, other)
			}
		}
		text := strings.ToLower(one + "," + two)
		if !strings.Contains(text, got) && !strings.Contains(text, "*") {
			t.Fatalf("%q: chose %s, which nobody named", lines, got)
		}
	})
}

func BenchmarkChoose(b *testing.B) {
	accept := []string{"gzip, deflate, br, zstd"}
	b.ReportAllocs()
	for b.Loop() {
		if Pick(accept) != Zstd {
			b.Fatal()
		}
	}
}

// BenchmarkWriter compresses 20 KB of JSON.
func BenchmarkWriter(b *testing.B) {
	var body []byte
	for i := range 200 {
		body = fmt.Appendf(body, `{"id":%d,"hs":"%06d","country":"CH","year":%d,"value":%d.5},`, i, i*7919%999999, 1990+i%30, i*i*31)
	}
	for _, coding := range offers {
		b.Run(coding, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var out bytes.Buffer
			for b.Loop() {
				out.Reset()
				w := New(coding, &out)
				_, _ = w.Write(body)
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(body))/float64(out.Len()), "ratio")
		})
	}
	b.Run("gzip of the standard library", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		for b.Loop() {
			out.Reset()
			w.Reset(&out)
			_, _ = w.Write(body)
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(body))/float64(out.Len()), "ratio")
	})
}

func TestWritersAreBoundedInNumber(t *testing.T) {
	var all []*Writer
	for range mostWriters {
		all = append(all, New(Gzip, io.Discard))
	}
	if New(Gzip, io.Discard) != nil {
		t.Error("one more was made")
	}
	for i, w := range all {
		if i%2 == 0 {
			_ = w.Close()
		} else {
			w.Drop()
		}
	}
	w := New(Zstd, io.Discard)
	if w == nil || open.Load() != 1 {
		t.Fatalf("%d are open", open.Load())
	}
	w.Drop()
}
