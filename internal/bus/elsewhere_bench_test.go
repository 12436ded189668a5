package bus

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// BenchmarkQueueElsewhere is one publisher that waits: to a queue that the bus keeps,
// to one that another server keeps, and to a bare stream of that server as its own
// client. All are synced.
func BenchmarkQueueElsewhere(bench *testing.B) {
	sys := observatory(system.Queue{Name: "data.vhf"})
	h := newHub(bench, func(o *server.Options) { o.SyncAlways = true })
	publisher := func(b *Bus) *nats.Conn {
		return dial(bench, issue(bench, b, "receiver", "receiver-"+random()))
	}
	here := publisher(open(bench, sys))
	there := publisher(h.open(bench, Options{Model: sys}))
	own, err := jetstream.New(h.client(bench), jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		bench.Fatal(err)
	}
	if _, err := own.CreateStream(bench.Context(), jetstream.StreamConfig{Name: "bare", Subjects: []string{"bare"}}); err != nil {
		bench.Fatal(err)
	}
	for _, way := range []struct {
		name, subject string
		nc            *nats.Conn
	}{{"here", "data.vhf", here}, {"elsewhere", "data.vhf", there}, {"bare", "bare", own.Conn()}} {
		bench.Run(way.name, func(bench *testing.B) {
			js, err := jetstream.New(way.nc, jetstream.WithDefaultTimeout(await.Patience))
			if err != nil {
				bench.Fatal(err)
			}
			data := make([]byte, 256)
			for bench.Loop() {
				if _, err := js.Publish(bench.Context(), way.subject, data); err != nil {
					bench.Fatal(err)
				}
			}
		})
	}
}
