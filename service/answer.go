package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"fairlead/internal/wire"
)

const (
	defaultConcurrency = 64
	waitingPerHandler  = 16
	maxWaitingBytes    = 64 << 20
	tellBusyEvery      = time.Second
	maxErrorHeader     = 512 // bytes of a public text in a header; the body has all of it
)

// AnswerOptions change how requests are handled. The zero value is the default.
type AnswerOptions struct {
	// Concurrency is how many requests are handled at a time, default 64.
	Concurrency int
	// Waiting is how many more may wait for their turn, default 16 times
	// Concurrency. Above it, and above 64 MiB of them, a request is answered with
	// 503 at once.
	Waiting int
}

// Answer has h answer the requests on a subject, which may hold wildcards and must
// be named under answers in the file. All instances of the service share the
// requests. Call it during setup.
//
// The request's body is JSON for Req, and the result becomes JSON. A []byte is the
// body itself, a [json.RawMessage] is checked to be JSON, struct{} is nothing: a
// request that is not looked at, a reply with 204. [Reply] gives a reply a status.
// A request without body is the zero Req. Values of a query string, which are
// strings all, are taken for numbers, booleans and lists where Req's fields are. A
// body that does not fit is answered with 400 and where it does not.
//
// h is called concurrently; see the package's documentation for its context and
// [Error] for its errors. A request that nobody waits for a reply to is handled all
// the same.
func Answer[Req, Rep any](s *Service, subject string, h func(context.Context, Req) (Rep, error), opts ...AnswerOptions) {
	var o AnswerOptions
	for _, opt := range opts {
		if opt.Concurrency != 0 {
			o.Concurrency = opt.Concurrency
		}
		if opt.Waiting != 0 {
			o.Waiting = opt.Waiting
		}
	}
	s.answer(subject, o, func(ctx context.Context, data []byte) (reply, error) {
		var req Req
		if err := decode(data, &req); err != nil {
			return reply{}, err
		}
		rep, err := h(ctx, req)
		if err != nil {
			return reply{}, err
		}
		return encode(rep)
	})
}

// handler is a typed handler without its types.
type handler func(ctx context.Context, data []byte) (reply, error)

func (s *Service) answer(subject string, o AnswerOptions, h handler) {
	if o.Concurrency == 0 {
		o.Concurrency = defaultConcurrency
	}
	if o.Waiting == 0 {
		o.Waiting = waitingPerHandler * o.Concurrency
	}
	err := checkSubject(subject, true)
	switch {
	case err != nil:
	case o.Concurrency < 0 || o.Waiting < 0:
		err = errors.New("concurrency and waiting must not be negative")
	case s.conn == nil:
		err = ErrNoBus
	}
	if err == nil {
		for _, e := range s.endpoints {
			if e.subject == subject {
				err = errors.New("it is answered already")
			}
		}
	}
	if err != nil {
		s.fault(fmt.Errorf("answer %q: %w", subject, err))
		return
	}
	s.endpoints = append(s.endpoints, &endpoint{
		s:         s,
		subject:   subject,
		group:     s.config.group,
		handler:   h,
		limit:     o.Concurrency,
		maxQueued: o.Waiting,
	})
}

// endpoint handles the requests of one Answer. Requests that cannot be handled at
// once wait here and not in the subscription, which drops silently when it is full.
type endpoint struct {
	s              *Service
	subject, group string
	handler        handler
	limit          int
	maxQueued      int
	sub            *subscription

	open inflight // requests taken and not yet answered

	mu          sync.Mutex  // guards what follows
	workers     int         // goroutines, at most limit
	active      int         // of them, those in a handler
	beginning   bool        // one of them has not taken a request yet
	queue       []*nats.Msg // first in, first out, from head on
	head        int
	queuedBytes int
	rejected    uint64
	told        time.Time // when a refusal was logged last
	requests    uint64
	failures    uint64
	lastError   string
	busy        time.Duration
}

// deliver takes a request or refuses it. It does not block.
func (e *endpoint) deliver(m *nats.Msg) {
	e.s.confineReply(m)
	e.mu.Lock()
	if e.waiting() >= e.maxQueued+e.limit-e.active || e.queuedBytes+len(m.Data) > maxWaitingBytes {
		e.rejected++
		rejected := e.rejected
		quiet := time.Since(e.told) < tellBusyEvery
		if !quiet {
			e.told = time.Now()
		}
		e.mu.Unlock()
		ctx, _ := e.s.begin(e.s.work, m.Header, m.Subject) // refused whoever it is
		if !quiet {
			e.s.logger.WarnContext(ctx, "requests refused, as many wait as may", wire.KeySubject, e.subject, "limit", e.limit, "waiting", e.maxQueued, "refused", rejected)
		}
		o := outcome{status: http.StatusServiceUnavailable, public: "too many requests are waiting"}
		e.refuse(ctx, m, o)
		e.count(0, publicLine(o.status, o.public))
		return
	}
	e.queue = append(e.queue, m)
	e.queuedBytes += len(m.Data)
	e.open.add()
	begin := e.wantWorker()
	e.mu.Unlock()
	if begin {
		go e.work()
	}
}

// confineReply takes a reply subject that is no inbox away. The bus lets an asker
// name any, and a reply there would be a message that this service sends and the
// asker may not: whoever may ask would have what this service may publish.
func (s *Service) confineReply(m *nats.Msg) {
	if m.Reply == "" || strings.HasPrefix(m.Reply, wire.InboxPrefix+".") || strings.HasPrefix(m.Reply, nats.InboxPrefix) {
		return
	}
	now := time.Now().UnixNano()
	if last := s.toldForeign.Load(); now-last >= int64(tellBusyEvery) && s.toldForeign.CompareAndSwap(last, now) {
		s.logger.Warn("request asks for its reply elsewhere than in an inbox: it gets none", wire.KeySubject, m.Subject, "reply", headerText(m.Reply))
	}
	m.Reply = ""
}

// waiting needs the lock.
func (e *endpoint) waiting() int { return len(e.queue) - e.head }

// wantWorker reports whether to start a worker, and counts it. It needs the lock.
//
// At most one worker is about to begin. If the handlers are quick, the one that runs
// has emptied the queue before the next gets a processor, and its replies leave in
// one write: that halves the cost of a small request. If the handlers wait, each
// worker that begins calls the next one until the limit is reached.
func (e *endpoint) wantWorker() bool {
	if e.beginning || e.workers == e.limit || e.waiting() == 0 {
		return false
	}
	e.beginning = true
	e.workers++
	return true
}

// next returns the request that has waited longest, nil if there is none: the worker
// then ends. It also says whether to start another worker.
func (e *endpoint) next(first bool) (m *nats.Msg, begin bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if first {
		e.beginning = false
	} else {
		e.active--
	}
	if e.waiting() == 0 {
		e.queue, e.head = e.queue[:0], 0
		e.workers--
		return nil, false
	}
	m = e.queue[e.head]
	e.queue[e.head] = nil
	e.head++
	e.queuedBytes -= len(m.Data)
	if e.head >= 1024 && e.head > len(e.queue)/2 { // keep the dead part of the slice small
		n := copy(e.queue, e.queue[e.head:])
		clear(e.queue[n:])
		e.queue, e.head = e.queue[:n], 0
	}
	e.active++
	return m, e.wantWorker()
}

// work handles requests as long as some wait.
func (e *endpoint) work() {
	returned := false
	defer func() {
		if returned {
			return
		}
		// The handler ended the goroutine (runtime.Goexit): another takes its place.
		e.mu.Lock()
		e.active--
		e.workers--
		begin := e.wantWorker()
		e.mu.Unlock()
		if begin {
			go e.work()
		}
	}()
	for m, begin := e.next(true); m != nil; m, begin = e.next(false) {
		if begin {
			go e.work()
		}
		e.serve(m)
	}
	returned = true
}

func (e *endpoint) serve(m *nats.Msg) {
	defer e.open.done()
	start := time.Now()
	ctx, refused := e.s.begin(e.s.work, m.Header, m.Subject)
	ctx.until(m.Header)
	ctx.owes.Store(m.Reply != "")
	defer ctx.owes.Store(false)
	defer ctx.end()

	failed := ""
	answered := false
	defer func() {
		if !answered {
			failed = e.fail(ctx, m, errGone)
		}
		e.count(time.Since(start), failed)
	}()
	var out reply
	var err error
	switch {
	case refused != nil:
		err = &Error{Status: http.StatusUnauthorized, Public: "the identity is not valid", Cause: refused}
	case ctx.Err() != nil && e.s.work.Err() == nil:
		err = errTooLate // it waited until nobody waits for the reply
	case ctx.Err() != nil:
		err = errStopping
	default:
		out, err = e.run(ctx, m.Data)
	}
	if err == nil {
		err = e.respond(m, out)
	}
	if err != nil {
		failed = e.fail(ctx, m, err)
	}
	answered = true
}

var errGone = errors.New("handler ended its goroutine")

// run calls the handler and turns a panic into an error that holds the stack.
func (e *endpoint) run(ctx context.Context, data []byte) (out reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return e.handler(ctx, data)
}

// panicError is a panic of a handler.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("handler panicked: %v", p.value) }

// respond sends a success.
func (e *endpoint) respond(m *nats.Msg, out reply) error {
	if m.Reply == "" {
		return nil
	}
	if out.status == http.StatusOK && out.media == mediaJSON {
		return e.sent(e.s.conn.Publish(m.Reply, out.body), len(out.body))
	}
	r := nats.NewMsg(m.Reply)
	r.Data = out.body
	if out.status != http.StatusOK {
		r.Header[wire.HeaderStatus] = []string{strconv.Itoa(out.status)}
	}
	if out.media != "" && out.media != mediaJSON {
		r.Header[wire.HeaderType] = []string{headerText(out.media)}
	}
	return e.sent(e.s.conn.PublishMsg(r), len(out.body))
}

func (e *endpoint) sent(err error, size int) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return &Error{
			Status: http.StatusInternalServerError,
			Public: "the reply is too large for the bus",
			Cause:  fmt.Errorf("send reply: %d bytes are above the bus's limit of %d; send less, or serve it over HTTP", size, e.s.conn.MaxPayload()),
		}
	}
	return err
}

// fail logs an error and sends its public half. It returns the latter.
func (e *endpoint) fail(ctx context.Context, m *nats.Msg, err error) string {
	o := judge(ctx, err)
	e.s.report(ctx, o, err, wire.KeySubject, m.Subject)
	e.refuse(ctx, m, o)
	return publicLine(o.status, o.public)
}

// refuse sends an error reply.
func (e *endpoint) refuse(ctx context.Context, m *nats.Msg, o outcome) {
	if m.Reply == "" {
		return
	}
	r := nats.NewMsg(m.Reply)
	r.Header[wire.HeaderError] = []string{headerText(o.public)}
	r.Header[wire.HeaderErrorCode] = []string{strconv.Itoa(o.status)}
	r.Header[wire.HeaderType] = []string{wire.MediaProblem}
	r.Data, _ = json.Marshal(wire.Problem{ // strings and an int always have a JSON form
		Title:     http.StatusText(o.status),
		Status:    o.status,
		Detail:    o.public,
		RequestID: RequestID(ctx),
	})
	err := e.s.conn.PublishMsg(r)
	if errors.Is(err, nats.ErrMaxPayload) { // a public text of a megabyte
		r.Data = nil
		err = e.s.conn.PublishMsg(r)
	}
	if err != nil {
		e.s.logger.WarnContext(ctx, "error reply not sent", wire.KeySubject, m.Subject, wire.KeyError, err)
	}
}

func (e *endpoint) count(took time.Duration, failed string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests++
	e.busy += took
	if failed != "" {
		e.failures++
		e.lastError = failed
	}
}

// stats are micro's, with the time of the whole handler.
func (e *endpoint) stats() *micro.EndpointStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := &micro.EndpointStats{
		Name:           e.name(),
		Subject:        e.subject,
		QueueGroup:     e.group,
		NumRequests:    int(e.requests),
		NumErrors:      int(e.failures),
		LastError:      e.lastError,
		ProcessingTime: e.busy,
	}
	if e.requests > 0 {
		st.AverageProcessingTime = e.busy / time.Duration(e.requests)
	}
	st.Data, _ = json.Marshal(map[string]any{ // numbers
		"running":  e.active,
		"waiting":  e.waiting(),
		"rejected": e.rejected,
		"limit":    e.limit,
	})
	return st
}

// name is the subject as micro allows names to be spelt.
func (e *endpoint) name() string {
	b := []byte(strings.NewReplacer("*", "any", ">", "all").Replace(e.subject))
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			b[i] = '_'
		}
	}
	return string(b)
}

// headerText makes a text fit into one header line.
func headerText(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxErrorHeader {
		s = strings.ToValidUTF8(s[:maxErrorHeader], "")
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

// checkSubject refuses what is not a subject.
func checkSubject(subject string, wildcards bool) error {
	if subject == "" {
		return errors.New("subject must not be empty")
	}
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		switch {
		case t == "":
			return errors.New("subject must not hold empty tokens")
		case strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return errors.New("subject must not hold white space")
		case (t == "*" || t == ">") && !wildcards:
			return errors.New("subject must not hold wildcards")
		case t == ">" && i < len(tokens)-1:
			return errors.New("subject must not hold > but at its end")
		}
	}
	return nil
}
