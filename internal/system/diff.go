package system

import (
	"cmp"
	"reflect"
	"slices"

	"fairlead/internal/system/document"
)

// ChangeKind says what became of a value.
type ChangeKind string

// The kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Change is one difference between two revisions of a system's file.
type Change struct {
	Kind ChangeKind
	Path string // services.auth.replicas; keys that are no words are quoted: routes."GET /".service
	Old  string // as written; a list as a whole: "[a, b]"; "" when added
	New  string // "" when removed
}

// Diff returns what differs between the files of two revisions, each with its
// environment merged in, sorted by path. Values are compared as they are written:
// 60s and 1m differ, 3 and "3" do not; so do a default and the same value written
// out. Of a type the text of its schema is compared too, of which a part of the hash is
// shown. Lists are compared as a whole, because their order means something. A nil
// System is one without anything.
//
// The file holds no secret's value, so no Change does.
func Diff(older, newer *System) []Change {
	older, newer = orNothing(older), orNothing(newer)
	changes := diff(nil, older.flat, newer.flat)
	changes = diffRoutes(changes, older, newer)
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	return changes
}

func orNothing(s *System) *System {
	if s == nil {
		return &System{}
	}
	return s
}

// flatten returns what a document holds by path, but the routes.
func flatten(doc *document.Node) map[string]string {
	flat := map[string]string{}
	for _, m := range doc.Items {
		if m.Key == "routes" && m.Kind == document.Mapping && len(m.Items) > 0 {
			continue
		}
		place(flat, document.Join("", m.Key), m.Leaves())
	}
	return flat
}

// place puts leaves below a path.
func place(flat map[string]string, path string, leaves []document.Leaf) {
	for _, l := range leaves {
		at := path
		if l.Path != "" {
			at += "." + l.Path
		}
		flat[at] = l.Value
	}
}

// diffRoutes appends what differs between routes, of which most are the same ones.
func diffRoutes(changes []Change, older, newer *System) []Change {
	before, after := map[string]string{}, map[string]string{}
	gone := func(i int) { place(before, document.Join("routes", older.Routes[i].Key), older.Routes[i].written) }
	come := func(i int) { place(after, document.Join("routes", newer.Routes[i].Key), newer.Routes[i].written) }
	i, j := 0, 0
	for i < len(older.Routes) && j < len(newer.Routes) {
		switch cmp.Compare(older.Routes[i].Key, newer.Routes[j].Key) {
		case -1:
			gone(i)
			i++
		case 1:
			come(j)
			j++
		default:
			if older.Routes[i] != newer.Routes[j] {
				gone(i)
				come(j)
			}
			i++
			j++
		}
	}
	for ; i < len(older.Routes); i++ {
		gone(i)
	}
	for ; j < len(newer.Routes); j++ {
		come(j)
	}
	return diff(changes, before, after)
}

// diff appends what differs between two documents.
func diff(changes []Change, before, after map[string]string) []Change {
	for p, was := range before {
		switch is, has := after[p]; {
		case !has:
			changes = append(changes, Change{Kind: Removed, Path: p, Old: was})
		case was != is:
			changes = append(changes, Change{Kind: Changed, Path: p, Old: was, New: is})
		}
	}
	for p, is := range after {
		if _, had := before[p]; !had {
			changes = append(changes, Change{Kind: Added, Path: p, New: is})
		}
	}
	return changes
}

// ServiceEqual reports whether two services have the same definition, so that an
// instance of one can stand for an instance of the other. What is the gateway's
// business does not matter: the pool, the drain, where an external service is, and
// how its health is checked; nor does the number of replicas, nor what is watched.
// What lies outside of the service, as how one of its secrets is made, is not
// compared. Two nil services are equal.
func ServiceEqual(a, b *Service) bool {
	if a == nil || b == nil {
		return a == b
	}
	if len(a.External) > 0 || len(b.External) > 0 {
		return len(a.External) > 0 && len(b.External) > 0
	}
	x, y := *a, *b
	for _, s := range []*Service{&x, &y} {
		s.Replicas, s.Pool, s.Drain, s.Watch = 0, Pool{}, 0, nil
	}
	return reflect.DeepEqual(x, y)
}
