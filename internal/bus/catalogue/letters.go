package catalogue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Letters returns the dead letters of a queue, oldest first and without their data:
// those that died in it, not those of another queue which had some of its subjects.
// Dead letters that do not say their queue are of whoever has their subject.
func Letters(ctx context.Context, js jetstream.JetStream, queue string) ([]Message, error) {
	all, err := headers(ctx, js, DeadLetters, Dead+queue)
	if err != nil {
		return nil, fmt.Errorf("list dead letters of %s: %w", queue, err)
	}
	var own []Message
	for _, m := range all {
		if DiedIn(m, queue) {
			own = append(own, m)
		}
	}
	return own, nil
}

// DiedIn reports whether a dead letter is the queue's, given that its subject is one of
// the queue's.
func DiedIn(letter Message, queue string) bool {
	of := letter.Header.Get(HeaderQueue)
	return of == "" || of == queue
}

// headers returns all messages of a stream that match the filter, without their data.
func headers(ctx context.Context, js jetstream.JetStream, stream, filter string) (_ []Message, err error) {
	c, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: pageTime, HeadersOnly: true, FilterSubject: filter,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if gone := js.DeleteConsumer(ctx, stream, c.CachedInfo().Name); gone != nil && !errors.Is(gone, jetstream.ErrConsumerNotFound) {
			err = errors.Join(err, gone)
		}
	}()
	var all []Message
	for wanted := c.CachedInfo().NumPending; uint64(len(all)) < wanted; {
		batch, err := c.FetchNoWait(int(min(wanted-uint64(len(all)), 1000)))
		if err != nil {
			return nil, err
		}
		before := len(all)
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			all = append(all, Message{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Header: m.Headers()})
		}
		if err := batch.Error(); err != nil {
			return nil, err
		}
		if len(all) == before {
			break // the rest was removed meanwhile
		}
	}
	return all, nil
}

// movePage is how many messages Move publishes before it waits.
const movePage = 256

// Move publishes the messages of a queue that is set apart once more, oldest first, so
// that the queues store them which have their subjects now, and removes those that are
// stored. It returns how many it has moved. A message that is refused ends it, and
// stays with all after it. What was moved and could not be removed is recognised when it
// is moved again at once.
func Move(ctx context.Context, js jetstream.JetStream, queue string) (moved int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("move messages of %s: %w", queue, err)
		}
	}()
	stream := Stream(queue)
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	for {
		p, err := ReadPage(ctx, js, stream, []string{queue}, 0, movePage)
		if err != nil || len(p.Messages) == 0 {
			return moved, err
		}
		n, err := publishAgain(ctx, js, stream, p.Messages)
		moved += n
		if n > 0 {
			err = errors.Join(err, s.Purge(ctx, jetstream.WithPurgeSequence(p.Messages[n-1].Sequence+1)))
		}
		if err != nil {
			return moved, err
		}
	}
}

// publishAgain publishes messages of a stream, one after the other, and returns how
// many are stored elsewhere now.
func publishAgain(ctx context.Context, js jetstream.JetStream, stream string, list []Message) (int, error) {
	for i, was := range list {
		m := nats.NewMsg(was.Subject)
		m.Data = was.Data
		m.Header.Set(jetstream.MsgIDHeader, stream+"-"+strconv.FormatUint(was.Sequence, 10))
		for name, values := range was.Header {
			// What else acted on the stream was meant for then.
			if strings.EqualFold(name, jetstream.MsgIDHeader) || !strings.HasPrefix(strings.ToLower(name), "nats-") {
				m.Header[name] = values
			}
		}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return i, fmt.Errorf("message %d: %w", was.Sequence, err)
		}
	}
	return len(list), nil
}
