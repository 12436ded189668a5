package match

import (
	"maps"
	"slices"
	"strings"
)

// Next returns the table of other patterns, which must not change after that, with
// the errors of [New]. What the two tables have in common they share: after a small
// change to many patterns that is a hundredth of the work of a new one. If the
// patterns are the same it is m itself. A nil m is a table of none.
func (m *Table) Next(patterns []Pattern) (*Table, error) {
	if m == nil {
		return New(patterns)
	}
	old := m.patterns
	before, after := 0, 0 // how many are the same at the beginning and at the end
	for before < min(len(old), len(patterns)) && old[before] == patterns[before] {
		before++
	}
	if before == len(old) && before == len(patterns) {
		return m, nil
	}
	for after < min(len(old), len(patterns))-before && old[len(old)-1-after] == patterns[len(patterns)-1-after] {
		after++
	}
	gone, come := old[before:len(old)-after], patterns[before:len(patterns)-after]
	if len(gone)+len(come) > len(patterns)/4 || len(m.at) > 2*len(patterns) {
		return New(patterns)
	}
	c := &change{
		Table: &Table{
			hosts: maps.Clone(m.hosts), labels: maps.Clone(m.labels), any: m.any,
			patterns: patterns, methods: methodsOf(patterns), at: make([]int32, len(m.at), len(m.at)+len(come)),
		},
		own: map[*node]bool{},
	}
	for slot, index := range m.at {
		switch i := int(index); {
		case i < before: // or none
		case i < before+len(gone):
			if err := c.drop(&old[i], int32(slot)); err != nil {
				return New(patterns)
			}
			index = -1
		default:
			index += int32(len(come) - len(gone))
		}
		c.at[slot] = index
	}
	for i := range come {
		// A copy: what lies around it in memory, a whole file, is not kept alive.
		p := come[i]
		p.Key, p.Method, p.Host, p.Path = strings.Clone(p.Key), strings.Clone(p.Method), strings.Clone(p.Host), strings.Clone(p.Path)
		segments, err := appendSegments(c.scratch[:0], p.Path)
		if err != nil {
			return New(patterns) // which reports all that is wrong
		}
		c.scratch = segments
		c.unshareRoot(p.Host, segments)
		if err := c.add(&p, before+i); err != nil {
			return New(patterns)
		}
	}
	c.scratch = nil
	return c.Table, nil
}

// change makes a table out of another one, of which it copies the nodes on the way
// to what differs.
type change struct {
	*Table
	own map[*node]bool // nodes that no other table has
}

// unshareRoot makes the nodes on the way of a path the table's own.
func (c *change) unshareRoot(host string, segments []segment) {
	table, name := c.named(host)
	switch {
	case table == nil:
		c.any = c.unshare(c.any, segments)
	case table[name] != nil:
		table[name] = c.unshare(table[name], segments)
	}
}

// unshare returns n, or a copy, with all that is on the way of a path copied too.
func (c *change) unshare(n *node, segments []segment) *node {
	if !c.own[n] {
		again := *n
		again.few, again.literals = slices.Clone(n.few), maps.Clone(n.literals)
		n = &again
		c.own[n] = true
	}
	if len(segments) == 0 {
		n.here = n.here.copy()
		return n
	}
	switch s := segments[0]; s.kind {
	case literal:
		if next := n.literal(s.text); next != nil {
			n.setLiteral(s.text, c.unshare(next, segments[1:]))
		}
	case single:
		if n.wild != nil {
			n.wild = c.unshare(n.wild, segments[1:])
		}
	case rest:
		n.below = n.below.copy()
	case end:
		n.slash = n.slash.copy()
	}
	return n
}

func (l *leaf) copy() *leaf {
	if l == nil {
		return nil
	}
	return &leaf{slices.Clone(l.entries)}
}

// setLiteral replaces the node of a literal, nil takes it away.
func (n *node) setLiteral(text string, next *node) {
	switch i := slices.IndexFunc(n.few, func(c child) bool { return c.text == text }); {
	case next == nil && n.literals != nil:
		delete(n.literals, text)
	case n.literals != nil:
		n.literals[text] = next
	case next == nil:
		n.few = slices.Delete(n.few, i, i+1)
	default:
		n.few[i].node = next
	}
}

// drop takes a pattern away.
func (c *change) drop(p *Pattern, slot int32) error {
	segments, err := appendSegments(c.scratch[:0], p.Path)
	if err != nil {
		return err
	}
	c.scratch = segments
	c.unshareRoot(p.Host, segments)
	table, name := c.named(p.Host)
	if table == nil {
		c.any.drop(segments, slot)
	} else if table[name].drop(segments, slot) {
		delete(table, name)
	}
	return nil
}

// drop takes the entry of a slot away, and reports whether nothing is left of n.
// All nodes on the way are the table's own.
func (n *node) drop(segments []segment, slot int32) bool {
	if len(segments) == 0 {
		n.here = n.here.without(slot)
	} else {
		switch s := segments[0]; s.kind {
		case literal:
			if n.literal(s.text).drop(segments[1:], slot) {
				n.setLiteral(s.text, nil)
			}
		case single:
			if n.wild.drop(segments[1:], slot) {
				n.wild = nil
			}
		case rest:
			n.below = n.below.without(slot)
		case end:
			n.slash = n.slash.without(slot)
		}
	}
	n.blurred = n.wild != nil || n.below != nil
	for _, c := range n.few {
		n.blurred = n.blurred || c.node.blurred
	}
	for _, next := range n.literals {
		if n.blurred {
			break
		}
		n.blurred = next.blurred
	}
	return n.here == nil && n.slash == nil && n.below == nil && n.wild == nil && len(n.few)+len(n.literals) == 0
}

// without takes the entry of a slot out of the leaf, which is nil if none is left.
func (l *leaf) without(slot int32) *leaf {
	l.entries = slices.DeleteFunc(l.entries, func(e entry) bool { return e.slot == slot })
	if len(l.entries) == 0 {
		return nil
	}
	return l
}
