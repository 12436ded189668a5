// Package data makes the requests that go over the bus out of those that come over
// HTTP: the subject, and the data from the path, the query, the body and the user.
//
// What it makes is always one JSON value (RFC 8259) in UTF-8 of bounded depth, and
// a subject that no value of a request can lead elsewhere. It sends nothing, and
// knows nothing of the envelopes of services.
package data

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"fairlead/internal/gateway/match"
	"fairlead/internal/wire"
)

const (
	jsonDepth      = 128 // deepest nesting of a body
	queryMost      = 256 // most parameters of a query
	bodyFirstBytes = 4 << 10
)

// Inputs are the parts of a request that its data is made of.
type Inputs struct {
	Body  []byte // valid JSON, empty for none
	Query string // undecoded
	Path  match.Values
	User  *User // nil: anonymous

	values url.Values // of Query, once it was needed
}

// User is who a request comes from.
type User struct {
	Subject string
	Roles   []string
}

// Error is why a request cannot be put on the bus.
type Error struct {
	Status int    // for the client
	Public string // for the client too
}

func (e *Error) Error() string { return e.Public }

func badInput(format string, args ...any) *Error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// parsed returns the query's parameters.
func (in *Inputs) parsed() (url.Values, error) {
	if in.values != nil || in.Query == "" {
		return in.values, nil
	}
	if strings.Count(in.Query, "&") >= queryMost {
		return nil, badInput("the query must have at most %d parameters", queryMost)
	}
	values, err := url.ParseQuery(in.Query)
	if err != nil {
		return nil, badInput("the query cannot be read")
	}
	for name, list := range values {
		if !utf8.ValidString(name) || slices.ContainsFunc(list, func(v string) bool { return !utf8.ValidString(v) }) {
			return nil, badInput("the query must be UTF-8")
		}
	}
	in.values = values
	return values, nil
}

// AppendDefault appends what a request without a data template sends: the body, or
// without one an object of the query's parameters and the path's values, of which
// the path wins. All its values are strings; a parameter that repeats is a list.
func AppendDefault(dst []byte, in *Inputs) ([]byte, error) {
	if len(in.Body) > 0 {
		return append(dst, in.Body...), nil
	}
	return appendMerged(dst, in, true, true)
}

// appendMerged appends an object of the path's values, of the query's parameters,
// or of both.
func appendMerged(dst []byte, in *Inputs, path, query bool) ([]byte, error) {
	var values url.Values
	if query {
		var err error
		if values, err = in.parsed(); err != nil {
			return dst, err
		}
	}
	var vars match.Values
	if path {
		vars = in.Path
	}
	if len(values)+len(vars) == 0 {
		return append(dst, "{}"...), nil
	}
	names := make([]string, 0, len(values)+len(vars))
	for name := range values {
		if _, wins := vars.Lookup(name); !wins {
			names = append(names, name)
		}
	}
	for _, v := range vars {
		if !utf8.ValidString(v.Value) {
			return dst, badInput("%s in the path must be UTF-8", v.Name)
		}
		names = append(names, v.Name)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(wire.AppendString(dst, name), ':')
		if v, ok := vars.Lookup(name); ok {
			dst = wire.AppendString(dst, v)
		} else {
			dst = appendStrings(dst, values[name])
		}
	}
	return append(dst, '}'), nil
}

// appendStrings appends one string as it is, several as a list.
func appendStrings(dst []byte, list []string) []byte {
	if len(list) == 1 {
		return wire.AppendString(dst, list[0])
	}
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = wire.AppendString(dst, s)
	}
	return append(dst, ']')
}

// ErrTooLarge is a body beyond the limit.
var ErrTooLarge = errors.New("body too large")

// AppendBody appends the body of a request, which has at most limit bytes, else
// [ErrTooLarge] is returned. Other errors are the body's own.
func AppendBody(dst []byte, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return dst, nil
	}
	if r.ContentLength > limit {
		return dst, ErrTooLarge
	}
	start := len(dst)
	if r.ContentLength > 0 {
		dst = slices.Grow(dst, int(r.ContentLength)+1) // one more, to see the end
	}
	for {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, max(bodyFirstBytes, len(dst)))
		}
		n, err := r.Body.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if int64(len(dst)-start) > limit {
			return dst, ErrTooLarge
		}
		switch {
		case errors.Is(err, io.EOF):
			return dst, nil
		case err != nil:
			return dst, err
		}
	}
}

// CheckMedia refuses a body that is not declared as JSON by an [*Error]. No declaration will do,
// since the body itself is checked; a form, which a page of another origin may
// send without asking, is refused.
func CheckMedia(h http.Header) error {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &Error{http.StatusUnsupportedMediaType, "the body must not be compressed"}
	}
	values := h["Content-Type"]
	if len(values) == 0 {
		return nil
	}
	if len(values) == 1 && values[0] == "application/json" {
		return nil
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err == nil && len(values) == 1 && (media == "application/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")) {
		if charset := params["charset"]; charset == "" || strings.EqualFold(charset, "utf-8") {
			return nil
		}
	}
	return &Error{http.StatusUnsupportedMediaType, "the body must be JSON (application/json) in UTF-8"}
}

// CheckJSON reports why b is not one JSON value (RFC 8259) of bounded depth, with
// the position.
func CheckJSON(b []byte) error {
	if wire.ValidJSON(b, jsonDepth) {
		return nil
	}
	if !json.Valid(b) {
		var v json.RawMessage
		var syntax *json.SyntaxError
		if err := json.Unmarshal(b, &v); errors.As(err, &syntax) {
			at := min(max(int(syntax.Offset)-1, 0), len(b))
			if syntax.Error() == "unexpected end of JSON input" {
				at = len(b)
			}
			return badInput("the body is not JSON: %s at %s", syntax.Error(), position(b, at))
		}
		return badInput("the body is not JSON")
	}
	if !utf8.Valid(b) {
		at := 0
		for at < len(b) {
			c, n := utf8.DecodeRune(b[at:])
			if c == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return badInput("the body is not UTF-8 at %s", position(b, at))
	}
	if at := tooDeep(b); at >= 0 {
		return badInput("the body must not be deeper than %d, is so at %s", jsonDepth, position(b, at))
	}
	return nil
}

// tooDeep returns where valid JSON goes deeper than jsonDepth, -1 if it does not.
func tooDeep(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if depth++; depth > jsonDepth {
				return i
			}
		case '}', ']':
			depth--
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		}
	}
	return -1
}

// position says where the byte at an offset is.
func position(b []byte, at int) string {
	before := b[:at]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := at - (bytes.LastIndexByte(before, '\n') + 1) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}
