package system

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reader reads one merged document into a System. It goes on after a finding, so
// that all findings are told at once; what it returns then is not to be used.
type reader struct {
	rec *recorder
	dir string
	sys *System

	// What the sections name, whether valid or not, so that one mistake is told once.
	services  map[string]*node
	secrets   map[string]*node
	databases map[string]*node
	owners    map[string]string // database -> owner

	types  map[string]*node
	queues []*node // those with a name that can be used

	// files are the texts of the files that were read, by their paths as written;
	// with stored there are no others.
	files  map[string][]byte
	stored bool

	answers []answer
	routes  []*routed

	// meant holds the sections that an unknown key was probably meant as: what
	// follows from their absence is not told.
	meant map[string]bool
}

// answer is one entry of a service's answers.
type answer struct{ service, subject string }

// routed is a route with what the checks need beside the model.
type routed struct {
	key     *node
	pattern pattern
	fields  map[string]*node
	leads   string // the one of targets that the route has, "" if there is not one
	route   Route
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
func (r *reader) fields(n *node, s schema) map[string]*node {
	if n == nil {
		return nil
	}
	if n.kind != mapping {
		r.wrong(n, "a map of "+enumerate(s.keys, "and"), "")
		return nil
	}
	members := make(map[string]*node, len(n.items))
	for _, m := range n.items {
		if !slices.Contains(s.keys, m.key) {
			r.unknown(m, s)
			continue
		}
		if m.kind == null {
			if !s.empty {
				r.rec.add(m.keyAt, m.path, noValue, orRemove)
			}
			continue
		}
		members[m.key] = m
	}
	return members
}

func (r *reader) unknown(m *node, s schema) {
	if m.key == "depends_on" {
		r.rec.add(m.keyAt, m.path, startOrder)
		return
	}
	if advice, ok := s.unbuilt[m.key]; ok {
		r.rec.add(m.keyAt, m.path, notBuilt, advice)
		return
	}
	known := slices.Clone(s.keys)
	for k := range s.unbuilt {
		if _, ok := nearest(m.key, s.keys); !ok {
			known = append(known, k)
		}
	}
	advice := suggest(m.key, s.keys, "")
	if best, ok := nearest(m.key, known); ok {
		r.meant[best] = true
		advice = suggest(m.key, []string{best}, "")
	}
	r.rec.add(m.keyAt, m.path, unknownKey, s.what, advice)
}

// refer tells that something names what a section does not have, unless that
// section is probably there under a name with a mistake.
func (r *reader) refer(section string, at place, path string, c code, args ...any) {
	if !r.meant[section] {
		r.rec.add(at, path, c, args...)
	}
}

// warn tells what is valid but should be known.
func (r *reader) warn(at place, path string, c code, args ...any) {
	r.sys.Warnings = append(r.sys.Warnings, r.rec.finding(at, path, c, args...))
}

// entries returns the members of a map whose keys are names of the user's choice.
func (r *reader) entries(n *node, what string) []*node {
	return r.entriesWith(n, what, orRemove)
}

// entriesWith is entries with the advice for a name without a value.
func (r *reader) entriesWith(n *node, what, advice string) []*node {
	if n == nil || n.kind == null {
		return nil
	}
	if n.kind != mapping {
		r.wrong(n, "a map of "+what, "")
		return nil
	}
	entries := make([]*node, 0, len(n.items))
	for _, m := range n.items {
		if m.kind == null {
			r.rec.add(m.keyAt, m.path, noValue, advice)
			continue
		}
		entries = append(entries, m)
	}
	return entries
}

// wrong tells that a value is of the wrong type.
func (r *reader) wrong(n *node, want, advice string) {
	if n.kind == null {
		r.rec.add(n.keyAt, n.path, noValue, orRemove)
		return
	}
	is := n.kind.String()
	if n.kind == text && !hidden(n.path) {
		is += " " + quote(n.text)
	}
	r.rec.add(n.at, n.path, wrongType, want, is, advice)
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
func (r *reader) missing(n *node, s schema, key, advice string, instead ...string) {
	if n.kind != mapping {
		return
	}
	for _, m := range n.items {
		if m.key == key || slices.Contains(instead, m.key) {
			return
		}
		if _, ok := nearest(m.key, []string{key}); ok && !slices.Contains(s.keys, m.key) {
			return
		}
	}
	r.rec.add(n.keyAt, join(n.path, key), missingKey, advice)
}

// text reads a scalar as it is written. A nil node is "".
func (r *reader) text(n *node) (string, bool) {
	if n == nil {
		return "", false
	}
	if !n.scalar() {
		r.wrong(n, "text", "")
		return "", false
	}
	return n.text, true
}

func (r *reader) bool(n *node) bool {
	if n == nil {
		return false
	}
	if n.kind != boolean {
		r.wrong(n, "true or false", "")
		return false
	}
	return n.text == "true"
}

// int reads a whole number, otherwise what it must be is told with advice.
func (r *reader) int(n *node, def, least, most int, advice string) int {
	if n == nil {
		return def
	}
	rule := fmt.Sprintf("%d to %d", least, most)
	if n.kind == number {
		r.rec.add(n.at, n.path, outOfRange, rule, n.text, "write a whole number")
		return def
	}
	if n.kind != integer {
		r.wrong(n, "a number", "")
		return def
	}
	v, err := strconv.Atoi(n.text)
	if err != nil || v < least || v > most {
		if err == nil && v < least {
			advice = ""
		}
		r.rec.add(n.at, n.path, outOfRange, rule, n.text, advice)
		return def
	}
	return v
}

func (r *reader) duration(n *node, def, least, most time.Duration) time.Duration {
	if n == nil {
		return def
	}
	s, ok := r.text(n)
	if !ok {
		return def
	}
	d, err := ParseDuration(s)
	if err != nil {
		r.rec.add(n.at, n.path, badDuration, quote(s))
		return def
	}
	if d < least || d > most {
		r.rec.add(n.at, n.path, outOfRange, formatDuration(least)+" to "+formatDuration(most), s, "")
		return def
	}
	return d
}

func (r *reader) size(n *node, def, least, most int64) int64 {
	if n == nil {
		return def
	}
	s, ok := r.text(n)
	if !ok {
		return def
	}
	v, err := parseSize(s)
	if err != nil {
		r.rec.add(n.at, n.path, badSize, quote(s))
		return def
	}
	if v < least || v > most {
		r.rec.add(n.at, n.path, outOfRange, formatSize(least)+" to "+formatSize(most), s, "")
		return def
	}
	return v
}

// oneOf reads a word that must be one of some.
func (r *reader) oneOf(n *node, def string, words ...string) string {
	s, ok := r.text(n)
	if !ok {
		return def
	}
	if !slices.Contains(words, s) {
		advice := ""
		if best, ok := nearest(s, words); ok {
			advice = "did you mean " + best + "?"
		}
		r.rec.add(n.at, n.path, notOneOf, enumerate(words, "or"), quote(s), advice)
		return def
	}
	return s
}

// texts reads a list of scalars without repetition. A single scalar is refused
// unless single is set.
func (r *reader) texts(n *node, single bool) []*node {
	if n == nil {
		return nil
	}
	if n.kind != list {
		if single && n.scalar() {
			return []*node{n}
		}
		want := "a list"
		if single {
			want = "text or a list"
		}
		r.wrong(n, want, "write [a, b]")
		return nil
	}
	const most = 1000
	if len(n.items) > most {
		r.rec.add(n.at, n.path, tooMany, strconv.Itoa(most), len(n.items), "")
		return nil
	}
	first := map[string]place{}
	var out []*node
	for _, item := range n.items {
		if !item.scalar() {
			r.wrong(item, "text", "")
			continue
		}
		if was, ok := first[item.text]; ok {
			r.rec.add(item.at, item.path, duplicateIn, was)
			continue
		}
		first[item.text] = item.at
		out = append(out, item)
	}
	return out
}

// name tells whether the key of an entry is a plain name.
func (r *reader) name(at place, path, name string) bool {
	if plainName(name) {
		return true
	}
	advice := ""
	if s := suggestName(name); s != "" {
		advice = "write " + s
	}
	r.rec.add(at, path, badName, quote(name), nameRule, advice)
	return false
}

// file reads a path, makes it absolute and looks whether it exists. dir says whether
// it must be a folder; otherwise it must be a file.
func (r *reader) file(n *node, dir bool) string {
	path, ok := r.path(n)
	if !ok {
		return ""
	}
	info, err := os.Stat(path)
	switch {
	case err != nil && dir:
		r.rec.add(n.at, n.path, notFound, quote(n.text), "make the folder, or correct the path; it starts at the folder of this file")
	case err != nil:
		r.rec.add(n.at, n.path, notFound, quote(n.text), "make the file, or correct the path; it starts at the folder of this file")
	case dir && !info.IsDir():
		r.rec.add(n.at, n.path, badPath, "must be a folder, "+quote(n.text)+" is a file", "name the folder")
	case !dir && !info.Mode().IsRegular():
		r.rec.add(n.at, n.path, badPath, "must be a regular file, "+quote(n.text)+" is none", "name the file")
	}
	return path
}

// path reads a path and makes it absolute.
func (r *reader) path(n *node) (string, bool) {
	s, ok := r.text(n)
	if !ok {
		return "", false
	}
	if s == "" || strings.ContainsAny(s, "\x00\n") {
		r.rec.add(n.at, n.path, badPath, "is empty or holds a control character", "name a path from the folder of this file")
		return "", false
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(r.dir, s)
	}
	return filepath.Clean(s), true
}

// notEmpty reads a text of at least one character.
func (r *reader) notEmpty(n *node, advice string) string {
	s, ok := r.text(n)
	if ok && strings.TrimSpace(s) == "" {
		r.rec.add(n.at, n.path, emptyValue, advice)
	}
	return s
}

// exactlyOne tells if not exactly one of the keys is there.
func (r *reader) exactlyOne(n *node, what string, f map[string]*node, keys ...string) bool {
	if n.kind != mapping {
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
	case len(have) == 0 && len(f) < len(n.items):
		// A key that was told to be wrong may have been meant as one of them.
	case len(have) == 0:
		r.rec.add(n.keyAt, n.path, exactlyOne, what, "none", "")
	default:
		r.rec.add(n.keyAt, n.path, exactlyOne, what, enumerate(have, "and"),
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
