package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// bodyError says why a body could not be read.
type bodyError struct {
	status int
	detail string // public
	cause  error
}

func (e *bodyError) Error() string { return "read body: " + e.detail }
func (e *bodyError) Unwrap() error { return e.cause }

// guardedBody limits a request's body in size and time. Too much gives
// *http.MaxBytesError, too slow or broken *bodyError.
type guardedBody struct {
	src     io.ReadCloser
	control *http.ResponseController
	limit   int64 // of the body, for the error
	left    int64
	least   int64     // bytes that must come in a window
	until   time.Time // of the whole
	window  time.Time // end of the present window, zero before the first
	got     int64     // in the present window
	ahead   []byte    // read already
	done    bool      // saw the end
	err     error
}

// guardBody puts limits on r.Body. It reports false when the length alone shows
// that the body is too large.
func (x *exchange) guardBody(r *http.Request, limit int64) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.ContentLength > limit {
		return false
	}
	r.Body = &guardedBody{src: r.Body, control: &x.answer.control, limit: limit, left: limit, least: x.route.filters.minRate * int64(paceWindow/time.Second), until: x.deadline}
	return true
}

// settleBody finds out whether a request of HTTP/3 that should have no body has
// none: the protocol's server cannot tell before it is read. Services would get an
// empty body in chunks, which not all of them take from the connection after a GET,
// and the request could not be sent again.
func settleBody(r *http.Request) {
	b, ok := r.Body.(*guardedBody)
	if !ok || r.ContentLength >= 0 || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return
	}
	var first [1]byte
	n, err := b.Read(first[:])
	if n == 0 && errors.Is(err, io.EOF) {
		r.Body, r.ContentLength = http.NoBody, 0
		return
	}
	b.ahead = append(b.ahead, first[:n]...)
}

// Read reads a part of the body.
func (b *guardedBody) Read(p []byte) (int, error) {
	if len(b.ahead) > 0 {
		n := copy(p, b.ahead)
		b.ahead = b.ahead[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	// The window moves on whenever enough has come, so that the deadline never meets
	// a client that is fast enough: HTTP/2 does not forgive one.
	if now := time.Now(); b.window.IsZero() || b.got >= b.least {
		b.window, b.got = now.Add(paceWindow), 0
		end := b.window
		if b.until.Before(end) {
			end = b.until
		}
		_ = b.control.SetReadDeadline(end) // a connection without deadlines is a test's
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more shows that there is too much
	}
	n, err := b.src.Read(p)
	if int64(n) > b.left {
		b.err = &http.MaxBytesError{Limit: b.limit}
		return int(b.left), b.err
	}
	b.left -= int64(n)
	b.got += int64(n)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.finish()
		b.err = io.EOF
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, b.fail(http.StatusRequestTimeout, "the request's body came too slowly", err)
	}
	return n, b.fail(http.StatusBadRequest, "the request's body broke off or is malformed", err)
}

func (b *guardedBody) fail(status int, detail string, cause error) error {
	b.err = &bodyError{status: status, detail: detail, cause: cause}
	return b.err
}

// finish takes note that nothing is left to read: no deadline is wanted any more.
func (b *guardedBody) finish() {
	if !b.done {
		b.done = true
		_ = b.control.SetReadDeadline(time.Time{}) // as above
	}
}

// Close closes the body.
func (b *guardedBody) Close() error { return b.src.Close() }

// failBody answers a request whose body could not be read, with the status that
// the error deserves.
func (x *exchange) failBody(w http.ResponseWriter, r *http.Request, err error) {
	status, detail := http.StatusBadRequest, "the request's body could not be read"
	var tooLarge *http.MaxBytesError
	var body *bodyError
	switch {
	case errors.As(err, &tooLarge):
		status, detail = http.StatusRequestEntityTooLarge, "the request's body is too large"
	case errors.As(err, &body) && (body.status == http.StatusRequestTimeout || !x.clientLeft(r)):
		// A client that was too slow is told so, even if it has left meanwhile.
		status, detail = body.status, body.detail
		if body.cause != nil {
			x.cause = body.cause.Error()
		}
	case x.clientLeft(r):
		x.gone(r)
	default:
		x.cause = err.Error()
	}
	switch status {
	case http.StatusRequestEntityTooLarge:
		x.refuse(w, r, refusedBody, status, detail)
	case http.StatusRequestTimeout:
		x.refuse(w, r, refusedSlow, status, detail)
	default:
		x.fail(w, r, status, detail)
	}
}

// leaveBody makes sure that what is left of a body is not taken for another
// request, nor waited for.
func (x *exchange) leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	if b, ok := r.Body.(*guardedBody); ok && b.done {
		return
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	_ = x.answer.control.SetReadDeadline(time.Now().Add(lingerTime)) // as above
}

// gone ends a request whose client has left.
func (x *exchange) gone(r *http.Request) {
	x.answer.status = statusClientGone
	if x.cause == "" {
		x.cause = "the client left"
		if err := context.Cause(r.Context()); err != nil && !errors.Is(err, context.Canceled) {
			x.cause = err.Error()
		}
	}
	panic(http.ErrAbortHandler)
}
