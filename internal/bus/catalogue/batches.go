package catalogue

import (
	"maps"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// mostBatches is how many atomic batches (ADR-50) publishers may have open in one
	// stream. It takes 50; the others are the [Committer]'s.
	mostBatches = 40
	// batchTime is after how long without a message the server gives a batch up.
	batchTime = 10 * time.Second
)

// batches are those that publishers have open, by stream and id, with the time of the
// last message. One goroutine uses them.
type batches map[string]map[string]time.Time

// take notes a message, and reports whether it may go on to its stream: it may not if it
// opens one batch too many. What belongs to a batch that is not open, the stream refuses.
func (b batches) take(stream string, h nats.Header, now time.Time) bool {
	id := h.Get(headerBatch)
	if id == "" {
		return true
	}
	open := b[stream]
	if h.Get(headerCommit) != "" {
		delete(open, id)
		return true
	}
	if _, known := open[id]; !known {
		if h.Get(headerBatchSeq) != "1" {
			return true
		}
		if len(open) >= mostBatches {
			maps.DeleteFunc(open, func(_ string, last time.Time) bool { return now.Sub(last) > batchTime })
		}
		if len(open) >= mostBatches {
			return false
		}
	}
	if open == nil {
		open = map[string]time.Time{}
		b[stream] = open
	}
	open[id] = now
	return true
}
