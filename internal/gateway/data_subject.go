package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	subjectBytes = 1024 // longest subject of a request
	valueBytes   = 256  // longest path value in a subject
)

// inputError is why a request cannot be put on the bus. Its text is public.
type inputError struct {
	status int
	public string
}

func (e *inputError) Error() string { return e.public }

func badInput(format string, args ...any) *inputError {
	return &inputError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// subjectTemplate is the subject of a route with the places of its path values.
type subjectTemplate struct {
	parts []subjectPart
	bytes int // of the literal parts
}

// subjectPart is a literal text or, with name, the value of a wildcard of the path.
type subjectPart struct{ text, name string }

// parseSubject reads a subject in which {name} stands for the path value of that
// name; known reports which there are. Wildcards, white space, control characters
// and empty tokens are errors, as are subjects that start with $ or _, which
// belong to the bus and to inboxes.
func parseSubject(s string, known func(name string) bool) (*subjectTemplate, error) {
	if len(s) > subjectBytes {
		return nil, fmt.Errorf("read subject: must be at most %d bytes, is %d", subjectBytes, len(s))
	}
	t := &subjectTemplate{}
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

// fill returns the subject of a request. A path value that cannot be part of one
// token, so that it could lead the request to another subject, is an [inputError].
func (t *subjectTemplate) fill(vars pathValues) (string, error) {
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
		v, _ := vars.lookup(p.name)
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

// pathNames returns the names of the wildcards in a route's path.
func pathNames(path string) map[string]bool {
	names := make(map[string]bool)
	for rest := path; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return names
		}
		name, tail, ok := strings.Cut(after, "}")
		if !ok {
			return names
		}
		if name = strings.TrimSuffix(name, "..."); name != "" && name != "$" {
			names[name] = true
		}
		rest = tail
	}
}
