package http1

import (
	"bytes"
	"net/http"
	"strings"

	"fairlead/internal/gateway/hop"
)

// refusal is why a request is not served.
type refusal struct {
	status  int
	detail  string // public
	preface bool   // it is not a request but HTTP/2's preface
}

func (r *refusal) Error() string { return r.detail }

func refuse(status int, detail string) *refusal { return &refusal{status: status, detail: detail} }

func malformed(detail string) *refusal { return refuse(http.StatusBadRequest, detail) }

// readHead reads up to and with the empty line, and returns what is before that.
// The error is a *refusal or the connection's.
func (c *conn) readHead() (string, error) {
	in := &c.t.in
	first, line, scan := true, 0, 0 // the request line is not whole; offsets from in.r
	skipped := false
	for {
		for {
			i := bytes.IndexByte(in.buf[in.r+scan:in.w], '\n')
			if i < 0 {
				break
			}
			end := scan + i // of the line, at its LF
			switch {
			case end == line || in.buf[in.r+end-1] != '\r':
				return "", malformed("a line does not end in CR LF")
			case end-1 > line:
				if first && end-1 > c.s.opts.MaxLine {
					return "", refuse(http.StatusRequestURITooLong, "the request line is too long")
				}
				first = false
			case !first: // the empty line
				if end+1 > c.s.opts.MaxHead {
					return "", refuse(http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large")
				}
				head := string(in.buf[in.r : in.r+line])
				in.r += end + 1
				return head, nil
			case skipped:
				return "", malformed("there are empty lines before the request")
			default: // some clients send one too many (RFC 9112, 2.2)
				skipped = true
				in.r += end + 1
				line, scan = 0, 0
				continue
			}
			line, scan = end+1, end+1
		}
		scan = in.w - in.r
		switch {
		case scan > 0 && !hop.TokenByte(in.buf[in.r]) && in.buf[in.r] != '\r':
			return "", malformed("this is not HTTP")
		case first && scan > c.s.opts.MaxLine:
			return "", refuse(http.StatusRequestURITooLong, "the request line is too long")
		case scan > c.s.opts.MaxHead:
			return "", refuse(http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large")
		}
		if err := c.fill(); err != nil {
			return "", err
		}
	}
}

// parse reads a head, whose every line ends in CR LF, into the turn's request.
func (t *turn) parse(head string) *refusal {
	i := strings.IndexByte(head, '\n')
	line, rest := head[:i-1], head[i+1:]
	if line == "PRI * HTTP/2.0" && rest == "" {
		return &refusal{http.StatusHTTPVersionNotSupported, "HTTP/2 is not spoken here without TLS", true}
	}
	if bad := t.requestLine(line); bad != nil {
		return bad
	}
	f := framing{length: -1}
	for n := 0; rest != ""; n++ {
		i := strings.IndexByte(rest, '\n')
		line, rest = rest[:i-1], rest[i+1:]
		if n == maxFields {
			return refuse(http.StatusRequestHeaderFieldsTooLarge, "the request has too many header fields")
		}
		name, value, what := field(line)
		if what != "" {
			return malformed(what)
		}
		keep, bad := f.note(&t.req, name, value)
		if bad != nil {
			return bad
		}
		if keep {
			t.add(name, value)
		}
	}
	return t.frame(&f)
}

// add adds a field to the request's header.
func (t *turn) add(name, value string) {
	if old, ok := t.header[name]; ok {
		t.header[name] = append(old, value)
		return
	}
	n := len(t.values)
	t.values = append(t.values, value)
	t.header[name] = t.values[n : n+1 : n+1]
}

// field takes a line of a head or trailer apart. It returns the name in canonical
// form, and what is wrong with the line, "" for nothing.
func field(line string) (name, value, what string) {
	if line == "" || line[0] == ' ' || line[0] == '\t' {
		return "", "", "a header line is folded"
	}
	colon := strings.IndexByte(line, ':')
	if colon <= 0 {
		return "", "", "a header line has no name"
	}
	if name = hop.Canonical(line[:colon]); name == "" {
		return "", "", "a header's name is malformed"
	}
	value = trim(line[colon+1:])
	if !hop.CleanValue(value) {
		return "", "", "a header's value holds a control character"
	}
	return name, value, ""
}

// trim removes optional white space: spaces and tabs, nothing else.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// framing is what the fields of a head say about its body and its connection.
type framing struct {
	length    int64 // -1: none given
	chunked   bool
	hosts     int
	host      string
	close     bool
	keepAlive bool
	expect    bool
}

// note looks at a field that means something to this server. keep says whether
// handlers see it.
func (f *framing) note(r *http.Request, name, value string) (keep bool, bad *refusal) {
	switch name {
	case "Host":
		f.hosts++
		f.host = value
		return false, nil
	case "Content-Length":
		n, ok := parseLength(value)
		if !ok {
			return false, malformed("the Content-Length is malformed")
		}
		if f.length >= 0 {
			return false, malformed("there are two lengths")
		}
		f.length = n
	case "Transfer-Encoding":
		if !strings.EqualFold(value, "chunked") || f.chunked {
			if f.chunked || value == "" || strings.HasPrefix(value, ",") {
				return false, malformed("the Transfer-Encoding is malformed")
			}
			return false, refuse(http.StatusNotImplemented, "the only Transfer-Encoding here is chunked")
		}
		f.chunked = true
		return false, nil
	case "Connection":
		for item := range strings.SplitSeq(value, ",") {
			item = trim(item)
			f.close = f.close || strings.EqualFold(item, "close")
			f.keepAlive = f.keepAlive || strings.EqualFold(item, "keep-alive")
		}
	case "Expect":
		if r.ProtoMinor == 0 {
			break // nobody may wait for anything there
		}
		if !strings.EqualFold(value, "100-continue") {
			return false, refuse(http.StatusExpectationFailed, "nothing but 100-continue can be expected")
		}
		f.expect = true
	case "Trailer":
		for item := range strings.SplitSeq(value, ",") {
			item = trim(item)
			if item == "" {
				continue
			}
			name := hop.Canonical(item)
			if name == "" || notInTrailer(name) {
				return false, malformed("the Trailer header names what cannot be a trailer")
			}
			if r.Trailer == nil {
				r.Trailer = http.Header{}
			}
			r.Trailer[name] = nil
		}
		return false, nil
	}
	return true, nil
}

// parseLength reads a Content-Length: digits and nothing else.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// chunkedOnly is what requests in chunks have. Nobody may write to it.
var chunkedOnly = []string{"chunked"}

// frame settles host, body and connection once all fields are known.
func (t *turn) frame(f *framing) *refusal {
	r := &t.req
	old := r.ProtoMinor == 0
	switch {
	case f.hosts > 1:
		return malformed("there are two Host headers")
	case f.hosts == 0 && !old:
		return malformed("the Host header is missing")
	case f.hosts == 1 && !validHost(f.host):
		return malformed("the Host header is malformed")
	case f.chunked && f.length >= 0:
		return malformed("there are both a Content-Length and a Transfer-Encoding")
	case f.chunked && old:
		return malformed("HTTP/1.0 has no Transfer-Encoding")
	}
	if r.Host = t.url.Host; r.Host == "" {
		r.Host = f.host
	}
	r.Close = f.close || old && !f.keepAlive
	if f.chunked {
		r.ContentLength, r.TransferEncoding = -1, chunkedOnly
	} else {
		r.ContentLength = max(f.length, 0)
		r.Trailer = nil // only chunks can have some
	}
	if r.ContentLength == 0 {
		return nil
	}
	t.body.c = t.answer.c
	t.body.left, t.body.chunked, t.body.expect = max(r.ContentLength, 0), f.chunked, f.expect
	t.body.settle()
	r.Body = &t.body
	return nil
}
