package hop

import "net/textproto"

// Field is one line of a head, its name in canonical form.
type Field struct{ Name, Value string }

// Canonical returns a header's name as net/http spells it, "" if it is not a token.
func Canonical(name string) string {
	upper, right := true, true
	for i := range len(name) {
		c := name[i]
		if !TokenByte(c) {
			return ""
		}
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			right = false
		}
		upper = c == '-'
	}
	if right {
		return name
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// Token reports whether s is a token of RFC 9110, 5.6.2.
func Token(s string) bool {
	for i := range len(s) {
		if !TokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// TokenByte reports whether tokens may hold c.
func TokenByte(c byte) bool { return tokenByte[c] }

// tokenByte holds the characters of RFC 9110's token.
var tokenByte = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// CleanValue reports whether a header's value has no control character but tabs.
func CleanValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// AppendField appends a line of a head. Name and value have been looked at before.
func AppendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}
