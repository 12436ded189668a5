// Package match finds the route of a request by its method, host and path, and
// refuses paths, hosts and methods that two programs could read in different ways.
//
// The rules are those of net/http's patterns, with these differences: a path
// decides before the method does, so that "GET /" and "/adminer/" do not conflict;
// "*.example.com" stands for one label; nothing is redirected.
//
// It knows nothing of what a route leads to: patterns go in, the index of one
// comes out. Finding does not allocate unless the path holds escapes.
package match

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Pattern says which requests a route takes.
type Pattern struct {
	Key    string // as the file has it, for errors
	Method string // "" for any
	Host   string // "" for any; "*.example.com" for one label
	Path   string // net/http's syntax: {name}, {name...}, {$}, trailing slash
	// ReadOnly makes any method mean GET and HEAD.
	ReadOnly bool
}

// Value is one wildcard of a pattern's path and what stood there, decoded.
type Value struct{ Name, Value string }

// Values are the wildcards of one request, in the order of the path.
type Values []Value

// Lookup returns the value of the wildcard with that name.
func (vs Values) Lookup(name string) (string, bool) {
	for i := range vs {
		if vs[i].Name == name {
			return vs[i].Value, true
		}
	}
	return "", false
}

// Table finds the pattern of a request. It is immutable once built.
type Table struct {
	hosts  map[string]*node // exact names
	labels map[string]*node // ".example.com" for "*.example.com"
	any    *node

	patterns []Pattern
	methods  []string  // that the patterns name
	at       []int32   // index of the pattern in each slot, -1 for an empty one
	scratch  []segment // of the pattern that is being added
}

// node is a place between two slashes in the tree of paths.
type node struct {
	few      []child          // literals, while they are few
	literals map[string]*node // literals, once they are many
	wild     *node
	here     *leaf // the path ends here, without a slash
	slash    *leaf // {$}
	below    *leaf // {name...} or a trailing slash
	blurred  bool  // something below this node is a wildcard of either kind
}

type child struct {
	text string
	node *node
}

// few literals are found faster by comparing than by hashing.
const fewLiterals = 8

// leaf holds the patterns of one path, by method.
type leaf struct{ entries []entry }

type entry struct {
	*Pattern
	names []string
	slot  int32 // where the table keeps the pattern's index
}

// New builds the table of patterns, which must not change after that. It reports
// every pattern that is malformed, that is a duplicate of another, or that
// conflicts with another: both match some request, and neither is the more
// specific. All errors are reported, joined by newlines.
func New(patterns []Pattern) (*Table, error) {
	m := &Table{hosts: map[string]*node{}, labels: map[string]*node{}, any: &node{}, patterns: patterns, methods: methodsOf(patterns), at: make([]int32, 0, len(patterns))}
	var faults []error
	for i := range patterns {
		if err := m.add(&patterns[i], i); err != nil {
			faults = append(faults, err)
		}
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	m.scratch = nil
	return m, nil
}

func (m *Table) add(p *Pattern, index int) error {
	segments, err := appendSegments(m.scratch[:0], p.Path)
	if err != nil {
		return fmt.Errorf("check route %q: path %w", p.Key, err)
	}
	m.scratch = segments
	root := m.any
	if table, name := m.named(p.Host); table != nil {
		if err := checkHost(p.Host); err != nil {
			return fmt.Errorf("check route %q: %w", p.Key, err)
		}
		if root = table[name]; root == nil {
			root = &node{}
			table[name] = root
		}
	}
	if other := root.conflict(segments, p.Method, 0); other != nil {
		return fmt.Errorf("check route %q: conflicts with %q: both match some paths and neither is more specific", p.Key, other.Key)
	}
	l := root.grow(segments)
	for _, e := range l.entries {
		if e.Method == p.Method {
			return fmt.Errorf("check route %q: matches the same requests as %q", p.Key, e.Key)
		}
	}
	e := entry{Pattern: p, slot: int32(len(m.at))}
	m.at = append(m.at, int32(index))
	if n := segmentsCaptured(segments); n > 0 {
		e.names = make([]string, 0, n)
	}
	for _, s := range segments {
		if s.kind != literal && s.text != "" {
			e.names = append(e.names, s.text)
		}
	}
	if len(e.names) < cap(e.names) { // a plain trailing slash captures without a name
		e.names = append(e.names, "")
	}
	l.entries = append(l.entries, e)
	return nil
}

// named returns the table of a pattern's host and the name in it, nil for any host.
func (m *Table) named(host string) (table map[string]*node, name string) {
	name = strings.ToLower(host)
	switch {
	case host == "":
		return nil, ""
	case strings.HasPrefix(name, "*"):
		return m.labels, name[1:]
	}
	return m.hosts, name
}

func segmentsCaptured(segments []segment) int {
	n := 0
	for _, s := range segments {
		if s.kind == single || s.kind == rest {
			n++
		}
	}
	return n
}

// grow returns the leaf of a path, making what is missing.
func (n *node) grow(segments []segment) *leaf {
	blurs := len(segments) // index of the last wildcard
	for i, s := range slices.Backward(segments) {
		if s.kind == single || s.kind == rest {
			blurs = i
			break
		}
	}
	if blurs == len(segments) {
		blurs = -1
	}
	for i, s := range segments {
		if i <= blurs {
			n.blurred = true
		}
		switch s.kind {
		case literal:
			n = n.growLiteral(s.text)
		case single:
			if n.wild == nil {
				n.wild = &node{}
			}
			n = n.wild
		case rest:
			if n.below == nil {
				n.below = &leaf{}
			}
			return n.below
		case end:
			if n.slash == nil {
				n.slash = &leaf{}
			}
			return n.slash
		}
	}
	if n.here == nil {
		n.here = &leaf{}
	}
	return n.here
}

func (n *node) growLiteral(text string) *node {
	next := n.literal(text)
	if next != nil {
		return next
	}
	next = &node{}
	if n.literals != nil {
		n.literals[text] = next
		return next
	}
	n.few = append(n.few, child{text, next})
	if len(n.few) > fewLiterals {
		n.literals = make(map[string]*node, 2*len(n.few))
		for _, c := range n.few {
			n.literals[c.text] = c.node
		}
		n.few = nil
	}
	return next
}

func (n *node) literal(text string) *node {
	if n.literals != nil {
		return n.literals[text]
	}
	for i := range n.few {
		if n.few[i].text == text {
			return n.few[i].node
		}
	}
	return nil
}

func (n *node) eachLiteral(f func(*node) *Pattern) *Pattern {
	for _, c := range n.few {
		if r := f(c.node); r != nil {
			return r
		}
	}
	for _, c := range n.literals {
		if r := f(c); r != nil {
			return r
		}
	}
	return nil
}

// sides says which of two overlapping patterns was the more specific so far.
type sides uint8

const (
	newer sides = 1 << iota // the pattern that is added
	older                   // one in the tree
	both  = newer | older
)

// conflict looks for a pattern in the tree below n that matches some request that
// the pattern matches too, where each of the two is the more specific in another
// segment. It returns nil if there is none.
func (n *node) conflict(segments []segment, method string, lead sides) *Pattern {
	if lead == older && !n.blurred {
		return nil // nothing here can be less specific than the pattern
	}
	if len(segments) == 0 {
		// The pattern ends here: only the same end overlaps with it.
		return n.here.rival(method, lead)
	}
	// What is in the tree below a slash matches all that the rest may match.
	s := segments[0]
	if s.kind != rest {
		if r := n.below.rival(method, lead|newer); r != nil {
			return r
		}
	}
	switch s.kind {
	case literal:
		if next := n.literal(s.text); next != nil {
			if r := next.conflict(segments[1:], method, lead); r != nil {
				return r
			}
		}
		if n.wild != nil {
			return n.wild.conflict(segments[1:], method, lead|newer)
		}
	case single:
		if r := n.eachLiteral(func(next *node) *Pattern {
			return next.conflict(segments[1:], method, lead|older)
		}); r != nil {
			return r
		}
		if n.wild != nil {
			return n.wild.conflict(segments[1:], method, lead)
		}
	case end:
		return n.slash.rival(method, lead)
	case rest:
		if r := n.below.rival(method, lead); r != nil {
			return r
		}
		if lead != 0 { // everything below is more specific than the pattern
			return n.anyRival(method, lead|older)
		}
	}
	return nil
}

// anyRival looks for a pattern with an intersecting method anywhere below n's slash.
func (n *node) anyRival(method string, lead sides) *Pattern {
	if lead != both {
		return nil
	}
	if r := n.slash.rival(method, lead); r != nil {
		return r
	}
	visit := func(next *node) *Pattern {
		if r := next.here.rival(method, lead); r != nil {
			return r
		}
		if r := next.below.rival(method, lead); r != nil {
			return r
		}
		return next.anyRival(method, lead)
	}
	if n.wild != nil {
		if r := visit(n.wild); r != nil {
			return r
		}
	}
	return n.eachLiteral(visit)
}

// rival returns a pattern of the leaf whose method intersects, if each side leads.
func (l *leaf) rival(method string, lead sides) *Pattern {
	if l == nil || lead != both {
		return nil
	}
	for _, e := range l.entries {
		if e.Method == method || e.Method == "" || method == "" ||
			e.Method == http.MethodGet && method == http.MethodHead ||
			e.Method == http.MethodHead && method == http.MethodGet {
			return e.Pattern
		}
	}
	return nil
}

// pick returns the entry for a method: the method itself, GET for HEAD, any.
func (l *leaf) pick(method string) *entry {
	if l == nil {
		return nil
	}
	var best *entry
	for i := range l.entries {
		e := &l.entries[i]
		switch {
		case e.Method == method:
			return e
		case e.Method == "" && best == nil && e.takes(method), e.Method == http.MethodGet && method == http.MethodHead:
			best = e
		}
	}
	return best
}

// takes reports whether a pattern for any method takes this one.
func (p *Pattern) takes(method string) bool {
	return !p.ReadOnly || method == http.MethodGet || method == http.MethodHead
}

// Find returns the index of the pattern that takes a request, -1 for none, and the
// values of its path's wildcards, for which vars gives the room. The path is
// escaped and must be a [SafePath].
func (m *Table) Find(method, host, path string, vars Values) (int, Values) {
	vars = vars[:0]
	if len(m.hosts)+len(m.labels) > 0 {
		host = Host(host)
		if n := m.hosts[host]; n != nil {
			if e, vs := n.match(method, path, vars); e != nil {
				return int(m.at[e.slot]), e.name(vs)
			}
		}
		if i := strings.IndexByte(host, '.'); i > 0 {
			if n := m.labels[host[i:]]; n != nil {
				if e, vs := n.match(method, path, vars); e != nil {
					return int(m.at[e.slot]), e.name(vs)
				}
			}
		}
	}
	if e, vs := m.any.match(method, path, vars); e != nil {
		return int(m.at[e.slot]), e.name(vs)
	}
	return -1, nil
}

// name gives the captured values their names. The value of a plain trailing slash
// has none and is left out.
func (e *entry) name(vars Values) Values {
	for i := range vars {
		vars[i].Name = e.names[i]
	}
	if n := len(vars); n > 0 && vars[n-1].Name == "" {
		return vars[:n-1]
	}
	return vars
}

// match looks below n for what is left of a path: "" or something that begins
// with a slash. The first hit is the most specific, because conflict has refused
// every set of patterns for which that is not so.
func (n *node) match(method, path string, vars Values) (*entry, Values) {
	if path == "" {
		return n.here.pick(method), vars
	}
	if path == "/" {
		if e := n.slash.pick(method); e != nil {
			return e, vars
		}
		return n.below.pick(method), append(vars, Value{})
	}
	text, tail := path[1:], ""
	if i := strings.IndexByte(text, '/'); i >= 0 {
		text, tail = text[:i], text[i:]
	}
	text = Unescape(text)
	if next := n.literal(text); next != nil {
		if e, vs := next.match(method, tail, vars); e != nil {
			return e, vs
		}
	}
	if n.wild != nil {
		if e, vs := n.wild.match(method, tail, append(vars, Value{Value: text})); e != nil {
			return e, vs
		}
	}
	if e := n.below.pick(method); e != nil {
		return e, append(vars, Value{Value: Unescape(path[1:])})
	}
	return nil, vars
}

// Unescape decodes a path, or a part of one. It is for what net/url has already found to be well-formed.
func Unescape(text string) string {
	if strings.IndexByte(text, '%') < 0 {
		return text
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return text
	}
	return plain
}

// Allowed returns the methods that some pattern takes for a host and path, sorted,
// for the Allow header of a 405.
func (m *Table) Allowed(host, path string) []string {
	host = Host(host)
	set := map[string]bool{}
	for _, method := range m.methods {
		if i, _ := m.Find(method, host, path, nil); i >= 0 {
			set[method] = true
			if method == http.MethodGet {
				set[http.MethodHead] = true
			}
		}
	}
	out := make([]string, 0, len(set))
	for method := range set {
		out = append(out, method)
	}
	slices.Sort(out)
	return out
}

// methodsOf returns the methods that patterns name.
func methodsOf(patterns []Pattern) []string {
	var out []string
	for i := range patterns {
		method := patterns[i].Method
		if method == "" && patterns[i].ReadOnly {
			method = http.MethodGet
		}
		if method != "" && !slices.Contains(out, method) {
			out = append(out, method)
		}
	}
	return out
}
