package catalogue

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// ofBatch are the headers of a message of a batch.
func ofBatch(id, seq, commit string) nats.Header {
	h := nats.Header{headerBatch: {id}, headerBatchSeq: {seq}}
	if commit != "" {
		h[headerCommit] = []string{commit}
	}
	return h
}

func TestBatches(t *testing.T) {
	now := time.Unix(1000, 0)
	var b batches
	for i := range mostBatches {
		if err := b.take("s", ofBatch(strconv.Itoa(i), "1", ""), 100, now); err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
	}
	for _, tt := range []struct {
		name   string
		stream string
		header nats.Header
		after  time.Duration
		want   error
	}{
		{"no batch", "s", nil, 0, nil},
		{"one too many", "s", ofBatch("new", "1", ""), 0, errManyBatches},
		{"another stream", "other", ofBatch("new", "1", ""), 0, nil},
		{"one that is open", "s", ofBatch("3", "2", ""), 9 * time.Second, nil},
		{"the middle of none", "s", ofBatch("none", "7", ""), 9 * time.Second, nil},
		{"a commit", "s", ofBatch("4", "2", "1"), 9 * time.Second, nil},
		{"in its place", "s", ofBatch("new", "1", ""), 9 * time.Second, nil},
		{"one too many again", "s", ofBatch("newer", "1", ""), 9 * time.Second, errManyBatches},
		{"whole in one", "s", ofBatch("whole", "1", "1"), 9 * time.Second, nil},
		{"when others were given up", "s", ofBatch("newer", "1", ""), 11 * time.Second, nil},
	} {
		if got := b.take(tt.stream, tt.header, 100, now.Add(tt.after)); !errors.Is(got, tt.want) {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if n := len(b.open["s"]); n != 3 || b.bytes != 400 { // 3 with two messages, new, newer
		t.Errorf("%d are open and hold %d bytes", n, b.bytes)
	}
}

func TestBatchesHoldNoMoreThanTheirBytes(t *testing.T) {
	const half = batchBytes / 2
	now := time.Unix(1000, 0)
	var b batches
	for _, tt := range []struct {
		name   string
		stream string
		header nats.Header
		size   int
		after  time.Duration
		want   error
		held   int
	}{
		{"the first", "s", ofBatch("a", "1", ""), half, 0, nil, half},
		{"of another stream", "r", ofBatch("b", "1", ""), half - 10, 0, nil, batchBytes - 10},
		{"a new one beyond", "q", ofBatch("c", "1", ""), 11, 0, errLargeBatches, batchBytes - 10},
		{"no batch", "q", nil, 11, 0, nil, batchBytes - 10},
		{"to the last byte", "q", ofBatch("c", "1", ""), 10, time.Second, nil, batchBytes},
		{"more of one that is open", "s", ofBatch("a", "2", ""), 1, time.Second, errLargeBatches, batchBytes},
		{"what belongs to it", "s", ofBatch("a", "3", ""), 0, time.Second, errLargeBatches, batchBytes},
		{"its commit", "s", ofBatch("a", "4", "1"), 0, time.Second, errLargeBatches, batchBytes},
		{"it is begun anew", "s", ofBatch("a", "1", ""), 0, time.Second, errLargeBatches, batchBytes},
		{"one commits", "r", ofBatch("b", "2", "1"), 100, time.Second, nil, half + 10},
		{"in its place", "r", ofBatch("d", "1", ""), half - 10, time.Second, nil, batchBytes},
		{"the refused one is still held", "s", ofBatch("a", "5", ""), 1, 10 * time.Second, errLargeBatches, batchBytes},
		{"it is given up", "q", ofBatch("e", "1", ""), half, 11 * time.Second, nil, batchBytes},
		{"and may be begun anew, not now", "s", ofBatch("a", "1", ""), 1, 11 * time.Second, errLargeBatches, batchBytes},
		{"when all were given up", "s", ofBatch("a", "1", ""), 1, 30 * time.Second, nil, 1},
	} {
		if got := b.take(tt.stream, tt.header, tt.size, now.Add(tt.after)); !errors.Is(got, tt.want) || b.bytes != tt.held {
			t.Errorf("%s: %v, %d bytes are held, want %v, %d", tt.name, got, b.bytes, tt.want, tt.held)
		}
	}
}
