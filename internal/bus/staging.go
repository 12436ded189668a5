package bus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/wire"
)

const (
	// sharedMemory is where Linux has a file system in memory.
	sharedMemory = "/dev/shm"
	// stagingLeast is how much must be free there to begin, which is more than all
	// batches together may hold. With less than stagingLast it is left again.
	stagingLeast = 512 << 20
	stagingLast  = 64 << 20
	// stagingGlance is how often it is looked whether the folder is still there.
	stagingGlance = time.Second
	// batchesFolder is that of a stream in which the server stages batches.
	batchesFolder = "batches"
)

// staging is where the server stages the atomic batches (ADR-50) of queues before it
// stores them: a folder in memory instead of the disk, which it would sync five times
// for each (docs/decisions/0027). In the folder of each stream a symbolic link leads
// there, which the server removes when it has read the stream. Where the folder cannot
// be had, batches are staged on the disk. Its methods are safe for concurrent use;
// those of a nil staging do nothing.
type staging struct {
	log     *slog.Logger
	store   string                             // folder of the bus's store
	streams string                             // folder of the streams in it
	memory  string                             // where the folder is made
	free    func(memory string) (int64, error) // bytes

	mu     sync.Mutex // guards what follows
	dir    string     // the folder, "" while it is not in use
	linked []string   // streams
	begun  bool       // the server has read the store
	left   bool       // the folder could not be had once: it is not tried again
}

// newStaging makes the staging for a store; memory is "" but in tests.
func newStaging(store, memory string, log *slog.Logger) *staging {
	s := &staging{log: log, store: store, memory: memory, free: func(string) (int64, error) { return stagingLeast, nil }}
	if memory == "" {
		s.memory, s.free = sharedMemory, freeMemory
	}
	s.streams = filepath.Join(store, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams")
	return s
}

// freeMemory is how much is free in a file system, if that is in memory.
func freeMemory(path string) (int64, error) {
	var f unix.Statfs_t
	if err := unix.Statfs(path, &f); err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	if f.Type != unix.TMPFS_MAGIC {
		return 0, fmt.Errorf("%s is not in memory", path)
	}
	return int64(f.Bavail) * f.Bsize, nil
}

// folder is the path of the store's own folder in memory. Two containers may share the
// memory, and have their stores at the same path.
func (s *staging) folder() (string, error) {
	path, err := filepath.Abs(s.store)
	if err != nil {
		return "", err
	}
	var is unix.Stat_t
	if err := unix.Stat(path, &is); err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %s", is.Dev, is.Ino, path))
	return filepath.Join(s.memory, fmt.Sprintf("fairlead-%d-%x", os.Geteuid(), sum[:8])), nil
}

// ours returns nil if a folder in memory is ours alone, an [fs.ErrNotExist] if there is
// none: others may have made it.
func (s *staging) ours(dir string) error {
	around, err := os.Stat(s.memory)
	if err != nil {
		return err
	}
	if around.Mode()&0o022 != 0 && around.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("anybody may rename what is in %s", s.memory)
	}
	var is unix.Stat_t
	if err := unix.Lstat(dir, &is); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if is.Mode != unix.S_IFDIR|0o700 || int(is.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of ours alone", dir)
	}
	return nil
}

// trust removes the links that do not lead into a folder of ours. It is called before
// the server reads the store, and completes what is staged behind them.
func (s *staging) trust() error {
	if s == nil {
		return nil
	}
	dir, err := s.folder()
	if err != nil || s.ours(dir) != nil {
		dir = ""
	}
	return s.unlink(func(stream, to string) bool { return dir != "" && to == filepath.Join(dir, stream) })
}

// unlink removes the links that are not to be kept.
func (s *staging) unlink(keep func(stream, to string) bool) error {
	streams, _ := os.ReadDir(s.streams) // what cannot be read, the server does not read either, and says why
	for _, stream := range streams {
		path := filepath.Join(s.streams, stream.Name(), batchesFolder)
		to, err := os.Readlink(path)
		if err != nil || keep(stream.Name(), to) {
			continue // it is no link
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// begin removes what a process that was killed has left in memory, when the server has
// read the store. From then on, until end, the folder may be used.
func (s *staging) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	dir, err := s.folder()
	if err == nil && s.ours(dir) == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		s.log.Warn("staged batches of before stay in memory", slog.String(wire.KeyError, err.Error()))
	}
}

// use lets the batches of streams be staged in memory, as far as these are there.
func (s *staging) use(streams []string) {
	if s == nil || len(streams) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		s.linked = streams
		s.prepareLocked()
	}
}

// inMemory reports whether batches are staged in memory.
func (s *staging) inMemory() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir != ""
}

// tend makes what has vanished again: whoever cleans up in memory, as systemd does when
// a user logs out, takes the folder away, and the server makes none behind a link.
func (s *staging) tend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		s.prepareLocked()
	}
}

// prepareLocked makes the folder and the links. If that fails the disk is used.
func (s *staging) prepareLocked() {
	if s.left {
		return
	}
	err := s.makeLocked()
	for _, name := range s.linked {
		if err == nil {
			err = s.link(name)
		}
	}
	if err == nil {
		return
	}
	s.log.Info("batches are staged on the disk, which is slower", slog.String(wire.KeyReason, err.Error()))
	s.left = true
	s.endLocked()
}

func (s *staging) makeLocked() error {
	dir, err := s.folder()
	if err != nil {
		return err
	}
	least := int64(stagingLeast)
	if s.dir == dir {
		least = stagingLast
	}
	switch free, err := s.free(s.memory); {
	case err != nil:
		return err
	case free < least:
		return fmt.Errorf("%s has %d MiB free, %d are needed", s.memory, free>>20, least>>20)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.ours(dir); err != nil {
		return err
	}
	s.dir = dir
	return nil
}

// link links a stream. What is staged on the disk, the server goes on with there.
func (s *staging) link(stream string) error {
	path, to := filepath.Join(s.streams, stream, batchesFolder), filepath.Join(s.dir, stream)
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return nil //nolint:nilerr // there is no such stream yet
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		err = os.Symlink(to, path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// end removes the folder and the links, when the server has ended.
func (s *staging) end() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = false
	s.endLocked()
}

func (s *staging) endLocked() {
	if s.dir == "" {
		return
	}
	err := s.unlink(func(_, to string) bool { return filepath.Dir(to) != s.dir })
	if err := errors.Join(err, os.RemoveAll(s.dir)); err != nil {
		s.log.Warn("staged batches stay in memory", slog.String(wire.KeyError, err.Error()))
	}
	s.dir, s.linked = "", nil
}

// tendStaging looks after the folder in memory, until ctx ends.
func (b *Bus) tendStaging(ctx context.Context) {
	glance := time.NewTicker(stagingGlance)
	defer glance.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-glance.C:
			b.staging.tend()
		}
	}
}

// tidyFirst is tidy before clients are let in. While it fails, nothing is stored.
func (b *Bus) tidyFirst(ctx context.Context, s *server.Server) {
	b.staging.begin()
	if err := b.tidy(ctx, s); err != nil {
		b.breakStore(err)
	}
}

// tidy makes the streams that a server has read ready to be written to: what it could
// not complete is rolled back, and batches are staged in memory.
func (b *Bus) tidy(ctx context.Context, s *server.Server) error {
	err := b.rollBack(ctx, s)
	b.mu.Lock()
	sys := b.sys
	b.mu.Unlock()
	if sys != nil {
		b.staging.use(catalogue.Streams(sys.Queues))
	}
	return err
}

func (b *Bus) rollBack(ctx context.Context, s *server.Server) error {
	account := s.GlobalAccount()
	if account.JetStreamUsage().Streams == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ensureTime)
	defer cancel()
	c := b.operator
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(operatorInboxes+"."+random()), nats.NoReconnect())
	if err != nil {
		return fmt.Errorf("roll back batches: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("roll back batches: %w", err)
	}
	all, err := catalogue.RollBack(ctx, js)
	for _, one := range all {
		b.log.WarnContext(ctx, "a batch that was stored in part is rolled back",
			slog.String("stream", one.Stream), slog.String("batch", one.Batch), slog.Int("messages", one.Messages))
	}
	if err != nil || len(all) == 0 {
		return err
	}
	// The server forgets the ids of what was deleted.
	_ = account.DisableJetStream() // fails only if the account has no streams open
	if err := account.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("roll back batches: %w", err)
	}
	return nil
}
