package http1

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"fairlead/internal/gateway/hop"
)

// requestLine reads the first line: method SP target SP version.
func (t *turn) requestLine(line string) *refusal {
	r := &t.req
	method, rest, ok := strings.Cut(line, " ")
	if !ok || !hop.Token(method) {
		return malformed("the request line is malformed")
	}
	target, version, ok := strings.Cut(rest, " ")
	if !ok || target == "" {
		return malformed("the request line is malformed")
	}
	switch version {
	case "HTTP/1.1":
		r.Proto, r.ProtoMinor = "HTTP/1.1", 1
	case "HTTP/1.0":
		r.Proto, r.ProtoMinor = "HTTP/1.0", 0
	default:
		if len(version) == len("HTTP/1.1") && version[:5] == "HTTP/" && digit(version[5]) && version[6] == '.' && digit(version[7]) {
			return refuse(http.StatusHTTPVersionNotSupported, "the versions spoken here are HTTP/1.0 and HTTP/1.1")
		}
		return malformed("the request line is malformed")
	}
	r.Method, r.RequestURI = method, target
	return t.target(method, target)
}

func digit(ch byte) bool { return '0' <= ch && ch <= '9' }

// target reads the request's target in one of its four forms (RFC 9112, 3.2).
func (t *turn) target(method, target string) *refusal {
	u := &t.url
	switch {
	case method == http.MethodConnect:
		if host, port, ok := strings.Cut(target, ":"); !ok || host == "" || port == "" || !validHost(target) {
			if !strings.HasPrefix(target, "[") || !validHost(target) || !strings.Contains(target, "]:") {
				return malformed("the target of CONNECT must be host:port")
			}
		}
		u.Host = target
		return nil
	case target == "*":
		if method != http.MethodOptions {
			return malformed("only OPTIONS may ask for *")
		}
		u.Path = "*"
		return nil
	case target[0] == '/':
		if t.plainPath(target) {
			return nil
		}
	case !hasScheme(target):
		return malformed("the request's target is malformed")
	}
	for i := range len(target) {
		if ch := target[i]; ch <= ' ' || ch == 0x7f || ch == '#' {
			return malformed("the request's target holds a character that it must not")
		}
	}
	parsed, err := url.ParseRequestURI(target)
	if err != nil {
		return malformed("the request's target is malformed")
	}
	*u = *parsed
	if target[0] == '/' {
		return nil
	}
	if u.User != nil || u.Opaque != "" || u.Host == "" || !validHost(u.Host) {
		return malformed("the host of the request's target is malformed")
	}
	if u.Path == "" {
		u.Path = "/" // RFC 9110, 4.2.3
	}
	return nil
}

func hasScheme(target string) bool {
	return len(target) > len("http://") && strings.EqualFold(target[:7], "http://") ||
		len(target) > len("https://") && strings.EqualFold(target[:8], "https://")
}

// plainPath takes a target apart that holds nothing to be decoded, as nearly all do.
func (t *turn) plainPath(target string) bool {
	i := 0
	for ; i < len(target); i++ {
		if !plainByte[target[i]] {
			break
		}
	}
	if i == len(target) {
		t.url.Path = target
		return true
	}
	if target[i] != '?' {
		return false
	}
	query := target[i+1:]
	for j := range len(query) {
		if ch := query[j]; ch <= ' ' || ch == 0x7f || ch == '#' {
			return false
		}
	}
	t.url.Path, t.url.RawQuery, t.url.ForceQuery = target[:i], query, query == ""
	return true
}

// plainByte holds what stands for itself in a path, and is written so by url.URL.
var plainByte = func() (t [256]bool) {
	for ch := '0'; ch <= '9'; ch++ {
		t[ch] = true
	}
	for ch := 'a'; ch <= 'z'; ch++ {
		t[ch], t[ch-'a'+'A'] = true, true
	}
	for _, ch := range "-_.~$&+,/:;=@" {
		t[ch] = true
	}
	return t
}()

// validHost checks a host with an optional port: a name, an IPv4 address, or an
// IPv6 address in brackets. It is stricter than RFC 3986, whose sub-delimiters and
// percent signs no host has.
func validHost(s string) bool {
	var host, port string
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 3 {
			return false
		}
		for i := 1; i < end; i++ {
			if ch := s[i]; !digit(ch) && (ch|0x20 < 'a' || ch|0x20 > 'f') && ch != ':' && ch != '.' {
				return false
			}
		}
		if host, port = s[:end+1], s[end+1:]; port == "" {
			return true
		}
		if port[0] != ':' {
			return false
		}
		port = port[1:]
	} else {
		host, port, _ = strings.Cut(s, ":")
		for i := range len(host) {
			if !hostByte[host[i]] {
				return false
			}
		}
	}
	if host == "" {
		return false
	}
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && digit(port[0]) && n > 0 && len(port) <= 5
}

var hostByte = func() (t [256]bool) {
	for ch := '0'; ch <= '9'; ch++ {
		t[ch] = true
	}
	for ch := 'a'; ch <= 'z'; ch++ {
		t[ch], t[ch-'a'+'A'] = true, true
	}
	for _, ch := range "-._~" {
		t[ch] = true
	}
	return t
}()
