package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
)

// Errors inside the [Error] that [Ask] and [Publish] return.
var (
	// ErrUnavailable means that no instance was there to receive the request. It
	// was not handled.
	ErrUnavailable = errors.New("nobody answers the subject")
	// ErrDenied means that the bus does not let this service send to the subject:
	// the file must name it under asks or publishes.
	ErrDenied = errors.New("the bus does not allow it")
	// ErrNoBus means that the service has no bus section in the file.
	ErrNoBus = errors.New("the service has no bus: give it a bus section in fairlead.yaml")
)

var (
	errStopping = errors.New("service is stopping")
	errTooLate  = errors.New("deadline of the request has passed")
)

const publicInternal = "internal error"

// Error is an error that a handler returns to say what the client is told. Found by
// [errors.As], so it may be wrapped: the wrapping text is for the log.
//
// The [Error] of a service that was asked is returned by [Ask]; a handler that
// returns it on tells the client the same.
type Error struct {
	Status int    // HTTP status, 400 to 599; anything else counts as 500 "internal error"
	Public string // told to the client; "" means the status's text
	Cause  error  // logged, never sent; may be nil
}

// Error returns the public text and the cause, for the log.
func (e *Error) Error() string {
	if e.Cause == nil {
		return fmt.Sprintf("%d %s", e.Status, e.Public)
	}
	return fmt.Sprintf("%d %s: %v", e.Status, e.Public, e.Cause)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf returns an [*Error] with the status and a public text formatted as by
// [fmt.Sprintf]. An argument for %w is the private cause: nothing of it is in the
// public text.
//
//	return reply, service.Errorf(http.StatusNotFound, "commodity %s is not known", code)
//	return reply, service.Errorf(http.StatusConflict, "the name is taken: %w", err)
func Errorf(status int, public string, args ...any) error {
	full := fmt.Errorf(public, args...)
	e := &Error{Status: status, Public: full.Error()}
	switch u := full.(type) { //nolint:errorlint // the two forms of what fmt.Errorf itself returned
	case interface{ Unwrap() error }:
		e.Cause = u.Unwrap()
	case interface{ Unwrap() []error }:
		e.Cause = errors.Join(u.Unwrap()...)
	}
	if e.Cause != nil {
		format := strings.NewReplacer("%%", "%%", "%w", "%.0s").Replace(public)
		e.Public = strings.TrimRight(fmt.Sprintf(format, args...), " :;,-")
	}
	return e
}

// outcome is what a failed request comes to: the public half and how loudly the
// private half is logged.
type outcome struct {
	status int
	public string
	level  slog.Level
}

// judge decides what becomes of a handler's error.
func judge(ctx context.Context, err error) outcome {
	var e *Error
	switch {
	case errors.As(err, &e) && e.Status >= 400 && e.Status <= 599:
		o := outcome{status: e.Status, public: e.Public, level: slog.LevelDebug}
		if o.public == "" {
			o.public = strings.ToLower(http.StatusText(e.Status))
		}
		if e.Status >= 500 {
			o.level = slog.LevelWarn
		}
		return o
	case errors.Is(err, errTooLate), ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded):
		return outcome{http.StatusGatewayTimeout, "the request took too long", slog.LevelWarn}
	case errors.Is(context.Cause(ctx), errStopping) && errors.Is(err, context.Canceled), errors.Is(err, errStopping):
		return outcome{http.StatusServiceUnavailable, errStopping.Error(), slog.LevelWarn}
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return outcome{499, "the client is gone", slog.LevelDebug}
	}
	if status, public := judgeDatabase(err); status != 0 {
		return outcome{status, public, slog.LevelError} // the client may try again, an operator must look
	}
	return outcome{http.StatusInternalServerError, publicInternal, slog.LevelError}
}
