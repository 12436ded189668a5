package document

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/token"

	"fairlead/internal/system/wording"
)

// syntaxFault is what is wrong with a file that is no YAML, in words for a person.
type syntaxFault struct {
	at              Place
	problem, advice string
}

// judgeSyntax finds out what a person did wrong where the library stopped. What it
// does not recognize is told in the library's words.
func judgeSyntax(src string, tokens token.Tokens, err *yaml.SyntaxError) syntaxFault {
	j := syntaxJudge{lines: strings.Split(src, "\n"), tokens: tokens, at: Place{1, 1}, message: err.Message}
	if err.Token != nil {
		j.at, j.value = placeOf(err.Token), err.Token.Value
	}
	for _, judge := range []func() (syntaxFault, bool){
		j.tab, j.openQuote, j.pastQuote, j.reserved, j.bracket, j.colon, j.deeper, j.indentation,
	} {
		if fault, ok := judge(); ok {
			return fault
		}
	}
	return syntaxFault{j.at, "is not YAML: " + wording.OneLine(err.Message), "check indentation, quotes and brackets here and in the line above"}
}

// syntaxJudge is one error of the library and the file it is about.
type syntaxJudge struct {
	lines   []string
	tokens  token.Tokens
	at      Place  // of the library's token
	value   string // of that token
	message string
}

// line returns a line from 1, "" past the end.
func (j *syntaxJudge) line(n int) string {
	if n < 1 || n > len(j.lines) {
		return ""
	}
	return strings.TrimRight(j.lines[n-1], " \r")
}

// indent counts the blanks that a line begins with.
func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// from is the first place of one of chars in the line, at or behind the token.
func (j *syntaxJudge) from(chars string) Place {
	column := 0
	for _, r := range j.line(j.at.Line) {
		column++
		if column >= j.at.Column && strings.ContainsRune(chars, r) {
			return Place{j.at.Line, column}
		}
	}
	return j.at
}

func (j *syntaxJudge) tab() (syntaxFault, bool) {
	if !strings.Contains(j.message, "\t") {
		return syntaxFault{}, false
	}
	return syntaxFault{j.from("\t"), "is indented with a tab", "indent with spaces"}, true
}

func (j *syntaxJudge) openQuote() (syntaxFault, bool) {
	if !strings.HasPrefix(j.message, "could not find end character of ") {
		return syntaxFault{}, false
	}
	sign := `"`
	if strings.Contains(j.message, "single") {
		sign = "'"
	}
	return syntaxFault{j.from(sign), "begins a text with " + sign + " that never ends", "write the closing " + sign}, true
}

func (j *syntaxJudge) pastQuote() (syntaxFault, bool) {
	if !strings.Contains(j.message, "map key-value is pre-defined") {
		return syntaxFault{}, false
	}
	return syntaxFault{j.at, "goes on after the closing quote", `put the text into the other quotes; within '...' a ' is written twice`}, true
}

func (j *syntaxJudge) reserved() (syntaxFault, bool) {
	if !strings.HasSuffix(j.message, "is a reserved character") {
		return syntaxFault{}, false
	}
	return syntaxFault{j.from("@`"), "begins a text with a sign that YAML keeps for itself", "quote the text"}, true
}

// bracket looks for one that is not closed, or closed by another.
func (j *syntaxJudge) bracket() (syntaxFault, bool) {
	closing := map[string]string{"[": "]", "{": "}"}
	var open []*token.Token
	for _, t := range j.tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, t)
		case token.SequenceEndType, token.MappingEndType:
			if len(open) == 0 {
				return syntaxFault{placeOf(t), "closes with " + t.Value + " what was never opened", "remove it, or write the opening bracket"}, true
			}
			last := open[len(open)-1]
			if closing[last.Value] != t.Value {
				return syntaxFault{placeOf(last), fmt.Sprintf("opens with %s, but %s at %s comes first", last.Value, t.Value, placeOf(t)), "write " + closing[last.Value] + " where it ends"}, true
			}
			open = open[:len(open)-1]
		default:
		}
	}
	if len(open) > 0 {
		// What is open since the longest was forgotten: what came later was closed.
		return syntaxFault{placeOf(open[0]), "opens with " + open[0].Value + " and is never closed", "write " + closing[open[0].Value] + " where it ends"}, true
	}
	if strings.HasPrefix(j.value, "}") || strings.HasPrefix(j.value, "]") {
		return syntaxFault{j.at, "closes with " + j.value[:1] + " what was never opened", "remove it, or write the opening bracket"}, true
	}
	if strings.Contains(j.message, "must be specified") {
		return syntaxFault{j.at, "stands without a comma after what is before it", "separate what is in brackets by commas, and keys from values by a colon and a space"}, true
	}
	return syntaxFault{}, false
}

// glued is a key whose colon no space follows.
var glued = regexp.MustCompile(`^[ ]*(?:- +)?([A-Za-z0-9_.-]+):([^ :/][^ :]*)$`)

// bare is a line with nothing but a word.
var bare = regexp.MustCompile(`^[ ]*([A-Za-z0-9_.-]+)$`)

// colon looks for one that is missing, or has no space after it.
func (j *syntaxJudge) colon() (syntaxFault, bool) {
	if j.message != "non-map value is specified" && j.message != "unexpected key name" {
		return syntaxFault{}, false
	}
	line := j.line(j.at.Line)
	at := Place{j.at.Line, indent(line) + 1}
	if m := glued.FindStringSubmatch(line); m != nil {
		return syntaxFault{at, "has no space after the colon: " + wording.Quote(m[1]+":"+m[2]), "write " + m[1] + ": " + m[2]}, true
	}
	if m := bare.FindStringSubmatch(line); m != nil {
		return syntaxFault{at, "has no colon after " + wording.Quote(m[1]), "write " + m[1] + ":"}, true
	}
	return syntaxFault{}, false
}

// deeper looks for a line that is indented below one that has a value already, and
// for a second key on one line.
func (j *syntaxJudge) deeper() (syntaxFault, bool) {
	if j.message != "mapping value is not allowed in this context" {
		return syntaxFault{}, false
	}
	word := j.value[strings.LastIndexByte(j.value, ' ')+1:]
	for n := j.at.Line + 1; n <= len(j.lines) && n <= j.at.Line+maxContinued; n++ {
		line := j.line(n)
		if in := indent(line); strings.HasPrefix(line[in:], word+":") {
			return syntaxFault{
				Place{n, in + 1},
				fmt.Sprintf("is indented by %d, deeper than line %d, which has a value already", in, j.at.Line),
				fmt.Sprintf("indent it by %d, as that line", indent(j.line(j.at.Line))),
			}, true
		}
	}
	return syntaxFault{j.at, "has a second key on one line", "quote the value if the colon belongs to it, or begin a new line"}, true
}

// maxContinued bounds the lines in which the end of a token is looked for.
const maxContinued = 100

// indentation looks for a line that stands in no column of those above it.
func (j *syntaxJudge) indentation() (syntaxFault, bool) {
	line := j.line(j.at.Line)
	in := indent(line)
	if !strings.HasPrefix(j.message, "value is not allowed in this context") || utf8.RuneCountInString(line) == in {
		return syntaxFault{}, false
	}
	at := Place{j.at.Line, in + 1}
	deeper, outer := -1, -1
	for n := j.at.Line - 1; n > 0; n-- {
		above := j.line(n)
		text := strings.TrimLeft(above, " ")
		if text == "" || text[0] == '#' {
			continue
		}
		switch d := indent(above); {
		case d == in && strings.HasPrefix(text, "- "):
			return syntaxFault{at, "is a key among the items of a list", "begin it with a dash, or indent it as the key of the list"}, true
		case d == in:
			return syntaxFault{}, false
		case d > in:
			deeper = d // the outermost of those that it may belong to
		default:
			outer = d
		}
		if outer >= 0 {
			break
		}
	}
	if deeper < 0 || outer < 0 {
		return syntaxFault{}, false
	}
	return syntaxFault{
		at, fmt.Sprintf("is indented by %d, the lines around it by %d or %d", in, outer, deeper),
		"indent it as those that it belongs to",
	}, true
}
