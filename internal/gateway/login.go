package gateway

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/filter"
	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/token"
	"fairlead/internal/system"
)

// methods are ways to be known.
type methods uint8

const (
	byJWT methods = 1 << iota
	byBasic
	byKey
	byForward
)

var methodOf = map[system.AuthMethod]methods{
	system.AuthJWT: byJWT, system.AuthBasic: byBasic, system.AuthKeys: byKey, system.AuthForward: byForward,
}

// authority knows users in all the ways that the gateway is configured with. The
// zero authority knows nobody. It is immutable but for what its parts remember.
type authority struct {
	jwt     *token.Authenticator // nil: no tokens are accepted
	basic   *roster              // nil: no passwords
	realm   string
	keys    *roster // nil: no API keys
	header  string  // that API keys stand in
	forward *forwarder

	// guesses are failed attempts where somebody must be known, strays those on
	// public routes, where a password may be meant for the service behind.
	guesses, strays *filter.Guesses

	// inside are headers, by hop.Plain, that reach services only with what the
	// gateway itself has put into them.
	inside []string
}

// roster is who is known by a password or a key.
type roster struct {
	credentials *filter.Credentials
	users       []*token.User
}

func (g *Gateway) authority(c *Config, pools map[string]*pool, before *admission) (authority, error) {
	auth := &c.Gateway.Auth
	a := authority{guesses: filter.NewGuesses(), strays: filter.NewGuesses()}
	var jwt *token.Authenticator
	if before != nil {
		jwt, a.guesses, a.strays = before.authority.jwt, before.authority.guesses, before.authority.strays
	}
	if auth.JWT != nil {
		a.jwt = token.New(auth.JWT, g.bridge.Ask, g.log, jwt)
	}
	var err error
	if auth.Basic != nil {
		a.realm = auth.Basic.Realm
		if a.basic, err = newRoster(c, auth.Basic.Users, true); err != nil {
			return a, err
		}
	}
	if auth.Keys != nil {
		a.header = http.CanonicalHeaderKey(auth.Keys.Header)
		if a.header == "" {
			a.header = "X-Api-Key"
		}
		a.inside = append(a.inside, hop.Plain(a.header))
		if a.keys, err = newRoster(c, auth.Keys.Keys, false); err != nil {
			return a, err
		}
	}
	if auth.Forward != nil {
		if a.forward, err = newForwarder(auth.Forward, pools); err != nil {
			return a, err
		}
		a.inside = append(a.inside, a.forward.inside()...)
	}
	return a, nil
}

func newRoster(c *Config, list []system.Credential, named bool) (*roster, error) {
	ro := &roster{users: make([]*token.User, len(list))}
	all := make([]filter.Credential, len(list))
	for i, one := range list {
		secret, err := secretOf(c, one)
		if err != nil {
			return nil, err
		}
		all[i] = filter.Credential{Secret: secret}
		if named {
			all[i].Name = one.Name
		}
		ro.users[i] = &token.User{Subject: one.Name, Roles: one.Roles}
	}
	ro.credentials = filter.NewCredentials(all)
	return ro, nil
}

// methods returns in which ways a user of a route may be known, and whether one must
// be.
func (a *authority) methods(def *system.Route) (m methods, required bool) {
	required = len(def.Auth)+len(def.Roles) > 0
	for _, name := range def.Auth {
		m |= methodOf[name]
	}
	if len(def.Auth) > 0 {
		return m, required
	}
	if a.jwt != nil {
		m |= byJWT
	}
	if a.basic != nil {
		m |= byBasic
	}
	if a.keys != nil {
		m |= byKey
	}
	if m == 0 { // nothing will do, and a token is what is refused
		m = byJWT
	}
	return m, required
}

// What a client is told when it is not known.
var (
	errLoginMissing  = &token.Error{Status: http.StatusUnauthorized, Public: "this needs you to log in"}
	errPasswordWrong = &token.Error{Status: http.StatusUnauthorized, Public: "the user or the password is wrong"}
	errPasswordForm  = &token.Error{Status: http.StatusUnauthorized, Public: "the user and the password cannot be read"}
	errKeyWrong      = &token.Error{Status: http.StatusUnauthorized, Public: "the API key is not known"}
	errKeyTwice      = &token.Error{Status: http.StatusBadRequest, Public: "there is more than one API key"}
	errGuesses       = &token.Error{Status: http.StatusTooManyRequests, Public: "there were too many failed attempts"}
)

// admit finds out who sent r and whether its route is open to them. If so it sets
// x.user and reports true; if not it answers: 401 without anything valid, 403
// without one of the route's roles, 429 after too many guesses, 503 if tokens cannot
// be checked. On a public route a valid token, password or key gives the identity
// and anything else none.
func (a *authority) admit(w http.ResponseWriter, r *http.Request, x *exchange) bool {
	f := x.route.filters
	x.user = nil
	var key []string
	if len(a.inside) > 0 {
		key = r.Header[a.header]
		dropHeaders(r.Header, a.inside)
	}
	u, err := a.known(r, x, key)
	if u == nil && f.methods&byForward != 0 && a.forward != nil {
		var passed bool
		if u, passed = a.forward.ask(w, r, x); !passed {
			return false
		}
		err = nil
		if u == nil && len(x.route.def.Roles) == 0 {
			return true // let in, as nobody in particular
		}
	}
	switch {
	case !f.required:
		x.user = u
		return true
	case u == nil:
		if err == nil {
			err = errLoginMissing
			if f.methods == byJWT {
				err = token.ErrMissing
			}
		}
		var known *token.Error
		if !errors.As(err, &known) { // the client is gone
			known = token.ErrUnavailable
		}
		a.refuse(w, r, x, known)
		return false
	case !allowed(u, x.route.def.Roles):
		x.cause = "user " + u.Subject
		a.refuse(w, r, x, &token.Error{Status: http.StatusForbidden, Code: "insufficient_scope", Public: "this needs the role " + strings.Join(x.route.def.Roles, " or ")})
		return false
	}
	if u.Subject != "" {
		x.user = u
	}
	return true
}

// known returns the user that r proves to be of in one of the route's ways but
// forward. If none does, it returns the first error, nil if r does not even try.
func (a *authority) known(r *http.Request, x *exchange, key []string) (*token.User, error) {
	f := x.route.filters
	var first error
	try := func(u *token.User, err error) *token.User {
		if err != nil && first == nil {
			first = err
		}
		return u
	}
	if f.methods&byJWT != 0 {
		if u := try(a.jwt.Authenticate(r.Context(), r)); u != nil {
			return u, nil
		}
	}
	if f.methods&byBasic != 0 && a.basic != nil {
		if u := try(a.password(r, x)); u != nil {
			return u, nil
		}
	}
	if f.methods&byKey != 0 && a.keys != nil && len(key) > 0 {
		if u := try(a.key(x, key)); u != nil {
			return u, nil
		}
	}
	return nil, first
}

// password looks at HTTP's Basic authentication (RFC 7617). What it has accepted is
// not passed on: the password is the gateway's, not the service's.
func (a *authority) password(r *http.Request, x *exchange) (*token.User, error) {
	values := r.Header["Authorization"]
	switch len(values) {
	case 0:
		return nil, nil
	case 1:
	default:
		return nil, token.ErrTwice
	}
	given, basic, ok := filter.ParseBasic(values[0])
	if !basic {
		return nil, nil
	}
	if !ok {
		return nil, errPasswordForm
	}
	u, err := a.look(a.basic, x, given, errPasswordWrong)
	if u != nil {
		dropHeaders(r.Header, []string{"authorization"})
	}
	return u, err
}

func (a *authority) key(x *exchange, values []string) (*token.User, error) {
	if len(values) > 1 {
		return nil, errKeyTwice
	}
	if len(values[0]) > filter.MaxCredential {
		return nil, errKeyWrong
	}
	return a.look(a.keys, x, filter.Credential{Secret: values[0]}, errKeyWrong)
}

// look compares a password or key, unless the client has failed too often.
func (a *authority) look(ro *roster, x *exchange, given filter.Credential, wrong *token.Error) (*token.User, error) {
	guesses := a.guesses
	if !x.route.filters.required {
		guesses = a.strays
	}
	if guesses.Wait(x.origin.Client, x.start) > 0 {
		return nil, errGuesses
	}
	i, ok := ro.credentials.Find(given)
	if !ok {
		guesses.Failed(x.origin.Client, x.start)
		return nil, wrong
	}
	return ro.users[i], nil
}

// allowed reports whether u has one of the roles; an empty list is open to all.
func allowed(u *token.User, roles []string) bool {
	return len(roles) == 0 || u != nil && slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(u.Roles, role) })
}

// refuse answers with a problem, and with the challenges of the ways that are open
// (RFC 9110, 11.6.1; RFC 6750, 3; RFC 7617).
func (a *authority) refuse(w http.ResponseWriter, r *http.Request, x *exchange, e *token.Error) {
	h := w.Header()
	why := refusedLogin
	switch e.Status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	case http.StatusTooManyRequests:
		why = refusedGuesses
		wait := a.guesses.Wait(x.origin.Client, x.start)
		h.Set("Retry-After", strconv.FormatInt(max(1, int64((wait+time.Second-1)/time.Second)), 10))
	default:
		if e.Status == http.StatusForbidden {
			why = refusedRole
		}
		a.challenge(h, x.route.filters.methods, e)
	}
	x.refuse(w, r, why, e.Status, e.Public)
}

func (a *authority) challenge(h http.Header, m methods, e *token.Error) {
	if m&byJWT != 0 {
		challenge := `Bearer realm="fairlead"`
		if e.Code != "" {
			challenge += `, error="` + e.Code + `", error_description="` + quoteSafe(e.Public) + `"`
		}
		h.Add("Www-Authenticate", challenge)
	}
	if m&byBasic != 0 && e.Status == http.StatusUnauthorized {
		h.Add("Www-Authenticate", `Basic realm="`+quoteSafe(a.realm)+`", charset="UTF-8"`)
	}
	if m&byKey != 0 && m&(byJWT|byBasic) == 0 && e.Status == http.StatusUnauthorized {
		// A 401 must name a scheme; that of API keys is not registered.
		h.Add("Www-Authenticate", `ApiKey header="`+quoteSafe(a.header)+`"`)
	}
}

// quoteSafe keeps what RFC 6750 allows in an error_description.
func quoteSafe(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '?'
		}
		return c
	}, s)
}

// dropHeaders removes headers in every spelling; the names are hop.Plain ones.
func dropHeaders(h http.Header, names []string) {
	for name := range h {
		if slices.ContainsFunc(names, func(small string) bool { return hop.Same(name, small) }) {
			delete(h, name)
		}
	}
}
