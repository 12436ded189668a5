package catalogue

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system"
)

// Errors of [Committer.Commit], besides a *message.Fault.
var (
	// ErrFull is returned when too much waits to be stored already. Nothing of the
	// message is stored.
	ErrFull = errors.New("too many messages wait to be stored")
	// ErrNoQueue is returned for a subject that no queue keeps.
	ErrNoQueue = errors.New("no queue keeps this subject")
	// ErrTooLarge is returned for a message beyond what the bus carries.
	ErrTooLarge = errors.New("message is too large")
	// ErrUnavailable is returned when the stream could not store the message, for
	// want of space for example. Nothing of it is stored.
	ErrUnavailable = errors.New("message cannot be stored now")
	// ErrUnknown is returned when it is not known whether the message is stored.
	ErrUnknown = errors.New("not known whether the message is stored")
)

const (
	// groupMost and groupBytes bound what is stored at once, markers included. The
	// server takes 1,000 in a batch. A smaller group than groupLeast is stored message
	// by message, since a batch costs about as much as so many syncs: 16 if it is staged
	// on the disk, 4 if in memory.
	groupMost        = 1000
	groupLeastDisk   = 16
	groupLeastMemory = 4
	groupBytes       = 4 << 20
	// heldMost and heldBytes bound what waits and what is being stored, of all queues.
	heldMost  = 16 << 10
	heldBytes = 64 << 20
	// commitTime is how long the acknowledgement of a group is waited for.
	commitTime = 5 * time.Second
	// mostTries is how often a message is sent: one of which nothing was stored, and
	// one with a key while no answer comes.
	mostTries = 5
	// reconnectPause is how often it is looked whether the connection is back.
	reconnectPause = 10 * time.Millisecond
)

// Publication is what [Committer.Commit] stores.
type Publication struct {
	Subject string      // without wildcards
	Header  nats.Header // is the committer's from then on
	Data    []byte
	// Deadline is when the caller stops to wait; zero for never.
	Deadline time.Time
	// Key makes the message the same as an earlier one of its subject with the same
	// key, for as long as the queue keeps that one; "" for none.
	Key string
	// ID is the Nats-Msg-Id, by which the queue knows a message again within its
	// window; "" for none. It is not looked at with a Key.
	ID string
}

// Stored says where a message is.
type Stored struct {
	Stream    string // DEAD if it was put among the dead letters, as its queue says
	Sequence  uint64
	Duplicate bool // it was there before
}

// Committer stores messages of the node's own in queues, many in one sync: what comes
// while a group is being stored makes up the next one, which is one atomic batch
// (ADR-50). A message is checked as the [Checker] does it, and counted there.
//
// A message with a key has a marker before it in the same batch, on Keys, the key's
// hash and the subject, which must be the first there. So the sequence of the earlier
// message is the marker's and one, and the same duplicate always gets the same
// answer. A message that cannot be stored fails alone: a group that is refused is
// stored without those whose keys are known, those with ids one by one, or in halves.
//
// Messages of one queue are stored about in the order in which they came. Its methods
// are safe for concurrent use.
type Committer struct {
	checker  *Checker
	nc       *nats.Conn
	inMemory func() bool // batches are staged there

	mu     sync.Mutex // guards what follows
	lanes  map[string]*lane
	held   int
	bytes  int
	closed bool
	link   context.Context //nolint:containedctx // ends when the connection is broken off
	cut    context.CancelFunc

	running sync.WaitGroup // of lanes

	asking sync.RWMutex // held for reading while the server is asked
	paused atomic.Bool  // the server is about to go; until the connection is back
}

// lane is the way into one stream.
type lane struct {
	stream  string
	waiting []*entry // in the order in which they came
	busy    bool     // somebody stores
}

// entry is a message on its way.
type entry struct {
	msg    *nats.Msg
	marker string // subject, "" for none
	id     string
	number [1]string // in its batch, as a header
	size   int
	turn   atomic.Int32
	tries  int           // without an answer
	done   chan struct{} // closed when the fields below are set
	stored Stored
	err    error
}

// The turns of an entry.
const (
	turnWaits = iota
	turnSent  // it is sent, or about to be
	turnLeft  // its caller has left; it is not sent
)

// NewCommitter makes a committer that publishes over a connection which must not
// buffer what is published while it is broken off. inMemory tells whether the server
// stages batches in memory at the time; either way all is stored.
func NewCommitter(c *Checker, nc *nats.Conn, inMemory func() bool) *Committer {
	committer := &Committer{checker: c, nc: nc, inMemory: inMemory, lanes: map[string]*lane{}}
	committer.relink()
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { committer.relink() })
	nc.SetReconnectHandler(func(*nats.Conn) { committer.paused.Store(false) })
	return committer
}

// relink ends the waiting for answers that will not come any more.
func (c *Committer) relink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut != nil {
		c.cut()
	}
	c.link, c.cut = context.WithCancel(context.Background())
}

// Pause returns when what is being stored is answered, which takes a moment. The
// rest waits until the connection, which is to be cut next, is back: with a server
// that ends in between it would not be known what was stored.
func (c *Committer) Pause() {
	c.paused.Store(true)
	c.asking.Lock()
	defer c.asking.Unlock()
}

// begin returns when the server can be asked, until [Committer.end]; it reports
// false when it never can.
func (c *Committer) begin() bool {
	for {
		c.asking.RLock()
		if !c.paused.Load() && c.nc.IsConnected() {
			return true
		}
		c.asking.RUnlock()
		if c.isClosed() {
			return false
		}
		time.Sleep(reconnectPause)
	}
}

func (c *Committer) end() { c.asking.RUnlock() }

func (c *Committer) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || c.nc.IsClosed()
}

// Close ends the committer when what is being stored now is answered. Later calls of
// Commit, and those that wait, get [ErrUnavailable].
func (c *Committer) Close() {
	c.mu.Lock()
	c.closed = true
	var left []*entry
	for _, l := range c.lanes {
		left = append(left, l.waiting...)
		l.waiting = nil
	}
	c.mu.Unlock()
	for _, e := range left {
		c.finish(e, Stored{}, ErrUnavailable)
	}
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut()
}

// Commit stores a message, and returns when it is synced. The error is a
// *message.Fault if it does not satisfy the queue's type and the queue refuses
// such, or one of the package's. If the context or the deadline ends first the error
// is [ErrUnavailable] when the message was not sent, else [ErrUnknown]: it may be stored.
func (c *Committer) Commit(ctx context.Context, m Publication) (Stored, error) {
	e, stream, err := c.enter(m)
	if err != nil {
		return Stored{}, err
	}
	if err := c.wait(stream, e); err != nil { //nolint:contextcheck // what is stored is stored for many callers
		return Stored{}, err
	}
	var late <-chan time.Time
	if !m.Deadline.IsZero() { // a context with it would cost more
		timer := time.NewTimer(time.Until(m.Deadline))
		defer timer.Stop()
		late = timer.C
	}
	var why error
	select {
	case <-e.done:
		return e.stored, e.err
	case <-ctx.Done():
		why = context.Cause(ctx)
	case <-late:
		why = context.DeadlineExceeded
	}
	if e.turn.CompareAndSwap(turnWaits, turnLeft) {
		return Stored{}, fmt.Errorf("%w: %w", ErrUnavailable, why)
	}
	return Stored{}, fmt.Errorf("%w: %w", ErrUnknown, why)
}

// enter checks a message and says which stream it goes to.
func (c *Committer) enter(m Publication) (*entry, string, error) {
	rule, fault := c.checker.judge(m.Subject, m.Data)
	if rule == nil {
		return nil, "", fmt.Errorf("%w: %s", ErrNoQueue, m.Subject)
	}
	if fault == nil && c.checker.full() {
		return nil, "", fmt.Errorf("%w: the store of the bus takes no writes", ErrUnavailable)
	}
	e := &entry{done: make(chan struct{})}
	e.msg = &nats.Msg{Subject: Accepted + m.Subject, Header: m.Header, Data: m.Data}
	if e.msg.Header == nil {
		e.msg.Header = nats.Header{}
	}
	stream := rule.stream
	count := func(n *uint64) { c.checker.count(func() { *n++ }) }
	switch {
	case fault == nil:
		count(&rule.counts.Accepted)
	case rule.enforce == system.EnforceObserve:
		count(&rule.counts.Accepted)
		count(&rule.counts.Observed)
		c.checker.tell(rule, fault, m.Subject, "stored")
	case rule.enforce == system.EnforceQuarantine:
		count(&rule.counts.Quarantined)
		c.checker.tell(rule, fault, m.Subject, "quarantined")
		e.msg, stream = rule.dead(e.msg, fault, m.Subject), DeadLetters
	default:
		count(&rule.counts.Refused)
		c.checker.tell(rule, fault, m.Subject, "refused")
		return nil, "", fault
	}
	if stream != DeadLetters {
		if m.Key != "" {
			e.marker = Keys + hash(m.Key) + "." + m.Subject
		} else {
			e.id = m.ID
		}
	}
	if e.size = e.msg.Size() + len(e.id); int64(e.size) > c.checker.most {
		return nil, "", ErrTooLarge
	}
	if e.id != "" {
		e.msg.Header[jetstream.MsgIDHeader] = []string{e.id}
	}
	return e, stream, nil
}

// hash is a key as one token of a subject.
func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// wait puts a message into the queue for its stream.
func (c *Committer) wait(stream string, e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrUnavailable
	case c.held >= heldMost || c.bytes+e.size > heldBytes:
		return ErrFull
	}
	c.held++
	c.bytes += e.size
	l := c.lanes[stream]
	if l == nil {
		l = &lane{stream: stream}
		c.lanes[stream] = l
	}
	l.waiting = append(l.waiting, e)
	if !l.busy {
		l.busy = true
		c.running.Go(func() { c.run(l) })
	}
	return nil
}

// run stores what waits, group by group, until nothing does.
func (c *Committer) run(l *lane) {
	for {
		c.mu.Lock()
		group := l.next()
		if len(group) == 0 {
			l.busy = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if c.small(group) {
			c.storeEach(l.stream, group)
		} else {
			c.store(l.stream, group)
		}
	}
}

// small reports whether a group is stored sooner message by message: the server makes
// a store of its own for each batch.
func (c *Committer) small(group []*entry) bool {
	least := groupLeastDisk
	if c.inMemory() {
		least = groupLeastMemory
	}
	return len(group) < least && !slices.ContainsFunc(group, func(e *entry) bool { return e.marker != "" })
}

// storeEach stores messages one by one, without waiting for each.
func (c *Committer) storeEach(stream string, group []*entry) {
	var storing sync.WaitGroup
	for _, e := range group[1:] {
		storing.Go(func() { c.store(stream, []*entry{e}) })
	}
	c.store(stream, group[:1])
	storing.Wait()
}

// next takes the next group out of what waits. What has the key or the id of another
// in the group waits for its answer. Committer.mu is held.
func (l *lane) next() []*entry {
	var group, rest []*entry
	slots, bytes := 0, 0
	seen := map[string]bool{}
	for i, e := range l.waiting {
		need := 1
		if e.marker != "" {
			need = 2
		}
		if slots+need > groupMost || bytes+e.size > groupBytes && slots > 0 {
			rest = append(rest, l.waiting[i:]...)
			break
		}
		if same := e.marker + e.id; same != "" {
			if seen[same] {
				rest = append(rest, e)
				continue
			}
			seen[same] = true
		}
		group = append(group, e)
		slots += need
		bytes += e.size
	}
	l.waiting = rest
	return group
}

// finish tells who waits for a message.
func (c *Committer) finish(e *entry, s Stored, err error) {
	e.stored, e.err = s, err
	close(e.done)
	c.mu.Lock()
	c.held--
	c.bytes -= e.size
	c.mu.Unlock()
}

func (c *Committer) fail(group []*entry, err error) {
	for _, e := range group {
		c.finish(e, Stored{}, err)
	}
}

// store stores a group and answers all of it.
func (c *Committer) store(stream string, group []*entry) {
	if !c.begin() {
		c.fail(group, ErrUnavailable)
		return
	}
	if group = c.present(group); len(group) == 0 {
		c.end()
		return
	}
	if c.checker.full() { // it was not when they came
		c.end()
		c.fail(group, fmt.Errorf("%w: the store of the bus takes no writes", ErrUnavailable))
		return
	}
	ack, err := c.send(group)
	c.end()
	refused, isRefused := errors.AsType[*storeError](err)
	switch {
	case err == nil:
		c.tell(group, ack)
	case errors.Is(err, ErrUnknown):
		c.again(stream, group, err)
	case !isRefused:
		c.later(stream, group, err)
	case refused.Code >= 500:
		c.fail(group, fmt.Errorf("%w: %w", ErrUnavailable, err))
	case refused.ErrCode == errBatchIncomplete || refused.ErrCode == errBatchesOpen:
		// Others have as many batches open as the stream allows.
		c.fail(group, fmt.Errorf("%w: %w", ErrFull, err))
	default:
		c.apart(stream, group, refused)
	}
}

// later stores a group of which nothing was stored once more: the server may just have
// gone, and comes back.
func (c *Committer) later(stream string, group []*entry, err error) {
	for _, e := range group {
		if e.tries++; e.tries >= mostTries {
			c.fail(group, err)
			return
		}
	}
	time.Sleep(reconnectPause)
	c.store(stream, group)
}

// again stores those of a group once more that have keys: it is not known whether the
// group is stored, but nothing is stored twice by its key.
func (c *Committer) again(stream string, group []*entry, err error) {
	var keyed []*entry
	for _, e := range group {
		if e.tries++; e.marker != "" && e.tries < mostTries {
			keyed = append(keyed, e)
		} else {
			c.finish(e, Stored{}, err)
		}
	}
	if len(keyed) > 0 {
		c.store(stream, keyed)
	}
}

// apart stores what it can of a group that was refused as a whole.
func (c *Committer) apart(stream string, group []*entry, refused *storeError) {
	rest, err := c.known(stream, group)
	if err != nil {
		c.later(stream, rest, err)
		return
	}
	var alone []*entry
	if refused.ErrCode == errBatchDuplicate && len(group) > 1 {
		// The stream does not say which, but answers each by itself.
		rest, alone = split(rest)
	}
	switch {
	case len(rest) == 0:
	case len(rest) < len(group):
		c.store(stream, rest)
	case len(rest) == 1:
		c.fail(rest, fmt.Errorf("%w: %w", ErrUnavailable, refused))
	default:
		c.store(stream, rest[:len(rest)/2])
		c.store(stream, rest[len(rest)/2:])
	}
	if len(alone) > 0 {
		c.storeEach(stream, alone)
	}
}

// split tells those with ids from the rest.
func split(group []*entry) (rest, ids []*entry) {
	for _, e := range group {
		if e.id != "" {
			ids = append(ids, e)
		} else {
			rest = append(rest, e)
		}
	}
	return rest, ids
}

// present drops those of a group whose callers have left.
func (c *Committer) present(group []*entry) []*entry {
	here := group[:0:0]
	for _, e := range group {
		if e.turn.CompareAndSwap(turnWaits, turnSent) || e.turn.Load() == turnSent {
			here = append(here, e)
		} else {
			c.finish(e, Stored{}, ErrUnavailable)
		}
	}
	return here
}

// tell answers a group that was stored.
func (c *Committer) tell(group []*entry, ack *ack) {
	if len(group) == 1 {
		c.finish(group[0], Stored{ack.Stream, ack.Sequence, ack.Duplicate}, nil)
		return
	}
	// A batch is stored without gaps; the acknowledgement tells the last of it.
	sequence := ack.Sequence
	for _, e := range slices.Backward(group) {
		c.finish(e, Stored{ack.Stream, sequence, false}, nil)
		sequence--
		if e.marker != "" {
			sequence--
		}
	}
}

// known answers those of a group whose keys were stored before, and returns the rest.
func (c *Committer) known(stream string, group []*entry) (rest []*entry, _ error) {
	type found struct {
		sequence uint64
		err      error
	}
	all := make([]found, len(group))
	var looking sync.WaitGroup
	places := make(chan struct{}, lookups)
	for i, e := range group {
		if e.marker == "" {
			continue
		}
		places <- struct{}{}
		looking.Go(func() {
			defer func() { <-places }()
			if !c.begin() {
				all[i].err = ErrUnavailable
				return
			}
			defer c.end()
			all[i].sequence, all[i].err = c.last(stream, e.marker)
		})
	}
	looking.Wait()
	var err error
	for i, e := range group {
		if all[i].sequence > 0 {
			c.finish(e, Stored{stream, all[i].sequence + 1, true}, nil)
			continue
		}
		rest = append(rest, e)
		err = errors.Join(err, all[i].err)
	}
	if err != nil {
		err = fmt.Errorf("%w: look up keys: %w", ErrUnavailable, err)
	}
	return rest, err
}

// lookups is how many keys are looked up at once.
const lookups = 16
