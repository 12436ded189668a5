// Package meter counts what goes through the door, cheaply enough to do it for
// every request: how many, how they ended, how long they took, and which
// connections have lived through a change.
//
// It keeps no address, path or name of a client, and its size is bounded whatever
// clients do. It does not publish anything: who asks reads a copy.
package meter

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of the intervals in which durations are counted; what
// took longer is counted behind the last one.
var Bounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// classes are the statuses by their first digit; what is none has the class 0.
const classes = 6

// Meter counts the requests of one route. The zero Meter is ready to use, and is
// safe for concurrent use. A count is at most three atomic additions.
type Meter struct {
	counts [classes][len(Bounds) + 1]atomic.Uint64 // by class and duration
	took   atomic.Int64                            // nanoseconds of all but tunnels
	bytes  atomic.Int64
}

// Count counts a request that was answered with status after took, with so many
// bytes of body. An upgraded connection, status 101, is one request without a
// duration: it lasts as long as both sides like.
func (m *Meter) Count(status int, took time.Duration, bytes int64) {
	class := status / 100
	if class < 0 || class >= classes {
		class = 0
	}
	at := 0
	if class != 1 {
		for at < len(Bounds) && took > Bounds[at] {
			at++
		}
		m.took.Add(int64(took))
	}
	m.counts[class][at].Add(1)
	if bytes > 0 {
		m.bytes.Add(bytes)
	}
}

// Counts is a copy of a [Meter].
type Counts struct {
	Classes [classes]uint64         // requests by the first digit of their status
	Within  [len(Bounds) + 1]uint64 // requests by duration, tunnels left out; the last is beyond all Bounds
	Took    time.Duration           // of these together
	Bytes   int64                   // of the answers' bodies
}

// Counts returns what was counted until now. Requests that end meanwhile may be
// counted in a part of it only.
func (m *Meter) Counts() Counts {
	c := Counts{Took: time.Duration(m.took.Load()), Bytes: m.bytes.Load()}
	for class := range m.counts {
		for at := range m.counts[class] {
			n := m.counts[class][at].Load()
			c.Classes[class] += n
			if class != 1 {
				c.Within[at] += n
			}
		}
	}
	return c
}

// Requests is how many requests there were.
func (c *Counts) Requests() uint64 {
	var n uint64
	for _, of := range c.Classes {
		n += of
	}
	return n
}

// MaxRoutes is how many routes are counted by themselves. The rest, in the order in
// which they came, is counted together.
const MaxRoutes = 200

// Meters are the meters of routes by their keys. They outlive the routes, so that
// what is counted never goes back. The zero value is ready to use.
type Meters struct {
	mu    sync.Mutex // guards the fields below
	named map[string]*Meter
	other Meter // routes beyond MaxRoutes
	none  Meter // requests without a route
}

// Of returns the meter of a route; "" is for requests that no route took.
func (ms *Meters) Of(key string) *Meter {
	if key == "" {
		return &ms.none
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if m := ms.named[key]; m != nil {
		return m
	}
	if len(ms.named) >= MaxRoutes {
		return &ms.other
	}
	if ms.named == nil {
		ms.named = map[string]*Meter{}
	}
	m := &Meter{}
	ms.named[key] = m
	return m
}

// RouteCounts are the counts of one route.
type RouteCounts struct {
	Route string // its key; [Other] or [None]
	Counts
}

// What stands in place of a route's key. No key begins so.
const (
	Other = "other" // routes beyond MaxRoutes
	None  = "none"  // requests that no route took
)

// All returns the counts of all routes, sorted by key, and those of [Other] and
// [None] at the end.
func (ms *Meters) All() []RouteCounts {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	out := make([]RouteCounts, 0, len(ms.named)+2)
	for key, m := range ms.named {
		out = append(out, RouteCounts{key, m.Counts()})
	}
	slices.SortFunc(out, func(a, b RouteCounts) int {
		if a.Route < b.Route {
			return -1
		}
		return 1
	})
	return append(out, RouteCounts{Other, ms.other.Counts()}, RouteCounts{None, ms.none.Counts()})
}
