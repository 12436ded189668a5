// Package token knows users by bearer tokens and tells services about them.
//
// An [Authenticator] takes the JWT of a request's Authorization header (RFC 6750,
// RFC 7519): only asymmetric algorithms, only keys of the configured set (RFC 7517),
// which it fetches and rotates by itself, and only tokens of the configured issuer
// and audience, within their time. A [Minter] makes the short-lived token that one
// service is told of a user.
//
// It does not decide who may do what, answers nobody, and never shows a part of a
// token in an error or a log.
package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"fairlead/internal/gateway/recent"
	"fairlead/internal/system"
)

const (
	tokenBytes = 8 << 10 // longest bearer token
	tokenCache = 8192    // verified tokens per generation, two generations are kept
)

// User is who a request comes from, as a valid bearer token, a password, a key or a
// service that was asked says. It is not changed once it is known.
type User struct {
	Subject string
	Roles   []string
	Claims  map[string]any
	Expires time.Time // of the token that said so, zero without one
}

// Error is why a request is not taken as that of a user. Its text is public;
// it never holds a part of what the client sent.
type Error struct {
	Status int    // 400, 401, 403, 429 or 503
	Code   string // of RFC 6750, 3.1; "" where it is no token's fault
	Public string
}

// Error returns the public text.
func (e *Error) Error() string { return e.Public }

func invalidToken(public string) *Error {
	return &Error{http.StatusUnauthorized, "invalid_token", public}
}

// What a client is told when its token is refused.
var (
	ErrMissing     = &Error{http.StatusUnauthorized, "", "this needs a bearer token"}
	ErrTwice       = &Error{http.StatusBadRequest, "invalid_request", "there is more than one Authorization header"}
	errForm        = invalidToken("the token is not a signed JWT of an accepted algorithm")
	errLong        = invalidToken("the token is too long")
	errKind        = invalidToken("the token is not an access token")
	errKey         = invalidToken("the token is signed with an unknown key")
	errSignature   = invalidToken("the token's signature is wrong")
	errClaims      = invalidToken("the token's claims cannot be read")
	errIssuer      = invalidToken("the token is of another issuer")
	errAudience    = invalidToken("the token is for another audience")
	errExpired     = invalidToken("the token has expired")
	errEndless     = invalidToken("the token has no expiry")
	errEarly       = invalidToken("the token is not valid yet")
	errAnonymous   = invalidToken("the token names no subject")
	ErrUnavailable = &Error{http.StatusServiceUnavailable, "", "tokens cannot be checked at present"}
)

// Authenticator knows users by their bearer tokens: JWTs in the Authorization
// header, signed by a key of the configured set with one of the configured
// algorithms, for the configured issuer and audience, within their time. Access
// tokens only: the type must be at+jwt (RFC 9068), JWT or absent, and no claim may
// call it a refresh token. Verified tokens are remembered until they expire or
// the key set changes. A nil Authenticator accepts no token. It is safe for
// concurrent use.
type Authenticator struct {
	cfg        system.JWT
	algorithms []jose.SignatureAlgorithm
	keys       *keys
	now        func() time.Time
	verified   *recent.Map[tokenKey, *User]
}

// tokenKey names a verified token. With the key set's version in it a change of
// the set drops all that was verified before.
type tokenKey struct {
	sum     [sha256.Size]byte
	version uint64
}

// New returns the authenticator of cfg, nil if that is nil. What previous has learnt
// is taken over as far as cfg is the same. For keys from the bus it asks the subject
// that cfg names; ask may be nil where there is no bus.
func New(cfg *system.JWT, ask func(ctx context.Context, subject string) ([]byte, error), logger *slog.Logger, previous *Authenticator) *Authenticator {
	if cfg == nil {
		return nil
	}
	a := &Authenticator{
		cfg:      *cfg,
		now:      time.Now,
		verified: recent.New[tokenKey, *User](tokenCache),
	}
	a.cfg.Algorithms = slices.Clone(cfg.Algorithms)
	if a.cfg.RolesClaim == "" {
		a.cfg.RolesClaim = "roles"
	}
	if len(a.cfg.Algorithms) == 0 {
		a.cfg.Algorithms = []string{string(jose.EdDSA)}
	}
	if previous != nil && reflect.DeepEqual(previous.cfg, a.cfg) {
		return previous
	}
	for _, name := range a.cfg.Algorithms {
		// Whatever the file says, nothing symmetric and nothing unsigned.
		if asymmetric[jose.SignatureAlgorithm(name)] {
			a.algorithms = append(a.algorithms, jose.SignatureAlgorithm(name))
		}
	}
	if previous != nil && previous.cfg.JWKS == cfg.JWKS {
		a.keys = previous.keys
	} else {
		a.keys = &keys{source: cfg.JWKS, ask: ask, logger: logger, now: time.Now}
	}
	return a
}

var asymmetric = map[jose.SignatureAlgorithm]bool{
	jose.EdDSA: true,
	jose.ES256: true, jose.ES384: true, jose.ES512: true,
	jose.RS256: true, jose.RS384: true, jose.RS512: true,
	jose.PS256: true, jose.PS384: true, jose.PS512: true,
}

// Authenticate returns the user that the bearer token of r names, nil without
// error if r has none, or an [Error].
func (a *Authenticator) Authenticate(ctx context.Context, r *http.Request) (*User, error) {
	token, err := bearer(r.Header)
	if token == "" || err != nil {
		return nil, err
	}
	if a == nil {
		return nil, errKey
	}
	set, version, err := a.keys.current(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	sum := sha256.Sum256([]byte(token))
	name := tokenKey{sum, version}
	if u, ok := a.verified.Find(name); ok {
		if a.now().Add(-a.cfg.Leeway).After(u.Expires) {
			a.verified.Remove(name)
			return nil, errExpired
		}
		return u, nil
	}
	parsed, err := jwt.ParseSigned(token, a.algorithms)
	if err != nil {
		return nil, errForm
	}
	head, err := readHead(parsed)
	if err != nil {
		return nil, err
	}
	key, ok := choose(set, head)
	if !ok && (head.KeyID != "" || len(set) == 1) {
		// The signer may have a new key.
		if set, version, err = a.keys.refresh(ctx); err != nil {
			return nil, unavailable(err)
		}
		name.version = version
		key, ok = choose(set, head)
	}
	if !ok {
		return nil, errKey
	}
	u, err := a.verify(parsed, key)
	if err != nil {
		return nil, err
	}
	a.verified.Store(name, u)
	return u, nil
}

func unavailable(err error) error {
	if errors.Is(err, errNoKeys) {
		return ErrUnavailable
	}
	return err
}

// bearer returns the token of the Authorization header, "" if there is none or
// one of another scheme.
func bearer(h http.Header) (string, error) {
	values := h["Authorization"]
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", ErrTwice
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	token = strings.Trim(token, " ")
	if len(token) > tokenBytes {
		return "", errLong
	}
	if !compactForm(token) {
		return "", errForm
	}
	return token, nil
}

// compactForm reports whether s looks like a compact JWS: three non-empty parts
// in the alphabet of base64url.
func compactForm(s string) bool {
	parts, length := 1, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if length == 0 {
				return false
			}
			parts++
			length = 0
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			length++
		default:
			return false
		}
	}
	return parts == 3 && length > 0
}

// readHead returns the one header of a token if it is of a kind that may be an
// access token.
func readHead(t *jwt.JSONWebToken) (jose.Header, error) {
	if len(t.Headers) != 1 {
		return jose.Header{}, errForm
	}
	head := t.Headers[0]
	// No extension is understood here, b64 of RFC 7797 included.
	if _, critical := head.ExtraHeaders["crit"]; critical {
		return jose.Header{}, errForm
	}
	if typ, given := head.ExtraHeaders[jose.HeaderType]; given {
		s, ok := typ.(string)
		if !ok {
			return jose.Header{}, errKind
		}
		switch strings.TrimPrefix(strings.ToLower(s), "application/") {
		case "at+jwt", "jwt":
		default:
			return jose.Header{}, errKind
		}
	}
	return head, nil
}

// choose returns the key that the token's header names. A token without a name
// needs a set of one key.
func choose(set []publicKey, head jose.Header) (publicKey, bool) {
	if head.KeyID == "" {
		if len(set) == 1 && set[0].fits(head.Algorithm) {
			return set[0], true
		}
		return publicKey{}, false
	}
	for _, k := range set {
		if k.id == head.KeyID {
			return k, k.fits(head.Algorithm)
		}
	}
	return publicKey{}, false
}

// verify checks the signature, then the claims.
func (a *Authenticator) verify(t *jwt.JSONWebToken, key publicKey) (*User, error) {
	var all map[string]any
	if err := t.Claims(key.key, &all); err != nil {
		if errors.Is(err, jose.ErrCryptoFailure) {
			return nil, errSignature
		}
		return nil, errClaims
	}
	var std jwt.Claims
	if err := t.UnsafeClaimsWithoutVerification(&std); err != nil { // verified just before
		return nil, errClaims
	}
	if refreshToken(all) {
		return nil, errKind
	}
	if std.Expiry == nil {
		return nil, errEndless
	}
	err := std.ValidateWithLeeway(jwt.Expected{
		Issuer:      a.cfg.Issuer,
		AnyAudience: jwt.Audience{a.cfg.Audience},
		Time:        a.now(),
	}, a.cfg.Leeway)
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return nil, errIssuer
	case errors.Is(err, jwt.ErrInvalidAudience):
		return nil, errAudience
	case errors.Is(err, jwt.ErrExpired):
		return nil, errExpired
	default:
		return nil, errEarly
	}
	if std.Subject == "" {
		return nil, errAnonymous
	}
	u := &User{
		Subject: std.Subject,
		Roles:   rolesOf(all, a.cfg.RolesClaim),
		Expires: std.Expiry.Time(),
		Claims:  all,
	}
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", a.cfg.RolesClaim} {
		delete(u.Claims, name)
	}
	return u, nil
}

// refreshToken reports whether a claim that issuers use for the purpose says that
// the token is one for refreshing.
func refreshToken(claims map[string]any) bool {
	for _, name := range []string{"token_use", "use", "token_type", "typ"} {
		if s, ok := claims[name].(string); ok && strings.Contains(strings.ToLower(s), "refresh") {
			return true
		}
	}
	return false
}

// rolesOf reads a list of strings, or one string of words, at a claim's name; a
// name with dots that is no claim leads into objects (realm_access.roles).
func rolesOf(claims map[string]any, name string) []string {
	v, ok := claims[name]
	for !ok {
		head, rest, dotted := strings.Cut(name, ".")
		inner, isObject := claims[head].(map[string]any)
		if !dotted || !isObject {
			return nil
		}
		claims, name = inner, rest
		v, ok = claims[name]
	}
	switch v := v.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		roles := make([]string, 0, len(v))
		for _, e := range v {
			if s, ok := e.(string); ok && s != "" {
				roles = append(roles, s)
			}
		}
		return roles
	}
	return nil
}
