package gateway

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

	"fairlead/internal/wire"
)

const (
	jsonDepth      = 128 // deepest nesting of a body
	queryMost      = 256 // most parameters of a query
	pooledBytes    = 64 << 10
	bodyFirstBytes = 4 << 10
)

// inputs are the parts of a request that its data is made of.
type inputs struct {
	body  []byte // valid JSON, empty for none
	query string // undecoded
	vars  pathValues
	user  *User

	values url.Values // of query, once it was needed
}

// parsed returns the query's parameters.
func (in *inputs) parsed() (url.Values, error) {
	if in.values != nil || in.query == "" {
		return in.values, nil
	}
	if strings.Count(in.query, "&") >= queryMost {
		return nil, badInput("the query must have at most %d parameters", queryMost)
	}
	values, err := url.ParseQuery(in.query)
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

// appendData appends what a request without a data template sends: the body, or
// without one an object of the query's parameters and the path's values, of which
// the path wins. All its values are strings; a parameter that repeats is a list.
func appendData(dst []byte, in *inputs) ([]byte, error) {
	if len(in.body) > 0 {
		return append(dst, in.body...), nil
	}
	return appendMerged(dst, in, true, true)
}

// appendMerged appends an object of the path's values, of the query's parameters,
// or of both.
func appendMerged(dst []byte, in *inputs, path, query bool) ([]byte, error) {
	var values url.Values
	if query {
		var err error
		if values, err = in.parsed(); err != nil {
			return dst, err
		}
	}
	var vars pathValues
	if path {
		vars = in.vars
	}
	if len(values)+len(vars) == 0 {
		return append(dst, "{}"...), nil
	}
	names := make([]string, 0, len(values)+len(vars))
	for name := range values {
		if _, wins := vars.lookup(name); !wins {
			names = append(names, name)
		}
	}
	for _, v := range vars {
		if !utf8.ValidString(v.value) {
			return dst, badInput("%s in the path must be UTF-8", v.name)
		}
		names = append(names, v.name)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(wire.AppendString(dst, name), ':')
		if v, ok := vars.lookup(name); ok {
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

// errTooLarge is a body beyond the limit.
var errTooLarge = errors.New("body too large")

// appendBody reads a body of at most limit bytes.
func appendBody(dst []byte, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return dst, nil
	}
	if r.ContentLength > limit {
		return dst, errTooLarge
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
			return dst, errTooLarge
		}
		switch {
		case errors.Is(err, io.EOF):
			return dst, nil
		case err != nil:
			return dst, err
		}
	}
}

// checkMedia refuses a body that is not declared as JSON. No declaration will do,
// since the body itself is checked; a form, which a page of another origin may
// send without asking, is refused.
func checkMedia(h http.Header) error {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &inputError{http.StatusUnsupportedMediaType, "the body must not be compressed"}
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
	return &inputError{http.StatusUnsupportedMediaType, "the body must be JSON (application/json) in UTF-8"}
}

// checkJSON reports why b is not one JSON value (RFC 8259) of bounded depth, with
// the position.
func checkJSON(b []byte) error {
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
