package system

import (
	"errors"
	"strings"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
)

// subject reads a subject that is granted, as a text or as JSON text of a NestJS
// pattern. dollar allows those of NATS's discovery of services.
func (r *reader) subject(n *document.Node, dollar bool) (string, bool) {
	s, c, args := grantable(n.Text, dollar)
	if c != "" {
		r.rec.add(n.At, n.Path, c, args...)
		return "", false
	}
	return s, true
}

// ParseGrant reads a subject that somebody is granted on the bus: what the file accepts
// under publishes and subscribes and, with asks, under asks. A NestJS pattern is
// returned in its canonical form. The error says what is wrong and what to do.
func ParseGrant(s string, asks bool) (string, error) {
	s, c, args := grantable(s, asks)
	if c != "" {
		words := problems[c]
		return "", errors.New(fill(words.problem, args) + "; " + fill(words.advice, args))
	}
	return s, nil
}

// grantable returns a subject that can be granted, or why it cannot.
func grantable(s string, dollar bool) (canonical string, c code, args []any) {
	if strings.HasPrefix(s, "{") {
		canonical, err := notation.NestText(s)
		if err != nil {
			return "", badPattern, []any{err}
		}
		return canonical, "", nil
	}
	if err := notation.CheckSubject(s, true); err != nil {
		return "", badSubject, []any{err}
	}
	switch {
	case s[0] == '*' || s[0] == '>':
		return "", wideSubject, nil
	case s[0] == '_':
		return "", closedSubject, []any{s[:1], "inboxes are granted by themselves: begin with a word of your own"}
	case s[0] == '$' && (!dollar || !strings.HasPrefix(s, "$SRV.")):
		return "", closedSubject, []any{s[:1], "begin with a word of your own"}
	}
	return s, "", nil
}
