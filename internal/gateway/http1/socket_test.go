package http1

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/test/await"
)

// serveTLS starts a server behind TLS and returns a function that connects to it.
func serveTLS(t *testing.T, h http.HandlerFunc) (*Server, func() *tls.Conn) {
	t.Helper()
	lender := httptest.NewTLSServer(nil) // of a certificate
	certs := lender.TLS.Certificates
	lender.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				tc := tls.Server(c, &tls.Config{Certificates: certs, MinVersion: tls.VersionTLS12})
				if tc.HandshakeContext(t.Context()) != nil {
					c.Close()
					return
				}
				s.Serve(tc, h)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.Close()
		wg.Wait()
	})
	return s, func() *tls.Conn {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(await.Patience))
		return c
	}
}

func TestTLS(t *testing.T) {
	left := make(chan struct{})
	s, dial := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || r.TLS.Version < tls.VersionTLS12 {
			t.Error("the request does not know that it came by TLS")
		}
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
			close(left)
			return
		}
		io.Copy(w, r.Body)
	})
	c := dial()
	br := bufio.NewReader(c)
	data := strings.Repeat("0123456789", 10_000)
	for range 3 {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(data), data)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); string(got) != data || err != nil {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		await.Until(t, "the connection to idle", func() bool { return s.Counts().Idle == 1 })
	}
	io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	await.Until(t, "the request", func() bool { return s.Counts().Requests == 4 })
	c.Close()
	<-left
}

func TestTLSRefusalIsReadToTheEnd(t *testing.T) {
	_, dial := serveTLS(t, func(http.ResponseWriter, *http.Request) { t.Error("served") })
	c := dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost : x\r\n\r\n"+strings.Repeat("x", 8<<10))
	if got, err := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.1 400 ") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFilesGoThroughTheKernel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	data := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })
	c := d.dial()
	br := bufio.NewReader(c)
	for rng, want := range map[string][]byte{"": data, "bytes=5-9": data[5:10], "bytes=1000-": data[1000:]} {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nRange: "+rng+"\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%s: %d bytes, %v", rng, len(got), err)
		}
	}
}

func TestHintsComeBefore100Continue(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		echo(w, r)
	})
	got := d.raw("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
	if !strings.HasPrefix(got, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ") {
		t.Errorf("%q", got)
	}
}

// TestSlowClientHoldsUpNoOther has a client that reads nothing of a
// large answer, and one that is served meanwhile.
func TestSlowClientHoldsUpNoOther(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Write(make([]byte, 64<<20))
			return
		}
		io.WriteString(w, "quick")
	})
	slow := d.dial()
	io.WriteString(slow, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
	await.Until(t, "the large answer", func() bool { return d.Counts().Requests == 1 })
	for range 20 {
		if got := d.raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "quick") {
			t.Fatalf("%q", got)
		}
	}
}

// owned is a connection that minds its address and its close.
type owned struct {
	*net.TCPConn
	closed chan struct{}
}

func (o *owned) NetConn() net.Conn    { return o.TCPConn }
func (o *owned) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 7} }

func (o *owned) Close() error {
	close(o.closed)
	return o.TCPConn.Close()
}

func TestOwnersOfSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	o := &owned{c.(*net.TCPConn), make(chan struct{})}
	io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	New(Options{}).Serve(o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }))
	<-o.closed
	if got, err := io.ReadAll(client); !strings.HasSuffix(string(got), "192.0.2.7:7") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
