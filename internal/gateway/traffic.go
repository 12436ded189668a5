package gateway

import (
	"net/http"
	"time"

	"fairlead/internal/gateway/meter"
)

// Mark is the moment before a change, for [Gateway.Since].
type Mark struct {
	at                   time.Time
	requests, failed     uint64
	connections, tunnels carried
}

// carried are the things that were open at a mark.
type carried struct {
	age  meter.Age
	open int
}

// Traffic is what went through the door since a mark.
type Traffic struct {
	Requests uint64 // answered, whatever with
	Failed   uint64 // of these, answered 502, 503 or 504 by the gateway itself, or broken off
	// Stall is the longest that a request waited for an instance, or for its turn at
	// one. Waits of less than a millisecond are none.
	Stall       time.Duration
	Connections Carried // of clients, those of tunnels too
	Tunnels     Carried // upgraded connections, as WebSockets are
}

// Carried says how many of the things that were open at a mark are still open.
// Clients may have closed the others.
type Carried struct{ Before, Kept int }

// Mark notes what has gone through the door until now.
func (g *Gateway) Mark() Mark {
	m := Mark{at: time.Now(), requests: g.requests(), failed: g.failed.Load()}
	m.connections.age, m.connections.open = g.connections.Mark()
	m.tunnels.age, m.tunnels.open = g.lasting.Mark()
	return m
}

// Since returns what has gone through the door since a mark. It may be called
// again.
func (g *Gateway) Since(m Mark) Traffic {
	t := Traffic{
		Requests: g.requests() - m.requests, Failed: g.failed.Load() - m.failed,
		Connections: Carried{m.connections.open, g.connections.Since(m.connections.age)},
		Tunnels:     Carried{m.tunnels.open, g.lasting.Since(m.tunnels.age)},
	}
	g.mu.Lock()
	services := make([]string, 0, len(g.pools))
	for name := range g.pools {
		services = append(services, name)
	}
	g.mu.Unlock()
	for _, name := range services {
		t.Stall = max(t.Stall, g.LongestWait(name, m.at))
	}
	t.Stall = min(t.Stall, time.Since(m.at)) // a wait may have begun before
	return t
}

// Counts is what was counted since the gateway was made; see also [Gateway.Open].
type Counts struct {
	Routes      []meter.RouteCounts
	Failed      uint64         // requests that the gateway itself answered 502, 503 or 504, or broke off
	Connections map[string]int // that are open over TCP, by the address of the listener as the file has it
	HTTP3       int            // connections of HTTP/3 that are open
}

// Counts returns what was counted, for metrics.
func (g *Gateway) Counts() Counts {
	c := Counts{
		Routes: g.meters.All(), Failed: g.failed.Load(), Connections: g.doors.ByListener(),
	}
	c.HTTP3 = g.doors.Connections()
	for _, n := range c.Connections {
		c.HTTP3 -= n
	}
	c.HTTP3 = max(0, c.HTTP3) // both were not counted at one moment
	return c
}

// requests is how many requests were answered.
func (g *Gateway) requests() uint64 {
	var n uint64
	for _, r := range g.meters.All() {
		n += r.Requests()
	}
	return n
}

// count counts a request that has ended.
func (x *exchange) count() {
	m := x.g.unmatched
	if x.route != nil {
		m = x.route.meter
	}
	m.Count(x.answer.status, time.Since(x.start), x.answer.bytes)
}

// failure counts a request that the gateway itself could not get answered. That a
// route is down for maintenance is no failure.
func (x *exchange) failure(status int) {
	if status < http.StatusBadGateway || status > http.StatusGatewayTimeout || x.route != nil && x.pool == nil {
		return
	}
	x.g.failed.Add(1)
	if x.pool != nil {
		x.pool.failed.Add(1)
	}
}
