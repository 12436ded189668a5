package bus

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/test/await"
)

// crowd connects n instances of tradeflow that answer.
func crowd(tb testing.TB, b *Bus, n int) {
	tb.Helper()
	for i := range n {
		nc := dial(tb, issue(tb, b, "tradeflow", fmt.Sprintf("crowd-%d", i)))
		if _, err := nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
			tb.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkIssueRevoke(bench *testing.B) {
	for _, n := range []int{1, 64} {
		bench.Run(fmt.Sprintf("connected=%d", n), func(bench *testing.B) {
			b := open(bench, shop())
			crowd(bench, b, n)
			i := 0
			for bench.Loop() {
				i++
				id := fmt.Sprintf("x-%d", i)
				issue(bench, b, "tradeflow", id)
				if err := b.Revoke(id); err != nil {
					bench.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDrain(bench *testing.B) {
	for _, n := range []int{1, 64} {
		bench.Run(fmt.Sprintf("connected=%d", n), func(bench *testing.B) {
			b := open(bench, shop())
			crowd(bench, b, n)
			i := 0
			for bench.Loop() {
				bench.StopTimer()
				i++
				id := fmt.Sprintf("x-%d", i)
				nc := dial(bench, issue(bench, b, "tradeflow", id))
				nc.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(*nats.Msg) {})
				nc.Flush()
				bench.StartTimer()
				if _, err := b.Drain(id); err != nil {
					bench.Fatal(err)
				}
				bench.StopTimer()
				nc.Close()
				b.Revoke(id)
				bench.StartTimer()
			}
		})
	}
}

func BenchmarkRegistered(bench *testing.B) {
	b := open(bench, shop())
	crowd(bench, b, 64)
	bench.ReportAllocs()
	for bench.Loop() {
		if _, err := b.Registered("crowd-7"); err != nil {
			bench.Fatal(err)
		}
	}
}

// BenchmarkRequest compares the ways for the gateway to connect, with 64
// requesters on one connection: TCP, which it takes, and a pipe.
func BenchmarkRequest(bench *testing.B) {
	b := open(bench, shop())
	crowd(bench, b, 2)
	pipe, err := b.Operator("bench")
	if err != nil {
		bench.Fatal(err)
	}
	gw, err := b.Gateway()
	if err != nil {
		bench.Fatal(err)
	}
	for _, size := range []int{128, 4096} {
		payload := []byte(strings.Repeat("x", size))
		for _, c := range []struct {
			name string
			nc   *nats.Conn
		}{{"tcp", gw}, {"pipe", pipe}} {
			bench.Run(fmt.Sprintf("%s/%dB", c.name, size), func(bench *testing.B) {
				var wg sync.WaitGroup
				work := make(chan struct{}, 64)
				for range 64 {
					wg.Go(func() {
						for range work {
							if _, err := c.nc.Request("tradeflow.find", payload, await.Patience); err != nil {
								bench.Error(err)
							}
						}
					})
				}
				for bench.Loop() {
					work <- struct{}{}
				}
				close(work)
				wg.Wait()
			})
		}
	}
}
