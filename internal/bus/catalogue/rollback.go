package catalogue

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system"
)

// Streams are the names of the queues' streams, with that of the dead letters.
func Streams(queues []system.Queue) []string {
	if len(queues) == 0 {
		return nil
	}
	names := []string{DeadLetters}
	for i := range queues {
		names = append(names, Stream(queues[i].Name))
	}
	return names
}

// RolledBack is a batch that a stream held a part of, and holds nothing of any more.
type RolledBack struct {
	Stream   string
	Batch    string // its id
	Messages int    // that were deleted, markers of keys among them
}

// RollBack deletes from the streams of queues, and from the dead letters, what there is
// of an atomic batch of which the end is missing: nobody was told that it is stored. A
// server that is ended while it stores one completes it when it starts, out of what it
// has staged; that is gone where it was in memory, and the machine too was ended. A
// marker without its message would let the same message pass for a duplicate for ever.
//
// It must be called before anybody stores. The server goes on to know the Nats-Msg-Ids
// of what was deleted until its account's JetStream is opened anew. What was done stays
// done when there is an error.
func RollBack(ctx context.Context, js jetstream.JetStream) ([]RolledBack, error) {
	have, err := streams(ctx, js)
	if err != nil {
		return nil, err
	}
	var all []RolledBack
	for name, is := range have {
		if is.Config.Metadata[queueKey] == "" && name != DeadLetters || !is.Config.AllowAtomicPublish {
			continue
		}
		one, err := rollBack(ctx, js, name, is.State)
		if one.Messages > 0 {
			all = append(all, one)
		}
		if err != nil {
			return all, fmt.Errorf("roll back batch %s of stream %s: %w", one.Batch, name, err)
		}
	}
	return all, nil
}

func rollBack(ctx context.Context, js jetstream.JetStream, name string, state jetstream.StreamState) (RolledBack, error) {
	back := RolledBack{Stream: name}
	if state.Msgs == 0 {
		return back, nil
	}
	// The last that there ever was: if that has been deleted, it may have been the commit.
	last, err := get(ctx, js, name, map[string]any{"seq": state.LastSeq})
	if err != nil || last == nil {
		return back, err
	}
	back.Batch = last.Header.Get(headerBatch)
	n, err := strconv.ParseUint(last.Header.Get(headerBatchSeq), 10, 64)
	if back.Batch == "" || last.Header.Get(headerCommit) != "" || err != nil {
		return back, nil //nolint:nilerr // it is no part of a batch
	}
	s, err := js.Stream(ctx, name)
	if err != nil {
		return back, err
	}
	// A batch is stored without gaps. Its last message goes last: should this be cut off,
	// the next one finds it.
	first := max(state.FirstSeq, state.LastSeq-min(n, state.LastSeq)+1)
	for sequence := first; sequence <= state.LastSeq; sequence++ {
		m, err := get(ctx, js, name, map[string]any{"seq": sequence})
		if err != nil {
			return back, err
		}
		if m == nil || m.Header.Get(headerBatch) != back.Batch {
			continue
		}
		if err := s.DeleteMsg(ctx, sequence); err != nil {
			return back, err
		}
		back.Messages++
	}
	return back, nil
}
