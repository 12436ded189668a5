package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAnswersAreRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		status     int // 0: refused
	}{
		{"with a length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabc", 200},
		{"empty", "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", 202},
		{"without content", "HTTP/1.1 204 No Content\r\n\r\n", 204},
		{"in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n", 200},
		{"no chunk at all", "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 503},
		{"without a length", "HTTP/1.1 200 OK\r\n\r\n", 0},
		{"more than one", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1", 0},
		{"no HTTP", "SSH-2.0\r\n", 0},
		{"no header", "HTTP/1.1 200 OK\r\nabc\r\n\r\n", 0},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0},
		{"no size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 0},
	} {
		for piece := 1; piece <= len(c.text); piece += 3 { // however it arrives
			var a answer
			var whole bool
			var err error
			for rest := []byte(c.text); len(rest) > 0 && err == nil; rest = rest[min(piece, len(rest)):] {
				if whole {
					err = fmt.Errorf("whole before its end")
					break
				}
				whole, err = a.take(rest[:min(piece, len(rest))])
			}
			if c.status == 0 {
				if err == nil {
					t.Errorf("%s, %d bytes at a time: taken", c.name, piece)
				}
			} else if err != nil || !whole || a.status != c.status {
				t.Errorf("%s, %d bytes at a time: whole %t, status %d, %v", c.name, piece, whole, a.status, err)
			}
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var once, bit answer
		whole, err := once.take(b)
		for i := range b {
			if bitWhole, bitErr := bit.take(b[i : i+1]); bitErr != nil || bitWhole && i == len(b)-1 {
				if (bitErr == nil) != (err == nil) || bitWhole != whole {
					t.Errorf("%q: at once %t %v, byte by byte %t %v", b, whole, err, bitWhole, bitErr)
				}
				return
			}
		}
		if whole || err != nil {
			t.Errorf("%q: at once %t %v, byte by byte neither", b, whole, err)
		}
	})
}

// What the load counts is what the server has answered, also over connections that
// break, and with bodies beyond what a socket takes at once.
func TestLoadCountsWhatWasAnswered(t *testing.T) {
	var answered, refused atomic.Int64
	body := payload(3 << 20)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got bytes.Buffer
		if _, err := got.ReadFrom(r.Body); err != nil || !bytes.Equal(got.Bytes(), body) {
			t.Errorf("got %d bytes, %v", got.Len(), err)
		}
		if answered.Load()+refused.Load() == 5 {
			refused.Add(1)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
			return
		}
		answered.Add(1)
		_, _ = w.Write(got.Bytes())
	}))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	same := request("POST", "/", nil, body)
	got, err := driveHTTP(4, 300*time.Millisecond, address, func([]byte) []byte { return same })
	if err != nil {
		t.Fatal(err)
	}
	if int64(got.count) != answered.Load() || int64(got.failed) != refused.Load() || got.count < 4 || len(got.latency) != got.count {
		t.Errorf("counted %d answers, %d failed, %d times; the server says %d and %d", got.count, got.failed, len(got.latency), answered.Load(), refused.Load())
	}
}
