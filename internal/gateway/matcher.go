package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"fairlead/internal/system"
)

// Check reports every route whose pattern is malformed, that is a duplicate of
// another, or that conflicts with another: both match some request, and neither
// is the more specific. It returns nil if Apply would take the routes.
func Check(routes []system.Route) error {
	compiled := make([]*route, len(routes))
	for i := range routes {
		compiled[i] = &route{def: routes[i]}
	}
	_, err := newMatcher(compiled)
	return err
}

// matcher finds the route of a request. It is immutable once built.
//
// The rules are net/http's, with these differences: a path decides before the
// method does, so that "GET /" and "/adminer/" do not conflict; "*.example.com"
// stands for one label; nothing is redirected.
type matcher struct {
	hosts  map[string]*node // exact names
	labels map[string]*node // ".example.com" for "*.example.com"
	any    *node

	scratch []segment // of the route that is being added
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

// leaf holds the routes of one path, by method.
type leaf struct{ entries []entry }

type entry struct {
	method string // "" for any
	names  []string
	route  *route
}

// newMatcher builds the tree. All errors are reported, joined by newlines.
func newMatcher(routes []*route) (*matcher, error) {
	m := &matcher{hosts: map[string]*node{}, labels: map[string]*node{}, any: &node{}}
	var problems routeErrors
	for _, r := range routes {
		if err := m.add(r); err != nil {
			problems = append(problems, err)
		}
	}
	if problems != nil {
		return nil, problems
	}
	return m, nil
}

// routeErrors is several errors of routes, one a line.
type routeErrors []error

func (p routeErrors) Error() string {
	lines := make([]string, len(p))
	for i, err := range p {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func (p routeErrors) Unwrap() []error { return p }

func (m *matcher) add(r *route) error {
	segments, err := appendSegments(m.scratch[:0], r.def.Path)
	if err != nil {
		return fmt.Errorf("check route %q: path %w", r.def.Key, err)
	}
	m.scratch = segments
	root := m.any
	if r.def.Host != "" {
		if err := checkHost(r.def.Host); err != nil {
			return fmt.Errorf("check route %q: %w", r.def.Key, err)
		}
		table, name := m.hosts, strings.ToLower(r.def.Host)
		if strings.HasPrefix(name, "*") {
			table, name = m.labels, name[1:]
		}
		if root = table[name]; root == nil {
			root = &node{}
			table[name] = root
		}
	}
	if other := root.conflict(segments, r.def.Method, 0); other != nil {
		return fmt.Errorf("check route %q: conflicts with %q: both match some paths and neither is more specific", r.def.Key, other.def.Key)
	}
	l := root.grow(segments)
	for _, e := range l.entries {
		if e.method == r.def.Method {
			return fmt.Errorf("check route %q: matches the same requests as %q", r.def.Key, e.route.def.Key)
		}
	}
	e := entry{method: r.def.Method, route: r}
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

func (n *node) eachLiteral(f func(*node) *route) *route {
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

// conflict looks for a route in the tree below n that matches some request that
// the pattern matches too, where each of the two is the more specific in another
// segment. It returns nil if there is none.
func (n *node) conflict(segments []segment, method string, lead sides) *route {
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
		if r := n.eachLiteral(func(next *node) *route {
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

// anyRival looks for a route with an intersecting method anywhere below n's slash.
func (n *node) anyRival(method string, lead sides) *route {
	if lead != both {
		return nil
	}
	if r := n.slash.rival(method, lead); r != nil {
		return r
	}
	visit := func(next *node) *route {
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

// rival returns a route of the leaf whose method intersects, if each side leads.
func (l *leaf) rival(method string, lead sides) *route {
	if l == nil || lead != both {
		return nil
	}
	for _, e := range l.entries {
		if e.method == method || e.method == "" || method == "" ||
			e.method == http.MethodGet && method == http.MethodHead ||
			e.method == http.MethodHead && method == http.MethodGet {
			return e.route
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
		case e.method == method:
			return e
		case e.method == "" && best == nil && e.route.takes(method), e.method == http.MethodGet && method == http.MethodHead:
			best = e
		}
	}
	return best
}

// takes reports whether a route for any method takes this one: files can only be
// read.
func (r *route) takes(method string) bool {
	return r.def.Files == nil || method == http.MethodGet || method == http.MethodHead
}

// match returns the route of a request, with the values of its path's wildcards
// appended to vars, or nil. The path is escaped and must be a [safePath].
func (m *matcher) match(method, host, path string, vars pathValues) (*route, pathValues) {
	vars = vars[:0]
	if len(m.hosts)+len(m.labels) > 0 {
		host = normalHost(host)
		if n := m.hosts[host]; n != nil {
			if e, vs := n.match(method, path, vars); e != nil {
				return e.route, e.name(vs)
			}
		}
		if i := strings.IndexByte(host, '.'); i > 0 {
			if n := m.labels[host[i:]]; n != nil {
				if e, vs := n.match(method, path, vars); e != nil {
					return e.route, e.name(vs)
				}
			}
		}
	}
	if e, vs := m.any.match(method, path, vars); e != nil {
		return e.route, e.name(vs)
	}
	return nil, nil
}

// name gives the captured values their names. The value of a plain trailing slash
// has none and is left out.
func (e *entry) name(vars pathValues) pathValues {
	for i := range vars {
		vars[i].name = e.names[i]
	}
	if n := len(vars); n > 0 && vars[n-1].name == "" {
		return vars[:n-1]
	}
	return vars
}

// match looks below n for what is left of a path: "" or something that begins
// with a slash. The first hit is the most specific, because conflict has refused
// every set of routes for which that is not so.
func (n *node) match(method, path string, vars pathValues) (*entry, pathValues) {
	if path == "" {
		return n.here.pick(method), vars
	}
	if path == "/" {
		if e := n.slash.pick(method); e != nil {
			return e, vars
		}
		return n.below.pick(method), append(vars, pathValue{})
	}
	text, tail := path[1:], ""
	if i := strings.IndexByte(text, '/'); i >= 0 {
		text, tail = text[:i], text[i:]
	}
	text = unescape(text)
	if next := n.literal(text); next != nil {
		if e, vs := next.match(method, tail, vars); e != nil {
			return e, vs
		}
	}
	if n.wild != nil {
		if e, vs := n.wild.match(method, tail, append(vars, pathValue{value: text})); e != nil {
			return e, vs
		}
	}
	if e := n.below.pick(method); e != nil {
		return e, append(vars, pathValue{value: unescape(path[1:])})
	}
	return nil, vars
}

// unescape decodes what net/url has already found to be well-formed.
func unescape(text string) string {
	if strings.IndexByte(text, '%') < 0 {
		return text
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return text
	}
	return plain
}

// allowed returns the methods that some route takes for a host and path, sorted,
// for the Allow header of a 405.
func (m *matcher) allowed(host, path string) []string {
	host = normalHost(host)
	set := map[string]bool{}
	for _, method := range m.methods() {
		if r, _ := m.match(method, host, path, nil); r != nil {
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

// methods returns the methods that routes name.
func (m *matcher) methods() []string {
	set := map[string]bool{}
	m.any.collect(set)
	for _, n := range m.hosts {
		n.collect(set)
	}
	for _, n := range m.labels {
		n.collect(set)
	}
	out := make([]string, 0, len(set))
	for method := range set {
		out = append(out, method)
	}
	return out
}

func (n *node) collect(set map[string]bool) {
	for _, l := range []*leaf{n.here, n.slash, n.below} {
		if l == nil {
			continue
		}
		for _, e := range l.entries {
			switch {
			case e.method != "":
				set[e.method] = true
			case e.route.def.Files != nil:
				set[http.MethodGet] = true
			}
		}
	}
	n.eachLiteral(func(next *node) *route { next.collect(set); return nil })
	if n.wild != nil {
		n.wild.collect(set)
	}
}
