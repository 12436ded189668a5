package bridge

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// BenchmarkDo is a request and its answer of 280 bytes, from 32 requesters a
// processor, without HTTP.
func BenchmarkDo(b *testing.B) {
	bus := newTestBridge(b)
	bus.ready("i1")
	reply := []byte(`"` + strings.Repeat("x", 278) + `"`)
	bustest.Subscribe(b, bustest.Connect(b, bus.server), "flows.find", func(m *nats.Msg) {
		if err := m.Respond(reply); err != nil {
			b.Error(err)
		}
	})
	route, err := NewRoute(&system.Route{Path: "/api/flows/{hs}", Request: &system.Request{Service: "flows", Subject: "flows.find"}})
	if err != nil {
		b.Fatal(err)
	}
	path := match.Values{{Name: "hs", Value: "010121"}}
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := NewCall()
			if err := route.Fill(c, &data.Inputs{Query: "year=2023", Path: path}, "GET", "request-0001"); err != nil {
				b.Error(err)
			}
			answer, err := bus.Do(context.Background(), c)
			c.Free()
			if err != nil || len(answer.Data) != len(reply) {
				b.Errorf("answer is %+v, %v", answer, err)
				return
			}
		}
	})
}
