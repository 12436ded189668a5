package message

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/message"
)

// contents makes the keywords about the content of a text assert, as an extension of
// our own: the library's loses the place of what is wrong inside, and reads the JSON
// in a text without bounds. Section 8 of
// https://json-schema.org/draft/2020-12/json-schema-validation. It is asked about every
// schema that is applied to a value, and counts the steps too.
func contents(b *budget) *jsonschema.Vocabulary {
	return &jsonschema.Vocabulary{
		URL: "urn:fairlead:contents",
		Compile: func(ctx *jsonschema.CompilerContext, o map[string]any) (jsonschema.SchemaExt, error) {
			encoding, _ := o["contentEncoding"].(string)
			media, _ := o["contentMediaType"].(string)
			c := &content{budget: b, base64: strings.EqualFold(encoding, "base64"), json: isJSON(media)}
			if _, ok := o["contentSchema"]; ok && c.json {
				c.schema = ctx.Enqueue([]string{"contentSchema"})
			}
			return c, nil
		},
	}
}

// isJSON reports whether a media type is JSON (RFC 8259, RFC 6839 section 3.1).
func isJSON(media string) bool {
	media, _, _ = strings.Cut(media, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// content is what a text must hold.
type content struct {
	budget       *budget
	base64, json bool
	schema       *jsonschema.Schema // nil: any JSON
}

// mostWithin is how deep the JSON in a text may be, so that JSON in a text in JSON
// ends.
const mostWithin = MaxDepth / 2

// Validate implements [jsonschema.SchemaExt].
func (c *content) Validate(ctx *jsonschema.ValidatorContext, v any) {
	if c.budget.steps--; c.budget.steps < 0 {
		panic(errCostly)
	}
	text, ok := v.(string)
	if !ok || !c.base64 && !c.json {
		return
	}
	data := []byte(text)
	if c.base64 {
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			ctx.AddError(held{errors.New("is not base64")})
			return
		}
		data = decoded
	}
	if !c.json {
		return
	}
	inner, err := decode(data, mostWithin)
	if err != nil {
		ctx.AddError(held{errors.New("is a text that " + err.Error())})
		return
	}
	if c.schema != nil {
		if err := c.schema.Validate(inner); err != nil {
			if invalid, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
				ctx.AddError(held{first(invalid)})
			}
		}
	}
}

// held is what is wrong with what a text holds: a reason, or a [Fault] within it.
type held struct{ err error }

// KeywordPath implements [jsonschema.ErrorKind].
func (held) KeywordPath() []string { return []string{"contentSchema"} }

// LocalizedString implements [jsonschema.ErrorKind].
func (h held) LocalizedString(*message.Printer) string { return h.err.Error() }
