package message

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Keywords of the draft, by what their values hold.
var (
	schemaMaps  = []string{"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
	schemaLists = []string{"allOf", "anyOf", "oneOf", "prefixItems"}
	schemaOnes  = []string{
		"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
		"unevaluatedProperties", "unevaluatedItems", "contentSchema",
	}
	others = []string{
		"$schema", "$id", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$comment",
		"type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
		"maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains",
		"maxProperties", "minProperties", "required", "dependentRequired", "format",
		"contentEncoding", "contentMediaType",
		"title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples",
	}
)

// Keywords returns those of the draft.
func Keywords() []string { return slices.Concat(schemaMaps, schemaLists, schemaOnes, others) }

// Unknown returns the places in a schema, as JSON pointers (RFC 6901), of keywords that
// the draft does not have, sorted. It allows them, and they check nothing: that may be a
// slip. Those that begin with x- are meant so.
func Unknown(schema []byte) ([]string, error) {
	doc, err := decode(schema, MaxDepth)
	if err != nil {
		return nil, err
	}
	w := walk{known: map[string]bool{}}
	for _, k := range Keywords() {
		w.known[k] = true
	}
	w.schema(doc, "")
	slices.Sort(w.found)
	return w.found, nil
}

type walk struct {
	known map[string]bool
	found []string
}

func (w *walk) schema(v any, at string) {
	o, ok := v.(map[string]any)
	if !ok {
		return
	}
	for k, value := range o {
		place := at + "/" + escape(k)
		switch {
		case slices.Contains(schemaOnes, k):
			w.schema(value, place)
		case slices.Contains(schemaMaps, k):
			members, _ := value.(map[string]any)
			for _, name := range slices.Collect(maps.Keys(members)) {
				w.schema(members[name], place+"/"+escape(name))
			}
		case slices.Contains(schemaLists, k):
			items, _ := value.([]any)
			for i, item := range items {
				w.schema(item, place+"/"+strconv.Itoa(i))
			}
		case !w.known[k] && !strings.HasPrefix(k, "x-"):
			w.found = append(w.found, place)
		}
	}
}

// escape is a key as a token of a JSON pointer.
func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }
