package bus

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Answered reports whether every message on subject also matches pattern, by
// NATS's rules: tokens are separated by dots, `*` stands for exactly one token
// and a last `>` for one or more. The subject may be a pattern itself; it is
// then answered only if the whole of what it stands for is: "a.>" answers "a.*",
// "a.*" does not answer "a.>".
//
// Neither is checked for validity; an empty pattern or subject is answered by
// nothing and answers nothing.
func Answered(pattern, subject string) bool {
	if pattern == "" || subject == "" {
		return false
	}
	for {
		p, pRest, pMore := strings.Cut(pattern, ".")
		s, sRest, sMore := strings.Cut(subject, ".")
		switch {
		case p == ">" && !pMore:
			return true
		case s == ">" && !sMore:
			return false
		case p != "*" && p != s:
			return false
		case pMore != sMore:
			return false
		case !pMore:
			return true
		}
		pattern, subject = pRest, sRest
	}
}

// Overlap reports whether there is a subject that both patterns match. Neither is
// checked for validity; an empty one overlaps nothing.
func Overlap(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	for {
		x, aRest, aMore := strings.Cut(a, ".")
		y, bRest, bMore := strings.Cut(b, ".")
		switch {
		case x == ">" && !aMore, y == ">" && !bMore:
			return true
		case x != y && x != "*" && y != "*":
			return false
		case aMore != bMore:
			return false
		case !aMore:
			return true
		}
		a, b = aRest, bRest
	}
}

// overlapAny reports whether some pattern of a overlaps some pattern of b.
func overlapAny(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if Overlap(x, y) {
				return true
			}
		}
	}
	return false
}

// answeredByAny reports whether one of the patterns answers the whole subject.
func answeredByAny(patterns []string, subject string) bool {
	for _, p := range patterns {
		if Answered(p, subject) {
			return true
		}
	}
	return false
}

// checkSubject refuses what must never become a permission. The server splits a
// permission at white space into subject and group, and a subject whose first
// token is a wildcard would cover everyone's inboxes. The system package refuses
// the same with a position in the file; this is the last line, which does not
// depend on it.
func checkSubject(subject string, dollar bool) error {
	if subject == "" {
		return errors.New("subject is empty")
	}
	if i := strings.IndexFunc(subject, unsafeRune); i >= 0 {
		return fmt.Errorf("subject %q holds white space or a control character", subject)
	}
	first, _, _ := strings.Cut(subject, ".")
	switch {
	case first == "*" || first == ">":
		return fmt.Errorf("subject %q begins with a wildcard, which would cover every inbox", subject)
	case strings.HasPrefix(first, "_"):
		return fmt.Errorf("subject %q begins with _, which is reserved for inboxes", subject)
	case strings.HasPrefix(first, "$") && !dollar:
		return fmt.Errorf("subject %q begins with $, which is reserved for the server", subject)
	}
	for rest, more := subject, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		switch {
		case token == "":
			return fmt.Errorf("subject %q holds an empty token", subject)
		case token == ">" && more:
			return fmt.Errorf("subject %q holds > before its end", subject)
		}
	}
	return nil
}

// checkToken refuses a name that cannot be one literal token of a subject.
func checkToken(kind, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty", kind)
	}
	if strings.ContainsAny(name, ".*>") || strings.IndexFunc(name, unsafeRune) >= 0 {
		return fmt.Errorf("%s %q cannot be one token of a subject", kind, name)
	}
	return nil
}

func unsafeRune(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar
}
