package message

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Break is one change of a schema that somebody who relies on it may not survive.
type Break struct {
	Pointer string // into the newer schema, or the older for what is gone (RFC 6901)
	Reason  string // "is required now: messages that are stored may lack it"
}

// String returns the reason after the pointer.
func (b Break) String() string { return cmp.Or(b.Pointer, "/") + " " + b.Reason }

// Breaks compares two versions of a type, the one in force and the one that shall
// replace it, and returns what breaks by the change, sorted by pointer; none if it is
// safe. Two things must hold, so that nobody has to be changed on the same day:
//
//   - Messages of the older type, which are stored and which publishers send still,
//     satisfy the newer: nothing is asked for that was not, and nothing that was
//     allowed is refused.
//   - Messages of the newer type are what consumers of the older expect: what was
//     promised is kept, and no value comes that could not come before.
//
// Hence what may change freely are annotations (title, description, default,
// examples, deprecated, readOnly, writeOnly, $comment), the names and places under
// $defs, and optional properties that are new: a consumer passes over those it does
// not know, whatever additionalProperties said. Anything else breaks one of the two.
//
// Only references into the schema itself (#, #/...) are followed. Under not, if,
// then, else, oneOf, unevaluatedProperties, unevaluatedItems and propertyNames every
// difference is a break, because what is wider there may be narrower as a whole.
//
// Both must be schemas that [Compile] takes.
func Breaks(older, newer []byte) ([]Break, error) {
	a, err := decode(older, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("read the older schema: it %w", err)
	}
	b, err := decode(newer, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("read the newer schema: it %w", err)
	}
	if canonical(a) == canonical(b) {
		return nil, nil
	}
	c := &comparison{older: a, newer: b, seen: map[[2]string]bool{}}
	c.schemas(a, b, at{}, false)
	slices.SortFunc(c.breaks, func(x, y Break) int {
		return cmp.Or(cmp.Compare(x.Pointer, y.Pointer), cmp.Compare(x.Reason, y.Reason))
	})
	return slices.Compact(c.breaks), nil
}

// Reasons of breaks that several keywords share.
const (
	narrower = "messages that are stored, or that publishers send still, may not satisfy it"
	wider    = "consumers may get what could not come before"
)

// comparison compares two documents.
type comparison struct {
	older, newer any
	seen         map[[2]string]bool // pairs of places that were compared, or are being compared
	breaks       []Break
}

// at is a place in both documents.
type at struct{ older, newer string }

func (p at) member(keys ...string) at {
	for _, k := range keys {
		k = strings.NewReplacer("~", "~0", "/", "~1").Replace(k)
		p.older, p.newer = p.older+"/"+k, p.newer+"/"+k
	}
	return p
}

func (c *comparison) add(pointer, format string, args ...any) {
	c.breaks = append(c.breaks, Break{pointer, fmt.Sprintf(format, args...)})
}

// annotations say nothing about what a message must be.
var annotations = []string{
	"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
	"$comment", "$defs", "definitions", "$schema", "$id", "$anchor", "$vocabulary",
}

// schemas compares two schemas; strict: also what is added is a break.
func (c *comparison) schemas(a, b any, p at, strict bool) {
	a, olderAt, okA := follow(c.older, a, p.older)
	b, newerAt, okB := follow(c.newer, b, p.newer)
	if !okA || !okB {
		c.add(p.newer, "uses a reference that cannot be followed here; write it as #/$defs/NAME")
		return
	}
	p = at{olderAt, newerAt}
	pair := [2]string{p.older, p.newer + strconv.FormatBool(strict)}
	if c.seen[pair] {
		return
	}
	c.seen[pair] = true
	x, y := object(a), object(b)
	switch {
	case x == nil && y == nil: // both refuse all
	case x == nil:
		c.add(p.newer, "may be there now: %s", wider)
	case y == nil:
		c.add(p.newer, "may not be there any more: %s", narrower)
	default:
		c.objects(x, y, p, strict)
	}
}

// object is a schema as an object, nil for the one that refuses everything.
func object(s any) map[string]any {
	switch s := s.(type) {
	case map[string]any:
		return s
	case bool:
		if s {
			return map[string]any{}
		}
	}
	return nil
}

// follow returns what a schema that is only a reference refers to.
func follow(root, s any, where string) (target any, pointer string, ok bool) {
	for range MaxDepth {
		o, isObject := s.(map[string]any)
		if !isObject {
			return s, where, true
		}
		if o["$dynamicRef"] != nil || o["$recursiveRef"] != nil {
			return s, where, false
		}
		ref, isRef := o["$ref"].(string)
		if !isRef {
			return s, where, true
		}
		for k := range o {
			if k != "$ref" && !slices.Contains(annotations, k) {
				return s, where, true // a reference with more beside it is compared as it is written
			}
		}
		if s, where, ok = lookup(root, ref); !ok {
			return s, where, false
		}
	}
	return s, where, false
}

// lookup finds what #/a/b refers to.
func lookup(root any, ref string) (any, string, bool) {
	pointer, ok := strings.CutPrefix(ref, "#")
	if !ok || pointer != "" && pointer[0] != '/' {
		return nil, "", false
	}
	v := root
	for _, token := range strings.Split(pointer, "/")[1:] {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		switch in := v.(type) {
		case map[string]any:
			v, ok = in[token]
		case []any:
			i, err := strconv.Atoi(token)
			if ok = err == nil && i >= 0 && i < len(in); ok {
				v = in[i]
			}
		default:
			ok = false
		}
		if !ok {
			return nil, "", false
		}
	}
	return v, pointer, true
}

// objects compares two schemas keyword by keyword.
func (c *comparison) objects(x, y map[string]any, p at, strict bool) {
	keywords := slices.Collect(maps.Keys(x))
	for k := range y {
		if _, both := x[k]; !both {
			keywords = append(keywords, k)
		}
	}
	for _, k := range keywords {
		if slices.Contains(annotations, k) || strings.HasPrefix(k, "x-") {
			continue
		}
		c.keyword(k, x, y, p.member(k), strict)
	}
}

func (c *comparison) keyword(k string, x, y map[string]any, p at, strict bool) {
	was, had := x[k]
	is, has := y[k]
	switch k {
	case "type":
		c.types(was, is, had, has, p)
	case "enum", "const":
		if k == "const" && (x["enum"] != nil || y["enum"] != nil) {
			return // compared with the enum
		}
		c.enums(x, y, p)
	case "required":
		c.required(texts(was), texts(is), p)
	case "properties":
		c.properties(members(was), members(is), y, p, strict)
	case "additionalProperties":
		c.additional(was, is, had, has, p, strict)
	case "items", "contains", "contentSchema":
		c.either(was, is, had, has, p, strict)
	case "minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains":
		c.bound(was, is, had, has, p, 1)
	case "maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains":
		c.bound(was, is, had, has, p, -1)
	case "uniqueItems":
		c.demand(was == true, is == true, true, p)
	case "pattern", "format", "multipleOf", "contentEncoding", "contentMediaType":
		c.demand(had, has, canonical(was) == canonical(is), p)
	case "allOf", "anyOf", "prefixItems":
		c.lists(was, is, p, strict)
	case "oneOf":
		c.lists(was, is, p, true)
	case "patternProperties", "dependentSchemas":
		c.maps(was, is, p, true)
	case "not", "if", "then", "else", "unevaluatedProperties", "unevaluatedItems", "propertyNames":
		c.either(was, is, had, has, p, true)
	default:
		if canonical(was) != canonical(is) {
			c.add(p.newer, "is different, and cannot be compared")
		}
	}
}

// demand compares keywords that a message either has to satisfy or not.
func (c *comparison) demand(had, has, same bool, p at) {
	switch {
	case !had && has:
		c.add(p.newer, "is new: %s", narrower)
	case had && !has:
		c.add(p.older, "is gone: %s", wider)
	case had && !same:
		c.add(p.newer, "is different: %s", narrower)
	}
}

// either compares schemas of which one may be missing, which allows everything.
func (c *comparison) either(was, is any, had, has bool, p at, strict bool) {
	switch {
	case had && has:
		c.schemas(was, is, p, strict)
	case had && canonical(was) != "true" && canonical(was) != "{}":
		c.demand(true, false, true, p)
	case has && canonical(is) != "true" && canonical(is) != "{}":
		c.demand(false, true, true, p)
	}
}

func (c *comparison) types(was, is any, had, has bool, p at) {
	if !had || !has {
		c.demand(had, has, true, p)
		return
	}
	older, newer := texts(was), texts(is)
	if narrowed := beyond(older, newer); len(narrowed) > 0 {
		c.add(p.newer, "does not allow %s any more: %s", strings.Join(narrowed, ", "), narrower)
	}
	if widened := beyond(newer, older); len(widened) > 0 {
		c.add(p.newer, "allows %s now: %s", strings.Join(widened, ", "), wider)
	}
}

// beyond are the types of a that b does not allow. An integer is a number.
func beyond(a, b []string) (out []string) {
	for _, t := range a {
		if !slices.Contains(b, t) && (t != "integer" || !slices.Contains(b, "number")) {
			out = append(out, t)
		}
	}
	return out
}

// enums compares what a value may be, listed by enum or const.
func (c *comparison) enums(x, y map[string]any, p at) {
	older, newer := listed(x), listed(y)
	if older == nil || newer == nil {
		c.demand(older != nil, newer != nil, true, p)
		return
	}
	for _, v := range older {
		if !slices.Contains(newer, v) {
			c.add(p.newer, "does not allow %s any more: %s", cut(v, mostShown), narrower)
		}
	}
	for _, v := range newer {
		if !slices.Contains(older, v) {
			c.add(p.newer, "allows %s now: %s", cut(v, mostShown), wider)
		}
	}
}

func listed(s map[string]any) []string {
	values, ok := s["enum"].([]any)
	if v, is := s["const"]; is {
		values, ok = []any{v}, true
	}
	if !ok {
		return nil
	}
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = canonical(v)
	}
	return out
}

func (c *comparison) required(was, is []string, p at) {
	for _, name := range is {
		if !slices.Contains(was, name) {
			c.add(p.newer, "asks for %s now: messages that are stored, or that publishers send still, may lack it", short(name))
		}
	}
	for _, name := range was {
		if !slices.Contains(is, name) {
			c.add(p.newer, "does not ask for %s any more: consumers may miss it", short(name))
		}
	}
}

func (c *comparison) properties(was, is, y map[string]any, p at, strict bool) {
	for name, s := range was {
		if t, still := is[name]; still {
			c.schemas(s, t, p.member(name), strict)
			continue
		}
		reason := "is not described any more: consumers may get anything there"
		if y["additionalProperties"] == false {
			reason = "is gone: messages that have it are refused, and consumers may miss it"
		}
		c.add(p.member(name).older, "%s", reason)
	}
	for name := range is {
		if _, known := was[name]; !known && strict {
			c.add(p.member(name).newer, "is new where every difference counts")
		}
	}
}

func (c *comparison) additional(was, is any, had, has bool, p at, strict bool) {
	closed := func(v any, there bool) bool { return there && v == false }
	switch {
	case closed(was, had) && closed(is, has):
	case closed(was, had):
		if strict {
			c.add(p.newer, "is different where every difference counts")
		}
	case closed(is, has):
		c.add(p.newer, "allows no properties but those described now: %s", narrower)
	default:
		c.either(was, is, had, has, p, strict)
	}
}

// bound compares limits; a newer one that is larger is narrower if sign is 1, wider
// if it is -1.
func (c *comparison) bound(was, is any, had, has bool, p at, sign int) {
	if !had || !has {
		c.demand(had, has, true, p)
		return
	}
	a, okA := rational(was)
	b, okB := rational(is)
	if !okA || !okB {
		c.demand(true, true, canonical(was) == canonical(is), p)
		return
	}
	switch order := b.Cmp(a) * sign; {
	case order > 0:
		c.add(p.newer, "is narrower: %s", narrower)
	case order < 0:
		c.add(p.newer, "is wider: %s", wider)
	}
}

func rational(v any) (*big.Rat, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, false
	}
	return new(big.Rat).SetString(n.String())
}

func (c *comparison) lists(was, is any, p at, strict bool) {
	a, _ := was.([]any)
	b, _ := is.([]any)
	if len(a) != len(b) {
		c.add(p.newer, "has %d schemas, had %d", len(b), len(a))
		return
	}
	for i := range a {
		c.schemas(a[i], b[i], p.member(strconv.Itoa(i)), strict)
	}
}

func (c *comparison) maps(was, is any, p at, strict bool) {
	a, b := members(was), members(is)
	for k := range a {
		if _, both := b[k]; both {
			c.schemas(a[k], b[k], p.member(k), strict)
		} else {
			c.add(p.member(k).older, "is gone: %s", wider)
		}
	}
	for k := range b {
		if _, both := a[k]; !both {
			c.add(p.member(k).newer, "is new: %s", narrower)
		}
	}
}

func members(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// texts are the texts of a list; a text is a list of one.
func texts(v any) (out []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, t := range v {
			if s, ok := t.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// canonical writes a value in one way: the keys sorted, numbers as they are.
func canonical(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
