package certs

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestWhatCertmagicLogs(t *testing.T) {
	for _, test := range []struct {
		name string
		log  func(*zap.Logger)
		want string // "" for nothing
	}{
		{"an error is tried again", func(l *zap.Logger) { l.Named("obtain").Error("went wrong", zap.Error(errors.New("no"))) }, `level=WARN msg="authority's client" part=obtain text="went wrong" error=no`},
		{"a warning", func(l *zap.Logger) { l.Warn("odd") }, `level=INFO msg="authority's client" part="" text=odd`},
		{"news", func(l *zap.Logger) {
			l.With(zap.String("b", "2")).Info("done", zap.Strings("a", []string{"x"}), zap.Duration("took", time.Second))
		}, `level=DEBUG msg="authority's client" b=2 part="" text=done a=[x] took=1s`},
		{"whole requests", func(l *zap.Logger) { l.Debug("http request", zap.String("body", "secret")) }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			test.log(newZap(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))))
			_, got, _ := strings.Cut(strings.TrimSpace(b.String()), " ") // after the time
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
