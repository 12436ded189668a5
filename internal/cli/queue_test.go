package cli

import (
	"io"
	"strings"
	"testing"
	"time"

	"fairlead/internal/control"
)

func TestRenderQueues(t *testing.T) {
	at := func(d time.Duration) time.Time { return noon.Add(-d) }
	q := control.Queue{
		Name: "data.vhf", Stream: "data_vhf", Type: "DataNotification", Enforce: "reject", Messages: 1204, Bytes: 5 << 20, First: 3, Last: 1206,
		Oldest: at(50 * time.Hour), Newest: at(4 * time.Second), Rate: 0.5, Refused: 7, Dead: 2, Keep: 720 * time.Hour, MaxBytes: 1 << 30, MaxCount: 1,
		Publishes: []string{"receiver"},
		Consumers: []control.Consumer{{Name: "group-bursts", Lag: 3, Unacked: 2, Again: 1, Oldest: at(90 * time.Second)}, {Name: "page-live"}},
	}
	gone := control.Queue{Name: "data.old", Stream: "data_old", Apart: true, Messages: 1, Bytes: 12, First: 9, Last: 9, Oldest: at(time.Hour), Newest: at(time.Hour), Rate: 12.34}
	s := newScreen(io.Discard, func(string) string { return "" })
	golden(t, "queues", strings.Join(renderQueues(s, []control.Queue{gone, q}, noon), "\n")+"\n\n"+
		strings.Join(renderQueue(s, q, noon), "\n")+"\n\n"+strings.Join(renderQueue(s, gone, noon), "\n")+"\n")
	if got := renderQueues(s, nil, noon); len(got) != 1 || !strings.Contains(got[0], "no queues") {
		t.Errorf("without queues: %q", got)
	}
}

func TestRenderMessage(t *testing.T) {
	s := newScreen(io.Discard, func(string) string { return "" })
	m := control.QueueMessage{
		Sequence: 7, Subject: "data.vhf", Time: noon, Headers: map[string][]string{"Trace": {"a\x1b[2J"}}, Data: []byte("{\"a\": 1}\nb\x1b[2J\n"),
		Dead: &control.Death{Reason: "is no T", Consumer: "group-bursts", Sequence: 4},
	}
	got := strings.Join(renderMessage(s, m), "\n")
	for _, want := range []string{"7 2026-", " data.vhf\n", "  is no T\n", "consumer group-bursts, message 4", "  Trace: a", "  {\"a\": 1}\n  b"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("%q commands the terminal", got)
	}
	for _, tt := range []struct {
		data []byte
		want string
	}{{nil, "  (empty)"}, {[]byte{0xff, 0}, "  (2 B that are no text)"}} {
		if got := dataText(tt.data); len(got) != 1 || got[0] != tt.want {
			t.Errorf("dataText(%v) = %q, want %q", tt.data, got, tt.want)
		}
	}
}

// The data of messages was in base64 in --json, though it was JSON.
func TestMessagesInJSONHoldJSON(t *testing.T) {
	for data, want := range map[string]string{
		`{"a": [1, 2]}`: `"data":{"a":[1,2]}`,
		"null":          `"data":null`,
		"no JSON":       `"text":"no JSON"`,
		"":              `"text":""`,
		"\xff\x00":      `"base64":"/wA="`,
	} {
		var b strings.Builder
		s := newScreen(&b, func(string) string { return "" })
		if err := s.jsonLine(shownMessage(control.QueueMessage{Subject: "a", Data: []byte(data)})); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q: got %s, want %s", data, b.String(), want)
		}
	}
}

// Each message was shown with five lines of the bus's own.
func TestHeadersOfTheBusAreHidden(t *testing.T) {
	got := ownHeaders(map[string][]string{"Nats-Sequence": {"1"}, "Nats-Batch-Id": {"a"}, "Nats-Msg-Id": {"b"}, "Trace": {"c"}})
	if len(got) != 2 || got["Trace"] == nil || got["Nats-Msg-Id"] == nil {
		t.Errorf("got %v", got)
	}
}

// purge --older-than 1d was refused, though the file and --expires know d.
func TestPurgeOlderThanKnowsDays(t *testing.T) {
	for older, want := range map[string]string{"1d": "no fairlead runs", "0s": "no duration", "1x": "no duration"} {
		out, _ := run(t, "", "-C", t.TempDir(), "queue", "data.a", "purge", "--older-than", older)
		if strings.Contains(out, "no duration") != (want == "no duration") {
			t.Errorf("%s: got %s", older, out)
		}
	}
}

func TestAConsumerThatNobodyTakesFromLooksSlow(t *testing.T) {
	s := newScreen(io.Discard, func(string) string { return "" })
	q := control.Queue{Name: "data.vhf", Consumers: []control.Consumer{
		{Name: "page_new", Lag: 3},
		{Name: "page_old", Lag: 3011, Unused: noon.Add(-2 * time.Hour)},
		{Name: "page_slow", Lag: 4, Unused: noon.Add(-time.Second)}, // between two requests
	}}
	all := strings.Join(renderQueues(s, []control.Queue{q}, noon), "\n")
	if !strings.Contains(all, "3 (1 unused)") || strings.Contains(all, "3011") {
		t.Errorf("queues:\n%s", all)
	}
	one := strings.Join(renderQueue(s, q, noon), "\n")
	if strings.Count(one, "nobody takes from it") != 1 || !strings.Contains(one, "fairlead queue 'data.vhf' forget page_old") {
		t.Errorf("queue:\n%s", one)
	}
}
