package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"fairlead/internal/system/notation"
)

const (
	subjectBytes = 256
	// mostSubjects is how many subjects one client may name.
	mostSubjects = 16
)

// Error is why a client is not let in. Its text is public.
type Error struct {
	Status int // 400 or 403
	Public string
}

// Error returns the public text.
func (e *Error) Error() string { return e.Public }

// Template is the subject of a route: it may hold wildcards, and in its tokens {name}
// for a value of the path and {claim:name} for one of the user.
type Template struct {
	parts []part
	wide  string
}

// part is a text, or the name of what stands there.
type part struct {
	text, name string
	claim      bool
}

// Parse reads a template; known tells the names of the path's values.
func Parse(s string, known func(name string) bool) (*Template, error) {
	t := &Template{}
	var sample strings.Builder // a NUL for each value
	for rest := s; rest != ""; {
		text, after, open := strings.Cut(rest, "{")
		if text != "" {
			t.parts = append(t.parts, part{text: text})
			sample.WriteString(text)
		}
		if !open {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		claim, isClaim := strings.CutPrefix(name, "claim:")
		switch {
		case !closed || name == "" || isClaim && claim == "":
			return nil, fmt.Errorf("read subject %q: has a { without {name}", s)
		case isClaim:
			name = claim
		case !known(name):
			return nil, fmt.Errorf("read subject %q: the path has no {%s}", s, name)
		}
		t.parts = append(t.parts, part{name: name, claim: isClaim})
		sample.WriteByte(0)
		rest = tail
	}
	tokens := strings.Split(sample.String(), ".")
	for i, token := range tokens {
		if strings.Contains(token, "\x00") {
			tokens[i] = "*"
			token = strings.ReplaceAll(token, "\x00", "x")
		}
		if err := checkToken(token, i == len(tokens)-1); err != nil {
			return nil, fmt.Errorf("read subject %q: it %w", s, err)
		}
	}
	t.wide = strings.Join(tokens, ".")
	if reserved(t.wide) || len(s) > subjectBytes {
		return nil, fmt.Errorf("read subject %q: must not begin with $ or _, nor be longer than %d", s, subjectBytes)
	}
	return t, nil
}

// Wide is the pattern of all that the template can become.
func (t *Template) Wide() string { return t.wide }

// Fill returns the pattern for a client. It returns an [*Error] if a value is missing
// or cannot be part of one token.
func (t *Template) Fill(path func(name string) string, claim func(name string) any) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		switch {
		case p.name == "":
			b.WriteString(p.text)
		case p.claim:
			v, ok := claimText(claim(p.name))
			if !ok || checkValue(v) != nil {
				return "", &Error{http.StatusForbidden, "nothing here is open to you: your " + p.name + " names no subject"}
			}
			b.WriteString(v)
		default:
			v := path(p.name)
			if err := checkValue(v); err != nil {
				return "", &Error{http.StatusBadRequest, p.name + " in the path " + err.Error()}
			}
			b.WriteString(v)
		}
	}
	if s := b.String(); len(s) <= subjectBytes && !reserved(s) {
		return s, nil
	}
	return "", &Error{http.StatusBadRequest, "this names no subject"}
}

// claimText is a claim as text; only texts and whole numbers are.
func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case float64:
		if v == float64(int64(v)) {
			return strconv.FormatInt(int64(v), 10), true
		}
	}
	return "", false
}

// Narrow returns the patterns of what the client asks for within what it may have:
// all of that if it asks for nothing in particular.
func Narrow(allowed string, asked []string) ([]string, error) {
	if len(asked) == 0 {
		return []string{allowed}, nil
	}
	if len(asked) > mostSubjects {
		return nil, &Error{http.StatusBadRequest, fmt.Sprintf("at most %d subjects can be asked for at once", mostSubjects)}
	}
	var out []string
	for _, want := range asked {
		if err := checkPattern(want); err != nil {
			return nil, &Error{http.StatusBadRequest, "a subject " + err.Error()}
		}
		both := notation.SubjectsShared(allowed, want)
		if both == "" {
			return nil, &Error{http.StatusForbidden, "a subject that is asked for is not open here"}
		}
		out = append(out, both)
	}
	return out, nil
}

// reserved reports whether a subject belongs to the server, to fairlead or to inboxes.
func reserved(subject string) bool {
	return subject == "" || subject[0] == '$' || subject[0] == '_'
}

func checkPattern(s string) error {
	if len(s) > subjectBytes || reserved(s) {
		return errors.New("must have 1 to 256 characters and not begin with $ or _")
	}
	tokens := strings.Split(s, ".")
	for i, t := range tokens {
		if err := checkToken(t, i == len(tokens)-1); err != nil {
			return err
		}
	}
	return nil
}

func checkToken(s string, last bool) error {
	if s == "*" || s == ">" && last {
		return nil
	}
	return checkValue(s)
}

// checkValue says why a text cannot be one token or a part of one.
func checkValue(s string) error {
	if s == "" || len(s) > subjectBytes || !utf8.ValidString(s) {
		return errors.New("must be a short text")
	}
	for _, c := range s {
		if c == '.' || c == '*' || c == '>' || unicode.IsSpace(c) || !unicode.IsGraphic(c) {
			return errors.New("must not hold dots, wildcards, white space or control characters")
		}
	}
	return nil
}

// matches reports whether a subject is one of a pattern's.
func matches(pattern, subject string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		if p == ">" {
			return true
		}
		s, restS, moreS := strings.Cut(subject, ".")
		if p != s && p != "*" || moreP != moreS {
			return false
		}
		if !moreP {
			return true
		}
		pattern, subject = restP, restS
	}
}
