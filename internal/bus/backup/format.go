package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"
)

// Content is what a backup holds.
type Content struct {
	System  string    `json:"system"`
	Made    time.Time `json:"made"`
	Streams []Stream  `json:"streams"`
}

// Messages is how many messages all streams hold together.
func (c Content) Messages() (n uint64) {
	for _, s := range c.Streams {
		n += s.State.Messages
	}
	return n
}

// Stream is one stream of a backup.
type Stream struct {
	Name  string `json:"name"`
	State State  `json:"state"`

	config, state json.RawMessage // as the server tells them
}

// State is what a stream held.
type State struct {
	Messages  uint64    `json:"messages"`
	Bytes     uint64    `json:"bytes"`
	First     uint64    `json:"first_seq"`
	Last      uint64    `json:"last_seq"`
	Consumers int       `json:"consumer_count"`
	Oldest    time.Time `json:"first_ts"` // when the message First was stored
}

// format is the version of the file's form.
const format = 2

// Bounds of what is read.
const (
	maxStreams = 100_000
	maxHead    = 4 << 20 // bytes of one JSON text
	maxChunk   = 1 << 20 // bytes of one chunk
)

// head is backup.json.
type head struct {
	Format int       `json:"fairlead_backup"`
	System string    `json:"system"`
	Made   time.Time `json:"made"`
}

// streamHead is stream.json.
type streamHead struct {
	Name   string          `json:"name"`
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

// streamEnd is the end.json of a stream.
type streamEnd struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// end is the end.json of the backup.
type end struct {
	Streams  int    `json:"streams"`
	Messages uint64 `json:"messages"`
	SHA256   string `json:"sha256"` // of all entries before it, see [add]
}

// add adds an entry to the sum of all: its name and its length, each on a line of its
// own, and its data.
func add(sum hash.Hash, name string, data []byte) {
	fmt.Fprintf(sum, "%s\n%d\n", name, len(data))
	sum.Write(data)
}

// writer writes the parts of a backup.
type writer struct {
	tar    *tar.Writer
	made   time.Time
	stream int // number of the stream that is written
	chunks int
	bytes  int64
	sum    hash.Hash // of the stream's chunks
	all    hash.Hash // of all entries
}

func newWriter(to io.Writer, made time.Time) *writer {
	return &writer{tar: tar.NewWriter(to), made: made, all: sha256.New()}
}

func (w *writer) entry(name string, data []byte) error {
	err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: w.made, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	add(w.all, name, data)
	_, err = w.tar.Write(data)
	return err
}

func (w *writer) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.entry(name, b)
}

func (w *writer) begin(h streamHead) error {
	w.stream++
	w.chunks, w.bytes, w.sum = 0, 0, sha256.New()
	return w.json(strconv.Itoa(w.stream)+"/stream.json", h)
}

func (w *writer) chunk(data []byte) error {
	w.chunks++
	w.bytes += int64(len(data))
	w.sum.Write(data)
	return w.entry(fmt.Sprintf("%d/%08d", w.stream, w.chunks), data)
}

func (w *writer) end() error {
	return w.json(strconv.Itoa(w.stream)+"/end.json", streamEnd{w.bytes, text(w.sum)})
}

// close ends the file with what it must hold.
func (w *writer) close(c Content) error {
	if err := w.json("end.json", end{Streams: len(c.Streams), Messages: c.Messages(), SHA256: text(w.all)}); err != nil {
		return err
	}
	return w.tar.Close()
}

// text is a sum as the file has it.
func text(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }

// Errors of a file.
var (
	// ErrNoBackup is a file that is no backup of a bus.
	ErrNoBackup = errors.New("it is no backup of a bus")
	// ErrDamaged is a backup that is cut off or was changed.
	ErrDamaged = errors.New("it is damaged")
)

// receiver is what takes the streams of a backup as they are read.
type receiver interface {
	begin(s Stream) error
	chunk(data []byte) error
	end() error
}

// reader reads the parts of a backup.
type reader struct {
	tar  *tar.Reader
	buf  []byte
	all  hash.Hash // of the entries before the last one
	name string    // of the last one, not in all yet
}

// next reads the next entry; the data is overwritten by the one after.
func (r *reader) next(most int64) (name string, data []byte, err error) {
	if r.name != "" {
		add(r.all, r.name, r.buf)
	}
	h, err := r.tar.Next()
	if err != nil {
		return "", nil, err
	}
	if h.Typeflag != tar.TypeReg || h.Size < 0 || h.Size > most {
		return "", nil, fmt.Errorf("%w: an entry of %d bytes", ErrDamaged, h.Size)
	}
	if int64(cap(r.buf)) < h.Size {
		r.buf = make([]byte, h.Size)
	}
	r.buf = r.buf[:h.Size]
	r.name = h.Name
	_, err = io.ReadFull(r.tar, r.buf)
	return h.Name, r.buf, err
}

// read reads a backup whole and gives its streams to to.
func read(from io.Reader, to receiver) (Content, error) {
	r := &reader{tar: tar.NewReader(from), all: sha256.New()}
	name, data, err := r.next(maxHead)
	var h head
	if err != nil || name != "backup.json" || json.Unmarshal(data, &h) != nil || h.Format == 0 {
		return Content{}, ErrNoBackup
	}
	if h.Format != format {
		return Content{}, fmt.Errorf("it is a backup of form %d; this program knows form %d", h.Format, format)
	}
	c := Content{System: h.System, Made: h.Made}
	for {
		name, data, err := r.next(maxHead)
		switch {
		case err != nil:
			return Content{}, damaged(err)
		case name == "end.json":
			var e end
			if json.Unmarshal(data, &e) != nil || e.Streams != len(c.Streams) || e.Messages != c.Messages() {
				return Content{}, fmt.Errorf("%w: it does not hold what its end says", ErrDamaged)
			}
			if e.SHA256 != text(r.all) {
				return Content{}, fmt.Errorf("%w: its sum differs", ErrDamaged)
			}
			return c, nil
		case len(c.Streams) == maxStreams || name != strconv.Itoa(len(c.Streams)+1)+"/stream.json":
			return Content{}, fmt.Errorf("%w: an entry %.40q out of place", ErrDamaged, name)
		}
		s, err := readHead(data)
		if err != nil {
			return Content{}, err
		}
		if err := to.begin(s); err != nil {
			return Content{}, err
		}
		c.Streams = append(c.Streams, s)
		if err := r.stream(len(c.Streams), to); err != nil {
			return Content{}, fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
}

func readHead(data []byte) (Stream, error) {
	var h streamHead
	if err := json.Unmarshal(data, &h); err != nil || h.Name == "" {
		return Stream{}, fmt.Errorf("%w: a stream without its configuration", ErrDamaged)
	}
	s := Stream{Name: h.Name, config: bytes.Clone(h.Config), state: bytes.Clone(h.State)}
	if err := json.Unmarshal(h.State, &s.State); err != nil {
		return Stream{}, fmt.Errorf("%w: stream %.40q has no state", ErrDamaged, h.Name)
	}
	return s, nil
}

// stream reads the chunks of the stream of that number, and its end.
func (r *reader) stream(number int, to receiver) error {
	sum, size := sha256.New(), int64(0)
	for chunks := 1; ; chunks++ {
		name, data, err := r.next(maxChunk)
		if err != nil {
			return damaged(err)
		}
		if name == fmt.Sprintf("%d/%08d", number, chunks) {
			sum.Write(data)
			size += int64(len(data))
			if err := to.chunk(data); err != nil {
				return err
			}
			continue
		}
		var e streamEnd
		if name != strconv.Itoa(number)+"/end.json" || json.Unmarshal(data, &e) != nil {
			return fmt.Errorf("%w: an entry %.40q out of place", ErrDamaged, name)
		}
		if e.Bytes != size || e.SHA256 != text(sum) {
			return fmt.Errorf("%w: its sum differs", ErrDamaged)
		}
		return to.end()
	}
}

// damaged is the error of an entry that could not be read.
func damaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	if errors.Is(err, tar.ErrHeader) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// Check reads a backup whole and returns what it holds. It returns [ErrNoBackup] or
// [ErrDamaged] if it is not as it was written.
func Check(r io.Reader) (Content, error) {
	c, err := read(r, nobody{})
	if err != nil {
		return Content{}, fmt.Errorf("check backup: %w", err)
	}
	return c, nil
}

type nobody struct{}

func (nobody) begin(Stream) error { return nil }
func (nobody) chunk([]byte) error { return nil }
func (nobody) end() error         { return nil }
