package filter

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"fairlead/internal/system"
)

// Limiter holds the token buckets of all rates of a door.
//
// The algorithm is GCRA: a bucket is one number, the time at which it will be full
// again. A bucket that is full is as good as none, so only those in debt are kept.
type Limiter struct {
	seed   maphash.Seed
	base   time.Time
	most   int // buckets of one rate
	rules  map[ruleKey]*rule
	before map[ruleKey]*rule // the predecessor's
}

// ruleKey is what makes a rate the same after a reload.
type ruleKey struct {
	scope string
	rate  system.Rate
}

// Key names a client or a user among the buckets of any rate. It means something to
// one [Limiter] and its successors only.
type Key uint64

// NewLimiter returns a limiter for n rates. Rates that previous (nil: none) has too
// are taken over with their buckets.
func NewLimiter(previous *Limiter, n int) *Limiter {
	l := &Limiter{rules: map[ruleKey]*rule{}, most: max(minKeys, min(MaxKeys, totalKeys/max(n, 1)))}
	if previous == nil {
		l.seed, l.base = maphash.MakeSeed(), time.Now()
	} else {
		l.seed, l.base, l.before = previous.seed, previous.base, previous.rules
	}
	return l
}

// Client returns the key of a client. Clients of one /64 of IPv6 share it.
func (l *Limiter) Client(a netip.Addr) Key {
	b := a.As16()
	if a.Is4() {
		return Key(maphash.Bytes(l.seed, b[:]))
	}
	return Key(maphash.Bytes(l.seed, b[:8]))
}

// Subject returns the key of a user.
func (l *Limiter) Subject(subject string) Key {
	return ^Key(maphash.String(l.seed, subject)) // apart from those of clients
}

// Rates are those of one route. All of them must let a request pass. The zero Rates
// have none.
type Rates struct {
	base   time.Time
	client []*rule // by client and by route
	token  []*rule
	policy string
}

// Rates returns what limits a route. scope names who shares the buckets: the rates
// of the whole door have one scope, those of a route its key. Rates by route have
// buckets of the route's own in any case. Call it while the limiter is being made
// only.
func (l *Limiter) Rates(route, scope string, rates []system.Rate) Rates {
	rs := Rates{base: l.base}
	var policy []string
	for i, rate := range rates {
		if slices.Contains(rates[:i], rate) {
			continue
		}
		key := ruleKey{scope, rate}
		if rate.By == system.ByRoute {
			key.scope = route
		}
		r := l.rule(key)
		if rate.By == system.ByToken {
			rs.token = append(rs.token, r)
		} else {
			rs.client = append(rs.client, r)
		}
		policy = append(policy, r.policy)
	}
	rs.policy = strings.Join(policy, ", ")
	return rs
}

func (l *Limiter) rule(key ruleKey) *rule {
	if r := l.rules[key]; r != nil {
		return r
	}
	r := l.before[key]
	if r == nil {
		r = newRule(key.rate, l.most)
	}
	l.rules[key] = r
	return r
}

// None reports whether there are no rates.
func (rs *Rates) None() bool { return len(rs.client)+len(rs.token) == 0 }

// ByToken reports whether there are rates by token.
func (rs *Rates) ByToken() bool { return len(rs.token) > 0 }

// Policy is the value of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10).
func (rs *Rates) Policy() string { return rs.policy }

// TakeClient counts a request of a client against the rates by client and by route.
func (rs *Rates) TakeClient(k Key, now time.Time) Verdict {
	return take(rs.client, uint64(k), int64(now.Sub(rs.base)))
}

// TakeToken counts a request of a user, or of a client without one, against the
// rates by token.
func (rs *Rates) TakeToken(k Key, now time.Time) Verdict {
	return take(rs.token, uint64(k), int64(now.Sub(rs.base)))
}

// take counts a request against all rules, or against none.
func take(rules []*rule, key uint64, now int64) Verdict {
	var tightest Verdict
	for i, r := range rules {
		debt, ok := r.take(key, now)
		v := Verdict{rule: r, debt: debt, refused: !ok}
		if !ok {
			for _, before := range rules[:i] {
				before.giveBack(key)
			}
			return v
		}
		tightest = tightest.Tighter(v)
	}
	return tightest
}

// Verdict is what a rate says of a request. The zero Verdict lets it pass and has
// nothing to say.
type Verdict struct {
	rule    *rule
	debt    int64 // of the bucket, with this request if it passes
	refused bool
}

// Refused reports whether the request must not pass.
func (v Verdict) Refused() bool { return v.refused }

// Said reports whether a rate was asked at all.
func (v Verdict) Said() bool { return v.rule != nil }

// Remaining is how many requests may follow at once.
func (v Verdict) Remaining() int64 {
	if v.rule == nil {
		return 0
	}
	return max(0, v.rule.depth-v.debt) / v.rule.interval
}

// Tighter returns the verdict that leaves less.
func (v Verdict) Tighter(w Verdict) Verdict {
	switch {
	case v.rule == nil:
		return w
	case w.rule == nil:
		return v
	case w.refused != v.refused:
		if v.refused {
			return v
		}
		return w
	case w.Remaining() < v.Remaining():
		return w
	}
	return v
}

// RetryAfter is when a refused request may be made again, in whole seconds, at least
// one.
func (v Verdict) RetryAfter() int64 {
	if v.rule == nil {
		return 1
	}
	return max(1, seconds(v.debt+v.rule.interval-v.rule.depth))
}

// Append appends the value of RateLimit (draft-ietf-httpapi-ratelimit-headers-10):
// the rate's name, the requests that remain, the seconds until all of them are there
// again.
func (v Verdict) Append(dst []byte) []byte {
	if v.rule == nil {
		return dst
	}
	dst = append(dst, v.rule.name...)
	dst = append(dst, ";r="...)
	dst = strconv.AppendInt(dst, v.Remaining(), 10)
	dst = append(dst, ";t="...)
	return strconv.AppendInt(dst, max(0, seconds(v.debt)), 10)
}

// By says whose requests the rate counts that decided.
func (v Verdict) By() system.RateBy {
	if v.rule == nil {
		return ""
	}
	return v.rule.by
}

func seconds(ns int64) int64 { return (ns + int64(time.Second) - 1) / int64(time.Second) }

// rule is one rate with its buckets.
type rule struct {
	by       system.RateBy
	interval int64 // nanoseconds that a request costs
	depth    int64 // most debt
	name     string
	policy   string
	route    atomic.Int64 // the one bucket of a rate by route: the time at which it is full
	buckets  buckets
}

func newRule(rate system.Rate, most int) *rule {
	requests := int64(max(rate.Requests, 1))
	per := rate.Per
	if per <= 0 {
		per = time.Second
	}
	burst := int64(rate.Burst)
	if burst <= 0 {
		burst = requests
	}
	by := rate.By
	if by == "" {
		by = system.ByClient
	}
	r := &rule{by: by, interval: max(1, int64(per)/requests)}
	r.depth = r.interval * min(burst, maxDepth/r.interval)
	r.depth = max(r.depth, r.interval)
	// The name tells rates of one kind apart, as a policy's name must.
	r.name = strconv.Quote(string(by) + "-" + strconv.FormatInt(requests, 10) + "-" + shortDuration(per))
	r.policy = r.name + ";q=" + strconv.FormatInt(requests, 10)
	if per%time.Second == 0 { // the window is in whole seconds, or left out
		r.policy += ";w=" + strconv.FormatInt(int64(per/time.Second), 10)
	}
	r.buckets.most = most
	return r
}

// maxDepth keeps sums of times within 64 bits.
const maxDepth = int64(100 * 365 * 24 * time.Hour)

// shortDuration writes 1m, not 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// take counts a request. It returns the bucket's debt, and whether the request may
// pass; if not, nothing was counted.
func (r *rule) take(key uint64, now int64) (debt int64, ok bool) {
	if r.by != system.ByRoute {
		return r.buckets.take(key, now, r.interval, r.depth)
	}
	for {
		old := r.route.Load()
		full, debt, ok := charge(old, now, r.interval, r.depth)
		if !ok || r.route.CompareAndSwap(old, full) {
			return debt, ok
		}
	}
}

// charge takes one request from a bucket that is full at the time full.
func charge(full, now, interval, depth int64) (next, debt int64, ok bool) {
	debt = max(full-now, 0)
	if debt+interval > depth {
		return full, debt, false
	}
	return now + debt + interval, debt + interval, true
}

// giveBack takes a take back.
func (r *rule) giveBack(key uint64) {
	if r.by == system.ByRoute {
		r.route.Add(-r.interval)
		return
	}
	r.buckets.giveBack(key, r.interval)
}
