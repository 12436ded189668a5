// Package publish makes messages for queues out of HTTP requests.
//
// A [Route] is one route of the file, compiled: the subject, what makes two messages
// the same, which headers a message carries, and how its sender proves who it is. Its
// Message reads nothing but the request and its body, and answers for what is wrong
// with them by a [data.Error] or a [Fault].
//
// The package stores nothing: [Queues] does.
package publish

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Errors of [Queues.Publish], besides a [Fault].
var (
	ErrFull        = errors.New("too many messages wait to be stored")
	ErrTooLarge    = errors.New("message is too large")
	ErrUnavailable = errors.New("message cannot be stored now")         // it is not stored
	ErrUnknown     = errors.New("not known whether message was stored") // it may be
)

// Queues stores messages. Its method is safe for concurrent use.
type Queues interface {
	// Publish returns when the message is stored and synced, or when the context or the
	// message's deadline ends. The header is its own from then on.
	Publish(ctx context.Context, m Message) (Receipt, error)
}

// Message is what is stored.
type Message struct {
	Subject string
	Header  map[string][]string
	Data    []byte
	Key     string // makes it the same as an earlier one of its subject, "" for none
	ID      string // the queue knows it again by that for a while, "" for none
	// Deadline is when nobody waits for the receipt any more; zero for never.
	Deadline time.Time
}

// Receipt says where a message is. It is what a client is answered.
type Receipt struct {
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"sequence"`
	Duplicate bool   `json:"duplicate"` // it was there before
	// Quarantined says that it is among the dead letters: it does not satisfy its type.
	Quarantined bool `json:"quarantined,omitempty"`
}

// AppendJSON appends the receipt as JSON, as its tags say.
func (r *Receipt) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"stream":`...)
	dst = wire.AppendString(dst, r.Stream)
	dst = append(dst, `,"sequence":`...)
	dst = strconv.AppendUint(dst, r.Sequence, 10)
	dst = append(dst, `,"duplicate":`...)
	dst = strconv.AppendBool(dst, r.Duplicate)
	if r.Quarantined {
		dst = append(dst, `,"quarantined":true`...)
	}
	return append(dst, '}')
}

// Fault says what is wrong with a message.
type Fault struct { //nolint:errname // the word of the catalogue for it
	Type    string // the message's type, "" where none says so
	Pointer string // to the fault in the body (RFC 6901), "" for the whole
	Reason  string // public
}

func (f *Fault) Error() string { return f.Reason }

const (
	// carriedBytes bounds what a message carries of a request's headers.
	carriedBytes = 8 << 10
	// idBytes bounds an Idempotency-Key, and the value of a header that makes messages
	// the same.
	idBytes = 1 << 10
)

// Route is where the requests of one route go. It is immutable.
type Route struct {
	subject *data.Subject
	fields  []field
	carried []string               // canonical names
	prove   prove                  // nil: anybody may send
	signed  func(http.Header) bool // reports whether headers may prove it; nil as prove
}

// New compiles a route, which publishes. secrets holds the values of the file's.
func New(def *system.Route, secrets map[string]string) (*Route, error) {
	p := def.Publish
	if p == nil {
		return nil, errors.New("it publishes nothing")
	}
	names := match.Names(def.Path)
	subject, err := data.ParseSubject(p.Subject, func(name string) bool { return names[name] })
	if err != nil {
		return nil, err
	}
	r := &Route{subject: subject}
	for _, f := range p.Dedupe {
		parsed, err := parseField(f)
		if err != nil {
			return nil, err
		}
		r.fields = append(r.fields, parsed)
	}
	for _, name := range p.Headers {
		if wire.ForeignHeader(name) {
			return nil, fmt.Errorf("carry: %s belongs to fairlead or the bus", name)
		}
		r.carried = append(r.carried, textproto.CanonicalMIMEHeaderKey(name))
	}
	if p.Signature != nil {
		if r.prove, err = newProve(p.Signature, secrets[p.Signature.Secret]); err != nil {
			return nil, err
		}
		r.signed = signed(p.Signature.Kind, r.prove)
	}
	return r, nil
}

// ErrUnproven is returned for a request whose signature is missing, wrong or too old.
var ErrUnproven = errors.New("the signature is missing, wrong or too old")

// Admit reports what the headers of a request tell to be wrong with it, before its body is
// read. The error is [ErrUnproven] or a [data.Error].
func (p *Route) Admit(h http.Header) error {
	if err := p.media(h); err != nil {
		return err
	}
	if p.prove != nil && !p.signed(h) {
		return ErrUnproven
	}
	return nil
}

// Message makes the message of a request that was admitted, and whose body was read. user is the subject of
// the user that it comes from, "" for nobody's. The error is [ErrUnproven], a [Fault]
// or a [data.Error].
func (p *Route) Message(r *http.Request, body []byte, vars match.Values, user string) (Message, error) {
	if p.prove != nil && !p.prove(r.Header, body, time.Now()) {
		return Message{}, ErrUnproven
	}
	subject, err := p.subject.Fill(vars)
	if err != nil {
		return Message{}, err
	}
	m := Message{Subject: subject, Header: make(map[string][]string, len(p.carried)+2), Data: body}
	size := 0
	for _, name := range p.carried {
		values := r.Header[name]
		if len(values) == 0 {
			continue
		}
		for _, v := range values {
			size += len(name) + len(v)
		}
		m.Header[name] = slices.Clone(values) // the request's may be used for another
	}
	if size > carriedBytes {
		return Message{}, &data.Error{Status: http.StatusRequestHeaderFieldsTooLarge, Public: "the headers that the message carries are too large"}
	}
	if len(p.fields) > 0 {
		m.Key, err = keyOf(p.fields, r.Header, body)
	} else {
		m.ID, err = idOf(r.Header, subject, user)
	}
	return m, err
}

// media refuses a body that a page of another site may send without asking, unless a
// signature proves where it comes from, and one that is compressed. Browsers ask
// before they declare anything but a form or plain text; a body may also be declared
// as nothing at all.
func (p *Route) media(h http.Header) error {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &data.Error{Status: http.StatusUnsupportedMediaType, Public: "the body must not be compressed"}
	}
	if p.prove != nil {
		return nil
	}
	media, ok := "", len(h["Content-Type"]) == 1
	if ok && h["Content-Type"][0] == "application/json" {
		return nil // nearly all
	}
	if ok {
		var err error
		media, _, err = mime.ParseMediaType(h["Content-Type"][0])
		ok = err == nil && strings.Contains(media, "/")
	}
	switch {
	case !ok:
		return &data.Error{Status: http.StatusUnsupportedMediaType, Public: "the body must be declared by one Content-Type, such as application/json or application/octet-stream"}
	case slices.Contains([]string{"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}, media):
		return &data.Error{Status: http.StatusUnsupportedMediaType, Public: "the body must not be declared as a form or as plain text, which pages of other sites may send; say Content-Type: application/json, or application/octet-stream"}
	}
	return nil
}

// Proven reports whether a request must prove by a signature who sends it.
func (p *Route) Proven() bool { return p.prove != nil }

// idOf makes the id of a request with an Idempotency-Key. It holds for one subject
// and one user: keys of two clients may happen to be the same.
func idOf(h http.Header, subject, user string) (string, error) {
	values := h["Idempotency-Key"]
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || values[0] == "" || len(values[0]) > idBytes:
		return "", &data.Error{Status: http.StatusBadRequest, Public: fmt.Sprintf("Idempotency-Key must be one value of 1 to %d bytes", idBytes)}
	}
	h256 := sha256.New()
	for _, part := range []string{subject, user, values[0]} {
		_, _ = fmt.Fprintf(h256, "%d:%s", len(part), part) // a hash takes everything
	}
	return "http-" + base64.RawURLEncoding.EncodeToString(h256.Sum(nil)[:16]), nil
}
