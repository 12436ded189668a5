package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// answers280 is what the measured services answer.
func answers280(w http.ResponseWriter, r *http.Request) {
	if r.Body != http.NoBody {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	h := w.Header()
	h["Content-Type"] = plainText
	h["Content-Length"] = length280
	_, _ = w.Write(body280)
}

var (
	plainText = []string{"text/plain"}
	length280 = []string{"280"}
	body280   = bytes.Repeat([]byte("x"), 280)
)

const (
	benchGet  = "GET /api/flows/010121?year=2023 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	benchPost = "POST /api/flows HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: 128\r\n\r\n"
)

// BenchmarkServer answers 64 connections, beside net/http's server in the same run.
// Allocations are the server's: the load makes none per request.
func BenchmarkServer(b *testing.B) {
	for name, request := range map[string]string{"get": benchGet, "post": benchPost + strings.Repeat("x", 128)} {
		b.Run(name+"/here", func(b *testing.B) {
			l := benchListen(b)
			s := New(Options{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() { s.Serve(c, http.HandlerFunc(answers280)) })
				}
			})
			benchLoad(b, l.Addr().String(), request)
			l.Close()
			s.Close()
			wg.Wait()
		})
		b.Run(name+"/net_http", func(b *testing.B) {
			l := benchListen(b)
			s := &http.Server{Handler: http.HandlerFunc(answers280)}
			done := make(chan struct{})
			go func() { defer close(done); _ = s.Serve(l) }()
			benchLoad(b, l.Addr().String(), request)
			s.Close()
			<-done
		})
	}
}

func benchListen(b *testing.B) net.Listener {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// benchLoad sends b.N requests on 64 connections.
func benchLoad(b *testing.B, addr, request string) {
	b.Helper()
	var wg sync.WaitGroup
	jobs := make(chan int)
	for range 64 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			br := bufio.NewReader(c)
			raw := []byte(request)
			for n := range jobs {
				for range n {
					if _, err := c.Write(raw); err != nil {
						b.Error(err)
						return
					}
					if err := benchAnswer(br); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= 64 {
		jobs <- min(left, 64)
	}
	close(jobs)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

func benchAnswer(br *bufio.Reader) error {
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := br.Discard(280)
	return err
}

// BenchmarkParse reads a head, beside net/http's parser.
func BenchmarkParse(b *testing.B) {
	head := "GET /api/flows/010121?year=2023 HTTP/1.1\r\nHost: localhost:3005\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\n" +
		"Accept-Encoding: gzip, deflate\r\nAccept-Language: en\r\nCookie: a=b; c=d\r\nReferer: http://localhost:3005/\r\n"
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		t := newTurn()
		for b.Loop() {
			t.reset()
			t.req.Header, t.req.URL = t.header, &t.url
			if bad := t.parse(head); bad != nil {
				b.Fatal(bad)
			}
		}
	})
	b.Run("net_http", func(b *testing.B) {
		b.ReportAllocs()
		raw := strings.NewReader("")
		br := bufio.NewReader(raw)
		for b.Loop() {
			raw.Reset(head + "\r\n")
			br.Reset(raw)
			if _, err := http.ReadRequest(br); err != nil {
				b.Fatal(err)
			}
		}
	})
}
