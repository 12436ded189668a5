package message

import (
	"slices"
	"testing"
)

// A schema with a mistyped keyword was taken without a word.
func TestUnknownKeywordsAreFound(t *testing.T) {
	for schema, want := range map[string][]string{
		`{"requird": ["a"], "type": "object"}`:                                  {"/requird"},
		`{"properties": {"requird": {"typ": "string"}, "a/b": {"minimun": 1}}}`: {"/properties/a~1b/minimun", "/properties/requird/typ"},
		`{"allOf": [{}, {"patern": "a"}], "not": {"x": 1}}`:                     {"/allOf/1/patern", "/not/x"},
		`{"enum": [{"a": 1}], "default": {"b": 2}, "x-mine": {"c": 3}}`:         nil,
		`{"required": ["a"], "$defs": {"t": {"type": "object"}}}`:               nil,
		`true`: nil,
	} {
		got, err := Unknown([]byte(schema))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", schema, got, err, want)
		}
	}
}
