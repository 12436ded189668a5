package service

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

// BenchmarkAnswer compares requests to Answer with requests to a bare subscriber of
// nats.go that echoes: from one requester, and from 64.
func BenchmarkAnswer(b *testing.B) {
	type message struct {
		HS    string  `json:"hs"`
		Year  int     `json:"year"`
		Value float64 `json:"value"`
	}
	body := []byte(`{"hs":"8517","year":2023,"value":1234.5}`)
	srv := startBus(b, server.Options{})
	env := testEnv(b, srv, "bench")
	env[envLogLevel] = "error"
	launch(b, env, func(s *Service) error {
		Answer(s, "bytes", func(_ context.Context, m []byte) ([]byte, error) { return m, nil })
		Answer(s, "struct", func(_ context.Context, m message) (message, error) { return m, nil })
		return nil
	})
	raw := busConn(b, srv)
	if _, err := raw.QueueSubscribe("raw", "bench", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := raw.Flush(); err != nil {
		b.Fatal(err)
	}
	nc := busConn(b, srv)
	await.Until(b, "it answers", func() bool { _, err := request(nc, "struct", ""); return err == nil })
	trace, token := wire.NewTrace().String(), signed(b, "bench")
	ask := func(b *testing.B, subject string, headers bool) {
		b.Helper()
		m := nats.NewMsg(subject)
		m.Data = body
		if headers {
			m.Header[wire.HeaderRequestID] = []string{"req-1234567890"}
			m.Header[wire.HeaderTrace] = []string{trace}
			m.Header[wire.HeaderIdentity] = []string{token}
		}
		r, err := nc.RequestMsgWithContext(b.Context(), m)
		if err != nil || len(r.Data) == 0 {
			b.Error(err)
		}
	}
	for _, bench := range []struct {
		name, subject string
		headers       bool
	}{{"raw", "raw", false}, {"raw with headers", "raw", true}, {"bytes", "bytes", false}, {"struct", "struct", false}, {"struct with headers", "struct", true}} {
		b.Run("one/"+bench.name, func(b *testing.B) {
			for b.Loop() {
				ask(b, bench.subject, bench.headers)
			}
		})
		b.Run("64/"+bench.name, func(b *testing.B) {
			b.SetParallelism(32) // times GOMAXPROCS
			var n atomic.Int64
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					ask(b, bench.subject, bench.headers)
					n.Add(1)
				}
			})
		})
	}
}

// BenchmarkAnswerRatio measures in turns, 64 requesters each, so that what else the
// machine does touches all: the metrics are throughput in relation to that of a bare
// subscriber of nats.go that echoes requests without headers. "traced" has a request
// id and a trace, "user" an identity too; Answer decodes and encodes JSON.
func BenchmarkAnswerRatio(b *testing.B) {
	srv := startBus(b, server.Options{})
	env := testEnv(b, srv, "bench")
	env[envLogLevel] = "error"
	launch(b, env, func(s *Service) error {
		Answer(s, "answer", echo)
		return nil
	})
	raw := busConn(b, srv)
	if _, err := raw.QueueSubscribe("bare", "bench", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	nc := busConn(b, srv)
	for _, subject := range []string{"bare", "answer"} {
		await.Until(b, "it answers", func() bool { _, err := request(nc, subject, ""); return err == nil })
	}
	var names []string
	var messages []*nats.Msg
	for _, subject := range []string{"bare", "answer"} {
		for _, kind := range []string{"", "_traced", "_user"} {
			m := nats.NewMsg(subject)
			m.Data = []byte(`{"hs":"8517","year":2023,"exact":true}`)
			if kind != "" {
				m.Header[wire.HeaderRequestID] = []string{"req-1234567890"}
				m.Header[wire.HeaderTrace] = []string{wire.NewTrace().String()}
			}
			if kind == "_user" {
				m.Header[wire.HeaderIdentity] = []string{signed(b, "bench")}
			}
			names, messages = append(names, subject+kind), append(messages, m)
		}
	}
	round := func(m *nats.Msg) time.Duration {
		begin := time.Now()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 10 {
					own := *m
					if _, err := nc.RequestMsg(&own, 10*time.Second); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return time.Since(begin)
	}
	sums := make([]time.Duration, len(messages))
	for b.Loop() {
		for i, m := range messages {
			sums[i] += round(m)
		}
	}
	for i, name := range names[1:] {
		b.ReportMetric(float64(sums[0])/float64(sums[i+1]), name)
	}
}

// BenchmarkAsk compares Ask with nats.go's own request.
func BenchmarkAsk(b *testing.B) {
	srv := startBus(b, server.Options{})
	env := testEnv(b, srv, "asker")
	env[envLogLevel] = "error"
	i := launch(b, env, func(*Service) error { return nil })
	raw := busConn(b, srv)
	if _, err := raw.Subscribe("raw", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := raw.Flush(); err != nil {
		b.Fatal(err)
	}
	nc := busConn(b, srv)
	await.Until(b, "it asks", func() bool { return i.svc != nil })
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := nc.RequestWithContext(b.Context(), "raw", []byte(`{"n":1}`)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Ask", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Ask[map[string]int, map[string]int](b.Context(), i.svc, "raw", map[string]int{"n": 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for name, body := range map[string]string{
		"fits":         `{"hs":"8517","year":2023,"exact":true,"parts":[1,2]}`,
		"query string": `{"hs":"8517","year":"2023","exact":"true","parts":["1","2"]}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var r findRequest
				if err := decode([]byte(body), &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
