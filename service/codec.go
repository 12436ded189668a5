package service

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"fairlead/internal/wire"
)

const (
	mediaJSON  = "application/json"
	mediaBytes = "application/octet-stream"

	deepest = 10000 // nesting that encoding/json takes
)

// Reply is a reply with a status or a media type of its own. A handler returns
// Reply[T] where the plain T with status 200 does not do; [Ask] for a Reply[T]
// gets to know them.
type Reply[T any] struct {
	Status int    // 200 to 299; 0 means 200, or 204 for an empty struct
	Type   string // media type; "" means application/json, or application/octet-stream for []byte
	Body   T
}

func (r Reply[T]) encode() (reply, error) {
	out, err := encode(r.Body)
	if err != nil {
		return reply{}, err
	}
	if r.Status != 0 {
		out.status = r.Status
	}
	if out.status < 200 || out.status > 299 {
		return reply{}, fmt.Errorf("encode reply: status must be 200 to 299, is %d; return an Error for others", out.status)
	}
	if r.Type != "" {
		out.media = r.Type
	}
	return out, nil
}

func (r *Reply[T]) decode(in reply) error {
	r.Status, r.Type = in.status, in.media
	return decode(in.body, &r.Body)
}

// reply is an encoded reply.
type reply struct {
	status int
	media  string
	body   []byte
}

// encode turns a value into the body of a message: bytes and raw JSON as they are,
// an empty struct into nothing, everything else into JSON.
func encode[T any](v T) (reply, error) {
	switch v := any(v).(type) {
	case interface{ encode() (reply, error) }:
		return v.encode()
	case struct{}:
		return reply{status: http.StatusNoContent}, nil
	case []byte:
		return reply{http.StatusOK, mediaBytes, v}, nil
	case json.RawMessage:
		if len(v) == 0 {
			v = json.RawMessage("null")
		}
		return reply{http.StatusOK, mediaJSON, v}, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return reply{}, fmt.Errorf("encode: %w", err)
	}
	return reply{http.StatusOK, mediaJSON, b}, nil
}

// decode is the inverse of encode. No body at all leaves the zero value. Errors are
// [*Error] with status 400 and a public text that says what is wrong where.
func decode[T any](data []byte, v *T) error {
	switch p := any(v).(type) {
	case *[]byte:
		*p = data
		return nil
	case *struct{}:
		return nil
	}
	if len(data) == 0 {
		return nil
	}
	if p, ok := any(v).(*json.RawMessage); ok {
		if !wire.ValidJSON(data, deepest) && !json.Valid(data) {
			return badJSON(json.Unmarshal(data, new(any)))
		}
		*p = data
		return nil
	}
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if relaxed, ok := relax(reflect.TypeFor[T](), data); ok {
			*v = *new(T)
			if json.Unmarshal(relaxed, v) == nil {
				return nil
			}
		}
	}
	return badJSON(err)
}

// badJSON says where a request is not what it must be, in words for its sender.
func badJSON(err error) error {
	var (
		syntax *json.SyntaxError
		wrong  *json.UnmarshalTypeError
		when   *time.ParseError
		own    *Error
	)
	public := "the request holds a value of the wrong form"
	switch {
	case errors.As(err, &own):
		return err
	case errors.As(err, &syntax):
		public = fmt.Sprintf("the request is not valid JSON, at byte %d: %s", syntax.Offset, syntax.Error())
	case errors.As(err, &wrong):
		want := kindText(wrong.Type)
		if wrong.Field == "" {
			public = fmt.Sprintf("the request must be %s, is %s", want, article(wrong.Value))
		} else {
			public = fmt.Sprintf("%s must be %s, is %s (at byte %d)", wrong.Field, want, article(wrong.Value), wrong.Offset)
		}
	case errors.As(err, &when):
		public = fmt.Sprintf("%q is not a time as in RFC 3339", strings.Trim(when.Value, `"`))
	}
	return &Error{Status: http.StatusBadRequest, Public: public, Cause: err}
}

func kindText(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return fmt.Sprintf("a whole number of %d bits, not negative", t.Bits())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	default:
		return "of another type"
	}
}

func article(value string) string {
	switch value {
	case "":
		return "something else"
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "bool":
		return "true or false"
	}
	return "a " + value
}

// relax rewrites what a query string cannot say: at the top level, a string becomes
// the number or the boolean that it spells where the field is one, and a single
// value a list where the field is a list. It reports false if nothing was changed.
func relax(t reflect.Type, data []byte) ([]byte, bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil {
		return nil, false
	}
	changed := false
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		for key, value := range members {
			if !strings.EqualFold(key, name) {
				continue
			}
			if v, ok := relaxValue(f.Type, value); ok {
				members[key], changed = v, true
			}
		}
	}
	if !changed {
		return nil, false
	}
	out, err := json.Marshal(members)
	return out, err == nil
}

func relaxValue(t reflect.Type, value json.RawMessage) (json.RawMessage, bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if p := reflect.PointerTo(t); p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil, false // it has a form of its own
	}
	switch t.Kind() {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 || string(value) == "null" {
			return nil, false
		}
		var items []json.RawMessage
		single := json.Unmarshal(value, &items) != nil
		if single {
			items = []json.RawMessage{value}
		}
		changed := single
		for i := range items {
			if v, ok := relaxValue(t.Elem(), items[i]); ok {
				items[i], changed = v, true
			}
		}
		if !changed {
			return nil, false
		}
		out, err := json.Marshal(items)
		return out, err == nil
	case reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		var s string
		if json.Unmarshal(value, &s) != nil {
			return nil, false
		}
		spelt := json.RawMessage(bytes.TrimSpace([]byte(s)))
		word := string(spelt) == "true" || string(spelt) == "false"
		if !json.Valid(spelt) || word != (t.Kind() == reflect.Bool) {
			return nil, false
		}
		return spelt, true
	default:
		return nil, false
	}
}
