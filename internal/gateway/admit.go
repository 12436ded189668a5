package gateway

import (
	"fmt"
	"net/http"
	"strconv"

	"fairlead/internal/gateway/certs"
	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// Who is let in is decided in this order; the first that refuses answers:
//
//  1. the client's address is derived, once (welcome);
//  2. the ban list: 403 (welcome);
//  3. deny, then allow, of the gateway: 403, before anything is said about routes
//     (welcome);
//  4. the size of the head, method, host and path (serve);
//  5. CORS preflights are answered, where the route that they ask about has cors and
//     lets the address in (preflight);
//  6. the route is found; maintenance (serve);
//  7. deny, then allow, of the route: 403 (admit);
//  8. rates by client and by route: 429, before any secret is looked at (admit);
//  9. authentication: 401, or 429 after too many guesses; then roles: 403 (admit);
//  10. rates by token: 429 (admit);
//  11. the size of the body, and its pace: 413, 408 (guardBody).
//
// Every refusal is a problem document, is counted by reason, and stands in the
// access log with its cause.

// admission is what a snapshot decides with. It is immutable; nil, before the first
// Apply, trusts no proxy and knows no user.
type admission struct {
	trusted   filter.Set
	addresses filter.Addresses
	limiter   *filter.Limiter
	authority authority
}

// routeFilters are those of one route.
type routeFilters struct {
	addresses filter.Addresses
	rates     filter.Rates
	cors      *filter.CORS
	methods   methods
	required  bool  // somebody must be known
	minRate   int64 // bytes per second
}

// defaultMinRate is that of a configuration that names none.
const defaultMinRate = 100

// admit compiles what c says about who is let in, and sets the filters of its
// routes. What old has learnt is taken over as far as it still holds.
func (g *Gateway) admission(c *Config, routes []route, pools map[string]*pool, old *snapshot) (*admission, error) {
	gw := &c.Gateway
	a := &admission{
		trusted:   filter.NewSet(gw.TrustedProxies),
		addresses: filter.Addresses{Allow: filter.NewSet(gw.Filters.Allow), Deny: filter.NewSet(gw.Filters.Deny)},
	}
	var before *admission
	if old != nil {
		before = old.admission
	}
	var err error
	if a.authority, err = g.authority(c, pools, before); err != nil {
		return nil, err
	}
	var limiter *filter.Limiter
	if before != nil {
		limiter = before.limiter
	}
	rates := len(gw.Filters.Rates)
	for i := range c.Routes {
		rates += len(c.Routes[i].Filters.Rates)
	}
	a.limiter = filter.NewLimiter(limiter, rates)
	cors := filter.NewCORS(gw.Filters.CORS)
	var plain *routeFilters // of routes that say nothing of their own
	for i := range routes {
		def := routes[i].def
		own := owns(def) || len(gw.Filters.Rates) > 0
		if !own && plain != nil {
			routes[i].filters = plain
			continue
		}
		f := &routeFilters{}
		routes[i].filters = f
		if !own {
			plain = f
		}
		f.addresses = filter.Addresses{Allow: filter.NewSet(def.Filters.Allow), Deny: filter.NewSet(def.Filters.Deny)}
		if def.Filters.RatesSet || len(def.Filters.Rates) > 0 {
			f.rates = a.limiter.Rates(def.Key, def.Key, def.Filters.Rates)
		} else {
			f.rates = a.limiter.Rates(def.Key, "", gw.Filters.Rates)
		}
		f.cors = cors
		if def.Filters.CORS != nil {
			f.cors = filter.NewCORS(def.Filters.CORS)
		}
		f.methods, f.required = a.authority.methods(def)
		f.minRate = firstOf(def.Limits.MinRate, gw.Limits.MinRate, defaultMinRate)
	}
	return a, nil
}

// owns reports whether a route says something of its own about who is let in.
func owns(def *system.Route) bool {
	f := &def.Filters
	return len(def.Auth)+len(def.Roles)+len(f.Allow)+len(f.Deny)+len(f.Rates) > 0 || f.RatesSet || f.CORS != nil || def.Limits.MinRate != 0
}

func firstOf(values ...int64) int64 {
	for _, v := range values {
		if v > 0 {
			return v
		}
	}
	return 0
}

func (a *admission) trustedProxies() filter.Set {
	if a == nil {
		return filter.Set{}
	}
	return a.trusted
}

// mostHolder bounds the name of a certificate's holder, which is told with every
// request. A longer one is not told: a part of a name is another name.
const mostHolder = 1 << 10

// derive finds out where a request comes from.
func (x *exchange) derive(r *http.Request) {
	var a *admission
	if x.snap != nil {
		a = x.snap.admission
	}
	x.origin = filter.Derive(a.trustedProxies(), r.RemoteAddr, r.Header, x.scheme(), r.Host)
	if r.TLS != nil {
		if x.holder = certs.ClientSubject(r.TLS); len(x.holder) > mostHolder {
			x.holder = ""
		}
	}
}

// welcome derives where a request comes from, and refuses whoever is banned or whose
// address the gateway does not let in. It comes before everything else.
func (x *exchange) welcome(w http.ResponseWriter, r *http.Request) bool {
	x.derive(r)
	var a *admission
	if x.snap != nil {
		a = x.snap.admission
	}
	if ban, ok := x.g.bans.Load().Find(x.origin.Client, x.start); ok {
		x.cause = ban.Prefix.String() + " " + ban.Reason
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		x.refuse(w, r, refusedBan, http.StatusForbidden, addressRefused)
		return false
	}
	if a != nil && !a.addresses.Pass(x.origin.Client) {
		x.refuse(w, r, refusedAddress, http.StatusForbidden, addressRefused)
		return false
	}
	return true
}

// addressRefused does not say which list an address is on, or not on.
const addressRefused = "this is not open to your address"

// preflight answers what a browser asks before it sends a request to another origin
// (the CORS protocol of the Fetch standard), if the route that it asks about has
// rules for that. It carries no credentials and is not counted by rates.
func (x *exchange) preflight(w http.ResponseWriter, r *http.Request, path string) bool {
	if r.Method != http.MethodOptions {
		return false
	}
	origin, method := r.Header["Origin"], r.Header["Access-Control-Request-Method"]
	if len(origin) != 1 || len(method) != 1 || !match.SafeMethod(method[0]) {
		return false
	}
	route, vars := x.snap.find(method[0], r.Host, path, x.varsBuf[:0])
	if route == nil || route.filters.cors == nil {
		return false
	}
	x.route, x.vars = route, vars
	if !route.filters.addresses.Pass(x.origin.Client) {
		x.refuse(w, r, refusedAddress, http.StatusForbidden, addressRefused)
		return true
	}
	cors := route.filters.cors
	if !cors.Allowed(origin[0]) {
		x.cause = "of " + origin[0]
		x.refuse(w, r, refusedOrigin, http.StatusForbidden, "pages of this origin may not ask here")
		return true
	}
	cors.VaryPreflight(w.Header())
	cors.Preflight(w.Header(), origin[0])
	x.leaveBody(w, r)
	w.WriteHeader(http.StatusNoContent)
	return true
}

// admit decides whether a request may use its route, and finds out whose it is. If
// not it answers. It also says what the answer must carry: the headers of CORS and
// of rates.
func (x *exchange) admit(w http.ResponseWriter, r *http.Request) bool {
	f, a := x.route.filters, x.snap.admission
	x.answer.pace.least = f.minRate
	if f.cors != nil {
		x.answer.stamp.cors = f.cors
		if lines := r.Header["Origin"]; len(lines) == 1 {
			x.answer.stamp.origin = lines[0]
		}
	}
	if !f.addresses.Pass(x.origin.Client) {
		x.refuse(w, r, refusedAddress, http.StatusForbidden, addressRefused)
		return false
	}
	if f.rates.None() {
		return a.authority.admit(w, r, x)
	}
	x.answer.stamp.policy = f.rates.Policy()
	client := a.limiter.Client(x.origin.Client)
	if !x.within(w, r, f.rates.TakeClient(client, x.start)) || !a.authority.admit(w, r, x) {
		return false
	}
	if f.rates.ByToken() {
		key := client
		if x.user != nil {
			key = a.limiter.Subject(x.user.Subject)
		}
		return x.within(w, r, f.rates.TakeToken(key, x.start))
	}
	return true
}

// within notes what a rate says, and refuses a request beyond it.
func (x *exchange) within(w http.ResponseWriter, r *http.Request, v filter.Verdict) bool {
	x.answer.stamp.verdict = x.answer.stamp.verdict.Tighter(v)
	if !v.Refused() {
		return true
	}
	x.cause = "by " + string(v.By())
	seconds := strconv.FormatInt(v.RetryAfter(), 10)
	w.Header().Set("Retry-After", seconds)
	x.refuse(w, r, refusedRate, http.StatusTooManyRequests, "there are too many requests; try again in "+seconds+" s")
	return false
}

// stamp is what the door adds to the final answer of a request, whoever answers it.
type stamp struct {
	cors    *filter.CORS
	origin  string // of the request, "" for none
	policy  string // of the rates, "" for none
	verdict filter.Verdict
}

// put sets the headers. It is called just before the head is written, so that
// neither a service nor a problem document has the last word.
func (s *stamp) put(h http.Header) {
	if s.cors != nil {
		s.cors.Answer(h, s.origin)
	}
	if s.verdict.Said() {
		h["Ratelimit-Policy"] = []string{s.policy}
		h["Ratelimit"] = []string{string(s.verdict.Append(make([]byte, 0, 48)))}
	}
}

// secretOf returns the value of a credential's secret.
func secretOf(c *Config, of system.Credential) (string, error) {
	v := c.Secrets[of.Secret]
	if v == "" {
		return "", fmt.Errorf("gateway.auth: the secret %s of %s has no value", of.Secret, of.Name)
	}
	return v, nil
}
