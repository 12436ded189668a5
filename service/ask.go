package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	defaultAskTimeout = 5 * time.Second
	waitForAnswerer   = 2 * time.Second // while nobody is there
	firstAskBackoff   = 5 * time.Millisecond
	maxAskBackoff     = 100 * time.Millisecond
)

// Ask sends a request to the service that answers a subject, which must be named
// under asks in the file, and returns its reply. Bodies are as for [Answer]. It is
// safe for concurrent use, also during setup.
//
// It waits until ctx ends, at most 5 seconds if ctx has no deadline. While nobody is
// there to receive the request it is sent again, for at most 2 seconds, then the
// error is [ErrUnavailable]. A request that was received is never sent twice. While the
// bus is about to be away for a moment it is held, for half of the time at most that ctx
// leaves, unless ctx is that of an [Answer] that is not given yet.
//
// The request carries the id, the trace and the deadline of ctx's request, and no
// user: an identity token is meant for one service alone. Tell the other service
// what it has to know about the user in the request; it trusts this service as far
// as the file lets it ask.
//
// Errors are [*Error]: the status and public text of the other service; 503 for
// [ErrUnavailable], 504 when no reply came in time, 413 when the request is too
// large for the bus, 502 when the reply does not fit Rep, and 500 for [ErrDenied],
// [ErrNoBus] and the rest.
func Ask[Req, Rep any](ctx context.Context, s *Service, subject string, req Req) (Rep, error) {
	var rep Rep
	out, err := encode(req)
	if err != nil {
		return rep, fmt.Errorf("ask %s: %w", subject, err)
	}
	in, err := s.ask(ctx, subject, out)
	if err != nil {
		return rep, fmt.Errorf("ask %s: %w", subject, err)
	}
	if r, ok := any(&rep).(interface{ decode(reply) error }); ok {
		err = r.decode(in)
	} else {
		err = decode(in.body, &rep)
	}
	if err != nil {
		var zero Rep
		if e, ok := errors.AsType[*Error](err); ok {
			err = fmt.Errorf("read reply: %s: %w", e.Public, e.Cause)
		}
		return zero, fmt.Errorf("ask %s: %w", subject, &Error{Status: http.StatusBadGateway, Public: "another service gave a reply that cannot be read", Cause: err})
	}
	return rep, nil
}

// message makes a message that carries on the request of ctx.
func (s *Service) message(ctx context.Context, subject string, out reply) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = out.body
	c := callOf(ctx)
	if c == nil {
		c = &call{requestID: wire.NewRequestID(), trace: wire.NewTrace()}
	}
	m.Header[wire.HeaderRequestID] = []string{c.requestID}
	m.Header[wire.HeaderTrace] = []string{c.trace.String()}
	if c.state != "" {
		m.Header[wire.HeaderState] = []string{c.state}
	}
	if out.media != "" && out.media != mediaJSON {
		m.Header[wire.HeaderType] = []string{headerText(out.media)}
	}
	return m
}

// reach waits for the first connection to the bus.
func (s *Service) reach(ctx context.Context, subject string) error {
	if err := checkSubject(subject, false); err != nil {
		return err
	}
	if s.conn == nil {
		return internal(ErrNoBus)
	}
	select {
	case <-s.connected:
		return nil
	default:
	}
	select {
	case <-s.connected:
		return nil
	case <-ctx.Done():
		return &Error{Status: http.StatusServiceUnavailable, Public: "the bus cannot be reached", Cause: context.Cause(ctx)}
	}
}

func internal(cause error) error {
	return &Error{Status: http.StatusInternalServerError, Public: publicInternal, Cause: cause}
}

// unsent says why a message was not sent.
func (s *Service) unsent(err error, size int) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return &Error{
			Status: http.StatusRequestEntityTooLarge,
			Public: "the request is too large for the bus",
			Cause:  fmt.Errorf("%d bytes are above the bus's limit of %d: %w", size, s.conn.MaxPayload(), err),
		}
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		return &Error{Status: http.StatusServiceUnavailable, Public: "the bus cannot be reached", Cause: err}
	}
	return internal(err)
}

func (s *Service) ask(ctx context.Context, subject string, out reply) (reply, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := s.reach(ctx, subject); err != nil {
		return reply{}, err
	}
	m := s.message(ctx, subject, out)
	if deadline, ok := ctx.Deadline(); ok {
		m.Header[wire.HeaderDeadline] = []string{wire.FormatDeadline(deadline)}
	}
	r, err := s.request(ctx, m)
	if err != nil {
		return reply{}, err
	}
	return readReply(r)
}

// bounded gives a context a deadline that has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultAskTimeout)
}

// request sends a message and waits for the reply. While nobody is there to receive it
// it is sent again.
func (s *Service) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	waiting, release := s.denials.watch(ctx, m.Subject)
	defer release()
	var giveUp time.Time
	for backoff := firstAskBackoff; ; backoff = min(2*backoff, maxAskBackoff) {
		over := s.holding.begin(waiting)
		if giveUp.IsZero() { // the time before was not spent on waiting for somebody
			giveUp = s.now().Add(waitForAnswerer)
		}
		r, err := s.conn.RequestMsgWithContext(waiting, m)
		over()
		switch {
		case err == nil:
			return r, nil
		case errors.Is(err, nats.ErrNoResponders):
			if !s.now().Add(backoff).Before(giveUp) || !pause(waiting, backoff) {
				if cause := context.Cause(waiting); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
					return nil, given(cause)
				}
				return nil, &Error{Status: http.StatusServiceUnavailable, Public: "a service that is needed is not there", Cause: ErrUnavailable}
			}
		case waiting.Err() != nil:
			return nil, given(context.Cause(waiting))
		default:
			return nil, s.unsent(err, len(m.Data))
		}
	}
}

// given is the error of an ask whose context ended for the cause.
func given(cause error) error {
	switch {
	case errors.Is(cause, ErrDenied):
		return internal(cause)
	case errors.Is(cause, context.DeadlineExceeded):
		return &Error{Status: http.StatusGatewayTimeout, Public: "a service that is needed did not answer in time", Cause: cause}
	}
	return cause
}

// pause waits; it reports false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readReply tells a success from an error.
func readReply(m *nats.Msg) (reply, error) {
	first := func(name string) string {
		if v := m.Header[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	text, code := first(wire.HeaderError), first(wire.HeaderErrorCode)
	if text != "" || code != "" {
		status, err := strconv.Atoi(code)
		if err != nil || status < 400 || status > 599 {
			status = http.StatusInternalServerError
		}
		return reply{}, &Error{Status: status, Public: text}
	}
	in := reply{status: http.StatusOK, media: mediaJSON, body: m.Data}
	if v := first(wire.HeaderStatus); v != "" {
		status, err := strconv.Atoi(v)
		if err != nil || status < 200 || status > 299 {
			return reply{}, &Error{Status: http.StatusBadGateway, Public: "another service gave a reply that cannot be read", Cause: fmt.Errorf("read reply: status %q", v)}
		}
		in.status = status
	}
	if v := first(wire.HeaderType); v != "" {
		in.media = v
	}
	return in, nil
}
