// Package balance chooses among the endpoints of a pool.
//
// Every choice is a pure function of what it is given: the endpoints as
// candidates, and a number that stands for the turn or for the key of a
// consistent hash. The caller counts turns, leaves out the candidates that must not
// be taken, and counts open requests.
//
// A candidate whose weight is below the greatest takes part in so large a share of
// the choices only; so a new endpoint comes to its full share slowly. Which choices
// these are depends on the turn, or with a hash on the key: as the weight grows,
// keys move to the endpoint and none moves away from it.
//
// The package does not know health, retries or time.
package balance

import "math/bits"

// Candidate is an endpoint as a choice sees it.
type Candidate struct {
	// ID is [Key] of a name that lasts as long as the endpoint does, and is the same
	// on every node.
	ID uint64
	// Open is how many requests are open on it.
	Open int64
	// Weight is its share compared with the others', above 0.
	Weight float64
}

// Key hashes a name, or what requests that belong together have in common. The same
// string has the same key in every process.
func Key(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// mix is the finalizer of SplitMix64: every bit of its input moves about half of
// the output's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below returns a number from 0 to n-1 that r stands for.
func below(r uint64, n int) int {
	hi, _ := bits.Mul64(r, uint64(n))
	return int(hi)
}

// draw says who takes part in one choice.
type draw struct {
	top  float64 // the greatest weight
	seed uint64
}

// newDraw also counts those who take part. It is at least one if there is any
// candidate: those of the greatest weight always do.
func newDraw(cs []Candidate, seed uint64) (d draw, n int) {
	d.seed = seed
	even := true
	for i := range cs {
		even = even && cs[i].Weight == cs[0].Weight
		d.top = max(d.top, cs[i].Weight)
	}
	if even {
		d.top = 0
		return d, len(cs)
	}
	for i := range cs {
		if d.has(&cs[i]) {
			n++
		}
	}
	return d, n
}

func (d draw) has(c *Candidate) bool {
	if c.Weight >= d.top {
		return true
	}
	const unit = 1.0 / (1 << 53)
	return float64(mix(d.seed^bits.RotateLeft64(c.ID, 32))>>11)*unit*d.top < c.Weight
}

// nth returns the index of the nth candidate that takes part.
func (d draw) nth(cs []Candidate, n int) int {
	if d.top == 0 {
		return n
	}
	for i := range cs {
		if d.has(&cs[i]) {
			if n == 0 {
				return i
			}
			n--
		}
	}
	return -1
}

// turn returns the index of the candidate whose turn it is, or of any other that
// takes part if that one does not.
func (d draw) turn(cs []Candidate, n int, turn uint64) int {
	if at := int(turn % uint64(len(cs))); d.has(&cs[at]) {
		return at
	}
	return d.nth(cs, below(mix(turn), n))
}

// lighter reports whether a has fewer open requests than b, each in proportion to
// its weight.
func lighter(a, b *Candidate) bool {
	return float64(a.Open)*b.Weight < float64(b.Open)*a.Weight
}

// Least returns the index of the candidate with the fewest open requests, -1 if
// there is none. Ties take turns.
func Least(cs []Candidate, turn uint64) int {
	if len(cs) < 2 {
		return len(cs) - 1
	}
	d, n := newDraw(cs, turn)
	best, at := -1, d.turn(cs, n, turn)
	for range cs {
		if d.has(&cs[at]) && (best < 0 || lighter(&cs[at], &cs[best])) {
			best = at
		}
		if at++; at == len(cs) {
			at = 0
		}
	}
	return best
}

// Round returns the index of the candidate whose turn it is, -1 if there is none.
// The turn of one that does not take part goes to any other.
func Round(cs []Candidate, turn uint64) int {
	if len(cs) < 2 {
		return len(cs) - 1
	}
	d, n := newDraw(cs, turn)
	return d.turn(cs, n, turn)
}

// Two returns the index of the better of two candidates that the turn draws at
// random, -1 if there is none.
func Two(cs []Candidate, turn uint64) int {
	if len(cs) < 2 {
		return len(cs) - 1
	}
	d, n := newDraw(cs, turn)
	r := mix(turn)
	first := below(r, n)
	a := d.nth(cs, first)
	if n == 1 {
		return a
	}
	second := below(mix(r), n-1)
	if second >= first {
		second++
	}
	if b := d.nth(cs, second); lighter(&cs[b], &cs[a]) {
		return b
	}
	return a
}

// Bound keeps a consistent hash from loading an endpoint too much: one with at
// least Floor open requests and more than Factor times the average is passed over.
// The zero Bound passes over none.
type Bound struct {
	Factor float64
	Floor  int64
}

// Hash returns the index of the candidate that the key belongs to, -1 if there is
// none. Rendezvous hashing: when a candidate leaves, only its keys move; when one
// comes, keys move to it alone.
func Hash(cs []Candidate, key uint64, b Bound) int {
	if len(cs) < 2 {
		return len(cs) - 1
	}
	d, _ := newDraw(cs, mix(key))
	most := int64(-1)
	if b.Factor > 0 {
		var sum int64
		for i := range cs {
			sum += cs[i].Open
		}
		most = max(b.Floor, int64(b.Factor*float64(sum+1)/float64(len(cs))))
	}
	best, first := -1, -1
	var bestScore, firstScore uint64
	for i := range cs {
		c := &cs[i]
		if !d.has(c) {
			continue
		}
		score := mix(key ^ c.ID)
		if first < 0 || score > firstScore {
			first, firstScore = i, score
		}
		if (most < 0 || c.Open < most) && (best < 0 || score > bestScore) {
			best, bestScore = i, score
		}
	}
	if best < 0 {
		return first
	}
	return best
}
