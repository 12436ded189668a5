package catalogue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system"
	"fairlead/internal/system/notation"
)

// DeadLetters is the name of the stream of the dead letters.
const DeadLetters = "DEAD"

const (
	// deadKeep and deadBytes bound the dead letters; the oldest go first.
	deadKeep  = 30 * 24 * time.Hour
	deadBytes = 1 << 30
	// queueKey names the queue in a stream's metadata.
	queueKey = "fairlead.queue"
)

// LossError says that a change of the file would delete messages.
type LossError struct {
	Queue  string
	Reason string // "keep: 1h would delete messages, the oldest is 3h0m0s old"
	Limit  string // key of the file: keep, max_bytes or max_messages
}

// Error tells the queue and the reason.
func (e *LossError) Error() string { return "queue " + e.Queue + ": " + e.Reason }

// Ensure makes the streams be as the queues say: it makes those that are missing,
// changes those that differ, with all their messages, and sets those apart whose
// queues are not there any more: they keep their messages and take no more. Before
// it changes anything it returns all that would delete messages as [LossError]s.
// elsewhere says that they are not on the bus's own server, see [Mappings].
func Ensure(ctx context.Context, js jetstream.JetStream, queues []system.Queue, elsewhere bool) error {
	have, err := streams(ctx, js)
	if err != nil {
		return err
	}
	if err := refusals(have, queues); err != nil {
		return err
	}
	var wanted []jetstream.StreamConfig
	names := map[string]bool{}
	for i := range queues {
		c := config(&queues[i], elsewhere)
		names[c.Name] = true
		if is := have[c.Name]; is == nil || differs(is.Config, c) {
			wanted = append(wanted, c)
		}
	}
	if len(queues) > 0 {
		if dead := deadConfig(queues); have[dead.Name] == nil || differs(have[dead.Name].Config, dead) {
			wanted = append(wanted, dead)
		}
	}
	for _, is := range have {
		queue := is.Config.Metadata[queueKey]
		if queue == "" || names[is.Config.Name] || apart(is.Config) {
			continue
		}
		c := is.Config
		c.Subjects, c.SubjectTransform, c.RePublish = []string{kept + c.Name}, nil, nil
		if _, err := js.UpdateStream(ctx, c); err != nil {
			return fmt.Errorf("set queue %s apart: %w", queue, err)
		}
	}
	for _, c := range wanted {
		if _, err := js.CreateOrUpdateStream(ctx, c); err != nil {
			return fmt.Errorf("make stream %s: %w", c.Name, err)
		}
	}
	return nil
}

// Check returns what Ensure would refuse, and changes nothing.
func Check(ctx context.Context, js jetstream.JetStream, queues []system.Queue) error {
	have, err := streams(ctx, js)
	if err != nil {
		return err
	}
	return refusals(have, queues)
}

// refusals is why the streams that there are cannot become those of the queues.
func refusals(have map[string]*jetstream.StreamInfo, queues []system.Queue) error {
	var errs []error
	for i := range queues {
		q := &queues[i]
		is := have[Stream(q.Name)]
		if is == nil {
			continue
		}
		if is.Config.Metadata[queueKey] != q.Name {
			errs = append(errs, fmt.Errorf("queue %s: there is a stream %s that fairlead did not make; remove or rename it", q.Name, is.Config.Name))
		}
		errs = append(errs, losses(q, is.State)...)
	}
	return errors.Join(errs...)
}

// streams are all that there are, by name.
func streams(ctx context.Context, js jetstream.JetStream) (map[string]*jetstream.StreamInfo, error) {
	all := map[string]*jetstream.StreamInfo{}
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		all[info.Config.Name] = info
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return all, nil
}

// apart reports whether a stream's queue is not in the file any more.
func apart(c jetstream.StreamConfig) bool {
	return len(c.Subjects) == 1 && strings.HasPrefix(c.Subjects[0], kept)
}

// config is the stream of a queue. It is read without direct gets, which race with
// reloads of the server's options (nats-server 2.15).
func config(q *system.Queue, elsewhere bool) jetstream.StreamConfig {
	tell := references(q.Name)
	if elsewhere {
		tell = Told + tell
	}
	count := q.MaxCount
	if count == 0 {
		count = -1
	}
	size := q.MaxBytes
	if size == 0 {
		size = -1
	}
	return jetstream.StreamConfig{
		Name: Stream(q.Name), Description: "queue " + q.Name, Metadata: map[string]string{queueKey: q.Name},
		Subjects:         []string{Accepted + q.Name, Keys + "*." + q.Name},
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: Accepted + ">", Destination: ">"},
		RePublish:        &jetstream.RePublish{Source: q.Name, Destination: tell},
		Storage:          jetstream.FileStorage, Replicas: max(q.Replicas, 1), Discard: jetstream.DiscardOld,
		MaxAge: q.Keep, MaxBytes: size, MaxMsgs: count, Duplicates: q.Dedupe,
		AllowAtomicPublish: true,
	}
}

// deadConfig is the stream of the dead letters, kept on as many servers as the queue
// that is kept on the most.
func deadConfig(queues []system.Queue) jetstream.StreamConfig {
	replicas := 1
	for i := range queues {
		replicas = max(replicas, queues[i].Replicas)
	}
	return jetstream.StreamConfig{
		Name: DeadLetters, Description: "dead letters of all queues", Subjects: []string{Dead + ">"},
		Storage: jetstream.FileStorage, Replicas: replicas, Discard: jetstream.DiscardOld,
		MaxAge: deadKeep, MaxBytes: deadBytes, MaxMsgs: -1, Duplicates: 2 * time.Minute,
		AllowAtomicPublish: true,
	}
}

// differs reports whether a stream is not as wanted in what config sets.
func differs(is, want jetstream.StreamConfig) bool {
	transform := func(c jetstream.StreamConfig) jetstream.SubjectTransformConfig {
		if c.SubjectTransform == nil {
			return jetstream.SubjectTransformConfig{}
		}
		return *c.SubjectTransform
	}
	published := func(c jetstream.StreamConfig) jetstream.RePublish {
		if c.RePublish == nil {
			return jetstream.RePublish{}
		}
		return *c.RePublish
	}
	return !slices.Equal(is.Subjects, want.Subjects) || transform(is) != transform(want) || published(is) != published(want) ||
		is.MaxAge != want.MaxAge || is.MaxBytes != want.MaxBytes || is.MaxMsgs != want.MaxMsgs || is.Duplicates != want.Duplicates ||
		is.Replicas != want.Replicas || is.AllowAtomicPublish != want.AllowAtomicPublish || is.Description != want.Description
}

// losses are the limits of a queue that what is stored is beyond.
func losses(q *system.Queue, s jetstream.StreamState) (errs []error) {
	if s.Msgs == 0 {
		return nil
	}
	lose := func(limit, format string, args ...any) {
		errs = append(errs, &LossError{Queue: q.Name, Limit: limit, Reason: fmt.Sprintf(format, args...)})
	}
	// What has just become too old is going anyway.
	const grace = 10 * time.Second
	if age := time.Since(s.FirstTime); age > q.Keep+grace {
		lose("keep", "keep: %v would delete messages, the oldest is %v old", q.Keep, age.Round(time.Second))
	}
	if q.MaxCount > 0 && s.Msgs > uint64(q.MaxCount) {
		lose("max_messages", "max_messages: %d would delete %d of %d messages", q.MaxCount, s.Msgs-uint64(q.MaxCount), s.Msgs)
	}
	if q.MaxBytes > 0 && s.Bytes > uint64(q.MaxBytes) {
		lose("max_bytes", "max_bytes: %d would delete messages, %d bytes are stored", q.MaxBytes, s.Bytes)
	}
	return errs
}

// State is what a queue holds.
type State struct {
	Queue     string
	Apart     bool // it is not in the file any more
	Shared    bool // another queue has some of its subjects; one of the two is apart
	Messages  uint64
	Markers   uint64    // of keys, stored beside the messages; see [Committer]
	Bytes     uint64    // of both
	First     uint64    // sequence of the oldest message, of the next one if there is none
	Last      uint64    // sequence of the newest message that there was
	Oldest    time.Time // zero: there is none
	Newest    time.Time // zero: there was none
	Created   time.Time // when the stream was made
	Consumers int
}

// States returns what all queues hold, those that are set apart too, sorted by name.
func States(ctx context.Context, js jetstream.JetStream) ([]State, error) {
	have, err := streams(ctx, js)
	if err != nil {
		return nil, err
	}
	var all []State
	for _, is := range have {
		queue := is.Config.Metadata[queueKey]
		if queue == "" {
			continue
		}
		s := stateOf(queue, is)
		if s.Markers, err = markers(ctx, js, is.Config.Name); err != nil {
			return nil, err
		}
		s.Messages -= min(s.Messages, s.Markers)
		all = append(all, s)
	}
	for i := range all {
		all[i].Shared = slices.ContainsFunc(all, func(o State) bool {
			return o.Queue != all[i].Queue && notation.SubjectsShared(o.Queue, all[i].Queue) != ""
		})
	}
	slices.SortFunc(all, func(a, b State) int { return cmp.Compare(a.Queue, b.Queue) })
	return all, nil
}

// markers counts the markers of keys in a stream.
func markers(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	some, err := get(ctx, js, stream, map[string]any{"seq": 1, "next_by_subj": Keys + ">"})
	if err != nil || some == nil {
		return 0, err
	}
	return Count(ctx, js, stream, Keys+">", time.Time{})
}

// Count returns how many messages of a stream are on subjects that match the filter
// and were stored at a time or later; the zero time counts all. It asks a consumer,
// which knows without listing the subjects.
func Count(ctx context.Context, js jetstream.JetStream, stream, filter string, since time.Time) (uint64, error) {
	c := jetstream.ConsumerConfig{
		FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Second,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if !since.IsZero() {
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	made, err := js.CreateConsumer(ctx, stream, c)
	if err != nil {
		return 0, fmt.Errorf("count messages of %s: %w", stream, err)
	}
	n := made.CachedInfo().NumPending
	if err := js.DeleteConsumer(ctx, stream, made.CachedInfo().Name); err != nil {
		return 0, fmt.Errorf("count messages of %s: %w", stream, err)
	}
	return n, nil
}

// Keep deletes all but the newest n messages of a queue, and the markers of keys that
// those had which are gone.
func Keep(ctx context.Context, js jetstream.JetStream, queue string, n uint64) error {
	name := Stream(queue)
	s, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("purge stream %s: %w", name, err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(queue), jetstream.WithPurgeKeep(n)); err != nil {
		return fmt.Errorf("purge stream %s: %w", name, err)
	}
	first, err := get(ctx, js, name, map[string]any{"seq": 1, "next_by_subj": queue})
	if err != nil || first == nil || first.Sequence < 2 {
		return err
	}
	// The first's own marker is just before it.
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(Keys+"*."+queue), jetstream.WithPurgeSequence(first.Sequence-1)); err != nil {
		return fmt.Errorf("purge stream %s: %w", name, err)
	}
	return nil
}

func stateOf(queue string, is *jetstream.StreamInfo) State {
	s := State{
		Queue: queue, Apart: apart(is.Config), Messages: is.State.Msgs, Bytes: is.State.Bytes,
		First: is.State.FirstSeq, Last: is.State.LastSeq, Consumers: is.State.Consumers, Newest: is.State.LastTime,
		Created: is.Created,
	}
	if s.Messages > 0 {
		s.Oldest = is.State.FirstTime
	}
	if s.Last == 0 {
		s.Newest = time.Time{}
	}
	return s
}
