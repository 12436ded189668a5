package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/lasting"
)

const (
	linkBuffer   = 16 << 10
	continueTime = time.Second
)

// copyBuffers are for bodies.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// link is one connection to an endpoint. It belongs to one exchange at a time.
type link struct {
	c        net.Conn
	br       *bufio.Reader
	raw      syscall.RawConn
	peek     func(fd uintptr) bool
	live     bool // what peek found
	keep     time.Duration
	expires  time.Time
	reusable bool
	ended    bool      // the answer was ended before its end
	moved    time.Time // when the read deadline was put off last
	head     head
}

// long ago: makes every pending operation of a connection time out.
var past = time.Unix(1, 0)

func newLink(c net.Conn) *link {
	l := &link{c: c, br: bufio.NewReaderSize(c, linkBuffer), keep: linkIdle}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			l.raw = raw
		}
	}
	l.peek = func(fd uintptr) bool {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Neither an end nor bytes that nobody asked for.
		l.live = n <= 0 && (errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR))
		return true
	}
	return l
}

// alive reports whether an idle connection can take a request: the service has
// neither closed it nor said anything.
func (l *link) alive() bool {
	if l.br.Buffered() > 0 {
		return false
	}
	if l.raw == nil {
		return true
	}
	return l.raw.Read(l.peek) == nil && l.live
}

func (l *link) close() { _ = l.c.Close() } // nothing is lost with it

// interrupt breaks off what the connection is doing.
func (l *link) interrupt() { _ = l.c.SetDeadline(past) } // fails only on a closed connection

// exchange sends one request and copies its answer. Afterwards reusable says
// whether the connection can take another.
func (l *link) exchange(to Receiver, r *http.Request, q *Request) error {
	l.reusable, l.moved = false, time.Time{}
	if n, err := l.c.Write(q.Head); err != nil {
		if n == 0 {
			return &SendError{Unsent, err}
		}
		// The service may have answered before it had read all.
		if !q.Stream && !l.answered() {
			return &SendError{Sent, err}
		}
	}
	var f *feeder
	if q.Stream {
		f = newFeeder(to, l, r, q)
		defer f.stop()
		if !q.Expect {
			f.start()
		}
	}
	status, err := l.final(to, r, q, f)
	if err != nil {
		if f != nil {
			if bodyErr := f.failure(TimedOut(err) || r.Context().Err() != nil); bodyErr != nil {
				return bodyErr
			}
		}
		return err
	}
	if status == http.StatusSwitchingProtocols {
		return l.upgrade(to, q)
	}
	return l.copyAnswer(to, r, f)
}

// answered reports whether something to read is there although writing failed.
func (l *link) answered() bool {
	_, err := l.br.Peek(1)
	return err == nil
}

// final reads heads up to the final one, and passes informational ones on.
func (l *link) final(to Receiver, r *http.Request, q *Request, f *feeder) (int, error) {
	if q.Expect {
		// A service that does not know 100 Continue waits for the body: so does the
		// gateway not wait for ever.
		timer := time.AfterFunc(continueTime, f.start)
		defer timer.Stop()
	}
	for range MaxInformation {
		if err := l.head.read(l.br); err != nil {
			var malformed *malformedError
			switch {
			case errors.As(err, &malformed):
				return 0, &SendError{Refused, err}
			case errors.Is(err, io.EOF):
				err = errClosedBefore
			}
			return 0, &SendError{Sent, err}
		}
		switch status := l.head.status; {
		case status == http.StatusContinue:
			if f != nil {
				f.start()
			}
		case status == http.StatusSwitchingProtocols:
			if q.Upgrade == "" {
				return 0, &SendError{Refused, malformed("the service switched protocols without being asked")}
			}
			return status, nil
		case status < http.StatusOK:
			if r.ProtoAtLeast(1, 1) {
				l.inform(to, status)
			}
		default:
			return status, nil
		}
	}
	return 0, &SendError{Refused, malformed("too many informational answers")}
}

// inform passes an informational answer on, such as 103 Early Hints.
func (l *link) inform(to Receiver, status int) {
	h := to.Header()
	added := l.head.copyTo(h)
	to.WriteHeader(status)
	for _, name := range added {
		delete(h, name)
	}
}

// copyAnswer copies the final answer. The client's head is not written before
// anything that can be known to be wrong with it is known.
func (l *link) copyAnswer(to Receiver, r *http.Request, f *feeder) error {
	length, chunked, err := l.head.framing(r.Method)
	if err != nil {
		return &SendError{Refused, err}
	}
	h := to.Header()
	l.head.copyTo(h)
	if l.head.status == http.StatusNoContent {
		delete(h, "Content-Length")
	}
	if l.keep = l.head.keepAlive(); length < 0 && !chunked || l.head.closes() {
		l.keep = 0
	}
	if !f.settled() && r.ProtoMajor == 1 { // HTTP/2 ends the stream alone
		// The rest of the request's body will not be read.
		h.Set("Connection", "close")
	}
	if chunked {
		for name := range l.head.trailers() {
			h.Add("Trailer", name)
		}
	}
	to.WriteHeader(l.head.status)
	if length != 0 || chunked {
		var body io.Reader = l.br
		switch {
		case chunked:
			body = httputil.NewChunkedReader(l.br)
		case length > 0:
			body = &io.LimitedReader{R: l.br, N: length}
		}
		n, err := l.copyBody(to, body, length)
		if err == nil && length > 0 && n < length {
			err = io.ErrUnexpectedEOF
		}
		if err == nil && chunked && !l.ended {
			err = l.copyTrailers(to)
		}
		if err != nil {
			return &SendError{Begun, err}
		}
	}
	l.reusable = l.keep > 0 && !l.ended && f.settled() && l.br.Buffered() == 0
	return nil
}

// copyBody copies a body, and sends on at once what the service has sent.
func (l *link) copyBody(to Receiver, body io.Reader, length int64) (sum int64, err error) {
	buf := copyBuffers.Get().(*[32 << 10]byte) // the pool holds nothing else
	defer copyBuffers.Put(buf)
	var ev *lasting.Events
	if length < 0 && l.head.events() {
		ev = &lasting.Events{}
	}
	rest, known := body.(*io.LimitedReader)
	kernel := known && l.raw != nil
	var s *lasting.Stream // from the first time that the service is waited for
	for {
		if s == nil && l.br.Buffered() == 0 {
			s = lasting.NewStream(ev != nil, waker(l.c))
			to.Lasts(s)
			defer to.Ended(s)
			if sum == 0 {
				to.Flush() // the head: what follows may be long in coming
			}
		}
		if int64(l.br.Buffered()) < length-sum || length < 0 {
			l.stretch()
		}
		if by, ok := s.Ending(); ok {
			l.ended = true
			return sum, l.copyEvent(to, body, ev, by, buf[:])
		}
		if kernel && l.br.Buffered() == 0 && rest.N >= spliceLeast && to.Direct() {
			n, err := l.splice(to, rest)
			sum += n
			_, ending := s.Ending()
			switch {
			case sum == length:
				return sum, err
			case ending, n > 0 && err == nil:
				continue
			case n > 0 || errors.As(err, new(*ClientError)):
				return sum, err
			}
			// What is wrong, reading tells.
		}
		if s != nil && l.br.Buffered() == 0 {
			// Who is woken here can go on; the reader of chunks could not.
			if _, err := l.br.Peek(1); err != nil {
				if _, ending := s.Ending(); ending {
					continue
				}
			}
		}
		n, err := body.Read(buf[:])
		if n > 0 {
			sum += int64(n)
			if ev != nil {
				ev.Pass(buf[:n])
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				return sum, &ClientError{werr}
			}
			if sum != length && l.br.Buffered() == 0 && err == nil {
				to.Flush()
			}
		}
		switch {
		case errors.Is(err, io.EOF) || sum == length:
			return sum, nil
		case err != nil:
			return sum, err
		}
	}
}

const (
	// spliceLeast is the least of a body that is left to the kernel: less is copied
	// sooner than handed over.
	spliceLeast = 32 << 10
	// spliceMost is the most that is handed over at once, so that the client's pace is seen.
	spliceMost = 128 << 10
)

// splice waits until something of a body is there, and has the kernel hand it to
// the client without copying it. It takes no more than is there, so that an error,
// and the time that it takes, are the client's; it returns 0 if the service has
// ended or failed.
func (l *link) splice(to Receiver, rest *io.LimitedReader) (int64, error) {
	there := 0
	if err := l.raw.Read(func(fd uintptr) bool {
		var err error
		there, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if err != nil || there > 0 {
			return true
		}
		var one [1]byte
		_, _, err = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN)
	}); err != nil || there <= 0 {
		return 0, err
	}
	// One level of LimitedReader is what the kernel's copy can see through.
	n, err := to.ReadFrom(&io.LimitedReader{R: l.c, N: min(int64(there), rest.N, spliceMost)})
	rest.N -= n
	if err != nil {
		err = &ClientError{err}
	}
	return n, err
}

// copyEvent copies what is missing of an event, if the answer consists of events.
func (l *link) copyEvent(to Receiver, body io.Reader, ev *lasting.Events, by time.Time, buf []byte) error {
	if ev == nil {
		return lasting.ErrEnded
	}
	_ = l.c.SetReadDeadline(by) // fails only on a closed connection
	for !ev.Between() {
		n, err := body.Read(buf)
		n, _ = ev.Next(buf[:n])
		if _, werr := to.Write(buf[:n]); werr != nil {
			return &ClientError{werr}
		}
		if err != nil {
			return nil //nolint:nilerr // half an event does no harm
		}
	}
	return nil
}

// waker returns what gets a reader of c out of its Read.
func waker(c net.Conn) func() {
	return func() { _ = c.SetReadDeadline(past) } // fails only on a closed connection
}

// stretch puts the read deadline off: an answer may take as long as it likes if
// it makes progress.
func (l *link) stretch() {
	if now := time.Now(); now.Sub(l.moved) >= time.Second {
		l.moved = now
		_ = l.c.SetDeadline(now.Add(StreamIdle)) // fails only on a closed connection, as the read will
	}
}

// copyTrailers reads what follows the last chunk.
func (l *link) copyTrailers(to Receiver) error {
	if line, err := l.br.Peek(2); err != nil {
		return err
	} else if line[0] == '\r' && line[1] == '\n' {
		_, err = l.br.Discard(2)
		return err
	}
	declared := l.head.trailers()
	var t head
	if err := t.readFields(l.br); err != nil {
		return err
	}
	h := to.Header()
	for _, f := range t.fields {
		if !hop.Trailer(f.Name) {
			continue
		}
		if declared[f.Name] {
			h.Add(f.Name, f.Value)
			continue
		}
		to.Flush() // so that the body goes out in chunks, behind which trailers fit
		h.Add(http.TrailerPrefix+f.Name, f.Value)
	}
	return nil
}

// upgrade joins the client's and the service's connection.
func (l *link) upgrade(to Receiver, q *Request) error {
	_ = l.c.SetDeadline(time.Time{}) // fails only on a closed connection
	early := lasting.Ahead(l.br)
	l.br = nil // a tunnel that idles holds no buffer
	l.head.copyTo(to.Header())
	protocol, ok := l.head.lookup("Upgrade")
	if !ok {
		protocol = q.Upgrade
	}
	if err := to.Tunnel(lasting.NewTunnel(l.c, q.Upgrade), protocol, early); err != nil {
		return &SendError{Begun, err}
	}
	return nil
}
