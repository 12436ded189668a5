package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/control"
)

// state is what the node remembers on the bus, in one key-value bucket:
//
//	current               number of the revision that runs
//	revision.<n>          its record
//	override.<service>    what `stop` decided
//	next.<service>        number of the next instance
//
// Every put is synced before it returns.
type state struct {
	kv jetstream.KeyValue

	numbering sync.Mutex // one number is given at a time
}

const stateBucket = "fairlead"

// record is what is kept of a revision beside its folder.
type record struct {
	Number      int               `json:"number"`
	Applied     time.Time         `json:"applied"`
	Environment string            `json:"environment,omitempty"`
	From        int               `json:"from,omitempty"`
	Changes     int               `json:"changes"`
	Builds      map[string]string `json:"builds"` // service -> hash of what its build left
}

func openState(ctx context.Context, nc *nats.Conn) (*state, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	// The stream of a key-value bucket, but for AllowDirect: a direct get reads
	// the server's options without their lock (nats-server 2.15, stream.go), and
	// issuing credentials replaces them.
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + stateBucket, Description: "fairlead's own state", Subjects: []string{"$KV." + stateBucket + ".>"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	kv, err := js.KeyValue(ctx, stateBucket)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return &state{kv: kv}, nil
}

func (s *state) get(ctx context.Context, key string, into any) (bool, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read state %s: %w", key, err)
	}
	if err := json.Unmarshal(e.Value(), into); err != nil {
		return false, fmt.Errorf("read state %s: %w", key, err)
	}
	return true, nil
}

func (s *state) put(ctx context.Context, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write state %s: %w", key, err)
	}
	if _, err := s.kv.Put(ctx, key, b); err != nil {
		return fmt.Errorf("write state %s: %w", key, err)
	}
	return nil
}

func (s *state) remove(ctx context.Context, key string) error {
	if err := s.kv.Purge(ctx, key); err != nil {
		return fmt.Errorf("remove state %s: %w", key, err)
	}
	return nil
}

// current returns the number of the revision that runs, or ran last; 0: none did.
func (s *state) current(ctx context.Context) (int, error) {
	var n int
	_, err := s.get(ctx, "current", &n)
	return n, err
}

// apply records that r is the revision that runs. The record is there before
// "current" points to it.
func (s *state) apply(ctx context.Context, r record) error {
	if err := s.put(ctx, "revision."+strconv.Itoa(r.Number), r); err != nil {
		return err
	}
	return s.put(ctx, "current", r.Number)
}

// revisions returns all that are kept, the newest first.
func (s *state) revisions(ctx context.Context) ([]record, error) {
	keys, err := s.kv.ListKeysFiltered(ctx, "revision.*")
	if err != nil {
		return nil, fmt.Errorf("list revisions: %w", err)
	}
	var all []record
	for key := range keys.Keys() {
		var r record
		if ok, err := s.get(ctx, key, &r); err != nil {
			return nil, err
		} else if ok {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b record) int { return b.Number - a.Number })
	return all, nil
}

func (s *state) revision(ctx context.Context, n int) (record, bool, error) {
	var r record
	ok, err := s.get(ctx, "revision."+strconv.Itoa(n), &r)
	return r, ok, err
}

// overrides returns what the operator decided against the file, by service.
func (s *state) overrides(ctx context.Context) (map[string]control.Override, error) {
	keys, err := s.kv.ListKeysFiltered(ctx, "override.*")
	if err != nil {
		return nil, fmt.Errorf("list overrides: %w", err)
	}
	all := map[string]control.Override{}
	for key := range keys.Keys() {
		var o control.Override
		if ok, err := s.get(ctx, key, &o); err != nil {
			return nil, err
		} else if ok {
			all[strings.TrimPrefix(key, "override.")] = o
		}
	}
	return all, nil
}

// nextInstance returns an id that was never given before.
func (s *state) nextInstance(ctx context.Context, service string) (string, error) {
	s.numbering.Lock()
	defer s.numbering.Unlock()
	key := "next." + service
	var n int
	if _, err := s.get(ctx, key, &n); err != nil {
		return "", err
	}
	n++
	if err := s.put(ctx, key, n); err != nil {
		return "", err
	}
	return service + "-" + strconv.Itoa(n), nil
}
