package stage

import (
	"bytes"
	"regexp"
	"sync"
)

// Recorder keeps what a program prints, and says where it can be reached once it has
// printed that. It is safe for concurrent use.
type Recorder struct {
	// Found gets the first group of the first match, once the line has ended.
	Found <-chan string

	found chan string
	look  *regexp.Regexp

	mu   sync.Mutex // guards all below
	buf  bytes.Buffer
	sent bool
}

// NewRecorder returns a recorder that looks for a pattern with a group.
func NewRecorder(pattern string) *Recorder {
	found := make(chan string, 1)
	return &Recorder{Found: found, found: found, look: regexp.MustCompile(pattern)}
}

// Write implements [io.Writer].
func (r *Recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf.Write(b)
	if m := r.look.FindSubmatch(r.buf.Bytes()); m != nil && !r.sent && bytes.HasSuffix(b, []byte("\n")) {
		r.sent = true
		r.found <- string(m[1])
	}
	return len(b), nil
}

// String is all that was printed.
func (r *Recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}
