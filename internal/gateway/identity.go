package gateway

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"fairlead/internal/wire"
)

const (
	identityLife  = time.Minute      // of a minted token
	identityRenew = 20 * time.Second // a token with less life left is minted again
	identityFloor = 5 * time.Second  // least life, for a user's token that ends within the leeway
	identityCache = 4096             // tokens per generation, two generations are kept
)

// errUnmintable means that a user cannot be told to a service, as when the claims
// are too large.
var errUnmintable = errors.New("mint identity")

// minter makes the signed identity that a service is told of a user. A token is
// made once per user token and service and used until it is about to expire,
// since a signature costs more than all else the gateway does for a request.
// It is safe for concurrent use.
type minter struct {
	signer *wire.Signer // nil: no identity can be told
	now    func() time.Time
	cache  generations[mintKey, minted]
}

// mintKey holds the user by address: the authenticator gives the same *User for
// the same bearer token, and a new one once that was verified again.
type mintKey struct {
	user    *User
	service string
}

type minted struct {
	token string
	until time.Time // to be used before
}

func newMinter(s *wire.Signer) *minter {
	return &minter{signer: s, now: time.Now, cache: generations[mintKey, minted]{size: identityCache}}
}

// token returns the identity token that tells service about u. It lives for a
// minute, or until u's own token ends if that is earlier.
// Without a signing key it is "": services are told no user.
func (m *minter) token(u *User, service string) (string, error) {
	if m == nil || m.signer == nil {
		return "", nil
	}
	now := m.now()
	key := mintKey{u, service}
	if t, ok := m.cache.find(key); ok && now.Before(t.until) {
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
		return "", fmt.Errorf("%w for %s: %w", errUnmintable, service, err)
	}
	// Close to the end of the user's token every request gets a token of its own
	// rather than one that dies on the way.
	m.cache.store(key, minted{token, expires.Add(-min(identityRenew, expires.Sub(now)/2))})
	return token, nil
}

// generations is a bounded map that forgets what was not asked for while size
// other entries came in. It needs no list of uses and keeps at most twice size.
type generations[K comparable, V any] struct {
	size int

	mu         sync.RWMutex // guards young and old
	young, old map[K]V
}

func (g *generations[K, V]) find(k K) (V, bool) {
	g.mu.RLock()
	v, ok := g.young[k]
	if ok {
		g.mu.RUnlock()
		return v, true
	}
	v, ok = g.old[k]
	g.mu.RUnlock()
	if ok {
		g.store(k, v)
	}
	return v, ok
}

func (g *generations[K, V]) store(k K, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.young == nil {
		g.young = make(map[K]V)
	}
	if _, known := g.young[k]; !known && len(g.young) >= g.size {
		g.old, g.young = g.young, make(map[K]V)
	}
	g.young[k] = v
}

func (g *generations[K, V]) remove(k K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.young, k)
	delete(g.old, k)
}

// clear forgets everything.
func (g *generations[K, V]) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.young, g.old = nil, nil
}

func (g *generations[K, V]) len() int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return len(g.young) + len(g.old)
}
