package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"fairlead/internal/wire"
)

// hop is what happens to a header of a request or an answer at the door.
type hop uint8

const (
	pass  hop = iota
	strip     // belongs to one connection, or is the gateway's to set
)

// requestHop says what happens to a client's header. Names count in every
// spelling: many programs read X_Forwarded_For as X-Forwarded-For.
func requestHop(name string) hop {
	if name == "" {
		return strip
	}
	switch name[0] | 0x20 {
	case 'c', 'k', 'p', 't', 'u', 'f', 'x', 'n', 'e', 'h':
	default:
		return pass
	}
	if wire.ForeignHeader(name) {
		return strip
	}
	for _, s := range requestStripped[name[0]&0x1f] {
		if sameName(name, s) {
			return strip
		}
	}
	if hasNamePrefix(name, "x-forwarded-") {
		return strip
	}
	return pass
}

// requestStripped holds the names that are stripped, in small letters, by the low
// five bits of their first letter.
var requestStripped = byInitial(
	"connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info",
	"te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
	"content-length", "expect", "host",
	"forwarded", "x-forwarded", "x-real-ip", "x-original-method", "x-original-host", "x-original-uri", "x-original-url", "x-rewrite-url",
	"x-http-method-override", "x-http-method", "x-method-override",
	"x-request-id", "traceparent",
)

// answerStripped are the names that no service's answer carries outside.
var answerStripped = byInitial(
	"connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info",
	"te", "trailer", "transfer-encoding", "upgrade", "server", "x-request-id",
)

func byInitial(names ...string) (table [32][]string) {
	for _, n := range names {
		table[n[0]&0x1f] = append(table[n[0]&0x1f], n)
	}
	return table
}

// answerHop says what happens to a header of a service's answer.
func answerHop(name string) hop {
	if name == "" || wire.ForeignHeader(name) {
		return strip
	}
	for _, s := range answerStripped[name[0]&0x1f] {
		if sameName(name, s) {
			return strip
		}
	}
	return pass
}

// sameName compares a header's name with one in small letters; an underscore or
// another mark counts as a dash.
func sameName(name, small string) bool {
	return len(name) == len(small) && hasNamePrefix(name, small)
}

func hasNamePrefix(name, small string) bool {
	if len(name) < len(small) {
		return false
	}
	for i := range len(small) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			c = '-'
		}
		if c != small[i] {
			return false
		}
	}
	return true
}

// nominated reports whether a Connection header names this header.
func nominated(connection []string, name string) bool {
	for _, line := range connection {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), name) {
				return true
			}
		}
	}
	return false
}

// hasToken reports whether a header that is a list holds a token.
func hasToken(lines []string, token string) bool {
	return len(lines) > 0 && nominated(lines, token)
}

// upgradeOf returns the protocol that a request asks to upgrade to, "" for none.
// HTTP and TLS are not offered to the service: on such a connection requests would
// pass the door unseen.
func upgradeOf(h http.Header) string {
	proto := h["Upgrade"]
	if len(proto) != 1 || !hasToken(h["Connection"], "upgrade") {
		return ""
	}
	p := strings.ToLower(proto[0])
	if strings.ContainsAny(p, ", ") || strings.HasPrefix(p, "h2") || strings.HasPrefix(p, "http") || strings.HasPrefix(p, "tls") {
		return ""
	}
	return proto[0]
}

// headSize is about how many bytes a request's head had on the wire.
func headSize(r *http.Request) int64 {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(r.Host) + 12
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + 4
		}
	}
	return int64(n)
}

// appendHead appends the head of the request as a service gets it. The framing,
// which depends on the body, comes from frame.
func appendHead(dst []byte, r *http.Request, x *exchange, identity, upgrade string, length int64, expect bool) []byte {
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	if x.path != "" {
		dst = append(dst, x.path...)
	} else { // a question of the gateway's own
		dst = append(dst, r.URL.EscapedPath()...)
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		dst = append(dst, '?')
		dst = append(dst, r.URL.RawQuery...)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, r.Host...)
	dst = append(dst, "\r\n"...)
	var own []rule
	if x.route != nil {
		own = x.route.rules.request
	}
	connection := r.Header["Connection"]
	traced := false
	for name, values := range r.Header {
		if requestHop(name) != pass || own != nil && ruled(own, name) || len(connection) > 0 && nominated(connection, name) {
			continue
		}
		if sameName(name, "tracestate") {
			traced = true
			continue
		}
		for _, v := range values {
			dst = appendField(dst, name, v)
		}
	}
	if hasToken(r.Header["Te"], "trailers") && upgrade == "" {
		dst = append(dst, "Te: trailers\r\nConnection: te\r\n"...)
	}
	if upgrade != "" {
		dst = appendField(dst, "Upgrade", upgrade)
		dst = append(dst, "Connection: Upgrade\r\n"...)
	}
	dst = append(dst, "X-Forwarded-For: "...)
	dst = x.origin.AppendFor(dst)
	dst = append(dst, "\r\n"...)
	dst = appendField(dst, "X-Forwarded-Proto", x.origin.Scheme)
	dst = appendField(dst, "X-Forwarded-Host", x.origin.Host)
	dst = append(dst, "Forwarded: "...)
	dst = x.origin.AppendForwarded(dst)
	dst = append(dst, "\r\n"...)
	if x.prefix != "" {
		dst = appendField(dst, "X-Forwarded-Prefix", x.prefix)
	}
	if x.route != nil && (x.prefix != "" || x.route.rewrite != nil) {
		dst = appendField(dst, "X-Original-Uri", r.URL.RequestURI())
	}
	for i := range x.told {
		dst = appendField(dst, x.told[i].name, x.told[i].value)
	}
	for i := range own {
		if own[i].value != "" {
			dst = appendField(dst, own[i].name, own[i].value)
		}
	}
	dst = appendField(dst, wire.HeaderRequestID, x.id)
	dst = appendField(dst, wire.HeaderTrace, x.trace.String())
	if traced && x.continued {
		for _, v := range r.Header["Tracestate"] {
			dst = appendField(dst, wire.HeaderState, v)
		}
	}
	dst = append(dst, wire.HeaderDeadline...)
	dst = append(dst, ": "...)
	dst = strconv.AppendInt(dst, x.deadline.UnixMilli(), 10)
	dst = append(dst, "\r\n"...)
	if identity != "" {
		dst = appendField(dst, wire.HeaderIdentity, identity)
	}
	switch {
	case length > 0 || length == 0 && (r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch):
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, length, 10)
		dst = append(dst, "\r\n"...)
	case length < 0:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if trailerPasses(name) {
				dst = appendField(dst, "Trailer", name)
			}
		}
	}
	if expect {
		dst = append(dst, "Expect: 100-continue\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// trailerPasses says whether a trailer of either direction is passed on: never
// what frames, routes or authenticates a message (RFC 9110, 6.5.1).
func trailerPasses(name string) bool {
	if requestHop(name) != pass || answerHop(name) != pass || hasNamePrefix(name, "if-") {
		return false
	}
	return !slices.ContainsFunc(noTrailers, func(s string) bool { return sameName(name, s) })
}

var noTrailers = []string{
	"authorization", "cookie", "set-cookie", "cache-control", "content-encoding", "content-range", "content-type",
	"max-forwards", "pragma", "range", "www-authenticate", "tracestate", "location",
}
