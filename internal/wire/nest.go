package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// ErrNestReply is returned for what is not a reply of a NestJS microservice.
var ErrNestReply = errors.New("reply is not a NestJS envelope")

// NestReply is one reply of a NestJS microservice. A stream is several replies, of
// which the last is Disposed. Its slices point into what was parsed.
type NestReply struct {
	Response    json.RawMessage // the value, only with HasResponse; may be null
	HasResponse bool            // false: the handler gave undefined
	Err         json.RawMessage // what the handler threw, nil without error
	Disposed    bool            // no more replies follow
	ID          string          // of the request; as JSON if it is not a string
}

// AppendNestRequest appends the request that a NestJS client would send. pattern is
// a JSON string or object, see [NestPattern]. data must be valid JSON (see
// [json.Valid]), since anything else ends a NestJS process; it is copied as it is,
// and no data means null. Without id the request is an event, which nobody answers.
func AppendNestRequest(dst []byte, pattern json.RawMessage, data []byte, id string) []byte {
	if len(data) == 0 {
		data = []byte("null")
	}
	dst = slices.Grow(dst, len(pattern)+len(data)+len(id)+32)
	dst = append(dst, `{"pattern":`...)
	dst = append(dst, pattern...)
	dst = append(dst, `,"data":`...)
	dst = append(dst, data...)
	if id != "" {
		dst = append(dst, `,"id":`...)
		dst = AppendString(dst, id)
	}
	return append(dst, '}')
}

// AppendString appends s, which must be UTF-8, as a JSON string. What needs no
// escape is copied as it is.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			q, _ := json.Marshal(s) // a string always has a JSON form
			return append(dst, q...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// ParseNestReply reads a reply. Anything but a JSON object with at least one of
// response, err and isDisposed is [ErrNestReply]. As for a NestJS client, an err
// that is null, false, 0 or "" is no error, keys are told apart by case, and of a
// repeated key the last counts.
func ParseNestReply(b []byte) (NestReply, error) {
	if !json.Valid(b) {
		return NestReply{}, ErrNestReply
	}
	b = bytes.TrimLeft(b, " \t\r\n")
	if b[0] != '{' {
		return NestReply{}, ErrNestReply
	}
	var r NestReply
	known := false
	members(b, func(key, value []byte) {
		switch string(key) {
		case `"response"`:
			r.Response, r.HasResponse, known = value, true, true
		case `"err"`:
			r.Err, known = value, true
			switch string(value) {
			case "null", "false", `""`, "0":
				r.Err = nil
			}
		case `"isDisposed"`:
			r.Disposed, known = string(value) == "true", true
		case `"id"`:
			r.ID = string(value)
			if value[0] == '"' {
				r.ID = unquote(value)
			}
		}
	})
	if !known {
		return NestReply{}, ErrNestReply
	}
	return r, nil
}

// members calls f for each member of an object, which must be valid JSON and start
// with its brace. Keys come in quotes; one with escapes is spelt without them.
func members(b []byte, f func(key, value []byte)) {
	i := space(b, 1)
	for b[i] != '}' {
		end := skip(b, i)
		key := b[i:end]
		if bytes.IndexByte(key, '\\') >= 0 {
			key = AppendString(nil, unquote(key))
		}
		i = space(b, end) // at the colon
		i = space(b, i+1)
		end = skip(b, i)
		f(key, b[i:end:end])
		if i = space(b, end); b[i] == ',' {
			i = space(b, i+1)
		}
	}
}

// space returns the place of the first byte from i on that is not white space.
func space(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r' {
		i++
	}
	return i
}

// skip returns the place after the value that starts at i.
func skip(b []byte, i int) int {
	depth := 0
	for {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',', ':', ' ', '\t', '\r', '\n':
		default: // a number or a word
			for strings.IndexByte(",]} \t\r\n", b[i+1]) < 0 {
				i++
			}
		}
		i++
		if depth == 0 {
			return i
		}
	}
}

func unquote(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b[1 : len(b)-1])
	}
	var s string
	_ = json.Unmarshal(b, &s) // it is a valid JSON string
	return s
}

// NestPattern returns the subject on which NestJS listens for a pattern, and the
// pattern as it stands in the request. v is a string, which is its own subject, or
// a map with string keys (as from JSON or YAML), which becomes JSON without spaces
// and with its keys sorted as NestJS sorts them, at every depth.
//
// Errors: a value that NestJS cannot name without escapes or that is no subject
// (white space, quotes, backslashes, empty tokens), and keys that are not ASCII.
// Wildcards are allowed, since services listen with them.
func NestPattern(v any) (subject string, pattern json.RawMessage, err error) {
	if s, ok := v.(string); ok {
		if err := checkSubject(s); err != nil {
			return "", nil, fmt.Errorf("read pattern %q: %w", s, err)
		}
		return s, AppendString(nil, s), nil
	}
	m, ok := stringMap(v)
	if !ok {
		return "", nil, fmt.Errorf("read pattern: must be a string or a map, is %T", v)
	}
	var b []byte
	if b, err = appendPattern(b, m, 0); err != nil {
		return "", nil, fmt.Errorf("read pattern: %w", err)
	}
	subject = string(b)
	if err := checkSubject(subject); err != nil {
		return "", nil, fmt.Errorf("read pattern %s: %w", subject, err)
	}
	return subject, b, nil
}

func checkSubject(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return errors.New("must not hold white space or control characters")
		}
	}
	if s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return errors.New("must not hold empty tokens")
	}
	return nil
}

// stringMap accepts any map whose keys are strings.
func stringMap(v any) (map[string]any, bool) {
	if m, ok := v.(map[string]any); ok {
		return m, true
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Map {
		return nil, false
	}
	m := make(map[string]any, rv.Len())
	for it := rv.MapRange(); it.Next(); {
		k := it.Key()
		if k.Kind() == reflect.Interface {
			k = k.Elem()
		}
		if k.Kind() != reflect.String {
			return nil, false
		}
		m[k.String()] = it.Value().Interface()
	}
	return m, true
}

const maxPatternDepth = 32

func appendPattern(b []byte, m map[string]any, depth int) ([]byte, error) {
	if depth > maxPatternDepth {
		return nil, fmt.Errorf("must not be deeper than %d", maxPatternDepth)
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		for i := range len(k) {
			if k[i] >= 0x80 {
				return nil, fmt.Errorf("key %q must be ASCII", k)
			}
		}
		if err := checkName(k); err != nil {
			return nil, fmt.Errorf("key %q %w", k, err)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, localeCompare)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, k...)
		b = append(b, '"', ':')
		switch v := m[k].(type) {
		case string:
			if err := checkName(v); err != nil {
				return nil, fmt.Errorf("value of %q %w", k, err)
			}
			b = append(b, '"')
			b = append(b, v...)
			b = append(b, '"')
		case nil:
			b = append(b, "null"...)
		case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, json.Number:
			n, err := json.Marshal(v) // numbers as ECMAScript writes them
			if err != nil {
				return nil, fmt.Errorf("value of %q: %w", k, err)
			}
			b = append(b, n...)
		default:
			inner, ok := stringMap(v)
			if !ok {
				return nil, fmt.Errorf("value of %q must be a string, a number, true, false, null or a map, is %T", k, v)
			}
			var err error
			if b, err = appendPattern(b, inner, depth+1); err != nil {
				return nil, err
			}
		}
	}
	return append(b, '}'), nil
}

// checkName refuses what NestJS, which escapes nothing, would make into no JSON or
// no subject.
func checkName(s string) error {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '"' || s[i] == '\\' {
			return errors.New("must not hold white space, control characters, quotes or backslashes")
		}
	}
	return nil
}

// collation is the order of ASCII in CLDR's root collation, which is that of
// ECMAScript's localeCompare, without the letters' case.
const collation = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz"

// localeCompare orders ASCII strings as ECMAScript does: first without regard to
// case, then small letters before capitals at the first difference.
func localeCompare(a, b string) int {
	tie := 0
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		x, y := lower(a[i]), lower(b[i])
		if x != y {
			return strings.IndexByte(collation, x) - strings.IndexByte(collation, y)
		}
		if tie == 0 {
			tie = int(b[i]) - int(a[i]) // a small letter has the larger code
		}
	}
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return tie
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
