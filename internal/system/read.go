package system

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

// reader reads one merged document into a System. It goes on after a finding, so
// that all findings are told at once; what it returns then is not to be used.
type reader struct {
	*surroundings
	rec *recorder
	sys *System

	// What the sections name, whether valid or not, so that one mistake is told once.
	services  map[string]*document.Node
	secrets   map[string]*document.Node
	databases map[string]*document.Node
	owners    map[string]string // database -> owner

	types  map[string]*document.Node
	queues []*document.Node // those with a name that can be used

	answers []answer
	routes  []*routed

	// meant holds the sections that an unknown key was probably meant as: what
	// follows from their absence is not told.
	meant map[string]bool
}

// surroundings are what a file names outside of itself, and are shared by all passes
// over it.
type surroundings struct {
	dir string // that relative paths start at
	// files are the texts of the schemas that were read, by their paths as written;
	// with stored there are no others.
	files  map[string][]byte
	stored bool
	disk   map[string]trace       // of what was looked at, by path
	pairs  map[Certificate]string // why a pair cannot be used, "" if it can
}

// trace tells whether what lies at a path is another one than before.
type trace struct {
	mode     fs.FileMode
	size     int64     // of a file, like
	modified time.Time // this
}

func traceOf(info fs.FileInfo) trace {
	if !info.Mode().IsRegular() {
		return trace{mode: info.Mode().Type()}
	}
	return trace{info.Mode().Type(), info.Size(), info.ModTime()}
}

// answer is one entry of a service's answers.
type answer struct{ service, subject string }

// routed is a route with what the checks need beside the model.
type routed struct {
	key     *document.Node
	pattern notation.Pattern
	fields  map[string]*document.Node
	leads   string // the one of targets that the route has, "" if there is not one
	route   Route
}

// kept is the route for the model.
func (t *routed) kept() *Route {
	r := t.route
	r.written = t.key.Leaves()
	return &r
}

// schema says which keys a map may have.
type schema struct {
	what    string // "a service"
	keys    []string
	unbuilt map[string]string // keys that the design names -> advice
	empty   bool              // members without a value are as if they were not there
}

const (
	forNow   = "remove it for now"
	orRemove = "write one, or remove the key"
)

// fields returns the members of a mapping by key and tells which keys are wrong. A
// nil node and one that is no mapping have no members.
func (r *reader) fields(n *document.Node, s schema) map[string]*document.Node {
	if n == nil {
		return nil
	}
	if n.Kind != document.Mapping {
		r.wrong(n, "a map of "+wording.Enumerate(s.keys, "and"), "")
		return nil
	}
	members := make(map[string]*document.Node, len(n.Items))
	for _, m := range n.Items {
		if !slices.Contains(s.keys, m.Key) {
			r.unknown(m, s)
			continue
		}
		if m.Kind == document.Null {
			if !s.empty {
				r.rec.add(m.KeyAt, m.Path, noValue, orRemove)
			}
			continue
		}
		members[m.Key] = m
	}
	return members
}

func (r *reader) unknown(m *document.Node, s schema) {
	if m.Key == "depends_on" {
		r.rec.add(m.KeyAt, m.Path, startOrder)
		return
	}
	if advice, ok := s.unbuilt[m.Key]; ok {
		r.rec.add(m.KeyAt, m.Path, notBuilt, advice)
		return
	}
	known := slices.Clone(s.keys)
	for k := range s.unbuilt {
		if _, ok := wording.Nearest(m.Key, s.keys); !ok {
			known = append(known, k)
		}
	}
	advice := wording.Suggest(m.Key, s.keys, "")
	if best, ok := wording.Nearest(m.Key, known); ok {
		r.meant[best] = true
		advice = wording.Suggest(m.Key, []string{best}, "")
	}
	r.rec.add(m.KeyAt, m.Path, unknownKey, s.what, advice)
}

// refer tells that something names what a section does not have, unless that
// section is probably there under a name with a mistake.
func (r *reader) refer(section string, at document.Place, path string, c code, args ...any) {
	if !r.meant[section] {
		r.rec.add(at, path, c, args...)
	}
}

// warn tells what is valid but should be known.
func (r *reader) warn(at document.Place, path string, c code, args ...any) {
	r.sys.Warnings = append(r.sys.Warnings, r.rec.finding(at, path, c, args...))
}

// entries returns the members of a map whose keys are names of the user's choice.
func (r *reader) entries(n *document.Node, what string) []*document.Node {
	return r.entriesWith(n, what, orRemove)
}

// entriesWith is entries with the advice for a name without a value.
func (r *reader) entriesWith(n *document.Node, what, advice string) []*document.Node {
	if n == nil || n.Kind == document.Null {
		return nil
	}
	if n.Kind != document.Mapping {
		r.wrong(n, "a map of "+what, "")
		return nil
	}
	entries := make([]*document.Node, 0, len(n.Items))
	for _, m := range n.Items {
		if m.Kind == document.Null {
			r.rec.add(m.KeyAt, m.Path, noValue, advice)
			continue
		}
		entries = append(entries, m)
	}
	return entries
}

// wrong tells that a value is of the wrong type.
func (r *reader) wrong(n *document.Node, want, advice string) {
	if n.Kind == document.Null {
		r.rec.add(n.KeyAt, n.Path, noValue, orRemove)
		return
	}
	is := n.Kind.String()
	if n.Kind == document.Text && !hidden(n.Path) {
		is += " " + wording.Quote(n.Text)
	}
	r.rec.add(n.At, n.Path, wrongType, want, is, advice)
}

// hidden reports whether a value may be a secret, or next to one: it is not shown.
func hidden(path string) bool {
	for key := range strings.SplitSeq(path, ".") {
		switch key {
		case "secrets", "environment", "data":
			return true
		}
	}
	return false
}

// missing tells that a key of n is not there, unless something that was told to be
// wrong was probably meant as it. instead are keys that would do as well.
func (r *reader) missing(n *document.Node, s schema, key, advice string, instead ...string) {
	if n.Kind != document.Mapping {
		return
	}
	for _, m := range n.Items {
		if m.Key == key || slices.Contains(instead, m.Key) {
			return
		}
		if _, ok := wording.Nearest(m.Key, []string{key}); ok && !slices.Contains(s.keys, m.Key) {
			return
		}
	}
	r.rec.add(n.KeyAt, document.Join(n.Path, key), missingKey, advice)
}

// text reads a scalar as it is written. A nil node is "".
func (r *reader) text(n *document.Node) (string, bool) {
	if n == nil {
		return "", false
	}
	if !n.Scalar() {
		r.wrong(n, "text", "")
		return "", false
	}
	return n.Text, true
}

func (r *reader) bool(n *document.Node) bool {
	if n == nil {
		return false
	}
	if n.Kind != document.Boolean {
		r.wrong(n, "true or false", "")
		return false
	}
	return n.Text == "true"
}

// int reads a whole number, otherwise what it must be is told with advice.
func (r *reader) int(n *document.Node, def, least, most int, advice string) int {
	if n == nil {
		return def
	}
	rule := fmt.Sprintf("%d to %d", least, most)
	if n.Kind == document.Number {
		r.rec.add(n.At, n.Path, outOfRange, rule, n.Text, "write a whole number")
		return def
	}
	if n.Kind != document.Integer {
		r.wrong(n, "a number", "")
		return def
	}
	v, err := strconv.Atoi(n.Text)
	if err != nil || v < least || v > most {
		if err == nil && v < least {
			advice = ""
		}
		r.rec.add(n.At, n.Path, outOfRange, rule, n.Text, advice)
		return def
	}
	return v
}

func (r *reader) duration(n *document.Node, def, least, most time.Duration) time.Duration {
	if n == nil {
		return def
	}
	s, ok := r.text(n)
	if !ok {
		return def
	}
	d, err := notation.ParseDuration(s)
	if err != nil {
		r.rec.add(n.At, n.Path, badDuration, wording.Quote(s))
		return def
	}
	if d < least || d > most {
		r.rec.add(n.At, n.Path, outOfRange, notation.FormatDuration(least)+" to "+notation.FormatDuration(most), s, "")
		return def
	}
	return d
}

func (r *reader) size(n *document.Node, def, least, most int64) int64 {
	if n == nil {
		return def
	}
	s, ok := r.text(n)
	if !ok {
		return def
	}
	v, err := notation.ParseSize(s)
	if err != nil {
		r.rec.add(n.At, n.Path, badSize, wording.Quote(s))
		return def
	}
	if v < least || v > most {
		r.rec.add(n.At, n.Path, outOfRange, notation.FormatSize(least)+" to "+notation.FormatSize(most), s, "")
		return def
	}
	return v
}

// oneOf reads a word that must be one of some.
func (r *reader) oneOf(n *document.Node, def string, words ...string) string {
	s, ok := r.text(n)
	if !ok {
		return def
	}
	if !slices.Contains(words, s) {
		advice := ""
		if best, ok := wording.Nearest(s, words); ok {
			advice = "did you mean " + best + "?"
		}
		r.rec.add(n.At, n.Path, notOneOf, wording.Enumerate(words, "or"), wording.Quote(s), advice)
		return def
	}
	return s
}

// texts reads a list of scalars without repetition. A single scalar is refused
// unless single is set.
func (r *reader) texts(n *document.Node, single bool) []*document.Node {
	if n == nil {
		return nil
	}
	if n.Kind != document.List {
		if single && n.Scalar() {
			return []*document.Node{n}
		}
		want := "a list"
		if single {
			want = "text or a list"
		}
		r.wrong(n, want, "write [a, b]")
		return nil
	}
	const most = 1000
	if len(n.Items) > most {
		r.rec.add(n.At, n.Path, tooMany, strconv.Itoa(most), len(n.Items), "")
		return nil
	}
	first := map[string]document.Place{}
	var out []*document.Node
	for _, item := range n.Items {
		if !item.Scalar() {
			r.wrong(item, "text", "")
			continue
		}
		if was, ok := first[item.Text]; ok {
			r.rec.add(item.At, item.Path, duplicateIn, was)
			continue
		}
		first[item.Text] = item.At
		out = append(out, item)
	}
	return out
}

// name tells whether the key of an entry is a plain name.
func (r *reader) name(at document.Place, path, name string) bool {
	if notation.IsName(name) {
		return true
	}
	advice := ""
	if s := notation.SuggestName(name); s != "" {
		advice = "write " + s
	}
	r.rec.add(at, path, badName, wording.Quote(name), notation.NameRule, advice)
	return false
}

// file reads a path, makes it absolute and looks whether it exists. dir says whether
// it must be a folder; otherwise it must be a file.
func (r *reader) file(n *document.Node, dir bool) string {
	path, ok := r.path(n)
	if !ok {
		return ""
	}
	info, err := r.stat(path)
	switch {
	case err != nil && dir:
		r.rec.add(n.At, n.Path, notFound, wording.Quote(n.Text), "make the folder, or correct the path; it starts at the folder of this file")
	case err != nil:
		r.rec.add(n.At, n.Path, notFound, wording.Quote(n.Text), "make the file, or correct the path; it starts at the folder of this file")
	case dir && !info.IsDir():
		r.rec.add(n.At, n.Path, badPath, "must be a folder, "+wording.Quote(n.Text)+" is a file", "name the folder")
	case !dir && !info.Mode().IsRegular():
		r.rec.add(n.At, n.Path, badPath, "must be a regular file, "+wording.Quote(n.Text)+" is none", "name the file")
	}
	return path
}

// stat looks at a path, and notes what is there.
func (r *reader) stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err == nil {
		r.disk[path] = traceOf(info)
	}
	return info, err
}

// path reads a path and makes it absolute.
func (r *reader) path(n *document.Node) (string, bool) {
	s, ok := r.text(n)
	if !ok {
		return "", false
	}
	if s == "" || strings.ContainsAny(s, "\x00\n") {
		r.rec.add(n.At, n.Path, badPath, "is empty or holds a control character", "name a path from the folder of this file")
		return "", false
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(r.dir, s)
	}
	return filepath.Clean(s), true
}

// notEmpty reads a text of at least one character.
func (r *reader) notEmpty(n *document.Node, advice string) string {
	s, ok := r.text(n)
	if ok && strings.TrimSpace(s) == "" {
		r.rec.add(n.At, n.Path, emptyValue, advice)
	}
	return s
}

// exactlyOne tells if not exactly one of the keys is there.
func (r *reader) exactlyOne(n *document.Node, what string, f map[string]*document.Node, keys ...string) bool {
	if n.Kind != document.Mapping {
		return false
	}
	var have []string
	for _, k := range keys {
		if f[k] != nil {
			have = append(have, k)
		}
	}
	switch {
	case len(have) == 1:
		return true
	case len(have) == 0 && len(f) < len(n.Items):
		// A key that was told to be wrong may have been meant as one of them.
	case len(have) == 0:
		r.rec.add(n.KeyAt, n.Path, exactlyOne, what, "none", "")
	default:
		r.rec.add(n.KeyAt, n.Path, exactlyOne, what, wording.Enumerate(have, "and"),
			"an environment that replaces one by another sets the former to null")
	}
	return false
}

// absolute returns path, which is relative to dir unless it is absolute.
func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
