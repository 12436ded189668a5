package upstream

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"fairlead/internal/gateway/hop"
)

// FuzzHead reads answers of hostile services: what we take, net/http reads in the
// same way.
func FuzzHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), "GET")
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"), "GET")
	f.Add([]byte("HTTP/1.0 304 Not Modified\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"), "HEAD")
	f.Fuzz(func(t *testing.T, answer []byte, method string) {
		var h head
		if err := h.read(bufio.NewReaderSize(bytes.NewReader(answer), 4096)); err != nil {
			return
		}
		length, chunked, err := h.framing(method)
		h.closes()
		h.keepAlive()
		h.trailers()
		out := http.Header{}
		h.copyTo(out)
		for name := range out {
			if !hop.Answer(name) {
				t.Errorf("%q goes outside", name)
			}
		}
		if err != nil || h.status < http.StatusOK {
			return
		}
		res, rerr := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), &http.Request{Method: method})
		if rerr != nil {
			return
		}
		if res.StatusCode != h.status || chunked != (len(res.TransferEncoding) > 0) && method != http.MethodHead && length != 0 {
			t.Errorf("status %d chunked %v, net/http says %d %v", h.status, chunked, res.StatusCode, res.TransferEncoding)
		}
		if !chunked && length > 0 && res.ContentLength != length {
			t.Errorf("length %d, net/http says %d", length, res.ContentLength)
		}
	})
}
