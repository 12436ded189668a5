package document

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"fairlead/internal/system/wording"
)

// The bounds of a document. The YAML library needs quadratic time for the keys of one
// map and recursion for nesting, hence both are bounded before it runs.
const (
	MaxSize  = 1 << 20 // bytes
	MaxWords = 200_000 // tokens
	MaxDepth = 32      // maps and lists within each other
	MaxKeys  = 5_000   // of one block map
)

// bom may stand before a document.
var bom = []byte("\ufeff")

// Read reads a document. What is wrong with it is told to tell in the order in which it
// is found, which is not that of the places. Read returns nil if src cannot be judged
// further; then something was told. A document that holds nothing is a node of the kind
// Null.
func Read(src []byte, tell func(Fault)) *Node {
	r := report(tell)
	if len(src) > MaxSize {
		r.add(Place{1, 1}, "", fileTooLarge, "1 MiB")
		return nil
	}
	if !utf8.Valid(src) {
		r.add(firstInvalid(src), "", notText)
		return nil
	}
	src = bytes.TrimPrefix(src, bom)
	if root, ok := quickly(string(src)); ok {
		return root
	}
	return thorough(string(src), r)
}

// thorough reads YAML with the library, as [Read] does.
func thorough(src string, r report) (root *Node) {
	tokens := lexer.Tokenize(src)
	if !bounded(tokens, r) {
		return nil
	}
	file, err := parse(tokens)
	if err != nil {
		fault := syntaxFault{Place{1, 1}, wording.OneLine(err.Error()), "check indentation, quotes and brackets"}
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok {
			fault = judgeSyntax(src, tokens, syntax)
		}
		r(Fault{At: fault.at, Code: syntaxError, Problem: fault.problem, Advice: fault.advice})
		return nil
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			r.add(begin(doc.Body), "", secondDocument)
			return nil
		}
		root = convert(doc.Body, "", r)
	}
	if root == nil {
		return &Node{At: Place{1, 1}}
	}
	return root
}

// parse is the library's parser, whose panics on malformed input become errors.
func parse(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			file, err = nil, fmt.Errorf("is no YAML that can be understood (%v)", p)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// firstInvalid is the place of the first byte that is not UTF-8.
func firstInvalid(src []byte) Place {
	at := Place{1, 1}
	for len(src) > 0 {
		r, size := utf8.DecodeRune(src)
		if r == utf8.RuneError && size == 1 {
			break
		}
		at.Column++
		if r == '\n' {
			at = Place{at.Line + 1, 1}
		}
		src = src[size:]
	}
	return at
}

func placeOf(t *token.Token) Place {
	if t == nil || t.Position == nil {
		return Place{1, 1}
	}
	return Place{t.Position.Line, t.Position.Column}
}

// refused are the parts of YAML that this file does without.
var refused = map[token.Type]string{
	token.AnchorType:     "an anchor (&)",
	token.AliasType:      "an alias (*)",
	token.MergeKeyType:   "a merge key (<<)",
	token.TagType:        "a tag (!)",
	token.DirectiveType:  "a directive (%)",
	token.MappingKeyType: "an explicit key (?)",
}

// bounded reports whether the parser may run on the tokens.
func bounded(tokens token.Tokens, r report) bool {
	if len(tokens) > MaxWords {
		r.add(placeOf(tokens[MaxWords]), "", tooLong, MaxWords)
		return false
	}
	ok, flow := true, 0
	// block holds the columns of the block maps and lists that are open. A list may
	// stand in the column of the key it belongs to, hence the type beside it.
	type level struct {
		column int
		item   bool
		keys   int
	}
	var block []level
	for _, t := range tokens {
		if what, no := refused[t.Type]; no {
			// A * that begins a plain text lands here; it is common in subjects.
			r.add(placeOf(t), "", yamlFeature, what)
			ok = false
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingValueType:
			if flow > 0 {
				break
			}
			open := level{column: t.Position.Column, item: t.Type == token.SequenceEntryType}
			if !open.item && t.Prev != nil {
				open.column = t.Prev.Position.Column
			}
			for len(block) > 0 && (block[len(block)-1].column > open.column ||
				block[len(block)-1].column == open.column && block[len(block)-1].item && !open.item) {
				block = block[:len(block)-1]
			}
			if len(block) == 0 || block[len(block)-1].column != open.column || block[len(block)-1].item != open.item {
				block = append(block, open)
			}
			if last := &block[len(block)-1]; !last.item {
				if last.keys++; last.keys > MaxKeys {
					r.add(placeOf(t), "", tooWide, MaxKeys)
					return false
				}
			}
		default:
		}
		if flow+len(block) > MaxDepth {
			r.add(placeOf(t), "", tooDeep, MaxDepth)
			return false
		}
	}
	return ok
}

// begin is where a node begins; for some the library's token stands later.
func begin(n ast.Node) Place {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return placeOf(n.Start)
	case *ast.MappingValueNode:
		return placeOf(n.Key.GetToken())
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return placeOf(n.Values[0].Key.GetToken())
		}
	}
	return placeOf(n.GetToken())
}

// convert makes nodes of the library's syntax tree.
func convert(n ast.Node, path string, r report) *Node {
	out := &Node{Path: path, At: begin(n)}
	switch n := n.(type) {
	case *ast.NullNode:
		out.Kind = Null
	case *ast.StringNode:
		out.Kind, out.Text = Text, n.Value
	case *ast.LiteralNode:
		out.Kind = Text
		if n.Value != nil {
			out.Text = n.Value.Value
		}
	case *ast.IntegerNode:
		out.Kind, out.Text = Integer, n.Token.Value
	case *ast.FloatNode:
		out.Kind, out.Text = Number, n.Token.Value
	case *ast.InfinityNode:
		out.Kind, out.Text = Number, n.Token.Value
	case *ast.NanNode:
		out.Kind, out.Text = Number, n.Token.Value
	case *ast.BoolNode:
		out.Kind, out.Text = Boolean, strings.ToLower(n.Token.Value)
	case *ast.SequenceNode:
		out.Kind = List
		for i, v := range n.Values {
			item := convert(v, fmt.Sprintf("%s[%d]", path, i), r)
			item.KeyAt = item.At
			out.Items = append(out.Items, item)
		}
	case *ast.MappingNode:
		out.Kind = Mapping
		members(out, n.Values, r)
	case *ast.MappingValueNode:
		out.Kind = Mapping
		members(out, []*ast.MappingValueNode{n}, r)
	default:
		r.add(out.At, path, yamlFeature, n.Type().YAMLName())
	}
	return out
}

// members adds the members of a mapping, each key once.
func members(out *Node, values []*ast.MappingValueNode, r report) {
	first := make(map[string]Place, len(values))
	for _, v := range values {
		at := placeOf(v.Key.GetToken())
		key, ok := keyText(v.Key)
		if !ok {
			r.add(at, out.Path, keyNotText)
			continue
		}
		path := Join(out.Path, key)
		if was, ok := first[key]; ok {
			r.add(at, path, duplicateKey, was)
			continue
		}
		first[key] = at
		m := convert(v.Value, path, r)
		m.Key, m.KeyAt = key, at
		if m.Kind == Null {
			m.At = at
		}
		out.Items = append(out.Items, m)
	}
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return k.GetToken().Value, true
	default:
		return "", false
	}
}
