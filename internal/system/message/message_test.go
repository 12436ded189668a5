package message

import (
	"errors"
	"strings"
	"testing"
)

// notification is a DataNotification whose message is a text that holds JSON.
const notification = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"required": ["message_class", "content"],
	"properties": {
		"message_class": {"const": "DataNotification"},
		"date": {"type": "string", "format": "date-time"},
		"content": {
			"type": "object",
			"required": ["message"],
			"properties": {
				"level": {"enum": ["info", "error"]},
				"count": {"type": "integer", "minimum": 1, "maximum": 10},
				"tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "maxItems": 3, "uniqueItems": true},
				"message": {
					"type": "string", "contentMediaType": "application/json",
					"contentSchema": {"type": "object", "required": ["burst"], "properties": {"burst": {"type": "string", "pattern": "^sb[0-9]+$"}}}
				},
				"blob": {"type": "string", "contentEncoding": "base64"},
				"where": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["ra"], "properties": {"ra": {"type": "number"}}}]}
			},
			"additionalProperties": false
		}
	}
}`

func TestCheck(t *testing.T) {
	typ, err := Compile("DataNotification", []byte(notification))
	if err != nil {
		t.Fatal(err)
	}
	content := func(rest string) string {
		return `{"message_class": "DataNotification", "content": {"message": "{\"burst\": \"sb1\"}"` + rest + `}}`
	}
	tests := []struct {
		name, in, want string // want: the fault, "" for none
	}{
		{"valid", content(""), ""},
		{"everything", content(`, "level": "info", "count": 3, "tags": ["ab", "cd"], "blob": "aGk=", "where": {"ra": 1.5}`), ""},
		{"empty", "", "is no DataNotification: the message is empty"},
		{"no JSON", "{", "is no DataNotification: the message is no JSON (unexpected EOF)"},
		{"two values", "{} {}", "is no DataNotification: the message is no JSON (more follows after its value)"},
		{"not UTF-8", "\"\xff\"", "is no DataNotification: the message is no JSON (not UTF-8)"},
		{"another kind", "[]", "is no DataNotification: the message must be an object, is an array"},
		{"lacks two", "{}", `is no DataNotification: the message lacks "content", "message_class"`},
		{"const", `{"message_class": "x", "content": {"message": "{\"burst\":\"sb1\"}"}}`, `is no DataNotification: /message_class must be "DataNotification"`},
		{"enum", content(`, "level": "secret"`), `is no DataNotification: /content/level must be one of "info", "error"`},
		{"not whole", content(`, "count": 1.5`), "is no DataNotification: /content/count must be a whole number, is a number"},
		{"too much", content(`, "count": 11`), "is no DataNotification: /content/count must be at most 10"},
		{"a property of its own", content(`, "a/b": 1`), `is no DataNotification: /content has "a/b", which may not stand there`},
		{"an item", content(`, "tags": ["ab", "c"]`), "is no DataNotification: /content/tags/1 must have at least 2 characters, has 1"},
		{"twice", content(`, "tags": ["ab", "ab"]`), "is no DataNotification: /content/tags must have no item twice, has one at 0 and 1"},
		{"no base64", content(`, "blob": "?"`), "is no DataNotification: /content/blob is not base64"},
		{"an alternative", content(`, "where": {"ra": "x"}`), "is no DataNotification: /content/where/ra must be a number, is a string (the nearest of the alternatives)"},
		{"no alternative", content(`, "where": 1`), "is no DataNotification: /content/where satisfies none of the alternatives"},
		{"the inner JSON", `{"message_class": "DataNotification", "date": "2018-12-13T00:00:00Z", "content": {"message": "{\"burst\": \"x\"}"}}`, "is no DataNotification: /content/message/burst does not match ^sb[0-9]+$"},
		{"no inner JSON", `{"message_class": "DataNotification", "content": {"message": "hello"}}`, "is no DataNotification: /content/message is a text that is no JSON (invalid character 'h' looking for beginning of value)"},
		{"format", `{"message_class": "DataNotification", "date": "today", "content": {"message": "{\"burst\": \"sb1\"}"}}`, "is no DataNotification: /date is no date-time"},
		{"deep", strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), "is no DataNotification: the message is nested deeper than 64 levels"},
		{"a number of many digits", content(`, "count": ` + strings.Repeat("9", MaxNumber+1)), "is no DataNotification: the message holds a number of more than 64 characters"},
		{"a number of a large exponent", content(`, "count": 1e999999`), "is no DataNotification: the message holds a number with an exponent beyond 400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 { // the order of maps must not matter
				err := typ.Check([]byte(tt.in))
				if fault, ok := errors.AsType[*Fault](err); err != nil && !ok {
					t.Fatalf("Check: %T, want a Fault", fault)
				}
				got := ""
				if err != nil {
					got = err.Error()
				}
				if got != tt.want {
					t.Fatalf("Check: %q, want %q", got, tt.want)
				}
			}
		})
	}
}

// TestAlternativesWithinAlternativesEnd: without a bound, the check of a message
// nested 30 deep took longer than anyone waits.
func TestAlternativesWithinAlternativesEnd(t *testing.T) {
	const many = `{"anyOf": [{"items": {"$ref": "#"}, "type": "array", "minItems": 1}, {"items": {"$ref": "#"}, "type": "array", "maxItems": 3}, {"type": "null"}]}`
	for _, schema := range []string{many, `{"not": ` + strings.ReplaceAll(many, `"#"`, `"#/not"`) + `}`} {
		typ, err := Compile("T", []byte(schema))
		if err != nil {
			t.Fatal(err)
		}
		err = typ.Check([]byte(strings.Repeat("[", 30) + "1" + strings.Repeat("]", 30)))
		if err == nil || !strings.Contains(err.Error(), "is too costly to check") {
			t.Errorf("%s: %v", schema, err)
		}
		if err := typ.Check([]byte("[null]")); (err == nil) == strings.Contains(schema, "not") {
			t.Errorf("%s, of a message that is cheap: %v", schema, err)
		}
	}
}

func TestCompile(t *testing.T) {
	tests := []struct {
		name, schema, want string
	}{
		{"anything", `{}`, ""},
		{"true", `true`, ""},
		{"itself", `{"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}`, ""},
		{"no JSON", `{`, "is no JSON (unexpected EOF)"},
		{"empty", ` `, "is empty"},
		{"no schema", `[]`, "must be true or false or an object, is an array"},
		{"another draft", `{"$schema": "http://json-schema.org/draft-07/schema#"}`, "at /$schema: must be " + draft},
		{"a bad keyword", `{"properties": {"a": {"type": "text"}}}`, "at /properties/a/type: satisfies none of the alternatives"},
		{"a bad bound", `{"properties": {"a": {"minLength": -1}}}`, "at /properties/a/minLength: must be at least 0"},
		{"a bad pattern", `{"properties": {"a": {"pattern": "(?=a)"}}}`, "at /properties/a/pattern: is no regex"},
		{"another file", `{"$ref": "other.json"}`, `refers to "other.json"; a schema stands for itself, put what it refers to under $defs`},
		{"the network", `{"$ref": "https://example.com/a.json"}`, `refers to "https://example.com/a.json"; a schema stands for itself, put what it refers to under $defs`},
		{"a file of the machine", `{"$ref": "file:///etc/passwd"}`, `refers to "file:///etc/passwd"; a schema stands for itself, put what it refers to under $defs`},
		{"nowhere", `{"$ref": "#/$defs/a"}`, `json-pointer in "#/$defs/a" not found`},
		{"large", `"` + strings.Repeat("a", MaxSchema) + `"`, "is larger than 256 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile("T", []byte(tt.schema))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("Compile: %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(notification), []byte(`{"message_class": "DataNotification", "content": {"message": "{}"}}`))
	f.Add([]byte(`{"$ref": "#"}`), []byte(`1`))
	f.Add([]byte(`{"uniqueItems": true, "multipleOf": 0.1}`), []byte(`[1e400, "\ud800", "\\"]`))
	f.Fuzz(func(t *testing.T, schema, data []byte) {
		typ, err := Compile("T", schema)
		if err != nil {
			if _, ok := errors.AsType[*SchemaError](err); !ok {
				t.Fatalf("Compile: %T", err)
			}
			return
		}
		err = typ.Check(data)
		if _, ok := errors.AsType[*Fault](err); err != nil && !ok {
			t.Fatalf("Check: %T", err)
		}
		if breaks, err := Breaks(schema, schema); err != nil {
			t.Fatalf("Breaks: %v", err)
		} else if len(breaks) > 0 {
			t.Fatalf("a schema and itself: %v", breaks)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	typ, err := Compile("DataNotification", []byte(notification))
	if err != nil {
		b.Fatal(err)
	}
	data := []byte(`{"message_class": "DataNotification", "date": "2018-12-13T00:00:00Z", "content": {"message": "{\"burst\": \"sb18121300\"}", "level": "info", "count": 3, "tags": ["ab", "cd"]}}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := typ.Check(data); err != nil {
			b.Fatal(err)
		}
	}
}
