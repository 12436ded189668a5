package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// How much is kept of a log that the node writes itself: the file, and before
// it file.1 (younger) to file.4.
const (
	rotateSize  = 64 << 20 // bytes
	rotateFiles = 5
)

// rotating is a log file that begins anew when it is full. What one call writes
// stays together.
type rotating struct {
	path  string
	limit int64

	mu   sync.Mutex // guards what follows
	file *os.File
	size int64
}

func openRotating(path string) (*rotating, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	r := &rotating{path: path, limit: rotateSize}
	return r, r.open()
}

// open opens the file where it ends; mu is held, or nobody else knows r yet.
func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write appends p, in a new file if it does not fit into this one.
func (r *rotating) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size > 0 && r.size+int64(len(p)) > r.limit {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(p)
	r.size += int64(n)
	return n, err
}

func (r *rotating) rotate() error {
	name := func(i int) string { return r.path + "." + strconv.Itoa(i) }
	for i := rotateFiles - 2; i >= 1; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	if err := os.Rename(r.path, name(1)); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	old := r.file
	if err := r.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close ends the log.
func (r *rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file.Close()
}
