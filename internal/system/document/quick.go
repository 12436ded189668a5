package document

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// The YAML library takes the square of the time for the keys of one map, and much for
// each word: 5,000 routes take a fifth of a second. So a file of what people write
// most, keys and values of one line in plain letters, is read here, and the library
// reads every other, and all in which something is wrong: every finding about the text
// is the library's. FuzzQuick compares the two.

// quickly reads a document. It reports false if that is the library's to do.
func quickly(src string) (*Node, bool) {
	if strings.ContainsRune(src, '\r') { // which ends a line, too
		return nil, false
	}
	q := quick{src: src, line: 1}
	if c := q.peek(); !letter(c) && c != '_' && !q.next() {
		return nil, false
	}
	root, ok := q.blockMap("")
	if ok {
		root.words = q.words
	}
	return root, ok && q.done && q.words <= MaxWords
}

// quick reads lines. Each of its methods reports false on whatever it does not know
// for certain; then the library reads the file.
type quick struct {
	src   string
	pos   int
	line  int
	start int // where the line begins
	words int
	depth int
	done  bool // nothing is left
}

func (q *quick) column() int { return q.pos - q.start + 1 }

func (q *quick) place() Place { return Place{q.line, q.column()} }

// peek is the character that comes next, 0 at the end.
func (q *quick) peek() byte {
	if q.pos < len(q.src) {
		return q.src[q.pos]
	}
	return 0
}

func (q *quick) spaces() {
	for q.peek() == ' ' {
		q.pos++
	}
}

// breakLine steps over the end of a line.
func (q *quick) breakLine() {
	q.pos++
	q.line++
	q.start = q.pos
}

// next steps to what comes first on a later line, past comments. Only those may
// stand before.
func (q *quick) next() bool {
	for {
		blank := q.pos == q.start
		for q.peek() == ' ' {
			q.pos++
			blank = true
		}
		switch c := q.peek(); {
		case q.pos == len(q.src):
			q.done = true
			return true
		case c == '#' && blank:
			q.words++
			if i := strings.IndexByte(q.src[q.pos:], '\n'); i >= 0 {
				q.pos += i
			} else {
				q.pos = len(q.src)
			}
		case c == '\n':
			q.breakLine()
			q.spaces()
			if c := q.peek(); c != 0 && c != '\n' && c != '#' {
				return true
			}
			q.pos = q.start
		default:
			return false
		}
	}
}

// blockMap reads the keys that stand in the column of the one that comes next.
func (q *quick) blockMap(path string) (*Node, bool) {
	out := &Node{Kind: Mapping, Path: path, At: q.place()}
	column := q.column()
	if q.depth++; q.depth > MaxDepth/2 {
		return nil, false
	}
	known := map[string]bool{}
	for {
		m := &Node{KeyAt: q.place()}
		if !q.key(m, false) || known[m.Key] || len(out.Items) == MaxKeys {
			return nil, false
		}
		known[m.Key] = true
		m.Path = Join(path, m.Key)
		if !q.blockValue(m, column) {
			return nil, false
		}
		out.Items = append(out.Items, m)
		if q.done || q.column() < column {
			q.depth--
			return out, true
		}
		if q.column() > column {
			return nil, false
		}
	}
}

// blockValue reads the value of a key of a block map in that column, and steps to the
// line after it.
func (q *quick) blockValue(m *Node, column int) bool {
	q.spaces()
	if c := q.peek(); c != 0 && c != '\n' && c != '#' {
		return q.value(m, column, false)
	}
	if !q.next() {
		return false
	}
	switch {
	case !q.done && q.column() >= column && strings.HasPrefix(q.src[q.pos:], "- "):
		return q.blockList(m)
	case !q.done && q.column() > column:
		in, ok := q.blockMap(m.Path)
		if ok {
			m.Kind, m.Items, m.At = in.Kind, in.Items, in.At
		}
		return ok
	}
	m.Kind, m.At = Null, m.KeyAt
	return true
}

// blockList reads the items that stand in the column of the one that comes next.
func (q *quick) blockList(m *Node) bool {
	column := q.column()
	m.Kind, m.At = List, q.place()
	if q.depth++; q.depth > MaxDepth/2 {
		return false
	}
	for !q.done && q.column() == column && strings.HasPrefix(q.src[q.pos:], "- ") {
		q.pos++
		q.words++
		q.spaces()
		item := &Node{Path: fmt.Sprintf("%s[%d]", m.Path, len(m.Items)), At: q.place()}
		item.KeyAt = item.At
		if q.keyed() {
			in, ok := q.blockMap(item.Path)
			if !ok {
				return false
			}
			item.Kind, item.Items = in.Kind, in.Items
		} else if !q.value(item, column, false) {
			return false
		}
		m.Items = append(m.Items, item)
	}
	q.depth--
	return q.done || q.column() < column || q.column() == column && column > 1
}

// keyed reports whether a key comes next.
func (q *quick) keyed() bool {
	ahead := *q
	return ahead.key(&Node{}, false)
}

// value reads a value that begins on this line. In a block, it steps to the line after
// it, which must not go on with the value: it is not deeper than column.
func (q *quick) value(m *Node, column int, flow bool) bool {
	m.At = q.place()
	var ok bool
	switch c := q.peek(); c {
	case '{':
		ok = q.flowMap(m)
	case '[':
		ok = q.flowList(m)
	case '"', '\'':
		m.Kind = Text
		m.Text, ok = q.quoted()
	default:
		ok = q.plain(m, flow)
	}
	if !ok || flow {
		return ok
	}
	return q.next() && (q.done || q.column() <= column)
}

// key reads a key and the colon after it.
func (q *quick) key(m *Node, flow bool) bool {
	var ok bool
	if c := q.peek(); c == '"' || c == '\'' {
		m.Key, ok = q.quoted()
	} else {
		m.Key, ok = q.plainKey(flow)
	}
	if !ok || m.Key == "" || q.peek() != ':' {
		return false
	}
	q.pos++
	q.words++
	c := q.peek()
	return c == ' ' || !flow && (c == '\n' || c == 0)
}

// plainKey reads a key without quotes up to its colon.
func (q *quick) plainKey(flow bool) (string, bool) {
	begin := q.pos
	if c := q.peek(); !letter(c) && !digit(c) && c != '/' && c != '_' {
		return "", false
	}
	for ; q.peek() != ':'; q.pos++ {
		c := q.peek()
		if !letter(c) && !digit(c) && strings.IndexByte("/_-.$* ", c) < 0 && (flow || c != '{' && c != '}') {
			return "", false
		}
	}
	key := q.src[begin:q.pos]
	q.words++
	if strings.HasSuffix(key, " ") {
		return "", false
	}
	switch scalarKind(key) {
	case Text:
		return key, true
	case Integer:
		return key, strings.Trim(key, "0123456789") == ""
	default:
		return "", false
	}
}

// quoted reads a text in quotes that ends on this line and holds no escapes.
func (q *quick) quoted() (string, bool) {
	quote := q.src[q.pos]
	for i := q.pos + 1; i < len(q.src); i++ {
		switch c := q.src[i]; {
		case c == quote:
			s := q.src[q.pos+1 : i]
			q.pos = i + 1
			q.words++
			return s, q.peek() != quote
		case c == '\\' || c < ' ' || c > '~':
			return "", false
		}
	}
	return "", false
}

// plain reads a scalar without quotes that ends on this line.
func (q *quick) plain(m *Node, flow bool) bool {
	begin, end := q.pos, q.pos
	if c := q.peek(); !letter(c) && !digit(c) && c != '/' && c != '.' && c != '_' && c != '$' {
		return false
	}
loop:
	for ; q.pos < len(q.src); q.pos++ {
		switch c := q.src[q.pos]; {
		case c == '\n' || c == ',' && flow || c == '}' && flow || c == ']' && flow:
			break loop
		case c == '#' && q.pos > end:
			q.pos = end // what comes after it is a comment
			break loop
		case c == ' ':
			continue
		case c < ' ' || c > '~' || flow && (c == '{' || c == '['):
			return false
		case c == ':':
			// In brackets the library takes a:1 for a key and its value, or not.
			if after := q.pos + 1; flow || after == len(q.src) || strings.IndexByte(" \n,[]{}", q.src[after]) >= 0 {
				return false
			}
		}
		end = q.pos + 1
	}
	m.Text = q.src[begin:end]
	m.Kind = scalarKind(m.Text)
	q.words++
	switch m.Kind {
	case Null:
		m.Text, m.At = "", m.KeyAt
	case Boolean:
		m.Text = strings.ToLower(m.Text)
	default:
	}
	return true
}

// flowSpace steps over spaces and ends of lines in brackets.
func (q *quick) flowSpace() {
	for {
		switch q.peek() {
		case ' ':
			q.pos++
		case '\n':
			q.breakLine()
		default:
			return
		}
	}
}

func (q *quick) flowMap(m *Node) bool {
	const most = 64 // more take the library's time, not the square of it here
	m.Kind = Mapping
	return q.flow('}', func() bool {
		in := &Node{KeyAt: q.place()}
		if !q.key(in, true) || m.Member(in.Key) != nil || len(m.Items) == most {
			return false
		}
		in.Path = Join(m.Path, in.Key)
		m.Items = append(m.Items, in)
		q.flowSpace()
		return q.value(in, 0, true)
	})
}

func (q *quick) flowList(m *Node) bool {
	m.Kind = List
	return q.flow(']', func() bool {
		item := &Node{Path: fmt.Sprintf("%s[%d]", m.Path, len(m.Items)), KeyAt: q.place()}
		m.Items = append(m.Items, item)
		return q.value(item, 0, true)
	})
}

// flow reads entries with commas between, up to the bracket that closes them.
func (q *quick) flow(closing byte, entry func() bool) bool {
	if q.depth++; q.depth > MaxDepth/2 {
		return false
	}
	q.pos++
	q.words += 2
	q.flowSpace()
	for q.peek() != closing {
		if !entry() {
			return false
		}
		q.flowSpace()
		switch q.peek() {
		case ',':
			q.pos++
			q.words++
			if q.flowSpace(); q.peek() == closing {
				return false
			}
		case closing:
		default:
			return false
		}
	}
	q.pos++
	q.depth--
	return true
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func digit(c byte) bool { return c >= '0' && c <= '9' }

// scalarKind is what a scalar without quotes is.
func scalarKind(s string) Kind {
	if letter(s[0]) && strings.IndexByte("nNtTfF", s[0]) < 0 || s[0] == '/' {
		return Text // as the library finds out, in more time
	}
	switch token.New(s, s, nil).Type {
	case token.NullType:
		return Null
	case token.BoolType:
		return Boolean
	case token.IntegerType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType:
		return Integer
	case token.FloatType, token.InfinityType, token.NanType:
		return Number
	default:
		return Text
	}
}
