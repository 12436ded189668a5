package data

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"fairlead/internal/gateway/match"
)

const (
	subjectBytes = 1024 // longest subject of a request
	valueBytes   = 256  // longest path value in a subject
)

// Subject is the subject of a route with the places of its path values.
type Subject struct {
	parts []subjectPart
	bytes int // of the literal parts
}

// subjectPart is a literal text or, with name, the value of a wildcard of the path.
type subjectPart struct{ text, name string }

// ParseSubject reads a subject in which {name} stands for the path value of that
// name; known reports which there are. Wildcards, white space, control characters
// and empty tokens are errors, as are subjects that start with $ or _, which
// belong to the bus and to inboxes.
func ParseSubject(s string, known func(name string) bool) (*Subject, error) {
	if len(s) > subjectBytes {
		return nil, fmt.Errorf("read subject: must be at most %d bytes, is %d", subjectBytes, len(s))
	}
	t := &Subject{}
	sample := make([]byte, 0, len(s)) // the subject with a letter for each value
	for rest := s; rest != ""; {
		text, after, open := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("read subject %q: has a } without {", s)
		}
		if text != "" {
			t.parts = append(t.parts, subjectPart{text: text})
			t.bytes += len(text)
			sample = append(sample, text...)
		}
		if !open {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed || name == "" {
			return nil, fmt.Errorf("read subject %q: has a { without {name}", s)
		}
		if !known(name) {
			return nil, fmt.Errorf("read subject %q: the path has no {%s}", s, name)
		}
		t.parts = append(t.parts, subjectPart{name: name})
		sample = append(sample, 'x')
		rest = tail
	}
	for token := range strings.SplitSeq(string(sample), ".") {
		if err := checkToken(token); err != nil {
			return nil, fmt.Errorf("read subject %q: %w", s, err)
		}
	}
	if reserved(s) {
		return nil, fmt.Errorf("read subject %q: must not start with $ or _", s)
	}
	return t, nil
}

// Fill returns the subject of a request. A path value that cannot be part of one
// token, so that it could lead the request to another subject, is an [*Error].
func (t *Subject) Fill(vars match.Values) (string, error) {
	if len(t.parts) == 1 && t.parts[0].name == "" {
		return t.parts[0].text, nil
	}
	var b strings.Builder
	b.Grow(t.bytes + 32)
	for _, p := range t.parts {
		if p.name == "" {
			b.WriteString(p.text)
			continue
		}
		v, _ := vars.Lookup(p.name)
		if len(v) > valueBytes {
			return "", badInput("%s in the path must be at most %d bytes", p.name, valueBytes)
		}
		if err := checkToken(v); err != nil {
			return "", badInput("%s in the path %s", p.name, err)
		}
		b.WriteString(v)
	}
	s := b.String()
	if len(s) > subjectBytes {
		return "", badInput("the values in the path are too long")
	}
	if reserved(s) {
		return "", badInput("the values in the path name no subject")
	}
	return s, nil
}

// reserved reports whether a subject belongs to the server ($SYS, $JS) or is an inbox.
func reserved(subject string) bool {
	return subject != "" && (subject[0] == '$' || subject[0] == '_')
}

// checkToken reports why s cannot be exactly one token of a subject, or a part of one.
func checkToken(s string) error {
	if s == "" {
		return tokenError("must not be empty")
	}
	if !utf8.ValidString(s) {
		return tokenError("must be UTF-8")
	}
	for _, c := range s {
		switch {
		case c == '.':
			return tokenError("must not hold a dot")
		case c == '*' || c == '>':
			return tokenError("must not hold a wildcard")
		case unicode.IsSpace(c) || !unicode.IsGraphic(c):
			return tokenError("must not hold white space or control characters")
		}
	}
	return nil
}

// tokenError is why a text cannot be a token, as a predicate of its name.
type tokenError string

func (e tokenError) Error() string { return string(e) }
