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
	apiNext     = "$JS.API.CONSUMER.MSG.NEXT."
)

// pull takes messages from one consumer: never more than there is room for.
type pull struct {
	r     *receiver
	c     wire.Consumer
	inbox string
	sub   *nats.Subscription
	ended chan struct{}  // closed after the last message has come
	queue chan *nats.Msg // of a reader, handled one after the other; nil of others
	undo  func()         // ends the watch for a denial
	done  atomic.Uint64  // all up to this sequence was acknowledged, some time ago

	mu       sync.Mutex // guards what follows
	round    int        // of requests: what is said about those of former rounds means nothing
	wanted   int        // messages that were asked for and have not come
	busy     int        // messages that are being handled
	heard    time.Time
	lost     bool
	finished bool // of a reader, all that has come is handled
	stopping bool
	given    uint64 // of a reader, messages that have come
	last     uint64 // of a reader, sequence of the last message that was handled
}

func newPull(r *receiver, c wire.Consumer) (*pull, error) {
	p := &pull{r: r, c: c, inbox: r.s.conn.NewInbox(), ended: make(chan struct{}), heard: time.Now()}
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
	meta, err := m.Metadata()
	if err != nil {
		return // no message of a stream: nobody else may send here
	}
	if p.queue != nil {
		p.enqueue(m, meta)
		return
	}
	if p.stopping {
		p.r.answer(m, "-NAK")
		return
	}
	p.busy++
	p.r.open.add()
	p.request()
	go p.handle(m, meta)
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
func (p *pull) enqueue(m *nats.Msg, meta *nats.MsgMetadata) {
	if p.lost || p.stopping {
		return
	}
	if meta.Sequence.Consumer != p.given+1 || len(p.queue) == cap(p.queue) {
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

// handle has a message handled and makes room for another.
func (p *pull) handle(m *nats.Msg, meta *nats.MsgMetadata) {
	defer func() {
		p.mu.Lock()
		p.busy--
		p.request()
		p.mu.Unlock()
		p.r.open.done()
	}()
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
