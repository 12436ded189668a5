package certs

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// escape spells a key of a storage so that it can be a path below a folder, and part
// of a key in a bucket: a byte that is not a letter, a digit, or one of "-_/." is
// written as =XX, and so is a dot at the edge of a component or after another dot,
// and a slash at the edge of the key or after another slash.
func escape(key string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(key) {
		if c := key[i]; plain(key, i) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'=', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

func plain(key string, i int) bool {
	const edge = '/'
	before, after := byte(edge), byte(edge)
	if i > 0 {
		before = key[i-1]
	}
	if i+1 < len(key) {
		after = key[i+1]
	}
	switch c := key[i]; {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		return true
	case c == '.':
		return before != edge && before != '.' && after != edge
	case c == '/':
		return before != edge && i+1 < len(key)
	default:
		return false
	}
}

// unescape is the inverse of escape. It refuses what escape does not write.
func unescape(escaped string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '=' {
			b.WriteByte(escaped[i])
			continue
		}
		if i+2 >= len(escaped) {
			return "", fmt.Errorf("read key %q: ends in an escape", escaped)
		}
		c, err := hex.DecodeString(escaped[i+1 : i+3])
		if err != nil {
			return "", fmt.Errorf("read key %q: %w", escaped, err)
		}
		b.Write(c)
		i += 2
	}
	key := b.String()
	if key == "" || escape(key) != escaped {
		return "", fmt.Errorf("read key %q: is spelled otherwise", escaped)
	}
	return key, nil
}
