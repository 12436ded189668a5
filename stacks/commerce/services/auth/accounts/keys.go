package accounts

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer is the "iss" and the "aud" of every access token.
const Issuer = "commerce"

const (
	// keyLead is how long a new key is published before it signs: longer than the
	// gateway keeps a set of keys, and any cache on the way.
	keyLead = time.Hour
	// keyTail is how much longer than its last token an old key stays published.
	keyTail = 5 * time.Minute
	// keyFresh is how long the keys are kept in memory.
	keyFresh = time.Minute
)

type signingKey struct {
	kid     string
	private ed25519.PrivateKey
	active  time.Time
}

// keyring is what was last read of the keys.
type keyring struct {
	mu   sync.Mutex // guards what follows
	keys []signingKey
	read time.Time
}

// ring returns the published keys, oldest first, after rotation where it is due.
func (a *Accounts) ring(ctx context.Context) ([]signingKey, error) {
	now := a.now()
	a.keys.mu.Lock()
	defer a.keys.mu.Unlock()
	if len(a.keys.keys) > 0 && now.Sub(a.keys.read) < keyFresh && !now.Before(a.keys.read) {
		return a.keys.keys, nil
	}
	keys, err := readKeys(ctx, a.db)
	if err != nil {
		return nil, err
	}
	if plan := planKeys(keys, now, a.keyAge); plan.due() {
		if keys, err = a.rotate(ctx, now); err != nil {
			return nil, err
		}
	}
	a.keys.keys, a.keys.read = keys, now
	return keys, nil
}

// keyPlan is what must be done about the keys.
type keyPlan struct {
	add    bool
	active time.Time // when the new one takes over
	remove []string
}

func (p keyPlan) due() bool { return p.add || len(p.remove) > 0 }

// planKeys decides about the keys, which are sorted by when they become active. A
// key signs for age; the next one is made, and published, keyLead before that. An
// old one goes when the last token that it signed has expired.
func planKeys(keys []signingKey, now time.Time, age time.Duration) keyPlan {
	if len(keys) == 0 {
		// Nobody can have seen a key before, so the first one need not wait.
		return keyPlan{add: true, active: now}
	}
	var p keyPlan
	newest := keys[len(keys)-1]
	if handover := newest.active.Add(age); !now.Before(handover.Add(-keyLead)) {
		p.add, p.active = true, handover
		if earliest := now.Add(keyLead); p.active.Before(earliest) {
			// Nobody was there in time: published first, all the same.
			p.active = earliest
		}
	}
	for i, k := range keys[:len(keys)-1] {
		if now.After(keys[i+1].active.Add(AccessLifetime + keyTail)) {
			p.remove = append(p.remove, k.kid)
		}
	}
	return p
}

// rotate carries out the plan, unless another instance has done it meanwhile.
func (a *Accounts) rotate(ctx context.Context, now time.Time) ([]signingKey, error) {
	var keys []signingKey
	err := a.write(ctx, func(tx *sql.Tx) error {
		var err error
		if keys, err = readKeys(ctx, tx); err != nil {
			return err
		}
		plan := planKeys(keys, now, a.keyAge)
		if plan.add {
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return fmt.Errorf("make key: %w", err)
			}
			sum := sha256.Sum256(public)
			if _, err := tx.ExecContext(ctx, `INSERT INTO signing_keys (kid, seed, active) VALUES (?, ?, ?)`,
				base64.RawURLEncoding.EncodeToString(sum[:12]), private.Seed(), plan.active.UnixMilli()); err != nil {
				return fmt.Errorf("store key: %w", err)
			}
		}
		for _, kid := range plan.remove {
			if _, err := tx.ExecContext(ctx, `DELETE FROM signing_keys WHERE kid = ?`, kid); err != nil {
				return fmt.Errorf("remove key: %w", err)
			}
		}
		keys, err = readKeys(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rotate keys: %w", err)
	}
	return keys, nil
}

func readKeys(ctx context.Context, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
},
) ([]signingKey, error) {
	rows, err := db.QueryContext(ctx, `SELECT kid, seed, active FROM signing_keys ORDER BY active, kid`)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer rows.Close()
	var keys []signingKey
	for rows.Next() {
		var k signingKey
		var seed []byte
		var active int64
		if err := rows.Scan(&k.kid, &seed, &active); err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		if len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("read key %s: it is damaged", k.kid)
		}
		k.private, k.active = ed25519.NewKeyFromSeed(seed), time.UnixMilli(active)
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// KeySet returns the public keys that access tokens may be signed with, as a JSON
// Web Key Set.
func (a *Accounts) KeySet(ctx context.Context) (json.RawMessage, error) {
	keys, err := a.ring(ctx)
	if err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: k.private.Public(), KeyID: k.kid, Algorithm: string(jose.EdDSA), Use: "sig",
		})
	}
	b, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode keys: %w", err)
	}
	return b, nil
}

// claims are those of an access token (RFC 9068).
type claims struct {
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	Subject  string   `json:"sub"`
	Roles    []string `json:"roles"`
	ID       string   `json:"jti"`
	Issued   int64    `json:"iat"`
	Expires  int64    `json:"exp"`
}

// sign returns an access token.
func (a *Accounts) sign(ctx context.Context, user User) (string, error) {
	keys, err := a.ring(ctx)
	if err != nil {
		return "", err
	}
	now := a.now()
	key := keys[0]
	for _, k := range keys[1:] {
		if !k.active.After(now) {
			key = k
		}
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.EdDSA, Key: key.private},
		(&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", key.kid),
	)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	id, err := randomToken()
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims{
		Issuer: Issuer, Audience: Issuer, Subject: user.Name, Roles: Granted(user.Role), ID: id,
		Issued: now.Unix(), Expires: now.Add(AccessLifetime).Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}
