package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/test/await"
)

// door is a listening server of a test.
type door struct {
	*Server
	t    testing.TB
	addr string
	l    net.Listener
	wg   sync.WaitGroup
}

func open1(tb testing.TB, opts Options, h http.HandlerFunc) *door {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	d := &door{Server: New(opts), t: tb, addr: l.Addr().String(), l: l}
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.Serve(c, h) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		d.Close()
		d.wg.Wait()
		if n := d.Counts(); n.Open != 0 {
			tb.Errorf("%d connections are left", n.Open)
		}
	})
	return d
}

// dial opens a connection that ends with the test.
func (d *door) dial() *net.TCPConn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(await.Patience))
	return c.(*net.TCPConn)
}

// raw sends bytes and returns all that comes until the server closes.
func (d *door) raw(request string) string {
	d.t.Helper()
	c := d.dial()
	if _, err := io.WriteString(c, request); err != nil {
		d.t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil {
		d.t.Fatalf("%v after %q", err, all)
	}
	return string(all)
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s host=%s length=%d te=%v body=%q trailer=%v err=%v", r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, body, r.Trailer, err)
}

func TestKeepAliveAndPipelining(t *testing.T) {
	d := open1(t, Options{}, echo)
	got := d.raw("GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" +
		"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n" +
		"GET /d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"GET /a host=x", `POST /b host=x length=5 te=[] body="hello"`, `POST /c host=x length=-1 te=[chunked] body="hello" trailer=map[X-Sum:[1]] err=<nil>`, "GET /d"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if n := strings.Count(got, "HTTP/1.1 200 OK\r\n"); n != 4 || strings.Count(got, "Connection: close") != 1 {
		t.Errorf("%d answers in %q", n, got)
	}
}

func TestAnswerFraming(t *testing.T) {
	long := strings.Repeat("0123456789", 2000)
	tests := []struct {
		name, request string
		h             http.HandlerFunc
		want          []string // in the answer
		not           []string
		close         bool
	}{
		{"nothing", "GET / HTTP/1.1", func(http.ResponseWriter, *http.Request) {}, []string{"200 OK", "Content-Length: 0\r\n\r\n"}, nil, false},
		{"small", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, []string{"Content-Length: 5\r\n", "\r\n\r\nhello", "Date: "}, []string{"chunked", "Content-Type"}, false},
		{"long", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, long) }, []string{"Transfer-Encoding: chunked\r\n\r\n4e20\r\n0123", "\r\n0\r\n\r\n"}, []string{"Content-Length"}, false},
		{"long with length", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "20000")
			io.WriteString(w, long)
		}, []string{"Content-Length: 20000\r\n\r\n0123"}, []string{"chunked"}, false},
		{"held then long", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "ab")
			w.Write([]byte(long))
		}, []string{"chunked\r\n\r\n4e22\r\nab0123"}, nil, false},
		{"flushed", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "ab")
			w.(http.Flusher).Flush()
			io.WriteString(w, "cd")
		}, []string{"chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"}, nil, false},
		{"head", "HEAD / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, []string{"Content-Length: 5\r\n"}, []string{"hello"}, false},
		{"head of a long one", "HEAD / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, long); io.WriteString(w, long) }, []string{"Content-Length: 40000\r\n"}, []string{"0123"}, false},
		{"head with length", "HEAD / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "7") }, []string{"Content-Length: 7\r\n"}, nil, false},
		{"no content", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "7")
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
				panic(err)
			}
		}, []string{"204 No Content"}, []string{"Content-Length", "chunked"}, false},
		{"not modified", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "7")
			w.WriteHeader(304)
		}, []string{"304 Not Modified", "Content-Length: 7"}, nil, false},
		{"early hints", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			w.Header().Del("Link")
			w.WriteHeader(201)
		}, []string{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 Created\r\n"}, nil, false},
		{"declared trailer", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "ab")
			w.Header().Set("X-Sum", "7")
			w.Header().Set("X-Other", "8")
		}, []string{"Trailer: X-Sum\r\n", "2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n"}, []string{"X-Other"}, false},
		{"undeclared trailer", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "ab")
			w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
		}, []string{"2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n"}, nil, false},
		{"handler closes", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }, []string{"Connection: close\r\n"}, nil, true},
		{"other options", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "upgrade")
			w.WriteHeader(426)
		}, []string{"Connection: upgrade\r\n"}, nil, false},
		{"http/1.0", "GET / HTTP/1.0", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, []string{"Connection: close\r\n", "Content-Length: 5"}, nil, true},
		{"http/1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, []string{"Connection: keep-alive\r\n", "Content-Length: 5"}, nil, false},
		{"http/1.0 streams", "GET / HTTP/1.0\r\nConnection: keep-alive", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, long) }, []string{"Connection: close\r\n", "\r\n\r\n0123"}, []string{"chunked", "Content-Length"}, true},
		{"http/1.0 no hints", "GET / HTTP/1.0\r\nConnection: keep-alive", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103) }, nil, []string{"103"}, false},
		{"injection", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["X-A"] = []string{"a\r\nX-B: b\x00"}
			w.Header()["X C"] = []string{"c"}
		}, []string{"X-A: a  X-B: b \r\n"}, []string{"X C"}, false},
		{"transfer-encoding of the handler", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Transfer-Encoding", "gzip") }, nil, []string{"gzip"}, false},
		{"malformed length", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "+5")
			io.WriteString(w, "hi")
		}, []string{"Content-Length: 2\r\n"}, nil, false},
		{"too much", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			if _, err := io.WriteString(w, "hello"); !errors.Is(err, http.ErrContentLength) {
				panic(err)
			}
			io.WriteString(w, "ok")
		}, []string{"\r\n\r\nok"}, []string{"hello"}, false},
		{"own date", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil }, nil, []string{"Date"}, false},
		{"superfluous head", "GET / HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(500) }, []string{"201 Created"}, []string{"500"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/last" {
					io.WriteString(w, "the last")
					return
				}
				tt.h(w, r)
			})
			got := d.raw(tt.request + "\r\nHost: x\r\n\r\nGET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			first, rest, _ := strings.Cut(got, "HTTP/1.1 200 OK\r\nDate: ")
			if tt.close == strings.Contains(got, "the last") {
				t.Errorf("connection closed: want %v: %.300q", tt.close, got)
			}
			if first == "" {
				first, _, _ = strings.Cut(rest, "HTTP/1.1 200 OK\r\n")
				first = "200 OK\r\nDate: " + first
			}
			for _, w := range tt.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in %.300q", w, got)
				}
			}
			for _, w := range tt.not {
				if strings.Contains(first, w) {
					t.Errorf("%q in %.300q", w, first)
				}
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(401)
			return
		}
		echo(w, r)
	})
	c := d.dial()
	br := bufio.NewReader(c)
	io.WriteString(c, "POST /yes HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q", line)
	}
	br.ReadString('\n')
	io.WriteString(c, "hello")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), `body="hello"`) || res.Close {
		t.Errorf("%q", body)
	}
	if got := d.raw("POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 401 ") || !strings.Contains(got, "Connection: close") {
		t.Errorf("%q", got)
	}
}

func TestUnreadBodies(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	last := "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	small := strings.Repeat("x", 100<<10)
	for name, body := range map[string]string{
		"length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(small), small),
		"chunks": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(small), small),
	} {
		if got := d.raw("POST /a HTTP/1.1\r\nHost: x\r\n" + body + last); !strings.HasSuffix(got, "/last") {
			t.Errorf("%s: %q", name, got)
		}
	}
	large := strings.Repeat("x", 8<<20)
	got := d.raw(fmt.Sprintf("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(large), large))
	if !strings.Contains(got, "Connection: close") || !strings.HasSuffix(got, "/a") {
		t.Errorf("large: %q", got)
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, body := range []io.Reader{bytes.NewReader(data), io.MultiReader(bytes.NewReader(data))} {
		res, err := client.Post("http://"+d.addr+"/", "a/b", body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestFullDuplex(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 16)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	})
	c := d.dial()
	br := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range "abc" {
		var b [1]byte
		if _, err := io.ReadFull(res.Body, b[:]); err != nil || rune(b[0]) != want {
			t.Fatalf("%q, %v", b, err)
		}
		fmt.Fprintf(c, "1\r\n%c\r\n", want+1)
	}
	io.WriteString(c, "0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); string(rest) != "d" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestHijackHandsOverWhatWasRead(t *testing.T) {
	var wg sync.WaitGroup
	d := open1(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		n := rw.Reader.Buffered()
		wg.Go(func() {
			defer c.Close()
			fmt.Fprintf(rw, "%d ", n)
			rw.Flush()
			io.Copy(c, rw)
		})
		if _, err := w.Write(nil); !errors.Is(err, http.ErrHijacked) {
			t.Error(err)
		}
	})
	c := d.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\nahead")
	await.Until(t, "the hijack", func() bool { return d.Counts().Requests == 1 && d.Counts().Open == 0 })
	io.WriteString(c, " and later")
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "5 ahead and later" {
		t.Errorf("%q, %v", got, err)
	}
	wg.Wait()
}

func TestContextEndsWhenTheClientLeaves(t *testing.T) {
	tests := []struct {
		name    string
		request string
		leave   func(*net.TCPConn)
		left    bool
	}{
		{"closes", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", func(c *net.TCPConn) { c.Close() }, true},
		{"resets", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, true},
		{"ends its half", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", func(c *net.TCPConn) { c.CloseWrite() }, true},
		{"after a body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", func(c *net.TCPConn) { c.Close() }, true},
		{"stays", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", func(*net.TCPConn) {}, false},
		{"ends its half behind another request", "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", func(c *net.TCPConn) { c.CloseWrite() }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			left, begun := make(chan bool, 2), make(chan struct{}, 2)
			d := open1(t, Options{}, func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				begun <- struct{}{}
				timer := time.NewTimer(600 * time.Millisecond)
				if tt.left {
					timer.Reset(await.Patience)
				}
				defer timer.Stop()
				select {
				case <-r.Context().Done():
					left <- true
				case <-timer.C:
					left <- false
				}
			})
			c := d.dial()
			io.WriteString(c, tt.request)
			<-begun
			tt.leave(c)
			if got := <-left; got != tt.left {
				t.Errorf("left: %v", got)
			}
		})
	}
}

func TestHeadTimeOut(t *testing.T) {
	t.Parallel()
	d := open1(t, Options{HeadTime: 2 * time.Second}, echo)
	if got := d.raw("GET / HTTP/1.1\r\nHo"); !strings.HasPrefix(got, "HTTP/1.1 408 ") {
		t.Errorf("half a head: %q", got)
	}
	if got := d.raw(""); got != "" {
		t.Errorf("nothing: %q", got)
	}
	if got := d.raw("\r\n"); got != "" {
		t.Errorf("an empty line: %q", got)
	}
}

func TestIdleTimeOut(t *testing.T) {
	t.Parallel()
	d := open1(t, Options{IdleTime: time.Second}, echo)
	if got := d.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q", got)
	}
}

func TestDeadlinesOfAHandler(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{50 * time.Millisecond, 1200 * time.Millisecond} {
		passed := make(chan struct{})
		d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			begun := time.Now()
			rc.SetReadDeadline(begun.Add(after))
			_, err := io.ReadAll(r.Body)
			if took := time.Since(begun); took < after-time.Millisecond {
				t.Errorf("took %s instead of %s", took, after)
			}
			close(passed)
			rc.SetReadDeadline(time.Time{})
			rest, err2 := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%v, %q, %v, %v", err, rest, err2, r.Context().Err())
		})
		c := d.dial()
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhe")
		await.From(t, "the deadline", passed)
		io.WriteString(c, "llo\r\n0\r\n\r\n")
		got, err := io.ReadAll(c)
		if err != nil || !strings.Contains(string(got), `i/o timeout, "llo", <nil>, <nil>`) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestWriteDeadlineCutsAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	done := make(chan error, 1)
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(1100 * time.Millisecond))
		var err error
		for buf := make([]byte, 1<<20); err == nil; {
			_, err = w.Write(buf)
		}
		if r.Context().Err() == nil {
			t.Error("the context lives on")
		}
		done <- err
	})
	c := d.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	var ne net.Error
	if err := <-done; !errors.As(err, &ne) || !ne.Timeout() {
		t.Error(err)
	}
}

func TestPanicsBreakTheConnectionOff(t *testing.T) {
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "half")
		if r.URL.Path == "/flushed" {
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	if got := d.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); got != "" {
		t.Errorf("%q", got)
	}
	if got := d.raw("GET /flushed HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\nhalf") {
		t.Errorf("%q", got)
	}
}

func TestRetireAndShutdownLoseNothing(t *testing.T) {
	let := make(chan struct{})
	d := open1(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-let
		}
		io.WriteString(w, "done")
	})
	exchange := func(c net.Conn, path string) *http.Response {
		t.Helper()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		return res
	}
	first, idler, quiet, slow := d.dial(), d.dial(), d.dial(), d.dial()
	if res := exchange(first, "/"); res.Close {
		t.Error("closed before")
	}
	exchange(idler, "/")
	io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	await.Until(t, "all", func() bool { n := d.Counts(); return n.Open == 4 && n.Idle == 3 && n.Requests == 3 })
	d.Retire()
	if res := exchange(first, "/"); !res.Close {
		t.Error("does not say that it closes")
	}
	done := make(chan error, 1)
	go func() { done <- d.Shutdown(context.Background()) }()
	for _, c := range []net.Conn{idler, quiet} {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%d, %v", n, err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("returned while a request is open: %v", err)
	default:
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(let)
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || !res.Close {
		t.Errorf("%v, %v", res, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPrefaceOfHTTP2(t *testing.T) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	d := open1(t, Options{}, echo)
	if got := d.raw(preface); !strings.HasPrefix(got, "HTTP/1.1 505 ") {
		t.Errorf("%q", got)
	}
	d = open1(t, Options{HTTP2: func(c net.Conn) {
		defer c.Close()
		all := make([]byte, len(preface)+3)
		_, err := io.ReadFull(c, all)
		fmt.Fprintf(c, "%q %v", all, err)
	}}, echo)
	if got := d.raw(preface + "abc"); got != `"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nabc" <nil>` {
		t.Errorf("%q", got)
	}
}

func TestStartServeStopStress(t *testing.T) {
	for range 20 {
		s := New(Options{})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { s.Serve(c, http.HandlerFunc(echo)) })
			}
		})
		for range 8 {
			wg.Go(func() {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					return
				}
				defer c.Close()
				br := bufio.NewReader(c)
				for range 50 {
					if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
						return
					}
					res, err := http.ReadResponse(br, nil)
					if err != nil {
						return
					}
					io.Copy(io.Discard, res.Body)
					if res.Close {
						return
					}
				}
			})
		}
		await.Until(t, "some requests", func() bool { return s.Counts().Requests > 20 })
		l.Close()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		s.Close()
		wg.Wait()
	}
}
