package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Errors of [Verifier.Verify]. Each says why a token was refused; none holds any
// part of the token.
var (
	ErrIdentityMalformed = errors.New("identity token is malformed")
	ErrIdentityHeader    = errors.New("identity token has another algorithm or type")
	ErrIdentitySignature = errors.New("identity token is not signed by the gateway")
	ErrIdentityIssuer    = errors.New("identity token is of another system")
	ErrIdentityAudience  = errors.New("identity token is for another service")
	ErrIdentityExpired   = errors.New("identity token has expired")
	ErrIdentityFuture    = errors.New("identity token was issued in the future")
)

const (
	// identityHeader is the only JOSE header there is. It is compared byte for
	// byte instead of being parsed, so that no algorithm can be negotiated.
	identityHeader = `{"alg":"EdDSA","typ":"fairlead-identity+jwt"}`
	issuerPrefix   = "fairlead/"

	// DefaultIdentityLife is the time an [Identity] without Expires is valid for.
	DefaultIdentityLife = time.Minute
	// MaxIdentityToken is the longest identity token in bytes. Longer ones are
	// neither made nor looked at.
	MaxIdentityToken = 16 << 10

	clockSkew        = 30 * time.Second // an issuer's clock may run ahead by this much
	cachedGeneration = 1024             // verified tokens per generation, two generations are kept
)

var (
	b64             = base64.RawURLEncoding.Strict()
	encodedIdentity = b64.EncodeToString([]byte(identityHeader)) + "."
)

// Identity is a user as the gateway has verified them, told to one service. It
// travels as a compact JWS (RFC 7515) with the algorithm EdDSA (RFC 8037).
//
// Claims and Roles belong to the receiver; values nested in Claims may be shared
// with other requests of the same user and are read only.
type Identity struct {
	Subject string         // the user, never empty
	Roles   []string       // in the order of the user's token
	Claims  map[string]any // the other claims of the user's token; numbers are json.Number when verified
	Service string         // audience: the one service that may accept it
	System  string         // issuer: the system whose gateway made it
	Issued  time.Time      // whole seconds
	Expires time.Time      // whole seconds; not valid at this time or later
}

// HasRole reports whether the user has one of the roles.
func (id Identity) HasRole(roles ...string) bool {
	for _, r := range roles {
		if slices.Contains(id.Roles, r) {
			return true
		}
	}
	return false
}

// claims are the payload of a token.
type claims struct {
	Issuer   string         `json:"iss"`
	Audience string         `json:"aud"`
	Subject  string         `json:"sub"`
	Roles    []string       `json:"roles,omitempty"`
	Issued   int64          `json:"iat"`
	Expires  int64          `json:"exp"`
	Claims   map[string]any `json:"claims,omitempty"`
}

// Signer makes identity tokens for one system. It is safe for concurrent use.
type Signer struct {
	key    ed25519.PrivateKey
	system string
}

// NewSigner returns a Signer with the gateway's private key. It panics if the
// key does not have the length of an Ed25519 private key.
func NewSigner(priv ed25519.PrivateKey, system string) *Signer {
	if len(priv) != ed25519.PrivateKeySize {
		panic("wire: identity key is not an Ed25519 private key")
	}
	return &Signer{key: priv, system: system}
}

// Sign returns the token of id. id.System is ignored, the signer's is used. A zero
// Issued means now, a zero Expires [DefaultIdentityLife] later. An identity
// without subject or service, with an end before its beginning, with claims that
// are no JSON, or with a token above [MaxIdentityToken] is an error.
func (s *Signer) Sign(id Identity) (string, error) {
	if id.Subject == "" {
		return "", errors.New("sign identity: subject is missing")
	}
	if id.Service == "" {
		return "", errors.New("sign identity: service is missing")
	}
	if id.Issued.IsZero() {
		id.Issued = time.Now()
	}
	if id.Expires.IsZero() {
		id.Expires = id.Issued.Add(DefaultIdentityLife)
	}
	c := claims{
		Issuer:   issuerPrefix + s.system,
		Audience: id.Service,
		Subject:  id.Subject,
		Roles:    id.Roles,
		Issued:   id.Issued.Unix(),
		Expires:  id.Expires.Unix(),
		Claims:   id.Claims,
	}
	if c.Expires <= c.Issued {
		return "", errors.New("sign identity: it expires before it is issued")
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("sign identity: %w", err)
	}
	n := len(encodedIdentity) + b64.EncodedLen(len(payload)) + 1 + b64.EncodedLen(ed25519.SignatureSize)
	if n > MaxIdentityToken {
		return "", fmt.Errorf("sign identity: token of %d bytes is above %d; fewer claims are needed", n, MaxIdentityToken)
	}
	token := make([]byte, 0, n)
	token = append(token, encodedIdentity...)
	token = b64.AppendEncode(token, payload)
	sig := ed25519.Sign(s.key, token)
	token = append(token, '.')
	token = b64.AppendEncode(token, sig)
	return string(token), nil
}

// Verifier checks identity tokens for one service of one system. It remembers
// the tokens that it found good, at most some thousands, because a user's token
// usually comes many times. It is safe for concurrent use.
type Verifier struct {
	key             ed25519.PublicKey
	issuer, service string
	system          string

	mu         sync.Mutex // guards young and old
	young, old map[string]Identity
}

// NewVerifier returns a Verifier for tokens of the system that are meant for the
// service. It panics if the key does not have the length of an Ed25519 public key.
func NewVerifier(pub ed25519.PublicKey, system, service string) *Verifier {
	if len(pub) != ed25519.PublicKeySize {
		panic("wire: identity key is not an Ed25519 public key")
	}
	return &Verifier{
		key:     pub,
		issuer:  issuerPrefix + system,
		service: service,
		system:  system,
		young:   make(map[string]Identity),
	}
}

// Verify returns the identity that the token proves at the time now, or one of the
// ErrIdentity errors.
func (v *Verifier) Verify(token string, now time.Time) (Identity, error) {
	id, ok := v.cached(token)
	if !ok {
		var err error
		if id, err = v.parse(token); err != nil {
			return Identity{}, err
		}
	}
	if !now.Before(id.Expires) {
		return Identity{}, ErrIdentityExpired
	}
	if id.Issued.After(now.Add(clockSkew)) {
		return Identity{}, ErrIdentityFuture
	}
	if !ok {
		v.remember(token, id)
	}
	id.Roles = slices.Clone(id.Roles)
	id.Claims = maps.Clone(id.Claims)
	return id, nil
}

// parse checks everything about a token but its times.
func (v *Verifier) parse(token string) (Identity, error) {
	if len(token) > MaxIdentityToken {
		return Identity{}, ErrIdentityMalformed
	}
	rest, ok := strings.CutPrefix(token, encodedIdentity)
	if !ok {
		if strings.Count(token, ".") != 2 {
			return Identity{}, ErrIdentityMalformed
		}
		return Identity{}, ErrIdentityHeader
	}
	body, sig64, ok := strings.Cut(rest, ".")
	if !ok {
		return Identity{}, ErrIdentityMalformed
	}
	// Decoders skip line breaks; a token with any would be a second spelling.
	if strings.ContainsAny(rest, "\r\n") {
		return Identity{}, ErrIdentityMalformed
	}
	sig, err := b64.DecodeString(sig64)
	if err != nil {
		return Identity{}, ErrIdentityMalformed
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(v.key, []byte(token[:len(encodedIdentity)+len(body)]), sig) {
		return Identity{}, ErrIdentitySignature
	}
	payload, err := b64.DecodeString(body)
	if err != nil {
		return Identity{}, ErrIdentityMalformed
	}
	var c claims
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Identity{}, ErrIdentityMalformed
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Identity{}, ErrIdentityMalformed
	}
	switch {
	case c.Issuer != v.issuer:
		return Identity{}, ErrIdentityIssuer
	case c.Audience != v.service:
		return Identity{}, ErrIdentityAudience
	case c.Subject == "" || c.Expires <= c.Issued:
		return Identity{}, ErrIdentityMalformed
	}
	return Identity{
		Subject: c.Subject,
		Roles:   c.Roles,
		Claims:  c.Claims,
		Service: v.service,
		System:  v.system,
		Issued:  time.Unix(c.Issued, 0),
		Expires: time.Unix(c.Expires, 0),
	}, nil
}

func (v *Verifier) cached(token string) (Identity, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.young[token]
	if !ok {
		if id, ok = v.old[token]; ok {
			v.put(token, id)
		}
	}
	return id, ok
}

func (v *Verifier) remember(token string, id Identity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.put(strings.Clone(token), id)
}

// put needs the lock. Two generations bound the memory without a list of uses:
// what was not asked for during a whole generation is forgotten.
func (v *Verifier) put(token string, id Identity) {
	if len(v.young) >= cachedGeneration {
		v.old, v.young = v.young, make(map[string]Identity)
	}
	v.young[token] = id
}

// EncodeKey returns a public key as unpadded base64url, the form of [EnvIdentityKey].
func EncodeKey(pub ed25519.PublicKey) string {
	return b64.EncodeToString(pub)
}

// DecodeKey is the inverse of [EncodeKey]. Anything but the 32 bytes of an Ed25519
// public key is an error.
func DecodeKey(s string) (ed25519.PublicKey, error) {
	b, err := b64.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("decode identity key: %w", err)
	}
	if len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("decode identity key: must be %d bytes, is %d", ed25519.PublicKeySize, len(b))
	}
	return ed25519.PublicKey(b), nil
}
