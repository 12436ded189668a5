package catalogue

import (
	"errors"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// mostBatches is how many atomic batches (ADR-50) publishers may have open in one
	// stream. It takes 50; the others are the [Committer]'s.
	mostBatches = 40
	// batchBytes bounds what all batches together hold that publishers have open: the
	// server keeps it in memory, where it can (docs/decisions/0027).
	batchBytes = 256 << 20
	// batchTime is after how long without a message the server has given a batch up: 10 s
	// after the last came to it.
	batchTime = 10*time.Second + 500*time.Millisecond
)

// Why a message of a batch is refused.
var (
	errManyBatches  = errors.New("too many batches are open; try again")
	errLargeBatches = errors.New("the batches that are open hold too much; try again")
)

// batches are those that publishers have open. One goroutine uses them.
type batches struct {
	open  map[string]map[string]*batch // by stream and id
	bytes int                          // what they hold together
}

// batch is an open one.
type batch struct {
	last   time.Time // when its last message was let through
	bytes  int
	failed bool // a message of it was refused, so it cannot be stored any more
}

// take notes a message of a size in bytes, and returns nil if it may go on to its
// stream: it may not if it opens one batch too many, or if the batches hold too much,
// and then nothing more of its batch may. What belongs to a batch that is not open, the
// stream refuses.
func (b *batches) take(stream string, h nats.Header, size int, now time.Time) error {
	id := h.Get(headerBatch)
	if id == "" {
		return nil
	}
	open := b.open[stream]
	is := open[id]
	if is != nil && now.Sub(is.last) > batchTime {
		b.end(stream, id)
		is = nil
	}
	commits := h.Get(headerCommit) != ""
	switch {
	case is == nil && (commits || h.Get(headerBatchSeq) != "1"):
		return nil
	case is != nil && is.failed:
		return errLargeBatches // the server holds what there is of it until batchTime
	case commits:
		b.end(stream, id)
		return nil
	}
	if is == nil && len(open) >= mostBatches || b.bytes+size > batchBytes {
		b.sweep(now)
	}
	if b.bytes+size > batchBytes {
		if is != nil {
			is.failed = true
		}
		return errLargeBatches
	}
	if is == nil {
		if len(open) >= mostBatches {
			return errManyBatches
		}
		is = &batch{}
		if b.open == nil {
			b.open = map[string]map[string]*batch{}
		}
		if b.open[stream] == nil {
			b.open[stream] = map[string]*batch{}
		}
		b.open[stream][id] = is
	}
	is.last = now
	is.bytes += size
	b.bytes += size
	return nil
}

// sweep forgets the batches that the server has given up.
func (b *batches) sweep(now time.Time) {
	for _, open := range b.open {
		maps.DeleteFunc(open, func(_ string, is *batch) bool {
			old := now.Sub(is.last) > batchTime
			if old {
				b.bytes -= is.bytes
			}
			return old
		})
	}
}

func (b *batches) end(stream, id string) {
	b.bytes -= b.open[stream][id].bytes
	delete(b.open[stream], id)
}
