package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/wire"
)

const (
	healthPath        = "/healthz"
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 10 * time.Minute // longer than the gateway keeps idle connections
)

// HTTP has h serve the requests that match a pattern of [net/http.ServeMux] and come
// through the gateway. Call it during setup.
//
// An error that h returns before it has written anything becomes problem+json, see
// [Error]; after that the connection is cut, so that the client sees that the
// response is not whole. h may hijack the connection (WebSocket): it then counts as
// running until h returns; watch [Service.Context] to end it when the service stops.
//
// The context has the user, the request id, the trace and the deadline, see [User].
// The deadline is one for the head: once the response has begun, it may stream for as
// long as the client stays, and the context ends only when that leaves.
// GET /healthz answers 200 unless a pattern for that path is given here.
func (s *Service) HTTP(pattern string, h func(http.ResponseWriter, *http.Request) error) {
	defer func() {
		if p := recover(); p != nil { // net/http panics on bad and conflicting patterns
			s.fault(fmt.Errorf("serve %q: %v", pattern, p))
		}
	}()
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		s.serve(w.(*responseWriter), r, h)
	})
	s.handlers++
	fields := strings.Fields(pattern)
	if fields[len(fields)-1] == healthPath {
		s.ownHealth = true
	}
}

// serveHTTP is the handler of the server.
func (s *Service) serveHTTP(rw http.ResponseWriter, r *http.Request) {
	s.openHTTP.add()
	defer s.openHTTP.done()
	w := &responseWriter{ResponseWriter: rw}
	c, refused := s.begin(r.Context(), r.Header, "")
	ctx := untilHead(c, r.Header) //nolint:contextcheck // c is derived from r.Context in begin
	defer ctx.cancel(context.Canceled)
	w.begun = ctx.begun
	r = r.WithContext(ctx) //nolint:contextcheck // as above
	if refused != nil {
		s.failHTTP(w, r, &Error{Status: http.StatusUnauthorized, Public: "the identity is not valid", Cause: refused})
		return
	}
	if h, pattern := s.mux.Handler(r); pattern == "" {
		s.unmatched(w, r, h)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// serve runs a handler.
func (s *Service) serve(w *responseWriter, r *http.Request, h func(http.ResponseWriter, *http.Request) error) {
	err := protect(w, r, h)
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // asked for by the handler
	}
	if err != nil {
		s.failHTTP(w, r, err)
	}
}

func protect(w http.ResponseWriter, r *http.Request, h func(http.ResponseWriter, *http.Request) error) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = http.ErrAbortHandler
		default:
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return h(w, r)
}

// failHTTP logs an error and answers with its public half.
func (s *Service) failHTTP(w *responseWriter, r *http.Request, err error) {
	o := judge(r.Context(), err)
	s.report(r.Context(), o, err, wire.KeyRoute, r.Method+" "+r.URL.Path)
	switch {
	case w.hijacked:
	case w.wrote:
		panic(http.ErrAbortHandler) // cuts the connection
	default:
		wire.WriteProblem(w, r, wire.Problem{Status: o.status, Detail: o.public, RequestID: RequestID(r.Context())})
	}
}

// unmatched turns the mux's 404 and 405 into problems.
func (s *Service) unmatched(w *responseWriter, r *http.Request, h http.Handler) {
	seen := &statusWriter{header: w.Header()}
	h.ServeHTTP(seen, r)
	detail := "there is nothing at this path"
	if seen.status == http.StatusMethodNotAllowed {
		detail = "the method is not allowed here"
	}
	wire.WriteProblem(w, r, wire.Problem{Status: seen.status, Detail: detail, RequestID: RequestID(r.Context())})
}

// statusWriter keeps the status and the headers of a response.
type statusWriter struct {
	header http.Header
	status int
}

func (w *statusWriter) Header() http.Header         { return w.header }
func (w *statusWriter) WriteHeader(status int)      { w.status = status }
func (w *statusWriter) Write(b []byte) (int, error) { return len(b), nil }

// responseWriter knows whether a response has begun. It can do all that net/http's
// own can: Unwrap serves http.ResponseController, the rest those that assert.
type responseWriter struct {
	http.ResponseWriter
	wrote, hijacked bool
	begun           func() // called when the response begins, perhaps again
}

func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *responseWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(b []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(b)
}

func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, r)
}

func (w *responseWriter) Flush() { _ = w.FlushError() }

func (w *responseWriter) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.hijacked = true
		w.begun()
	}
	return conn, rw, err
}

func (w *responseWriter) begin() {
	if !w.wrote {
		w.wrote = true
		w.begun()
	}
}

// headContext is the context of an HTTP handler. The request's deadline is one for
// the head of the response: once that has begun, it may stream for as long as
// client and service like.
type headContext struct {
	context.Context
	cancel   context.CancelCauseFunc
	deadline time.Time
	timer    *time.Timer // nil without a deadline
	over     atomic.Bool // the deadline does not count any more
}

func untilHead(parent context.Context, header map[string][]string) *headContext {
	c := &headContext{}
	c.Context, c.cancel = context.WithCancelCause(parent)
	c.over.Store(true)
	if v := header[wire.HeaderDeadline]; len(v) == 1 {
		if t, ok := wire.ParseDeadline(v[0]); ok {
			c.deadline = t
			c.over.Store(false)
			c.timer = time.AfterFunc(time.Until(t), func() { c.cancel(context.DeadlineExceeded) })
		}
	}
	return c
}

// begun is called when the response has begun.
func (c *headContext) begun() {
	if c.timer != nil && c.timer.Stop() {
		c.over.Store(true)
	}
}

// Deadline is that for the head of the response.
func (c *headContext) Deadline() (time.Time, bool) {
	if c.over.Load() {
		return c.Context.Deadline()
	}
	return c.deadline, true
}

// Err says that the deadline has passed as the standard library does.
func (c *headContext) Err() error {
	err := c.Context.Err()
	if err != nil && errors.Is(context.Cause(c.Context), context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

// listen starts the server if the environment gives an address.
func (s *Service) listen() error {
	if s.config.socket == "" && s.config.port == "" {
		if s.handlers > 0 {
			return fmt.Errorf("serve HTTP: neither %s nor %s is set", wire.EnvSocket, wire.EnvPort)
		}
		return nil
	}
	if !s.ownHealth {
		s.mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ok\n") // a prober that is gone is nothing to report
		})
	}
	l, err := s.listener()
	if err != nil {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		BaseContext:       func(net.Listener) context.Context { return s.work },
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.breakdown(fmt.Errorf("serve HTTP: %w", err))
		}
	})
	s.atEnd(func() error {
		err := s.server.Close()
		serving.Wait()
		return err
	})
	return nil
}

func (s *Service) listener() (net.Listener, error) {
	if s.config.socket == "" {
		return net.Listen("tcp", net.JoinHostPort("127.0.0.1", s.config.port))
	}
	// The path is this instance's alone; what is there was left by a crash.
	if info, err := os.Lstat(s.config.socket); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(s.config.socket); err != nil {
			return nil, fmt.Errorf("remove old socket: %w", err)
		}
	}
	l, err := net.Listen("unix", s.config.socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(s.config.socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// drainHTTP stops accepting and waits for open requests, hijacked ones too, or until
// ctx ends.
func (s *Service) drainHTTP(ctx context.Context) error {
	if s.server == nil {
		return nil
	}
	// Shutdown stops accepting at once but looks for open requests more and more
	// seldom: it is called again when there are none, to see the responses out.
	now, cancel := context.WithCancel(ctx)
	cancel()
	_ = s.server.Shutdown(now) // it always tells that now has ended
	if n := s.openHTTP.wait(ctx); n > 0 {
		return fmt.Errorf("drain HTTP: %d requests are still running: %w", n, context.Cause(ctx))
	}
	if err := s.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("drain HTTP: %w", err)
	}
	return nil
}
