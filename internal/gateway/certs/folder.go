package certs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// folder keeps values in files below a folder, for one machine. A lock is one of the
// kernel's on a file (flock): it ends when its holder does.
type folder struct {
	values, locks string
}

var _ Storage = (*folder)(nil)

// lockGlance is how often it is looked whether a lock is free.
const lockGlance = 100 * time.Millisecond

func openFolder(dir string) (*folder, error) {
	f := &folder{values: filepath.Join(dir, "values"), locks: filepath.Join(dir, "locks")}
	for _, dir := range []string{f.values, f.locks} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open storage of certificates: %w", err)
		}
	}
	return f, nil
}

func (f *folder) Load(_ context.Context, key string) ([]byte, time.Time, error) {
	file, err := os.Open(filepath.Join(f.values, escape(key)))
	if err != nil {
		return nil, time.Time{}, missing(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	b, err := io.ReadAll(file)
	return b, info.ModTime(), missing(err)
}

// missing tells a folder, or something below a file, as what is not there.
func missing(err error) error {
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

func (f *folder) Store(_ context.Context, key string, value []byte) error {
	path := filepath.Join(f.values, escape(key))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writeFile(path, value)
}

func (f *folder) Delete(_ context.Context, key string) error {
	err := missing(unix.Unlink(filepath.Join(f.values, escape(key))))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("delete %s: %w", key, err)
}

func (f *folder) Keys(ctx context.Context) ([]string, error) {
	var keys []string
	err := filepath.WalkDir(f.values, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || d.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		// A name that escape does not write is a file that is being written.
		if key, err := unescape(strings.TrimPrefix(path, f.values+string(filepath.Separator))); err == nil {
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

func (f *folder) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	file, err := os.OpenFile(filepath.Join(f.locks, strings.ReplaceAll(escape(name), "/", "=2F")), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockGlance)
	defer tick.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return file.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close() // nothing was written
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close() // as above
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
