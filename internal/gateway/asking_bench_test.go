package gateway

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// benchService answers on flows.find with 280 bytes.
func benchService(b *testing.B, nc *nats.Conn) {
	b.Helper()
	reply := []byte(`"` + strings.Repeat("x", 278) + `"`)
	bustest.Subscribe(b, nc, "flows.find", func(m *nats.Msg) {
		if err := m.Respond(reply); err != nil {
			b.Error(err)
		}
	})
}

// benchRequests sends n plain requests from 64 goroutines.
func benchRequests(b *testing.B, nc *nats.Conn, n int) {
	b.Helper()
	data := []byte(`{"hs":"010121","year":"2023"}`)
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for k := range jobs {
				for range k {
					if _, err := nc.Request("flows.find", data, await.Patience); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	for n > 0 {
		k := min(n, 16)
		jobs <- k
		n -= k
	}
	close(jobs)
	wg.Wait()
}

// benchEach sends b.N plain requests on 64 connections.
func benchEach(b *testing.B, s *server.Server) time.Duration {
	b.Helper()
	conns := make([]*nats.Conn, 64)
	for i := range conns {
		conns[i] = bustest.Connect(b, s)
	}
	data := []byte(`{"hs":"010121","year":"2023"}`)
	begun := time.Now()
	var wg sync.WaitGroup
	for i, nc := range conns {
		wg.Go(func() {
			for range b.N/len(conns) + min(1, max(0, b.N%len(conns)-i)) {
				if _, err := nc.Request("flows.find", data, await.Patience); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begun)
}

// benchCPU returns the processor time of this process: clients, gateway, server and
// service.
func benchCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchGateway(b *testing.B, route *system.Route, opts Options) *busGateway {
	b.Helper()
	opts.Listen = "127.0.0.1:0"
	g := newBusGateway(b, Config{Routes: []*system.Route{route}}, opts)
	if err := g.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := g.Stop(b.Context()); err != nil {
			b.Log(err)
		}
	})
	g.ready("i1")
	benchService(b, bustest.Connect(b, g.server))
	return g
}

// BenchmarkBridge compares HTTP -> bus -> service -> back on 64 connections with
// nats.go's request/reply by 64 requesters in the same run: ratio is the share of
// its throughput when those share one connection, so that nearly all writes are
// shared too, ratio64 that when each has its own, as HTTP's clients do.
func BenchmarkBridge(b *testing.B) {
	g := benchGateway(b, rawRoute("GET /api/flows/{hs}", system.Request{Subject: "flows.find"}), Options{AccessLog: io.Discard})
	nc := bustest.Connect(b, g.server)
	begun, burnt := time.Now(), benchCPU(b)
	benchRequests(b, nc, b.N)
	plain, plainCPU := time.Since(begun), benchCPU(b)-burnt
	each := benchEach(b, g.server)
	burnt = benchCPU(b)
	b.ResetTimer()
	b.ReportAllocs()
	load(b, g.Addr().String())
	b.StopTimer()
	spent := benchCPU(b) - burnt
	// Processor time is what remains comparable on a machine shared with others.
	b.ReportMetric(float64(plainCPU.Microseconds())/float64(b.N), "plain-cpu-us/op")
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(plainCPU)/float64(spent), "cpu-ratio")
	b.ReportMetric(float64(b.N)/plain.Seconds(), "plain/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gateway/s")
	b.ReportMetric(plain.Seconds()/b.Elapsed().Seconds(), "ratio")
	b.ReportMetric(each.Seconds()/b.Elapsed().Seconds(), "ratio64")
}

// BenchmarkBridgePlain is the peer alone.
func BenchmarkBridgePlain(b *testing.B) {
	s := bustest.Server(b)
	benchService(b, bustest.Connect(b, s))
	nc := bustest.Connect(b, s)
	b.ReportAllocs()
	b.ResetTimer()
	benchRequests(b, nc, b.N)
}

// BenchmarkBridgeHandler is the bridge without HTTP connections, to see its own cost.
func BenchmarkBridgeHandler(b *testing.B) {
	g := benchGateway(b, rawRoute("GET /api/flows/{hs}", system.Request{Subject: "flows.find"}), Options{})
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if w := g.do("GET", "/api/flows/010121?year=2023", ""); w.Code != 200 {
				b.Errorf("answer is %d", w.Code)
				return
			}
		}
	})
}
