package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/nats-io/nuid"
)

const (
	maxBatch      = 1000
	maxBatchBytes = 64 << 20
)

// Headers of an atomic batch (NATS's ADR-50).
const (
	headerBatch         = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// PublishBatch stores messages in the queue that keeps a subject, all or none of them,
// in this order: at most 1,000, together at most 64 MiB. It returns when they are
// stored. A large batch is many times faster than one Publish for each message; a small
// one is worth it only for being whole.
//
// Errors are those of [Publish]. If one of the messages does not satisfy the queue's
// type, nothing is stored, and the error tells which it is. The subject must be one
// that a queue keeps.
func PublishBatch[T any](ctx context.Context, s *Service, subject string, values []T) error {
	bodies := make([]reply, len(values))
	size := 0
	for i, v := range values {
		out, err := encode(v)
		if err != nil {
			return fmt.Errorf("publish batch on %s: message %d: %w", subject, i, err)
		}
		bodies[i] = out
		size += len(out.body)
	}
	if len(values) > maxBatch || size > maxBatchBytes {
		return fmt.Errorf("publish batch on %s: %w", subject, &Error{
			Status: http.StatusRequestEntityTooLarge, Public: fmt.Sprintf("a batch holds at most %d messages and %d bytes", maxBatch, maxBatchBytes),
		})
	}
	if err := s.publishBatch(ctx, subject, bodies); err != nil {
		return fmt.Errorf("publish batch on %s: %w", subject, err)
	}
	return nil
}

func (s *Service) publishBatch(ctx context.Context, subject string, bodies []reply) error {
	if err := s.reach(ctx, subject); err != nil {
		return err
	}
	if !s.queues.keep(subject) {
		return internal(errors.New("no queue keeps the subject"))
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	switch len(bodies) {
	case 0:
		return nil
	case 1:
		return s.store(ctx, s.message(ctx, subject, bodies[0]))
	}
	ctx, release := s.denials.watch(ctx, subject)
	defer release()
	giveUp := s.now().Add(waitForAnswerer)
	for backoff := firstAskBackoff; ; backoff = min(2*backoff, maxAskBackoff) {
		err := s.tryBatch(ctx, subject, bodies, false)
		if errors.Is(err, errIncomplete) { // nothing is stored: ask which was refused, and why
			err = s.tryBatch(ctx, subject, bodies, true)
		}
		if !errors.Is(err, ErrUnavailable) || !s.now().Add(backoff).Before(giveUp) || !pause(ctx, backoff) {
			return err
		}
	}
}

// tryBatch sends a batch once. The error is ErrUnavailable if nobody was there, and
// errIncomplete if one between the first and the last was refused: then nothing is
// stored. With each, that one's refusal is the error; it takes an answer to each message.
func (s *Service) tryBatch(ctx context.Context, subject string, bodies []reply, each bool) error {
	over := s.holding.begin(ctx)
	defer over()
	inbox := s.conn.NewInbox()
	answers, err := s.conn.SubscribeSync(inbox + ".*")
	if err != nil {
		return s.unsent(err, 0)
	}
	defer func() { _ = answers.Unsubscribe() }() // the connection may be closed
	id := nuid.Next()
	for i, out := range bodies {
		m := s.message(ctx, subject, out)
		m.Header[headerBatch] = []string{id}
		m.Header[headerBatchSequence] = []string{strconv.Itoa(i + 1)}
		if i == len(bodies)-1 {
			m.Header[headerBatchCommit] = []string{"1"}
		}
		// Those that are taken are answered with nothing.
		if each || i == 0 || i == len(bodies)-1 {
			m.Reply = inbox + "." + strconv.Itoa(i)
		}
		if err := s.conn.PublishMsg(m); err != nil {
			return s.unsent(err, len(out.body))
		}
	}
	last := inbox + "." + strconv.Itoa(len(bodies)-1)
	for {
		m, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return given(context.Cause(ctx))
			}
			return s.unsent(err, 0)
		}
		if len(m.Data) == 0 {
			if m.Header.Get("Status") == strconv.Itoa(http.StatusServiceUnavailable) {
				return &Error{Status: http.StatusServiceUnavailable, Public: "the queue is not there", Cause: ErrUnavailable}
			}
			continue // taken, and stored with the last
		}
		err = stored(m.Data)
		if e, ok := errors.AsType[*Error](err); ok && m.Subject != last {
			return &Error{Status: e.Status, Public: "message " + strings.TrimPrefix(m.Subject, inbox+".") + ": " + e.Public, Cause: e.Cause}
		}
		if err != nil || m.Subject == last {
			return err
		}
	}
}
