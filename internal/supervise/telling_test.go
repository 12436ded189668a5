package supervise

import (
	"strings"
	"testing"
)

func TestTellingLineSaysWhyAProgramEnded(t *testing.T) {
	tests := []struct {
		name   string
		output []string
		want   string
	}{
		{"nothing", nil, ""},
		{"last line", []string{"listening", "bye"}, "bye"},
		{"Node.js", []string{
			"node:internal/modules/cjs/loader:1228", "  throw err;", "  ^", "Error: Cannot find module 'reflect-metadata'",
			"    at Module._load (node:internal/modules/cjs/loader:1070:27)", "  code: 'MODULE_NOT_FOUND',", "}", "Node.js v20.20.2",
		}, "Error: Cannot find module 'reflect-metadata'"},
		{"Go", []string{"panic: cannot go on", "", "goroutine 1 [running]:", "main.main()", "\t/src/main.go:7 +0x1d"}, "panic: cannot go on"},
		{"Python", []string{"Traceback (most recent call last):", "  File \"a.py\", line 1", "KeyError: 'PORT'"}, "KeyError: 'PORT'"},
		{"structured log", []string{`{"time":"x","level":"ERROR","msg":"service failed","error":"set up: no database"}`}, "service failed: set up: no database"},
		{"several errors", []string{`{"msg":"service failed","error":"no database\nno bus"}`}, "service failed: no database; no bus"},
		{"long", []string{strings.Repeat("é", 400)}, strings.Repeat("é", 150) + " ..."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := telling(tt.output); got != tt.want {
				t.Errorf("telling is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestQuotedLineStaysReadable(t *testing.T) {
	for line, want := range map[string]string{
		"bye":             `"bye"`,
		`import "sqlite"`: "`import \"sqlite\"`",
		"a `b` \"c\"":     "\"a `b` \\\"c\\\"\"",
		"bell \a":         `"bell \a"`,
	} {
		if got := quoted(line); got != want {
			t.Errorf("%s is quoted as %s, want %s", line, got, want)
		}
	}
}
