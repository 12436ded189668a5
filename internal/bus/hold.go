package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// Hold has instances begin no request of their own until [Bus.Release], or until they
// have connected again after [Bus.Suspend]. It returns when those that they had begun
// are answered, or when ctx ends, which must have a deadline, with the instances that
// have not said so by then. Clients that know nothing of it are neither asked nor
// waited for.
func (b *Bus) Hold(ctx context.Context) (late []string, err error) {
	deadline, _ := ctx.Deadline()
	var mu sync.Mutex // guards late
	err = b.tell(wire.Hold{Until: deadline.UnixMilli()}, func(nc *nats.Conn, id string, body []byte) {
		_, err := nc.RequestWithContext(ctx, wire.SubjectHold+id, body)
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			mu.Lock()
			late = append(late, id)
			mu.Unlock()
		}
	})
	slices.Sort(late)
	if err != nil {
		return late, fmt.Errorf("hold requests of instances: %w", err)
	}
	return late, nil
}

// Release lets instances begin requests again after [Bus.Hold]. After a Suspend it is
// not necessary: they do so when they are back.
func (b *Bus) Release() error {
	err := b.tell(wire.Hold{}, func(nc *nats.Conn, id string, body []byte) {
		_ = nc.Publish(wire.SubjectHold+id, body) // fails only on a closed connection
	})
	if err != nil {
		return fmt.Errorf("release requests of instances: %w", err)
	}
	return nil
}

// tell sends a message to each instance, all at once.
func (b *Bus) tell(hold wire.Hold, send func(nc *nats.Conn, id string, body []byte)) error {
	body, err := json.Marshal(hold)
	if err != nil {
		return err
	}
	nc, err := b.Operator("fairlead holds requests")
	if err != nil {
		return err
	}
	defer nc.Close()
	b.mu.Lock()
	live := slices.Collect(maps.Keys(b.instances))
	b.mu.Unlock()
	var all sync.WaitGroup
	for _, id := range live {
		all.Go(func() { send(nc, id, body) })
	}
	all.Wait()
	return nc.FlushTimeout(syncBound)
}
