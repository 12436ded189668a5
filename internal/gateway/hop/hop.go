// Package hop knows the headers of HTTP that belong to one hop: which of a request's,
// an answer's and a trailer's are passed on, and how their lines look (RFC 9110, 5.5, 6.5.1
// and 7.6.1).
//
// It does not know routes or who asks: what the gateway adds by itself is added elsewhere.
package hop

import (
	"net/http"
	"slices"
	"strings"

	"fairlead/internal/wire"
)

// Request reports whether a client's header is passed on to services; others belong to
// one connection, or are the gateway's to set. Names count in every
// spelling: many programs read X_Forwarded_For as X-Forwarded-For.
func Request(name string) bool {
	if name == "" {
		return false
	}
	switch name[0] | 0x20 {
	case 'c', 'k', 'p', 't', 'u', 'f', 'x', 'n', 'e', 'h':
	default:
		return true
	}
	if wire.ForeignHeader(name) {
		return false
	}
	for _, s := range requestStripped[name[0]&0x1f] {
		if Same(name, s) {
			return false
		}
	}
	return !HasPrefix(name, "x-forwarded-")
}

// requestStripped holds the names that are stripped, in small letters, by the low
// five bits of their first letter.
var requestStripped = byInitial(
	"connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info",
	"proxy", // CGI makes HTTP_PROXY of it, which programs take for their proxy
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

// Answer reports whether a header of a service's answer is passed on to the client.
func Answer(name string) bool {
	if name == "" || wire.ForeignHeader(name) {
		return false
	}
	for _, s := range answerStripped[name[0]&0x1f] {
		if Same(name, s) {
			return false
		}
	}
	return true
}

// Plain returns a header's name as [Same] and [HasPrefix] want the one that they
// compare with: in small letters, every mark a dash.
func Plain(name string) string {
	b := []byte(name)
	for i, c := range b {
		switch {
		case 'A' <= c && c <= 'Z':
			b[i] = c | 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			b[i] = '-'
		}
	}
	return string(b)
}

// Same compares a header's name with a [Plain] one; an underscore or another mark
// counts as a dash.
func Same(name, small string) bool {
	return len(name) == len(small) && HasPrefix(name, small)
}

// HasPrefix reports whether a header's name begins with a [Plain] one, compared as by
// [Same].
func HasPrefix(name, small string) bool {
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

// Nominated reports whether a header that is a list, as Connection is, names a header or
// another token, in whatever case.
func Nominated(connection []string, name string) bool {
	for _, line := range connection {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), name) {
				return true
			}
		}
	}
	return false
}

// Upgrade returns the protocol that a request asks to upgrade to, "" for none.
// HTTP and TLS are not offered to the service: on such a connection requests would
// pass the door unseen.
func Upgrade(h http.Header) string {
	proto := h["Upgrade"]
	if len(proto) != 1 || !Nominated(h["Connection"], "upgrade") {
		return ""
	}
	p := strings.ToLower(proto[0])
	if strings.ContainsAny(p, ", ") || strings.HasPrefix(p, "h2") || strings.HasPrefix(p, "http") || strings.HasPrefix(p, "tls") {
		return ""
	}
	return proto[0]
}

// Trailer reports whether a trailer of either direction is passed on: never
// what frames, routes or authenticates a message (RFC 9110, 6.5.1).
func Trailer(name string) bool {
	if !Token(name) || !Request(name) || !Answer(name) || HasPrefix(name, "if-") {
		return false
	}
	return !slices.ContainsFunc(noTrailers, func(s string) bool { return Same(name, s) })
}

var noTrailers = []string{
	"authorization", "cookie", "set-cookie", "cache-control", "content-encoding", "content-range", "content-type",
	"max-forwards", "pragma", "range", "www-authenticate", "tracestate", "location",
}
