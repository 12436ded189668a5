package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"fairlead/internal/wire"
)

// jsonDepth is how deep a body may be nested that a key is read from.
const jsonDepth = 128

// field is something of a request that takes part in a message's key.
type field struct {
	name   string   // as the file writes it
	header string   // canonical name, "" for a field of the body
	path   []string // in the body
}

// parseField reads "body.<path>" or "header.<Name>".
func parseField(s string) (field, error) {
	where, rest, _ := strings.Cut(s, ".")
	path := strings.Split(rest, ".")
	switch {
	case rest == "":
	case where == "header":
		return field{name: s, header: textproto.CanonicalMIMEHeaderKey(rest)}, nil
	case where == "body":
		if slices.Contains(path, "") {
			return field{}, fmt.Errorf("dedupe: %q has an empty part", s)
		}
		return field{name: s, path: path}, nil
	}
	return field{}, fmt.Errorf("dedupe: %q must be body.NAME or header.NAME", s)
}

// keyOf returns the key of a message: the fields with their values. It is the same
// for values that are the same JSON, whatever their spelling; numbers are compared
// as they are written. What is missing, or null, is a [Fault].
func keyOf(fields []field, h http.Header, body []byte) (string, error) {
	var key strings.Builder
	var doc any
	for _, f := range fields {
		var value []byte
		var err error
		if f.header != "" {
			value, err = f.fromHeader(h)
		} else {
			if doc == nil {
				if doc, err = decode(body); err != nil {
					return "", err
				}
			}
			value, err = f.fromBody(doc)
		}
		if err != nil {
			return "", err
		}
		// With their lengths, so that no two lists of values read the same.
		_, _ = fmt.Fprintf(&key, "%d:%s%d:%s", len(f.name), f.name, len(value), value) // a builder takes everything
	}
	return key.String(), nil
}

func decode(body []byte) (any, error) {
	if !wire.ValidJSON(body, jsonDepth) {
		return nil, &Fault{Reason: "the body must be JSON: fields of it tell whether it was sent before"}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil || doc == nil {
		return nil, &Fault{Reason: "the body must be a JSON object: fields of it tell whether it was sent before"}
	}
	return doc, nil
}

func (f *field) fromHeader(h http.Header) ([]byte, error) {
	values := h[f.header]
	if len(values) != 1 || values[0] == "" || len(values[0]) > idBytes {
		return nil, &Fault{Reason: fmt.Sprintf("the header %s must be there, once, with at most %d bytes: it tells whether the message was sent before", f.header, idBytes)}
	}
	return []byte(values[0]), nil
}

// fromBody finds a value: a number in the path is an index of a list.
func (f *field) fromBody(doc any) ([]byte, error) {
	at := doc
	for i, token := range f.path {
		switch v := at.(type) {
		case map[string]any:
			at = v[token]
		case []any:
			n, err := strconv.ParseUint(token, 10, 31)
			if err != nil || n >= uint64(len(v)) {
				return nil, f.missing(i)
			}
			at = v[n]
		default:
			return nil, f.missing(i)
		}
		if at == nil {
			return nil, f.missing(i)
		}
	}
	b, err := json.Marshal(at) // with sorted keys
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	return b, nil
}

// missing is the fault of a body without the field, as far as its path leads.
func (f *field) missing(at int) error {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	var pointer strings.Builder
	for _, token := range f.path[:at+1] {
		pointer.WriteString("/" + escape.Replace(token))
	}
	return &Fault{Pointer: pointer.String(), Reason: pointer.String() + " is missing: it tells whether the message was sent before"}
}
