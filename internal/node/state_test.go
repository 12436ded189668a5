package node

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus"
)

var errDisk = errors.New("the disk of /x/.fairlead/bus is full (no space left on device)")

// disk is a bucket that answers no write while it is full, as the bus does.
type disk struct {
	jetstream.KeyValue

	mu     sync.Mutex // guards all below
	full   bool
	silent bool // it answers no write, for no known reason
	seen   error
	values map[string][]byte
	writes int
}

type entry struct {
	jetstream.KeyValueEntry

	value []byte
}

func (e entry) Value() []byte { return e.value }

func (d *disk) Get(_ context.Context, key string) (jetstream.KeyValueEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.values[key]
	if !ok {
		return nil, jetstream.ErrKeyNotFound
	}
	return entry{value: v}, nil
}

func (d *disk) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	d.mu.Lock()
	if d.full || d.silent {
		if d.full {
			d.seen = errDisk
		}
		d.mu.Unlock()
		<-ctx.Done()
		return 0, ctx.Err()
	}
	defer d.mu.Unlock()
	d.values[key] = value
	d.writes++
	return uint64(d.writes), nil
}

func (d *disk) Purge(ctx context.Context, key string, _ ...jetstream.KVDeleteOpt) error {
	_, err := d.Put(ctx, key, nil)
	return err
}

func (d *disk) health() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen
}

func (d *disk) fill() { d.set(true) }
func (d *disk) free() { d.set(false) }

func (d *disk) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
	if !full {
		d.seen = nil
	}
}

func newDisk() *disk { return &disk{values: make(map[string][]byte)} }

func (d *disk) open() *state {
	return &state{kv: d, health: d.health, numbers: make(map[string]*numbers)}
}

func TestWriteTellsThatTheDiskIsFull(t *testing.T) {
	tests := map[string]struct {
		write func(*state, context.Context) error
		want  string
	}{
		"put": {
			func(s *state, ctx context.Context) error { return s.put(ctx, "current", 2) },
			"write state current: " + errDisk.Error(),
		},
		"remove": {
			func(s *state, ctx context.Context) error { return s.remove(ctx, "override.web") },
			"remove state override.web: " + errDisk.Error(),
		},
		"first instance": {
			func(s *state, ctx context.Context) error { _, err := s.nextInstance(ctx, "web"); return err },
			"write state next.web: " + errDisk.Error(),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				s := d.open()
				d.fill()
				start := time.Now()
				err := tt.write(s, t.Context())
				if !errors.Is(err, errDisk) || err.Error() != tt.want {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("took %v", took)
				}
				d.free()
				if err := tt.write(s, t.Context()); err != nil {
					t.Errorf("on a disk with space: %v", err)
				}
			})
		})
	}
}

func TestWriteOutlastsAShortFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := d.open()
		d.fill()
		time.AfterFunc(time.Second, d.free)
		if err := s.put(t.Context(), "current", 2); err != nil {
			t.Error(err)
		}
		var n int
		if ok, err := s.get(t.Context(), "current", &n); !ok || err != nil || n != 2 {
			t.Errorf("read %d, %v, %v", n, ok, err)
		}
	})
}

func TestWriteWithoutAnswerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		d.silent = true
		start := time.Now()
		err := d.open().put(t.Context(), "current", 2)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != writeBound {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestInstancesBeginOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := d.open()
		given := make(map[string]bool)
		next := func() error {
			id, err := s.nextInstance(t.Context(), "web")
			if err == nil && given[id] {
				t.Errorf("%s was given twice", id)
			}
			given[id] = true
			return err
		}
		for range 100 {
			if err := next(); err != nil {
				t.Fatal(err)
			}
		}
		if d.writes > 4 {
			t.Errorf("%d writes for 100 numbers", d.writes)
		}
		d.fill()
		start, n := time.Now(), 0
		for next() == nil {
			n++
		}
		if n < numberFloor-1 {
			t.Errorf("%d instances began on the full disk", n)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		d.free()
		if err := next(); err != nil {
			t.Error(err)
		}
		s = d.open() // after a kill
		for range 100 {
			if err := next(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// openBus opens a bus of the test's own, and connects to it as the node does.
func openBus(t *testing.T) (*bus.Bus, *nats.Conn) {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Options{Dir: filepath.Join(t.TempDir(), "bus"), System: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	return b, nc
}

func TestInstanceNumbersOverRuns(t *testing.T) {
	ctx := t.Context()
	b, nc := openBus(t)
	run := func(first int) *state {
		t.Helper()
		s, err := openState(ctx, nc, keeping{})
		if err != nil {
			t.Fatal(err)
		}
		s.health = b.Healthy
		for i := range 3 {
			id, err := s.nextInstance(ctx, "web")
			if want := "web-" + strconv.Itoa(first+i); err != nil || id != want {
				t.Errorf("got %s, %v; want %s", id, err, want)
			}
		}
		return s
	}
	run(1).releaseNumbers(ctx)
	run(4)                   // ends by a kill
	s := run(4 - 1 + 64 + 1) // jumps over what was reserved
	s.releaseNumbers(ctx)
	if id, err := s.nextInstance(ctx, "web"); err != nil || id != "web-71" {
		t.Errorf("after the numbers were given back: %s, %v", id, err)
	}
}

func TestRevisionNumbersAreThoseOnRecord(t *testing.T) {
	ctx := t.Context()
	_, nc := openBus(t)
	s, err := openState(ctx, nc, keeping{})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	for _, step := range []struct {
		name string
		do   func() error
		want []int
	}{
		{"none yet", func() error { return nil }, []int{}},
		{"the first", func() error { return s.apply(ctx, record{Number: 1}) }, []int{1}},
		{"the tenth", func() error { return s.apply(ctx, record{Number: 10}) }, []int{10, 1}},
		{"one between", func() error { return s.apply(ctx, record{Number: 9}) }, []int{10, 9, 1}},
		{"one again", func() error { return s.apply(ctx, record{Number: 9}) }, []int{10, 9, 1}},
		{"one goes", func() error { return s.forget(ctx, 9) }, []int{10, 1}},
		{"one that was none", func() error { return s.forget(ctx, 5) }, []int{10, 1}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got, err := s.revisionNumbers(ctx); err != nil || !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, %v; want %v", step.name, got, err, step.want)
		}
	}
	if s.apply(gone, record{Number: 11}) == nil || s.listed != nil {
		t.Errorf("after a write of which nobody knows what became, %v is remembered", s.listed)
	}
	all, err := s.revisions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.revisionNumbers(ctx); err != nil || len(got) != len(all) || got[0] != all[0].Number {
		t.Errorf("read again: %v, %v; on record are %+v", got, err, all)
	}
}
