package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// chunkSize is that of what the server sends, and windowSize how much of it may
	// be under way.
	chunkSize  = 256 << 10
	windowSize = 4 << 20
	// silence is how long the server may send nothing.
	silence = 30 * time.Second
)

// Progress is told before each stream.
type Progress struct {
	Stream string
	Number int // of the stream, from 1
	Of     int
	State  State // zero until it is known
}

// Write writes all streams with their consumers to w, through a connection that may
// use the whole API of JetStream, and returns what they held. tell is called before
// each. On an error what was written is of no use.
func Write(ctx context.Context, nc *nats.Conn, w io.Writer, system string, now time.Time, tell func(Progress)) (Content, error) {
	c, err := write(ctx, nc, w, system, now.UTC(), tell)
	if err != nil {
		return Content{}, fmt.Errorf("back up: %w", err)
	}
	return c, nil
}

func write(ctx context.Context, nc *nats.Conn, to io.Writer, system string, now time.Time, tell func(Progress)) (Content, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return Content{}, err
	}
	var names []string
	list := js.StreamNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return Content{}, fmt.Errorf("list streams: %w", err)
	}
	slices.Sort(names)
	c := Content{System: system, Made: now}
	w := newWriter(to, now)
	if err := w.json("backup.json", head{Format: format, System: system, Made: now}); err != nil {
		return Content{}, err
	}
	for i, name := range names {
		tell(Progress{Stream: name, Number: i + 1, Of: len(names)})
		s, err := snapshot(ctx, nc, name, w)
		if gone(err) {
			continue // since it was listed
		}
		if err != nil {
			return Content{}, fmt.Errorf("stream %s: %w", name, err)
		}
		c.Streams = append(c.Streams, s)
	}
	return c, w.close(c)
}

// gone reports whether a stream is not there.
func gone(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == jetstream.JSErrCodeStreamNotFound
}

// snapshot writes one stream. The protocol is that of `nats stream backup`: the
// server sends chunks, each to be acknowledged, and an empty message at the end
// (nats-server, streamSnapshot).
func snapshot(ctx context.Context, nc *nats.Conn, name string, w *writer) (Stream, error) {
	deliver := nc.NewInbox()
	sub, err := nc.SubscribeSync(deliver)
	if err != nil {
		return Stream{}, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	request, err := json.Marshal(map[string]any{"deliver_subject": deliver, "chunk_size": chunkSize, "window_size": windowSize, "jsck": true})
	if err != nil {
		return Stream{}, err
	}
	h := streamHead{Name: name}
	if err := call(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+name, request, &h); err != nil {
		return Stream{}, err
	}
	s := Stream{Name: name}
	if err := json.Unmarshal(h.State, &s.State); err != nil {
		return Stream{}, fmt.Errorf("read its state: %w", err)
	}
	if err := w.begin(h); err != nil {
		return Stream{}, err
	}
	for {
		m, err := receive(ctx, sub)
		if err != nil {
			return Stream{}, err
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return Stream{}, fmt.Errorf("the server gave up: %s %s", status, m.Header.Get("Description"))
			}
			return s, w.end()
		}
		if err := w.chunk(m.Data); err != nil {
			return Stream{}, err
		}
		if m.Reply != "" {
			if err := nc.Publish(m.Reply, nil); err != nil {
				return Stream{}, err
			}
		}
	}
}

func receive(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, silence, errors.New("the server sends nothing any more"))
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return m, nil
}

// call sends a request to the API of JetStream.
func call(ctx context.Context, nc *nats.Conn, subject string, request []byte, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, silence, errors.New("the server does not answer"))
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, request)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	return answered(m.Data, into)
}

// answered reads an answer of the API.
func answered(data []byte, into any) error {
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &failed); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}
