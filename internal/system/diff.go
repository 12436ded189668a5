package system

import (
	"cmp"
	"reflect"
	"slices"
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
	before, after := map[string]string{}, map[string]string{}
	if older != nil {
		before = older.flat
	}
	if newer != nil {
		after = newer.flat
	}
	var changes []Change
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
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
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
