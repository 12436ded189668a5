package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/internal/system"
)

// quickService answers every request with the same 280 bytes, as fast as Go can.
func quickService(b *testing.B) Endpoint {
	b.Helper()
	answer := []byte("HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 280\r\n\r\n" + strings.Repeat("x", 280))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 16<<10)
				for {
					got := 0
					for !bytes.HasSuffix(buf[:got], []byte("\r\n\r\n")) {
						n, err := c.Read(buf[got:])
						if err != nil {
							return
						}
						got += n
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return Endpoint{Instance: "api-1", Network: "tcp", Address: l.Addr().String()}
}

// load sends b.N requests on 64 connections.
func load(b *testing.B, addr string) {
	b.Helper()
	request := []byte("GET /api/flows/010121?year=2023 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	const connections = 64
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			br := bufio.NewReader(c)
			for n := range jobs {
				for range n {
					if _, err := c.Write(request); err != nil {
						b.Error(err)
						return
					}
					if err := readAnswer(br); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	b.ResetTimer()
	for left := b.N; left > 0; left -= 64 {
		jobs <- min(left, 64)
	}
	close(jobs)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

func readAnswer(br *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answered %q", line)
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(string(v)))
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := br.Discard(length)
	return err
}

// BenchmarkProxy compares the gateway, with access log and request ids on, with a
// bare httputil.ReverseProxy in front of the same service in the same run.
func BenchmarkProxy(b *testing.B) {
	ep := quickService(b)
	b.Run("direct", func(b *testing.B) { load(b, ep.Address) })
	b.Run("reverseproxy", func(b *testing.B) {
		target := &url.URL{Scheme: "http", Host: ep.Address}
		tr := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
		b.Cleanup(tr.CloseIdleConnections)
		p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: tr}
		s := httptest.NewServer(p)
		b.Cleanup(s.Close)
		load(b, s.Listener.Addr().String())
	})
	b.Run("gateway", func(b *testing.B) {
		log, err := os.Create(filepath.Join(b.TempDir(), "access.log"))
		if err != nil {
			b.Fatal(err)
		}
		d := openDoor(b, Options{AccessLog: log})
		d.apply([]*system.Route{{Path: "/api/flows/{hs}", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
		load(b, d.Addr().String())
	})
}

// BenchmarkApply changes a system of 5,000 routes, all of it and the endpoints of
// one service, until a request sees the change.
func BenchmarkApply(b *testing.B) {
	g := New(Options{})
	c := Config{Routes: manyRoutes(), Services: servicesOf("api"), Endpoints: map[string][]Endpoint{"api": {{"api-1", "tcp", "127.0.0.1:1"}}}}
	if err := g.Apply(c); err != nil {
		b.Fatal(err)
	}
	measure := func(name string, change func()) {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				change()
				if r, _ := g.snap.Load().find("GET", "h", "/api/service7/resource507/17", nil); r == nil {
					b.Fatal("no route")
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
	other := c
	other.Routes = append(slices.Clone(c.Routes), routesOf("/another")...)
	for _, routes := range [][]*system.Route{c.Routes, other.Routes} { // as a file's are
		slices.SortFunc(routes, func(a, b *system.Route) int { return strings.Compare(a.Key, b.Key) })
	}
	apply := func(c Config) {
		if err := g.Apply(c); err != nil {
			b.Fatal(err)
		}
	}
	turn := 0
	measure("a route comes or goes", func() {
		if turn++; turn%2 == 0 {
			apply(c)
		} else {
			apply(other)
		}
	})
	measure("same paths", func() { apply(other) })
	measure("endpoints", func() { g.SetEndpoints("api", c.Endpoints["api"]) })
}
