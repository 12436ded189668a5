package listen

import (
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"fairlead/internal/wire"
)

const (
	defaultPerClient = 1000
	// reservedFiles are kept for what is not a connection: the bus, logs, files that
	// are served, pipes.
	reservedFiles = 512
	leastRoom     = 64
	tellEvery     = time.Minute
)

// refusal is a reason not to take a connection.
type refusal uint8

const (
	refusedClient refusal = iota // its address has too many
	refusedFull                  // all together are too many
	refusedHeader                // a PROXY header from somebody who may not send one
	refusedProxy                 // no proper PROXY header from somebody who must
	refusedStream                // a request of a client whose connections carry too many
	refusals
)

// refusalNames are those of [Set.Refused].
var refusalNames = [refusals]string{
	refusedClient: "connection", refusedFull: "full", refusedHeader: "proxy", refusedProxy: "proxy", refusedStream: "stream",
}

var refusalTexts = [refusals]string{
	refusedClient: "connections refused: one client has as many as it may have",
	refusedFull:   "connections refused: the door is full",
	refusedHeader: "connections refused: a PROXY header came from outside the networks of proxy_protocol",
	refusedProxy:  "connections refused: a network of proxy_protocol sent no proper PROXY header",
	refusedStream: "requests refused: one client has as many open on connections of HTTP/2 or HTTP/3 as it may have connections",
}

// room counts connections and says who may have one more.
type room struct {
	log *slog.Logger

	mu        sync.Mutex // guards the fields below
	open      int
	most      int
	perClient int
	trusted   []netip.Prefix
	clients   map[netip.Addr]int // connections by address, IPv6 by its /64
	streams   map[netip.Addr]int // in the same way, requests of HTTP/2 and HTTP/3
	refused   [refusals]struct {
		all   uint64
		since int // it was told last
		told  time.Time
	}
}

func newRoom(log *slog.Logger) *room {
	return &room{log: log, most: mostConnections(), perClient: defaultPerClient, clients: map[netip.Addr]int{}, streams: map[netip.Addr]int{}}
}

// mostConnections is half of the files that the process may have open: each
// connection may need another one to a service.
func mostConnections() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return leastRoom
	}
	const plenty = 1 << 21 // "unlimited" stays below what a sum can hold
	return max(leastRoom, (int(min(files.Cur, plenty))-reservedFiles)/2)
}

func (r *room) limit(perClient int, trusted []netip.Prefix) {
	if perClient == 0 {
		perClient = defaultPerClient
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.perClient, r.trusted = perClient, trusted
}

// refusedBy returns how many connections were not taken, by reason.
func (r *room) refusedBy() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := make(map[string]uint64, refusals)
	for why := range r.refused {
		by[refusalNames[why]] += r.refused[why].all
	}
	return by
}

// enter takes the place of one connection. False says that there is none.
func (r *room) enter(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open >= r.most {
		r.refuse(refusedFull, netip.Addr{}, now)
		return false
	}
	r.open++
	return true
}

// admit counts a connection that has entered for its client. It returns what leave
// is to be given.
func (r *room) admit(client netip.Addr, now time.Time) (netip.Addr, bool) {
	return r.take(r.clients, client, refusedClient, now)
}

// begin counts a request that is one of many on its connection. A client may have as
// many of them open as connections: each costs as much as one. It returns what end
// is to be given.
func (r *room) begin(client netip.Addr, now time.Time) (netip.Addr, bool) {
	return r.take(r.streams, client, refusedStream, now)
}

// end gives the place of a request back.
func (r *room) end(key netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	release(r.streams, key)
}

// take counts for a client. The zero key is of one that is not counted.
func (r *room) take(counts map[netip.Addr]int, client netip.Addr, why refusal, now time.Time) (netip.Addr, bool) {
	client = client.Unmap().WithZone("")
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.trusted {
		if p.Contains(client) {
			return netip.Addr{}, true
		}
	}
	key := client
	if client.Is6() {
		if p, err := client.Prefix(64); err == nil {
			key = p.Addr()
		}
	}
	if !key.IsValid() {
		return netip.Addr{}, true
	}
	if counts[key] >= r.perClient {
		r.refuse(why, client, now)
		return netip.Addr{}, false
	}
	counts[key]++
	return key, true
}

func release(counts map[netip.Addr]int, key netip.Addr) {
	if !key.IsValid() {
		return
	}
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// leave gives the place of a connection back; the zero key is of one that was not
// counted for a client.
func (r *room) leave(key netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	release(r.clients, key)
}

func (r *room) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// crowded reports whether more than half of the room is taken.
func (r *room) crowded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open > r.most/2
}

// note counts a refusal that was decided elsewhere.
func (r *room) note(why refusal, client netip.Addr, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse(why, client, now)
}

// refuse counts a refusal, and tells of it if that was not done lately. The mutex
// is held.
func (r *room) refuse(why refusal, client netip.Addr, now time.Time) {
	f := &r.refused[why]
	f.all++
	f.since++
	if now.Sub(f.told) < tellEvery {
		return
	}
	args := []any{"refused", f.since, "open", r.open}
	if client.IsValid() {
		args = append(args, "client", client.String())
	}
	f.since, f.told = 0, now
	r.log.Warn(refusalTexts[why], append(args, wire.KeyReason, "limits")...) //nolint:sloglint // one of the fixed texts above
}
