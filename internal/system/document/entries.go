package document

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Entries are where the members of a block map lie in a document, each from the start
// of the line of its key up to that of the next, with the comments between.
type Entries struct {
	Path   string // of the map
	Starts []int  // offsets in bytes
	End    int    // where the last one ends

	column int // of the keys, from 1
	words  int // of the document, at most
}

// EntriesOf finds the entries of a member of root, which was read from src. It reports
// false if their texts may depend on what is around them: only those do not that were
// read line by line.
func EntriesOf(src []byte, root *Node, key string) (Entries, bool) {
	m := root.Member(key)
	if root.words == 0 || m == nil || m.Kind != Mapping || len(m.Items) == 0 || m.At != m.Items[0].KeyAt || bytes.HasPrefix(src, bom) {
		return Entries{}, false
	}
	e := Entries{Path: m.Path, End: len(src), column: m.At.Column, words: root.words}
	after := 0 // the line of what comes after the map
	for i, other := range root.Items {
		if other == m && i+1 < len(root.Items) {
			after = root.Items[i+1].KeyAt.Line
		}
	}
	e.Starts = starts(make([]int, 0, len(m.Items)), src, 0, m.Items)
	if after > 0 {
		e.End = starts(nil, src, 0, []*Node{{KeyAt: Place{Line: after}}})[0]
	}
	return e, len(e.Starts) == len(m.Items)
}

// starts appends where the lines of the members' keys begin in a text that lies at
// offset.
func starts(list []int, text []byte, offset int, members []*Node) []int {
	line, next := 0, 0
	for l := range bytes.Lines(text) {
		line++
		if next < len(members) && members[next].KeyAt.Line == line {
			list = append(list, offset)
			next++
		}
		offset += len(l)
	}
	return list
}

// At is where an entry begins; that after the last one begins where they end.
func (e *Entries) At(i int) int {
	if i == len(e.Starts) {
		return e.End
	}
	return e.Starts[i]
}

// Replace reads the text that stands for the entries from first up to last, exclusive,
// and returns its members, and where the entries are then. Places in the members count
// from the start of the text. It reports false on whatever it does not know for
// certain; then the whole document is to be read.
func (e *Entries) Replace(first, last int, text []byte) (Entries, []*Node, bool) {
	members, words, ok := e.read(text)
	if !ok {
		return Entries{}, nil, false
	}
	begin, end := e.At(first), e.At(last)
	longer := len(text) - (end - begin)
	out := *e
	out.words, out.End = words, e.End+longer
	out.Starts = make([]int, 0, len(e.Starts)-(last-first)+len(members))
	out.Starts = starts(append(out.Starts, e.Starts[:first]...), text, begin, members)
	for _, start := range e.Starts[last:] {
		out.Starts = append(out.Starts, start+longer)
	}
	return out, members, true
}

// read reads the text of entries.
func (e *Entries) read(text []byte) (members []*Node, words int, ok bool) {
	if !utf8.Valid(text) || bytes.IndexByte(text, '\r') >= 0 {
		return nil, 0, false
	}
	q := quick{src: string(text), line: 1, depth: 1, words: e.words}
	q.spaces()
	if c := q.peek(); c == 0 || strings.IndexByte("\n#", c) >= 0 {
		if q.pos = 0; !q.next() {
			return nil, 0, false
		}
	}
	if q.done {
		return nil, q.words, true
	}
	if q.column() != e.column {
		return nil, 0, false
	}
	m, ok := q.blockMap(e.Path)
	if !ok || !q.done || q.words > MaxWords {
		return nil, 0, false
	}
	return m.Items, q.words, true
}
