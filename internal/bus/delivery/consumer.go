package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

// Keys of a consumer's metadata.
const (
	ownerKey = "fairlead.owner"
	userKey  = "fairlead.user" // of a reader
	queueKey = "fairlead.queue"
)

const (
	defaultInFlight = 64
	maxInFlight     = 10_000
	defaultAckWait  = 30 * time.Second
	minAckWait      = 100 * time.Millisecond
	maxAckWait      = 24 * time.Hour
	maxAttempts     = 1_000_000
	maxName         = 64
	// everybody is how many times the messages of one client may be open in all.
	everybody = 64
	// readerGone is how long a reader that does not pull is kept.
	readerGone = time.Minute
)

// Consumer is a consumer of a queue that belongs to somebody.
type Consumer struct {
	Owner  string // service, or user of the bus
	User   string // the instance that a reader is of; "" for all of the owner
	Queue  string
	Stream string
	Name   string
	Filter string // subjects
}

// List returns all consumers that belong to somebody.
func List(ctx context.Context, js jetstream.JetStream) ([]Consumer, error) {
	var all []Consumer
	streams := js.ListStreams(ctx)
	for s := range streams.Info() {
		if s.Config.Metadata[queueKey] == "" || s.State.Consumers == 0 {
			continue
		}
		stream, err := js.Stream(ctx, s.Config.Name)
		if err != nil {
			return nil, fmt.Errorf("list consumers of %s: %w", s.Config.Name, err)
		}
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			if c := known(info, s.Config.Name); c.Owner != "" {
				all = append(all, c)
			}
		}
		if err := consumers.Err(); err != nil {
			return nil, fmt.Errorf("list consumers of %s: %w", s.Config.Name, err)
		}
	}
	if err := streams.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return all, nil
}

// known is a consumer as its metadata says; it has no owner if it is somebody else's.
func known(info *jetstream.ConsumerInfo, stream string) Consumer {
	c := info.Config
	return Consumer{Owner: c.Metadata[ownerKey], User: c.Metadata[userKey], Queue: c.Metadata[queueKey], Stream: stream, Name: info.Name, Filter: c.FilterSubject}
}

// wish is a request that was found good.
type wish struct {
	wire.SubscribeRequest
	user, owner string
	ackWait     time.Duration
	start       start
}

// start is where a subscription begins.
type start struct {
	policy   jetstream.DeliverPolicy
	sequence uint64
	time     *time.Time
}

// refuse is a failure that is the asker's.
func refuse(code int, format string, args ...any) *failure {
	return &failure{wire.Failure{Code: code, Reason: fmt.Sprintf(format, args...)}}
}

type failure struct{ wire.Failure }

func (f *failure) Error() string { return f.Reason }

// read checks a request of a user.
func read(r wire.SubscribeRequest, user string, p Party) (wish, error) {
	w := wish{SubscribeRequest: r, user: user, owner: p.Owner, ackWait: defaultAckWait}
	if r.Subject == "" || strings.ContainsFunc(r.Subject, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return w, refuse(http.StatusBadRequest, "%.80q is no subject", r.Subject)
	}
	if !slices.ContainsFunc(p.Subscribes, func(granted string) bool { return notation.SubjectsShared(granted, r.Subject) == r.Subject }) {
		return w, refuse(http.StatusForbidden, "%s may not subscribe %s: the file must name it under subscribes", p.Owner, r.Subject)
	}
	if r.Name == "" && r.Reader == "" {
		return w, refuse(http.StatusBadRequest, "a durable subscription must have a name, and a reader one too")
	}
	if r.Name != "" && r.Reader != "" {
		return w, refuse(http.StatusBadRequest, "a subscription is durable or a reader, not both")
	}
	for _, name := range []string{r.Name, r.Reader} {
		if len(name) > maxName || strings.ContainsFunc(name, func(c rune) bool { return !plain(c) }) {
			return w, refuse(http.StatusBadRequest, "the name %.80q must be at most %d letters, digits, dashes and underscores", name, maxName)
		}
	}
	if w.InFlight == 0 {
		w.InFlight = defaultInFlight
	}
	if w.InFlight < 1 || w.InFlight > maxInFlight {
		return w, refuse(http.StatusBadRequest, "in_flight must be 1 to %d, is %d", maxInFlight, w.InFlight)
	}
	if w.Attempts < 0 || w.Attempts > maxAttempts {
		return w, refuse(http.StatusBadRequest, "attempts must be 0 to %d, is %d", maxAttempts, w.Attempts)
	}
	if r.AckWait != "" {
		d, err := time.ParseDuration(r.AckWait)
		if err != nil || d < minAckWait || d > maxAckWait {
			return w, refuse(http.StatusBadRequest, "ack_wait must be %v to %v, is %.40q", minAckWait, maxAckWait, r.AckWait)
		}
		w.ackWait = d
	}
	var err error
	w.start, err = parseStart(r.From)
	return w, err
}

func plain(c rune) bool {
	return c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// parseStart reads where to begin: first, new, a time or a sequence.
func parseStart(from string) (start, error) {
	switch from {
	case "", "first":
		return start{policy: jetstream.DeliverAllPolicy}, nil
	case "new":
		return start{policy: jetstream.DeliverNewPolicy}, nil
	}
	if n, err := strconv.ParseUint(from, 10, 64); err == nil {
		return start{policy: jetstream.DeliverByStartSequencePolicy, sequence: max(n, 1)}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, from)
	if err != nil {
		return start{}, refuse(http.StatusBadRequest, "from must be first, new, a time such as 2026-01-31T12:00:00Z, or a sequence, is %.40q", from)
	}
	return start{policy: jetstream.DeliverByStartTimePolicy, time: &t}, nil
}

// name is the consumer's. No two owners have the same: neither a service's name nor
// an instance's holds an underscore.
func (w wish) name() string {
	if w.Name == "" {
		return w.user + "__" + w.Reader
	}
	return w.owner + "_" + w.Name
}

// config is the consumer of the wish on a queue.
func (w wish) config(queue, filter string) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Name: w.name(), Description: w.owner + " of " + queue, FilterSubject: filter,
		DeliverPolicy: w.start.policy, OptStartSeq: w.start.sequence, OptStartTime: w.start.time,
		Metadata: map[string]string{ownerKey: w.owner, queueKey: queue},
	}
	if w.Name == "" {
		c.Metadata[userKey] = w.user
		c.AckPolicy, c.MemoryStorage, c.InactiveThreshold = jetstream.AckNonePolicy, true, readerGone
		return c
	}
	c.Durable = c.Name
	c.AckPolicy, c.AckWait, c.MaxDeliver, c.MaxAckPending = jetstream.AckExplicitPolicy, w.ackWait, -1, everybody*w.InFlight
	if w.Attempts > 0 {
		c.MaxDeliver = w.Attempts
	}
	if w.Ordered {
		c.MaxAckPending = 1
	}
	return c
}

// ensure makes the consumer of a wish on a queue, or changes the one that there is.
func (w wish) ensure(ctx context.Context, js jetstream.JetStream, queue, filter string) (*jetstream.ConsumerInfo, error) {
	stream, want := catalogue.Stream(queue), w.config(queue, filter)
	is, err := js.Consumer(ctx, stream, want.Name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return create(ctx, js, stream, want)
	case err != nil:
		return nil, fmt.Errorf("look for consumer %s of %s: %w", want.Name, queue, err)
	}
	has := is.CachedInfo().Config
	if has.Metadata[ownerKey] != w.owner || has.Metadata[userKey] != want.Metadata[userKey] {
		return nil, refuse(http.StatusConflict, "there is a consumer %s of %s that is not of %s", want.Name, queue, w.owner)
	}
	if w.Name == "" { // a reader says where it begins each time
		if err := js.DeleteConsumer(ctx, stream, want.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil, fmt.Errorf("remove reader %s of %s: %w", want.Name, queue, err)
		}
		return create(ctx, js, stream, want)
	}
	if has.FilterSubject == want.FilterSubject && has.AckWait == want.AckWait && has.MaxDeliver == want.MaxDeliver && has.MaxAckPending == want.MaxAckPending {
		return is.CachedInfo(), nil
	}
	// Where it began cannot be changed, and what else the server has set stays.
	has.FilterSubject, has.AckWait, has.MaxDeliver, has.MaxAckPending = want.FilterSubject, want.AckWait, want.MaxDeliver, want.MaxAckPending
	changed, err := js.UpdateConsumer(ctx, stream, has)
	if err != nil {
		return nil, fmt.Errorf("change consumer %s of %s: %w", want.Name, queue, err)
	}
	return changed.CachedInfo(), nil
}

func create(ctx context.Context, js jetstream.JetStream, stream string, c jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	made, err := js.CreateConsumer(ctx, stream, c)
	if err != nil {
		return nil, fmt.Errorf("make consumer %s of %s: %w", c.Name, stream, err)
	}
	return made.CachedInfo(), nil
}

// ErrNoConsumer says that a queue has no durable consumer of that name.
var ErrNoConsumer = errors.New("the queue has no such consumer")

// ErrBusy says that somebody pulls from a consumer.
var ErrBusy = errors.New("somebody subscribes by it")

// durable finds a durable consumer of a queue.
func durable(ctx context.Context, js jetstream.JetStream, queue, consumer string) (*jetstream.ConsumerInfo, error) {
	if consumer == "" || strings.ContainsFunc(consumer, func(c rune) bool { return !plain(c) }) {
		return nil, ErrNoConsumer
	}
	is, err := js.Consumer(ctx, catalogue.Stream(queue), consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || err == nil && is.CachedInfo().Config.Metadata[userKey] != "" {
		return nil, ErrNoConsumer
	}
	if err != nil {
		return nil, fmt.Errorf("look for consumer %s of %s: %w", consumer, queue, err)
	}
	return is.CachedInfo(), nil
}

// PlaceError says that a text is no place to begin at.
type PlaceError struct{ reason string }

// Error is the reason.
func (e *PlaceError) Error() string { return e.reason }

// Rewind makes a durable consumer of a queue begin anew: at "first", "new", a time of
// RFC 3339 or a sequence. What it has open is forgotten, what lies behind that place
// is given again; who subscribes goes on from there. It returns [ErrNoConsumer] or a
// [PlaceError].
func (d *Desk) Rewind(ctx context.Context, queue, consumer, from string) error {
	at, err := parseStart(from)
	if err != nil {
		return &PlaceError{err.Error()}
	}
	d.making.Lock()
	defer d.making.Unlock()
	info, err := durable(ctx, d.js, queue, consumer)
	if err != nil {
		return err
	}
	c, stream := info.Config, catalogue.Stream(queue)
	c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = at.policy, at.sequence, at.time
	maps.DeleteFunc(c.Metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_nats.") }) // the server's own
	// Whoever asked may leave: the consumer must not be lost for that.
	ctx = context.WithoutCancel(ctx)
	if err := d.js.DeleteConsumer(ctx, stream, consumer); err != nil {
		return fmt.Errorf("rewind consumer %s of %s: %w", consumer, queue, err)
	}
	return recreate(ctx, d.js, stream, c)
}

const (
	// written is how long the server may go on writing down what a consumer was after
	// it has said that it is removed: it writes ten times a second at most, and does
	// not wait for that. Until then it may be the state of the new one that it spoils.
	written = 100 * time.Millisecond
	// mostMakes is how often a consumer is made that is to replace another.
	mostMakes = 10
)

// recreate makes a consumer of the name of one that was just removed. Without it the
// consumer is gone, so it does not give up soon.
func recreate(ctx context.Context, js jetstream.JetStream, stream string, c jetstream.ConsumerConfig) error {
	for n := 1; ; n++ {
		time.Sleep(written)
		_, err := create(ctx, js, stream, c)
		if api, failed := errors.AsType[*jetstream.APIError](err); err == nil || n == mostMakes || !failed || api.Code < http.StatusInternalServerError {
			return err
		}
	}
}

// Forget removes a durable consumer of a queue, by which nobody subscribes any more. It
// returns [ErrNoConsumer] or [ErrBusy].
func (d *Desk) Forget(ctx context.Context, queue, consumer string) error {
	d.making.Lock()
	defer d.making.Unlock()
	info, err := durable(ctx, d.js, queue, consumer)
	if err != nil {
		return err
	}
	if info.NumWaiting > 0 {
		return ErrBusy
	}
	if err := d.js.DeleteConsumer(ctx, catalogue.Stream(queue), consumer); err != nil {
		return fmt.Errorf("remove consumer %s of %s: %w", consumer, queue, err)
	}
	return d.reg.Revoke([]Consumer{known(info, catalogue.Stream(queue))})
}

// mostGivenBack bounds how far behind its newest message a consumer is looked through.
const mostGivenBack = 10_000

// GiveBack has the messages given again at once that an owner's receivers had taken and
// not acknowledged. Nobody may pull from its consumers meanwhile: the server does not
// say who has which message.
func (d *Desk) GiveBack(ctx context.Context, owner string) error {
	d.making.Lock()
	defer d.making.Unlock()
	for _, c := range d.reg.Owned(owner) {
		if c.User != "" {
			continue
		}
		is, err := d.js.Consumer(ctx, c.Stream, c.Name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("give back what %s of %s had: %w", c.Name, c.Queue, err)
		}
		info := is.CachedInfo()
		if info.NumAckPending == 0 {
			continue
		}
		for at := info.AckFloor.Stream + 1; at <= min(info.Delivered.Stream, info.AckFloor.Stream+mostGivenBack); at++ {
			// What is not open the server passes over.
			ack := fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.%d.0", c.Stream, c.Name, at, info.Delivered.Consumer, time.Now().UnixNano())
			if err := d.nc.Publish(ack, []byte("-NAK")); err != nil {
				return fmt.Errorf("give back what %s of %s had: %w", c.Name, c.Queue, err)
			}
		}
	}
	return d.nc.FlushWithContext(ctx)
}

// matches are the queues that a subject meets, with the pattern of both.
func matches(queues []system.Queue, subject string) map[string]string {
	found := map[string]string{}
	for i := range queues {
		if both := notation.SubjectsShared(queues[i].Name, subject); both != "" {
			found[queues[i].Name] = both
		}
	}
	return found
}
