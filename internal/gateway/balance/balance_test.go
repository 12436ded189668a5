package balance

import (
	"fmt"
	"math"
	"testing"
)

// endpoints are n idle candidates of the same weight.
func endpoints(n int) []Candidate {
	cs := make([]Candidate, n)
	for i := range cs {
		cs[i] = Candidate{ID: Key(fmt.Sprintf("api-%d", i)), Weight: 1}
	}
	return cs
}

var choices = map[string]func(cs []Candidate, turn uint64) int{
	"least": Least,
	"round": Round,
	"two":   Two,
	"hash":  func(cs []Candidate, turn uint64) int { return Hash(cs, mix(turn), Bound{}) },
}

// shares chooses so many times and returns what each candidate got.
func shares(choose func([]Candidate, uint64) int, cs []Candidate, times int) []float64 {
	got := make([]float64, len(cs))
	for turn := range uint64(times) {
		got[choose(cs, turn)]++
	}
	for i := range got {
		got[i] /= float64(times)
	}
	return got
}

func TestNobodyAndOne(t *testing.T) {
	for name, choose := range choices {
		if got := choose(nil, 7); got != -1 {
			t.Errorf("%s of none is %d", name, got)
		}
		if got := choose(endpoints(1), 7); got != 0 {
			t.Errorf("%s of one is %d", name, got)
		}
	}
}

func TestIdleEndpointsShareEvenly(t *testing.T) {
	for name, choose := range choices {
		for _, n := range []int{2, 3, 7, 64} {
			for i, got := range shares(choose, endpoints(n), 20_000) {
				if want := 1 / float64(n); math.Abs(got-want) > 0.25*want {
					t.Errorf("%s: endpoint %d of %d gets %.3f", name, i, n, got)
				}
			}
		}
	}
}

func TestRoundRobinIsExact(t *testing.T) {
	cs := endpoints(5)
	for turn := range uint64(50) {
		if got := Round(cs, turn); got != int(turn%5) {
			t.Fatalf("turn %d goes to %d", turn, got)
		}
	}
}

func TestLeastTakesTheIdlest(t *testing.T) {
	cs := endpoints(4)
	for i := range cs {
		cs[i].Open = int64(5 - i)
	}
	for turn := range uint64(8) {
		if got := Least(cs, turn); got != 3 {
			t.Fatalf("turn %d goes to %d", turn, got)
		}
	}
}

func TestTwoChoicesNeverTakesTheBusiest(t *testing.T) {
	cs := endpoints(5)
	cs[2].Open = 10
	for turn := range uint64(1000) {
		if Two(cs, turn) == 2 {
			t.Fatal("the busiest was chosen although there were two")
		}
	}
}

// TestSlowEndpointGetsItsShare serves with endpoints that take equally long: what
// is open on them follows their weights.
func TestSlowEndpointGetsItsShare(t *testing.T) {
	for name, choose := range choices {
		for _, busy := range []bool{false, true} {
			cs := endpoints(4)
			cs[0].Weight = 0.2
			got := make([]float64, len(cs))
			var open []int
			const times = 20_000
			for turn := range uint64(times) {
				i := choose(cs, turn)
				got[i]++
				if !busy {
					continue
				}
				cs[i].Open++
				if open = append(open, i); len(open) > 40 {
					cs[open[0]].Open--
					open = open[1:]
				}
			}
			if share := got[0] / times; share > 0.1 || share < 0.01 {
				t.Errorf("%s, busy %v: an endpoint at a fifth of its weight gets %.3f", name, busy, share)
			}
			for i := 1; i < 4; i++ {
				if share := got[i] / times; share < 0.25 || share > 0.36 {
					t.Errorf("%s, busy %v: endpoint %d gets %.3f", name, busy, i, share)
				}
			}
		}
	}
}

func TestAllAreNewAndShareEvenly(t *testing.T) {
	for name, choose := range choices {
		cs := endpoints(3)
		for i := range cs {
			cs[i].Weight = 0.1
		}
		for i, got := range shares(choose, cs, 10_000) {
			if math.Abs(got-1.0/3) > 0.08 {
				t.Errorf("%s: endpoint %d gets %.3f", name, i, got)
			}
		}
	}
}

func TestHashMovesOnlyTheKeysOfWhatLeaves(t *testing.T) {
	const keys = 5000
	for _, n := range []int{2, 3, 10, 32} {
		cs := endpoints(n)
		for gone := range cs {
			rest := append(append([]Candidate{}, cs[:gone]...), cs[gone+1:]...)
			moved := 0
			for k := range keys {
				key := Key(fmt.Sprint("key", k))
				was, is := Hash(cs, key, Bound{}), Hash(rest, key, Bound{})
				if was == gone {
					moved++
				} else if cs[was].ID != rest[is].ID {
					t.Fatalf("%d endpoints: key %d moved although its endpoint stayed", n, k)
				}
			}
			if want := float64(keys) / float64(n); math.Abs(float64(moved)-want) > 0.25*want+20 {
				t.Errorf("%d endpoints: %d of %d keys moved", n, moved, keys)
			}
		}
	}
}

func TestHashDoesNotDependOnTheOrder(t *testing.T) {
	cs := endpoints(8)
	turned := append(append([]Candidate{}, cs[3:]...), cs[:3]...)
	for k := range 1000 {
		key := Key(fmt.Sprint(k))
		if cs[Hash(cs, key, Bound{})].ID != turned[Hash(turned, key, Bound{})].ID {
			t.Fatal("another order, another endpoint")
		}
	}
}

// TestHashMovesKeysToAGrowingEndpointOnly raises the weight of a new endpoint: a key
// that has come to it stays.
func TestHashMovesKeysToAGrowingEndpointOnly(t *testing.T) {
	cs := endpoints(4)
	for k := range 1000 {
		key := Key(fmt.Sprint(k))
		cs[3].Weight = 0.05
		was := Hash(cs, key, Bound{})
		for w := 0.1; w <= 1; w += 0.05 {
			cs[3].Weight = w
			is := Hash(cs, key, Bound{})
			if is != was && is != 3 {
				t.Fatalf("key %d moves from %d to %d at weight %.2f", k, was, is, w)
			}
			was = is
		}
	}
}

func TestHashOfAHotKeyIsBounded(t *testing.T) {
	cs := endpoints(4)
	key := Key("hot")
	first := Hash(cs, key, Bound{})
	for range 4000 {
		cs[Hash(cs, key, Bound{Factor: 2, Floor: 16})].Open++
	}
	for i, c := range cs {
		if c.Open > 2010 {
			t.Errorf("endpoint %d has %d of 4000 open", i, c.Open)
		}
	}
	for i := range cs {
		cs[i].Open = 0
	}
	for range 16 {
		i := Hash(cs, key, Bound{Factor: 2, Floor: 16})
		if i != first {
			t.Fatal("few requests of one key are spread")
		}
		cs[i].Open++
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{2, 8, 64} {
		cs := endpoints(n)
		for name, choose := range choices {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				var turn uint64
				for b.Loop() {
					turn++
					choose(cs, turn)
				}
			})
		}
	}
}
