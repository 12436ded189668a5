package data

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"fairlead/internal/wire"
)

const templateDepth = 32 // deepest nesting of a data template

// Template is a compiled `data:` of a route: any value of the file in which a
// string that begins with $ refers to the request:
//
//	$path         all values of the path, an object of strings
//	$path.NAME    the value of {NAME} in the path, a string
//	$query        all parameters of the query, an object
//	$query.NAME   the parameter, a string; a list of strings if it repeats
//	$body         the whole body
//	$body.FIELD   a member of it; with more dots a member of that, in a list by its index
//	$user.sub     the subject of the user's token
//	$user.roles   the roles of the user, a list
//
// A reference to what a request does not have leaves the member out of its
// object, and is null in a list or alone. $$ at the beginning of a string stands
// for one $ that is none of these; a $ elsewhere has no meaning.
type Template struct{ root dataNode }

// dataNode appends its value as JSON, or reports that the request has none.
type dataNode interface {
	append(dst []byte, in *Inputs) ([]byte, bool, error)
}

// ParseTemplate compiles the value of `data:` as the file has it; known reports which names the path has.
func ParseTemplate(v any, known func(name string) bool) (*Template, error) {
	root, err := parseNode(v, known, 0)
	if err != nil {
		return nil, fmt.Errorf("read data: %w", err)
	}
	return &Template{root}, nil
}

// Append appends the data of a request. Errors for the client are of the type
// [*Error].
func (t *Template) Append(dst []byte, in *Inputs) ([]byte, error) {
	dst, ok, err := t.root.append(dst, in)
	if err == nil && !ok {
		dst = append(dst, "null"...)
	}
	return dst, err
}

func parseNode(v any, known func(string) bool, depth int) (dataNode, error) {
	if depth > templateDepth {
		return nil, fmt.Errorf("must not be deeper than %d", templateDepth)
	}
	if s, ok := v.(string); ok {
		return parseLeaf(s, known)
	}
	switch rv := reflect.ValueOf(v); rv.Kind() { //nolint:exhaustive // every other kind is a scalar, written below
	case reflect.Map:
		members := make(map[string]any, rv.Len())
		for it := rv.MapRange(); it.Next(); {
			k := it.Key()
			if k.Kind() == reflect.Interface {
				k = k.Elem()
			}
			if k.Kind() != reflect.String {
				return nil, fmt.Errorf("key %v must be a string", it.Key())
			}
			members[k.String()] = it.Value().Interface()
		}
		var o objectNode
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if !utf8.ValidString(name) {
				return nil, fmt.Errorf("key %q must be UTF-8", name)
			}
			n, err := parseNode(members[name], known, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			o = append(o, member{append(wire.AppendString(nil, name), ':'), n})
		}
		return o, nil
	case reflect.Slice, reflect.Array:
		l := make(listNode, rv.Len())
		for i := range l {
			n, err := parseNode(rv.Index(i).Interface(), known, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%d: %w", i, err)
			}
			l[i] = n
		}
		return l, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("has no JSON form: %w", err)
	}
	return literalNode(b), nil
}

func parseLeaf(s string, known func(string) bool) (dataNode, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("%q must be UTF-8", s)
	}
	if rest, escaped := strings.CutPrefix(s, "$$"); escaped {
		return literalNode(wire.AppendString(nil, "$"+rest)), nil
	}
	ref, ok := strings.CutPrefix(s, "$")
	if !ok {
		return literalNode(wire.AppendString(nil, s)), nil
	}
	kind, name, dotted := strings.Cut(ref, ".")
	switch {
	case ref == "path":
		return wholeNode{path: true}, nil
	case ref == "query":
		return wholeNode{query: true}, nil
	case kind == "path" && name != "":
		if !known(name) {
			return nil, fmt.Errorf("%q: the path has no {%s}", s, name)
		}
		return pathNode(name), nil
	case kind == "query" && name != "":
		return queryNode(name), nil
	case kind == "body" && !dotted:
		return bodyNode(nil), nil
	case kind == "body":
		fields := strings.Split(name, ".")
		if slices.Contains(fields, "") {
			return nil, fmt.Errorf("%q names an empty field", s)
		}
		return bodyNode(fields), nil
	case ref == "user.sub" || ref == "user.roles":
		return userNode(name), nil
	}
	return nil, fmt.Errorf("%q refers to nothing; known are $path, $path.NAME, $query, $query.NAME, $body, $body.FIELD, $user.sub and $user.roles, and $$ stands for $", s)
}

type literalNode []byte

func (n literalNode) append(dst []byte, _ *Inputs) ([]byte, bool, error) {
	return append(dst, n...), true, nil
}

type member struct {
	key   []byte // with quotes and colon
	value dataNode
}

type objectNode []member

func (n objectNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	dst = append(dst, '{')
	first := true
	for _, m := range n {
		before := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, m.key...)
		var ok bool
		var err error
		if dst, ok, err = m.value.append(dst, in); err != nil {
			return dst, false, err
		}
		if !ok {
			dst = dst[:before]
			continue
		}
		first = false
	}
	return append(dst, '}'), true, nil
}

type listNode []dataNode

func (n listNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	dst = append(dst, '[')
	for i, e := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		var ok bool
		var err error
		if dst, ok, err = e.append(dst, in); err != nil {
			return dst, false, err
		}
		if !ok {
			dst = append(dst, "null"...)
		}
	}
	return append(dst, ']'), true, nil
}

// wholeNode is an object of all path values or all parameters of the query.
type wholeNode struct{ path, query bool }

func (n wholeNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	dst, err := appendMerged(dst, in, n.path, n.query)
	return dst, true, err
}

type pathNode string

func (n pathNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	v, ok := in.Path.Lookup(string(n))
	if !ok {
		return dst, false, nil
	}
	if !utf8.ValidString(v) {
		return dst, false, badInput("%s in the path must be UTF-8", string(n))
	}
	return wire.AppendString(dst, v), true, nil
}

type queryNode string

func (n queryNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	values, err := in.parsed()
	if err != nil {
		return dst, false, err
	}
	list, ok := values[string(n)]
	if !ok {
		return dst, false, nil
	}
	return appendStrings(dst, list), true, nil
}

// bodyNode leads into the body by names and indices.
type bodyNode []string

func (n bodyNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	at := json.RawMessage(in.Body)
	for _, field := range n {
		if len(at) == 0 {
			break
		}
		var ok bool
		if at, ok = jsonChild(at, field); !ok {
			return dst, false, nil
		}
	}
	if len(at) == 0 {
		return dst, false, nil
	}
	return append(dst, at...), true, nil
}

// jsonChild returns a member of an object or an element of a list in valid JSON.
func jsonChild(b json.RawMessage, name string) (json.RawMessage, bool) {
	switch b = trimJSON(b); b[0] {
	case '{':
		var o map[string]json.RawMessage
		if json.Unmarshal(b, &o) != nil {
			return nil, false
		}
		v, ok := o[name]
		return v, ok
	case '[':
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || strconv.Itoa(i) != name {
			return nil, false
		}
		var l []json.RawMessage
		if json.Unmarshal(b, &l) != nil || i >= len(l) {
			return nil, false
		}
		return l[i], true
	}
	return nil, false
}

func trimJSON(b json.RawMessage) json.RawMessage {
	return bytes.Trim(b, " \t\r\n")
}

type userNode string

func (n userNode) append(dst []byte, in *Inputs) ([]byte, bool, error) {
	if in.User == nil {
		return dst, false, nil
	}
	var v any = in.User.Subject
	if n == "roles" {
		v = append([]string{}, in.User.Roles...)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return dst, false, fmt.Errorf("write user: %w", err)
	}
	return append(dst, b...), true, nil
}
