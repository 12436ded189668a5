package certs

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// KeyValue is what is needed of a JetStream bucket; a [jetstream.KeyValue] is one.
type KeyValue interface {
	Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error)
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Purge(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error
	ListKeysFiltered(ctx context.Context, filters ...string) (jetstream.KeyLister, error)
}

// Bucket keeps values in a JetStream bucket, so that all nodes of a bus share them.
// Values are encrypted (AES-256-GCM, bound to their keys) with a key that every node
// has in a file: whoever reads the bus, its store or a copy of it has no certificate's
// key yet. What is there (names of hosts) is readable.
//
// A lock is a key of the bucket that its holder writes again and again. Who waits
// takes it over after it has seen no write for a lease, by its own clock: the clocks
// of the nodes do not matter.
type Bucket struct {
	kv    KeyValue
	seal  cipher.AEAD
	file  string // of the key
	lease time.Duration
}

var _ Storage = (*Bucket)(nil)

const (
	lockLease = 30 * time.Second

	// bucketBound is how long one request to the bus may take.
	bucketBound = 5 * time.Second

	valuePrefix = "value."
	lockPrefix  = "lock."

	// sealed is the first byte of a value: how it is encrypted.
	sealed = 1

	bucketKeySize = 32
)

// OpenBucket uses a bucket with the key in a file of 32 bytes, which is made if it is
// not there. Nodes that share a bucket need the same file.
func OpenBucket(kv KeyValue, keyFile string) (*Bucket, error) {
	key, err := os.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, bucketKeySize)
		_, _ = rand.Read(key) // never fails
		err = writeFile(keyFile, key)
	}
	if err != nil {
		return nil, fmt.Errorf("open key of certificates: %w", err)
	}
	if len(key) != bucketKeySize {
		return nil, fmt.Errorf("open key of certificates: %s has %d bytes instead of %d", keyFile, len(key), bucketKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("open key of certificates: %w", err)
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("open key of certificates: %w", err)
	}
	return &Bucket{kv: kv, seal: seal, file: keyFile, lease: lockLease}, nil
}

// Load returns a value and when it was stored; [fs.ErrNotExist] if there is none.
func (b *Bucket) Load(ctx context.Context, key string) ([]byte, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketBound)
	defer cancel()
	e, err := b.kv.Get(ctx, valuePrefix+escape(key))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, time.Time{}, fmt.Errorf("load %s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("load %s: %w", key, err)
	}
	value, err := b.open(key, e.Value())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("load %s: %w", key, err)
	}
	return value, e.Created(), nil
}

func (b *Bucket) open(key string, stored []byte) ([]byte, error) {
	if len(stored) == 0 || stored[0] != sealed {
		return nil, errors.New("is not encrypted as this version does it")
	}
	value, err := b.seal.Open(nil, nil, stored[1:], []byte(key))
	if err != nil {
		return nil, fmt.Errorf("was stored with another key than that in %s: nodes that share certificates need the same file", b.file)
	}
	return value, nil
}

// Store sets a value. Its key must not be empty.
func (b *Bucket) Store(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, bucketBound)
	defer cancel()
	stored := b.seal.Seal([]byte{sealed}, nil, value, []byte(key)) //nolint:gosec // this AEAD makes its nonces itself
	_, err := b.kv.Put(ctx, valuePrefix+escape(key), stored)
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Delete removes a value; there need not be one.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, bucketBound)
	defer cancel()
	err := b.kv.Purge(ctx, valuePrefix+escape(key))
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// Keys returns all keys that have a value.
func (b *Bucket) Keys(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketBound)
	defer cancel()
	lister, err := b.kv.ListKeysFiltered(ctx, valuePrefix+">")
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	var keys []string
	for escaped := range lister.Keys() {
		if key, err := unescape(strings.TrimPrefix(escaped, valuePrefix)); err == nil {
			keys = append(keys, key)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	return keys, nil
}

// Lock waits until nobody else holds the lock, at most a lease longer if its holder
// has died.
func (b *Bucket) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	key := lockPrefix + escape(name)
	tick := time.NewTicker(b.lease / 60)
	defer tick.Stop()
	var seen uint64 // the revision of the lock as its holder wrote it last
	var since time.Time
	for {
		revision, err := b.acquire(ctx, key, seen, !since.IsZero() && time.Since(since) >= b.lease)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if revision.ours {
			return b.hold(key, revision.number), nil //nolint:contextcheck // a lock outlasts the wait for it
		}
		if since.IsZero() || revision.number != seen {
			seen, since = revision.number, time.Now()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// revision is of a lock, written by us or by somebody else.
type revision struct {
	number uint64
	ours   bool
}

// acquire takes a lock if it is free, or if its holder is dead and wrote it last as
// the revision seen. Else it returns what the holder wrote.
func (b *Bucket) acquire(ctx context.Context, key string, seen uint64, dead bool) (revision, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketBound)
	defer cancel()
	if dead {
		n, err := b.kv.Update(ctx, key, nil, seen)
		if err == nil {
			return revision{n, true}, nil
		}
		if !isLost(err) {
			return revision{}, err
		}
	}
	n, err := b.kv.Create(ctx, key, nil)
	if err == nil {
		return revision{n, true}, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return revision{}, err
	}
	e, err := b.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return revision{}, nil // released just now
	}
	if err != nil {
		return revision{}, err
	}
	return revision{e.Revision(), false}, nil
}

// hold writes the lock again and again until it is released, or was taken over: its
// holder has not run, or not reached the bus, for a lease.
func (b *Bucket) hold(key string, number uint64) (unlock func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	writing.Go(func() {
		tick := time.NewTicker(b.lease / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			bounded, cancel := context.WithTimeout(ctx, bucketBound)
			n, err := b.kv.Update(bounded, key, nil, number)
			cancel()
			if isLost(err) {
				return
			}
			if err == nil {
				number = n
			}
		}
	})
	return func() error {
		cancel()
		writing.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), bucketBound)
		defer cancel()
		err := b.kv.Purge(ctx, key, jetstream.LastRevision(number))
		if isLost(err) {
			return nil
		}
		return err
	}
}

// isLost says whether a write was refused because somebody else has written: one
// code is that of a stream on one node, the other of a replicated one.
func isLost(err error) bool {
	const replicated = 10164
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == replicated)
}
