package document

import (
	"fmt"
)

// Fault is one thing that is wrong with the text of a document.
type Fault struct {
	At      Place
	Path    string // of what it is about, "services.api"; "" for the text as a whole
	Code    string // stable name of the fault, "duplicate-key"
	Problem string // what is wrong, on one line: "is already set at line 3:5"
	Advice  string // what to do about it
}

// The codes of faults.
const (
	fileTooLarge   = "file-too-large"
	notText        = "not-text"
	tooLong        = "too-long"
	tooDeep        = "too-deep"
	tooWide        = "too-wide"
	syntaxError    = "syntax"
	yamlFeature    = "yaml-feature"
	secondDocument = "second-document"
	keyNotText     = "key-not-text"
	duplicateKey   = "duplicate-key"
)

// words are how faults are told by their codes: the problem as a format, and the advice.
// Those of a syntax error come from [judgeSyntax].
var words = map[string]struct{ problem, advice string }{
	fileTooLarge:   {"is larger than %s", "a system is described by hand; keep data in files of its own"},
	notText:        {"is not UTF-8 text", "save the file as UTF-8"},
	tooLong:        {"has more than %d words and signs", "a system is described by hand; keep data in files of its own"},
	tooDeep:        {"is nested deeper than %d levels", "nothing in this file needs that; look for a missing bracket"},
	tooWide:        {"has a map of more than %d keys", "a system is described by hand; route whole folders of paths, keep data in files of its own"},
	yamlFeature:    {"holds %s, which this file does without", "write the value out, or quote the text if it begins with that sign"},
	secondDocument: {"begins a second document", "keep one document, without --- in between"},
	keyNotText:     {"holds a key that is no text", "quote the key"},
	duplicateKey:   {"is already set at %v", "keep one of the two"},
}

// report is told the faults in the order in which they are found.
type report func(Fault)

// add tells a fault in the words of its code.
func (r report) add(at Place, path, code string, args ...any) {
	r(Fault{At: at, Path: path, Code: code, Problem: fmt.Sprintf(words[code].problem, args...), Advice: words[code].advice})
}
