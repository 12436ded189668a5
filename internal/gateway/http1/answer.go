package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"fairlead/internal/gateway/hop"
)

const (
	heldMost = 2 << 10 // bytes of a body that are held to learn its length
	sendMost = 8 << 10 // bytes that are copied behind what waits to be sent
)

// delimited is how the body of an answer is delimited.
type delimited uint8

const (
	open    delimited = iota // not decided: the handler gave no length
	none                     // there is no body, whatever the handler writes
	length                   // by the length the handler gave
	chunked                  // in chunks
	untilIt                  // by the end of the connection, for HTTP/1.0
)

// answer is the http.ResponseWriter of a request. Beside that it satisfies
// http.Flusher, http.Hijacker, io.ReaderFrom, io.StringWriter and what
// http.ResponseController asks for.
type answer struct {
	c      *conn
	t      *turn
	header http.Header
	fields []line // of the head, in order

	out     []byte // to be sent; begins with the head
	held    []byte // body, while shape is open
	vec     net.Buffers
	vecBuf  [2][]byte
	status  int // 0 until the head is made
	shape   delimited
	length  int64 // of the body, -1 if not given
	written int64
	promise bool // the head names trailers
	closes  bool // the connection ends with this answer
	err     error
}

// line is a header with its values.
type line struct {
	name   string
	values []string
}

func (a *answer) begin(c *conn, t *turn) { a.c, a.t, a.length = c, t, -1 }

// reset drops what one request left.
func (a *answer) reset() {
	if len(a.header) > 2*firstFields {
		a.header = http.Header{}
	}
	clear(a.header)
	clear(a.fields)
	out, held := a.out[:0], a.held[:0]
	if cap(out) > keepRoom {
		out = make([]byte, 0, firstRoom)
	}
	*a = answer{header: a.header, fields: a.fields[:0], out: out, held: held}
}

// Header returns the header of the answer to come.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader makes the head. Informational ones (1xx) are sent at once; another
// final one is ignored.
func (a *answer) WriteHeader(status int) {
	switch {
	case status < 100 || status > 999:
		panic("http1: invalid status " + strconv.Itoa(status))
	case a.c.hijacked:
	case a.status != 0:
		a.c.s.log.Debug("a handler answered twice", "status", status)
	case status == http.StatusContinue:
		if a.t.body.c != nil {
			a.t.body.proceed()
		}
	case status < http.StatusOK && status != http.StatusSwitchingProtocols:
		if a.t.req.ProtoMinor > 0 {
			a.statusLine(status)
			a.writeFields()
			a.out = append(a.out, "\r\n"...)
			a.send(nil)
		}
	default:
		a.status = status
		a.makeHead()
	}
}

func (a *answer) statusLine(status int) {
	a.out = append(a.out, "HTTP/1.1 "...)
	a.out = strconv.AppendInt(a.out, int64(status), 10)
	a.out = append(a.out, ' ')
	a.out = append(a.out, http.StatusText(status)...)
	a.out = append(a.out, "\r\n"...)
}

// writeFields appends the handler's header, sorted, without what this side decides.
func (a *answer) writeFields() {
	a.fields = a.fields[:0]
	for name, values := range a.header {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive":
			continue
		}
		if len(values) == 0 || strings.HasPrefix(name, http.TrailerPrefix) || !hop.Token(name) {
			continue
		}
		i := len(a.fields)
		a.fields = append(a.fields, line{})
		for ; i > 0 && a.fields[i-1].name > name; i-- {
			a.fields[i] = a.fields[i-1]
		}
		a.fields[i] = line{name, values}
	}
	for i := range a.fields {
		for _, v := range a.fields[i].values {
			a.out = appendField(a.out, a.fields[i].name, v)
		}
	}
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	start := len(dst)
	dst = append(dst, trim(value)...)
	for i := start; i < len(dst); i++ {
		if dst[i] == '\r' || dst[i] == '\n' || dst[i] == 0 {
			dst[i] = ' '
		}
	}
	return append(dst, "\r\n"...)
}

// makeHead appends the head as far as it is known. Later changes of the header
// are for trailers only.
func (a *answer) makeHead() {
	a.statusLine(a.status)
	a.writeFields()
	if _, ok := a.header["Date"]; !ok {
		a.out = a.c.s.appendDate(a.out)
	}
	bodiless := a.status < http.StatusOK || a.status == http.StatusNoContent
	if given := a.header["Content-Length"]; len(given) > 0 && !bodiless {
		if n, ok := parseLength(given[0]); ok {
			a.length = n
		} else {
			a.c.s.log.Debug("a handler gave a malformed Content-Length", "length", given[0])
		}
	}
	switch {
	case bodiless || a.status == http.StatusNotModified || a.t.req.Method == http.MethodHead && a.length >= 0:
		a.endHead(none)
	case a.length >= 0:
		a.endHead(length)
	}
}

// endHead decides how the body is delimited, and what becomes of the connection.
func (a *answer) endHead(s delimited) {
	if s == chunked {
		switch {
		case a.t.req.Method == http.MethodHead:
			s = none
		case a.t.req.ProtoMinor == 0:
			s = untilIt
			a.closes = true
		}
	}
	a.shape = s
	if a.length >= 0 {
		a.out = append(a.out, "Content-Length: "...)
		a.out = strconv.AppendInt(a.out, a.length, 10)
		a.out = append(a.out, "\r\n"...)
	}
	if s == chunked {
		a.out = append(a.out, "Transfer-Encoding: chunked\r\n"...)
	}
	a.promise = s == chunked && len(a.header["Trailer"]) > 0
	asked := a.header["Connection"]
	a.closes = a.closes || a.t.req.Close || a.c.s.retired.Load() || a.t.body.hopeless() || listed(asked, "close")
	switch {
	case a.closes:
		a.out = append(a.out, "Connection: close\r\n"...)
	case a.t.req.ProtoMinor == 0:
		a.out = append(a.out, "Connection: keep-alive\r\n"...)
	default:
		for _, v := range asked {
			a.out = appendField(a.out, "Connection", v)
		}
	}
	a.out = append(a.out, "\r\n"...)
}

// listed reports whether a header that is a list holds an item.
func listed(lines []string, item string) bool {
	for _, l := range lines {
		for s := range strings.SplitSeq(l, ",") {
			if strings.EqualFold(trim(s), item) {
				return true
			}
		}
	}
	return false
}

// Write writes a part of the body.
func (a *answer) Write(p []byte) (int, error) {
	if err := a.may(int64(len(p))); err != nil {
		return 0, err
	}
	return a.write(p)
}

// WriteString writes a part of the body.
func (a *answer) WriteString(s string) (int, error) {
	if err := a.may(int64(len(s))); err != nil {
		return 0, err
	}
	if a.shape == open && len(a.held)+len(s) <= heldMost {
		a.held = append(a.held, s...)
		return len(s), nil
	}
	return a.write([]byte(s))
}

// may makes the head if there is none, and checks that so much more may be written.
func (a *answer) may(n int64) error {
	if a.c.hijacked {
		return http.ErrHijacked
	}
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if n == 0 {
		return nil
	}
	if a.shape == none && a.t.req.Method != http.MethodHead {
		return http.ErrBodyNotAllowed
	}
	if a.length >= 0 && a.written+n > a.length {
		return http.ErrContentLength
	}
	if a.err != nil {
		return a.err
	}
	a.written += n
	return nil
}

func (a *answer) write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if a.t.req.Method == http.MethodHead {
		return len(p), nil
	}
	switch a.shape {
	case open:
		if len(a.held)+len(p) <= heldMost {
			a.held = append(a.held, p...)
			return len(p), nil
		}
		a.endHead(chunked)
		return a.write(p)
	case chunked:
		a.out = strconv.AppendInt(a.out, int64(len(a.held)+len(p)), 16)
		a.out = append(a.out, "\r\n"...)
		a.release()
		a.put(p)
		a.out = append(a.out, "\r\n"...)
	default:
		a.release()
		a.put(p)
	}
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

// release puts what was held behind the head.
func (a *answer) release() {
	a.out = append(a.out, a.held...)
	a.held = a.held[:0]
}

// put sends p behind what waits, or adds it to that if it is small.
func (a *answer) put(p []byte) {
	if len(a.out)+len(p) <= sendMost {
		a.out = append(a.out, p...)
		return
	}
	a.send(p)
}

// send sends what waits, and p behind it.
func (a *answer) send(p []byte) {
	if a.t.body.c != nil && a.status != 0 { // hints may come before 100 Continue
		a.t.body.answered()
	}
	var err error
	switch {
	case a.err != nil:
		return
	case len(p) == 0 && len(a.out) == 0:
		return
	case len(p) == 0:
		_, err = a.c.nc.Write(a.out)
	case len(a.out) == 0:
		_, err = a.c.nc.Write(p)
	default:
		a.vecBuf = [2][]byte{a.out, p}
		a.vec = a.vecBuf[:]
		_, err = a.vec.WriteTo(a.c.nc) // one writev(2) on a socket
		a.vecBuf = [2][]byte{}
	}
	a.out = a.out[:0]
	if err != nil {
		a.err = err
		a.c.cancel()
	}
}

// Flush sends what is buffered.
func (a *answer) Flush() { _ = a.FlushError() } // the next write tells

// FlushError sends what is buffered, the head at least.
func (a *answer) FlushError() error {
	if err := a.may(0); err != nil {
		return err
	}
	if a.shape == open {
		a.endHead(chunked)
	}
	if len(a.held) > 0 {
		p := a.held
		a.held = nil
		_, _ = a.write(p) // the error is kept
		a.held = p[:0]
	}
	a.send(nil)
	return a.err
}

// finish ends the answer. It reports false if the connection is of no use any more.
func (a *answer) finish() bool {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.shape == open {
		a.settle()
	}
	if a.shape == chunked {
		a.endChunks()
	}
	a.send(nil)
	if a.err == nil && a.shape == length && a.written < a.length {
		a.c.s.log.Debug("a handler wrote less than it announced", "length", a.length, "written", a.written)
		return false
	}
	return a.err == nil && a.c.base.Context().Err() == nil
}

// settle ends a head whose body is all there.
func (a *answer) settle() {
	if len(a.header["Trailer"]) > 0 || a.hasTrailers() {
		a.endHead(chunked)
		if p := a.held; len(p) > 0 && a.shape != none {
			a.held = nil
			_, _ = a.write(p) // the error is kept
			a.held = p[:0]
		}
		return
	}
	if a.t.req.Method == http.MethodHead {
		if a.written > 0 {
			a.length = a.written
		}
		a.endHead(none)
		return
	}
	a.length = a.written
	a.endHead(length)
	a.release()
}

func (a *answer) hasTrailers() bool {
	for name := range a.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// endChunks writes the last chunk and the trailers.
func (a *answer) endChunks() {
	a.out = append(a.out, "0\r\n"...)
	for name, values := range a.header {
		key, named := strings.CutPrefix(name, http.TrailerPrefix)
		if !named && !(a.promise && listed(a.header["Trailer"], name)) || notInTrailer(http.CanonicalHeaderKey(key)) || !hop.Token(key) {
			continue
		}
		for _, v := range values {
			a.out = appendField(a.out, key, v)
		}
	}
	a.out = append(a.out, "\r\n"...)
}

// copyRooms are for bodies that are copied.
var copyRooms = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadFrom copies the rest of the body from src, through the kernel if src is a
// file and the answer's length is known.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	if err := a.may(0); err != nil {
		return 0, err
	}
	if rest := a.length - a.written; a.shape == length && a.c.tcp != nil && rest > sendMost {
		a.send(nil)
		if a.err != nil {
			return 0, a.err
		}
		// One level of LimitedReader is what the kernel's copy can see through.
		part := io.LimitedReader{R: src, N: rest}
		given, limited := src.(*io.LimitedReader)
		if limited {
			part = io.LimitedReader{R: given.R, N: min(rest, given.N)}
		}
		n, err := a.c.tcp.ReadFrom(&part)
		if limited {
			given.N -= n
		}
		a.written += n
		if err != nil {
			a.err = err
			a.c.cancel()
		}
		return n, err
	}
	room := copyRooms.Get().(*[32 << 10]byte) // the pool holds nothing else
	defer copyRooms.Put(room)
	var sum int64
	for {
		n, err := src.Read(room[:])
		if n > 0 {
			m, werr := a.Write(room[:n])
			sum += int64(m)
			if werr != nil {
				return sum, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// Hijack hands the connection over, without deadlines, with what was read ahead.
// What was written is sent before.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := a.c
	if c.hijacked {
		return nil, nil, http.ErrHijacked
	}
	if a.status != 0 {
		a.Flush()
	}
	if c.stamp.Swap(int64(over))&(1<<phaseBits-1) != int64(serving) {
		return nil, nil, net.ErrClosed
	}
	c.hijacked = true
	c.s.leave(c)
	_ = c.readBy.put(time.Time{})  // fails only on a closed connection
	_ = c.writeBy.put(time.Time{}) // as above
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	read := bytes.Clone(a.t.in.buf[a.t.in.r:a.t.in.w])
	br := bufio.NewReader(c.nc)
	if len(read) > 0 {
		br = bufio.NewReaderSize(&replay{c.nc, read}, max(firstRoom, len(read)))
		_, _ = br.Peek(len(read)) // they are at hand
	}
	return c.owner, bufio.NewReadWriter(br, bufio.NewWriter(c.nc)), nil
}

// SetReadDeadline is for http.ResponseController. It lasts for this request.
func (a *answer) SetReadDeadline(t time.Time) error { return a.c.readBy.put(t) }

// SetWriteDeadline is for http.ResponseController. It lasts for this request.
func (a *answer) SetWriteDeadline(t time.Time) error { return a.c.writeBy.put(t) }

// EnableFullDuplex is for http.ResponseController: it always is.
func (a *answer) EnableFullDuplex() error { return nil }
