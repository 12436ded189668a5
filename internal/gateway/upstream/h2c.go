package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/lasting"
)

// h2c speaks HTTP/2 without TLS, by prior knowledge (RFC 9113, 3.3), with
// one endpoint. Requests share connections. A stream that the service says it has
// not looked at (GOAWAY, REFUSED_STREAM) is sent again by the transport as long as
// its body is at hand.
//
// It makes no tunnels: an upgrade belongs to HTTP/1.1, and RFC 8441 is not spoken.
type h2c struct {
	tr     *http.Transport
	closed atomic.Bool
}

// h2cIdle is how long a connection may idle; its service hears of it by GOAWAY or pings.
const h2cIdle = 120 * time.Second

// dialError says that no connection could be made.
type dialError struct{ cause error }

func (e *dialError) Error() string { return "connect: " + e.cause.Error() }
func (e *dialError) Unwrap() error { return e.cause }

func newH2C(network, address string) *h2c {
	d := net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &h2c{tr: &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: MaxHead,
		IdleConnTimeout:        h2cIdle,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}}
}

// Sweep does nothing: the transport closes what idles.
func (u *h2c) Sweep(time.Time) {}

// Close closes what idles.
func (u *h2c) Close() {
	u.closed.Store(true)
	u.tr.CloseIdleConnections()
}

// Do sends a request on a stream of its own.
func (u *h2c) Do(to Receiver, r *http.Request, q *Request) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	late := time.AfterFunc(time.Until(q.Deadline), func() { cancel(os.ErrDeadlineExceeded) })
	defer late.Stop()
	defer func() {
		if u.closed.Load() {
			u.tr.CloseIdleConnections()
		}
	}()
	news := &informer{to: to}
	defer news.stop()
	if r.ProtoAtLeast(1, 1) {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: news.got})
	}
	req, body := h2cRequest(ctx, r, q)
	if q.Stream {
		to.Duplex()
	}
	defer body.stop(to)
	res, err := u.tr.RoundTrip(req)
	news.stop()
	if err != nil {
		if bodyErr := body.failure(); bodyErr != nil {
			return bodyErr
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return &SendError{h2cProgress(err, body), err}
	}
	defer res.Body.Close()
	err = h2cAnswer(to, r, res, late, cancel)
	if err != nil && r.Context().Err() == nil {
		if cause := context.Cause(ctx); cause != nil {
			err = &SendError{Begun, cause}
		}
	}
	return err
}

// h2cProgress says how far a request got that was not answered.
func h2cProgress(err error, body *gatedBody) Stage {
	if _, ok := errors.AsType[*dialError](err); ok {
		return Unsent
	}
	var stream http2.StreamError
	if errors.As(err, &stream) && stream.Code == http2.ErrCodeRefusedStream && !body.begun() {
		return Unsent
	}
	return Sent
}

// h2cRequest makes a request of the head that HTTP/1.1 services get, so that what
// services are told does not depend on the protocol.
func h2cRequest(ctx context.Context, r *http.Request, q *Request) (*http.Request, *gatedBody) {
	head, rest, _ := bytes.Cut(q.Head, []byte("\r\n\r\n"))
	first, lines, _ := strings.Cut(string(head), "\r\n")
	method, target, _ := strings.Cut(first, " ")
	target = strings.TrimSuffix(target, " HTTP/1.1")
	path, query, asked := strings.Cut(target, "?")
	req := (&http.Request{
		Method: method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{},
		// The host names the connection, Host what the service sees.
		URL: &url.URL{Scheme: "http", Host: "endpoint", Opaque: path, RawQuery: query, ForceQuery: asked && query == ""},
	}).WithContext(ctx)
	for line := range strings.SplitSeq(lines, "\r\n") {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case "Host":
			req.Host = value
		case "Content-Length":
			req.ContentLength, _ = strconv.ParseInt(value, 10, 64) // the gateway wrote it
		case "Transfer-Encoding":
			req.ContentLength = -1
		case "Connection", "Upgrade", "Expect":
		case "Trailer":
			if req.Trailer == nil {
				req.Trailer = http.Header{}
			}
			req.Trailer[textproto.CanonicalMIMEHeaderKey(value)] = nil
		default:
			req.Header[name] = append(req.Header[name], value)
		}
	}
	if req.Header["User-Agent"] == nil {
		req.Header["User-Agent"] = []string{""} // else the transport says who it is
	}
	body := &gatedBody{}
	switch {
	case q.Stream:
		body.src, body.live = r.Body, true
		body.end = func() {
			for name := range req.Trailer {
				req.Trailer[name] = r.Trailer[name]
			}
		}
		req.Body = body
	case len(rest) > 0:
		body.src = bytes.NewReader(rest)
		req.Body = body
		req.GetBody = func() (io.ReadCloser, error) {
			body.rewind(rest)
			return body, nil
		}
	}
	return req, body
}

// gatedBody is a request's body that the transport cannot read any more once stop
// has returned, although it may go on trying for a while.
type gatedBody struct {
	live bool   // it comes from the client as it is read
	end  func() // at the end of the body; nil: nothing to do

	mu    sync.Mutex // guards the fields below; held while a read goes on
	src   io.Reader
	over  bool
	err   error // of reading, but for io.EOF
	moved atomic.Bool
}

var errBodyOver = errors.New("the request is over")

// Read reads a part of the body.
func (b *gatedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errBodyOver
	}
	b.moved.Store(true)
	n, err := b.src.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		if b.end != nil {
			b.end()
		}
	case err != nil:
		b.err = err
	}
	return n, err
}

// Close does nothing: the body is the server's.
func (b *gatedBody) Close() error { return nil }

// rewind lets the body be read from its begin again.
func (b *gatedBody) rewind(whole []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.src = bytes.NewReader(whole)
	}
}

// begun reports whether something that cannot be had again has been read.
func (b *gatedBody) begun() bool { return b.live && b.moved.Load() }

// failure returns why the body could not be read, nil if it could.
func (b *gatedBody) failure() error {
	if !b.mu.TryLock() {
		return nil
	}
	defer b.mu.Unlock()
	return b.err
}

// stop ends the reading, if need be by breaking off what the client sends.
func (b *gatedBody) stop(to Receiver) {
	if !b.mu.TryLock() {
		if b.live {
			to.Halt()
		}
		b.mu.Lock()
	}
	b.over = true
	b.mu.Unlock()
}

// informer passes informational answers on until the final one is there.
type informer struct {
	mu   sync.Mutex // guards the fields below
	to   Receiver
	over bool
	n    int
}

func (i *informer) got(status int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || status == http.StatusContinue {
		return nil
	}
	if i.n++; i.n > MaxInformation {
		return malformed("too many informational answers")
	}
	h := i.to.Header()
	var added []string
	for name, values := range header {
		if _, own := h[name]; !own && hop.Answer(name) {
			h[name] = values
			added = append(added, name)
		}
	}
	i.to.WriteHeader(status)
	for _, name := range added {
		delete(h, name)
	}
	return nil
}

func (i *informer) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}

// h2cAnswer copies an answer to the client.
func h2cAnswer(to Receiver, r *http.Request, res *http.Response, late *time.Timer, cancel context.CancelCauseFunc) error {
	h := to.Header()
	for name, values := range res.Header {
		if hop.Answer(name) {
			h[name] = append(h[name], values...)
		}
	}
	declared := make([]string, 0, len(res.Trailer))
	for name := range res.Trailer {
		if hop.Trailer(name) {
			declared = append(declared, name)
			h.Add("Trailer", name)
		}
	}
	to.WriteHeader(res.StatusCode)
	late.Reset(StreamIdle)
	if res.ContentLength != 0 || res.Body != http.NoBody {
		if err := h2cBody(to, r, res, late, cancel); err != nil {
			return err
		}
	}
	for name, values := range res.Trailer {
		if !hop.Trailer(name) {
			continue
		}
		if !slices.Contains(declared, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	return nil
}

// h2cBody copies a body, and sends on at once what the service has sent.
func h2cBody(to Receiver, r *http.Request, res *http.Response, late *time.Timer, cancel context.CancelCauseFunc) error {
	buf := copyBuffers.Get().(*[32 << 10]byte) // the pool holds nothing else
	defer copyBuffers.Put(buf)
	var ev *lasting.Events
	if res.ContentLength < 0 && strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/event-stream") {
		ev = &lasting.Events{}
	}
	var within atomic.Bool // an event
	var s *lasting.Stream
	s = lasting.NewStream(ev != nil, func() {
		by, _ := s.Ending()
		if within.Load() {
			late.Reset(time.Until(by))
			return
		}
		cancel(lasting.ErrEnded)
	})
	to.Lasts(s)
	defer to.Ended(s)
	whole := res.ContentLength >= 0
	if !whole {
		to.Flush()
	}
	for sum := int64(0); ; {
		n, err := res.Body.Read(buf[:])
		b := buf[:n]
		_, ending := s.Ending()
		if ev != nil {
			if ending && n > 0 && !ev.Between() {
				n, _ = ev.Next(b)
				b = b[:n]
			} else if ending {
				b = nil
			} else {
				ev.Pass(b)
			}
			within.Store(!ev.Between())
		}
		if len(b) > 0 {
			sum += int64(len(b))
			if _, werr := to.Write(b); werr != nil {
				return &SendError{Begun, &ClientError{werr}}
			}
			if !whole || sum < res.ContentLength && len(b) < len(buf) {
				to.Flush()
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ending && ev != nil && (ev.Between() || err != nil) && r.Context().Err() == nil:
			return nil
		case err != nil:
			return &SendError{Begun, fmt.Errorf("read answer: %w", err)}
		case !ending:
			late.Reset(StreamIdle)
		}
	}
}
