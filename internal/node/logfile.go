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

const (
	logLimit = 10 << 20 // bytes, then the file is moved aside
	logOld   = 4        // files moved aside that are kept: name.1 is the newest
)

// LogFile is a log that the node itself writes: what happens in it, or what its
// door answers. It appends to a file that it creates, with its folder, at the
// first line, and moves it aside when it has grown to 10 MiB; four old ones are
// kept. What one call writes stays together. It is safe for concurrent use.
type LogFile struct {
	path  string
	limit int64

	mu   sync.Mutex // guards the fields below
	file *os.File
	size int64
	// shared is true when another process writes to the file, too, and looks after it.
	shared bool
}

// NewLogFile returns the log at path. It touches nothing yet.
func NewLogFile(path string) *LogFile { return &LogFile{path: path, limit: logLimit} }

// Write appends one or more whole lines.
func (l *LogFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.shared && l.size > 0 && l.file != nil && l.size+int64(len(line)) > l.limit {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(line)
	if err != nil && n > 0 && !l.shared { // what comes next must not stand in half a line
		if terr := l.file.Truncate(l.size); terr == nil {
			n = 0
		}
	}
	l.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write log: %w", err)
	}
	return n, nil
}

func (l *LogFile) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

func (l *LogFile) rotate() error {
	err := l.file.Close()
	l.file = nil
	for n := logOld; n > 0; n-- {
		from := l.path
		if n > 1 {
			from += "." + strconv.Itoa(n-1)
		}
		if rerr := os.Rename(from, l.path+"."+strconv.Itoa(n)); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}

// Share is called when another process writes to the log, too: from then on this
// one appends whole lines and leaves it to the other to move the file aside.
func (l *LogFile) Share() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shared = true
}

// Close closes the file; a later write opens it again.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
