package gateway

import (
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/filter"
)

// Ban keeps the clients of a network out; see [Gateway.SetBans].
type Ban = filter.Ban

// refusal is why a request was not let in.
type refusal uint8

// The reasons. Their names are those of [Gateway.Refused].
const (
	refusedBan     refusal = iota // the client is on the ban list
	refusedAddress                // allow or deny
	refusedRate                   // a rate is used up
	refusedOrigin                 // a preflight of another origin
	refusedLogin                  // no valid token, password or key where one is needed
	refusedGuesses                // too many wrong passwords or keys
	refusedRole                   // known, but without a role that is needed
	refusedForward                // the service that is asked about requests cannot be asked
	refusedHead                   // a head that is too large
	refusedBody                   // a body that is too large
	refusedSlow                   // a body that came, or an answer that was taken, too slowly
	refusals
)

var refusalNames = [refusals]string{
	"ban", "address", "rate", "origin", "login", "guesses", "role", "forward", "head", "body", "slow",
}

func (r refusal) String() string { return refusalNames[r] }

// tally counts refusals by reason. The zero value is ready.
type tally struct{ counts [refusals]atomic.Uint64 }

func (c *tally) add(why refusal) { c.counts[why].Add(1) }

// Refused returns how many requests, and connections, the gateway has not let in,
// by reason: ban, address, rate, origin, login, guesses, role, forward, head, body,
// slow, and those of [listen.Set.Refused]. All reasons are there, also those with 0.
func (g *Gateway) Refused() map[string]uint64 {
	all := g.doors.Refused()
	for why := range refusals {
		all[why.String()] = g.refused.counts[why].Load()
	}
	return all
}

// refuse answers a request that is not let in, and counts it. The detail is public;
// x.cause, for the access log, may say more.
func (x *exchange) refuse(w http.ResponseWriter, r *http.Request, why refusal, status int, detail string) {
	if x.g != nil {
		x.g.refused.add(why)
	}
	if x.cause == "" {
		x.cause = detail
	}
	x.cause = why.String() + ": " + x.cause
	x.fail(w, r, status, detail)
}

// SetBans replaces the ban list. It holds from the next request on, on connections
// too that are kept alive; WebSockets and streams that are open are cut, short answers
// go on. A ban ends by itself at its Until.
func (g *Gateway) SetBans(bans []Ban) {
	g.bans.Store(filter.NewBans(bans))
	g.lasting.Expel()
}

// Banned reports whether a client is banned now.
func (g *Gateway) Banned(client netip.Addr) bool {
	_, banned := g.bans.Load().Find(client, time.Now())
	return banned
}

// Bans returns the bans that hold now, sorted by network.
func (g *Gateway) Bans() []Ban { return g.bans.Load().All(time.Now()) }

// turnsAway reports, and counts, that every request of a peer would be refused, so
// that its connection is closed at once, before a handshake costs anything. What a
// trusted proxy passes on is told apart by request.
func (g *Gateway) turnsAway(peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	if _, ok := g.bans.Load().Find(peer, time.Now()); !ok {
		return false
	}
	if s := g.snap.Load(); s != nil && s.admission.trustedProxies().Contains(peer) {
		return false
	}
	g.refused.add(refusedBan)
	return true
}
