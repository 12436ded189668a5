// Package observe tells Prometheus how a system does: what goes through the door,
// how the pools and instances stand, when certificates run out, what the bus carries,
// and how the node's own process does.
//
// It guarantees that the number of series is bounded: routes, services, what is ready
// now, queues and their consumers, as far as there are not too many, are labels; clients
// and paths are not. It collects nothing by
// itself: a scrape reads one [Snapshot], which the node puts together from what the
// rooms count anyway.
package observe

import "time"

// Snapshot is what one scrape reads. Counters count from the start of the process.
type Snapshot struct {
	Version  string
	Revision int // that is served

	Door         Door
	Pools        []Pool
	Services     []Service
	Certificates []Certificate
	Bus          *Bus    // nil while it is being handed over
	Queues       []Queue // none while they cannot be asked
}

// Door is what goes through the gateway.
type Door struct {
	Routes      []Route
	Bounds      []time.Duration // upper bounds of Route.Within
	Failed      uint64          // requests that the gateway itself could not get answered
	Open        int             // requests
	Tunnels     int             // upgraded connections
	Connections map[string]int  // open ones, by listener
	Refused     map[string]uint64
	Subscribers map[string]int // connected ones, by route that subscribes
}

// Route is what was counted of one route.
type Route struct {
	Key     string
	Classes [6]uint64     // requests by the first digit of their status, 0: none
	Within  []uint64      // requests by duration, one more than Bounds; tunnels left out
	Took    time.Duration // of these together
	Bytes   int64         // of the answers' bodies
}

// Pool is how the pool of a service stands.
type Pool struct {
	Service                                       string
	Requests, Retries, Failed, Refused, Ejections uint64
	Faults                                        map[string]uint64 // attempts that failed, by kind
	Open, Waiting, Queued                         int
	LongestWait                                   time.Duration // of the last minute
	Endpoints                                     []Endpoint
}

// Endpoint is a ready instance of a pool.
type Endpoint struct {
	Instance           string
	Open               int
	Requests, Failures uint64
	Ejected            bool
}

// Service is how the instances of a service stand.
type Service struct {
	Name     string
	Wanted   int
	States   map[string]int // instances by state
	Restarts uint64         // of instances that ended by themselves
}

// Certificate is one that the door shows.
type Certificate struct {
	Name    string // the first that it is for
	Source  string
	Expires time.Time
}

// Bus is what the bus carries.
type Bus struct {
	Connections, Subscriptions               int
	Received, Sent, ReceivedBytes, SentBytes int64 // from clients, and to them
	SlowConsumers                            int64
	StoreBytes                               uint64
}

// Queue is what a queue holds, and what became of messages for it.
type Queue struct {
	Name                                     string
	Messages, Bytes, Dead                    uint64
	Accepted, Refused, Quarantined, Observed uint64 // by its type
	Consumers                                []Consumer
}

// Consumer is how far a durable consumer of a queue has come.
type Consumer struct {
	Name            string
	Behind          uint64 // messages that it was not given yet
	Unacked, Repeat int    // that it has and did not acknowledge, and those of them that it has again
}
