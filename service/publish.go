package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// PublishOptions say more about a message. The zero value is the default.
type PublishOptions struct {
	// ID names the message: within its dedupe window, a queue stores the messages of
	// one ID once, and Publish of a repeated one returns nil. It is for queues.
	ID string
	// Headers are added to the message's. Those that act on a stream or that fairlead
	// sets (Nats-..., Fairlead-...) are refused.
	Headers map[string]string
}

// Publish sends a message to all subscribers of a subject, which must be named under
// publishes in the file. Bodies are as for [Answer]. It waits for the first connection
// to the bus until ctx ends.
//
// If a queue of the file keeps the subject, Publish returns when the message is stored
// and synced to the disk; it waits until ctx ends, at most 5 seconds if ctx has no
// deadline. A message that does not satisfy the queue's type is refused with an [*Error]
// of status 422, whose text points to the fault. After a 504 it is not known whether
// the message was stored: with an ID it can be published again.
//
// On any other subject it is at most once: the message leaves within a moment of the
// return, and is lost if the bus is lost then. At the stop of the service all messages
// are flushed; while a lost connection is made again they are kept, up to 8 MiB. That
// the bus denies such a subject is not known at once: it is logged.
//
// Errors are [*Error] as for [Ask].
func Publish[T any](ctx context.Context, s *Service, subject string, v T, opts ...PublishOptions) error {
	out, err := encode(v)
	if err == nil {
		err = s.publish(ctx, subject, out, opts)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", subject, err)
	}
	return nil
}

func (s *Service) publish(ctx context.Context, subject string, out reply, opts []PublishOptions) error {
	if err := s.reach(ctx, subject); err != nil {
		return err
	}
	m := s.message(ctx, subject, out)
	for _, o := range opts {
		if err := o.add(m); err != nil {
			return err
		}
	}
	if s.queues.keep(subject) {
		ctx, cancel := bounded(ctx)
		defer cancel()
		return s.store(ctx, m)
	}
	if err := s.conn.PublishMsg(m); err != nil {
		return s.unsent(err, len(out.body))
	}
	return nil
}

// add puts the options into a message.
func (o PublishOptions) add(m *nats.Msg) error {
	for name, v := range o.Headers {
		if acts(name) {
			return internal(fmt.Errorf("the header %s is not a message's own", name))
		}
		m.Header[name] = []string{v}
	}
	if o.ID != "" {
		m.Header[nats.MsgIdHdr] = []string{o.ID}
	}
	for _, v := range m.Header {
		if strings.ContainsFunc(v[0], unicode.IsControl) || len(v[0]) > maxHeader {
			return internal(fmt.Errorf("the header %.80q holds a control character, or more than %d bytes", v[0], maxHeader))
		}
	}
	return nil
}

// maxHeader bounds the value of a header in bytes.
const maxHeader = 1 << 10

// acts reports whether a header means something to the bus or to fairlead.
func acts(name string) bool {
	return name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ':' }) ||
		strings.HasPrefix(strings.ToLower(name), "nats-") || strings.HasPrefix(strings.ToLower(name), strings.ToLower(wire.HeaderPrefix))
}

// pubAck is what a stream answers to a publisher, or the checker before it.
type pubAck struct {
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
	Error     *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// store publishes a message and waits until it is stored.
func (s *Service) store(ctx context.Context, m *nats.Msg) error {
	r, err := s.request(ctx, m)
	if err != nil {
		return err
	}
	return stored(r.Data)
}

// stored reads the answer of a stream.
func stored(answer []byte) error {
	var ack pubAck
	if err := json.Unmarshal(answer, &ack); err != nil {
		return &Error{Status: http.StatusBadGateway, Public: "the queue gave an answer that cannot be read", Cause: err}
	}
	switch e := ack.Error; {
	case e == nil && ack.Stream == "":
		return &Error{Status: http.StatusBadGateway, Public: "the queue gave an answer that cannot be read", Cause: fmt.Errorf("read acknowledgement: %.200q", answer)}
	case e == nil:
		return nil
	case e.Code == http.StatusUnprocessableEntity || e.Code == http.StatusRequestEntityTooLarge:
		return &Error{Status: e.Code, Public: e.Description}
	default:
		cause := fmt.Errorf("store: %s (code %d, %d)", e.Description, e.Code, e.ErrCode)
		if e.ErrCode == codeIncomplete {
			cause = fmt.Errorf("%w: %w", errIncomplete, cause)
		}
		return &Error{Status: http.StatusServiceUnavailable, Public: "the message could not be stored", Cause: cause}
	}
}

// codeIncomplete is nats-server's for the commit of a batch of which a message is missing.
const codeIncomplete = 10176

var errIncomplete = errors.New("batch is incomplete")
