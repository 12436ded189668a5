package notation

import "strings"

// IsToken reports whether s is a token, as the names of headers and cookies are (RFC
// 9110, 5.6.2), of at most 256 characters.
func IsToken(s string) bool {
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

// IsHeaderValue reports whether s can be the value of a header (RFC 9110, 5.5), of at
// most 4,096 characters.
func IsHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(s) <= 4096 && strings.TrimSpace(s) == s
}
