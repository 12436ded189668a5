package gateway

import (
	"io"
	"net/http"
	"strings"
	"time"

	"fairlead/internal/gateway/encode"
	"fairlead/internal/wire"
)

// answer is the http.ResponseWriter of one request: it remembers for the access
// log what was written, keeps inside headers inside, applies the header rules of
// the route, and compresses.
type answer struct {
	http.ResponseWriter
	control http.ResponseController
	x       *exchange
	r       *http.Request
	clean   bool // no header of a service is among the head's
	own     bool // the gateway's own words for what went wrong
	status  int  // 0 until the head is written
	bytes   int64
	stamp   stamp // what the door adds to the head
	pace    pace  // at which the client takes it

	coder *encode.Writer // nil: the body goes out as it is
	whole bool           // the body's length is known: nobody waits for parts of it
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
		a.finishHead()
		a.stamp.put(a.Header())
		a.pace.begin(&a.control, 0) // what has no body is written later
	}
	a.ResponseWriter.WriteHeader(status)
}

// finishHead makes the final head what the client gets.
func (a *answer) finishHead() {
	h := a.Header()
	if !a.clean {
		cleanAnswer(h)
	}
	x := a.x
	if x == nil { // a question of the gateway's own
		return
	}
	x.entrance.present(h, x.snap)
	x.decorate(h)
	if x.route != nil && x.route.compress && !a.own {
		a.encode(h)
	}
}

// decorate adds what the file wants of every answer, and what a sticky route needs.
func (x *exchange) decorate(h http.Header) {
	switch {
	case x.route != nil:
		x.route.rules.apply(h)
	case x.snap != nil:
		x.snap.rules.apply(h)
	}
	if !x.answer.own {
		x.stick(h)
	}
}

// encode begins to compress if the answer gains by it and the client likes it.
func (a *answer) encode(h http.Header) {
	if a.status == http.StatusNotModified {
		weaken(h, a.r.Header["If-None-Match"])
		return
	}
	if !encode.Gains(a.status, h) {
		return
	}
	encode.Vary(h)
	accept := a.r.Header["Accept-Encoding"]
	if len(accept) == 0 || betrays(a.r.Header) {
		return
	}
	coding := encode.Pick(accept)
	if coding == "" {
		return
	}
	if a.r.Method != http.MethodHead {
		if a.coder = encode.New(coding, (*plainBody)(a)); a.coder == nil {
			return
		}
	}
	_, a.whole = h["Content-Length"]
	encode.Announce(h, coding)
}

// betrays reports whether a page of another site makes the client ask as its user.
// Such a page can put guesses into the question, and would learn from the length
// of a compressed answer whether a secret in it is like the guess (the attack named
// BREACH). Browsers tell by Sec-Fetch-Site.
func betrays(h http.Header) bool {
	site := h["Sec-Fetch-Site"]
	return len(site) > 0 && site[0] == "cross-site" && (len(h["Cookie"]) > 0 || len(h["Authorization"]) > 0)
}

// weaken makes the tag of a 304 the one that the client asked with, if it has got
// the answer compressed.
func weaken(h http.Header, asked []string) {
	tags := h["Etag"]
	if len(tags) != 1 || !strings.HasPrefix(tags[0], `"`) {
		return
	}
	for _, line := range asked {
		if strings.Contains(line, "W/"+tags[0]) {
			h["Etag"] = []string{"W/" + tags[0]}
			return
		}
	}
}

// plainBody is the answer below its coder.
type plainBody answer

// Write writes a part of the body as it goes out.
func (p *plainBody) Write(b []byte) (int, error) {
	a := (*answer)(p)
	sum := 0
	for {
		piece := b[sum:]
		if a.pace.slow && len(piece) > slowPiece {
			piece = piece[:slowPiece]
		}
		began := a.pace.begin(&a.control, len(piece))
		n, err := a.ResponseWriter.Write(piece)
		sum += n
		a.bytes += int64(n)
		if err = a.paced(began, int64(n), err); err != nil || sum == len(b) {
			return sum, err
		}
	}
}

// paced notes how long a write took, and that the client is cut if it was too long.
func (a *answer) paced(began time.Time, n int64, err error) error {
	before := a.pace.cut
	err = a.pace.end(&a.control, began, n, err)
	if a.pace.cut && !before && a.x != nil {
		a.x.g.refused.add(refusedSlow)
	}
	return err
}

// Write writes a part of the body.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.coder != nil {
		return a.coder.Write(b)
	}
	return (*plainBody)(a).Write(b)
}

// ReadFrom lets the kernel copy files.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.coder != nil {
		return io.Copy(a.coder, src)
	}
	began := a.pace.begin(&a.control, filePiece)
	n, err := io.Copy(a.ResponseWriter, src)
	a.bytes += n
	return n, a.paced(began, n, err)
}

// Flush sends what is buffered.
func (a *answer) Flush() {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.coder != nil {
		if a.whole {
			return
		}
		_ = a.coder.Flush() // the next write tells
	}
	began := a.pace.begin(&a.control, 0)
	err := a.control.Flush()
	_ = a.paced(began, 0, err) // the next write tells
}

// finish writes the end of a compressed body.
func (a *answer) finish() {
	if a.coder != nil {
		_ = a.coder.Close() // a client that is gone is nothing to report
		a.coder = nil
	}
}

// drop lets go of a compressed body that has broken off.
func (a *answer) drop() {
	if a.coder != nil {
		a.coder.Drop()
		a.coder = nil
	}
}

// cleanAnswer removes what is meant for the inside only.
func cleanAnswer(h http.Header) {
	for name := range h {
		if name == "Server" || wire.ForeignHeader(name) {
			delete(h, name)
		}
	}
}

// fileAnswer writes a file in pieces, each handed to the kernel as a whole, so that
// the client's pace is seen.
type fileAnswer struct{ *answer }

const filePiece = 128 << 10

// ReadFrom copies the file.
func (a *fileAnswer) ReadFrom(src io.Reader) (int64, error) {
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	var sum int64
	for whole.N > 0 {
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
