package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead/internal/wire"
)

// MaxRequest bounds the body of a request, in bytes.
const MaxRequest = 1 << 20

const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	// eventTimeout bounds the writing of a line that a long operation tells, so
	// that a caller who stopped reading does not hold the operation up.
	eventTimeout = 10 * time.Second
	// closeGrace is what open calls get to answer when the server closes, before
	// their contexts end; afterwards cutGrace, before Close gives them up.
	closeGrace = 2 * time.Second
	// hurryTimeout bounds the writing of a line when the server closes.
	hurryTimeout = time.Second
	cutGrace     = 2 * time.Second
)

// ServerOptions are the settings of a [Server].
type ServerOptions struct {
	Logger *slog.Logger // nil: nothing is logged
	// Version is named to a caller who asks for a verb that does not exist.
	Version string
	// Allow decides whether the process with that id may use the socket, before
	// its first request; its error is told to the caller. The process has our
	// user id, and may already have ended: then Allow must refuse it. Nil allows
	// all processes of our user.
	Allow func(pid int) error
	// Inherited is the socket of the server in another process, see
	// [Server.Socket]; [Listen] closes it. Nil: a new one is made.
	Inherited *os.File
}

// Server answers the verbs on the control socket. All methods are safe for
// concurrent use.
type Server struct {
	opts   ServerOptions
	dir    string // the data folder
	ln     *socket
	http   *http.Server
	grace  time.Duration
	calls  context.Context // ends when open calls shall end
	stream context.Context // ends when open streams shall end

	cancelCalls, cancelStream context.CancelCauseFunc

	closing  sync.Once
	closeErr error

	mu      sync.Mutex // guards the fields below
	methods map[string]method
	open    int           // requests being answered
	idle    chan struct{} // closed when open falls to 0 while shut
	shut    bool
	left    bool
}

// method answers one verb: it writes its lines, all but an error, to out.
type method struct {
	stream bool
	answer func(ctx context.Context, body []byte, out *answer) error
}

// Listen makes the socket at path, with mode 0600, in a folder that is created
// with mode 0700 if it does not exist. It fails when another process listens
// there; a socket that nobody listens on is replaced. The verbs are set with
// [Handle] and [HandleStream], then [Server.Serve] answers them.
func Listen(path string, opts ServerOptions) (*Server, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	var ln *socket
	var err error
	if opts.Inherited != nil {
		ln, err = inherit(path, opts.Inherited)
	} else {
		ln, err = bind(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	s := &Server{opts: opts, dir: filepath.Dir(path), ln: ln, grace: closeGrace, methods: map[string]method{}, idle: make(chan struct{})}
	s.calls, s.cancelCalls = context.WithCancelCause(context.Background())
	s.stream, s.cancelStream = context.WithCancelCause(context.Background())
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
		ConnContext:       s.admit,
	}
	return s, nil
}

// Serve answers requests until [Server.Close], then returns nil.
func (s *Server) Serve() error {
	err := s.http.Serve(s.ln)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || s.left {
		return nil
	}
	return fmt.Errorf("serve control socket: %w", err)
}

// Socket returns a duplicate of the listening socket, for the server in another
// process that is to take over. The caller closes it; its Fd must not be called,
// which would make the socket of both processes blocking.
func (s *Server) Socket() (*os.File, error) {
	f, err := s.ln.File()
	if err != nil {
		return nil, fmt.Errorf("duplicate control socket: %w", err)
	}
	return f, nil
}

// Leave takes no more callers, who come to the process that has the duplicate of
// the socket. Open calls go on until Close, which leaves the socket's file alone.
func (s *Server) Leave() error {
	s.mu.Lock()
	s.left = true
	s.mu.Unlock()
	if err := s.ln.leave(); err != nil {
		return fmt.Errorf("leave control socket: %w", err)
	}
	return nil
}

// Close removes the socket, ends the streams, gives open calls two seconds to
// answer, then ends their contexts, and cuts the connections. It reports calls
// that did not end within two more seconds. Later calls return the first
// result. It must not be called from within a handler, which would wait for
// itself.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Server) close() error {
	errClosing := &Error{Code: CodeClosed, Message: "fairlead stops"}
	s.mu.Lock()
	s.shut = true
	if s.open == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	// The listener alone is closed first: http.Server closes it together with the
	// connections, and open calls still answer on those.
	err := s.ln.Close()

	s.cancelStream(errClosing)
	if !waitFor(s.idle, s.grace) {
		s.cancelCalls(errClosing)
		if !waitFor(s.idle, cutGrace) {
			s.mu.Lock()
			err = errors.Join(err, fmt.Errorf("close control socket: %d calls did not end", s.open))
			s.mu.Unlock()
		}
	}
	s.cancelCalls(errClosing)
	if cerr := s.http.Close(); cerr != nil && !errors.Is(cerr, net.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("close control socket: %w", cerr))
	}
	return err
}

func waitFor(ch <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ch:
		return true
	case <-t.C:
		return false
	}
}

// begin counts a request; false when the server is closing.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return false
	}
	s.open++
	return true
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.shut && s.open == 0 {
		close(s.idle)
	}
}

// Handle answers POST /v1/<name> with h. The context ends when the caller goes
// away or the server closes. tell sends an event to the caller; it may be called
// from several goroutines, sets the event's time if it has none, and does nothing
// once h has returned. It panics when the name is taken.
func Handle[Req, Rep any](s *Server, name string, h func(ctx context.Context, req Req, tell func(Event)) (Rep, error)) {
	s.register(name, method{answer: func(ctx context.Context, body []byte, out *answer) error {
		req, err := decode[Req](body)
		if err != nil {
			return err
		}
		rep, err := h(ctx, req, func(e Event) {
			if e.Time.IsZero() {
				e.Time = time.Now()
			}
			// A caller who is gone learns nothing more; the context tells h.
			_ = out.write("event", e, eventTimeout)
		})
		if err != nil {
			return err
		}
		return out.write("result", rep, eventTimeout)
	}})
}

// HandleStream answers POST /v1/<name> with the items that h emits. emit blocks
// while the caller does not read, and returns an error once the caller is gone;
// it may be called from several goroutines until h returns. The stream ends well
// when h returns nil. It panics when the name is taken.
func HandleStream[Req, Item any](s *Server, name string, h func(ctx context.Context, req Req, emit func(Item) error) error) {
	s.register(name, method{stream: true, answer: func(ctx context.Context, body []byte, out *answer) error {
		req, err := decode[Req](body)
		if err != nil {
			return err
		}
		err = h(ctx, req, func(item Item) error { return out.write("item", item, 0) })
		if err != nil {
			return err
		}
		return out.write("result", Empty{}, eventTimeout)
	}})
}

func (s *Server) register(name string, m method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.methods[name]; taken {
		panic("control: method " + name + " is handled twice")
	}
	s.methods[name] = m
}

// decode reads a request. Unknown fields are refused: an older node that passed
// over a newer "dry_run" would do what nobody asked for.
func decode[Req any](body []byte) (Req, error) {
	var req Req
	if len(bytes.TrimSpace(body)) == 0 {
		return req, nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return req, &Error{Code: CodeBadRequest, Message: "read request: " + err.Error()}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return req, &Error{Code: CodeBadRequest, Message: "read request: something follows the JSON object"}
	}
	return req, nil
}

type refusal struct{}

// admit identifies the caller as soon as it connects: later its process id may
// already be another's.
func (s *Server) admit(ctx context.Context, conn net.Conn) context.Context {
	p, err := peerOf(conn)
	switch {
	case err != nil:
	case p.uid != os.Geteuid():
		err = fmt.Errorf("user %d may not use this socket", p.uid)
	case s.opts.Allow != nil:
		err = s.opts.Allow(p.pid)
	}
	if err == nil {
		return ctx
	}
	s.opts.Logger.WarnContext(ctx, "control caller refused", "pid", p.pid, wire.KeyReason, err.Error())
	return context.WithValue(ctx, refusal{}, err)
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	out := &answer{w: w, rc: http.NewResponseController(w)}
	// The deadline of an earlier answer on this connection is not ours.
	_ = out.rc.SetWriteDeadline(time.Time{})
	if !s.begin() {
		out.fail(&Error{Code: CodeClosed, Message: "fairlead stops"})
		return
	}
	defer s.end()
	if err := s.serve(r, out); err != nil {
		out.fail(ErrorFrom(err))
	}
	out.end()
}

func (s *Server) serve(r *http.Request, out *answer) (err error) { //nolint:contextcheck // joins the caller's context with the server's end
	ctx := r.Context()
	if refused, ok := ctx.Value(refusal{}).(error); ok {
		return &Error{Code: CodeForbidden, Message: refused.Error()}
	}
	if r.Method != http.MethodPost {
		return &Error{Code: CodeBadRequest, Message: "the control API takes POST only, got " + r.Method}
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	s.mu.Lock()
	m, known := s.methods[name]
	names := slices.Sorted(maps.Keys(s.methods))
	s.mu.Unlock()
	if !ok || !known {
		return &Error{
			Code:    CodeUnknownMethod,
			Message: fmt.Sprintf("the running fairlead (version %s) has no verb %q", s.opts.Version, strings.TrimPrefix(r.URL.Path, "/v1/")),
			Hint:    "it has " + strings.Join(names, ", ") + "; use the fairlead that runs the system, or start the system with this one",
		}
	}
	_ = out.rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(out.w, r.Body, MaxRequest))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &Error{Code: CodeTooLarge, Message: fmt.Sprintf("the request is above %d bytes", MaxRequest)}
	}
	if err != nil {
		return &Error{Code: CodeBadRequest, Message: "read request: " + err.Error()}
	}
	// A deadline that is still set would end the context of a long call.
	_ = out.rc.SetReadDeadline(time.Time{})

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closing := s.calls
	if m.stream {
		closing = s.stream
	}
	stop := context.AfterFunc(closing, func() { //nolint:contextcheck // the server's end, beside the caller's
		cancel(context.Cause(closing))
		out.hurry()
	})
	defer stop()
	defer func() {
		if v := recover(); v != nil {
			s.opts.Logger.ErrorContext(ctx, "control method panicked", "method", name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = &Error{Code: CodeInternal, Message: name + " failed inside fairlead; this is a bug", Hint: "its details are in " + filepath.Join(s.dir, "logs", "fairlead.log")}
		}
	}()
	if err := m.answer(ctx, body, out); err != nil {
		// What the caller shall know is why the context ended, if it did.
		if _, own := errors.AsType[*Error](err); !own && errors.Is(err, context.Canceled) {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// answer writes the lines of one answer.
type answer struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu    sync.Mutex // guards the writing and the fields below
	begun bool
	ended bool
	buf   []byte

	// deadline guards the connection's write deadline and hurried; a write that
	// blocks holds mu but not this.
	deadline sync.Mutex
	hurried  bool
}

var errEnded = errors.New("the answer has ended")

// write writes one line and hands it to the caller at once. Zero timeout: it
// waits for the caller as long as there is one.
func (a *answer) write(key string, value any, timeout time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return errEnded
	}
	return a.put(http.StatusOK, key, value, timeout)
}

func (a *answer) put(status int, key string, value any, timeout time.Duration) error {
	var err error
	if a.buf, err = appendLine(a.buf[:0], key, value); err != nil {
		return err
	}
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", "application/x-ndjson")
		a.w.Header().Set("Cache-Control", "no-store")
		a.w.WriteHeader(status)
	}
	a.setDeadline(timeout)
	if _, err := a.w.Write(a.buf); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := a.rc.Flush(); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

func (a *answer) setDeadline(timeout time.Duration) {
	a.deadline.Lock()
	defer a.deadline.Unlock()
	var t time.Time
	switch {
	case a.hurried:
		t = time.Now().Add(hurryTimeout)
	case timeout > 0:
		t = time.Now().Add(timeout)
	}
	_ = a.rc.SetWriteDeadline(t)
}

// hurry bounds the writing from now on, also of a line on which a caller who
// does not read keeps us waiting.
func (a *answer) hurry() {
	a.deadline.Lock()
	a.hurried = true
	a.deadline.Unlock()
	a.setDeadline(hurryTimeout)
}

// fail ends the answer with e. It sets the status if nothing was written before.
func (a *answer) fail(e *Error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	a.ended = true
	// A caller who is gone learns nothing more.
	_ = a.put(e.status(), "error", e, eventTimeout)
}

// end makes later lines of stray goroutines harmless: the response must not be
// touched after its handler returned.
func (a *answer) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
}
