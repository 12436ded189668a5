package gateway

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	budgetShare   = 0.2 // retries per request
	budgetRate    = 10  // retries per second besides
	budgetMost    = 100 // retries saved up
	budgetInitial = 20
)

// budget bounds retries, so that a service in trouble does not get more requests
// than it would otherwise. The zero budget is ready to use.
type budget struct {
	requests atomic.Uint64
	spent    atomic.Uint64

	mu     sync.Mutex // guards the fields below
	begun  bool
	seen   uint64
	last   time.Time
	tokens float64
}

// earn counts a first attempt.
func (b *budget) earn() { b.requests.Add(1) }

// spend takes one retry, or reports false if none is left.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests := b.requests.Load()
	if !b.begun {
		b.begun, b.tokens, b.last = true, budgetInitial, now
	}
	b.tokens += budgetShare*float64(requests-b.seen) + budgetRate*now.Sub(b.last).Seconds()
	b.tokens = min(b.tokens, budgetMost)
	b.seen, b.last = requests, now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	b.spent.Add(1)
	return true
}
