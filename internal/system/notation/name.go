package notation

import "strings"

// NameRule says what [IsName] accepts.
const NameRule = "a name of small letters, digits and dashes that begins with a letter, at most 63"

// IsName reports whether s is a name of a system, service, database or environment.
func IsName(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// SuggestName makes a plain name of s, "" if there is none in it.
func SuggestName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '_' || r == ' ' || r == '.':
			return '-'
		}
		return -1
	}, s)
	s = strings.TrimLeft(s, "-0123456789")
	s = strings.TrimRight(s[:min(len(s), 63)], "-")
	if !IsName(s) {
		return ""
	}
	return s
}

// IsVariable reports whether s can be the name of an environment variable.
func IsVariable(s string) bool {
	if s == "" || len(s) > 128 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// IsWord reports whether s holds only letters, digits and the signs in extra, and is
// 1 to 64 long.
func IsWord(s, extra string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return true
}
