package bus

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/test/await"
)

func TestOneInstanceCannotTakeAllConnections(t *testing.T) {
	b := open(t, shop())
	front := dial(t, issue(t, b, "legacy", "legacy-1"))
	greedy := issue(t, b, "tradeflow", "tradeflow-1")

	// It connects as fast as it can, again when it is cut, from many goroutines.
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	var opened atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				nc, err := nats.Connect(greedy.URL, nats.Timeout(await.Patience), nats.UserInfo(greedy.User, greedy.Password), nats.NoReconnect(),
					nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
				if err == nil {
					opened.Add(1)
					t.Cleanup(nc.Close)
				}
			}
		})
	}
	most, waited, n := 0, time.Duration(0), 0
	for ctx.Err() == nil {
		most = max(most, b.server.Load().NumClients())
		start := time.Now()
		id := "auth-" + strconv.Itoa(n)
		dial(t, issue(t, b, "auth", id)).Close()
		if err := b.Revoke(id); err != nil {
			t.Error(err)
		}
		waited = max(waited, time.Since(start))
		n++
		if opened.Load() >= 2*perInstance {
			cancel() // it has tried often enough
		}
	}
	wg.Wait()
	t.Logf("%d connections opened; %d at once; %d others came in, in at most %v", opened.Load(), most, n, waited)
	if opened.Load() < 2*perInstance || n == 0 {
		t.Errorf("%d connections opened, %d others came in", opened.Load(), n)
	}
	if most >= maxConnections {
		t.Errorf("%d connections at once", most)
	}
	await.Until(t, "the crowd is cut", func() bool {
		z, err := b.server.Load().Connz(&server.ConnzOptions{Username: true, User: greedy.User, Limit: maxConnections})
		return err == nil && len(z.Conns) == perInstance
	})
	if n := front.Stats().Reconnects; n != 0 || !front.IsConnected() {
		t.Errorf("another's connection was cut %d times", n)
	}
}

func TestStrangersCannotTakeAllConnections(t *testing.T) {
	b := open(t, shop())
	for range strangers + 200 {
		conn, err := net.Dial("tcp", b.server.Load().Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	// On a slow machine those who came first have been cut for being slow already.
	await.Until(t, "all came, and the crowd is cut", func() bool {
		z, err := b.server.Load().Varz(nil)
		n := b.server.Load().NumClients()
		return err == nil && z.TotalConnections >= strangers+200 && n <= strangers+8 // and our own
	})
	dial(t, issue(t, b, "auth", "auth-1"))
}

func TestTooMany(t *testing.T) {
	conns := func(n int) []*server.ConnInfo {
		var all []*server.ConnInfo
		for i := range n {
			all = append(all, &server.ConnInfo{Cid: uint64(n - i)}) // the youngest first
		}
		return all
	}
	tests := map[string]struct {
		user        string
		open        int
		cut         int
		first, last uint64
	}{
		"none":              {"web-1", 0, 0, 0, 0},
		"at the limit":      {"web-1", perInstance, 0, 0, 0},
		"one above":         {"web-1", perInstance + 1, 1, perInstance + 1, perInstance + 1},
		"the youngest":      {"web-1", perInstance + 9, 9, perInstance + 1, perInstance + 9},
		"few strangers":     {"", perInstance + 9, 0, 0, 0},
		"strangers, oldest": {"", strangers + 3, 3, 1, 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cut := tooMany(tt.user, conns(tt.open))
			if len(cut) != tt.cut {
				t.Fatalf("cuts %d, want %d", len(cut), tt.cut)
			}
			if tt.cut > 0 && (cut[0].Cid != tt.first || cut[len(cut)-1].Cid != tt.last) {
				t.Errorf("cuts %d to %d, want %d to %d", cut[0].Cid, cut[len(cut)-1].Cid, tt.first, tt.last)
			}
		})
	}
}
