package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/gatekeeper"
	"fairlead/internal/system"
	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

const (
	// serveTime bounds one request.
	serveTime = 10 * time.Second
	// maxConsumers is how many one owner may have.
	maxConsumers = 256
	maxReason    = 4 << 10 // bytes
)

// Party is somebody who asks.
type Party struct {
	Owner      string // the service, or the user of the bus
	Subscribes []string
	Draining   bool   // it gets no more messages
	Inbox      string // below which it awaits replies, with the dot at the end
}

// Registry knows who may ask, and what belongs to whom. It is safe for concurrent use.
type Registry interface {
	// Party returns who has the credentials of a user.
	Party(user string) (Party, bool)
	// Owned lists what belongs to an owner.
	Owned(owner string) []Consumer
	// Grant lets a consumer's owner use it, for whom a user has asked for it. It does
	// so when it returns.
	Grant(user string, c Consumer) error
	// Revoke takes consumers away that are gone.
	Revoke(gone []Consumer) error
}

// Desk answers what parties of the bus ask. Its methods are safe for concurrent use.
type Desk struct {
	log    *slog.Logger
	nc     *nats.Conn
	js     jetstream.JetStream
	reg    Registry
	queues atomic.Pointer[[]system.Queue]

	subs   []*nats.Subscription
	turns  *turns
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	open   sync.WaitGroup

	making   sync.Mutex               // one consumer at a time is made
	exceeded jetstream.ConsumeContext // nil: no consumer has a limit; guarded by making
}

// Open opens a desk on a connection that is its own to use until Close, which does
// not close it. queues are as for [Desk.Set]: it knows them before it is asked anything.
// The context bounds the opening only.
func Open(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, reg Registry, log *slog.Logger, queues []system.Queue) (*Desk, error) {
	d := &Desk{log: log, nc: nc, js: js, reg: reg, turns: newTurns()}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	queues = slices.Clone(queues)
	d.queues.Store(&queues)
	for prefix, serve := range map[string]func(context.Context, string, []byte) any{
		wire.SubjectSubscribe: d.subscribe, wire.SubjectReject: d.reject, wire.SubjectNames: d.names,
	} {
		sub, err := nc.Subscribe(prefix+"*", func(m *nats.Msg) { d.take(m, strings.TrimPrefix(m.Subject, prefix), serve) }) //nolint:contextcheck // it serves until Close
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("open desk: %w", err)
		}
		d.subs = append(d.subs, sub)
	}
	err := nc.Flush()
	if err == nil {
		err = d.watchExceeded(ctx, true)
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("open desk: %w", err)
	}
	d.announce()
	return d, nil
}

// Close ends the desk, and what is being served. It is idempotent.
func (d *Desk) Close() {
	d.cancel()
	for _, sub := range d.subs {
		_ = sub.Unsubscribe() // the connection may be gone already
	}
	d.making.Lock()
	if d.exceeded != nil {
		d.exceeded.Stop()
		<-d.exceeded.Closed()
	}
	d.making.Unlock()
	d.open.Wait()
}

// Set says which queues there are from now on, and tells everybody.
func (d *Desk) Set(queues []system.Queue) {
	queues = slices.Clone(queues)
	before := d.queues.Swap(&queues)
	if slices.EqualFunc(*before, queues, func(a, b system.Queue) bool { return a.Name == b.Name }) {
		return
	}
	d.announce()
}

// announce tells everybody which queues there are.
func (d *Desk) announce() {
	b, err := json.Marshal(d.names(d.ctx, "", nil))
	if err == nil {
		err = d.nc.Publish(wire.SubjectQueues, b)
	}
	if err != nil {
		d.log.Warn("nobody is told of the queues", slog.String(wire.KeyError, err.Error()))
	}
}

// take serves a request, when it is its turn.
func (d *Desk) take(m *nats.Msg, user string, serve func(context.Context, string, []byte) any) {
	if m.Reply == "" {
		return // nobody would know what it has come to
	}
	// Answers are ours, and may go anywhere.
	if p, _ := d.reg.Party(user); !gatekeeper.Inbox(m.Reply, p.Inbox) {
		d.log.Debug("request about queues would be answered where its asker may not publish", slog.String(wire.KeySubject, m.Subject), slog.String("reply", m.Reply))
		return
	}
	answer := func(reply any) {
		b, err := json.Marshal(reply)
		if err == nil {
			err = d.nc.Publish(m.Reply, b)
		}
		if err != nil && d.ctx.Err() == nil {
			d.log.Warn("request about queues is not answered", slog.String(wire.KeySubject, m.Subject), slog.String(wire.KeyError, err.Error()))
		}
	}
	if strings.HasPrefix(m.Subject, wire.SubjectNames) { // they are at hand
		answer(serve(d.ctx, user, m.Data))
		return
	}
	l := d.turns.join(user)
	if l == nil {
		answer(wire.Failure{Code: http.StatusTooManyRequests, Reason: fmt.Sprintf("%d requests about queues of %s wait already", mostWaiting, user)})
		return
	}
	d.open.Go(func() {
		defer d.turns.leave(user, l)
		if !l.begin(d.ctx) {
			return
		}
		defer l.end()
		ctx, cancel := context.WithTimeout(d.ctx, serveTime)
		defer cancel()
		answer(serve(ctx, user, m.Data))
	})
}

// failed is what the asker is told of an error.
func (d *Desk) failed(err error, user string) wire.Failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.Failure
	}
	d.log.Warn("request about queues failed", slog.String(wire.KeyInstance, user), slog.String(wire.KeyError, err.Error()))
	return wire.Failure{Code: http.StatusServiceUnavailable, Reason: "the bus cannot do it now"}
}

func (d *Desk) names(context.Context, string, []byte) any {
	reply := wire.QueueNames{Queues: []string{}}
	for _, q := range *d.queues.Load() {
		reply.Queues = append(reply.Queues, q.Name)
	}
	return reply
}

func (d *Desk) subscribe(ctx context.Context, user string, body []byte) any {
	var req wire.SubscribeRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return wire.SubscribeReply{Failure: wire.Failure{Code: http.StatusBadRequest, Reason: "the request is no JSON of the right form"}}
	}
	list, err := d.consumers(ctx, user, req)
	if err != nil {
		return wire.SubscribeReply{Failure: d.failed(err, user)}
	}
	return wire.SubscribeReply{Consumers: list}
}

// consumers makes what a user asks for.
func (d *Desk) consumers(ctx context.Context, user string, req wire.SubscribeRequest) ([]wire.Consumer, error) {
	p, ok := d.reg.Party(user)
	if !ok {
		return nil, refuse(http.StatusForbidden, "%s is nobody that the bus knows", user)
	}
	if p.Draining {
		return nil, refuse(http.StatusServiceUnavailable, "%s is to stop and gets no more messages", user)
	}
	w, err := read(req, user, p)
	if err != nil {
		return nil, err
	}
	found := matches(*d.queues.Load(), req.Subject)
	if len(found) == 0 {
		return nil, refuse(http.StatusNotFound, "no queue keeps %s: name one under queues in the file", req.Subject)
	}
	if len(found) > 1 && w.start.sequence > 0 {
		return nil, refuse(http.StatusBadRequest, "%s meets %d queues, each with sequences of its own", req.Subject, len(found))
	}
	if w.Check {
		return []wire.Consumer{}, nil
	}
	if err := d.prepare(ctx, w, found); err != nil {
		return nil, err
	}
	var list []wire.Consumer
	for _, queue := range slices.Sorted(maps.Keys(found)) {
		c := Consumer{Owner: p.Owner, Queue: queue, Stream: catalogue.Stream(queue), Name: w.name(), Filter: found[queue]}
		if w.Name == "" {
			c.User = user
		}
		one, err := d.make(ctx, user, w, c)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// prepare sees to what consumers for some queues need besides.
func (d *Desk) prepare(ctx context.Context, w wish, queues map[string]string) error {
	d.making.Lock()
	defer d.making.Unlock()
	if w.Attempts > 0 && w.Name != "" {
		if err := d.watchExceeded(ctx, false); err != nil {
			return err
		}
	}
	return d.room(ctx, w, queues)
}

// make makes one consumer. Who asks for many lets others in between.
func (d *Desk) make(ctx context.Context, user string, w wish, c Consumer) (wire.Consumer, error) {
	d.making.Lock()
	defer d.making.Unlock()
	if err := d.room(ctx, w, map[string]string{c.Queue: c.Filter}); err != nil {
		return wire.Consumer{}, err
	}
	info, err := w.ensure(ctx, d.js, c.Queue, c.Filter)
	if err != nil {
		return wire.Consumer{}, err
	}
	if err := d.reg.Grant(user, c); err != nil {
		return wire.Consumer{}, err
	}
	return wire.Consumer{
		Stream: c.Stream, Name: c.Name, Queue: c.Queue, Filter: c.Filter, Since: info.Created.UnixNano(), Done: info.AckFloor.Stream, AckWaits: info.Config.AckWait.Milliseconds(),
	}, nil
}

// room refuses consumers beyond what an owner may have. What the server has removed, as
// it does with readers that do not pull, is looked for when they seem too many.
// d.making is held.
func (d *Desk) room(ctx context.Context, w wish, queues map[string]string) error {
	total := func() (owned []Consumer, n int) {
		owned = d.reg.Owned(w.owner)
		n = len(owned)
		for queue := range queues {
			stream := catalogue.Stream(queue)
			if !slices.ContainsFunc(owned, func(c Consumer) bool { return c.Stream == stream && c.Name == w.name() }) {
				n++
			}
		}
		return owned, n
	}
	owned, n := total()
	if n <= maxConsumers {
		return nil
	}
	there, err := List(ctx, d.js)
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(owned, func(c Consumer) bool { return slices.Contains(there, c) })
	if len(gone) > 0 {
		if err := d.reg.Revoke(gone); err != nil {
			return err
		}
	}
	if owned, n = total(); n > maxConsumers {
		return refuse(http.StatusTooManyRequests, "%s has %d consumers, %d are allowed: fairlead queue NAME forget CONSUMER removes one that nobody uses", w.owner, len(owned), maxConsumers)
	}
	return nil
}

func (d *Desk) reject(ctx context.Context, user string, body []byte) any {
	var req wire.RejectRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return wire.RejectReply{Failure: wire.Failure{Code: http.StatusBadRequest, Reason: "the request is no JSON of the right form"}}
	}
	if err := d.bury(ctx, user, req); err != nil {
		return wire.RejectReply{Failure: d.failed(err, user)}
	}
	return wire.RejectReply{}
}

// bury copies a message to the dead letters and acknowledges it then.
func (d *Desk) bury(ctx context.Context, user string, req wire.RejectRequest) error {
	p, ok := d.reg.Party(user)
	if !ok {
		return refuse(http.StatusForbidden, "%s is nobody that the bus knows", user)
	}
	if req.Cause != catalogue.CauseAttempts && req.Cause != catalogue.CauseRefused && req.Cause != catalogue.CauseType {
		return refuse(http.StatusBadRequest, "the cause must be %s, %s or %s", catalogue.CauseAttempts, catalogue.CauseRefused, catalogue.CauseType)
	}
	given, err := (&nats.Msg{Reply: req.Ack, Sub: &nats.Subscription{}}).Metadata()
	if err != nil || strings.ContainsAny(req.Ack, " \t\r\n*>") {
		return refuse(http.StatusBadRequest, "ack must be what a message of a queue came with")
	}
	owned := d.reg.Owned(p.Owner)
	i := slices.IndexFunc(owned, func(c Consumer) bool { return c.Stream == given.Stream && c.Name == given.Consumer })
	if i < 0 || strings.Count(req.Ack, ".") != 8 { // what has more tokens may mean another's
		return refuse(http.StatusForbidden, "the message was not given to %s", p.Owner)
	}
	if owned[i].User != "" {
		return refuse(http.StatusBadRequest, "a reader acknowledges nothing, and has no dead letters")
	}
	for _, text := range []*string{&req.Reason, &req.Pointer} {
		if len(*text) > maxReason {
			*text = strings.ToValidUTF8((*text)[:maxReason], "")
		}
	}
	return Bury(ctx, d.js, owned[i], given.Sequence.Stream, req.Ack, catalogue.Death{Cause: req.Cause, Reason: req.Reason, Pointer: req.Pointer})
}

// Bury copies a message of a consumer to the dead letters, and acknowledges it when
// the copy is stored. ack is where to acknowledge it, "" if it is not to be. A message
// that its queue keeps no more is acknowledged only.
func Bury(ctx context.Context, js jetstream.JetStream, c Consumer, sequence uint64, ack string, why catalogue.Death) error {
	stored, err := catalogue.At(ctx, js, c.Stream, sequence)
	if err != nil {
		return err
	}
	if stored != nil && stored.Sequence == sequence {
		if notation.SubjectsShared(c.Filter, stored.Subject) == "" {
			return refuse(http.StatusForbidden, "message %d of %s was not given to %s", sequence, c.Queue, c.Owner)
		}
		why.Queue, why.Subject, why.Sequence, why.Consumer, why.Time = c.Queue, stored.Subject, sequence, c.Name, time.Now()
		// If the acknowledgement is lost, it is given and rejected again soon.
		if err := catalogue.Bury(ctx, js, stored, why, fmt.Sprintf("%s/%s/%d", c.Stream, c.Name, sequence)); err != nil {
			return err
		}
	}
	if ack == "" {
		return nil
	}
	if _, err := js.Conn().RequestWithContext(ctx, ack, []byte("+ACK")); err != nil {
		return fmt.Errorf("acknowledge dead letter of %s: %w", c.Queue, err)
	}
	return nil
}
