package token

import (
	"errors"
	"fmt"
	"time"

	"fairlead/internal/gateway/recent"
	"fairlead/internal/wire"
)

const (
	identityLife  = time.Minute      // of a minted token
	identityRenew = 20 * time.Second // a token with less life left is minted again
	identityFloor = 5 * time.Second  // least life, for a user's token that ends within the leeway
	identityCache = 4096             // tokens per generation, two generations are kept
)

// ErrUnmintable means that a user cannot be told to a service, as when the claims
// are too large.
var ErrUnmintable = errors.New("mint identity")

// Minter makes the signed identity that a service is told of a user. A token is
// made once per user token and service and used until it is about to expire,
// since a signature costs more than all else the gateway does for a request.
// It is safe for concurrent use.
type Minter struct {
	signer *wire.Signer // nil: no identity can be told
	now    func() time.Time
	cache  *recent.Map[mintKey, minted]
}

// mintKey holds the user by address: an Authenticator gives the same *User for
// the same bearer token, and a new one once that was verified again.
type mintKey struct {
	user    *User
	service string
}

type minted struct {
	token string
	until time.Time // to be used before
}

// NewMinter returns a minter that signs with s; nil means that no user is told.
func NewMinter(s *wire.Signer) *Minter {
	return &Minter{signer: s, now: time.Now, cache: recent.New[mintKey, minted](identityCache)}
}

// Token returns the identity token that tells service about u. It lives for a
// minute, or until u's own token ends if that is earlier.
// Without a signing key it is "": services are told no user.
func (m *Minter) Token(u *User, service string) (string, error) {
	if m == nil || m.signer == nil {
		return "", nil
	}
	now := m.now()
	key := mintKey{u, service}
	if t, ok := m.cache.Find(key); ok && now.Before(t.until) {
		return t.token, nil
	}
	expires := now.Add(identityLife)
	if !u.Expires.IsZero() && u.Expires.Before(expires) {
		expires = u.Expires
		if least := now.Add(identityFloor); expires.Before(least) {
			expires = least
		}
	}
	token, err := m.signer.Sign(wire.Identity{
		Subject: u.Subject,
		Roles:   u.Roles,
		Claims:  u.Claims,
		Service: service,
		Issued:  now,
		Expires: expires,
	})
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w", ErrUnmintable, service, err)
	}
	// Close to the end of the user's token every request gets a token of its own
	// rather than one that dies on the way.
	m.cache.Store(key, minted{token, expires.Add(-min(identityRenew, expires.Sub(now)/2))})
	return token, nil
}
