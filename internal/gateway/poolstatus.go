package gateway

import (
	"slices"
	"strings"
	"time"
)

// PoolStatus is how a pool stands. Counters count from the time when the gateway
// first heard of the service.
type PoolStatus struct {
	Service  string
	Requests uint64 // sent over HTTP, each counted once
	Retries  uint64 // times that one was sent again although something of it may have been done
	Failed   uint64 // requests that the gateway itself answered 502, 503 or 504, those of the bus too
	Refused  uint64 // of these, those that found the queue full or waited in it for too long
	Faults   Faults

	Open      int // requests and tunnels open on its endpoints
	Waiting   int // requests that wait for an instance
	Queued    int // requests that wait because of the pool's concurrency
	Ejections uint64
	// LongestWait is the longest that a request waited for an instance or in the
	// queue, of the waits that ended within the last minute.
	LongestWait time.Duration

	Endpoints []EndpointStatus // sorted by instance
}

// Faults counts attempts that failed, by what was wrong.
type Faults struct {
	Connect uint64 // no connection could be made
	Broken  uint64 // the answer was missing, cut off or not HTTP
	Timeout uint64 // no answer came in time
	Status  uint64 // the service answered 502, 503 or 504
}

// EndpointStatus is how one endpoint of a pool stands.
type EndpointStatus struct {
	Endpoint
	Open     int    // requests and tunnels
	Requests uint64 // sent to it over HTTP
	Failures uint64 // of these
	// Ejected is until when it gets no requests because it failed too often, zero if
	// it takes its share.
	Ejected time.Time
	Weight  float64 // share while it starts slowly; 1: full
}

// Pools returns how all pools stand, sorted by service.
func (g *Gateway) Pools() []PoolStatus {
	now := time.Now()
	g.mu.Lock()
	pools := make([]*pool, 0, len(g.pools))
	for _, p := range g.pools {
		pools = append(pools, p)
	}
	g.mu.Unlock()
	slices.SortFunc(pools, func(a, b *pool) int { return strings.Compare(a.service, b.service) })
	out := make([]PoolStatus, len(pools))
	for i, p := range pools {
		out[i] = p.status(now)
	}
	return out
}

// LongestWait returns the longest that a request for a service waited for an
// instance, or for its turn, of the waits that ended since then. Short ones that
// are long ago may be forgotten.
func (g *Gateway) LongestWait(service string, since time.Time) time.Duration {
	g.mu.Lock()
	p := g.pools[service]
	g.mu.Unlock()
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalls.longest(since)
}

func (p *pool) status(now time.Time) PoolStatus {
	s := PoolStatus{
		Service: p.service, Requests: p.retries.requests.Load(), Retries: p.retries.spent.Load(),
		Failed: p.failed.Load(), Refused: p.queue.refused.Load(), Queued: p.queue.waiting(), Ejections: p.ejections.Load(),
		Faults: Faults{
			Connect: p.faults[faultConnect].Load(), Broken: p.faults[faultBroken].Load(),
			Timeout: p.faults[faultTimeout].Load(), Status: p.faults[faultStatus].Load(),
		},
	}
	p.mu.Lock()
	s.Waiting, s.LongestWait = p.waiting, p.stalls.longest(now.Add(-time.Minute))
	p.mu.Unlock()
	rd := p.current()
	if rd == nil {
		return s
	}
	slowStart := p.settings.Load().SlowStart
	for _, e := range rd.all {
		es := EndpointStatus{
			Endpoint: e.Endpoint, Open: int(e.open.Load()), Requests: e.served.Load(), Failures: e.failed.Load(),
			Weight: e.weight(now, slowStart),
		}
		if until := time.Unix(0, e.health.until.Load()); until.After(now) {
			es.Ejected = until
		}
		s.Open += es.Open
		s.Endpoints = append(s.Endpoints, es)
	}
	slices.SortFunc(s.Endpoints, func(a, b EndpointStatus) int { return strings.Compare(a.Instance, b.Instance) })
	return s
}

// keepStalls bounds the waits that are remembered.
const keepStalls = 64

// stall is a wait that has ended.
type stall struct {
	end  time.Time
	took time.Duration
}

// stalls are the waits that a later one has not outdone: the oldest is the longest.
type stalls []stall

func (s *stalls) add(one stall) {
	list := *s
	for len(list) > 0 && list[len(list)-1].took <= one.took {
		list = list[:len(list)-1]
	}
	if len(list) == keepStalls { // the shortest goes: what counts are the long ones
		list = list[:len(list)-1]
	}
	*s = append(list, one)
}

func (s *stalls) longest(since time.Time) time.Duration {
	for _, one := range *s {
		if !one.end.Before(since) {
			return one.took
		}
	}
	return 0
}

// waited notes that a request waited.
func (p *pool) waited(began, end time.Time) {
	if end.Sub(began) < time.Millisecond {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalls.add(stall{end, end.Sub(began)})
}
