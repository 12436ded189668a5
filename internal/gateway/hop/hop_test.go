package hop

import (
	"net/http"
	"net/textproto"
	"strings"
	"testing"
)

func TestWhatPasses(t *testing.T) {
	tests := []struct {
		name                     string
		request, answer, trailer bool
	}{
		{"Accept", true, true, true},
		{"X-Mine", true, true, true},
		{"Host", false, true, false},
		{"Connection", false, false, false},
		{"connection", false, false, false},
		{"Transfer_Encoding", false, false, false},
		{"X-Forwarded-For", false, true, false},
		{"X_Forwarded.Anything", false, true, false},
		{"Fairlead-Identity", false, false, false},
		{"nats_rollup", false, false, false},
		{"Server", true, false, false},
		{"Set-Cookie", true, true, false},
		{"If-None-Match", true, true, false},
		{"", false, false, false},
		{"Proxy", false, true, false},
		{"X ok: y", true, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r, a, tr := Request(tt.name), Answer(tt.name), Trailer(tt.name); r != tt.request || a != tt.answer || tr != tt.trailer {
				t.Errorf("passes as request %v, answer %v, trailer %v", r, a, tr)
			}
		})
	}
}

func TestUpgradeOffersNoProtocolThatPassesTheDoor(t *testing.T) {
	for proto, want := range map[string]string{
		"websocket": "websocket", "WebSocket": "WebSocket", "h2c": "", "HTTP/2.0": "", "TLS/1.0": "", "a, b": "", "": "",
	} {
		h := http.Header{"Upgrade": {proto}, "Connection": {"keep-alive, Upgrade"}}
		if got := Upgrade(h); got != want {
			t.Errorf("%q leads to %q", proto, got)
		}
		delete(h, "Connection")
		if got := Upgrade(h); got != "" {
			t.Errorf("%q without Connection leads to %q", proto, got)
		}
	}
}

// FuzzCanonical finds names that net/http spells in another way, and lines of heads
// that end too early.
func FuzzCanonical(f *testing.F) {
	for _, name := range []string{"accept", "X-Request-ID", "a b", "", "\r\n", "x_y", "-a--B"} {
		f.Add(name, "value")
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		got := Canonical(name)
		if Token(name) != (got != "") || got != "" && got != textproto.CanonicalMIMEHeaderKey(name) {
			t.Errorf("%q becomes %q", name, got)
		}
		if got == "" || !CleanValue(value) {
			return
		}
		if line := string(AppendField(nil, got, value)); strings.IndexByte(line, '\n') != len(line)-1 || strings.IndexByte(line, '\r') != len(line)-2 {
			t.Errorf("%q is more than a line", line)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	names := []string{"Accept", "User-Agent", "Cookie", "X-Forwarded-For", "Host", "Content-Type"}
	b.ReportAllocs()
	for b.Loop() {
		for _, n := range names {
			Request(n)
		}
	}
}
