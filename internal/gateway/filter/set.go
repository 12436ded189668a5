package filter

import (
	"cmp"
	"net/netip"
	"slices"
)

// Set is a set of networks. The zero Set is empty. It is immutable.
type Set struct {
	four []span4
	six  []netip.Prefix // sorted, none within another
}

// span4 is a network of IPv4 by its first and last address.
type span4 struct{ first, last uint32 }

// NewSet returns the set of the networks. IPv4 addresses written as IPv6
// (::ffff:a.b.c.d) count as IPv4; invalid prefixes are left out.
func NewSet(prefixes []netip.Prefix) Set {
	var s Set
	all := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if p = Normal(p); p.IsValid() {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, comparePrefixes)
	var last netip.Prefix
	for _, p := range all {
		// Networks are either apart or one within the other, the larger sorted first.
		if last.IsValid() && last.Contains(p.Addr()) {
			continue
		}
		last = p
		if p.Addr().Is4() {
			first := number(p.Addr())
			s.four = append(s.four, span4{first, first | uint32(uint64(1)<<(32-p.Bits())-1)})
		} else {
			s.six = append(s.six, p)
		}
	}
	return s
}

// Normal returns p with the bits behind its length cleared, without zone, and as
// IPv4 if it lies within ::ffff:0:0/96; the zero Prefix if p is invalid.
func Normal(p netip.Prefix) netip.Prefix {
	a, bits := p.Addr().WithZone(""), p.Bits()
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	q, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return q
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// Empty reports whether no address is in the set.
func (s Set) Empty() bool { return len(s.four) == 0 && len(s.six) == 0 }

// Contains reports whether an address, without zone and unmapped as [Origin] gives
// it, is in the set. An invalid address is in none.
func (s Set) Contains(a netip.Addr) bool {
	if a.Is4() {
		n := number(a)
		low, high := 0, len(s.four)
		for low < high { // the first that begins behind a
			if mid := int(uint(low+high) >> 1); s.four[mid].first <= n {
				low = mid + 1
			} else {
				high = mid
			}
		}
		return low > 0 && n <= s.four[low-1].last
	}
	if len(s.six) == 0 || !a.IsValid() {
		return false
	}
	i, found := slices.BinarySearchFunc(s.six, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return found || i > 0 && s.six[i-1].Contains(a)
}

// Addresses is a rule of who may come by their address. The zero rule lets
// everybody in.
type Addresses struct{ Allow, Deny Set }

// Some reports whether there is an address that the rule keeps out.
func (r *Addresses) Some() bool { return !r.Deny.Empty() || !r.Allow.Empty() }

// Pass reports whether the rule lets an address in: it must not be denied, and be
// allowed where anything is. An invalid address is let in only by a rule that
// allows everybody.
func (r *Addresses) Pass(a netip.Addr) bool {
	return !r.Deny.Contains(a) && (r.Allow.Empty() || r.Allow.Contains(a))
}
