package wire

import (
	"testing"
	"time"
)

func TestParseTrace(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tests := []struct {
		name, in string
		want     string // "" : not a trace
	}{
		{"sampled", good, good},
		{"not sampled", good[:53] + "00", good[:53] + "00"},
		{"unknown flags are dropped", good[:53] + "ff", good[:53] + "03"},
		{"later version", "cc" + good[2:], good},
		{"later version with more", "cc" + good[2:] + "-what-else", good},
		{"later version, longer flags", "cc" + good[2:] + "1", ""},
		{"version 00 with more", good + "-x", ""},
		{"version ff", "ff" + good[2:], ""},
		{"capitals", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""},
		{"zero trace", "00-00000000000000000000000000000000-b7ad6b7169203331-01", ""},
		{"zero span", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", ""},
		{"no digits", "00-zaf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""},
		{"wrong dash", "00_" + good[3:], ""},
		{"short", good[:54], ""},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := ParseTrace(tt.in)
			if ok != (tt.want != "") || ok && got.String() != tt.want {
				t.Errorf("got %s, %v", got, ok)
			}
		})
	}
}

func TestTraceChild(t *testing.T) {
	p := NewTrace()
	c := p.Child()
	if c.ID != p.ID || c.Flags != p.Flags || c.Span == p.Span {
		t.Errorf("%s is no child of %s", c, p)
	}
	if got, ok := ParseTrace(c.String()); !ok || got != c {
		t.Errorf("%s does not survive", c)
	}
	if c.String() != "00-"+c.TraceID()+"-"+c.SpanID()+"-03" {
		t.Errorf("%s, %s, %s", c, c.TraceID(), c.SpanID())
	}
}

func TestRequestID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewRequestID()
		if !ValidRequestID(id) || seen[id] {
			t.Fatalf("%q", id)
		}
		seen[id] = true
	}
	for id, want := range map[string]bool{
		"12345678": true, "a.b_c-D9": true, "1234567": false, "": false,
		string(make([]byte, 65)): false, "1234567\n": false, "12345678 ": false, "1234567é": false,
	} {
		if ValidRequestID(id) != want {
			t.Errorf("ValidRequestID(%q) = %v", id, !want)
		}
	}
}

func TestDeadline(t *testing.T) {
	want := time.UnixMilli(1_800_000_000_123)
	if got, ok := ParseDeadline(FormatDeadline(want)); !ok || !got.Equal(want) {
		t.Errorf("got %v, %v", got, ok)
	}
	for _, s := range []string{"", "0", "-1", "1e3", "12 ", "9999999999999999"} {
		if _, ok := ParseDeadline(s); ok {
			t.Errorf("%q is accepted", s)
		}
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := ParseTrace(s)
		if !ok {
			if got != (Trace{}) {
				t.Errorf("%q gives both %s and no trace", s, got)
			}
			return
		}
		if again, ok := ParseTrace(got.String()); !ok || again != got {
			t.Errorf("%q does not survive", s)
		}
	})
}

func FuzzParseDeadline(f *testing.F) {
	f.Add("1800000000123")
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := ParseDeadline(s); ok {
			if again, ok := ParseDeadline(FormatDeadline(d)); !ok || !again.Equal(d) {
				t.Errorf("%q does not survive", s)
			}
		}
	})
}

func BenchmarkParseTrace(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		ParseTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
}

func BenchmarkNewRequestID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewRequestID()
	}
}
