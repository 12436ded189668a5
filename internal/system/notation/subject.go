package notation

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode"

	"fairlead/internal/system/wording"
)

// The bounds of a subject, and of the NestJS pattern that it is made of.
const (
	maxSubject = 256 // bytes
	maxNested  = 32  // maps within each other
)

// CheckSubject returns why s is no subject of the bus, nil if it is one. Wildcards are
// those of NATS: * for one token, a last > for one or more.
func CheckSubject(s string, wildcards bool) error {
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

// SubjectCovers reports whether all subjects that match b match a.
func SubjectCovers(a, b string) bool {
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

// SubjectsShared returns the pattern of the subjects that both patterns match, "" if
// there are none.
func SubjectsShared(a, b string) string {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	var out []string
	for i := 0; ; i++ {
		switch {
		case i == len(x) && i == len(y):
			return strings.Join(out, ".")
		case i == len(x) || i == len(y):
			return ""
		case x[i] == ">":
			return strings.Join(append(out, y[i:]...), ".")
		case y[i] == ">":
			return strings.Join(append(out, x[i:]...), ".")
		case x[i] == "*":
			out = append(out, y[i])
		case y[i] == "*" || x[i] == y[i]:
			out = append(out, x[i])
		default:
			return ""
		}
	}
}

// SubjectTemplate is the pattern of all subjects that a route's request may go to: each
// {name} becomes *. names are those names.
func SubjectTemplate(subject string) (pattern string, names []string) {
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

// NestText reads a NestJS pattern that stands as JSON text and returns its canonical
// form.
func NestText(s string) (string, error) {
	var v map[string]any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return "", errors.New("it is not a JSON object")
	}
	return NestPattern(v)
}

// NestPattern returns the subject on which NestJS listens for an object pattern:
// JSON without spaces and escapes, its keys in the order of ECMAScript's
// localeCompare.
func NestPattern(v map[string]any) (string, error) {
	if len(v) == 0 {
		return "", errors.New("it is empty")
	}
	var b bytes.Buffer
	if err := writePattern(&b, v, 0); err != nil {
		return "", err
	}
	if err := CheckSubject(b.String(), true); err != nil {
		return "", err
	}
	return b.String(), nil
}

func writePattern(b *bytes.Buffer, v any, depth int) error {
	if depth > maxNested {
		return errors.New("it is nested too deep")
	}
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			if !IsWord(k, "_-") {
				return errors.New("the key " + wording.Quote(k) + " is no plain word")
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
			return errors.New("the value " + wording.Quote(v) + " is no plain word")
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
