package certs

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge hands what certmagic logs to ours. What failed there is tried again and the
// operator is told of it in our words: an error there is a warning here, and so on.
// Its debug lines are dropped; they hold whole requests.
type bridge struct{ log *slog.Logger }

func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(bridge{log}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

func (b bridge) level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelWarn
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (b bridge) Enabled(l zapcore.Level) bool {
	return l >= zapcore.InfoLevel && b.log.Enabled(context.Background(), b.level(l))
}

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{slog.New(b.log.Handler().WithAttrs(attributes(fields)))}
}

func (b bridge) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return to.AddCore(e, b)
	}
	return to
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	attrs := append([]slog.Attr{slog.String("part", e.LoggerName), slog.String("text", e.Message)}, attributes(fields)...)
	b.log.LogAttrs(context.Background(), b.level(e.Level), "authority's client", attrs...)
	return nil
}

func (b bridge) Sync() error { return nil }

func attributes(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	attrs := make([]slog.Attr, 0, len(m.Fields))
	for key, value := range m.Fields {
		if d, ok := value.(time.Duration); ok {
			value = d.String()
		}
		attrs = append(attrs, slog.Any(key, value))
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return attrs
}
