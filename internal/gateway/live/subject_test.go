package live

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"fairlead/internal/system/notation"
)

func TestTemplate(t *testing.T) {
	path := map[string]string{"room": "blue", "bad": "a.b", "wild": "*", "empty": ""}
	claims := map[string]any{"customer": "acme", "number": 7.0, "big": json.Number("12"), "list": []any{"a"}, "dot": "a.b", "half": 0.5}
	tests := []struct {
		name, template, wide, want string
		status                     int // of the refusal
	}{
		{"plain", "data.vhf", "data.vhf", "data.vhf", 0},
		{"wildcards", "data.*.>", "data.*.>", "data.*.>", 0},
		{"of the path", "chat.{room}.said", "chat.*.said", "chat.blue.said", 0},
		{"a part of a token", "chat.room-{room}", "chat.*", "chat.room-blue", 0},
		{"of the user", "orders.{claim:customer}.>", "orders.*.>", "orders.acme.>", 0},
		{"a number", "orders.{claim:number}.{claim:big}", "orders.*.*", "orders.7.12", 0},
		{"a dot in the path", "chat.{bad}", "chat.*", "", 400},
		{"a wildcard in the path", "chat.{wild}", "chat.*", "", 400},
		{"nothing in the path", "chat.{empty}", "chat.*", "", 400},
		{"no claim", "orders.{claim:none}", "orders.*", "", 403},
		{"a list", "orders.{claim:list}", "orders.*", "", 403},
		{"a dot in a claim", "orders.{claim:dot}", "orders.*", "", 403},
		{"half a claim", "orders.{claim:half}", "orders.*", "", 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tp, err := Parse(tt.template, func(name string) bool { _, ok := path[name]; return ok })
			if err != nil || tp.Wide() != tt.wide {
				t.Fatalf("%v, %v", tp, err)
			}
			got, err := tp.Fill(func(name string) string { return path[name] }, func(name string) any { return claims[name] })
			status := 0
			if refused, ok := errors.AsType[*Error](err); ok {
				status = refused.Status
			}
			if got != tt.want || status != tt.status {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	for _, bad := range []string{"", "a..b", "a.>.b", "$SYS.a", "_INBOX.a", "a.{none}", "a.{", "a.{}", "a b", "a.{claim:}", "a.x>", strings.Repeat("a", 300)} {
		if _, err := Parse(bad, func(string) bool { return false }); err == nil {
			t.Errorf("%q is a template", bad)
		}
	}
}

func TestNarrow(t *testing.T) {
	tests := []struct{ allowed, asked, want string }{
		{"data.*", "", "data.*"},
		{"data.*", "data.vhf", "data.vhf"},
		{"data.*", ">", "data.*"},
		{"data.>", "*.vhf.*", "data.vhf.*"},
		{"data.*", "data.*.x", "403"},
		{"data.vhf", "data.xband", "403"},
		{"data.*", "data. vhf", "400"},
		{"data.*", "$JS.a", "400"},
	}
	for _, tt := range tests {
		var asked []string
		if tt.asked != "" {
			asked = []string{tt.asked}
		}
		got, err := Narrow(tt.allowed, asked)
		text := strings.Join(got, " ")
		if refused, ok := errors.AsType[*Error](err); ok {
			text = map[int]string{400: "400", 403: "403"}[refused.Status]
		}
		if text != tt.want {
			t.Errorf("%s within %s: %s, want %s", tt.asked, tt.allowed, text, tt.want)
		}
	}
}

func TestFilterWithinAQueue(t *testing.T) {
	tests := []struct{ patterns, queue, want string }{
		{"data.*", "data.vhf", "data.vhf"},
		{"data.vhf", "data.*", "data.vhf"},
		{"data.a data.b", "data.*", "data.a data.b"},
		{"data.a data.*", "data.>", "data.*"},
		{"data.*.1 data.a.*", "data.>", "data.>"},
		{"data.*.1 data.a.*", "data.a.*", "data.a.*"},
		{"other.*", "data.*", ""},
	}
	for _, tt := range tests {
		f := newFilter("", strings.Fields(tt.patterns))
		if got := strings.Join(f.within(tt.queue), " "); got != tt.want {
			t.Errorf("%s within %s: %s, want %s", tt.patterns, tt.queue, got, tt.want)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("data.{a}.{claim:b}.*", "x", "y")
	f.Add("{", "*", ".")
	f.Fuzz(func(t *testing.T, s, value, claim string) {
		tp, err := Parse(s, func(string) bool { return true })
		if err != nil {
			return
		}
		got, err := tp.Fill(func(string) string { return value }, func(string) any { return claim })
		if err == nil && notation.SubjectsShared(tp.Wide(), got) != got {
			t.Errorf("%q becomes %q, which is not within %q", s, got, tp.Wide())
		}
	})
}

// FuzzMeet says that what both patterns match, and nothing else, matches where they meet.
func FuzzMeet(f *testing.F) {
	f.Add("a.*", "*.b", "a.b")
	f.Add("a.>", "a.*.c", "a.b.c")
	f.Fuzz(func(t *testing.T, a, b, subject string) {
		if checkPattern(a) != nil || checkPattern(b) != nil || checkPattern(subject) != nil || strings.ContainsAny(subject, "*>") {
			return
		}
		both := notation.SubjectsShared(a, b)
		if want := matches(a, subject) && matches(b, subject); (both != "" && matches(both, subject)) != want {
			t.Errorf("%q and %q meet in %q, which says otherwise of %q", a, b, both, subject)
		}
	})
}

func FuzzCursor(f *testing.F) {
	s := signer{[]byte("key")}
	f.Add(s.encode(positions{5, []position{{1, 2}, {3, 1 << 40}}}), uint64(1))
	f.Add(s.encode(positions{}), uint64(0))
	f.Add("AQ", uint64(0))
	f.Fuzz(func(t *testing.T, cursor string, n uint64) {
		if ps, ok := s.decode(cursor); ok && s.encode(ps) != cursor {
			t.Errorf("%q is read as %v, which is written %q", cursor, ps, s.encode(ps))
		}
		ps := positions{int64(n), []position{{n, n}, {n | 1<<63, 7}}}
		if n>>63 == 0 {
			back, ok := s.decode(s.encode(ps))
			if !ok || back.listed != ps.listed || !slices.Equal(back.list, ps.list) {
				t.Errorf("%v comes back as %v", ps, back)
			}
		}
	})
}

func BenchmarkTake(b *testing.B) {
	for name, streams := range map[string]int{"plain": 0, "queue": 1, "ten queues": 10} {
		b.Run(name, func(b *testing.B) {
			bus := newMemory("data.vhf")
			for i := 1; i < streams; i++ {
				bus.addQueue("data." + string(rune('a'+i)))
			}
			room := openRoom(b, bus)
			h, err := room.enter(b.Context(), "data.*")
			if err != nil {
				b.Fatal(err)
			}
			defer room.leave(h)
			data := []byte(`{"messageClass": "DataNotification", "message": "` + strings.Repeat("x", 200) + `"}`)
			b.ReportAllocs()
			n := uint64(0)
			for b.Loop() {
				n++
				m := Message{Subject: "data.plain", Data: data}
				if streams > 0 {
					m.Subject, m.Stream, m.Sequence = "data.vhf", "data_vhf", n
				}
				h.take(&m, true)
				h.ring[(h.head-1)%ringEvents].webSocket()
			}
		})
	}
}
