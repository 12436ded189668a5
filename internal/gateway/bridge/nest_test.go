package bridge

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/system"
)

// TestNestResendDoesNotMixStreams has two instances stream the same answer at the
// same time, because the request was sent again.
func TestNestResendDoesNotMixStreams(t *testing.T) {
	b := newTestBridge(t)
	b.ready("i1", "i2")
	h := bustest.Hold(t, bustest.Connect(t, b.server), "stream")
	done := make(chan result, 1)
	go func() {
		done <- b.doRoute(context.Background(), "GET", "", system.Route{Path: "/x", Request: &system.Request{Subject: "stream", Format: system.Nest}})
	}()
	first := <-h.Held
	bustest.Respond(t, first, `{"response":1,"id":"a"}`)
	b.Lost("flows", "i2")
	second := <-h.Held
	if first.Reply == second.Reply {
		t.Fatal("both sendings have one reply subject")
	}
	bustest.Respond(t, second, `{"response":1,"id":"a"}`)
	bustest.Respond(t, first, `{"response":2,"id":"a"}`)
	bustest.Respond(t, second, `{"response":2,"id":"a"}`)
	bustest.Respond(t, second, `{"response":3,"isDisposed":true,"id":"a"}`)
	bustest.Respond(t, first, `{"response":3,"isDisposed":true,"id":"a"}`)
	if r := <-done; !r.is("[1,2,3]") {
		t.Fatalf("got %+v", r)
	}
}

func TestNestStreamIsBounded(t *testing.T) {
	var s nestStream
	for i := range streamValues {
		if done, fault, err := s.add([]byte(`{"response":1,"id":"a"}`)); done || fault != nil || err != nil {
			t.Fatalf("value %d: %v %s %v", i, done, fault, err)
		}
	}
	if _, _, err := s.add([]byte(`{"response":1,"id":"a"}`)); err == nil {
		t.Fatal("no limit to the number")
	}
	s = nestStream{}
	big := []byte(`{"response":"` + strings.Repeat("x", 1<<20) + `"}`)
	var err error
	for range streamBytes>>20 + 1 {
		_, _, err = s.add(big)
	}
	if err == nil {
		t.Fatal("no limit to the size")
	}
}

func TestNestErrors(t *testing.T) {
	tests := []struct {
		name, fault string
		status      int
		message     string
	}{
		{"string", `"x"`, 0, "x"},
		{"object", `{"statusCode":409,"message":"dup"}`, 409, "dup"},
		{"status that is a word", `{"status":"error","message":"x"}`, 0, "x"},
		{"status", `{"status":404,"message":"x"}`, 404, "x"},
		{"both", `{"status":404,"statusCode":409,"message":"x"}`, 409, "x"},
		{"status in quotes", `{"status":"404","message":"x"}`, 0, "x"},
		{"status of a success", `{"status":200,"message":"x"}`, 0, "x"},
		{"status with a fraction", `{"status":404.5,"message":"x"}`, 0, "x"},
		{"huge status", `{"status":1e300,"message":"x"}`, 0, "x"},
		{"validation", `{"statusCode":400,"message":["a must be b","c must be d"],"error":"Bad Request"}`, 400, "a must be b; c must be d"},
		{"no message", `{"statusCode":400}`, 400, ""},
		{"message that is a number", `{"message":7}`, 0, ""},
		{"list", `[1]`, 0, ""},
		{"number", `7`, 0, ""},
		{"http exception", `{"response":{"statusCode":403},"status":403,"message":"no","name":"ForbiddenException"}`, 403, "no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, message := readNestError(json.RawMessage(tt.fault))
			if status != tt.status || message != tt.message {
				t.Fatalf("error is %d %q, want %d %q", status, message, tt.status, tt.message)
			}
		})
	}
}

// nestReplies are those of the recorded exchanges.
func nestReplies(tb testing.TB) (all []string) {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "nest", "exchanges.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var doc struct{ Exchanges []struct{ Replies []string } }
	if err := json.Unmarshal(b, &doc); err != nil {
		tb.Fatal(err)
	}
	for _, e := range doc.Exchanges {
		all = append(all, e.Replies...)
	}
	return all
}

func FuzzNestReply(f *testing.F) {
	for _, r := range nestReplies(f) {
		f.Add([]byte(r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s nestStream
		_, fault, err := s.add(b)
		if err != nil {
			return
		}
		if fault != nil {
			readNestError(fault)
			return
		}
		if len(s.values) > 0 && !json.Valid(s.appendTo(nil)) {
			t.Fatalf("%q answers %q", b, s.appendTo(nil))
		}
	})
}
