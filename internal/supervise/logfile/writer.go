package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options say how much a [Writer] keeps.
type Options struct {
	Limit int64 // bytes of one segment; 0: 10 MiB
	Files int   // segments of one instance; 0: 5, at least 2
}

func (o Options) withDefaults() Options {
	if o.Limit <= 0 {
		o.Limit = 10 << 20
	}
	if o.Files <= 0 {
		o.Files = 5
	}
	o.Files = max(o.Files, 2)
	return o
}

// Writer writes the output of one instance. It is safe for concurrent use by
// the copiers of the instance's streams.
type Writer struct {
	dir      string
	instance string
	opts     Options

	mu     sync.Mutex // guards all below
	file   *os.File
	number int
	size   int64
	buf    []byte // complete records not yet written
	lost   int    // records that could not be written, reported once it works again
	recent map[string]*Recent
}

// Open creates the folder and the first segment for an instance. An instance
// that has segments already gets the next number.
func Open(dir, instance string, opts Options) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	found, err := segments(dir)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		dir: dir, instance: instance, opts: opts.withDefaults(),
		recent: map[string]*Recent{Out: {}, Err: {}},
	}
	if numbers := found[instance]; len(numbers) > 0 {
		w.number = numbers[len(numbers)-1]
	}
	if err := w.rotate(); err != nil {
		return nil, err
	}
	return w, nil
}

// rotate begins the next segment; mu is held, or w is not shared yet.
func (w *Writer) rotate() error {
	next := filepath.Join(w.dir, segmentName(w.instance, w.number+1))
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if w.file != nil {
		_ = w.file.Close()
	}
	w.file, w.size = f, 0
	w.number++
	oldest := filepath.Join(w.dir, segmentName(w.instance, w.number-w.opts.Files))
	if err := os.Remove(oldest); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old log: %w", err)
	}
	return nil
}

// add buffers one record and begins a new segment when it would not fit.
func (w *Writer) add(h head, recent *Recent, text []byte) {
	record := int64(headSize + len(text) + 1)
	if used := w.size + int64(len(w.buf)); used > 0 && used+record > w.opts.Limit {
		w.flush()
		if err := w.rotate(); err != nil {
			w.lost++ // a log without bounds would be worse
			return
		}
	}
	w.buf = appendRecord(w.buf, h, text)
	recent.Add(text)
}

// flush writes the buffered records with one call. What a full disk refuses is
// counted and dropped: a service must not stop because its log cannot grow.
func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	records := bytes.Count(w.buf, []byte{'\n'})
	if w.lost > 0 {
		note := fmt.Appendf(nil, "[%d lines lost: the log could not be written]", w.lost)
		w.buf = appendRecord(w.buf, newHead(time.Now(), Err), note)
	}
	n, err := w.file.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		// A reader must never see a torn record.
		_ = w.file.Truncate(w.size)
		w.lost += records
		return
	}
	w.size += int64(n)
	w.lost = 0
}

// Recent returns the last lines of a stream.
func (w *Writer) Recent(stream string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.recent[stream].Lines()
}

// Close ends the current segment. Later copies are dropped.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// Copy reads r to its end and writes every line of it as a record of the
// stream. It takes a fixed amount of memory: when the disk is slower than r,
// whoever writes to r waits. Lines that arrive together share their time.
func (w *Writer) Copy(stream string, r io.Reader) error {
	buf := make([]byte, MaxText)
	fill := 0 // bytes of buf that hold the beginning of an unfinished line
	for {
		n, err := r.Read(buf[fill:])
		if n > 0 {
			fill = w.take(stream, buf, fill, fill+n)
		}
		if err != nil {
			if fill > 0 {
				w.mu.Lock()
				w.add(newHead(time.Now(), stream), w.recent[stream], buf[:fill])
				w.flush()
				w.mu.Unlock()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read output: %w", err)
		}
	}
}

// take writes the complete lines of buf[:end], moves the rest to the front and
// returns its length. buf[:scanned] holds no line feed.
func (w *Writer) take(stream string, buf []byte, scanned, end int) int {
	h, recent := newHead(time.Now(), stream), w.recent[stream]
	w.mu.Lock()
	defer w.mu.Unlock()
	begin := 0
	for {
		i := bytes.IndexByte(buf[scanned:end], '\n')
		if i < 0 {
			break
		}
		w.add(h, recent, buf[begin:scanned+i])
		scanned += i + 1
		begin = scanned
	}
	rest := end - begin
	if rest == len(buf) {
		w.add(h, recent, buf)
		rest = 0
	} else if begin > 0 {
		copy(buf, buf[begin:end])
	}
	w.flush()
	return rest
}
