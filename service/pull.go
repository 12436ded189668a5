package service

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	pullExpires = 30 * time.Second // how long a request waits for messages
	heartbeat   = 5 * time.Second  // of the bus, while a request waits
	silence     = 3 * heartbeat    // after which requests are taken for lost
	ackPrefix   = "$JS.ACK."
	apiNext     = "$JS.API.CONSUMER.MSG.NEXT."
)

// worker handles messages of a pull.
type worker struct {
	msg  *nats.Msg // nil: none
	tick int       // when it began, see pull.tick
}

// pull takes messages from one consumer: never more than there is room for.
type pull struct {
	r     *receiver
	c     wire.Consumer
	inbox string // with three tokens below the instance's, see bus's keeper
	sub   *nats.Subscription
	ended chan struct{}  // closed after the last message has come
	queue chan *nats.Msg // of a reader, handled one after the other; nil of others
	undo  func()         // ends the watch for a denial
	done  atomic.Uint64  // all up to this sequence was acknowledged, some time ago

	mu       sync.Mutex  // guards what follows
	round    int         // of requests: what is said about those of former rounds means nothing
	wanted   int         // messages that were asked for and have not come
	busy     int         // messages that have come and are not handled
	waiting  []*nats.Msg // of them, those that no worker has taken, from head on
	head     int
	workers  map[*worker]struct{} // at most InFlight
	starting bool                 // one of them has taken no message yet
	tick     int                  // counts how often the bus was told what is being handled
	heard    time.Time
	lost     bool
	finished bool // of a reader, all that has come is handled
	stopping bool
	given    uint64 // of a reader, messages that have come
	last     uint64 // of a reader, sequence of the last message that was handled
}

func newPull(r *receiver, c wire.Consumer) (*pull, error) {
	p := &pull{r: r, c: c, inbox: r.s.conn.NewInbox() + ".pull", ended: make(chan struct{}), heard: time.Now(), workers: map[*worker]struct{}{}}
	if r.reader != "" {
		p.queue = make(chan *nats.Msg, r.o.InFlight)
	}
	p.done.Store(c.Done)
	sub, err := r.s.conn.Subscribe(p.inbox+".*", p.take)
	if err != nil {
		return nil, err
	}
	p.sub = sub
	// What comes is bounded by what is asked for.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, err
	}
	sub.SetClosedHandler(func(string) {
		close(p.ended)
		if p.queue != nil {
			close(p.queue)
		}
	})
	denied, release := r.s.denials.watch(context.Background(), apiNext+c.Stream+"."+c.Name)
	unwatch := context.AfterFunc(denied, p.lose)
	p.undo = func() { unwatch(); release() }
	return p, nil
}

func (p *pull) begin() {
	if p.queue != nil {
		p.r.open.add()
		go p.read()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if every := p.c.AckWait() / 3; every > 0 {
		time.AfterFunc(every, p.tell)
	}
	p.request()
}

// request asks for as many messages as there is room for, once that is half of all or
// nothing is asked for. The lock is held.
func (p *pull) request() {
	room := p.r.o.InFlight - p.busy - p.wanted
	if p.stopping || p.lost || room == 0 || p.wanted > 0 && room < (p.r.o.InFlight+1)/2 {
		return
	}
	p.wanted += room
	body := `{"batch": ` + strconv.Itoa(room) + `, "expires": ` + strconv.FormatInt(int64(pullExpires), 10) + `, "idle_heartbeat": ` + strconv.FormatInt(int64(heartbeat), 10) + `}`
	// While the bus is away it is kept, or asked again when it is back.
	_ = p.r.s.conn.PublishRequest(apiNext+p.c.Stream+"."+p.c.Name, p.inbox+"."+strconv.Itoa(p.round), []byte(body))
}

// take gets what the bus sends, one at a time.
func (p *pull) take(m *nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = time.Now()
	if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 && strings.HasPrefix(m.Subject, p.inbox) {
		if m.Subject == p.inbox+"."+strconv.Itoa(p.round) {
			p.status(status, m)
		}
		return
	}
	p.wanted = max(p.wanted-1, 0)
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		return // no message of a stream: nobody else may send here
	}
	if p.queue != nil {
		p.enqueue(m)
		return
	}
	if p.stopping {
		p.r.answer(m, "-NAK")
		return
	}
	p.busy++
	p.waiting = append(p.waiting, m)
	p.r.open.add()
	p.employ()
}

// employ starts a worker, if there is need. The lock is held.
//
// At most one is about to begin: if the handlers are quick, the one that runs takes
// all messages, in their order, and the acknowledgements leave in one write. If they
// wait, each that begins calls the next.
func (p *pull) employ() {
	if p.starting || p.head == len(p.waiting) || len(p.workers) == p.r.o.InFlight {
		return
	}
	w := &worker{}
	p.workers[w] = struct{}{}
	p.starting = true
	go p.work(w)
}

// next gives a worker the message that has waited longest, nil if there is none.
func (p *pull) next(w *worker, first bool) *nats.Msg {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first {
		p.starting = false
	} else {
		w.msg = nil
		p.busy--
		p.request()
	}
	if p.head == len(p.waiting) {
		clear(p.waiting)
		p.waiting, p.head = p.waiting[:0], 0
		delete(p.workers, w)
		return nil
	}
	w.msg, w.tick = p.waiting[p.head], p.tick
	p.head++
	if p.head >= 1024 && p.head > len(p.waiting)/2 { // keep the dead part of the slice small
		n := copy(p.waiting, p.waiting[p.head:])
		clear(p.waiting[n:])
		p.waiting, p.head = p.waiting[:n], 0
	}
	p.employ()
	return w.msg
}

// work handles messages as long as some wait.
func (p *pull) work(w *worker) {
	first, returned := true, false
	defer func() {
		if returned {
			return
		}
		// The handler ended the goroutine (runtime.Goexit): the message is given again,
		// and another takes the worker's place.
		p.mu.Lock()
		delete(p.workers, w)
		p.busy--
		p.request()
		p.employ()
		p.mu.Unlock()
		p.r.open.done()
	}()
	for m := p.next(w, first); m != nil; m = p.next(w, first) {
		first = false
		p.handle(m)
		p.r.open.done()
	}
	returned = true
}

// tell tells the bus which messages are still being handled, from time to time.
func (p *pull) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.workers {
		if w.msg != nil && w.tick < p.tick {
			p.r.answer(w.msg, "+WPI")
		}
	}
	p.tick++
	if every := p.c.AckWait() / 3; every > 0 && (len(p.workers) > 0 || !p.lost && !p.stopping) {
		time.AfterFunc(every, p.tell)
	}
}

// status hears what the bus says about a request. The lock is held.
func (p *pull) status(code string, m *nats.Msg) {
	switch {
	case m.Header.Get("Nats-Pending-Messages") != "" && (code == "408" || code == "409"): // the request is over
		n, _ := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		p.wanted = max(p.wanted-n, 0)
		p.request()
	case lostStatus(code):
		p.r.s.logger.Debug("the bus ends a subscription", wire.KeySubject, p.r.subject, wire.KeyStatus, code, wire.KeyReason, m.Header.Get("Description"))
		p.loseLocked()
	}
}

// enqueue gives a message to the reader. If one is missing before it, the reader goes
// on after the last one that it has. The lock is held.
func (p *pull) enqueue(m *nats.Msg) {
	if p.lost || p.stopping {
		return
	}
	if meta, err := m.Metadata(); err != nil || meta.Sequence.Consumer != p.given+1 || len(p.queue) == cap(p.queue) {
		p.loseLocked()
		return
	}
	p.given++
	p.busy++
	p.queue <- m
}

func deliveryOf(m *nats.Msg, meta *nats.MsgMetadata) *Delivery {
	return &Delivery{
		Subject: m.Subject, Stream: meta.Stream, Consumer: meta.Consumer, Sequence: meta.Sequence.Stream,
		Time: meta.Timestamp, Attempt: int(min(meta.NumDelivered, 1<<31)), Headers: m.Header,
	}
}

// handle has a message handled.
func (p *pull) handle(m *nats.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		return // take has read it already
	}
	d := deliveryOf(m, meta)
	d.done, d.since = p.done.Load(), p.c.Since
	p.r.deliver(p, m, d)
}

// read handles the messages of a reader, until there will be no more.
func (p *pull) read() {
	defer p.r.open.done()
	for m := range p.queue {
		p.mu.Lock()
		idle := p.stopping
		p.mu.Unlock()
		if idle {
			continue
		}
		meta, err := m.Metadata()
		if err != nil {
			continue // take has read it already
		}
		d := deliveryOf(m, meta)
		d.Attempt = 1
		p.r.read(m, d)
		p.mu.Lock()
		p.last = meta.Sequence.Stream
		p.busy--
		p.request()
		p.mu.Unlock()
	}
	p.mu.Lock()
	p.finished = true
	p.mu.Unlock()
	p.r.askAgain() // it goes on from there
}

// forgotten says that the bus knows nothing of the requests any more.
func (p *pull) forgotten() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue != nil { // what was on its way to a reader is lost
		p.loseLocked()
		return
	}
	p.round++
	p.wanted, p.heard = 0, time.Now()
	p.request()
}

// watch takes requests for lost when the bus says nothing more about them.
func (p *pull) watch() {
	p.mu.Lock()
	dead := p.wanted > 0 && time.Since(p.heard) > silence && !p.lost && !p.stopping
	p.mu.Unlock()
	if dead && p.r.s.conn.IsConnected() {
		p.forgotten()
	}
}

func (p *pull) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseLocked()
}

// loseLocked ends the pull; another takes its place.
func (p *pull) loseLocked() {
	if p.lost || p.stopping {
		return
	}
	p.lost = true
	p.end()
	if p.queue == nil {
		p.r.askAgain()
	}
}

// over reports whether another pull is to take its place.
func (p *pull) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost && (p.queue == nil || p.finished)
}

// position is the sequence up to which a reader has come.
func (p *pull) position() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// stop ends the pull for good.
func (p *pull) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return
	}
	p.stopping = true
	for _, m := range p.waiting[p.head:] {
		p.r.answer(m, "-NAK")
		p.busy--
		p.r.open.done()
	}
	p.waiting, p.head = nil, 0
	if !p.lost {
		p.end()
	}
}

// end unsubscribes, once all that the bus has sent has come. The lock is held.
func (p *pull) end() {
	go p.undo()
	end := p.sub.Drain
	if !p.r.s.conn.IsConnected() {
		end = p.sub.Unsubscribe // a drain would wait for the bus
	}
	_ = end() // else the connection is closed, and the subscription with it
}
