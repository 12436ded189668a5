package service

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"fairlead/internal/wire"
)

// newLogger returns a logger that writes JSON lines with the service, the instance,
// and the request of the record's context.
func newLogger(w io.Writer, c config) *slog.Logger {
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: c.level})
	return slog.New(&requestHandler{next: h}).With(wire.KeyService, c.service, wire.KeyInstance, c.instance)
}

// requestHandler adds the request of the context to every record, at its top level
// whatever groups are open.
type requestHandler struct {
	next   slog.Handler // with everything applied
	base   slog.Handler // before the first group was opened, nil as long as none is
	groups []func(slog.Handler) slog.Handler
}

func (h *requestHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *requestHandler) Handle(ctx context.Context, r slog.Record) error {
	c := callOf(ctx)
	if c == nil {
		return h.next.Handle(ctx, r)
	}
	attrs := []slog.Attr{
		slog.String(wire.KeyRequestID, c.requestID),
		slog.String(wire.KeyTraceID, c.trace.TraceID()),
		slog.String(wire.KeySpanID, c.trace.SpanID()),
	}
	if h.base == nil {
		r = r.Clone()
		r.AddAttrs(attrs...)
		return h.next.Handle(ctx, r)
	}
	next := h.base.WithAttrs(attrs)
	for _, apply := range h.groups {
		next = apply(next)
	}
	return next.Handle(ctx, r)
}

func (h *requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(false, func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

func (h *requestHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(true, func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

func (h *requestHandler) with(group bool, apply func(slog.Handler) slog.Handler) slog.Handler {
	n := &requestHandler{next: apply(h.next), base: h.base}
	if group && n.base == nil {
		n.base = h.next
	}
	if n.base != nil {
		n.groups = append(slices.Clip(h.groups), apply)
	}
	return n
}
