package system

import (
	"net/textproto"
	"slices"
	"strings"
)

var headersSchema = schema{what: "headers", keys: []string{"request", "answer"}}

// framing are the headers that say where a message ends or what becomes of its
// connection, in small letters: they belong to the gateway.
var framing = []string{
	"connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
	"transfer-encoding", "upgrade",
}

// vouched are the headers of a request that tell a service what the gateway knows,
// in small letters. A rule that sets them would make them lie.
var vouched = []string{
	"host", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
	"x-forwarded-prefix", "x-original-uri", "x-real-ip", "x-request-id", "traceparent", "tracestate",
}

func (r *reader) readHeaderRules(n *node) HeaderRules {
	f := r.fields(n, headersSchema)
	return HeaderRules{
		Request: r.rules(f["request"], vouched),
		Answer:  r.rules(f["answer"], []string{"server", "x-request-id"}),
	}
}

// rules reads what becomes of some headers. Those in closed, in small letters, are
// refused as those that frame a message are.
func (r *reader) rules(n *node, closed []string) map[string]string {
	if n == nil {
		return nil
	}
	if n.kind != mapping {
		r.wrong(n, "a map of values by header", "write {NAME: value}, and {NAME: null} to remove a header")
		return nil
	}
	var out map[string]string
	first := map[string]place{}
	for _, m := range n.items {
		if !r.header(m.keyAt, m.path, m.key, closed) {
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(m.key)
		if was, ok := first[name]; ok {
			r.rec.add(m.keyAt, m.path, duplicateKey, was)
			continue
		}
		first[name] = m.keyAt
		if m.kind != null && !m.scalar() {
			r.wrong(m, "text", "")
			continue
		}
		if !headerValue(m.text) {
			r.rec.add(m.at, m.path, badHeaderValue)
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = m.text
	}
	return out
}

// header tells whether name can be the name of a header that the file may speak of.
func (r *reader) header(at place, path, name string, closed []string) bool {
	small := strings.ToLower(name)
	switch {
	case !isToken(name):
		r.rec.add(at, path, badHeader, quote(name))
	case slices.Contains(framing, small), slices.Contains(closed, small),
		strings.HasPrefix(small, "fairlead-"), strings.HasPrefix(small, "nats-"):
		r.rec.add(at, path, closedHeader, name)
	default:
		return true
	}
	return false
}

// headerName reads the name of a header, def if there is none.
func (r *reader) headerName(n *node, def string) string {
	s, ok := r.text(n)
	if !ok || !r.header(n.at, n.path, s, nil) {
		return def
	}
	return s
}

// headerNames reads a list of names of headers.
func (r *reader) headerNames(n *node) []string {
	var out []string
	for _, item := range r.texts(n, false) {
		if r.header(item.at, item.path, item.text, nil) {
			out = append(out, item.text)
		}
	}
	return out
}

// isToken reports whether s is a token, as the names of headers and cookies are (RFC
// 9110, 5.6.2), of at most 256 characters.
func isToken(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

// headerValue reports whether s can be the value of a header (RFC 9110, 5.5), of at
// most 4,096 characters.
func headerValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(s) <= 4096 && strings.TrimSpace(s) == s
}
