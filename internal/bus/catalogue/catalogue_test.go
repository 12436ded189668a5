package catalogue

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
	"fairlead/internal/system/notation"
)

func TestStream(t *testing.T) {
	tests := map[string]string{
		"data.vhf": "data_vhf", "activity.*": "activity_ANY", "orders.>": "orders_ALL", "a.*.b.>": "a_ANY_b_ALL",
		"data_vhf": "data=vhf", "a_.b": "a=_b", "a._b": "a_=b", "a": "a",
	}
	for queue, want := range tests {
		if got := Stream(queue); got != want {
			t.Errorf("Stream(%s) = %s, want %s", queue, got, want)
		}
	}
}

func TestMappings(t *testing.T) {
	tests := map[string]string{"data.vhf": "$FLQ.in.data.vhf", "a.*.b.*": "$FLQ.in.a.{{wildcard(1)}}.b.{{wildcard(2)}}", "a.*.>": "$FLQ.in.a.{{wildcard(1)}}.>"}
	for queue, want := range tests {
		for _, typ := range []string{"", "T"} {
			if got := Mappings([]system.Queue{{Name: queue, Type: typ}}, false); len(got) != 1 || got[queue] != want {
				t.Errorf("queue %s of type %q is mapped to %s, want %s", queue, typ, got[queue], want)
			}
		}
	}
	if got := Mappings([]system.Queue{{Name: "a.*"}}, true)["$FLQ.new.a.*"]; got != "a.{{wildcard(1)}}" {
		t.Errorf("what is stored elsewhere is mapped to %s", got)
	}
}

func TestMeet(t *testing.T) {
	tests := []struct{ a, b, want string }{
		{"a.b", "a.b", "a.b"},
		{"a.b", "a.c", ""},
		{"a.b", "a", ""},
		{"a.*", "a.b", "a.b"},
		{"a.*", "*.b", "a.b"},
		{"a.>", "a.b.*", "a.b.*"},
		{"a.>", "a", ""},
		{"a.*.c", "a.>", "a.*.c"},
		{"a.>", "a.>", "a.>"},
		{">", "a.b", "a.b"},
		{"a.*.>", "a.b.c", "a.b.c"},
		{"a.*.>", "a.b", ""},
	}
	for _, tt := range tests {
		if got := notation.SubjectsShared(tt.a, tt.b); got != tt.want {
			t.Errorf("SubjectsShared(%s, %s) = %q, want %q", tt.a, tt.b, got, tt.want)
		}
		if got := notation.SubjectsShared(tt.b, tt.a); got != tt.want {
			t.Errorf("SubjectsShared(%s, %s) = %q, want %q", tt.b, tt.a, got, tt.want)
		}
	}
}

// FuzzMeet: nothing panics, and the order does not matter.
func FuzzMeet(f *testing.F) {
	f.Add("a.*.c", "a.>")
	f.Add("", ">")
	f.Fuzz(func(t *testing.T, a, b string) {
		if got, other := notation.SubjectsShared(a, b), notation.SubjectsShared(b, a); got != other && !strings.Contains(a+b, ">.") {
			t.Errorf("SubjectsShared(%q, %q) = %q one way and %q the other", a, b, got, other)
		}
	})
}

// FuzzRevive: nothing panics, and what a dead letter was made of comes back.
func FuzzRevive(f *testing.F) {
	f.Add("Trace", "x", "Nats-Msg-Id", "id", "a\nb")
	f.Add("nats-expected-stream", "x", "Fairlead-Dead-Subject", "y", "")
	f.Fuzz(func(t *testing.T, name, value, second, other, reason string) {
		m := &nats.Msg{Subject: "data.vhf", Header: nats.Header{name: {value}, second: {other}}, Data: []byte("x")}
		dead := DeadLetter(m, Death{Queue: "data.*", Subject: "data.vhf", Cause: CauseType, Reason: reason, Time: time.Now()})
		if strings.ContainsAny(dead.Header.Get(HeaderReason), "\r\n") {
			t.Errorf("the reason %q would break the headers", dead.Header.Get(HeaderReason))
		}
		for h := range dead.Header {
			if strings.HasPrefix(strings.ToLower(h), "nats-") {
				t.Errorf("the header %s would act on the dead letters", h)
			}
		}
		back, d, err := Revive(dead.Header, dead.Data)
		if err != nil || d.Subject != "data.vhf" || d.Queue != "data.*" || back.Subject != "data.vhf" || string(back.Data) != "x" {
			t.Errorf("Revive: %+v, %+v, %v", back, d, err)
		}
	})
}

func TestAStreamThatDiffersIsChanged(t *testing.T) {
	q := system.Queue{Name: "data.vhf", Keep: time.Hour}
	if differs(config(&q, false), config(&q, false)) {
		t.Error("a stream differs from itself")
	}
	for limit, change := range map[string]func(*system.Queue){
		"keep": func(q *system.Queue) { q.Keep++ }, "bytes": func(q *system.Queue) { q.MaxBytes = 5 },
		"count": func(q *system.Queue) { q.MaxCount = 5 }, "dedupe": func(q *system.Queue) { q.Dedupe++ },
	} {
		other := q
		change(&other)
		if !differs(config(&q, false), config(&other, false)) {
			t.Errorf("a stream with another %s does not differ", limit)
		}
	}
}
