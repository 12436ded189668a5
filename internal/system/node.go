package system

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// kind is what a node of the document is.
type kind int

const (
	null kind = iota
	text
	integer
	number // not whole
	boolean
	list
	mapping
)

var kindNames = map[kind]string{
	null: "nothing", text: "text", integer: "a number", number: "a number",
	boolean: "true or false", list: "a list", mapping: "a map",
}

func (k kind) String() string { return kindNames[k] }

// node is one value of the document with the place where it was written. Nodes are
// not changed once made: merging makes new ones that share the unchanged parts.
type node struct {
	kind  kind
	text  string  // of a scalar: as written, quotes and escapes resolved
	items []*node // of a list, or the members of a mapping in the file's order

	at    place  // of the value
	key   string // of a member of a mapping
	keyAt place  // of that key; of a list's item: same as at
	path  string // in the file: environments.production.services.api
}

// member returns the value of a key, nil if there is none.
func (n *node) member(key string) *node {
	if n == nil || n.kind != mapping {
		return nil
	}
	for _, m := range n.items {
		if m.key == key {
			return m
		}
	}
	return nil
}

// item returns the entry of a list that holds text; a scalar is a list of one.
func (n *node) item(text string) *node {
	for _, item := range n.items {
		if item.text == text {
			return item
		}
	}
	return n
}

func (n *node) keys() []string {
	var keys []string
	if n != nil && n.kind == mapping {
		for _, m := range n.items {
			keys = append(keys, m.key)
		}
	}
	return keys
}

func (n *node) scalar() bool {
	return n.kind == text || n.kind == integer || n.kind == number || n.kind == boolean
}

// plainKey reports whether a key can stand in a path without quotes.
func plainKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// join appends a key to a path: services.api, routes."GET /".
func join(path, key string) string {
	if !plainKey(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// merge lays over upon base: maps merge, scalars and lists replace, null removes.
// Removing what is not there is told to lost.
func merge(base, over *node, lost func(*node)) *node {
	if base.kind != mapping || over.kind != mapping {
		return over
	}
	merged := *base
	merged.items = slices.Clone(base.items)
	index := make(map[string]int, len(base.items))
	for i, m := range merged.items {
		index[m.key] = i
	}
	for _, m := range over.items {
		i, ok := index[m.key]
		switch {
		case m.kind == null && !ok:
			lost(m)
		case m.kind == null:
			merged.items[i] = nil
		case ok:
			merged.items[i] = merge(merged.items[i], m, lost)
		default:
			merged.items = append(merged.items, withoutNulls(m, lost))
		}
	}
	merged.items = slices.DeleteFunc(merged.items, func(m *node) bool { return m == nil })
	return &merged
}

// withoutNulls is merge upon nothing.
func withoutNulls(n *node, lost func(*node)) *node {
	if n.kind != mapping {
		return n
	}
	empty := *n
	empty.items = nil
	return merge(&empty, n, lost)
}

// flatten returns the scalars and lists of a document by path.
func flatten(n *node) map[string]string {
	flat := map[string]string{}
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		if n.kind != mapping || len(n.items) == 0 {
			flat[path] = canonical(n)
			return
		}
		for _, m := range n.items {
			walk(join(path, m.key), m)
		}
	}
	for _, m := range n.items {
		walk(join("", m.key), m)
	}
	return flat
}

// canonical writes a value in one way: scalars as they are, the rest as JSON, the
// keys of maps sorted, with scalars quoted only where they must be.
func canonical(n *node) string {
	if n.scalar() {
		return n.text
	}
	var b strings.Builder
	var write func(n *node)
	write = func(n *node) {
		switch n.kind {
		case null:
			b.WriteString("null")
		case list:
			b.WriteByte('[')
			for i, item := range n.items {
				if i > 0 {
					b.WriteString(", ")
				}
				write(item)
			}
			b.WriteByte(']')
		case mapping:
			b.WriteByte('{')
			members := make(map[string]*node, len(n.items))
			for _, m := range n.items {
				members[m.key] = m
			}
			for i, key := range slices.Sorted(maps.Keys(members)) {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(join("", key) + ": ")
				write(members[key])
			}
			b.WriteByte('}')
		default:
			if n.kind == text && (n.text == "" || strings.ContainsAny(n.text, ",[]{}\"\n") || strings.TrimSpace(n.text) != n.text) {
				b.WriteString(strconv.Quote(n.text))
				return
			}
			b.WriteString(n.text)
		}
	}
	write(n)
	return b.String()
}

// plain returns a node as plain Go data: maps, lists, text, int64, float64, bool, nil.
func plain(n *node) any {
	switch n.kind {
	case mapping:
		return plainMap(n)
	case list:
		out := make([]any, 0, len(n.items))
		for _, item := range n.items {
			out = append(out, plain(item))
		}
		return out
	case text:
		return n.text
	case boolean:
		return n.text == "true"
	case integer:
		if v, err := strconv.ParseInt(strings.ReplaceAll(n.text, "_", ""), 0, 64); err == nil {
			return v
		}
		return floatOr(n.text)
	case number:
		return floatOr(n.text)
	case null:
	}
	return nil
}

func plainMap(n *node) map[string]any {
	out := make(map[string]any, len(n.items))
	for _, m := range n.items {
		out[m.key] = plain(m)
	}
	return out
}

// floatOr reads a number; what is none for JSON, as .inf, stays text.
func floatOr(s string) any {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		return s
	}
	return v
}
