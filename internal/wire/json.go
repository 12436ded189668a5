package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// ValidJSON reports whether b is one JSON value (RFC 8259) in UTF-8 that nests at
// most so deep: a scalar has depth 0. It takes nothing that [encoding/json.Valid]
// refuses, says the same several times faster, and does not say why.
func ValidJSON(b []byte, depth int) bool {
	c := jsonCheck{b: b}
	c.space()
	if !c.value(depth) {
		return false
	}
	c.space()
	return c.at == len(b) && (!c.beyond || utf8.Valid(b))
}

// jsonCheck is a position in what is checked.
type jsonCheck struct {
	b      []byte
	at     int
	beyond bool // a string holds more than ASCII
}

func (c *jsonCheck) space() {
	for c.at < len(c.b) {
		switch c.b[c.at] {
		case ' ', '\t', '\n', '\r':
			c.at++
		default:
			return
		}
	}
}

// next goes over a byte if that is the one that comes.
func (c *jsonCheck) next(want byte) bool {
	if c.at < len(c.b) && c.b[c.at] == want {
		c.at++
		return true
	}
	return false
}

// value goes over a value that may nest so deep.
func (c *jsonCheck) value(depth int) bool {
	if c.at >= len(c.b) {
		return false
	}
	switch ch := c.b[c.at]; ch {
	case '"':
		return c.text()
	case '{':
		return depth > 0 && c.members('}', depth-1, true)
	case '[':
		return depth > 0 && c.members(']', depth-1, false)
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		return c.number()
	}
}

// members goes over an object or a list.
func (c *jsonCheck) members(end byte, depth int, named bool) bool {
	c.at++
	c.space()
	if c.next(end) {
		return true
	}
	for {
		if named {
			if c.at >= len(c.b) || c.b[c.at] != '"' || !c.text() {
				return false
			}
			c.space()
			if !c.next(':') {
				return false
			}
			c.space()
		}
		if !c.value(depth) {
			return false
		}
		c.space()
		if c.next(end) {
			return true
		}
		if !c.next(',') {
			return false
		}
		c.space()
	}
}

func (c *jsonCheck) word(w string) bool {
	if len(c.b)-c.at < len(w) || string(c.b[c.at:c.at+len(w)]) != w {
		return false
	}
	c.at += len(w)
	return true
}

// text goes over a string.
func (c *jsonCheck) text() bool {
	b := c.b
	for i := c.at + 1; i < len(b); i++ {
		for len(b)-i >= 8 && allPlain(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
		}
		if i == len(b) {
			return false
		}
		if jsonPlain[b[i]] {
			continue
		}
		switch ch := b[i]; {
		case ch == '"':
			c.at = i + 1
			return true
		case ch >= utf8.RuneSelf:
			c.beyond = true
		case ch != '\\':
			return false // a control character
		default:
			if i++; i >= len(b) {
				return false
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if len(b)-i <= 4 || !hexDigits(b[i+1:i+5]) {
					return false
				}
				i += 4
			default:
				return false
			}
		}
	}
	return false
}

// allPlain reports whether eight bytes are all in jsonPlain. It may say no for some
// that are.
func allPlain(x uint64) bool {
	const (
		ones, highs = 0x0101010101010101, 0x8080808080808080
		quotes      = '"' * ones
		backslashes = '\\' * ones
	)
	quote, backslash := x^quotes, x^backslashes
	return (x|(x-' '*ones)|(quote-ones)&^quote|(backslash-ones)&^backslash)&highs == 0
}

// jsonPlain are the bytes that stand for themselves in a string, those beyond ASCII
// apart.
var jsonPlain = func() (t [256]bool) {
	for ch := ' '; ch < utf8.RuneSelf; ch++ {
		t[ch] = ch != '"' && ch != '\\'
	}
	return t
}()

func hexDigits(b []byte) bool {
	for _, ch := range b {
		if (ch < '0' || ch > '9') && (ch|0x20 < 'a' || ch|0x20 > 'f') {
			return false
		}
	}
	return true
}

// number goes over a number.
func (c *jsonCheck) number() bool {
	c.next('-')
	if !c.next('0') && !c.digits() {
		return false
	}
	if c.next('.') && !c.digits() {
		return false
	}
	if c.next('e') || c.next('E') {
		if !c.next('+') {
			c.next('-')
		}
		return c.digits()
	}
	return true
}

// digits goes over one digit or more.
func (c *jsonCheck) digits() bool {
	begin := c.at
	for c.at < len(c.b) && '0' <= c.b[c.at] && c.b[c.at] <= '9' {
		c.at++
	}
	return c.at > begin
}
