package catalogue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Headers of an atomic batch (ADR-50).
const (
	headerBatch    = "Nats-Batch-Id"
	headerBatchSeq = "Nats-Batch-Sequence"
	headerCommit   = "Nats-Batch-Commit"
)

// Errors of the server about batches.
const (
	errBatchIncomplete = 10176 // also of one that could not begin, as too many are open
	errBatchesOpen     = 10210
	errBatchDuplicate  = 10201 // one of its ids is known
)

// ack is what a stream answers to who publishes.
type ack struct {
	Stream    string      `json:"stream"`
	Sequence  uint64      `json:"seq"`
	Duplicate bool        `json:"duplicate"`
	Count     int         `json:"count"`
	Error     *storeError `json:"error"`
}

// storeError is why a stream has not stored what was published.
type storeError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *storeError) Error() string {
	return e.Description + " (" + strconv.Itoa(e.ErrCode) + ")"
}

// send publishes a group, as one batch if it needs one, and waits for the
// acknowledgement. The error is a [storeError] if the stream has said no,
// [ErrUnavailable] if nothing was stored, for the server went away or the stream is
// not there, and [ErrUnknown] if no answer came.
func (c *Committer) send(group []*entry) (*ack, error) {
	last, err := c.sendAll(group)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err) // a batch without its commit is not stored
	}
	ctx, cancel := c.asked()
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(ctx, last)
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	var a ack
	if err := json.Unmarshal(reply.Data, &a); err != nil {
		return nil, fmt.Errorf("%w: read acknowledgement: %w", ErrUnknown, err)
	}
	if a.Error != nil {
		return nil, a.Error
	}
	return &a, nil
}

// asked bounds how long an answer is waited for.
func (c *Committer) asked() (context.Context, context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return context.WithTimeout(c.link, commitTime)
}

// sendAll publishes a group but for its last message, which it returns. What an earlier
// attempt has put into the headers is replaced.
func (c *Committer) sendAll(group []*entry) (*nats.Msg, error) {
	if e := group[0]; len(group) == 1 && e.marker == "" {
		delete(e.msg.Header, headerBatch)
		delete(e.msg.Header, headerBatchSeq)
		delete(e.msg.Header, headerCommit)
		return e.msg, nil
	}
	id, n := []string{nuid.Next()}, 0
	var last *nats.Msg
	add := func(m *nats.Msg, number []string) error {
		if last != nil {
			if err := c.nc.PublishMsg(last); err != nil {
				return err
			}
		}
		n++
		number[0] = strconv.Itoa(n)
		m.Header[headerBatch], m.Header[headerBatchSeq] = id, number
		delete(m.Header, headerCommit)
		last = m
		return nil
	}
	for _, e := range group {
		if e.marker != "" {
			first := nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}
			if err := add(&nats.Msg{Subject: e.marker, Header: first}, make([]string, 1)); err != nil {
				return nil, err
			}
		}
		if err := add(e.msg, e.number[:]); err != nil {
			return nil, err
		}
	}
	last.Header[headerCommit] = []string{"1"}
	return last, nil
}

// last is the sequence of the last message on a subject of a stream, 0 for none.
func (c *Committer) last(stream, subject string) (uint64, error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return 0, fmt.Errorf("ask for %s: %w", subject, err)
	}
	ctx, cancel := c.asked()
	defer cancel()
	reply, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return 0, fmt.Errorf("ask for %s: %w", subject, err)
	}
	var answer struct {
		Error   *storeError `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return 0, fmt.Errorf("ask for %s: %w", subject, err)
	case answer.Error == nil:
		return answer.Message.Sequence, nil
	case answer.Error.ErrCode == int(jetstream.JSErrCodeMessageNotFound):
		return 0, nil
	}
	return 0, fmt.Errorf("ask for %s: %w", subject, answer.Error)
}
