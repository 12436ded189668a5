package system

import (
	"net/textproto"
	"slices"
	"strings"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
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

func (r *reader) readHeaderRules(n *document.Node) HeaderRules {
	f := r.fields(n, headersSchema)
	return HeaderRules{
		Request: r.rules(f["request"], vouched),
		Answer:  r.rules(f["answer"], []string{"server", "x-request-id"}),
	}
}

// rules reads what becomes of some headers. Those in closed, in small letters, are
// refused as those that frame a message are.
func (r *reader) rules(n *document.Node, closed []string) map[string]string {
	if n == nil {
		return nil
	}
	if n.Kind != document.Mapping {
		r.wrong(n, "a map of values by header", "write {NAME: value}, and {NAME: null} to remove a header")
		return nil
	}
	var out map[string]string
	first := map[string]document.Place{}
	for _, m := range n.Items {
		if !r.header(m.KeyAt, m.Path, m.Key, closed) {
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(m.Key)
		if was, ok := first[name]; ok {
			r.rec.add(m.KeyAt, m.Path, duplicateKey, was)
			continue
		}
		first[name] = m.KeyAt
		if m.Kind != document.Null && !m.Scalar() {
			r.wrong(m, "text", "")
			continue
		}
		if !notation.IsHeaderValue(m.Text) {
			r.rec.add(m.At, m.Path, badHeaderValue)
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = m.Text
	}
	return out
}

// header tells whether name can be the name of a header that the file may speak of.
func (r *reader) header(at document.Place, path, name string, closed []string) bool {
	small := strings.ToLower(name)
	switch {
	case !notation.IsToken(name):
		r.rec.add(at, path, badHeader, wording.Quote(name))
	case slices.Contains(framing, small), slices.Contains(closed, small),
		strings.HasPrefix(small, "fairlead-"), strings.HasPrefix(small, "nats-"):
		r.rec.add(at, path, closedHeader, name)
	default:
		return true
	}
	return false
}

// headerName reads the name of a header, def if there is none.
func (r *reader) headerName(n *document.Node, def string) string {
	s, ok := r.text(n)
	if !ok || !r.header(n.At, n.Path, s, nil) {
		return def
	}
	return s
}

// headerNames reads a list of names of headers.
func (r *reader) headerNames(n *document.Node) []string {
	var out []string
	for _, item := range r.texts(n, false) {
		if r.header(item.At, item.Path, item.Text, nil) {
			out = append(out, item.Text)
		}
	}
	return out
}
