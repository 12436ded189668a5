package asyncapi

import "strings"

// The keywords of JSON Schema 2020-12 by what they hold.
var (
	// ofSchemas hold schemas by names of the author's choice.
	ofSchemas = map[string]bool{
		"$defs": true, "definitions": true, "properties": true, "patternProperties": true, "dependentSchemas": true,
	}
	// ofValues hold values, in which nothing is a keyword.
	ofValues = map[string]bool{"const": true, "enum": true, "default": true, "examples": true}
)

// embed returns a schema as it must be to stand elsewhere than at the root of a
// document: what it refers to in itself is found below root, and it has no name of its
// own. References by anchor stay as they are, and are understood by those who know
// JSON Schema alone.
func embed(s any, root string) any {
	own := ""
	if m, ok := s.(map[string]any); ok {
		own, _ = m["$id"].(string)
	}
	e := embedding{own: strings.TrimSuffix(own, "#"), root: root}
	out := e.schema(s)
	if m, ok := out.(map[string]any); ok {
		delete(m, "$id")
	}
	return out
}

type embedding struct {
	own  string // the schema's $id
	root string
}

// schema rewrites a schema, or a list of them.
func (e embedding) schema(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = e.schema(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			switch ref, isText := value.(string); {
			case ofValues[key]:
				out[key] = value
			case key == "$ref" && isText:
				out[key] = e.reference(ref)
			case ofSchemas[key]:
				out[key] = e.schemas(value)
			default:
				out[key] = e.schema(value)
			}
		}
		return out
	default:
		return v
	}
}

// schemas rewrites a map of schemas by name.
func (e embedding) schemas(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := make(map[string]any, len(m))
	for name, s := range m {
		out[name] = e.schema(s)
	}
	return out
}

// reference rewrites what points into the schema itself by a JSON pointer.
func (e embedding) reference(ref string) string {
	if e.own != "" {
		ref = strings.TrimPrefix(ref, e.own)
	}
	switch {
	case ref == "" || ref == "#":
		return e.root
	case strings.HasPrefix(ref, "#/"):
		return e.root + ref[1:]
	}
	return ref
}
