package gateway

import (
	"io"
	"net/http"
	"time"

	"fairlead/internal/wire"
)

// answer is the http.ResponseWriter of one request: it remembers for the access
// log what was written, and keeps inside headers inside.
type answer struct {
	http.ResponseWriter
	control http.ResponseController
	clean   bool // no header of a service is among the head's
	status  int  // 0 until the head is written
	bytes   int64
	// moved is when the write deadline was put off last.
	moved time.Time
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader writes the head. Informational heads may come before it.
func (a *answer) WriteHeader(status int) {
	if a.status >= http.StatusOK {
		return
	}
	if status >= http.StatusOK {
		a.status = status
		if !a.clean {
			cleanAnswer(a.Header())
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write writes a part of the body.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// ReadFrom lets the kernel copy files.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	n, err := io.Copy(a.ResponseWriter, src)
	a.bytes += n
	return n, err
}

// Flush sends what is buffered.
func (a *answer) Flush() {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	_ = a.control.Flush() // the next write tells
}

// stretch puts the client's write deadline off while an answer makes progress. It
// is cheap to call often.
func (a *answer) stretch(now time.Time) {
	if now.Sub(a.moved) < time.Second {
		return
	}
	a.moved = now
	_ = a.control.SetWriteDeadline(now.Add(streamIdle)) // a connection without deadlines is a test's
}

// cleanAnswer removes what is meant for the inside only.
func cleanAnswer(h http.Header) {
	for name := range h {
		if name == "Server" || wire.ForeignHeader(name) {
			delete(h, name)
		}
	}
}

// fileAnswer puts the write deadline off while a file makes progress: in pieces,
// each handed to the kernel as a whole.
type fileAnswer struct{ *answer }

const filePiece = 1 << 20

// ReadFrom copies the file.
func (a *fileAnswer) ReadFrom(src io.Reader) (int64, error) {
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	var sum int64
	for whole.N > 0 {
		a.stretch(time.Now())
		// One level of LimitedReader is what the kernel's copy can see through.
		piece := io.LimitedReader{R: whole.R, N: min(whole.N, filePiece)}
		n, err := a.answer.ReadFrom(&piece)
		sum += n
		whole.N -= n
		if err != nil || piece.N > 0 {
			return sum, err
		}
	}
	return sum, nil
}
