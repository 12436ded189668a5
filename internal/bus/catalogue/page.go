package catalogue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pageBytes is about how much a page holds at most.
	pageBytes = 4 << 20
	// pageTime is how long a consumer of a page lives if nobody ends it.
	pageTime = 30 * time.Second
	// pageWait is how long its messages may take to come.
	pageWait = 5 * time.Second
)

// Page is a part of a stream.
type Page struct {
	Messages []Message
	Through  uint64 // every message up to here that was asked for is in the page, or came before it
	First    uint64 // sequence of the stream's oldest message, before the page was read
	Last     uint64 // sequence of its newest, as above
}

// ReadPage returns messages of a stream that match one of the filters, which must not
// overlap, from after a sequence on, oldest first: at most most of them, and fewer where
// they are large. Unlike [Read], it costs little for each message, and more for the
// first.
func ReadPage(ctx context.Context, js jetstream.JetStream, stream string, filters []string, after uint64, most int) (_ Page, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read stream %s: %w", stream, err)
		}
	}()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return Page{}, err
	}
	state := s.CachedInfo().State
	p := Page{Through: after, First: state.FirstSeq, Last: state.LastSeq}
	if after >= p.Last {
		return p, nil
	}
	if state.Msgs > 0 {
		most = max(1, min(most, int(pageBytes/(state.Bytes/state.Msgs+1))))
	}
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: pageTime,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, FilterSubjects: filters,
	})
	if err != nil {
		return Page{}, err
	}
	defer func() {
		if gone := s.DeleteConsumer(ctx, c.CachedInfo().Name); gone != nil && !errors.Is(gone, jetstream.ErrConsumerNotFound) && err == nil {
			err = gone
		}
	}()
	pending := c.CachedInfo().NumPending
	want := int(min(uint64(most), pending))
	if want > 0 {
		if err := p.fetch(ctx, c, want); err != nil {
			return Page{}, err
		}
	}
	if uint64(want) == pending {
		p.Through = max(p.Through, p.Last)
	}
	return p, nil
}

// fetch takes as many messages of a consumer as it has at least. That a batch is shorter
// tells nothing: it may be late, or lost with a connection.
func (p *Page) fetch(ctx context.Context, c jetstream.Consumer, want int) error {
	ctx, cancel := context.WithTimeout(ctx, pageWait)
	defer cancel()
	batch, err := c.Fetch(want, jetstream.FetchContext(ctx))
	if err != nil {
		return err
	}
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		p.Messages = append(p.Messages, Message{
			Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Header: m.Headers(), Data: m.Data(),
		})
		p.Through = meta.Sequence.Stream
	}
	if err := batch.Error(); err != nil {
		return err
	}
	if len(p.Messages) >= want {
		return nil
	}
	// Messages may have grown too old meanwhile.
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if info.NumPending > 0 || info.Delivered.Consumer != uint64(len(p.Messages)) {
		return fmt.Errorf("%d of %d messages have not come in time", want-len(p.Messages), want)
	}
	return nil
}
