package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/bus/gatekeeper"
	"fairlead/internal/system"
	"fairlead/internal/system/message"
	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

// Codes of the error that a publisher gets in the place of the acknowledgement, in
// the form of JetStream's own.
const (
	RefusedStatus = 422   // code
	RefusedCode   = 10999 // err_code

	FullStatus = 503 // nothing can be stored at present
	FullCode   = 10998
)

const (
	// waiting is how many messages may be between the server and the stream. More
	// wait in the connection's buffer, which is bounded too: what is beyond is
	// dropped there, and its publisher gets no acknowledgement.
	waiting        = 1024
	pendingBytes   = 64 << 20
	pendingLetters = 256 << 10
	// quiet is how often refused messages of one queue are logged.
	quiet = time.Minute
)

// Checker stands between the publishers and the streams of queues, those without a
// type too. What the server acknowledges, it acknowledges on any subject; so a message
// whose reply subject is no inbox is refused, without an answer. Its methods are safe for concurrent use.
type Checker struct {
	log     *slog.Logger
	nc      *nats.Conn
	healthy func() error // nil: it is not known
	most    int64        // bytes of a message
	sub     *nats.Subscription
	rules   atomic.Pointer[rules]

	ordered chan *letter // in the order in which the server got them
	work    chan *letter
	stop    chan struct{}
	ends    sync.Once
	running sync.WaitGroup

	open batches // used by pass only

	mu     sync.Mutex // guards what follows
	counts map[string]*Counts
	logged map[string]time.Time
}

// Counts is what became of the messages of a queue with a type since the bus was
// opened.
type Counts struct {
	Accepted    uint64 // stored, or refused by the stream itself
	Refused     uint64 // not stored
	Quarantined uint64 // among the dead letters
	Observed    uint64 // stored though they do not satisfy the type; also counted in Accepted
}

// rules say what a message must satisfy.
type rules struct {
	exact   map[string]*rule
	pattern []*rule
}

type rule struct {
	queue   string
	stream  string
	typ     *message.Type // nil: any message
	enforce system.Enforce
	counts  *Counts // guarded by Checker.mu
}

func (r *rule) typeName() string {
	if r.typ == nil {
		return ""
	}
	return r.typ.Name()
}

// dead is the dead letter of a message that does not satisfy the rule.
func (r *rule) dead(m *nats.Msg, fault *message.Fault, subject string) *nats.Msg {
	return DeadLetter(m, Death{Queue: r.queue, Subject: subject, Cause: CauseType, Pointer: fault.Pointer, Reason: fault.Error(), Time: time.Now()})
}

// letter is a message on its way.
type letter struct {
	msg     *nats.Msg
	subject string // as it was published
	rule    *rule  // nil: there is no such queue
	fault   *message.Fault
	checked chan struct{} // closed when fault is known
}

// Open starts a checker on a connection that is its own to use until Close, which
// does not close it. The connection must not buffer what is published while it is
// broken off. queues and types are as for [Checker.Set]: it knows them before it hears
// anything. healthy, which may be nil, says whether the streams take messages; while they
// do not, what is published is refused instead of sent to a stream that answers nothing.
// Messages of more than most bytes, headers included, are refused.
func Open(nc *nats.Conn, log *slog.Logger, healthy func() error, most int64, queues []system.Queue, types map[string]*message.Type) (*Checker, error) {
	c := &Checker{
		log: log, nc: nc, healthy: healthy, most: most, ordered: make(chan *letter, waiting), work: make(chan *letter, waiting),
		stop: make(chan struct{}), counts: map[string]*Counts{}, logged: map[string]time.Time{},
	}
	c.Set(queues, types)
	sub, err := nc.Subscribe(Incoming+">", c.take)
	if err == nil {
		err = sub.SetPendingLimits(pendingLetters, pendingBytes)
	}
	if err == nil {
		err = nc.Flush() // when it returns, the server knows of the checker
	}
	if err != nil {
		return nil, fmt.Errorf("open checker: %w", err)
	}
	c.sub = sub
	for range max(2, runtime.GOMAXPROCS(0)) {
		c.running.Go(c.check)
	}
	c.running.Go(c.pass)
	return c, nil
}

// Close ends the checker. Messages that it has not passed on are not stored, and not
// acknowledged. It is idempotent.
func (c *Checker) Close() {
	c.ends.Do(func() {
		_ = c.sub.Unsubscribe() // the connection may be gone already
		close(c.stop)
	})
	c.running.Wait()
}

// Compile compiles the types of a system, by their names.
func Compile(sys *system.System) (map[string]*message.Type, error) {
	types := make(map[string]*message.Type, len(sys.Types))
	for i := range sys.Types {
		t, err := message.Compile(sys.Types[i].Name, sys.Types[i].Schema)
		if err != nil {
			return nil, fmt.Errorf("compile type %s: %w", sys.Types[i].Name, err)
		}
		types[sys.Types[i].Name] = t
	}
	return types, nil
}

// Set makes the queues what messages are checked against from now on. types holds
// those that the queues name.
func (c *Checker) Set(queues []system.Queue, types map[string]*message.Type) {
	next := &rules{exact: map[string]*rule{}}
	c.mu.Lock()
	for _, q := range queues {
		counts := c.counts[q.Name]
		if counts == nil {
			counts = &Counts{}
			c.counts[q.Name] = counts
		}
		r := &rule{queue: q.Name, stream: Stream(q.Name), typ: types[q.Type], enforce: q.Enforce, counts: counts}
		if strings.ContainsAny(q.Name, "*>") {
			next.pattern = append(next.pattern, r)
		} else {
			next.exact[q.Name] = r
		}
	}
	c.mu.Unlock()
	c.rules.Store(next)
}

// Counts returns what became of the messages of each queue.
func (c *Checker) Counts() map[string]Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]Counts, len(c.counts))
	for queue, n := range maps.All(c.counts) {
		all[queue] = *n
	}
	return all
}

func (r *rules) find(subject string) *rule {
	if found := r.exact[subject]; found != nil {
		return found
	}
	for _, p := range r.pattern {
		if notation.SubjectsShared(p.queue, subject) != "" {
			return p
		}
	}
	return nil
}

// take is called for each message by the connection, one at a time.
func (c *Checker) take(m *nats.Msg) {
	gatekeeper.Quiet(m.Header)
	l := &letter{msg: m, subject: strings.TrimPrefix(m.Subject, Incoming), checked: make(chan struct{})}
	select {
	case c.ordered <- l:
	case <-c.stop:
		return
	}
	select {
	case c.work <- l:
	case <-c.stop:
	}
}

// check looks at messages, several at once.
func (c *Checker) check() {
	for {
		select {
		case l := <-c.work:
			l.rule, l.fault = c.judge(l.subject, l.msg.Data)
			close(l.checked)
		case <-c.stop:
			return
		}
	}
}

// judge finds the rule for a subject, nil for none, and what is wrong with a message
// there, nil for nothing.
func (c *Checker) judge(subject string, data []byte) (*rule, *message.Fault) {
	r := c.rules.Load().find(subject)
	if r == nil || r.typ == nil {
		return r, nil
	}
	err := r.typ.Check(data)
	if err == nil {
		return r, nil
	}
	if fault, ok := errors.AsType[*message.Fault](err); ok {
		return r, fault
	}
	return r, &message.Fault{Type: r.typ.Name(), Reason: err.Error()}
}

// pass sends what was checked on its way, in the order in which it came.
func (c *Checker) pass() {
	for {
		select {
		case l := <-c.ordered:
			select {
			case <-l.checked:
				c.decide(l)
			case <-c.stop:
				return
			}
		case <-c.stop:
			return
		}
	}
}

// decide sends a message to its stream, to the dead letters, or back.
func (c *Checker) decide(l *letter) {
	switch {
	case l.msg.Reply != "" && !gatekeeper.Inbox(l.msg.Reply, ""):
		// The stream would answer there, and so would we, with rights that the publisher
		// may not have.
		if l.rule != nil {
			c.count(func() { l.rule.counts.Refused++ })
			c.tell(l.rule, &message.Fault{Type: l.rule.typeName(), Reason: "its reply subject is no inbox"}, l.subject, "refused")
		}
	case !literal(l.subject):
		// The server takes it as it is, but no filter of a consumer would ever find it.
		if l.rule != nil {
			c.count(func() { l.rule.counts.Refused++ })
			c.tell(l.rule, &message.Fault{Type: l.rule.typeName(), Reason: "its subject is a pattern"}, l.subject, "refused")
		}
		c.answer(l.msg.Reply, 400, l.subject+" is a pattern: a message needs a subject without wildcards and empty parts")
	case l.rule == nil:
		c.answer(l.msg.Reply, 404, "there is no queue for "+l.subject)
	case int64(l.msg.Size()) > c.most:
		c.answer(l.msg.Reply, 413, fmt.Sprintf("%s: the message is too large: a queue takes %d bytes at most", l.subject, c.most))
	case c.full() && !l.refused():
		c.answer(l.msg.Reply, FullStatus, l.subject+": nothing can be stored at present: the store of the bus takes no writes")
	case !c.admit(l):
	case l.fault == nil:
		c.count(func() { l.rule.counts.Accepted++ })
		c.send(l, &nats.Msg{Subject: Accepted + l.subject, Reply: l.msg.Reply, Header: l.msg.Header, Data: l.msg.Data})
	case l.rule.enforce == system.EnforceObserve:
		c.count(func() { l.rule.counts.Accepted++; l.rule.counts.Observed++ })
		c.tell(l.rule, l.fault, l.subject, "stored")
		c.send(l, &nats.Msg{Subject: Accepted + l.subject, Reply: l.msg.Reply, Header: l.msg.Header, Data: l.msg.Data})
	case l.rule.enforce == system.EnforceQuarantine && l.msg.Header.Get(HeaderReplay) == "":
		c.count(func() { l.rule.counts.Quarantined++ })
		c.tell(l.rule, l.fault, l.subject, "quarantined")
		dead := l.rule.dead(l.msg, l.fault, l.subject)
		dead.Reply = l.msg.Reply
		c.send(l, dead)
	default:
		c.count(func() { l.rule.counts.Refused++ })
		c.tell(l.rule, l.fault, l.subject, "refused")
		c.answer(l.msg.Reply, RefusedStatus, l.subject+": "+l.fault.Error())
	}
}

// admit reports whether what belongs to a batch may go on, and answers if it may not.
func (c *Checker) admit(l *letter) bool {
	err := c.open.take(l.rule.stream, l.msg.Header, l.msg.Size(), time.Now())
	if err != nil {
		c.answer(l.msg.Reply, FullStatus, l.subject+": "+err.Error())
	}
	return err == nil
}

// literal reports whether a subject stands for itself only.
func literal(subject string) bool {
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" || token == "*" || token == ">" {
			return false
		}
	}
	return true
}

// full reports whether the streams take nothing.
func (c *Checker) full() bool { return c.healthy != nil && c.healthy() != nil }

// refused reports whether the letter is answered with an error whatever the streams
// can take.
func (l *letter) refused() bool {
	quarantined := l.rule.enforce == system.EnforceQuarantine && l.msg.Header.Get(HeaderReplay) == ""
	return l.fault != nil && l.rule.enforce != system.EnforceObserve && !quarantined
}

func (c *Checker) count(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

// send publishes; a publisher that waits is told if it cannot be done.
func (c *Checker) send(l *letter, m *nats.Msg) {
	// What is quarantined gets its reason, too. Any other error is a connection that is
	// broken off: no acknowledgement will come.
	if err := c.nc.PublishMsg(m); errors.Is(err, nats.ErrMaxPayload) {
		c.answer(l.msg.Reply, 413, l.subject+": the message is too large to be kept with the reason why it is refused")
	}
}

// answer is an error in the place of an acknowledgement, which clients of JetStream
// report to their caller.
func (c *Checker) answer(reply string, code int, description string) {
	if reply == "" {
		return
	}
	errCode := RefusedCode
	if code == FullStatus {
		errCode = FullCode
	}
	b, err := json.Marshal(map[string]any{
		"type":  "io.nats.jetstream.api.v1.pub_ack_response",
		"error": map[string]any{"code": code, "err_code": errCode, "description": description},
	})
	if err == nil {
		err = c.nc.Publish(reply, b)
	}
	_ = err // the connection is broken off: the publisher waits in vain
}

// Refusal is the advisory on a message that does not satisfy its queue's type, on
// [Refused] and its subject.
type Refusal struct {
	Queue   string    `json:"queue"`
	Subject string    `json:"subject"`
	Type    string    `json:"type"`
	Pointer string    `json:"pointer"`
	Reason  string    `json:"reason"`
	Fate    string    `json:"fate"` // refused, quarantined or stored
	Time    time.Time `json:"time"`
}

// tell sends the advisory, and logs from time to time.
func (c *Checker) tell(r *rule, fault *message.Fault, subject, fate string) {
	now := time.Now()
	b, err := json.Marshal(Refusal{
		Queue: r.queue, Subject: subject, Type: fault.Type, Pointer: fault.Pointer,
		Reason: fault.Reason, Fate: fate, Time: now,
	})
	if err == nil {
		_ = c.nc.Publish(Refused+subject, b) // who listens may miss one
	}
	c.mu.Lock()
	due := now.Sub(c.logged[r.queue]) >= quiet
	if due {
		c.logged[r.queue] = now
	}
	n := *r.counts
	c.mu.Unlock()
	if due {
		c.log.Warn("message does not satisfy its type",
			slog.String("queue", r.queue), slog.String(wire.KeySubject, subject), slog.String("fate", fate),
			slog.String("pointer", fault.Pointer), slog.String("type", fault.Type),
			slog.String("so_far", strconv.FormatUint(n.Refused+n.Quarantined+n.Observed, 10)))
	}
}
