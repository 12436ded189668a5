package match

import (
	"net/url"
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
		decoded, err := url.PathUnescape(text)
		if err != nil {
			// What is not an escape after one decoding is just a percent sign.
			break
		}
		text = decoded
		if dotted(text) || strings.ContainsFunc(text, separates) {
			return false
		}
	}
	return true
}

// separates tells the characters that must not come out of a decoded segment:
// slashes of either kind and control characters.
func separates(c rune) bool { return c == '/' || c == '\\' || c < 0x20 || c == 0x7f }

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
