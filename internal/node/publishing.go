package node

import (
	"context"
	"errors"
	"fmt"

	"fairlead/internal/bus"
	"fairlead/internal/bus/catalogue"
	"fairlead/internal/gateway/publish"
	schemas "fairlead/internal/system/message"
)

// queues are the bus's as the door sees them.
type queues struct{ bus *bus.Bus }

// Publish implements [publish.Queues].
func (q queues) Publish(ctx context.Context, m publish.Message) (publish.Receipt, error) {
	s, err := q.bus.Publish(ctx, catalogue.Publication{Subject: m.Subject, Header: m.Header, Data: m.Data, Key: m.Key, ID: m.ID, Deadline: m.Deadline})
	if err == nil {
		return publish.Receipt{Stream: s.Stream, Sequence: s.Sequence, Duplicate: s.Duplicate, Quarantined: s.Stream == catalogue.DeadLetters}, nil
	}
	if fault, ok := errors.AsType[*schemas.Fault](err); ok {
		return publish.Receipt{}, &publish.Fault{Type: fault.Type, Pointer: fault.Pointer, Reason: m.Subject + ": " + fault.Error()}
	}
	for from, to := range map[error]error{
		catalogue.ErrFull: publish.ErrFull, catalogue.ErrTooLarge: publish.ErrTooLarge, catalogue.ErrUnknown: publish.ErrUnknown,
	} {
		if errors.Is(err, from) {
			return publish.Receipt{}, fmt.Errorf("%w: %w", to, err)
		}
	}
	return publish.Receipt{}, fmt.Errorf("%w: %w", publish.ErrUnavailable, err)
}
