package certs

import (
	"context"
	"time"
)

// Storage keeps what an authority gave: certificates with their keys, accounts, and
// the proofs that go on. Nodes that share one share their certificates. Keys are
// path-like, such as "certificates/ca/example.com/example.com.key". It is safe for
// concurrent use.
type Storage interface {
	// Load returns a value and when it was stored; fs.ErrNotExist if there is none.
	Load(ctx context.Context, key string) (value []byte, stored time.Time, err error)
	// Store sets a value. When it returns, every Load finds it.
	Store(ctx context.Context, key string, value []byte) error
	// Delete removes a value; there need not be one.
	Delete(ctx context.Context, key string) error
	// Keys returns all keys that have a value, in any order.
	Keys(ctx context.Context) ([]string, error)
	// Lock waits until nobody else holds the lock of this name, on any node. The lock
	// ends with unlock, or by itself some time after its holder has died.
	Lock(ctx context.Context, name string) (unlock func() error, err error)
}
