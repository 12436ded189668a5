package message

import (
	"strings"
	"testing"
)

func TestBreaks(t *testing.T) {
	tests := []struct {
		name, older, newer string
		want               []string // pointers of the breaks with the beginnings of their reasons
	}{
		{"the same", `{"type": "object"}`, `{ "type":"object" }`, nil},
		{"annotations", `{"title": "a", "default": 1}`, `{"description": "b", "x-owner": "c", "$comment": "d"}`, nil},
		{"a new optional property", `{"properties": {"a": {}}}`, `{"properties": {"a": {}, "b": {"type": "string"}}}`, nil},
		{"a new optional property of a closed object", `{"properties": {"a": {}}, "additionalProperties": false}`, `{"properties": {"a": {}, "b": {}}, "additionalProperties": false}`, nil},
		{"opened", `{"additionalProperties": false}`, `{}`, nil},
		{"closed", `{}`, `{"additionalProperties": false}`, []string{"/additionalProperties allows no properties"}},
		{"a new required property", `{"required": ["a"]}`, `{"required": ["b", "a"]}`, []string{`/required asks for "b" now`}},
		{"a property that is required no more", `{"required": ["a"]}`, `{}`, []string{`/required does not ask for "a"`}},
		{"a property removed", `{"properties": {"a": {"type": "string"}}}`, `{"properties": {}}`, []string{"/properties/a is not described any more"}},
		{"a property removed of a closed object", `{"properties": {"a": {}}, "additionalProperties": false}`, `{"additionalProperties": false}`, []string{"/properties/a is gone"}},
		{"a narrower type", `{"type": ["string", "null"]}`, `{"type": "string"}`, []string{"/type does not allow null"}},
		{"a wider type", `{"type": "string"}`, `{"type": ["null", "string"]}`, []string{"/type allows null now"}},
		{"whole numbers only", `{"type": "number"}`, `{"type": "integer"}`, []string{"/type does not allow number"}},
		{"another type", `{"type": "string"}`, `{"type": "integer"}`, []string{"/type allows integer", "/type does not allow string"}},
		{"a type that was none", `{}`, `{"type": "string"}`, []string{"/type is new"}},
		{"a narrower enum", `{"enum": ["a", "b"]}`, `{"enum": ["b"]}`, []string{`/enum does not allow "a"`}},
		{"a wider enum", `{"enum": ["a"]}`, `{"enum": ["b", "a"]}`, []string{`/enum allows "b" now`}},
		{"an enum of one is a const", `{"enum": ["a"]}`, `{"const": "a"}`, nil},
		{"a shorter text", `{"maxLength": 10}`, `{"maxLength": 9}`, []string{"/maxLength is narrower"}},
		{"a longer text", `{"maxLength": 9}`, `{"maxLength": 10}`, []string{"/maxLength is wider"}},
		{"a higher minimum", `{"minimum": 1}`, `{"minimum": 1.5}`, []string{"/minimum is narrower"}},
		{"the same minimum", `{"minimum": 1}`, `{"minimum": 1.0}`, nil},
		{"a pattern", `{"pattern": "a"}`, `{"pattern": "b"}`, []string{"/pattern is different"}},
		{"a format is gone", `{"format": "date"}`, `{}`, []string{"/format is gone"}},
		{"items", `{"items": {"type": "string"}}`, `{"items": {"type": "number"}}`, []string{"/items/type allows number", "/items/type does not allow string"}},
		{"moved to $defs", `{"properties": {"a": {"type": "string"}}}`, `{"$defs": {"t": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/t"}}}`, nil},
		{"changed in $defs", `{"$defs": {"t": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/t"}}}`, `{"$defs": {"t": {"type": "null"}}, "properties": {"a": {"$ref": "#/$defs/t"}}}`, []string{"/$defs/t/type allows null", "/$defs/t/type does not allow string"}},
		{"a tree", `{"properties": {"next": {"$ref": "#"}}}`, `{"properties": {"next": {"$ref": "#"}}, "type": "object"}`, []string{"/type is new"}},
		{"another alternative", `{"anyOf": [{"type": "string"}]}`, `{"anyOf": [{"type": "string"}, {"type": "null"}]}`, []string{"/anyOf has 2 schemas, had 1"}},
		{"a property within oneOf", `{"oneOf": [{"properties": {"a": {}}}]}`, `{"oneOf": [{"properties": {"a": {}, "b": {}}}]}`, []string{"/oneOf/0/properties/b is new where every difference counts"}},
		{"what must not be", `{"not": {"type": "null"}}`, `{"not": {"type": ["null", "string"]}}`, []string{"/not/type allows string now"}},
		{"nothing at all", `true`, `false`, []string{"/ may not be there any more"}},
		{"within the JSON of a text", `{"contentSchema": {"required": ["a"]}}`, `{"contentSchema": {"required": []}}`, []string{`/contentSchema/required does not ask for "a"`}},
		{"an anchor", `{"$ref": "#a", "$defs": {"a": {"$anchor": "a"}}}`, `{"$ref": "#a", "$defs": {"a": {"$anchor": "a", "type": "null"}}}`, []string{"/ uses a reference that cannot be followed"}},
		{"a keyword that is not known", `{"dependentRequired": {"a": ["b"]}}`, `{"dependentRequired": {"a": ["c"]}}`, []string{"/dependentRequired is different"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			breaks, err := Breaks([]byte(tt.older), []byte(tt.newer))
			if err != nil {
				t.Fatal(err)
			}
			ok := len(breaks) == len(tt.want)
			for i := range tt.want {
				ok = ok && strings.HasPrefix(breaks[i].String(), tt.want[i])
			}
			if !ok {
				t.Errorf("Breaks: %q, want %q", breaks, tt.want)
			}
		})
	}
}
