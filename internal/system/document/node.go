package document

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a node of the document is.
type Kind int

// The kinds of nodes.
const (
	Null Kind = iota // nothing, null or ~
	Text
	Integer
	Number // not whole
	Boolean
	List
	Mapping
)

var kindNames = map[Kind]string{
	Null: "nothing", Text: "text", Integer: "a number", Number: "a number",
	Boolean: "true or false", List: "a list", Mapping: "a map",
}

// String returns the kind in words for a person: "a list".
func (k Kind) String() string { return kindNames[k] }

// Place is where something stands in the document.
type Place struct {
	Line   int // from 1
	Column int // from 1, in characters; behind some texts of several lines it may be too high
}

// String returns the place in words for a person: "line 12:7".
func (p Place) String() string { return "line " + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column) }

// Node is one value of the document with the place where it was written. Nodes are
// not changed once made: merging makes new ones that share the unchanged parts.
type Node struct {
	Kind  Kind
	Text  string  // of a scalar: as written, quotes and escapes resolved
	Items []*Node // of a list, or the members of a mapping in the file's order

	At    Place  // of the value
	Key   string // of a member of a mapping
	KeyAt Place  // of that key; of a list's item: same as at
	Path  string // in the file: environments.production.services.api

	words int // of a whole document that was read line by line, else 0
}

// Member returns the value of a key, nil if there is none or n is nil or no mapping.
func (n *Node) Member(key string) *Node {
	if n == nil || n.Kind != Mapping {
		return nil
	}
	for _, m := range n.Items {
		if m.Key == key {
			return m
		}
	}
	return nil
}

// Item returns the entry of a list that holds text; a scalar is a list of one.
func (n *Node) Item(text string) *Node {
	for _, item := range n.Items {
		if item.Text == text {
			return item
		}
	}
	return n
}

// Keys returns the keys of a mapping in their order; others, and nil, have none.
func (n *Node) Keys() []string {
	var keys []string
	if n != nil && n.Kind == Mapping {
		for _, m := range n.Items {
			keys = append(keys, m.Key)
		}
	}
	return keys
}

// Scalar reports whether the node is a text, a number, true or false.
func (n *Node) Scalar() bool {
	return n.Kind == Text || n.Kind == Integer || n.Kind == Number || n.Kind == Boolean
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

// Join appends a key to a path: services.api, routes."GET /".
func Join(path, key string) string {
	if !plainKey(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// Merge lays over upon base: maps merge, scalars and lists replace, null removes.
// Removing what is not there is told to lost.
func Merge(base, over *Node, lost func(*Node)) *Node {
	if base.Kind != Mapping || over.Kind != Mapping {
		return over
	}
	merged := *base
	merged.Items = slices.Clone(base.Items)
	index := make(map[string]int, len(base.Items))
	for i, m := range merged.Items {
		index[m.Key] = i
	}
	for _, m := range over.Items {
		i, ok := index[m.Key]
		switch {
		case m.Kind == Null && !ok:
			lost(m)
		case m.Kind == Null:
			merged.Items[i] = nil
		case ok:
			merged.Items[i] = Merge(merged.Items[i], m, lost)
		default:
			merged.Items = append(merged.Items, withoutNulls(m, lost))
		}
	}
	merged.Items = slices.DeleteFunc(merged.Items, func(m *Node) bool { return m == nil })
	return &merged
}

// withoutNulls is [Merge] upon nothing.
func withoutNulls(n *Node, lost func(*Node)) *Node {
	if n.Kind != Mapping {
		return n
	}
	empty := *n
	empty.Items = nil
	return Merge(&empty, n, lost)
}

// Leaf is a scalar or a list, written in one way, or a map that holds nothing.
type Leaf struct {
	Path  string // from the node that was asked; "" for that itself
	Value string
}

// Leaves returns what a node holds, in the file's order.
func (n *Node) Leaves() []Leaf {
	var leaves []Leaf
	var walk func(path string, n *Node)
	walk = func(path string, n *Node) {
		if n.Kind != Mapping || len(n.Items) == 0 {
			leaves = append(leaves, Leaf{path, canonical(n)})
			return
		}
		for _, m := range n.Items {
			walk(Join(path, m.Key), m)
		}
	}
	walk("", n)
	return leaves
}

// canonical writes a value in one way: scalars as they are, the rest as JSON, the
// keys of maps sorted, with scalars quoted only where they must be.
func canonical(n *Node) string {
	if n.Scalar() {
		return n.Text
	}
	var b strings.Builder
	var write func(n *Node)
	write = func(n *Node) {
		switch n.Kind {
		case Null:
			b.WriteString("null")
		case List:
			b.WriteByte('[')
			for i, item := range n.Items {
				if i > 0 {
					b.WriteString(", ")
				}
				write(item)
			}
			b.WriteByte(']')
		case Mapping:
			b.WriteByte('{')
			members := make(map[string]*Node, len(n.Items))
			for _, m := range n.Items {
				members[m.Key] = m
			}
			for i, key := range slices.Sorted(maps.Keys(members)) {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(Join("", key) + ": ")
				write(members[key])
			}
			b.WriteByte('}')
		default:
			if n.Kind == Text && (n.Text == "" || strings.ContainsAny(n.Text, ",[]{}\"\n") || strings.TrimSpace(n.Text) != n.Text) {
				b.WriteString(strconv.Quote(n.Text))
				return
			}
			b.WriteString(n.Text)
		}
	}
	write(n)
	return b.String()
}

// Plain returns a node as plain Go data: maps, lists, text, int64, float64, bool, nil.
func (n *Node) Plain() any {
	switch n.Kind {
	case Mapping:
		return n.PlainMap()
	case List:
		out := make([]any, 0, len(n.Items))
		for _, item := range n.Items {
			out = append(out, item.Plain())
		}
		return out
	case Text:
		return n.Text
	case Boolean:
		return n.Text == "true"
	case Integer:
		if v, err := strconv.ParseInt(strings.ReplaceAll(n.Text, "_", ""), 0, 64); err == nil {
			return v
		}
		return floatOr(n.Text)
	case Number:
		return floatOr(n.Text)
	case Null:
	}
	return nil
}

// PlainMap returns the members of a mapping as [Node.Plain] does.
func (n *Node) PlainMap() map[string]any {
	out := make(map[string]any, len(n.Items))
	for _, m := range n.Items {
		out[m.Key] = m.Plain()
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
