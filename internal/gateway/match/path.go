package match

import (
	"strconv"
	"strings"
)

// SafePath reports whether an escaped path means the same to everyone who reads
// it. A service may decode a path once more than the gateway does, take a
// backslash or %2F for a slash, cut off parameters after a semicolon, and clean
// the result; after that /public/..%2fadmin is no longer under /public/, and
// /secure%2fx is under /secure/. Paths in which any such reading finds a dot
// segment, another slash or a control character, and paths with empty segments
// inside, are therefore not routed at all.
func SafePath(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	start := 1
	for i := 1; ; i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		text := path[start:i]
		if text == "" {
			return i == len(path) // a final slash, or //
		}
		if !safeSegment(text) {
			return false
		}
		if i == len(path) {
			return true
		}
		start = i + 1
	}
}

// decodings is how often a segment is decoded in search of a dot segment: more
// often than any known chain of programs does.
const decodings = 3

func safeSegment(text string) bool {
	plain := true
	for i := range len(text) {
		switch c := text[i]; {
		case c < 0x20 || c == 0x7f || c == '\\':
			return false
		case c == '%' || c == ';' || c == '.' && i == 0:
			plain = false
		}
	}
	if plain {
		return true
	}
	if dotted(text) {
		return false
	}
	for range decodings {
		if strings.IndexByte(text, '%') < 0 {
			break
		}
		text = unescape(text)
		if dotted(text) || strings.ContainsFunc(text, separates) {
			return false
		}
	}
	return true
}

// unescape decodes the escapes in a text. A percent sign that begins none stands for
// itself, as many programs take it; the others refuse the path.
func unescape(text string) string {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if b, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(b))
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	return string(out)
}

// separates tells the characters that must not come out of a decoded segment:
// slashes of either kind and control characters.
func separates(c rune) bool { return c == '/' || c == '\\' || c < 0x20 || c == 0x7f }

// SafeQuery reports whether a query can stand in the first line of a request of
// HTTP/1.1: nothing in it ends the target or begins a fragment. HTTP/2 and HTTP/3
// can carry such bytes, since they do not frame by them.
func SafeQuery(query string) bool {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// WithoutParameters returns a [SafePath] as those services read it that take what
// follows a semicolon in a segment for its parameters (RFC 3986, 3.3), and skip
// segments that are empty then: /admin for /;a/admin;b. Semicolons count however
// often they are escaped. A path without any is returned as it is.
func WithoutParameters(path string) string {
	if parameters(path) < 0 {
		return path
	}
	out := make([]byte, 0, len(path))
	last := ""
	for last = range strings.SplitSeq(path[1:], "/") {
		if i := parameters(last); i >= 0 {
			last = last[:i]
		}
		if last != "" {
			out = append(append(out, '/'), last...)
		}
	}
	if last == "" {
		out = append(out, '/')
	}
	return string(out)
}

// parameters returns where the first semicolon is, escaped or not, -1 for none.
func parameters(text string) int {
	for i := range len(text) {
		switch text[i] {
		case ';':
			return i
		case '%':
			rest := text[i+1:]
			for strings.HasPrefix(rest, "25") {
				rest = rest[2:]
			}
			if len(rest) >= 2 && rest[0] == '3' && rest[1]|0x20 == 'b' {
				return i
			}
		}
	}
	return -1
}

// SafeMethod reports whether everyone takes the method for the same one. Methods
// are told apart by case, but some services raise them to capitals before they
// look.
func SafeMethod(method string) bool {
	for i := range len(method) {
		if c := method[i]; 'a' <= c && c <= 'z' {
			return false
		}
	}
	return true
}

// SafeHost reports whether a Host header holds nothing but what names, addresses
// and ports are made of. net/http is content with less when the request's target
// is a whole URL.
func SafeHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return true
}

// dotted reports whether text, cut at slashes of either kind and rid of
// parameters, has a dot segment.
func dotted(text string) bool {
	for {
		i := strings.IndexAny(text, `/\`)
		part := text
		if i >= 0 {
			part = text[:i]
		}
		if j := strings.IndexByte(part, ';'); j >= 0 {
			part = part[:j]
		}
		if part == "." || part == ".." {
			return true
		}
		if i < 0 {
			return false
		}
		text = text[i+1:]
	}
}
