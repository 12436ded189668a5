package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/gateway"
	"fairlead/internal/node/handover"
	"fairlead/internal/supervise"
	"fairlead/internal/wire"
)

// The messages once the next process has taken over. It tells the former one, which
// still has requests open, what it must know to finish them.
const (
	sayEndpoints = "endpoints" // told: a service's instances
	sayLost      = "lost"      // told: an instance that has died
	sayDrain     = "drain"     // told: an instance on which nothing may be open any more
	sayRelease   = "release"   // told: services that are back on the bus
	saySettled   = "settled"   // settled: all are
	sayFinish    = "finish"    // told: it is time to end
	sayDrained   = "drained"   // told, by the former one: answers drain
)

// told is the body of these messages.
type told struct {
	ID        uint64             `json:",omitempty"`
	Service   string             `json:",omitempty"`
	Instance  string             `json:",omitempty"`
	Services  []string           `json:",omitempty"`
	Endpoints []gateway.Endpoint `json:",omitempty"`
	Within    time.Duration      `json:",omitempty"`
}

// settlement is what the next process has seen until the services were back.
type settlement struct {
	BusAt            time.Time // when the bus was open again
	Held, Stall      time.Duration
	Missing          []string
	Requests, Failed uint64
}

const (
	// idleBound is how long a former process keeps connections that idle, if its
	// services' drain times are shorter: their next request is answered, and told to go.
	idleBound = 30 * time.Second
	// finishGrace is how long the door gets to end what is left in good order.
	finishGrace = 5 * time.Second
	openGlance  = 50 * time.Millisecond
)

// retire lets go of all that the next process has now, and finishes what is open
// here, in the background. It returns when the next process says that all is well
// again, or has ended.
func (n *Node) retire(next *successor) settlement {
	n.successor.Store(next)
	for _, err := range []error{n.control.Leave(), n.lock.release()} {
		if err != nil {
			n.log.Warn("the former process keeps what it should let go of", wire.KeyError, err)
		}
	}
	n.sup.Leave()
	n.gate.Retire()
	n.access.Share()
	notify("MAINPID=" + next.pid())
	n.operator.Close()
	n.feed.Close()
	n.bus.Leave()
	n.tell(control.Event{Kind: control.EventTaken, Text: "process " + next.pid() + ", version " + next.version + ", runs the system now"})

	for _, c := range n.closers {
		if c.name == watchCloser {
			_ = c.end(context.Background()) // the next process watches
		}
	}
	n.closers = []closer{{"what is open", n.closeRetired}}

	r := &retirement{n: n, next: next, well: make(chan settlement, 1), finish: make(chan struct{}), answered: make(chan struct{})}
	go r.listen()
	go r.run()
	defer close(r.answered)
	return <-r.well
}

// Successor is the process that runs the system in place of this one, 0 while this
// one does.
func (n *Node) Successor() int {
	if next := n.successor.Load(); next != nil {
		return next.cmd.Process.Pid
	}
	return 0
}

// retirement is the rest of a process that another one has taken over from.
type retirement struct {
	n    *Node
	next *successor

	well   chan settlement // cap 1
	once   sync.Once
	finish chan struct{} // closed when it is time to end

	answered chan struct{} // closed when well was read
}

// listen does what the next process tells, until that has ended.
func (r *retirement) listen() {
	defer r.once.Do(func() { close(r.finish) })
	defer func() {
		select {
		case r.well <- settlement{BusAt: time.Now()}:
		default: // it was well
		}
	}()
	for {
		m, files, err := r.next.conn.Receive()
		for _, f := range files {
			_ = f.Close() // there are none
		}
		if err != nil {
			return
		}
		var t told
		if m.Kind == saySettled {
			var s settlement
			if m.Decode(&s) == nil {
				r.well <- s
			}
			continue
		}
		if err := m.Decode(&t); err != nil {
			continue // of a newer version
		}
		r.obey(m.Kind, t)
	}
}

func (r *retirement) obey(kind string, t told) {
	gate := r.n.gate
	switch kind {
	case sayEndpoints:
		gate.SetEndpoints(t.Service, t.Endpoints)
	case sayLost:
		gate.Lost(t.Service, t.Instance)
	case sayRelease:
		go r.n.releaseHere(t.Services...)
	case sayDrain:
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), t.Within)
			defer cancel()
			_ = gate.Drain(ctx, t.Service, t.Instance) // what is still open then was told to go
			_ = r.next.conn.Send(sayDrained, told{ID: t.ID})
		}()
	case sayFinish:
		r.once.Do(func() { close(r.finish) })
	}
}

// run waits until nothing is open, or for long enough, and ends the process's part.
func (r *retirement) run() {
	limit := time.NewTimer(max(r.n.longestDrain(), idleBound))
	defer limit.Stop()
	glance := time.NewTicker(openGlance)
	defer glance.Stop()
	for waiting := true; waiting && r.n.gate.Open() != (gateway.Open{}); {
		select {
		case <-glance.C:
		case <-limit.C:
			waiting = false
		case <-r.finish:
			waiting = false
		}
	}
	<-r.answered // closing gives the caller of upgrade some time for the rest
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.n.Stop(ctx); err != nil {
		r.n.log.Warn("what was open in the former process is broken off", wire.KeyError, err)
	}
	_ = r.next.conn.Close() // tells that nothing is open any more
}

// closeRetired ends what is left of a node that another process has taken over from.
func (n *Node) closeRetired(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, finishGrace)
	defer cancel()
	err := n.gate.Stop(ctx)
	n.gateConn.Close()
	err = errors.Join(err, n.bus.Close(ctx))
	return errors.Join(err, n.control.Close(), n.access.Close(), n.certs.Close())
}

// former is the process that ran the system before this one and still finishes
// requests. A nil former has finished. It is safe for concurrent use.
type former struct {
	conn *handover.Conn
	gone chan struct{} // closed when it has ended
	said chan message

	mu      sync.Mutex // guards below
	last    uint64
	drained map[uint64]chan struct{}
}

// message is to be sent to the former process.
type message struct {
	kind string
	body any
}

// formerQueue is how many messages may wait for a former process that does not
// read. Then it is not told any more, and fails what it cannot know.
const formerQueue = 4096

func newFormer(conn *handover.Conn) *former {
	return &former{conn: conn, gone: make(chan struct{}), said: make(chan message, formerQueue), drained: map[uint64]chan struct{}{}}
}

// start begins the conversation, with what was said before.
func (f *former) start() {
	go f.listen()
	go f.send()
}

// listen takes its answers until it has ended.
func (f *former) listen() {
	defer close(f.gone)
	defer f.conn.Close()
	for {
		m, files, err := f.conn.Receive()
		for _, file := range files {
			_ = file.Close() // there are none
		}
		var t told
		switch {
		case err != nil:
			return
		case m.Kind != sayDrained || m.Decode(&t) != nil:
			continue
		}
		f.mu.Lock()
		if done := f.drained[t.ID]; done != nil {
			delete(f.drained, t.ID)
			close(done)
		}
		f.mu.Unlock()
	}
}

// send sends what is queued, so that nobody waits for the former process.
func (f *former) send() {
	for {
		select {
		case <-f.gone:
			return
		case m := <-f.said:
			if f.conn.Send(m.kind, m.body) != nil {
				f.conn.Abandon() // it reads no more
			}
		}
	}
}

func (f *former) say(kind string, body any) {
	if f == nil {
		return
	}
	select {
	case f.said <- message{kind, body}:
	default:
	}
}

// drain returns when nothing is open on the instance in the former process, or when
// ctx ends.
func (f *former) drain(ctx context.Context, i supervise.Instance) {
	deadline, ok := ctx.Deadline()
	if f == nil || !ok {
		return
	}
	f.mu.Lock()
	f.last++
	id, done := f.last, make(chan struct{})
	f.drained[id] = done
	f.mu.Unlock()
	f.say(sayDrain, told{ID: id, Service: i.Service, Instance: i.ID, Within: time.Until(deadline)})
	select {
	case <-done:
	case <-f.gone:
	case <-ctx.Done():
	}
}

// finish has the former process end, and returns when it has, or when ctx ends.
func (f *former) finish(ctx context.Context) error {
	if f == nil {
		return nil
	}
	f.say(sayFinish, told{})
	select {
	case <-f.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await returns when the former process has finished; waiting is called if it has
// not yet.
func (f *former) await(ctx context.Context, waiting func()) error {
	if f == nil {
		return nil
	}
	select {
	case <-f.gone:
		return nil
	default:
	}
	waiting()
	select {
	case <-f.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
