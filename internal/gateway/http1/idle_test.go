package http1

import (
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkIdleConnection tells the memory that a connection keeps between two
// requests, beside net/http's server. The clients are bare sockets that cost none.
func BenchmarkIdleConnection(b *testing.B) {
	b.Run("here", func(b *testing.B) {
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
		benchIdle(b, l)
		l.Close()
		s.Close()
		wg.Wait()
	})
	b.Run("net_http", func(b *testing.B) {
		l := benchListen(b)
		s := &http.Server{Handler: http.HandlerFunc(answers280)}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		benchIdle(b, l)
		s.Close()
		<-done
	})
}

func benchIdle(b *testing.B, l net.Listener) {
	b.Helper()
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	const conns = 500
	for b.Loop() {
		before := used()
		fds := make([]int, conns)
		for i := range fds {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				b.Fatal(err)
			}
			fds[i] = fd
			if err := unix.Connect(fd, to); err != nil {
				b.Fatal(err)
			}
			if _, err := unix.Write(fd, []byte(benchGet)); err != nil {
				b.Fatal(err)
			}
			var buf [1 << 10]byte
			if n, err := unix.Read(fd, buf[:]); err != nil || n < 280 {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(float64(used()-before)/conns, "B/conn")
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// used is what the heap and the stacks hold.
func used() uint64 {
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
