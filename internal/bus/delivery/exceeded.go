package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/wire"
)

// Exceeded is the name of the stream that keeps what the server says of messages that
// it has given as often as their consumer allows, until they are dead letters. Nobody
// else hears it while the node is away. It is made when the first consumer has such a
// limit.
const Exceeded = "EXCEEDED"

const (
	exceededSubjects = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"
	exceededKeep     = 30 * 24 * time.Hour
	exceededBytes    = 64 << 20
	// buryAgain is how long a message waits that could not be put among the dead
	// letters.
	buryAgain = 5 * time.Second
)

// watchExceeded begins to put the messages among the dead letters that were given as
// often as they may be, if it does not yet. With found, only if there is a stream of
// them. d.making is held, or nobody else has d.
func (d *Desk) watchExceeded(ctx context.Context, found bool) error {
	if d.exceeded != nil {
		return nil
	}
	if found {
		if _, err := d.js.Stream(ctx, Exceeded); err != nil {
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				return nil
			}
			return fmt.Errorf("look for stream %s: %w", Exceeded, err)
		}
	}
	stream, err := d.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: Exceeded, Description: "messages that were given as often as they may be, on their way to the dead letters",
		Subjects: []string{exceededSubjects}, Storage: jetstream.FileStorage, Retention: jetstream.WorkQueuePolicy,
		Discard: jetstream.DiscardOld, MaxAge: exceededKeep, MaxBytes: exceededBytes, Replicas: 1,
	})
	if err != nil {
		return fmt.Errorf("make stream %s: %w", Exceeded, err)
	}
	c, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: "node", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * serveTime, MaxDeliver: -1})
	if err != nil {
		return fmt.Errorf("make consumer of %s: %w", Exceeded, err)
	}
	d.exceeded, err = c.Consume(d.giveUp, jetstream.PullMaxMessages(atOnce))
	if err != nil {
		return fmt.Errorf("consume %s: %w", Exceeded, err)
	}
	return nil
}

// giveUp puts a message among the dead letters that the server tells of.
func (d *Desk) giveUp(m jetstream.Msg) {
	ctx, cancel := context.WithTimeout(d.ctx, serveTime)
	defer cancel()
	err := d.buryExceeded(ctx, m.Data())
	if err == nil {
		err = m.Ack()
	} else {
		err = errors.Join(err, m.NakWithDelay(buryAgain))
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("message cannot be put among the dead letters now", slog.String(wire.KeyError, err.Error()))
	}
}

func (d *Desk) buryExceeded(ctx context.Context, advisory []byte) error {
	var told struct {
		Stream     string `json:"stream"`
		Consumer   string `json:"consumer"`
		Sequence   uint64 `json:"stream_seq"`
		Deliveries uint64 `json:"deliveries"`
	}
	if err := json.Unmarshal(advisory, &told); err != nil {
		return nil //nolint:nilerr // it is no advisory, and never will be
	}
	is, err := d.js.Consumer(ctx, told.Stream, told.Consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return nil // nobody wants it any more
	case err != nil:
		return fmt.Errorf("look for consumer %s of %s: %w", told.Consumer, told.Stream, err)
	}
	of := known(is.CachedInfo(), told.Stream)
	if of.Owner == "" {
		return nil // somebody else's
	}
	return Bury(ctx, d.js, of, told.Sequence, "", catalogue.Death{
		Cause: catalogue.CauseAttempts, Reason: fmt.Sprintf("it was given %d times and never acknowledged", told.Deliveries),
	})
}
