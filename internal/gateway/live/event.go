package live

import (
	"encoding/base64"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"fairlead/internal/gateway/websocket"
	"fairlead/internal/wire"
)

// Message is one that was published. Of a queue's, Stream is the name of its stream and
// Sequence its place there; of any other they are zero.
type Message struct {
	Subject  string
	Stream   string
	Sequence uint64
	Time     time.Time
	Data     []byte
}

// event is something that clients are told. It is immutable but for the forms that it
// has been put into.
type event struct {
	kind             string // "" for a message
	subject          string
	stream, sequence uint64
	cursor           string // of whoever has been told this and all before it
	body             []byte // members of a JSON object without its braces
	total            int64  // bytes of all events of the hub up to this one

	asFrame, asText sync.Once
	frame, text     []byte
}

const (
	kindGap = "gap"
	// overhead is about what an event costs besides its body.
	overhead = 256
	// mostDepth is how deep JSON may be nested to be passed on as such.
	mostDepth = 256
)

// newMessage is the event of a message.
func newMessage(m *Message) *event {
	b := make([]byte, 0, len(m.Data)+len(m.Subject)+96)
	b = append(b, `"subject":`...)
	b = wire.AppendString(b, m.Subject)
	if m.Sequence > 0 {
		b = append(b, `,"sequence":`...)
		b = strconv.AppendUint(b, m.Sequence, 10)
	}
	b = append(b, `,"time":"`...)
	b = m.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `",`...)
	b = appendData(b, m.Data)
	return &event{subject: m.Subject, body: b}
}

// appendData appends a message's data: JSON as it is, other text as a string, anything
// else in base64.
func appendData(b, data []byte) []byte {
	switch {
	case !utf8.Valid(data):
		b = append(b, `"base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, data)
		return append(b, '"')
	case wire.ValidJSON(data, mostDepth):
		b = append(b, `"data":`...)
		start := len(b)
		b = append(b, data...)
		// A line break is between two tokens and may be a space; it would end a line
		// of an event.
		for i, c := range b[start:] {
			if c == '\n' || c == '\r' {
				b[start+i] = ' '
			}
		}
		return b
	default:
		b = append(b, `"text":`...)
		return wire.AppendString(b, string(data))
	}
}

// at is the event with another cursor.
func (e *event) at(cursor string) *event {
	return &event{kind: e.kind, subject: e.subject, stream: e.stream, sequence: e.sequence, cursor: cursor, body: e.body}
}

// webSocket is the event as a frame. A message is
//
//	{"event":"message","cursor":"...","subject":"data.vhf","sequence":7,"time":"...","data":{...}}
//
// in which data is the message's JSON; text or base64 stands there for what is none.
func (e *event) webSocket() []byte {
	e.asFrame.Do(func() {
		b := make([]byte, 0, len(e.body)+len(e.cursor)+48)
		b = append(b, `{"event":"`...)
		b = append(b, e.name()...)
		b = append(b, '"')
		if e.cursor != "" {
			b = append(b, `,"cursor":"`...)
			b = append(b, e.cursor...)
			b = append(b, '"')
		}
		if len(e.body) > 0 {
			b = append(b, ',')
			b = append(b, e.body...)
		}
		e.frame = websocket.AppendFrame(make([]byte, 0, len(b)+11), websocket.OpText, append(b, '}'))
	})
	return e.frame
}

// serverSent is the event as one of server-sent events (WHATWG HTML, 9.2), with the
// cursor as its id.
func (e *event) serverSent() []byte {
	e.asText.Do(func() {
		b := make([]byte, 0, len(e.body)+len(e.cursor)+48)
		if e.kind != "" {
			b = append(append(append(b, "event: "...), e.kind...), '\n')
		}
		if e.cursor != "" {
			b = append(append(append(b, "id: "...), e.cursor...), '\n')
		}
		b = append(b, "data: {"...)
		b = append(b, e.body...) // it holds no line break
		e.text = append(b, "}\n\n"...)
	})
	return e.text
}

func (e *event) name() string {
	if e.kind == "" {
		return "message"
	}
	return e.kind
}

// size is about how much memory the event takes.
func (e *event) size() int64 { return int64(2*len(e.body) + len(e.cursor) + overhead) }
