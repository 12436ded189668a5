package system

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
)

// The bounds of a file. The YAML library needs quadratic time for the keys of one
// map and recursion for nesting, hence both are bounded before it runs.
const (
	maxSize  = 1 << 20 // bytes
	maxWords = 200_000 // tokens
	maxDepth = 32      // maps and lists within each other
	maxKeys  = 5_000   // of one block map
)

// document reads YAML into nodes. It returns nil if src is no document that can be
// judged further; then there are findings.
func document(src []byte, rec *recorder) *node {
	if len(src) > maxSize {
		rec.add(place{1, 1}, "", fileTooLarge, "1 MiB")
		return nil
	}
	if !utf8.Valid(src) {
		rec.add(firstInvalid(src), "", notText)
		return nil
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	root, ok := quickly(string(src))
	if !ok {
		root = thorough(string(src), rec)
	}
	if root != nil && root.kind != mapping {
		rec.add(root.at, "", wrongType, "a map of sections", root.kind, "begin with system: NAME")
		return nil
	}
	return root
}

// thorough reads YAML with the library, as document does.
func thorough(src string, rec *recorder) (root *node) {
	tokens := lexer.Tokenize(src)
	if !bounded(tokens, rec) {
		return nil
	}
	file, err := parse(tokens)
	if err != nil {
		fault := syntaxFault{place{1, 1}, oneLine(err.Error()), "check indentation, quotes and brackets"}
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok {
			fault = judgeSyntax(src, tokens, syntax)
		}
		rec.add(fault.at, "", syntaxError, fault.problem, fault.advice)
		return nil
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			rec.add(begin(doc.Body), "", secondDocument)
			return nil
		}
		root = convert(doc.Body, "", rec)
	}
	if root == nil || root.kind == null {
		rec.add(place{1, 1}, "", emptyFile)
		return nil
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
func firstInvalid(src []byte) place {
	at := place{1, 1}
	for len(src) > 0 {
		r, size := utf8.DecodeRune(src)
		if r == utf8.RuneError && size == 1 {
			break
		}
		at.column++
		if r == '\n' {
			at = place{at.line + 1, 1}
		}
		src = src[size:]
	}
	return at
}

func placeOf(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{t.Position.Line, t.Position.Column}
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
func bounded(tokens token.Tokens, rec *recorder) bool {
	if len(tokens) > maxWords {
		rec.add(placeOf(tokens[maxWords]), "", tooLong, maxWords)
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
			rec.add(placeOf(t), "", yamlFeature, what)
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
				if last.keys++; last.keys > maxKeys {
					rec.add(placeOf(t), "", tooWide, maxKeys)
					return false
				}
			}
		default:
		}
		if flow+len(block) > maxDepth {
			rec.add(placeOf(t), "", tooDeep, maxDepth)
			return false
		}
	}
	return ok
}

// begin is where a node begins; for some the library's token stands later.
func begin(n ast.Node) place {
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
func convert(n ast.Node, path string, rec *recorder) *node {
	out := &node{path: path, at: begin(n)}
	switch n := n.(type) {
	case *ast.NullNode:
		out.kind = null
	case *ast.StringNode:
		out.kind, out.text = text, n.Value
	case *ast.LiteralNode:
		out.kind = text
		if n.Value != nil {
			out.text = n.Value.Value
		}
	case *ast.IntegerNode:
		out.kind, out.text = integer, n.Token.Value
	case *ast.FloatNode:
		out.kind, out.text = number, n.Token.Value
	case *ast.InfinityNode:
		out.kind, out.text = number, n.Token.Value
	case *ast.NanNode:
		out.kind, out.text = number, n.Token.Value
	case *ast.BoolNode:
		out.kind, out.text = boolean, strings.ToLower(n.Token.Value)
	case *ast.SequenceNode:
		out.kind = list
		for i, v := range n.Values {
			item := convert(v, fmt.Sprintf("%s[%d]", path, i), rec)
			item.keyAt = item.at
			out.items = append(out.items, item)
		}
	case *ast.MappingNode:
		out.kind = mapping
		members(out, n.Values, rec)
	case *ast.MappingValueNode:
		out.kind = mapping
		members(out, []*ast.MappingValueNode{n}, rec)
	default:
		rec.add(out.at, path, yamlFeature, n.Type().YAMLName())
	}
	return out
}

// members adds the members of a mapping, each key once.
func members(out *node, values []*ast.MappingValueNode, rec *recorder) {
	first := make(map[string]place, len(values))
	for _, v := range values {
		at := placeOf(v.Key.GetToken())
		key, ok := keyText(v.Key)
		if !ok {
			rec.add(at, out.path, keyNotText)
			continue
		}
		path := join(out.path, key)
		if was, ok := first[key]; ok {
			rec.add(at, path, duplicateKey, was)
			continue
		}
		first[key] = at
		m := convert(v.Value, path, rec)
		m.key, m.keyAt = key, at
		if m.kind == null {
			m.at = at
		}
		out.items = append(out.items, m)
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
