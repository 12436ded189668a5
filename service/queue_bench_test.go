package service

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"fairlead/internal/bus"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// What is stored is synced to the disk (docs/decisions/0026). "raw" is nats.go with
// nothing of ours in the program, on the same queue.

// rawConn connects as an instance.
func rawConn(tb testing.TB, b *bus.Bus, service, id string) *nats.Conn {
	tb.Helper()
	c, err := b.Issue(service, id)
	if err != nil {
		tb.Fatal(err)
	}
	nc, err := nats.Connect(c.URL, nats.Timeout(await.Patience), nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

func rawStream(tb testing.TB, nc *nats.Conn) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

var benchBody = strings.Repeat("x", 254) // 256 bytes of JSON

func BenchmarkQueuePublish(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		js := rawStream(b, rawConn(b, observatory(b, "data.vhf"), "receiver", "receiver-1"))
		body, _ := json.Marshal(benchBody)
		defer processor(b)()
		for b.Loop() {
			if _, err := js.Publish(b.Context(), "data.vhf", body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("service", func(b *testing.B) {
		i := start(b, busEnv(b, observatory(b, "data.vhf"), "receiver", "receiver-1"), func(*Service) error { return nil })
		defer processor(b)()
		for b.Loop() {
			if err := Publish(b.Context(), i.svc, "data.vhf", benchBody); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkQueueBatch stores 100 messages with one sync; an operation is one message.
func BenchmarkQueueBatch(b *testing.B) {
	const size = 100
	b.Run("raw", func(b *testing.B) {
		nc := rawConn(b, observatory(b, "data.vhf"), "receiver", "receiver-1")
		body, _ := json.Marshal(benchBody)
		b.ResetTimer()
		defer processor(b)()
		for n := 0; n < b.N; n += size {
			id := nuid.Next()
			for i := 1; i <= size; i++ {
				m := nats.NewMsg("data.vhf")
				m.Data = body
				m.Header[headerBatch], m.Header[headerBatchSequence] = []string{id}, []string{strconv.Itoa(i)}
				if i < size {
					if err := nc.PublishMsg(m); err != nil {
						b.Fatal(err)
					}
					continue
				}
				m.Header[headerBatchCommit] = []string{"1"}
				if r, err := nc.RequestMsg(m, 5*time.Second); err != nil || stored(r.Data) != nil {
					b.Fatal(err, stored(r.Data))
				}
			}
		}
	})
	b.Run("service", func(b *testing.B) {
		i := start(b, busEnv(b, observatory(b, "data.vhf"), "receiver", "receiver-1"), func(*Service) error { return nil })
		values := slices.Repeat([]string{benchBody}, size)
		b.ResetTimer()
		defer processor(b)()
		for n := 0; n < b.N; n += size {
			if err := PublishBatch(b.Context(), i.svc, "data.vhf", values); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// processor reports the processor time of an operation, the server's included: it
// differs less than the time on the clock when others use the machine.
func processor(b *testing.B) (report func()) {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/op") }
}

// fill stores messages, and returns who may consume them.
func fill(b *testing.B, n int) *bus.Bus {
	b.Helper()
	on := observatory(b, "data.vhf")
	i := start(b, busEnv(b, on, "receiver", "receiver-1"), func(*Service) error { return nil })
	values := slices.Repeat([]string{benchBody}, 1000)
	for ; n > 0; n -= 1000 {
		if err := PublishBatch(b.Context(), i.svc, "data.vhf", values[:min(n, 1000)]); err != nil {
			b.Fatal(err)
		}
	}
	return on
}

// BenchmarkQueueConsume decodes and acknowledges what is stored, 64 in flight.
func BenchmarkQueueConsume(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		on := fill(b, b.N)
		nc := rawConn(b, on, "reader", "reader-1")
		body, _ := json.Marshal(wire.SubscribeRequest{Subject: "data.vhf", Name: "show"})
		if _, err := nc.Request(wire.SubjectSubscribe+"reader-1", body, await.Patience); err != nil {
			b.Fatal(err)
		}
		consumer, err := rawStream(b, nc).Consumer(b.Context(), "data_vhf", "reader_show")
		if err != nil {
			b.Fatal(err)
		}
		done, n := make(chan struct{}), 0
		b.ResetTimer()
		report := processor(b)
		c, err := consumer.Consume(func(m jetstream.Msg) {
			var v string
			if err := json.Unmarshal(m.Data(), &v); err != nil {
				b.Error(err)
			}
			if err := m.Ack(); err != nil {
				b.Error(err)
			}
			if n++; n == b.N {
				close(done)
			}
		}, jetstream.PullMaxMessages(64))
		if err != nil {
			b.Fatal(err)
		}
		<-done
		b.StopTimer()
		report()
		c.Stop()
	})
	for _, inFlight := range []int{64, 500} {
		b.Run(fmt.Sprintf("service-%d", inFlight), func(b *testing.B) {
			on := fill(b, b.N)
			done := make(chan struct{})
			var n atomic.Int64
			b.ResetTimer()
			report := processor(b)
			start(b, busEnv(b, on, "reader", "reader-1"), func(s *Service) error {
				Subscribe(s, "data.vhf", func(context.Context, string) error {
					if n.Add(1) == int64(b.N) {
						close(done)
					}
					return nil
				}, SubscribeOptions{Name: "show", InFlight: inFlight})
				return nil
			})
			<-done
			b.StopTimer()
			report()
		})
	}
}

// BenchmarkQueueLatency is the time from a publish until the handler of a durable
// subscription has the message, one at a time.
func BenchmarkQueueLatency(b *testing.B) {
	report := func(b *testing.B, took []time.Duration) {
		b.Helper()
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	}
	b.Run("raw", func(b *testing.B) {
		on := observatory(b, "data.vhf")
		nc := rawConn(b, on, "reader", "reader-1")
		body, _ := json.Marshal(wire.SubscribeRequest{Subject: "data.vhf", Name: "show"})
		if _, err := nc.Request(wire.SubjectSubscribe+"reader-1", body, await.Patience); err != nil {
			b.Fatal(err)
		}
		consumer, err := rawStream(b, nc).Consumer(b.Context(), "data_vhf", "reader_show")
		if err != nil {
			b.Fatal(err)
		}
		came := make(chan time.Time, 1)
		c, err := consumer.Consume(func(m jetstream.Msg) { came <- time.Now(); _ = m.Ack() })
		if err != nil {
			b.Fatal(err)
		}
		defer c.Stop()
		js := rawStream(b, rawConn(b, on, "receiver", "receiver-1"))
		var took []time.Duration
		for b.Loop() {
			begin := time.Now()
			if _, err := js.Publish(b.Context(), "data.vhf", []byte("1")); err != nil {
				b.Fatal(err)
			}
			took = append(took, (<-came).Sub(begin))
		}
		report(b, took)
	})
	b.Run("service", func(b *testing.B) {
		on := observatory(b, "data.vhf")
		came := make(chan time.Time, 1)
		start(b, busEnv(b, on, "reader", "reader-1"), func(s *Service) error {
			Subscribe(s, "data.vhf", func(context.Context, int) error { came <- time.Now(); return nil }, SubscribeOptions{Name: "show"})
			return nil
		})
		i := start(b, busEnv(b, on, "receiver", "receiver-1"), func(*Service) error { return nil })
		var took []time.Duration
		for b.Loop() {
			begin := time.Now()
			if err := Publish(b.Context(), i.svc, "data.vhf", 1); err != nil {
				b.Fatal(err)
			}
			took = append(took, (<-came).Sub(begin))
		}
		report(b, took)
	})
}

// BenchmarkQueueKnown is what a plain Publish pays to know that no queue keeps its
// subject.
func BenchmarkQueueKnown(b *testing.B) {
	var q queues
	q.set([]string{"data.vhf", "data.mxt", "activity.*", "orders.>"})
	for b.Loop() {
		if q.keep("tradeflow.changed") {
			b.Fatal("kept")
		}
	}
}
