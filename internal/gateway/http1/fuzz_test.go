package http1

import (
	"bufio"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"fairlead/internal/gateway/hop"
)

// FuzzRequest sends a connection's bytes to the server and to net/http's parser.
// What both accept must mean the same; what one handler saw must not depend on how
// the bytes came.
func FuzzRequest(f *testing.F) {
	for _, s := range shapes {
		f.Add(s.raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		type request struct {
			r       http.Request
			header  http.Header
			path    string
			body    string
			trailer http.Header
			err     error
		}
		var got []request
		whole := &pieces{in: raw, size: 1 << 20}
		New(Options{}).Serve(whole, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			got = append(got, request{*r, r.Header.Clone(), r.URL.EscapedPath(), string(body), r.Trailer.Clone(), err})
		}))
		var s seen
		for _, size := range []int{1, 7} {
			in := newPieces(raw)
			in.size = size
			New(Options{}).Serve(in, &s)
			lines := s.take()
			if n := strings.Count(lines, "\n"); lines != "" && n+1 != len(got) || lines == "" && len(got) > 0 {
				t.Errorf("in pieces of %d: saw\n%s\ninstead of %d requests", size, lines, len(got))
			}
		}
		if strings.Contains(raw, "Expect") { // what was written between tells nothing here
			return
		}
		br := bufio.NewReader(strings.NewReader(raw))
		for i, g := range got {
			want, err := http.ReadRequest(br)
			if err != nil {
				return // net/http is stricter here: allowed
			}
			body, err := io.ReadAll(want.Body)
			if (err == nil) != (g.err == nil) {
				if err == nil { // the body is one that only net/http takes
					return
				}
				t.Fatalf("request %d: body error %v, net/http %v", i, g.err, err)
			}
			if err != nil {
				return
			}
			if want.Method == http.MethodConnect {
				return
			}
			path := want.URL.EscapedPath()
			if path == "" {
				path = "/"
			}
			if g.r.Method != want.Method || g.r.RequestURI != want.RequestURI || g.r.Host != want.Host || g.r.ContentLength != want.ContentLength ||
				g.path != path || g.r.Proto != want.Proto || g.body != string(body) || !slices.Equal(g.r.TransferEncoding, want.TransferEncoding) {
				t.Fatalf("request %d: %q %q %q %d %q %q, net/http %q %q %q %d %q %q", i,
					g.r.Method, g.r.RequestURI, g.r.Host, g.r.ContentLength, g.path, g.body,
					want.Method, want.RequestURI, want.Host, want.ContentLength, path, body)
			}
			if _, ok := want.Header["Pragma"]; !ok && !maps.EqualFunc(g.header, want.Header, slices.Equal) { // net/http adds Cache-Control then
				t.Fatalf("request %d: header %v, net/http %v", i, g.header, want.Header)
			}
			if g.r.ContentLength < 0 && !maps.EqualFunc(g.trailer, want.Trailer, slices.Equal) {
				t.Fatalf("request %d: trailer %v, net/http %v", i, g.trailer, want.Trailer)
			}
		}
	})
}

// FuzzChunkSize reads a size line: no two spellings of one size that are not equal
// numbers, and never a panic.
func FuzzChunkSize(f *testing.F) {
	for _, s := range []string{"0", "5", "a", "A;b", "005", "fffffffffffffff", "10000000000000000", "-1", "0x1", "", ";", "5 ", " 5", "5;\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		size, extended, what := chunkSize([]byte(s))
		if what != "" {
			return
		}
		digits := s[:len(s)-extended]
		if size < 0 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" || digits == "" {
			t.Errorf("%q is %d", s, size)
		}
	})
}

// FuzzHead reads heads alone.
func FuzzHead(f *testing.F) {
	for _, s := range shapes {
		head, _, _ := strings.Cut(s.raw, "\r\n\r\n")
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head string) {
		if head == "" || strings.HasPrefix(head, "\r\n") || strings.Contains(strings.ReplaceAll(head, "\r\n", ""), "\n") || strings.Contains(head, "\r\n\r\n") || strings.HasSuffix(head, "\r\n") {
			return // readHead lets none of these through
		}
		turn := newTurn()
		turn.req.Header, turn.req.URL = turn.header, &turn.url
		if bad := turn.parse(head + "\r\n"); bad != nil {
			if bad.status < 400 || bad.status > 599 || bad.detail == "" {
				t.Errorf("refused with %+v", bad)
			}
			return
		}
		r := &turn.req
		if !hop.Token(r.Method) || strings.ContainsAny(r.RequestURI, " \t\r\n\x00") || r.ProtoMinor == 1 && !validHost(r.Host) {
			t.Errorf("%q %q %q", r.Method, r.RequestURI, r.Host)
		}
		for name, values := range r.Header {
			for _, v := range values {
				if !hop.Token(name) || http.CanonicalHeaderKey(name) != name || strings.ContainsAny(v, "\r\n\x00") {
					t.Errorf("%q: %q", name, v)
				}
			}
		}
	})
}
