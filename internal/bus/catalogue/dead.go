package catalogue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a dead letter, beside those that the message had. Those of the message
// that act on a stream (Nats-...) are kept with headerWas before their name.
const (
	headerDead = "Fairlead-Dead-"

	HeaderQueue    = headerDead + "Queue"
	HeaderSubject  = headerDead + "Subject"
	HeaderCause    = headerDead + "Cause"
	HeaderReason   = headerDead + "Reason"
	HeaderPointer  = headerDead + "Pointer"
	HeaderTime     = headerDead + "Time"
	HeaderSequence = headerDead + "Sequence" // in the queue's stream, of a message that was stored
	HeaderConsumer = headerDead + "Consumer" // that could not handle it
	HeaderOmitted  = headerDead + "Omitted"  // bytes of a message that its queue alone holds
	headerWas      = headerDead + "Was-"

	// HeaderUnreadable holds, in base64, the headers of a message that are none.
	HeaderUnreadable = "Fairlead-Unreadable-Header"
	// mostDeadSubject is how long a subject may be that its dead letter is stored under:
	// a line of the protocol holds it with more. The header says it in any case.
	mostDeadSubject = 1 << 10 // bytes

	// HeaderReplay marks a dead letter that is published again: it is not put among
	// the dead letters once more, but refused.
	HeaderReplay = "Fairlead-Replay"
)

// Causes of death.
const (
	CauseType     = "type"     // it does not satisfy its queue's type
	CauseAttempts = "attempts" // a consumer was given it as often as it may be
	CauseRefused  = "refused"  // a consumer said that it will never handle it
)

// Death says why a message is a dead letter.
type Death struct {
	Queue    string
	Subject  string // that it was published on
	Cause    string
	Pointer  string // to the fault, of CauseType
	Reason   string // public, one line
	Time     time.Time
	Sequence uint64 // in the queue's stream, 0: it was not stored
	Consumer string // "": none
}

// DeadLetter is a full copy of a message, to be published to the dead letters. The
// message stays as it is.
func DeadLetter(m *nats.Msg, d Death) *nats.Msg {
	h := nats.Header{}
	for name, values := range m.Header {
		if strings.HasPrefix(name, headerDead) {
			continue // it would pass for ours
		}
		if strings.HasPrefix(strings.ToLower(name), "nats-") {
			name = headerWas + name
		}
		h[name] = slices.Clone(values)
	}
	line := strings.NewReplacer("\r", " ", "\n", " ")
	h.Set(HeaderQueue, d.Queue)
	h.Set(HeaderSubject, d.Subject)
	h.Set(HeaderCause, d.Cause)
	h.Set(HeaderReason, line.Replace(d.Reason))
	h.Set(HeaderTime, d.Time.UTC().Format(time.RFC3339Nano))
	if d.Pointer != "" {
		h.Set(HeaderPointer, line.Replace(d.Pointer))
	}
	if d.Sequence > 0 {
		h.Set(HeaderSequence, strconv.FormatUint(d.Sequence, 10))
	}
	if d.Consumer != "" {
		h.Set(HeaderConsumer, d.Consumer)
	}
	subject := d.Subject
	if len(subject) > mostDeadSubject {
		subject = strings.NewReplacer("*", "_", ">", "_").Replace(d.Queue)
	}
	return &nats.Msg{Subject: Dead + subject, Header: h, Data: m.Data}
}

// Bury stores the dead letter of a stored message under an id, by which it is stored
// once. If a copy cannot be stored, since its headers make it too large, the dead
// letter says which message of the queue it is: [Replay] takes it from there, as long
// as the queue keeps it.
func Bury(ctx context.Context, js jetstream.JetStream, m *Message, d Death, id string) error {
	dead := DeadLetter(&nats.Msg{Header: m.Header, Data: m.Data}, d)
	dead.Header.Set(jetstream.MsgIDHeader, id)
	_, err := js.PublishMsg(ctx, dead)
	if tooLarge(err) {
		d.Reason += fmt.Sprintf(" (it is too large to be copied: it is message %d of the queue, as long as that keeps it)", d.Sequence)
		dead = DeadLetter(&nats.Msg{}, d)
		dead.Header.Set(jetstream.MsgIDHeader, id)
		dead.Header.Set(HeaderOmitted, strconv.Itoa(len(m.Data)))
		_, err = js.PublishMsg(ctx, dead)
	}
	if err != nil {
		return fmt.Errorf("store dead letter of %s: %w", d.Queue, err)
	}
	return nil
}

// tooLarge reports whether the bus, or a stream, does not take a message of that size,
// or headers of that size.
func tooLarge(err error) bool {
	if errors.Is(err, nats.ErrMaxPayload) {
		return true
	}
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.Code == http.StatusBadRequest
}

// Revive is the message that a dead letter is a copy of, to be published again, and
// why it died.
func Revive(h nats.Header, data []byte) (*nats.Msg, Death, error) {
	d := Death{
		Queue: h.Get(HeaderQueue), Subject: h.Get(HeaderSubject), Cause: h.Get(HeaderCause), Pointer: h.Get(HeaderPointer),
		Reason: h.Get(HeaderReason), Consumer: h.Get(HeaderConsumer),
	}
	d.Time, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderTime))
	d.Sequence, _ = strconv.ParseUint(h.Get(HeaderSequence), 10, 64)
	if d.Subject == "" {
		return nil, d, errors.New("read dead letter: it does not say where it was published")
	}
	m := &nats.Msg{Subject: d.Subject, Header: nats.Header{}, Data: data}
	for name, values := range h {
		was, acted := strings.CutPrefix(name, headerWas)
		switch {
		case acted && strings.EqualFold(was, jetstream.MsgIDHeader):
			m.Header[was] = values
		case strings.HasPrefix(name, headerDead), strings.HasPrefix(strings.ToLower(name), "nats-"):
			// What else acted on the stream was meant for then: expected sequences, batches.
		default:
			m.Header[name] = values
		}
	}
	return m, d, nil
}

// Replay publishes a dead letter again, on the subject where it was published, and
// removes it once the queue has stored it. The sequence is that among the dead
// letters. A message that is refused stays, and the error says why.
func Replay(ctx context.Context, js jetstream.JetStream, sequence uint64) (*jetstream.PubAck, error) {
	s, err := js.Stream(ctx, DeadLetters)
	if err != nil {
		return nil, fmt.Errorf("replay dead letter %d: %w", sequence, err)
	}
	m, err := buried(ctx, js, sequence)
	if err != nil {
		return nil, fmt.Errorf("replay dead letter %d: %w", sequence, err)
	}
	own := maps.Clone(m.Header)
	// Twice the same is stored once, if the removal below fails and it is replayed
	// again.
	if m.Header.Get(jetstream.MsgIDHeader) == "" {
		m.Header.Set(jetstream.MsgIDHeader, DeadLetters+"-"+strconv.FormatUint(sequence, 10))
	}
	m.Header.Set(HeaderReplay, "1")
	ack, err := js.PublishMsg(ctx, m)
	if tooLarge(err) { // it was as large as a message may be
		m.Header = own
		ack, err = js.PublishMsg(ctx, m)
	}
	if err != nil {
		return nil, fmt.Errorf("replay dead letter %d: %w", sequence, err)
	}
	if err := s.DeleteMsg(ctx, sequence); err != nil {
		return ack, fmt.Errorf("replay dead letter %d: it is in its queue, but stays: %w", sequence, err)
	}
	return ack, nil
}

// buried is the message that a dead letter is of, to be published again.
func buried(ctx context.Context, js jetstream.JetStream, sequence uint64) (*nats.Msg, error) {
	letter, err := exactly(ctx, js, DeadLetters, sequence)
	if err != nil {
		return nil, err
	}
	m, d, err := Revive(letter.Header, letter.Data)
	if err != nil || letter.Header.Get(HeaderOmitted) == "" {
		return m, err
	}
	kept, err := exactly(ctx, js, Stream(d.Queue), d.Sequence)
	if err != nil {
		return nil, fmt.Errorf("it was too large to be copied, and is in its queue no more: %w", err)
	}
	m, _, err = Revive(DeadLetter(&nats.Msg{Header: kept.Header}, d).Header, kept.Data)
	return m, err
}

// exactly returns the message of a stream with that sequence.
func exactly(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64) (*Message, error) {
	m, err := At(ctx, js, stream, sequence)
	if err == nil && (m == nil || m.Sequence != sequence) {
		err = jetstream.ErrMsgNotFound
	}
	return m, err
}

// Message is a stored message.
type Message struct {
	Subject  string
	Sequence uint64
	Time     time.Time
	Header   nats.Header
	Data     []byte
}

// Read returns at most most messages of a stream from a sequence on, oldest first,
// of which the subjects match the filter. Together they hold about mostBytes.
func Read(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64, most int) ([]Message, error) {
	var all []Message
	size := 0
	for next := max(from, 1); len(all) < most && size < mostBytes; {
		m, err := get(ctx, js, stream, map[string]any{"seq": next, "next_by_subj": filter})
		if err != nil {
			return nil, err
		}
		if m == nil {
			break
		}
		all = append(all, *m)
		size += len(m.Data)
		next = m.Sequence + 1
	}
	return all, nil
}

// mostBytes bounds what Read returns.
const mostBytes = 8 << 20

// Since returns the first message of a stream that was stored at t or later, nil if
// there is none.
func Since(ctx context.Context, js jetstream.JetStream, stream string, t time.Time) (*Message, error) {
	return get(ctx, js, stream, map[string]any{"start_time": t.UTC(), "next_by_subj": ">"})
}

// At returns the first message of a stream from a sequence on, nil if there is none.
func At(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64) (*Message, error) {
	return get(ctx, js, stream, map[string]any{"seq": max(sequence, 1), "next_by_subj": ">"})
}

// get asks for one message: the library cannot ask by time.
func get(ctx context.Context, js jetstream.JetStream, stream string, request map[string]any) (*Message, error) {
	b, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	reply, err := js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, b)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil //nolint:nilnil // there is none
	case answer.Error != nil:
		return nil, fmt.Errorf("read stream %s: %w", stream, answer.Error)
	case answer.Message == nil:
		return nil, fmt.Errorf("read stream %s: an empty answer", stream)
	}
	m := &Message{
		Subject: answer.Message.Subject, Sequence: answer.Message.Sequence, Time: answer.Message.Time, Data: answer.Message.Data,
	}
	if len(answer.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			// Any publisher can have such a message stored.
			m.Header = nats.Header{HeaderUnreadable: {base64.StdEncoding.EncodeToString(answer.Message.Header)}}
		}
	}
	return m, nil
}
