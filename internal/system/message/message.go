// Package message checks messages against their types: JSON Schemas of the draft
// 2020-12 (https://json-schema.org/draft/2020-12/json-schema-core).
//
// A [Type] is compiled once and checks any number of messages at once. Beyond what
// the draft makes a schema assert, `format` and `contentEncoding`,
// `contentMediaType` and `contentSchema` are asserted too: a text that holds JSON is
// checked as that JSON. A schema stands for itself: it refers to no other file and to
// nothing on the network.
//
// A check is bounded: a message is nested at most [MaxDepth] deep, the JSON in its
// texts included, and its numbers have at most [MaxNumber] characters and exponents
// up to [MaxExponent]. Patterns are Go's, which run in linear time, and a check ends
// after a number of steps that grows with the message's size: alternatives within
// alternatives could take for ever. The size of a message is the caller's to bound.
//
// [Breaks] compares two versions of a type.
//
// What the package does not do: it reads no files, and it changes no message, so
// that defaults are not filled in.
package message

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The bounds of what is read.
const (
	MaxSchema   = 256 << 10 // bytes of a schema
	MaxDepth    = 64        // levels of a message or a schema
	MaxNumber   = 64        // characters of a number
	MaxExponent = 400       // of a number, either way
)

// draft is what $schema says, if it says anything.
const draft = "https://json-schema.org/draft/2020-12/schema"

// home is where the library thinks that a schema is.
const home = "fairlead://types/"

// Type is a compiled schema. Its methods are safe for concurrent use.
type Type struct {
	name string
	free sync.Pool // of *compiled: each serves one check at a time
}

// compiled is a schema that counts its steps.
type compiled struct {
	schema *jsonschema.Schema
	budget *budget
}

// budget is how many steps a check may still take.
type budget struct{ steps int }

// A check may take so many steps, and so many more for each byte of the message. One
// schema that is applied to one value is a step.
const (
	baseSteps = 10_000
	byteSteps = 2
)

// errCostly ends a check from within the library, which cannot be told to stop.
var errCostly = errors.New("is too costly to check: alternatives within alternatives apply to it")

// SchemaError says why a text is no schema that messages can be checked against.
type SchemaError struct {
	Pointer string // to the fault in the schema (RFC 6901), "" for the whole
	Reason  string // "must be an object", without the pointer
	JSON    bool   // the text is no JSON at all
}

// Error returns the reason after the pointer.
func (e *SchemaError) Error() string {
	if e.Pointer == "" {
		return e.Reason
	}
	return "at " + e.Pointer + ": " + e.Reason
}

// Fault says why a message does not satisfy its type.
type Fault struct { //nolint:errname // what a message has; the word of the CLI and the replies
	Type    string // name of the type
	Pointer string // to the fault in the message (RFC 6901), "" for the whole; it goes on into the JSON that a text holds
	Reason  string // "must be a number, is a string"; it holds keys of the message, but no values
}

// Error tells the type, the place and the reason.
func (f *Fault) Error() string {
	if f.Pointer == "" {
		return "is no " + f.Type + ": the message " + f.Reason
	}
	return "is no " + f.Type + ": " + f.Pointer + " " + f.Reason
}

// Compile reads a schema. The error is a [SchemaError].
func Compile(name string, schema []byte) (*Type, error) {
	if len(schema) > MaxSchema {
		return nil, &SchemaError{Reason: fmt.Sprintf("is larger than %d KiB", MaxSchema>>10)}
	}
	doc, err := decode(schema, MaxDepth)
	if err != nil {
		return nil, &SchemaError{Reason: err.Error(), JSON: true}
	}
	if o, ok := doc.(map[string]any); ok {
		if said, ok := o["$schema"]; ok {
			if text, ok := said.(string); !ok || strings.TrimSuffix(text, "#") != draft {
				return nil, &SchemaError{Pointer: "/$schema", Reason: "must be " + draft}
			}
		}
	}
	first, err := compiledOf(doc)
	if err != nil {
		return nil, err
	}
	t := &Type{name: name}
	t.free.New = func() any {
		again, err := compiledOf(doc)
		if err != nil {
			panic("message: a schema that compiled does not compile again: " + err.Error())
		}
		return again
	}
	t.free.Put(first)
	return t, nil
}

// compiledOf compiles a document. The error is a [SchemaError].
func compiledOf(doc any) (*compiled, error) {
	// Hierarchical, so that what a reference says besides shows.
	where := home + "self"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nothing{})
	c.AssertFormat()
	c.AssertVocabs()
	b := &budget{}
	c.RegisterVocabulary(contents(b))
	if err := c.AddResource(where, doc); err != nil {
		return nil, &SchemaError{Reason: err.Error()}
	}
	s, err := compile(c, where)
	if err != nil {
		return nil, schemaError(err, where)
	}
	return &compiled{s, b}, nil
}

// compile is the library's, whose panics become errors: a schema is data.
func compile(c *jsonschema.Compiler, where string) (s *jsonschema.Schema, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot be compiled (%v)", p)
		}
	}()
	return c.Compile(where)
}

// nothing loads no schema from anywhere.
type nothing struct{}

var errElsewhere = errors.New("refers to another document")

// Load implements [jsonschema.URLLoader].
func (nothing) Load(string) (any, error) { return nil, errElsewhere }

func schemaError(err error, where string) *SchemaError {
	if invalid, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		if v, ok := errors.AsType[*jsonschema.ValidationError](invalid.Err); ok {
			f := first(v)
			return &SchemaError{Pointer: f.Pointer, Reason: f.Reason}
		}
	}
	if load, ok := errors.AsType[*jsonschema.LoadURLError](err); ok && errors.Is(load.Err, errElsewhere) {
		url := strings.TrimPrefix(load.URL, home)
		return &SchemaError{Reason: fmt.Sprintf("refers to %q; a schema stands for itself, put what it refers to under $defs", url)}
	}
	if re, ok := errors.AsType[*jsonschema.InvalidRegexError](err); ok {
		return &SchemaError{Pointer: pointerOf(re.URL), Reason: "is no regular expression of Go (RE2)"}
	}
	reason := strings.ReplaceAll(err.Error(), where, "")
	return &SchemaError{Reason: strings.Join(strings.Fields(reason), " ")}
}

// pointerOf is the pointer in the fragment of a URL.
func pointerOf(url string) string {
	_, fragment, _ := strings.Cut(url, "#")
	return fragment
}

// Name is the name of the type.
func (t *Type) Name() string { return t.name }

// Check returns nil if data is one JSON value that satisfies the type, else a [Fault].
func (t *Type) Check(data []byte) error {
	v, err := decode(data, MaxDepth)
	if err != nil {
		return &Fault{Type: t.name, Reason: err.Error()}
	}
	if err := t.validate(v, baseSteps+byteSteps*len(data)); err != nil {
		f := &Fault{Type: t.name, Reason: "cannot be checked"}
		if invalid, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
			f = first(invalid)
			f.Type = t.name
		} else if errors.Is(err, errCostly) {
			f.Reason = errCostly.Error()
		}
		return f
	}
	return nil
}

// validate is the library's, whose panics become errors: a message is somebody else's
// data.
func (t *Type) validate(v any, steps int) (err error) {
	c, _ := t.free.Get().(*compiled)
	c.budget.steps = steps
	defer func() {
		p := recover()
		t.free.Put(c)
		if e, ok := p.(error); ok {
			err = fmt.Errorf("check: %w", e)
		} else if p != nil {
			err = fmt.Errorf("check: %v", p)
		}
	}()
	return c.schema.Validate(v)
}
