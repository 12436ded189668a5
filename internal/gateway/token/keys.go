package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"fairlead/internal/wire"
)

const (
	keysFresh   = time.Minute     // older keys are fetched again in the background
	keysStale   = time.Hour       // keys whose source has been away for longer are not used any more
	keysPause   = time.Second     // least time between two fetches
	keysTimeout = 3 * time.Second // of one fetch, and the longest a request waits for it
	keysBytes   = 256 << 10       // largest key set
	keysMost    = 64              // most keys of a set
	rsaLeast    = 2048            // bits; shorter RSA keys are not used
)

// errNoKeys means that no token can be checked at present because the key set
// has never been had, or not for too long.
var errNoKeys = errors.New("no keys to verify tokens with")

// publicKey is one usable key of a set.
type publicKey struct {
	id        string // "" for none
	algorithm string // the only one it may be used for, "" for any that fits
	key       crypto.PublicKey
}

// fits reports whether the key may verify signatures of that algorithm.
func (k publicKey) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	case *ecdsa.PublicKey:
		return algorithm == ecdsaAlgorithms[key.Curve.Params().Name]
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	}
	return false
}

// RFC 7518, 3.4 ties each algorithm to one curve.
var ecdsaAlgorithms = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

// keys is the key set of one source. It is fetched when it is first needed, again
// in the background once it is a minute old, and at once when a token names a key
// that is not in it, but never more than once a second. While the source is
// away the last set stays in use for an hour. It keeps no goroutine of its own.
type keys struct {
	source string // "bus:<subject>" or "file:<path>"
	ask    func(ctx context.Context, subject string) ([]byte, error)
	logger *slog.Logger
	now    func() time.Time
	flight singleflight.Group

	mu      sync.Mutex // guards what follows
	set     []publicKey
	version uint64    // counts the sets that differed from the one before
	fetched time.Time // of the last success
	tried   time.Time // of the last attempt
	failure string    // of the last attempt, "" after a success
}

// current returns the set and its version, fetching it if there is none yet. An
// old set is returned as it is while a new one is fetched.
func (k *keys) current(ctx context.Context) ([]publicKey, uint64, error) {
	k.mu.Lock()
	now := k.now()
	age := now.Sub(k.fetched)
	have := k.version > 0 && age <= keysStale
	set, version := k.set, k.version
	due := now.Sub(k.tried) >= keysPause
	k.mu.Unlock()
	switch {
	case have && age > keysFresh && due:
		k.flight.DoChan("", k.fetch)
		return set, version, nil
	case have:
		return set, version, nil
	}
	return k.refresh(ctx)
}

// refresh fetches the set, or joins a fetch under way, unless one has just been
// tried, and returns what is known then.
func (k *keys) refresh(ctx context.Context) ([]publicKey, uint64, error) {
	select {
	case <-k.flight.DoChan("", k.fetch):
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.version == 0 || k.now().Sub(k.fetched) > keysStale {
		return nil, 0, errNoKeys
	}
	return k.set, k.version, nil
}

// fetch is the body of the single flight. It belongs to no request, so that a
// client that goes away does not fail the others.
func (k *keys) fetch() (any, error) {
	k.mu.Lock()
	now := k.now()
	if !k.tried.IsZero() && now.Sub(k.tried) < keysPause {
		k.mu.Unlock()
		return nil, nil
	}
	k.tried = now
	k.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
	defer cancel()
	set, err := k.load(ctx)

	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		if text := err.Error(); text != k.failure {
			k.failure = text
			k.logger.Warn("fetch token keys, the last ones stay in use", "keys_from", k.source, wire.KeyError, text)
		}
		return nil, nil
	}
	recovered := k.failure != ""
	k.failure, k.fetched = "", k.now()
	if k.version == 0 || !sameKeys(k.set, set) {
		k.set = set
		k.version++
		k.logger.Info("token keys changed", "keys_from", k.source, "keys", len(set))
	} else if recovered {
		k.logger.Info("token keys can be fetched again", "keys_from", k.source)
	}
	return nil, nil
}

func (k *keys) load(ctx context.Context) ([]publicKey, error) {
	kind, where, _ := strings.Cut(k.source, ":")
	var b []byte
	var err error
	switch kind {
	case "bus":
		if k.ask == nil {
			return nil, errors.New("fetch keys: there is no bus")
		}
		b, err = k.ask(ctx, where)
	case "file":
		b, err = readBounded(where, keysBytes)
	default:
		return nil, fmt.Errorf("fetch keys: source %q must start with bus: or file: and a name", k.source)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	return parseKeys(b)
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: is no file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: must be at most %d bytes", path, limit)
	}
	return b, nil
}

// parseKeys reads a JWK Set (RFC 7517) and keeps the public keys that verify
// signatures. Keys for another use, private and symmetric keys, unknown kinds and
// short RSA keys are left out; of two keys with one id the first counts. A set
// without any usable key is an error, so that a source gone wrong does not lock
// everybody out.
func parseKeys(b []byte) ([]publicKey, error) {
	if len(b) > keysBytes {
		return nil, fmt.Errorf("read keys: must be at most %d bytes, are %d", keysBytes, len(b))
	}
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(doc.Keys) > keysMost {
		return nil, fmt.Errorf("read keys: must be at most %d, are %d", keysMost, len(doc.Keys))
	}
	var set []publicKey
	for _, raw := range doc.Keys {
		key, ok := parseKey(raw)
		if !ok || key.id != "" && slices.ContainsFunc(set, func(have publicKey) bool { return have.id == key.id }) {
			continue
		}
		set = append(set, key)
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("read keys: none of %d verifies signatures", len(doc.Keys))
	}
	return set, nil
}

func parseKey(raw []byte) (publicKey, bool) {
	var operations struct {
		KeyOps []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &operations); err != nil {
		return publicKey{}, false
	}
	if operations.KeyOps != nil && !slices.Contains(operations.KeyOps, "verify") {
		return publicKey{}, false
	}
	var k jose.JSONWebKey
	if err := json.Unmarshal(raw, &k); err != nil || !k.Valid() || !k.IsPublic() {
		return publicKey{}, false
	}
	if k.Use != "" && k.Use != "sig" {
		return publicKey{}, false
	}
	key, ok := k.Key.(crypto.PublicKey)
	if !ok {
		return publicKey{}, false
	}
	if r, isRSA := key.(*rsa.PublicKey); isRSA && r.N.BitLen() < rsaLeast {
		return publicKey{}, false
	}
	return publicKey{id: k.KeyID, algorithm: k.Algorithm, key: key}, true
}

func sameKeys(a, b []publicKey) bool {
	return slices.EqualFunc(a, b, func(x, y publicKey) bool {
		key, ok := x.key.(interface{ Equal(crypto.PublicKey) bool })
		return ok && x.id == y.id && x.algorithm == y.algorithm && key.Equal(y.key)
	})
}
