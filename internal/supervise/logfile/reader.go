package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Query says what [Read] reads.
type Query struct {
	Dir      string        // folder of one service, or of all
	All      bool          // Dir holds such folders, one for each service
	Instance string        // "" for all
	Tail     int           // last lines to begin with, of all instances together, at most MaxTail; negative: all
	Follow   bool          // go on with new lines and new instances until ctx ends
	Poll     time.Duration // how often Follow looks; 0: 100 ms
}

// MaxTail is the largest Tail; a larger one means this many lines.
const MaxTail = 10_000

// ErrNoInstance says that nothing is kept of the instance that a query names.
var ErrNoInstance = errors.New("there is no output of it")

// Read gives the lines that a query asks for to emit, those that are there
// merged by time, and with Follow the new ones as they come. It holds one line
// of each instance in memory at most, and Tail lines at the beginning. Lines that were rotated away before Read
// came to them are missing; no others are. It returns nil at the end of the
// files, or when ctx ends; an error of emit ends it and is returned, and
// [ErrNoInstance] if the query names an instance of which there are no files.
func Read(ctx context.Context, q Query, emit func(Line) error) error {
	if q.Poll <= 0 {
		q.Poll = 100 * time.Millisecond
	}
	r := &reader{query: q, cursors: make(map[string]*cursor)}
	defer r.close()
	q.Tail = min(q.Tail, MaxTail)
	for first := true; ; first = false {
		if err := r.discover(first); err != nil {
			return err
		}
		drain := r.drain
		if first && q.Tail >= 0 {
			drain = r.drainLast
		}
		if err := drain(ctx, emit); err != nil {
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return nil
			}
			return err
		}
		if !q.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(q.Poll):
		}
	}
}

// Exist reports whether a folder for the log files of a service exists.
func Exist(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

type reader struct {
	query   Query
	cursors map[string]*cursor
}

func (r *reader) close() {
	for _, c := range r.cursors {
		c.close()
	}
}

// discover takes in the instances and segments that are there now.
func (r *reader) discover(first bool) error {
	found, err := r.list()
	if err != nil {
		return err
	}
	if first && r.query.Instance != "" && found[r.query.Instance].numbers == nil {
		return fmt.Errorf("instance %q: %w", r.query.Instance, ErrNoInstance)
	}
	for instance, files := range found {
		if r.query.Instance != "" && instance != r.query.Instance {
			continue
		}
		numbers := files.numbers
		c, known := r.cursors[instance]
		if known {
			c.segments = numbers
			continue
		}
		c = &cursor{dir: files.dir, instance: instance, segments: numbers}
		if first {
			err = c.seekTail(r.query.Tail)
		} else {
			// An instance that appeared while following is told from its first line.
			err = c.open(numbers[0], 0)
		}
		if err != nil {
			return err
		}
		r.cursors[instance] = c
	}
	for instance, c := range r.cursors {
		if _, there := found[instance]; !there {
			c.segments = nil
		}
	}
	return nil
}

// kept is where the output of an instance is.
type kept struct {
	dir     string
	numbers []int // of its segments
}

// list returns the instances of which there is output.
func (r *reader) list() (map[string]kept, error) {
	dirs := []string{r.query.Dir}
	if r.query.All {
		entries, err := os.ReadDir(r.query.Dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("list logs: %w", err)
		}
		dirs = nil
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(r.query.Dir, e.Name()))
			}
		}
	}
	all := make(map[string]kept)
	for _, dir := range dirs {
		found, err := segments(dir)
		if err != nil {
			return nil, err
		}
		for instance, numbers := range found {
			all[instance] = kept{dir, numbers}
		}
	}
	return all, nil
}

// drainLast emits the last of all lines that are there now: each instance was
// opened at its own last ones, the last of these together are asked for.
func (r *reader) drainLast(ctx context.Context, emit func(Line) error) error {
	last := make([]Line, 0, min(r.query.Tail, 1024))
	next := 0
	err := r.drain(ctx, func(l Line) error {
		switch {
		case r.query.Tail == 0:
		case len(last) < r.query.Tail:
			last = append(last, l)
		default:
			last[next] = l
			next = (next + 1) % len(last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range last {
		if err := emit(last[(next+i)%len(last)]); err != nil {
			return err
		}
	}
	return nil
}

// drain emits all lines that are there now, merged by time.
func (r *reader) drain(ctx context.Context, emit func(Line) error) error {
	var heads []*cursor
	for instance, c := range r.cursors {
		more, err := c.advance()
		if err != nil {
			return err
		}
		if more {
			heads = append(heads, c)
		} else if c.segments == nil {
			c.close()
			delete(r.cursors, instance)
		}
	}
	slices.SortFunc(heads, func(a, b *cursor) int { return strings.Compare(a.instance, b.instance) })
	for len(heads) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		least := 0
		for i, c := range heads[1:] {
			if c.line.Time.Before(heads[least].line.Time) {
				least = i + 1
			}
		}
		if err := emit(heads[least].line); err != nil {
			return err
		}
		more, err := heads[least].advance()
		if err != nil {
			return err
		}
		if !more {
			heads = slices.Delete(heads, least, least+1)
		}
	}
	return nil
}

// cursor reads the segments of one instance one after the other.
type cursor struct {
	dir      string
	instance string
	segments []int // as last listed, sorted; nil: the files went away

	number  int
	file    *os.File
	buf     *bufio.Reader
	partial []byte // of a record whose end is not written yet
	line    Line   // what advance found
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
		c.file = nil
	}
}

// open goes to an offset of a segment; one that was removed meanwhile is empty.
func (c *cursor) open(number int, offset int64) error {
	c.close()
	c.number, c.partial = number, c.partial[:0]
	f, err := os.Open(filepath.Join(c.dir, segmentName(c.instance, number)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		_ = f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	c.file = f
	if c.buf == nil {
		c.buf = bufio.NewReaderSize(f, 16<<10)
	} else {
		c.buf.Reset(f)
	}
	return nil
}

// advance reads the next record into line and reports whether there was one.
func (c *cursor) advance() (bool, error) {
	for {
		// Looked up before the end of this segment is seen: once the next one
		// exists, this one no longer grows.
		next, final := c.next()
		found, err := c.record()
		if found || err != nil {
			return found, err
		}
		if !final {
			return false, nil
		}
		if err := c.open(next, 0); err != nil {
			return false, err
		}
	}
}

// next returns the segment after the current one.
func (c *cursor) next() (int, bool) {
	for _, n := range c.segments {
		if n > c.number {
			return n, true
		}
	}
	return 0, false
}

// record reads one record of the current segment. Records that cannot be read
// are left out: only a damaged disk makes them.
func (c *cursor) record() (bool, error) {
	if c.file == nil {
		return false, nil
	}
	for {
		part, err := c.buf.ReadSlice('\n')
		if len(c.partial)+len(part) <= headSize+MaxText+1 {
			c.partial = append(c.partial, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read log: %w", err)
		}
		line, err := ParseLine(bytes.TrimSuffix(c.partial, []byte{'\n'}))
		c.partial = c.partial[:0]
		if err != nil {
			continue
		}
		line.Instance = c.instance
		c.line = line
		return true, nil
	}
}

// seekTail goes to where the last n records begin.
func (c *cursor) seekTail(n int) error {
	if n < 0 {
		return c.open(c.segments[0], 0)
	}
	last := len(c.segments) - 1
	for i := last; i >= 0; i-- {
		offset, found, err := tailOffset(filepath.Join(c.dir, segmentName(c.instance, c.segments[i])), n)
		if err != nil {
			return err
		}
		if found >= n {
			return c.open(c.segments[i], offset)
		}
		n -= found
	}
	return c.open(c.segments[0], 0)
}

// tailOffset returns where the last n complete lines of a file begin, and how
// many there are, at most n.
func tailOffset(path string, n int) (offset int64, found int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = f.Close() }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, fmt.Errorf("read log: %w", err)
	}
	// The position after the (n+1)th line feed from the end begins the nth line.
	block := make([]byte, 64<<10)
	feeds := 0
	for at := end; at > 0; {
		size := min(int64(len(block)), at)
		at -= size
		if _, err := f.ReadAt(block[:size], at); err != nil {
			return 0, 0, fmt.Errorf("read log: %w", err)
		}
		for i := size - 1; i >= 0; i-- {
			if block[i] != '\n' {
				continue
			}
			if feeds == n {
				return at + i + 1, n, nil
			}
			feeds++
		}
	}
	if n == 0 {
		return end, 0, nil
	}
	return 0, feeds, nil
}
