package lasting

import (
	"fmt"
	"strings"
	"testing"
)

func TestEvents(t *testing.T) {
	for stream, want := range map[string]string{
		"data: 1\n\nda":               "10",
		"data: 1\r\n\r\nda":           "12",
		"data: 1\r\rda":               "10",
		"data: 1\n":                   "",
		": c\n\nid: 1\ndata: a\n\n":   "6 21",
		"data: a\r\n\r\ndata: b\n\nx": "12 21",
	} {
		var ev Events
		got, done := "", 0
		for b := []byte(stream); len(b) > 0; {
			n, end := ev.Next(b)
			if done += n; end {
				got += fmt.Sprintf(" %d", done+1)
			}
			b = b[n:]
		}
		if got = strings.TrimSpace(got); got != want {
			t.Errorf("%q: %q, want %q", stream, got, want)
		}
	}
}

// FuzzEvents cuts a stream in two ways: whether an event is under way at the end is
// the same.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: 1\r\n\r\ndata: 2\n\n"), uint8(1))
	f.Add([]byte("a\r\rb\n\nc"), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var whole, cut Events
		whole.Pass(b)
		for rest := b; len(rest) > 0; {
			n := min(len(rest), int(size)+1)
			cut.Pass(rest[:n])
			rest = rest[n:]
		}
		if whole.Between() != cut.Between() {
			t.Errorf("whole %v, in pieces %v", whole, cut)
		}
	})
}
