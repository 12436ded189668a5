package filter

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func prefixes(tb testing.TB, list ...string) []netip.Prefix {
	tb.Helper()
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			tb.Fatal(err)
		}
		out[i] = p
	}
	return out
}

func addr(tb testing.TB, s string) netip.Addr {
	tb.Helper()
	a, err := netip.ParseAddr(s)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestSetContains(t *testing.T) {
	s := NewSet(prefixes(t, "10.1.2.3/8", "10.0.0.0/16", "192.0.2.7/32", "::ffff:198.51.100.0/120", "2001:db8::/32", "2001:db8:1::/48", "::1/128", "255.255.255.255/32"))
	tests := []struct {
		addr string
		want bool
	}{
		{"10.0.0.0", true},
		{"10.255.255.255", true},
		{"9.255.255.255", false},
		{"11.0.0.0", false},
		{"192.0.2.7", true},
		{"192.0.2.6", false},
		{"192.0.2.8", false},
		{"198.51.100.255", true},
		{"198.51.101.0", false},
		{"255.255.255.255", true},
		{"0.0.0.0", false},
		{"2001:db8::", true},
		{"2001:db8:ffff::1", true},
		{"2001:db9::", false},
		{"::1", true},
		{"::", false},
		{"::2", false},
	}
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			if got := s.Contains(addr(t, tt.addr)); got != tt.want {
				t.Errorf("Contains is %v", got)
			}
		})
	}
	if s.Contains(netip.Addr{}) || (Set{}).Contains(addr(t, "1.2.3.4")) || (Set{}).Contains(addr(t, "::1")) {
		t.Error("nothing is in an empty set, and no invalid address in any")
	}
	all := NewSet(prefixes(t, "0.0.0.0/0", "::/0"))
	for _, a := range []string{"0.0.0.0", "255.255.255.255", "::", "ffff::"} {
		if !all.Contains(addr(t, a)) {
			t.Errorf("%s is not in the set of all", a)
		}
	}
	if !NewSet([]netip.Prefix{{}}).Empty() {
		t.Error("an invalid prefix is in the set")
	}
}

func TestSetAgreesWithSearchingAll(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		list := make([]netip.Prefix, rnd.IntN(20))
		for i := range list {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], rnd.Uint32()&0xff0f0f0f)
			list[i] = netip.PrefixFrom(netip.AddrFrom4(b), rnd.IntN(33))
			if rnd.IntN(2) == 0 {
				var six [16]byte
				copy(six[:], b[:])
				list[i] = netip.PrefixFrom(netip.AddrFrom16(six), rnd.IntN(64))
			}
		}
		s := NewSet(list)
		for range 200 {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], rnd.Uint32()&0xff0f0f0f)
			var six [16]byte
			copy(six[:], b[:])
			for _, a := range []netip.Addr{netip.AddrFrom4(b), netip.AddrFrom16(six)} {
				want := false
				for _, p := range list {
					want = want || p.Contains(a)
				}
				if s.Contains(a) != want {
					t.Fatalf("%v in %v: %v", a, list, !want)
				}
			}
		}
	}
}

func TestAddressesDenyComesFirst(t *testing.T) {
	r := Addresses{Allow: NewSet(prefixes(t, "10.0.0.0/8")), Deny: NewSet(prefixes(t, "10.0.0.1/32"))}
	for a, want := range map[string]bool{"10.0.0.2": true, "10.0.0.1": false, "11.0.0.1": false, "::1": false} {
		if r.Pass(addr(t, a)) != want {
			t.Errorf("%s: %v", a, !want)
		}
	}
	if r.Pass(netip.Addr{}) {
		t.Error("no address passes a rule that allows some")
	}
	if r := (Addresses{}); !r.Pass(netip.Addr{}) {
		t.Error("the zero rule lets everybody in")
	}
}

func TestBans(t *testing.T) {
	now := time.Now()
	l := NewBans([]Ban{
		{Prefix: prefixes(t, "10.0.0.0/8")[0], Reason: "wide"},
		{Prefix: prefixes(t, "10.1.1.1/32")[0], Until: now.Add(time.Minute), Reason: "narrow"},
		{Prefix: prefixes(t, "::ffff:192.0.2.1/128")[0], Until: now.Add(time.Minute)},
		{Prefix: prefixes(t, "2001:db8::/64")[0], Until: now.Add(-time.Second)},
		{Prefix: prefixes(t, "198.51.100.0/24")[0], Until: now.Add(time.Second), Reason: "short"},
		{Prefix: prefixes(t, "198.51.100.7/24")[0], Until: now.Add(time.Minute), Reason: "long"},
		{},
	})
	tests := []struct {
		addr, reason string
		at           time.Time
		want         bool
	}{
		{"10.1.1.1", "narrow", now, true},
		{"10.1.1.1", "wide", now.Add(time.Minute), true},
		{"10.1.1.2", "wide", now, true},
		{"11.1.1.2", "", now, false},
		{"192.0.2.1", "", now, true},
		{"192.0.2.1", "", now.Add(time.Minute), false},
		{"2001:db8::1", "", now, false},
		{"198.51.100.200", "long", now, true},
	}
	for _, tt := range tests {
		b, ok := l.Find(addr(t, tt.addr), tt.at)
		if ok != tt.want || b.Reason != tt.reason {
			t.Errorf("%s: %v %q, want %v %q", tt.addr, ok, b.Reason, tt.want, tt.reason)
		}
	}
	if n := len(l.All(now)); n != 4 {
		t.Errorf("%d bans hold", n)
	}
	if n := len(l.All(now.Add(time.Hour))); n != 1 {
		t.Errorf("%d bans hold after an hour", n)
	}
	var none *Bans
	if _, ok := none.Find(addr(t, "1.2.3.4"), now); ok || none.All(now) != nil {
		t.Error("a nil list bans")
	}
	if _, ok := l.Find(netip.Addr{}, now); ok {
		t.Error("no address is banned")
	}
}

func tenThousand() []netip.Prefix {
	rnd := rand.New(rand.NewPCG(3, 4))
	list := make([]netip.Prefix, 10_000)
	for i := range list {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rnd.Uint32())
		list[i] = netip.PrefixFrom(netip.AddrFrom4(b), 16+rnd.IntN(17))
		if i%4 == 0 {
			var six [16]byte
			binary.BigEndian.PutUint64(six[:], rnd.Uint64())
			list[i] = netip.PrefixFrom(netip.AddrFrom16(six), 32+rnd.IntN(33))
		}
	}
	return list
}

func BenchmarkSetContains(b *testing.B) {
	s := NewSet(tenThousand())
	for _, a := range []string{"203.0.113.7", "2001:db8::7"} {
		b.Run(fmt.Sprintf("10000 prefixes %s", a), func(b *testing.B) {
			x := addr(b, a)
			b.ReportAllocs()
			for b.Loop() {
				s.Contains(x)
			}
		})
	}
}

func BenchmarkBansFind(b *testing.B) {
	list := make([]Ban, 0, 10_000)
	for _, p := range tenThousand() {
		list = append(list, Ban{Prefix: p})
	}
	l := NewBans(list)
	now := time.Now()
	x := addr(b, "203.0.113.7")
	b.ReportAllocs()
	for b.Loop() {
		l.Find(x, now)
	}
}

func BenchmarkNewSet10000(b *testing.B) {
	list := tenThousand()
	for b.Loop() {
		NewSet(list)
	}
}
