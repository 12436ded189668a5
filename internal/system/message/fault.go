package message

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// first is the fault to tell of all that a check found: of those that are not the
// consequence of another, the one whose place comes first.
func first(err *jsonschema.ValidationError) *Fault {
	var all []*Fault
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		switch k := e.ErrorKind.(type) {
		case *kind.Schema, *kind.Group, *kind.AllOf, *kind.Reference:
			for _, cause := range e.Causes {
				walk(cause)
			}
			return
		case *kind.AnyOf, *kind.OneOf:
			all = append(all, alternatives(e))
		case *kind.PropertyNames:
			// The library does not keep the place of this one.
			all = append(all, &Fault{Reason: "has a property " + short(k.Property) + ", which is no name that may stand there"})
		case held:
			f := &Fault{Pointer: pointer(e.InstanceLocation), Reason: k.err.Error()}
			if within, ok := errors.AsType[*Fault](k.err); ok {
				f = &Fault{Pointer: f.Pointer + within.Pointer, Reason: within.Reason}
			}
			all = append(all, f)
		default:
			all = append(all, &Fault{Pointer: pointer(e.InstanceLocation), Reason: reason(e.ErrorKind)})
		}
	}
	walk(err)
	if len(all) == 0 {
		return &Fault{Reason: "does not satisfy it"}
	}
	return slices.MinFunc(all, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.Pointer, b.Pointer), cmp.Compare(a.Reason, b.Reason))
	})
}

// alternatives tells that none of some schemas, or more than one, is satisfied. The
// one that came furthest was probably meant.
func alternatives(e *jsonschema.ValidationError) *Fault {
	f := &Fault{Pointer: pointer(e.InstanceLocation), Reason: "satisfies none of the alternatives"}
	if one, ok := e.ErrorKind.(*kind.OneOf); ok && len(one.Subschemas) > 1 {
		f.Reason = "satisfies more than one of the alternatives"
		return f
	}
	var deepest *Fault
	for _, cause := range e.Causes {
		c := first(&jsonschema.ValidationError{ErrorKind: &kind.Group{}, Causes: []*jsonschema.ValidationError{cause}})
		if deepest == nil || strings.Count(c.Pointer, "/") > strings.Count(deepest.Pointer, "/") {
			deepest = c
		}
	}
	if deepest != nil && len(deepest.Pointer) > len(f.Pointer) {
		f.Pointer, f.Reason = deepest.Pointer, deepest.Reason+" (the nearest of the alternatives)"
	}
	return f
}

// pointer writes tokens as a JSON pointer (RFC 6901), at most mostShown of it.
func pointer(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(t))
	}
	return cut(b.String(), 4*mostShown)
}

// mostShown is how much of a key is shown.
const mostShown = 64

// short is a key of the message as it is shown.
func short(key string) string { return fmt.Sprintf("%q", cut(key, mostShown)) }

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// list names keys, the first few of them.
func list(keys []string) string {
	keys = slices.Sorted(slices.Values(keys))
	const most = 5
	var more string
	if len(keys) > most {
		keys, more = keys[:most], fmt.Sprintf(" and %d more", len(keys)-most)
	}
	shown := make([]string, len(keys))
	for i, k := range keys {
		shown[i] = short(k)
	}
	return strings.Join(shown, ", ") + more
}

// reason tells what is wrong without the value, which may be long, or secret.
func reason(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be " + strings.Join(articles(k.Want), " or ") + ", is " + articles([]string{k.Got})[0]
	case *kind.Required:
		return "lacks " + list(k.Missing)
	case *kind.DependentRequired:
		return "has " + short(k.Prop) + " and so must have " + list(k.Missing)
	case *kind.AdditionalProperties:
		return "has " + list(k.Properties) + ", which may not stand there"
	case *kind.FalseSchema:
		return "may not stand there"
	case *kind.Enum:
		return "must be one of " + values(k.Want)
	case *kind.Const:
		return "must be " + values([]any{k.Want})
	case *kind.Format:
		return "is no " + k.Want
	case *kind.Pattern:
		return "does not match " + cut(k.Want, mostShown)
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters, has %d", k.Want, k.Got)
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters, has %d", k.Want, k.Got)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d items, has %d", k.Want, k.Got)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d items, has %d", k.Want, k.Got)
	case *kind.MinProperties:
		return fmt.Sprintf("must have at least %d properties, has %d", k.Want, k.Got)
	case *kind.MaxProperties:
		return fmt.Sprintf("must have at most %d properties, has %d", k.Want, k.Got)
	case *kind.UniqueItems:
		return fmt.Sprintf("must have no item twice, has one at %d and %d", k.Duplicates[0], k.Duplicates[1])
	case *kind.Contains, *kind.MinContains, *kind.MaxContains:
		return "does not hold the right number of the items that it must hold"
	case *kind.Minimum:
		return "must be at least " + number(k.Want)
	case *kind.Maximum:
		return "must be at most " + number(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + number(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + number(k.Want)
	case *kind.Not:
		return "satisfies what it must not"
	default:
		return "does not satisfy " + cmp.Or(strings.Join(k.KeywordPath(), "/"), "the schema")
	}
}

func articles(kinds []string) []string {
	named := map[string]string{
		"null": "null", "boolean": "true or false", "number": "a number", "integer": "a whole number",
		"string": "a string", "array": "an array", "object": "an object",
	}
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = cmp.Or(named[k], k)
	}
	return out
}

// values are those that the schema names.
func values(want []any) string {
	const most = 8
	shown := make([]string, 0, most)
	for i, v := range want {
		if i == most {
			shown = append(shown, "...")
			break
		}
		shown = append(shown, cut(canonical(v), mostShown))
	}
	return strings.Join(shown, ", ")
}

// number writes a bound of the schema.
func number(r *big.Rat) string {
	if r.IsInt() {
		return cut(r.Num().String(), mostShown)
	}
	f, _ := r.Float64()
	return fmt.Sprint(f)
}
