package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode"

	"fairlead/internal/system/document"
)

const maxSubject = 256

// checkSubject returns why s is no subject, nil if it is one.
func checkSubject(s string, wildcards bool) error {
	if s == "" {
		return errors.New("it is empty")
	}
	if len(s) > maxSubject {
		return errors.New("it is longer than 256")
	}
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			return errors.New("it holds white space or a control character")
		}
	}
	tokens := strings.Split(s, ".")
	for i, t := range tokens {
		switch {
		case t == "":
			return errors.New("it has an empty token")
		case t == "*" || t == ">":
			if !wildcards {
				return errors.New("it has a wildcard, where one subject is meant")
			}
			if t == ">" && i != len(tokens)-1 {
				return errors.New("> is not its last token")
			}
		}
	}
	return nil
}

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
		canonical, err := nestText(s)
		if err != nil {
			return "", badPattern, []any{err}
		}
		return canonical, "", nil
	}
	if err := checkSubject(s, true); err != nil {
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

// subjectCovers reports whether all subjects that match b match a.
func subjectCovers(a, b string) bool {
	for {
		at, restA, moreA := strings.Cut(a, ".")
		bt, restB, moreB := strings.Cut(b, ".")
		switch {
		case at == ">":
			return true
		case bt == ">" || at != bt && at != "*":
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// SubjectsMeet reports whether some subject matches both patterns, in which * stands for
// one token and a last > for one or more. What matches must be valid.
func SubjectsMeet(a, b string) bool {
	for {
		at, restA, moreA := strings.Cut(a, ".")
		bt, restB, moreB := strings.Cut(b, ".")
		switch {
		case at == ">" || bt == ">":
			return true
		case at != bt && at != "*" && bt != "*":
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// template is the pattern of all subjects that a route's request may go to: each
// {name} becomes *. names are those names.
func template(subject string) (pattern string, names []string) {
	if strings.HasPrefix(subject, "{\"") {
		return subject, nil
	}
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if name, ok := strings.CutPrefix(t, "{"); ok && strings.HasSuffix(name, "}") {
			names = append(names, strings.TrimSuffix(name, "}"))
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, "."), names
}

// nestText reads a NestJS pattern that stands as JSON text and returns its canonical
// form.
func nestText(s string) (string, error) {
	var v map[string]any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return "", errors.New("it is not a JSON object")
	}
	return nestPattern(v)
}

// nestPattern returns the subject on which NestJS listens for an object pattern:
// JSON without spaces and escapes, its keys in the order of ECMAScript's
// localeCompare.
func nestPattern(v map[string]any) (string, error) {
	if len(v) == 0 {
		return "", errors.New("it is empty")
	}
	var b bytes.Buffer
	if err := writePattern(&b, v, 0); err != nil {
		return "", err
	}
	if err := checkSubject(b.String(), true); err != nil {
		return "", err
	}
	return b.String(), nil
}

func writePattern(b *bytes.Buffer, v any, depth int) error {
	if depth > document.MaxDepth {
		return errors.New("it is nested too deep")
	}
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			if !wordOf(k, "_-") {
				return errors.New("the key " + quote(k) + " is no plain word")
			}
			keys = append(keys, k)
		}
		slices.SortFunc(keys, compareKeys)
		b.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"` + k + `":`)
			if err := writePattern(b, v[k], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case string:
		if v == "" || strings.ContainsAny(v, "\"\\{}") {
			return errors.New("the value " + quote(v) + " is no plain word")
		}
		b.WriteString(`"` + v + `"`)
	case int64:
		// ECMAScript knows no other numbers.
		return writePattern(b, float64(v), depth)
	case float64, bool:
		text, err := json.Marshal(v)
		if err != nil {
			return errors.New("a number cannot be written")
		}
		b.Write(text)
	case nil:
		b.WriteString("null")
	default:
		return errors.New("it holds a list")
	}
	return nil
}

// compareKeys orders words of letters, digits, _ and - as localeCompare does: signs,
// digits, letters without regard to case, then small letters before capitals.
func compareKeys(a, b string) int {
	rank := func(s string) []byte {
		r := make([]byte, len(s))
		for i := range len(s) {
			switch c := s[i]; {
			case c == '_':
				r[i] = 1
			case c == '-':
				r[i] = 2
			case c >= 'A' && c <= 'Z':
				r[i] = c + 'a' - 'A'
			default:
				r[i] = c
			}
		}
		return r
	}
	if c := bytes.Compare(rank(a), rank(b)); c != 0 {
		return c
	}
	return strings.Compare(b, a)
}
