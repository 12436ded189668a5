package gateway

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"fairlead/internal/system"
)

// TestLargeAnswersAreWhole: answers that the kernel copies, of services that send in
// pieces of their own, that are slow, and that break off.
func TestLargeAnswersAreWhole(t *testing.T) {
	const size = 3<<20 + 17
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, tt := range []struct {
			name  string
			piece int           // that the service writes at once
			sent  int           // of it all, then the service closes
			pause time.Duration // after the first piece
			slow  bool          // the client reads late
		}{
			{"at once", size, size, 0, false},
			{"in pieces", 100_001, size, 0, false},
			{"in small pieces", 999, size, 0, false},
			{"waiting", 200_000, size, 30 * time.Millisecond, false},
			{"client waits", size, size, 0, true},
			{"breaks off", 50_000, 1 << 20, 0, false},
		} {
			t.Run(network+" "+tt.name, func(t *testing.T) {
				ep := servedBy(t, network, func(c net.Conn) {
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", size)
					for at := 0; at < tt.sent; at += tt.piece {
						if _, err := c.Write(content[at:min(at+tt.piece, tt.sent)]); err != nil {
							return
						}
						if at == 0 && tt.pause > 0 {
							<-time.After(tt.pause)
						}
					}
					if tt.sent < size {
						c.Close()
					}
				})
				d := openDoor(t, Options{})
				d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
				for range 3 {
					resp, err := d.client.Get(d.URL() + "/")
					if err != nil {
						t.Fatal(err)
					}
					if tt.slow {
						<-time.After(50 * time.Millisecond)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if tt.sent < size {
						if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(content, got) {
							t.Errorf("%d bytes, %v", len(got), err)
						}
						continue
					}
					if err != nil || sha256.Sum256(got) != sha256.Sum256(content) {
						t.Errorf("%d bytes, %v, want all %d", len(got), err, size)
					}
				}
			})
		}
	}
}

// servedBy runs a service that answers each request on a connection with f.
func servedBy(t *testing.T, network string, f func(net.Conn)) Endpoint {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				for {
					for got := 0; !bytes.HasSuffix(buf[:got], []byte("\r\n\r\n")); {
						n, err := c.Read(buf[got:])
						if err != nil {
							return
						}
						got += n
					}
					f(c)
				}
			}()
		}
	}()
	return Endpoint{Instance: "api-1", Network: network, Address: l.Addr().String()}
}
