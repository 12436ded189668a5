package filter

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

const (
	// MaxHops is how many proxies are followed from the right. Behind more of them
	// the client is the last that was reached.
	MaxHops = 32
	// maxNode is the longest text of one address with its port.
	maxNode = 64
	// maxHost is the longest host that is taken over from a proxy.
	maxHost = 255
)

// Origin is where a request comes from, as far as it can be believed.
type Origin struct {
	// Client is the address of the client, IPv4 never written as IPv6, without zone.
	// It is invalid if the connection has no IP address.
	Client netip.Addr
	Scheme string // that the client used: http or https
	Host   string // that the client asked for

	// via are the trusted proxies between the client and the gateway, the nearest
	// first.
	via []netip.Addr
}

// Derive finds out where a request comes from. remote is the connection's peer as
// host:port, scheme and host are those of the request itself.
//
// If the peer is in trusted, X-Forwarded-For is read from the right: each address
// that is trusted leads to the next; the first that is not is the client. Where
// there is no X-Forwarded-For, Forwarded (RFC 7239) is read in the same way. Not
// both: a proxy that writes the one passes the other on as the client sent it, and
// nearly every proxy writes X-Forwarded-For. What is malformed, obfuscated or
// unknown ends the walk at the last good address.
//
// Scheme and host are the nearest proxy's word: the last value of X-Forwarded-Proto
// and X-Forwarded-Host, or proto and host of the last element of Forwarded if that
// was read.
func Derive(trusted Set, remote string, h http.Header, scheme, host string) Origin {
	o := Origin{Client: peer(remote), Scheme: scheme, Host: host}
	if !trusted.Contains(o.Client) {
		return o
	}
	if lines := h["X-Forwarded-For"]; len(lines) > 0 {
		o.walk(trusted, lines, parseNode)
	} else if lines := h["Forwarded"]; len(lines) > 0 {
		o.walk(trusted, lines, func(s string) (netip.Addr, bool) {
			e, ok := parseElement(s)
			if !ok {
				return netip.Addr{}, false
			}
			return parseNode(e.node)
		})
		last, _ := cutLast(lines[len(lines)-1])
		if e, ok := parseElement(last); ok {
			o.takeScheme(e.proto)
			o.takeHost(e.host)
		}
	}
	if lines := h["X-Forwarded-Proto"]; len(lines) > 0 {
		last, _ := cutLast(lines[len(lines)-1])
		o.takeScheme(last)
	}
	if lines := h["X-Forwarded-Host"]; len(lines) > 0 {
		last, _ := cutLast(lines[len(lines)-1])
		o.takeHost(last)
	}
	return o
}

// Trusted reports whether the request came through a trusted proxy that named
// another address.
func (o *Origin) Trusted() bool { return len(o.via) > 0 }

// AppendFor appends the value of X-Forwarded-For for a service: the client, then
// the trusted proxies up to the gateway, the farthest first.
func (o *Origin) AppendFor(dst []byte) []byte {
	if !o.Client.IsValid() {
		return append(dst, "unknown"...)
	}
	dst = o.Client.AppendTo(dst)
	for _, proxy := range slices.Backward(o.via) {
		dst = append(dst, ", "...)
		dst = proxy.AppendTo(dst)
	}
	return dst
}

// AppendForwarded appends the value of Forwarded for a service.
func (o *Origin) AppendForwarded(dst []byte) []byte {
	dst = append(dst, "for="...)
	dst = appendNode(dst, o.Client)
	if o.Host != "" && !strings.ContainsAny(o.Host, "\"\\") {
		dst = append(dst, `;host="`...)
		dst = append(dst, o.Host...)
		dst = append(dst, '"')
	}
	dst = append(dst, ";proto="...)
	dst = append(dst, o.Scheme...)
	for _, proxy := range slices.Backward(o.via) {
		dst = append(dst, ", for="...)
		dst = appendNode(dst, proxy)
	}
	return dst
}

func appendNode(dst []byte, a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return append(dst, "unknown"...)
	case a.Is4():
		return a.AppendTo(dst)
	}
	dst = append(dst, `"[`...)
	dst = a.AppendTo(dst)
	return append(dst, `]"`...)
}

// walk goes from the right to the left through lists of addresses.
func (o *Origin) walk(trusted Set, lines []string, parse func(string) (netip.Addr, bool)) {
	for _, rest := range slices.Backward(lines) {
		for {
			var item string
			more := strings.IndexByte(rest, ',') >= 0
			item, rest = cutLast(rest)
			a, ok := parse(item)
			if !ok || len(o.via) == MaxHops {
				return
			}
			o.via = append(o.via, o.Client)
			if o.Client = a; !trusted.Contains(a) {
				return
			}
			if !more {
				break
			}
		}
	}
}

// cutLast splits a list before its last comma. A comma within quotes splits too:
// what is left then is malformed, while minding quotes would let whoever wrote the
// left part swallow the right one.
func cutLast(list string) (last, rest string) {
	if i := strings.LastIndexByte(list, ','); i >= 0 {
		return strings.Trim(list[i+1:], " \t"), list[:i]
	}
	return strings.Trim(list, " \t"), ""
}

func (o *Origin) takeScheme(s string) {
	switch {
	case strings.EqualFold(s, "https"), strings.EqualFold(s, "wss"):
		o.Scheme = "https"
	case strings.EqualFold(s, "http"), strings.EqualFold(s, "ws"):
		o.Scheme = "http"
	}
}

func (o *Origin) takeHost(s string) {
	if s == "" || len(s) > maxHost {
		return
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._:[]", c) >= 0:
		default:
			return
		}
	}
	o.Host = s
}

// peer reads the address of a connection.
func peer(remote string) netip.Addr {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	a, err := netip.ParseAddr(remote)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// parseNode reads an address with or without a port: 192.0.2.1, 192.0.2.1:80,
// 2001:db8::1, [2001:db8::1], [2001:db8::1]:80. Names are no addresses.
func parseNode(s string) (netip.Addr, bool) {
	if s == "" || len(s) > maxNode {
		return netip.Addr{}, false
	}
	if s[0] == '[' {
		inner, port, ok := strings.Cut(s[1:], "]")
		if !ok || port != "" && !isPort(port) || strings.IndexByte(inner, ':') < 0 {
			return netip.Addr{}, false
		}
		s = inner
	} else if host, port, ok := strings.Cut(s, ":"); ok && strings.IndexByte(port, ':') < 0 {
		if !isPort(s[len(host):]) {
			return netip.Addr{}, false
		}
		s = host
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// isPort reports whether s is a colon and a number of at most five digits.
func isPort(s string) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// element is one forwarded-element of RFC 7239.
type element struct{ node, proto, host string }

// parseElement reads one element. An element with a parameter twice, or with
// anything that is neither a token nor a quoted string without escapes, is refused.
func parseElement(s string) (element, bool) {
	var e element
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
		name = strings.ToLower(name)
		if !ok || !isToken(name) || seen[name] || len(seen) == 8 {
			return element{}, false
		}
		seen[name] = true
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
			if strings.ContainsAny(value, "\"\\") {
				return element{}, false
			}
		} else if !isToken(value) {
			return element{}, false
		}
		switch name {
		case "for":
			// An address of IPv6 must be in brackets here (RFC 7239, 6).
			if strings.Count(value, ":") > 1 && value[0] != '[' {
				return element{}, false
			}
			e.node = value
		case "proto":
			e.proto = value
		case "host":
			e.host = value
		}
	}
	return e, true
}

// isToken reports whether s is a token of RFC 9110, or one with the colon that many
// proxies write into Forwarded without quotes.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~:", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
