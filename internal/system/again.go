package system

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"

	"fairlead/internal/system/document"
	"fairlead/internal/system/message"
	"fairlead/internal/system/notation"
)

// A file is mostly read again because somebody changed some lines of it, and a door
// may have thousands of routes. So what was found in the text of a route, and in the
// rest of the file, is kept with the System, and used again where nothing but routes
// changed. FuzzAgain compares the outcome with that of reading the whole.

// mostAgain bounds the routes that are read by themselves, each of which is compared
// with all others.
const mostAgain = 64

// reading is how a file was read. It is not changed once made.
type reading struct {
	entries document.Entries // the routes
	known   []*knownRoute    // in the file's order
	passes  []*reader        // of the file as it stands, and with each environment
	chosen  int              // the pass that the System is of
	disk    map[string]trace
}

// knownRoute is what other routes are compared with.
type knownRoute struct {
	key     string
	pattern notation.Pattern
}

// remember keeps how a file was read with sys, which came out of one of the passes.
// Nothing is kept where a route can mean something else by what is around it, or what
// is told of the file changes with its lines.
func remember(sys *System, doc *document.Node, environments []*document.Node, passes []*reader) {
	entries, ok := document.EntriesOf(sys.Source, doc, "routes")
	if !ok || len(sys.Warnings) > 0 || slices.ContainsFunc(environments, func(e *document.Node) bool { return e.Member("routes") != nil }) {
		return
	}
	rd := &reading{entries: entries, disk: passes[0].disk}
	for i, r := range passes {
		if r.sys == sys {
			rd.chosen = i
		}
	}
	byKey := make(map[string]*routed, len(passes[0].routes))
	for _, t := range passes[0].routes {
		byKey[t.key.Key] = t
	}
	for _, m := range doc.Member("routes").Items {
		rd.known = append(rd.known, &knownRoute{m.Key, byKey[m.Key].pattern})
	}
	for _, r := range passes {
		slim, without := *r, *r.sys
		without.Routes, without.flat, without.Warnings = nil, nil, nil
		slim.sys, slim.routes = &without, nil
		rd.passes = append(rd.passes, &slim)
	}
	sys.reading = rd
}

// again is what the file is with the text src, if it differs from s in some routes at
// most and nothing is to be told of it. It reports false where that is not certain.
func (s *System) again(src []byte, opts Options) (*System, bool) {
	rd := s.reading
	if rd == nil || opts.Environment != s.Environment || opts.Files != nil || len(src) > document.MaxSize || !s.diskStays() {
		return nil, false
	}
	first, last, text, ok := rd.changed(s.Source, src)
	if !ok || last-first > mostAgain {
		return nil, false
	}
	entries, members, ok := rd.entries.Replace(first, last, text)
	if !ok || len(members) > mostAgain || len(entries.Starts) == 0 || len(entries.Starts) > maxRoutes {
		return nil, false
	}
	known := slices.Concat(rd.known[:first], rd.known[last:])
	gone := rd.known[first:last]
	var routes []*routed
	disk := rd.disk
	for i, r := range rd.passes {
		fresh := r.alone(members)
		if fresh == nil {
			return nil, false
		}
		if i == rd.chosen {
			routes = fresh.routes
		}
		if len(fresh.disk) > 0 {
			disk = maps.Clone(disk)
			maps.Copy(disk, fresh.disk)
		}
	}
	come := make([]*knownRoute, len(members))
	for i, m := range members {
		t := routes[slices.IndexFunc(routes, func(t *routed) bool { return t.key == m })]
		come[i] = &knownRoute{m.Key, t.pattern}
		if slices.ContainsFunc(known, func(k *knownRoute) bool { return k.key == m.Key || notation.Meet(&k.pattern, &t.pattern) }) {
			return nil, false
		}
	}
	if acme := s.Gateway.TLS; acme != nil && acme.ACME != nil && slices.ContainsFunc(slices.Concat(gone, come), func(k *knownRoute) bool { return k.pattern.Host != "" }) {
		return nil, false // the authority may be asked for other hosts
	}
	next := *s
	next.Source = src
	next.reading = &reading{entries: entries, known: slices.Insert(known, first, come...), passes: rd.passes, chosen: rd.chosen, disk: disk}
	next.replaceRoutes(gone, routes)
	return &next, true
}

// diskStays reports whether what the file names on the disk is as it was.
func (s *System) diskStays() bool {
	for path, was := range s.reading.disk {
		if info, err := os.Stat(path); err != nil || traceOf(info) != was {
			return false
		}
	}
	for name, text := range s.Files {
		if is, err := readAtMost(absolute(s.Dir, name), message.MaxSchema); err != nil || !bytes.Equal(is, text) {
			return false
		}
	}
	return true
}

// changed finds the entries that differ between two texts: those from first up to
// last, exclusive, are replaced by text. It reports false if more than they changes.
func (rd *reading) changed(was, is []byte) (first, last int, text []byte, ok bool) {
	begin := prefix(was, is)
	if begin == len(was) && begin == len(is) {
		return 0, 0, nil, true
	}
	end := len(was) - suffix(was[begin:], is[begin:])
	e := &rd.entries
	if begin < e.Starts[0] || end > e.End {
		return 0, 0, nil, false
	}
	first, found := slices.BinarySearch(e.Starts, begin)
	if !found || first == len(e.Starts) {
		first-- // that in which it lies
	}
	last, _ = slices.BinarySearch(e.Starts, max(end, begin))
	from, to := e.At(first), e.At(last)
	text = is[from : to+len(is)-len(was)]
	// What follows must begin a line, as before.
	whole := len(text) == 0 || text[len(text)-1] == '\n' || to == len(was)
	return first, last, text, whole
}

const block = 4096

// prefix is how many bytes a and b have in common at their beginnings.
func prefix(a, b []byte) int {
	n, most := 0, min(len(a), len(b))
	for n+block <= most && bytes.Equal(a[n:n+block], b[n:n+block]) {
		n += block
	}
	for n < most && a[n] == b[n] {
		n++
	}
	return n
}

// suffix is how many bytes a and b have in common at their ends.
func suffix(a, b []byte) int {
	n, most := 0, min(len(a), len(b))
	for n+block <= most && bytes.Equal(a[len(a)-n-block:len(a)-n], b[len(b)-n-block:len(b)-n]) {
		n += block
	}
	for n < most && a[len(a)-n-1] == b[len(b)-n-1] {
		n++
	}
	return n
}

// alone reads routes as if the file had no others. It returns nil if there is
// something to tell.
func (r *reader) alone(routes []*document.Node) *reader {
	fresh, sys, around := *r, *r.sys, *r.surroundings
	around.disk = map[string]trace{}
	fresh.surroundings, fresh.rec, fresh.sys, fresh.meant = &around, newRecorder(r.rec.file, nil), &sys, map[string]bool{}
	fresh.readRoutes(&document.Node{Kind: document.Mapping, Path: "routes", Items: routes})
	fresh.checkRoutes()
	for _, t := range fresh.routes {
		fresh.checkTarget(t)
	}
	fresh.checkAuth()
	if len(fresh.rec.findings) > 0 || len(sys.Warnings) > 0 || len(fresh.routes) != len(routes) {
		return nil
	}
	return &fresh
}

// replaceRoutes takes routes out of s and puts others in.
func (s *System) replaceRoutes(gone []*knownRoute, come []*routed) {
	slices.SortFunc(come, func(a, b *routed) int { return strings.Compare(a.key.Key, b.key.Key) })
	keys := make([]string, len(gone))
	for i, k := range gone {
		keys[i] = k.key
	}
	slices.Sort(keys)
	before := s.Routes
	s.Routes = make([]*Route, 0, len(before)-len(gone)+len(come))
	at := 0
	copyTo := func(i int) {
		s.Routes = append(s.Routes, before[at:i]...)
		at = i
	}
	for len(keys) > 0 || len(come) > 0 {
		if len(come) == 0 || len(keys) > 0 && keys[0] <= come[0].key.Key {
			i, _ := findRoute(before, keys[0])
			copyTo(i)
			keys, at = keys[1:], i+1
			continue
		}
		i, _ := findRoute(before, come[0].key.Key)
		copyTo(max(i, at))
		s.Routes = append(s.Routes, come[0].kept())
		come = come[1:]
	}
	copyTo(len(before))
	s.Services = slices.Clone(s.Services)
	s.markHTTP()
}

func findRoute(routes []*Route, key string) (int, bool) {
	return slices.BinarySearchFunc(routes, key, func(r *Route, key string) int { return strings.Compare(r.Key, key) })
}
