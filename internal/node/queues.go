package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus"
	"fairlead/internal/bus/catalogue"
	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	// queueTime bounds a verb about queues.
	queueTime = 30 * time.Second
	// rateWindow is what a queue's rate is told of.
	rateWindow = time.Minute
	mostPeeked = 1000
	// mostReplayed is how many dead letters one verb publishes again.
	mostReplayed = 10_000
	// subscribed is how many messages wait for a caller of subscribe.
	subscribed = 4096
)

// handleQueues serves the verbs for queues.
func (n *Node) handleQueues(server *control.Server) {
	control.Handle(server, control.VerbQueues, n.queues)
	control.Handle(server, control.VerbQueue, n.queue)
	control.Handle(server, control.VerbPeek, n.peek)
	control.Handle(server, control.VerbPurge, n.purge)
	control.Handle(server, control.VerbConsumer, n.consumer)
	control.Handle(server, control.VerbDeadReplay, n.deadReplay)
	control.Handle(server, control.VerbMove, n.move)
	control.Handle(server, control.VerbPublish, n.publish)
	control.HandleStream(server, control.VerbSubscribe, n.subscribe)
}

// lossHint says what to do when a change of the file would delete messages.
func lossHint(err error) error {
	loss, ok := errors.AsType[*catalogue.LossError](err)
	if !ok {
		return err
	}
	how := map[string]string{"keep": " --older-than ...", "max_messages": " --keep N", "max_bytes": " --keep N"}[loss.Limit]
	return &control.Error{
		Code: control.CodeConflict, Message: err.Error(),
		Hint: "with the limits from before: fairlead queue " + control.QuoteWord(loss.Queue) + " purge" + how + ", then again; or allow more",
	}
}

// checkQueues refuses queues that the bus would refuse.
func (n *Node) checkQueues(ctx context.Context, sys *system.System) error {
	if len(sys.Queues) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	js, err := n.js()
	if err != nil {
		return err
	}
	return lossHint(catalogue.Check(ctx, js, sys.Queues))
}

// js is JetStream as the operator. One elsewhere that cannot be reached is told at once.
func (n *Node) js() (jetstream.JetStream, error) {
	if err := n.bus.Healthy(); n.bus.Store() != "" && err != nil {
		return nil, &control.Error{Code: control.CodeFailed, Message: "the queues cannot be reached: " + err.Error()}
	}
	js, err := jetstream.New(n.operator)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return js, nil
}

// queueStates are all queues as they stand, also those that are not in the file any
// more, with JetStream to ask on.
func (n *Node) queueStates(ctx context.Context) (jetstream.JetStream, []catalogue.State, error) {
	js, err := n.js()
	if err != nil {
		return nil, nil, err
	}
	states, err := catalogue.States(ctx, js)
	return js, states, err
}

func (n *Node) queues(ctx context.Context, _ control.Empty, _ func(control.Event)) ([]control.Queue, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	js, states, err := n.queueStates(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]control.Queue, 0, len(states))
	for _, s := range states {
		q, err := n.queueOf(ctx, js, s)
		if err != nil {
			return nil, err
		}
		list = append(list, q)
	}
	return list, nil
}

func (n *Node) queue(ctx context.Context, req control.QueueRequest, _ func(control.Event)) (control.Queue, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	js, s, err := n.findQueue(ctx, req.Queue)
	if err != nil {
		return control.Queue{}, err
	}
	return n.queueOf(ctx, js, s)
}

// findQueue finds a queue by its name, also one that is not in the file any more.
func (n *Node) findQueue(ctx context.Context, name string) (jetstream.JetStream, catalogue.State, error) {
	js, states, err := n.queueStates(ctx)
	if err != nil {
		return nil, catalogue.State{}, err
	}
	i := slices.IndexFunc(states, func(s catalogue.State) bool { return s.Queue == name })
	if i >= 0 {
		return js, states[i], nil
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.Queue
	}
	hint := "the queues are " + strings.Join(names, ", ")
	if len(names) == 0 {
		hint = "the file has none: add one under queues"
	}
	return nil, catalogue.State{}, &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("there is no queue %q", name), Hint: hint}
}

// queueOf is a queue as it is shown.
func (n *Node) queueOf(ctx context.Context, js jetstream.JetStream, s catalogue.State) (control.Queue, error) {
	counts := n.bus.Refused()[s.Queue]
	q := control.Queue{
		Name: s.Queue, Stream: catalogue.Stream(s.Queue), Apart: s.Apart, Messages: s.Messages, Bytes: s.Bytes,
		First: s.First, Last: s.Last, Oldest: s.Oldest, Newest: s.Newest,
		Refused: counts.Refused, Quarantined: counts.Quarantined, Observed: counts.Observed,
	}
	sys := n.System()
	if i := slices.IndexFunc(sys.Queues, func(o system.Queue) bool { return o.Name == s.Queue }); i >= 0 {
		of := sys.Queues[i]
		q.Type, q.Keep, q.MaxBytes, q.MaxCount = of.Type, of.Keep, of.MaxBytes, of.MaxCount
		if of.Type != "" {
			q.Enforce = string(of.Enforce)
		}
		q.Publishes, q.Subscribes = n.parties(sys, s.Queue)
	}
	var err error
	if q.Rate, err = rate(ctx, js, s); err != nil {
		return q, err
	}
	if q.Dead, err = countDead(ctx, js, s); err != nil {
		return q, err
	}
	q.Consumers, err = n.consumers(ctx, js, q.Stream)
	return q, err
}

// placeholder is a value of a path or of a claim in the subject of a route.
var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// parties are who may publish to a queue and subscribe to it: services by their names,
// routes by their keys, and users of the bus.
func (n *Node) parties(sys *system.System, queue string) (publishes, subscribes []string) {
	add := func(name string, publish, subscribe []string) {
		meets := func(p string) bool { return bus.Overlap(placeholder.ReplaceAllLiteralString(p, "*"), queue) }
		if slices.ContainsFunc(publish, meets) {
			publishes = append(publishes, name)
		}
		if slices.ContainsFunc(subscribe, meets) {
			subscribes = append(subscribes, name)
		}
	}
	for _, svc := range sys.Services {
		if svc.Bus != nil {
			add(svc.Name, svc.Bus.Publishes, svc.Bus.Subscribes)
		}
	}
	for _, r := range sys.Routes {
		switch {
		case r.Publish != nil:
			add("route "+r.Key, []string{r.Publish.Subject}, nil)
		case r.Subscribe != nil:
			add("route "+r.Key, nil, []string{r.Subscribe.Subject})
		}
	}
	for _, u := range sys.Bus.Users {
		add("user "+u.Name, u.Publishes, u.Subscribes)
	}
	n.users.mu.Lock()
	defer n.users.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(n.users.added)) {
		u := n.users.added[name]
		add("user "+name, u.Publishes, u.Subscribes)
	}
	return publishes, subscribes
}

// rate is how many messages a second were stored within the window.
func rate(ctx context.Context, js jetstream.JetStream, s catalogue.State) (float64, error) {
	since := time.Now().Add(-rateWindow)
	if s.Newest.Before(since) {
		return 0, nil
	}
	if s.Markers > 0 {
		n, err := catalogue.Count(ctx, js, catalogue.Stream(s.Queue), s.Queue, since)
		return float64(n) / rateWindow.Seconds(), err
	}
	first, err := catalogue.Since(ctx, js, catalogue.Stream(s.Queue), since)
	if err != nil || first == nil || s.Last < first.Sequence {
		return 0, err
	}
	return float64(s.Last-first.Sequence+1) / rateWindow.Seconds(), nil
}

// countDead is how many dead letters a queue has.
func countDead(ctx context.Context, js jetstream.JetStream, s catalogue.State) (uint64, error) {
	if s.Shared {
		letters, err := catalogue.Letters(ctx, js, s.Queue)
		return uint64(len(letters)), err
	}
	dead, err := js.Stream(ctx, catalogue.DeadLetters)
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	info, err := dead.Info(ctx, jetstream.WithSubjectFilter(catalogue.Dead+s.Queue))
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	var n uint64
	for _, count := range info.State.Subjects {
		n += count
	}
	return n, nil
}

// consumers are the durable consumers of a stream.
func (n *Node) consumers(ctx context.Context, js jetstream.JetStream, stream string) ([]control.Consumer, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	var out []control.Consumer
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Config.Durable == "" {
			continue
		}
		c := control.Consumer{Name: info.Name, Lag: info.NumPending, Unacked: info.NumAckPending, Again: info.NumRedelivered}
		if c.Unacked > 0 {
			oldest, err := catalogue.Read(ctx, js, stream, cmp.Or(info.Config.FilterSubject, ">"), info.AckFloor.Stream+1, 1)
			if err != nil {
				return nil, err
			}
			if len(oldest) > 0 {
				c.Oldest = oldest[0].Time
			}
		}
		if info.NumWaiting == 0 && !n.bus.Pulled(stream, info.Name) {
			c.Unused = lastUsed(info)
		}
		out = append(out, c)
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	slices.SortFunc(out, func(a, b control.Consumer) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// lastUsed is when a consumer was made, or gave a message, or had one acknowledged.
func lastUsed(info *jetstream.ConsumerInfo) time.Time {
	last := info.Created
	for _, at := range []*time.Time{info.Delivered.Last, info.AckFloor.Last} {
		if at != nil && at.After(last) {
			last = *at
		}
	}
	return last
}

func (n *Node) peek(ctx context.Context, req control.PeekRequest, _ func(control.Event)) ([]control.QueueMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	if req.Most < 1 || req.Most > mostPeeked {
		return nil, &control.Error{Code: control.CodeBadRequest, Message: fmt.Sprintf("1 to %d messages can be shown, not %d", mostPeeked, req.Most)}
	}
	js, s, err := n.findQueue(ctx, req.Queue)
	if err != nil {
		return nil, err
	}
	stream, filter, from, most := catalogue.Stream(s.Queue), s.Queue, req.From, req.Most
	if req.Dead {
		stream, filter = catalogue.DeadLetters, catalogue.Dead+s.Queue
		if s.Shared {
			most = mostPeeked // some may be another's
		}
	} else if from == 0 {
		most *= 2 // each may have a marker before it
		from = max(s.First, s.Last-min(s.Last, uint64(most))+1)
	}
	list, err := catalogue.Read(ctx, js, stream, filter, from, most)
	if err != nil {
		return nil, err
	}
	if req.Dead {
		list = slices.DeleteFunc(list, func(m catalogue.Message) bool { return !catalogue.DiedIn(m, s.Queue) })
		list = list[:min(len(list), req.Most)]
	}
	list = list[max(0, len(list)-req.Most):]
	out := make([]control.QueueMessage, len(list))
	for i, m := range list {
		out[i] = control.QueueMessage{Sequence: m.Sequence, Subject: m.Subject, Time: m.Time, Headers: m.Header, Data: m.Data}
		if !req.Dead {
			continue
		}
		was, death, err := catalogue.Revive(m.Header, m.Data)
		if err != nil {
			return nil, err
		}
		out[i].Subject, out[i].Headers = was.Subject, was.Header
		out[i].Dead = &control.Death{Cause: death.Cause, Reason: death.Reason, Pointer: death.Pointer, Consumer: death.Consumer, Sequence: death.Sequence}
	}
	return out, nil
}

func (n *Node) purge(ctx context.Context, req control.PurgeRequest, tell func(control.Event)) (control.PurgeReply, error) {
	var none control.PurgeReply
	release, err := n.begin(ctx, tell)
	if err != nil {
		return none, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	js, s, err := n.findQueue(ctx, req.Queue)
	if err != nil {
		return none, err
	}
	if req.Remove && !s.Apart {
		return none, &control.Error{
			Code: control.CodeConflict, Message: "queue " + s.Queue + " is in the file",
			Hint: "take it out of queues and reload, then purge it with --remove",
		}
	}
	if req.Dead {
		return purgeDead(ctx, js, s.Queue, req)
	}
	name, before := catalogue.Stream(s.Queue), s.Messages
	var opts []jetstream.StreamPurgeOpt
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return none, fmt.Errorf("purge queue %s: %w", s.Queue, err)
	}
	if req.Remove {
		if err := js.DeleteStream(ctx, name); err != nil {
			return none, fmt.Errorf("remove queue %s: %w", s.Queue, err)
		}
		return control.PurgeReply{Removed: before}, nil
	}
	switch {
	case req.Keep > 0:
		opts = append(opts, jetstream.WithPurgeKeep(req.Keep))
	case !req.Before.IsZero():
		first, err := catalogue.Since(ctx, js, name, req.Before)
		if err != nil {
			return none, err
		}
		if first != nil {
			opts = append(opts, jetstream.WithPurgeSequence(first.Sequence))
		}
	}
	if req.Keep > 0 && s.Markers > 0 {
		err = catalogue.Keep(ctx, js, s.Queue, req.Keep)
	} else {
		err = stream.Purge(ctx, opts...)
	}
	if err != nil {
		return none, fmt.Errorf("purge queue %s: %w", s.Queue, err)
	}
	var after uint64
	if _, now, e := n.findQueue(ctx, s.Queue); e == nil {
		after = now.Messages
	}
	return control.PurgeReply{Removed: before - min(before, after)}, err
}

// purgeDead removes dead letters of a queue, and none of another that has some of its
// subjects.
func purgeDead(ctx context.Context, js jetstream.JetStream, queue string, req control.PurgeRequest) (control.PurgeReply, error) {
	var reply control.PurgeReply
	letters, err := catalogue.Letters(ctx, js, queue)
	if err != nil {
		return reply, err
	}
	if req.Keep > 0 {
		letters = letters[:len(letters)-int(min(req.Keep, uint64(len(letters))))]
	}
	dead, err := js.Stream(ctx, catalogue.DeadLetters)
	if err != nil {
		return reply, fmt.Errorf("purge dead letters of %s: %w", queue, err)
	}
	for _, l := range letters {
		if !req.Before.IsZero() && !l.Time.Before(req.Before) {
			break
		}
		if err := dead.DeleteMsg(ctx, l.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return reply, fmt.Errorf("purge dead letters of %s: %w", queue, err)
		}
		reply.Removed++
	}
	return reply, nil
}

// move publishes the messages of a queue that is not in the file any more again.
func (n *Node) move(ctx context.Context, req control.QueueRequest, tell func(control.Event)) (control.MoveReply, error) {
	var reply control.MoveReply
	release, err := n.begin(ctx, tell)
	if err != nil {
		return reply, err
	}
	defer release()
	js, s, err := n.findQueue(ctx, req.Queue)
	if err != nil {
		return reply, err
	}
	if !s.Apart {
		return reply, &control.Error{Code: control.CodeConflict, Message: "queue " + s.Queue + " is in the file", Hint: "only messages of a queue that is not can be moved"}
	}
	reply.Moved, err = catalogue.Move(ctx, js, s.Queue)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return reply, &control.Error{Code: control.CodeConflict, Message: fmt.Sprintf("%s moved, the next is not stored: %s", countOf(reply.Moved, "message"), api.Description)}
	}
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		return reply, &control.Error{
			Code: control.CodeConflict, Message: fmt.Sprintf("%s moved: no queue of the file has the subject of the next", countOf(reply.Moved, "message")),
			Hint: "fairlead queue " + control.QuoteWord(s.Queue) + " peek shows them",
		}
	}
	return reply, err
}

// countOf is a number of things in words.
func countOf(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// leftBehind says which messages stay in queues that a file does not have any more.
func (n *Node) leftBehind(ctx context.Context, old, next *system.System) ([]string, error) {
	if len(old.Queues) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	js, states, err := n.queueStates(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range states {
		if s.Apart || s.Messages == 0 || slices.ContainsFunc(next.Queues, func(q system.Queue) bool { return q.Name == s.Queue }) {
			continue
		}
		list, err := n.consumers(ctx, js, catalogue.Stream(s.Queue))
		if err != nil {
			return nil, err
		}
		stay := "stay"
		if s.Messages == 1 {
			stay = "stays"
		}
		var text strings.Builder
		fmt.Fprintf(&text, "%s %s in %s, which is not in the file any more", countOf(int(min(s.Messages, 1<<62)), "message"), stay, s.Queue)
		for _, c := range list {
			if rest := c.Lag + uint64(c.Unacked); rest > 0 {
				fmt.Fprintf(&text, "; %s was not given %d of them", c.Name, rest)
			}
		}
		name := control.QuoteWord(s.Queue)
		if slices.ContainsFunc(next.Queues, func(q system.Queue) bool { return bus.Overlap(q.Name, s.Queue) }) {
			text.WriteString("; to put them into the queues that have its subjects now: fairlead queue " + name + " move")
		} else {
			text.WriteString("; to remove them: fairlead queue " + name + " purge --remove")
		}
		out = append(out, text.String())
	}
	return out, nil
}

func (n *Node) deadReplay(ctx context.Context, req control.DeadReplayRequest, tell func(control.Event)) (control.DeadReplayReply, error) {
	var reply control.DeadReplayReply
	js, s, err := n.findQueue(ctx, req.Queue)
	if err != nil {
		return reply, err
	}
	most, from := mostReplayed, req.Sequence
	if from > 0 {
		most = 1
	}
	for most > 0 {
		// A few at a time: together they may be large.
		letters, err := catalogue.Read(ctx, js, catalogue.DeadLetters, catalogue.Dead+s.Queue, from, min(most, 100))
		if err != nil {
			return reply, err
		}
		if req.Sequence > 0 && (len(letters) == 0 || letters[0].Sequence != req.Sequence || !catalogue.DiedIn(letters[0], s.Queue)) {
			return reply, &control.Error{
				Code: control.CodeNotFound, Message: fmt.Sprintf("queue %s has no dead letter %d", s.Queue, req.Sequence),
				Hint: "fairlead queue " + control.QuoteWord(s.Queue) + " dead lists them",
			}
		}
		if len(letters) == 0 {
			return reply, nil
		}
		for _, l := range letters {
			if from = l.Sequence + 1; !catalogue.DiedIn(l, s.Queue) {
				continue
			}
			switch _, err := catalogue.Replay(ctx, js, l.Sequence); {
			case err == nil:
				reply.Replayed++
			case ctx.Err() != nil:
				return reply, fmt.Errorf("replay dead letters: %w", ctx.Err())
			default:
				reply.Refused = append(reply.Refused, control.DeadRefusal{Sequence: l.Sequence, Reason: publicReason(err)})
			}
		}
		most -= len(letters)
		if most > 0 && len(letters) == 100 {
			tell(control.Event{Time: time.Now(), Kind: control.EventInfo, Text: fmt.Sprintf("%d replayed, %d refused", reply.Replayed, len(reply.Refused))})
		}
	}
	return reply, nil
}

// publicReason is the text of an error of JetStream without its codes.
func publicReason(err error) string {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Description
	}
	return err.Error()
}

// publish stores a message where a queue keeps its subject, and sends it otherwise.
func (n *Node) publish(ctx context.Context, req control.PublishRequest, _ func(control.Event)) (control.PublishReply, error) {
	var none control.PublishReply
	if err := literal(req.Subject); err != nil {
		return none, err
	}
	m := nats.NewMsg(req.Subject)
	m.Data = req.Data
	for name, v := range req.Headers {
		m.Header.Set(name, v)
	}
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	if n.System().Queue(req.Subject) == nil {
		if err := errors.Join(n.operator.PublishMsg(m), n.operator.FlushWithContext(ctx)); err != nil {
			return none, fmt.Errorf("publish %s: %w", req.Subject, err)
		}
		return none, nil
	}
	js, err := n.js()
	if err != nil {
		return none, err
	}
	ack, err := js.PublishMsg(ctx, m)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return none, &control.Error{Code: refusalCode(api), Message: "not stored: " + api.Description}
	}
	if err != nil {
		return none, fmt.Errorf("publish %s: %w", req.Subject, err)
	}
	return control.PublishReply{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate, Quarantined: ack.Stream == catalogue.DeadLetters}, nil
}

// refusalCode is the code of a message that was not stored.
func refusalCode(err *jetstream.APIError) string {
	if err.ErrorCode == catalogue.RefusedCode {
		return control.CodeType
	}
	return control.CodeConflict
}

// literal refuses a subject that nobody may publish on by hand.
func literal(subject string) error {
	bad := subject == "" || strings.HasPrefix(subject, "$") || strings.HasPrefix(subject, "_") || strings.ContainsAny(subject, " \t\r\n")
	for token := range strings.SplitSeq(subject, ".") {
		bad = bad || token == "" || token == "*" || token == ">"
	}
	if bad {
		return &control.Error{
			Code: control.CodeBadRequest, Message: fmt.Sprintf("%q is no subject to publish on", subject),
			Hint: "write tokens with dots between them and without wildcards, as in data.vhf",
		}
	}
	return nil
}

// heardMessage is a message that was heard, with its place in its queue, if one keeps
// it.
func heardMessage(m *nats.Msg) control.QueueMessage {
	h := bus.HeardOf(m)
	return control.QueueMessage{Sequence: h.Sequence, Subject: h.Subject, Time: h.Time, Headers: m.Header, Data: h.Data}
}

// subscribe shows what is published, until the caller ends.
func (n *Node) subscribe(ctx context.Context, req control.SubscribeRequest, emit func(control.QueueMessage) error) error {
	messages := make(chan *nats.Msg, subscribed)
	sub, err := n.operator.ChanSubscribe(req.Subject, messages)
	if err != nil {
		return &control.Error{Code: control.CodeBadRequest, Message: fmt.Sprintf("%q is no subject to subscribe", req.Subject), Hint: "write it as in data.vhf, data.* or data.>"}
	}
	defer func() {
		if err := sub.Unsubscribe(); err != nil {
			n.log.DebugContext(ctx, "subscription not ended", wire.KeySubject, req.Subject, wire.KeyError, err)
		}
	}()
	for {
		select {
		case m := <-messages:
			if err := emit(heardMessage(m)); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-n.done:
			return nil
		}
	}
}
