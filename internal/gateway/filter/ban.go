package filter

import (
	"net/netip"
	"slices"
	"time"
)

// Ban keeps the clients of a network out.
type Ban struct {
	Prefix netip.Prefix
	Until  time.Time // the zero time: until it is lifted
	Reason string    // for the operator; clients are not told
}

// Over reports whether the ban has ended.
func (b *Ban) Over(now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// Bans is a ban list. It is immutable; a nil list bans nobody.
type Bans struct {
	all []Ban // sorted by prefix
	any Set   // of all, since nearly every address is in none
	by  map[netip.Prefix]int
	// four and six are the lengths that occur, the longest first.
	four, six []int
}

// NewBans makes a list. Of two bans of the same network the one that lasts longer
// counts. Networks are taken as [Normal] writes them; invalid ones are left out.
func NewBans(bans []Ban) *Bans {
	l := &Bans{by: make(map[netip.Prefix]int, len(bans))}
	for _, b := range bans {
		if b.Prefix = Normal(b.Prefix); !b.Prefix.IsValid() {
			continue
		}
		if i, ok := l.by[b.Prefix]; ok {
			if have := l.all[i].Until; !have.IsZero() && (b.Until.IsZero() || b.Until.After(have)) {
				l.all[i] = b
			}
			continue
		}
		l.by[b.Prefix] = len(l.all)
		l.all = append(l.all, b)
		lengths := &l.six
		if b.Prefix.Addr().Is4() {
			lengths = &l.four
		}
		if !slices.Contains(*lengths, b.Prefix.Bits()) {
			*lengths = append(*lengths, b.Prefix.Bits())
		}
	}
	slices.SortFunc(l.all, func(a, b Ban) int { return comparePrefixes(a.Prefix, b.Prefix) })
	networks := make([]netip.Prefix, len(l.all))
	for i, b := range l.all {
		networks[i] = b.Prefix
		l.by[b.Prefix] = i
	}
	l.any = NewSet(networks)
	for _, lengths := range [][]int{l.four, l.six} {
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
	}
	return l
}

// Find returns a ban that holds now for an address, the one of the smallest network
// if there are several.
func (l *Bans) Find(a netip.Addr, now time.Time) (Ban, bool) {
	if l == nil || !l.any.Contains(a) {
		return Ban{}, false
	}
	lengths := l.six
	if a.Is4() {
		lengths = l.four
	}
	for _, bits := range lengths {
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if i, ok := l.by[p]; ok && !l.all[i].Over(now) {
			return l.all[i], true
		}
	}
	return Ban{}, false
}

// All returns the bans that hold now, sorted by network.
func (l *Bans) All(now time.Time) []Ban {
	if l == nil {
		return nil
	}
	all := make([]Ban, 0, len(l.all))
	for _, b := range l.all {
		if !b.Over(now) {
			all = append(all, b)
		}
	}
	return all
}
