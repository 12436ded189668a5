package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"fairlead/internal/gateway/balance"
	"fairlead/internal/system"
)

// target is a service with its share of a route.
type target struct {
	pool   *pool
	weight uint64
}

// split are the services that share a route. Those of weight 0 are left out.
type split struct {
	targets []target
	turn    atomic.Uint64
}

func newSplit(defs []system.Target, pools map[string]*pool) (*split, error) {
	if len(defs) == 1 && defs[0].Weight > 0 { // as most routes
		if p := pools[defs[0].Service]; p != nil {
			return p.alone, nil
		}
	}
	s := &split{}
	for _, d := range defs {
		p := pools[d.Service]
		if p == nil {
			return nil, fmt.Errorf("there is no service %q", d.Service)
		}
		if d.Weight > 0 {
			s.targets = append(s.targets, target{p, uint64(d.Weight)})
		}
	}
	if len(s.targets) == 0 {
		return nil, errors.New("every service has the weight 0")
	}
	if len(s.targets) > 1 { // so that frequent changes favour nobody
		s.turn.Store(rand.Uint64())
	}
	return s, nil
}

// golden is 2^64 divided by the golden ratio. Its multiples, as fractions of 2^64,
// spread evenly however many there are: each target gets its share of every short
// run of requests, without turns being kept in common.
const golden = 0x9E3779B97F4A7C15

// next returns the place of the next request among all.
func (s *split) next() uint64 { return s.turn.Add(1) * golden }

// at returns the pool at a place, of those that are able; nil if none is.
func (s *split) at(place uint64, able func(*pool) bool) *pool {
	var total uint64
	for _, t := range s.targets {
		if able(t.pool) {
			total += t.weight
		}
	}
	left, _ := bits.Mul64(place, total)
	for _, t := range s.targets {
		if !able(t.pool) {
			continue
		}
		if left < t.weight {
			return t.pool
		}
		left -= t.weight
	}
	return nil
}

// choosePool decides which service gets a request, and which of its instances if
// the route is sticky. A service without a ready instance gets none as long as
// another one has some; of those without, one that is not stopped on purpose is
// waited for.
func (x *exchange) choosePool(r *http.Request) {
	s := x.route.split
	if x.preferred(r) {
		return
	}
	place, keyed := uint64(0), false
	if key := x.route.def.Sticky; key != "" && x.route.sticky == "" {
		if text := hashKey(key, r, x.origin.Client); text != "" {
			keyed = true
			x.wish = wish{keyed: true, key: balance.Key(text)}
			place = x.wish.key * golden
		}
	}
	if len(s.targets) == 1 {
		x.pool = s.targets[0].pool
		return
	}
	if !keyed {
		place = s.next()
	}
	ready := func(p *pool) bool { return x.snap.ready[p.service].anyHTTP() }
	// Whoever belongs to a service stays there although another one is away.
	if x.pool = s.at(place, func(*pool) bool { return true }); ready(x.pool) {
		return
	}
	if p := s.at(place, ready); p != nil {
		x.pool = p
		return
	}
	if p := s.at(place, func(p *pool) bool { return !p.halted.Load() }); p != nil {
		x.pool = p
	}
}

// stickyCookie is the key of routes that are sticky by a cookie of the gateway's own.
const stickyCookie system.HashKey = "cookie"

// cookieName names the cookie of all routes that lead to the same services.
func cookieName(targets []system.Target) string {
	var names strings.Builder
	for _, t := range targets {
		names.WriteString(t.Service)
		names.WriteByte(' ')
	}
	return "fairlead_" + strconv.FormatUint(balance.Key(names.String()), 36)
}

// preferred looks for the instance that the client's cookie names, in the services
// of the route that get requests. It reports false if there is none, or it is gone.
func (x *exchange) preferred(r *http.Request) bool {
	if x.route.sticky == "" {
		return false
	}
	if x.ticket = cookieValue(r.Header["Cookie"], x.route.sticky); x.ticket == "" {
		return false
	}
	for _, t := range x.route.split.targets {
		rd := x.snap.ready[t.pool.service]
		if rd == nil {
			continue
		}
		for _, e := range rd.http {
			if e.here() && hmac.Equal([]byte(e.ticket), []byte(x.ticket)) {
				x.pool, x.wish = t.pool, wish{prefer: e.Instance}
				return true
			}
		}
	}
	return false
}

// stick tells the client by which cookie it comes back to the same instance.
func (x *exchange) stick(h http.Header) {
	if x.route == nil || x.route.sticky == "" || x.instance == "" {
		return
	}
	ticket := x.g.tickets.of(x.instance)
	if ticket == x.ticket { // no comparison of secrets: the client has shown its own
		return
	}
	line := x.route.sticky + "=" + ticket + "; Path=/; HttpOnly; SameSite=Lax"
	if x.origin.Scheme == "https" {
		line += "; Secure"
	}
	h.Add("Set-Cookie", line)
}

// tickets stand for instances in cookies: nobody can tell from one which instance
// it is, nor make one.
type tickets struct{ key []byte }

// of returns the ticket of an instance.
func (t *tickets) of(instance string) string {
	m := hmac.New(sha256.New, t.key)
	m.Write([]byte(instance))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

// cookieValue returns the first cookie of a name (RFC 6265, 4.2.1), "" for none.
func cookieValue(lines []string, name string) string {
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			if n, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && n == name {
				return v
			}
		}
	}
	return ""
}
