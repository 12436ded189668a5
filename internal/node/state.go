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
//	maintenance           what `maintenance` decided, by route
//	ban.<network>         who is kept out of the door, see banKey
//	user.<name>           a user of the bus that was added by hand
//	next.<service>        the highest number of an instance that may have been given
//
// Every put is synced before it returns. While the bus's store takes no writes, a
// write fails with the cause, in some seconds; reading goes on.
type state struct {
	kv jetstream.KeyValue
	// health tells why the bus's store takes no writes; nil: it is not known.
	health func() error

	numbering sync.Mutex // guards numbers; one number is given at a time
	numbers   map[string]*numbers

	listing sync.Mutex // guards listed
	// listed are the numbers of the revisions, the highest first, which nobody else
	// writes; nil until they are asked for, and after a write that failed.
	listed []int
}

// numbers are those of the instances of one service.
type numbers struct {
	given    int // the last that was given
	reserved int // the last that is written down as given
}

const (
	stateBucket = "fairlead"

	// writeBound is how long a write may take.
	writeBound = 5 * time.Second
	// mendBound is how long a write waits for the store to take writes again. The
	// bus mends a store that failed for a moment in less.
	mendBound = 2 * time.Second
	// healthGlance is how often it is looked whether the store failed meanwhile:
	// the bus answers nothing then.
	healthGlance = 20 * time.Millisecond

	// numberBlock is how many numbers of instances one write reserves, and
	// numberFloor how many may be left before more are: as many instances can
	// begin anew while the disk is full.
	numberBlock = 64
	numberFloor = 32
)

// record is what is kept of a revision beside its folder.
type record struct {
	Number      int               `json:"number"`
	Applied     time.Time         `json:"applied"`
	Environment string            `json:"environment,omitempty"`
	From        int               `json:"from,omitempty"`
	Changes     int               `json:"changes"`
	Builds      map[string]string `json:"builds"` // service -> hash of what its build left
}

func openState(ctx context.Context, nc *nats.Conn, k keeping) (*state, error) {
	kv, err := openBucket(ctx, nc, k, stateBucket, "fairlead's own state")
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return &state{kv: kv, numbers: make(map[string]*numbers)}, nil
}

// keeping says how buckets are kept.
type keeping struct {
	system    string // whose they are
	elsewhere bool   // on a server that may have those of other systems
	replicas  int    // servers that keep them, at least
}

// bucketBytes bounds a bucket elsewhere: accounts may demand a bound. It is never
// reached: a key has one value.
const bucketBytes = 64 << 20

// systemKey names the system in the metadata of a bucket's stream.
const systemKey = "fairlead.system"

// openBucket opens a key-value bucket, and makes it if it is not there. Elsewhere, it
// is refused if it is another system's.
func openBucket(ctx context.Context, nc *nats.Conn, k keeping, name, description string) (jetstream.KeyValue, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	// The stream of a key-value bucket, but for AllowDirect: a direct get reads
	// the server's options without their lock (nats-server 2.15, stream.go), and
	// issuing credentials replaces them.
	config := jetstream.StreamConfig{
		Name: "KV_" + name, Description: description, Subjects: []string{"$KV." + name + ".>"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, Storage: jetstream.FileStorage,
		Replicas: max(k.replicas, 1), MaxBytes: -1, Metadata: map[string]string{systemKey: k.system},
	}
	if k.elsewhere {
		config.MaxBytes = bucketBytes
	}
	stream, err := js.Stream(ctx, config.Name)
	switch {
	case err == nil:
		was := stream.CachedInfo().Config
		if owner := was.Metadata[systemKey]; k.elsewhere && owner != "" && owner != k.system {
			return nil, fmt.Errorf("the account elsewhere keeps the state of system %s; give system %s an account of its own", owner, k.system)
		}
		config.Replicas = max(config.Replicas, was.Replicas) // of whoever runs that server
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, err
	}
	if _, err := js.CreateOrUpdateStream(ctx, config); err != nil {
		return nil, err
	}
	return js.KeyValue(ctx, name)
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
	err = s.write(ctx, func(ctx context.Context) error {
		_, err := s.kv.Put(ctx, key, b)
		return err
	})
	if err != nil {
		return fmt.Errorf("write state %s: %w", key, err)
	}
	return nil
}

func (s *state) remove(ctx context.Context, key string) error {
	err := s.write(ctx, func(ctx context.Context) error { return s.kv.Purge(ctx, key) })
	if err != nil {
		return fmt.Errorf("remove state %s: %w", key, err)
	}
	return nil
}

// write makes a write that may be repeated, again if the store failed in between.
func (s *state) write(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	for {
		if err := s.awaitHealth(ctx); err != nil {
			return err
		}
		failed, err := s.attempt(ctx, do)
		switch {
		case err == nil:
			return nil
		case failed || s.unhealthy() != nil:
			// Whether it was stored is not known.
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("the bus does not answer: %w", err)
		default:
			return err
		}
	}
}

// attempt makes a write and gives it up when the store fails: nobody would answer.
func (s *state) attempt(ctx context.Context, do func(context.Context) error) (failed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan bool)
	go func() {
		ticker := time.NewTicker(healthGlance)
		defer ticker.Stop()
		failed := false
		for {
			select {
			case <-ctx.Done():
				watched <- failed
				return
			case <-ticker.C:
				if s.unhealthy() != nil {
					failed = true
					cancel()
				}
			}
		}
	}()
	err = do(ctx)
	cancel()
	return <-watched, err
}

// awaitHealth returns when the store takes writes, or, if that takes too long, why
// it does not.
func (s *state) awaitHealth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mendBound)
	defer cancel()
	ticker := time.NewTicker(healthGlance)
	defer ticker.Stop()
	for {
		err := s.unhealthy()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

func (s *state) unhealthy() error {
	if s.health == nil {
		return nil
	}
	return s.health()
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
	err := s.put(ctx, "revision."+strconv.Itoa(r.Number), r)
	s.list(err, func(all []int) []int {
		if slices.Contains(all, r.Number) {
			return all
		}
		all = append(all, r.Number)
		slices.SortFunc(all, func(a, b int) int { return b - a })
		return all
	})
	if err != nil {
		return err
	}
	return s.put(ctx, "current", r.Number)
}

// forget removes the record of a revision.
func (s *state) forget(ctx context.Context, number int) error {
	err := s.remove(ctx, "revision."+strconv.Itoa(number))
	s.list(err, func(all []int) []int {
		return slices.DeleteFunc(all, func(n int) bool { return n == number })
	})
	return err
}

// list notes what a write changed of the numbers of the revisions, if they are known.
func (s *state) list(failed error, change func([]int) []int) {
	s.listing.Lock()
	defer s.listing.Unlock()
	switch {
	case failed != nil:
		s.listed = nil
	case s.listed != nil:
		s.listed = change(s.listed)
	}
}

// revisionNumbers returns those of all revisions that are kept, the highest first.
func (s *state) revisionNumbers(ctx context.Context) ([]int, error) {
	s.listing.Lock()
	defer s.listing.Unlock()
	if s.listed == nil {
		all, err := s.revisions(ctx)
		if err != nil {
			return nil, err
		}
		s.listed = make([]int, len(all))
		for i, r := range all {
			s.listed[i] = r.Number
		}
	}
	return slices.Clone(s.listed), nil
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

// nextInstance returns an id that was never given before. Numbers are written down
// before they are given, many at once, so that an instance that ended can begin
// anew although the disk is full.
func (s *state) nextInstance(ctx context.Context, service string) (string, error) {
	s.numbering.Lock()
	defer s.numbering.Unlock()
	n := s.numbers[service]
	if n == nil {
		var last int
		if _, err := s.get(ctx, nextKey(service), &last); err != nil {
			return "", err
		}
		n = &numbers{given: last, reserved: last}
		s.numbers[service] = n
	}
	left := n.reserved - n.given
	if left == 0 || left < numberFloor && s.unhealthy() == nil {
		err := s.put(ctx, nextKey(service), n.given+numberBlock)
		if err == nil {
			n.reserved = n.given + numberBlock
		} else if left == 0 {
			return "", err
		}
	}
	n.given++
	return service + "-" + strconv.Itoa(n.given), nil
}

// releaseNumbers gives back the numbers that are reserved and were not given, so
// that those of the next run follow. It is called when no instance begins any
// more. What cannot be given back is lost, as after a kill: ids then jump.
func (s *state) releaseNumbers(ctx context.Context) {
	s.numbering.Lock()
	defer s.numbering.Unlock()
	for service, n := range s.numbers {
		if n.given == n.reserved || s.unhealthy() != nil {
			continue
		}
		// Whether it was stored or not: no number is given that could have been
		// given, because the next one is read from what is stored.
		_ = s.put(ctx, nextKey(service), n.given)
	}
	clear(s.numbers)
}

func nextKey(service string) string { return "next." + service }
