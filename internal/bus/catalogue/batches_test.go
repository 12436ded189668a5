package catalogue

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestBatches(t *testing.T) {
	now := time.Unix(1000, 0)
	of := func(id, seq, commit string) nats.Header {
		h := nats.Header{headerBatch: {id}, headerBatchSeq: {seq}}
		if commit != "" {
			h[headerCommit] = []string{commit}
		}
		return h
	}
	b := batches{}
	for i := range mostBatches {
		if !b.take("s", of(strconv.Itoa(i), "1", ""), now) {
			t.Fatalf("batch %d is refused", i)
		}
	}
	for _, tt := range []struct {
		name   string
		stream string
		header nats.Header
		after  time.Duration
		want   bool
	}{
		{"no batch", "s", nil, 0, true},
		{"one too many", "s", of("new", "1", ""), 0, false},
		{"another stream", "other", of("new", "1", ""), 0, true},
		{"one that is open", "s", of("3", "2", ""), 9 * time.Second, true},
		{"the middle of none", "s", of("none", "7", ""), 9 * time.Second, true},
		{"a commit", "s", of("4", "2", "1"), 9 * time.Second, true},
		{"in its place", "s", of("new", "1", ""), 9 * time.Second, true},
		{"one too many again", "s", of("newer", "1", ""), 9 * time.Second, false},
		{"whole in one", "s", of("whole", "1", "1"), 9 * time.Second, true},
		{"when others were given up", "s", of("newer", "1", ""), 11 * time.Second, true},
	} {
		if got := b.take(tt.stream, tt.header, now.Add(tt.after)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if n := len(b["s"]); n != 3 { // 3, new, newer
		t.Errorf("%d are open", n)
	}
}
