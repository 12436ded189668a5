package gateway

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"
)

// TestTunnelCarriesEveryByte sends a large volume both ways at once, in random
// pieces that respect no frame.
func TestTunnelCarriesEveryByte(t *testing.T) {
	d := openDoor(t, Options{})
	ep := rawService(t, "ws-1", func(c net.Conn, _ string) {
		io.WriteString(c, switching)
		io.Copy(c, c)
		c.(*net.TCPConn).CloseWrite()
	})
	d.oneService("ws", ep)
	c, br := d.rawWebSocket()
	rnd := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(rnd.Uint32())
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(100_000))
			if rnd.IntN(3) == 0 {
				n = min(len(rest), 1+rnd.IntN(20))
			}
			if _, err := c.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(br) // until the service's half is closed, too
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

// TestTunnelHoldsTheWriter has a reader that stalls: the writer stalls, too, and
// what lies between them is bounded.
func TestTunnelHoldsTheWriter(t *testing.T) {
	d := openDoor(t, Options{})
	written := make(chan int, 1)
	ep := rawService(t, "ws-1", func(c net.Conn, _ string) {
		io.WriteString(c, switching)
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		sum, block := 0, make([]byte, 256<<10)
		for {
			n, err := c.Write(block)
			if sum += n; err != nil {
				written <- sum
				return
			}
		}
	})
	d.oneService("ws", ep)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c, _ := d.rawWebSocket() // does not read
	sum := <-written
	runtime.ReadMemStats(&after)
	if sum > 64<<20 {
		t.Errorf("%d bytes were taken although nobody reads", sum)
	}
	if after.HeapAlloc > before.HeapAlloc+16<<20 {
		t.Errorf("the heap grew by %d bytes", after.HeapAlloc-before.HeapAlloc)
	}
	c.Close()
}

// BenchmarkIdleWebSocket reports what one that idles costs, both test sides
// included.
func BenchmarkIdleWebSocket(b *testing.B) {
	d := openDoor(b, Options{})
	d.oneService("ws", serviceOf(b, "ws-1", echo(b)))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for b.Loop() {
		ping(b, d.websocket("/"), "x")
		n++
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := after.HeapInuse + after.StackInuse - before.HeapInuse - before.StackInuse
	b.ReportMetric(float64(grown)/float64(n), "B/websocket")
}
