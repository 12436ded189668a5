package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/wire"
)

// storeHealth is whether the store takes writes. The server tells of a failure in
// its log only, see [Bus.storeFailed].
type storeHealth struct {
	mu       sync.Mutex // guards all below
	err      error      // why it does not; nil: it does
	failures uint64     // counts the failures that the server told
}

const (
	// firstMend and lastMend bound the pause between two attempts to open the
	// store again, which doubles. It begins anew after calmMend without failure.
	firstMend = 100 * time.Millisecond
	lastMend  = 2 * time.Second
	calmMend  = time.Minute
	// probeBytes is how much must fit on the disk before the store is opened again.
	probeBytes = 64 << 10
)

// Healthy returns nil if the store takes writes, else why it does not: the disk is
// full, or what the system said. While it does not, publishing to a stream is
// refused; reading, and all that is not stored, go on. The bus opens
// the store again by itself once the disk takes writes (docs/decisions/0016), and
// then Healthy returns nil again. If the store is elsewhere, it says whether that can
// be reached. It does no I/O.
func (b *Bus) Healthy() error {
	if b.link != nil {
		return b.linked()
	}
	b.health.mu.Lock()
	defer b.health.mu.Unlock()
	return b.health.err
}

// Lines of the server's log that tell that a store takes no writes any more.
const (
	writeErrorLine = "critical write error: "
	disablingLine  = "disabling JetStream"
)

// storeFailed is called for each line of the server's log that tells of a problem,
// with locks of the server held.
func (b *Bus) storeFailed(line string) {
	_, cause, ok := strings.Cut(line, writeErrorLine)
	if !ok && !strings.Contains(line, disablingLine) {
		return
	}
	b.breakStore(fmt.Errorf("the store in %s takes no writes (%s)", b.base.StoreDir, cmp.Or(cause, line)))
}

// breakStore lets nothing be stored until the store is mended.
func (b *Bus) breakStore(err error) {
	b.health.mu.Lock()
	b.health.failures++
	if b.health.err == nil {
		b.health.err = err
	}
	b.health.mu.Unlock()
	select {
	case b.broken <- struct{}{}:
	default: // it is being mended
	}
}

// mendStore opens the store again whenever a write has failed, until ctx ends.
func (b *Bus) mendStore(ctx context.Context) {
	var mended time.Time
	pause := firstMend
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.broken:
		}
		if time.Since(mended) > calmMend {
			pause = firstMend
		}
		said := ""
		for {
			err := b.reopenStore() //nolint:contextcheck // it is not broken off halfway
			if err == nil {
				break
			}
			if text := err.Error(); text != said {
				said = text
				b.log.ErrorContext(ctx, "bus store takes no writes", slog.String(wire.KeyError, text))
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, lastMend)
		}
		mended = time.Now()
		b.log.InfoContext(ctx, "bus store takes writes again")
		// A store that fails again at once is not opened again at once.
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastMend)
	}
}

// reopenStore closes the streams and opens them anew, if the disk takes writes. A
// stream that failed to write once refuses every later write, also when the disk
// is writable again; only one that was read from the disk anew takes them. What
// was acknowledged is there, because it is synced. Connections and subscriptions
// are not touched.
//
// It is never done on a full disk: a stream that cannot be recovered would be
// missing, where it could be read before.
func (b *Bus) reopenStore() error {
	b.reload.Lock() // a reload looks after the streams too
	defer b.reload.Unlock()
	err := probe(b.base.StoreDir)
	if err == nil {
		err = b.reopenStreams()
	}
	b.health.mu.Lock()
	defer b.health.mu.Unlock()
	b.health.err = err
	return err
}

// reopenStreams is the second half of reopenStore. b.reload is held.
func (b *Bus) reopenStreams() error {
	server := b.server.Load()
	if server == nil {
		return ErrSuspended
	}
	if !server.JetStreamEnabled() {
		// The server itself gave up on the store, which it does when it may not
		// write; a reload opens it, though nothing else changed.
		b.known = nil
		if err := b.reloadServer(); err != nil {
			return err
		}
	}
	account := server.GlobalAccount()
	// Fails only if the account has no streams open.
	_ = account.DisableJetStream()
	before := b.failures() // those of the closed streams do not matter
	if err := account.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("open the store in %s: %w", b.base.StoreDir, err)
	}
	stored, err := filepath.Glob(filepath.Join(server.StoreDir(), account.Name, "streams", "*", "meta.inf"))
	if err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	if n := account.JetStreamUsage().Streams; n < len(stored) {
		return fmt.Errorf("open the store in %s: %d of %d streams cannot be read", b.base.StoreDir, len(stored)-n, len(stored))
	}
	if err := b.tidy(context.Background(), server); err != nil { // nothing is stored while the bus is not healthy
		return err
	}
	if b.failures() != before {
		return fmt.Errorf("the store in %s failed to write again", b.base.StoreDir)
	}
	return nil
}

func (b *Bus) failures() uint64 {
	b.health.mu.Lock()
	defer b.health.mu.Unlock()
	return b.health.failures
}

// probe returns why a file cannot be written in dir, nil if it can.
func probe(dir string) error {
	err := writeProbe(dir)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("the disk of %s is full (%w)", dir, unix.ENOSPC)
	case errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("the quota of %s is used up (%w)", dir, unix.EDQUOT)
	default:
		return fmt.Errorf("the store in %s takes no writes: %w", dir, err)
	}
}

func writeProbe(dir string) (err error) {
	f, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(make([]byte, probeBytes)); err != nil {
		return err
	}
	return f.Sync()
}
