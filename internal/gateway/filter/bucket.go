package filter

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const (
	// MaxKeys is the most buckets that one rate keeps, of 16 bytes each. There are no
	// more than were in debt at once, rounded up.
	MaxKeys = 1 << 16
	// totalKeys is about how many all rates of a door keep together; each may have
	// minKeys in any case.
	totalKeys = 1 << 20
	minKeys   = 1 << 10

	shards = 32
	ways   = 8 // places that a key can be in
)

// buckets are a bounded number of token buckets by key. A key has eight places. If
// all are taken by buckets in debt and there is no room to grow, the one with the
// least debt is forgotten: that forgives the least, and whoever has used up a rate
// stays limited however many others come. The zero value with most set is ready.
type buckets struct {
	most  int
	shard [shards]shard
}

type shard struct {
	mu    sync.Mutex // guards slots
	slots []slot     // ways times a power of two
	_     [32]byte   // keeps two shards out of one cache line
}

// slot is one bucket. Its place is free once it is full.
type slot struct {
	key  uint64
	full int64 // the time at which it is full
}

func (b *buckets) of(key uint64) *shard { return &b.shard[key%shards] }

// take counts a request, as [rule.take] says.
func (b *buckets) take(key uint64, now, interval, depth int64) (debt int64, ok bool) {
	s := b.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(key)
	if p == nil {
		p = s.place(key, now, b.most/shards)
		*p = slot{key: key, full: now}
	}
	p.full, debt, ok = charge(p.full, now, interval, depth)
	return debt, ok
}

// debt returns that of a key.
func (b *buckets) debt(key uint64, now int64) int64 {
	s := b.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.find(key); p != nil {
		return max(0, p.full-now)
	}
	return 0
}

func (b *buckets) giveBack(key uint64, interval int64) {
	s := b.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.find(key); p != nil {
		p.full -= interval
	}
}

// places are those that a key can be in.
func (s *shard) places(key uint64) []slot {
	n := len(s.slots) / ways
	at := int(key/shards%uint64(n)) * ways
	return s.slots[at : at+ways]
}

func (s *shard) find(key uint64) *slot {
	if len(s.slots) == 0 {
		return nil
	}
	places := s.places(key)
	for i := range places {
		if places[i].key == key {
			return &places[i]
		}
	}
	return nil
}

// place returns where a new key goes: to a place whose bucket is full, to a new one
// if there may be more, else to that with the least debt.
func (s *shard) place(key uint64, now int64, most int) *slot {
	if len(s.slots) == 0 {
		s.slots = make([]slot, ways)
	}
	for {
		places := s.places(key)
		least := &places[0]
		for i := range places {
			if places[i].full < least.full {
				least = &places[i]
			}
		}
		if least.full <= now || 2*len(s.slots) > most {
			return least
		}
		s.grow()
	}
}

// grow doubles the places. Those of two new groups of places come from one old
// group each, so everything fits.
func (s *shard) grow() {
	old := s.slots
	s.slots = make([]slot, 2*len(old))
	for _, o := range old {
		places := s.places(o.key)
		for i := range places {
			if places[i] == (slot{}) {
				places[i] = o
				break
			}
		}
	}
}

// Guesses counts failed attempts to guess a secret, by client. Each client may fail
// [GuessBurst] times at once, and once every [GuessEvery] on average after that; in
// between its attempts are refused, right or wrong. It is safe for concurrent use.
type Guesses struct {
	seed    maphash.Seed
	base    time.Time
	buckets buckets
}

// The bounds of [Guesses].
const (
	GuessBurst = 10
	GuessEvery = 6 * time.Second
)

// NewGuesses returns a counter for at most [MaxKeys] clients in debt.
func NewGuesses() *Guesses {
	return &Guesses{seed: maphash.MakeSeed(), base: time.Now(), buckets: buckets{most: MaxKeys}}
}

func (g *Guesses) key(a netip.Addr) uint64 {
	b := a.As16()
	if a.Is4() {
		return maphash.Bytes(g.seed, b[:])
	}
	return maphash.Bytes(g.seed, b[:8])
}

// Wait returns how long a client must wait before its next attempt is looked at, 0
// if it need not.
func (g *Guesses) Wait(a netip.Addr, now time.Time) time.Duration {
	debt := g.buckets.debt(g.key(a), int64(now.Sub(g.base)))
	return max(0, time.Duration(debt)-(GuessBurst-1)*GuessEvery)
}

// Failed counts a failed attempt.
func (g *Guesses) Failed(a netip.Addr, now time.Time) {
	g.buckets.take(g.key(a), int64(now.Sub(g.base)), int64(GuessEvery), int64(GuessBurst*GuessEvery))
}
