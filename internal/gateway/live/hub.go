package live

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

const (
	// ringEvents and ringBytes bound what a hub remembers.
	ringEvents = 4096
	ringBytes  = 16 << 20
	// preload is how many of the newest messages a hub begins with, so that clients
	// which come back after a restart find them in memory.
	preload = 1024
	// page is how many messages are read from a stream at once.
	page = 256
	// readTime bounds one question to the store.
	readTime = 10 * time.Second
	// listEvery is how often streams are listed anew because of a message of one that
	// is not known.
	listEvery = time.Second
	// sayEvery is how many messages are taken before clients are woken, while more
	// are at hand.
	sayEvery = 64
	// lingering is how long a hub stays without clients: those of a page that is
	// loaded anew come back at once.
	lingering = 30 * time.Second
)

// hub hears a pattern once for all of its clients, and remembers the newest messages.
// Clients read what it remembers, each at its own pace: a slow one costs the hub and
// the others nothing.
type hub struct {
	room    *Room
	pattern string
	log     *slog.Logger

	feed   sync.Mutex  // one at a time: take, fill. Comes before mu
	unsaid int         // messages since clients were woken; of feed
	gap    atomic.Bool // messages may have been lost since the streams were read last
	begun  time.Time
	ending context.Context //nolint:containedctx // the hub's own life
	end    context.CancelFunc
	stop   func() // ends the subscription
	tasks  sync.WaitGroup
	opened chan struct{} // closed when it is ready, or has failed
	failed error         // why it could not be opened; read after opened

	mu      sync.RWMutex // guards what follows
	streams []tracked    // sorted by id
	listed  time.Time    // when they were listed last: none is missing that is older; written with the feed held
	ring    []*event     // those with numbers tail to head-1, number n at n % ringEvents
	tail    uint64
	head    uint64
	plain   uint64        // events that no queue keeps have been forgotten up to this number
	bytes   int64         // of the ring
	total   int64         // of all events ever
	cursor  string        // of head
	wake    chan struct{} // closed when head moves

	clients int // guarded by room.mu
	idle    *time.Timer
}

// tracked is a stream that a hub follows.
type tracked struct {
	Stream
	at    uint64 // every message up to here has been taken
	floor uint64 // every one after this, of the pattern, is in the ring
}

func newHub(r *Room, pattern string) *hub {
	h := &hub{
		room: r, pattern: pattern, log: r.log, opened: make(chan struct{}),
		ring: make([]*event, ringEvents), wake: make(chan struct{}), begun: time.Now(),
	}
	h.ending, h.end = context.WithCancel(context.Background())
	return h
}

// open subscribes, and takes up the newest messages.
func (h *hub) open() {
	h.feed.Lock()
	defer h.feed.Unlock()
	defer close(h.opened) // first: whoever gets the feed next finds it open
	var err error
	if h.stop, err = h.room.bus.Listen(h.pattern, h.take, h.missed); err != nil {
		h.failed = err
		return
	}
	if h.failed = h.fill(true); h.failed != nil {
		h.stop()
	}
}

// close ends a hub. Clients must have left.
func (h *hub) close() {
	h.end()
	<-h.opened
	if h.failed == nil {
		h.stop()
	}
	h.tasks.Wait()
}

// take takes a message up. They come one after the other; more says that another one
// is at hand.
func (h *hub) take(m *Message, more bool) {
	h.feed.Lock()
	defer h.feed.Unlock()
	if h.gap.Load() { // what is newer would hide it
		h.refill()
		h.unsaid++
	}
	if h.accept(m) {
		h.unsaid++
	}
	if h.unsaid > 0 && (!more || h.unsaid >= sayEvery) {
		h.unsaid = 0
		h.say()
	}
}

// accept adds a message unless it is known. The feed is held.
func (h *hub) accept(m *Message) bool {
	if reserved(m.Subject) || h.ending.Err() != nil {
		return false // what a wildcard at the begin hears of the bus's own
	}
	e := newMessage(m)
	if t := h.origin(m); t != nil {
		if m.Sequence <= t.at {
			return false
		}
		e.stream, e.sequence = t.ID, m.Sequence
	}
	h.add(e)
	return true
}

// origin returns the stream that a message comes from, nil for none. Anybody can put a
// stream's name on a plain message. The feed is held.
func (h *hub) origin(m *Message) *tracked {
	if m.Stream == "" {
		return nil
	}
	named := func(t tracked) bool { return t.Name == m.Stream }
	i := slices.IndexFunc(h.streams, named)
	if i < 0 && time.Since(h.listed) > listEvery {
		h.refill()
		if i = slices.IndexFunc(h.streams, named); i >= 0 && m.Sequence > 0 {
			h.begin(h.streams[i].ID, m.Sequence-1) // those after it are on their way
		}
	}
	if i < 0 || !matches(h.streams[i].Queue, m.Subject) {
		return nil
	}
	return &h.streams[i]
}

// begin has a stream that is new followed from a sequence on.
func (h *hub) begin(id, sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.streams {
		if t := &h.streams[i]; t.ID == id && sequence < t.at {
			t.at, t.floor = sequence, sequence
		}
	}
}

// taken is the sequence up to which a stream has been taken. The feed is held, so
// nobody changes it.
func (h *hub) taken(id uint64) uint64 {
	i := slices.IndexFunc(h.streams, func(t tracked) bool { return t.ID == id })
	return h.streams[i].at
}

// add puts an event into the ring. The feed is held.
func (h *hub) add(e *event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.stream != 0 {
		for i := range h.streams {
			if h.streams[i].ID == e.stream {
				h.streams[i].at = max(h.streams[i].at, e.sequence)
			}
		}
		h.cursor = h.room.signer.encode(h.reached())
		e.cursor = h.cursor
	}
	h.total += e.size()
	e.total = h.total
	h.bytes += e.size()
	for h.head-h.tail >= ringEvents || h.bytes > ringBytes && h.head > h.tail {
		old := h.ring[h.tail%ringEvents]
		h.ring[h.tail%ringEvents] = nil
		h.tail++
		if old.stream == 0 {
			h.plain = h.tail
		}
		h.bytes -= old.size()
		for i := range h.streams {
			if h.streams[i].ID == old.stream {
				h.streams[i].floor = max(h.streams[i].floor, old.sequence)
			}
		}
	}
	h.ring[h.head%ringEvents] = e
	h.head++
}

// reached are the positions of head. The mutex is held.
func (h *hub) reached() positions {
	ps := positions{listed: h.listed.UnixNano(), list: make([]position, len(h.streams))}
	for i := range h.streams {
		ps.list[i] = position{h.streams[i].ID, h.streams[i].at}
	}
	return ps
}

// say wakes the clients.
func (h *hub) say() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.wake)
	h.wake = make(chan struct{})
}

// missed is told that messages may have been lost on the way here.
func (h *hub) missed() {
	h.gap.Store(true)
	h.tasks.Go(func() {
		h.feed.Lock()
		defer h.feed.Unlock()
		if h.gap.Load() {
			h.refill()
			h.say()
		}
	})
}

// refill reads from the streams what did not come by itself, and does not give up: until
// it succeeds, nothing newer is taken, which would hide the gap. The feed is held.
func (h *hub) refill() {
	select {
	case <-h.opened:
	default:
		return // open does it
	}
	for pause := 10 * time.Millisecond; h.ending.Err() == nil; pause = min(2*pause, time.Second) {
		h.gap.Store(false)
		err := h.fill(false)
		if err == nil {
			return
		}
		h.gap.Store(true)
		if h.ending.Err() == nil {
			h.log.Warn("what subscribers may have missed cannot be read yet", slog.String(wire.KeySubject, h.pattern), slog.String(wire.KeyError, err.Error()))
		}
		select {
		case <-h.ending.Done():
		case <-time.After(pause):
		}
	}
}

// fill lists the streams and reads what is in them beyond what was taken. The feed is
// held.
func (h *hub) fill(first bool) error {
	ctx, cancel := context.WithTimeout(h.ending, readTime)
	defer cancel()
	now := time.Now()
	list, err := h.room.bus.Streams(ctx, h.pattern)
	if err != nil {
		return err
	}
	h.follow(list, now, first)
	for i := range list {
		if err := h.read(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// follow takes up the streams that there were at a time. A hub that opens begins a little
// before their ends; a stream that comes later begins where it is.
func (h *hub) follow(list []Stream, listed time.Time, first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var next []tracked
	back := uint64(0)
	if first && len(list) > 0 {
		back = uint64(preload / len(list))
	}
	for _, s := range list {
		t := tracked{Stream: s}
		if was := slices.IndexFunc(h.streams, func(t tracked) bool { return t.ID == s.ID }); was >= 0 {
			t.at, t.floor = h.streams[was].at, h.streams[was].floor
		} else {
			t.at = s.Last - min(s.Last, back)
			if !first && s.Created.After(h.begun) {
				t.at = 0 // nobody can have heard of it before
			}
			t.at = max(t.at, s.First-min(s.First, 1))
			t.floor = t.at
		}
		next = append(next, t)
	}
	slices.SortFunc(next, func(a, b tracked) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	h.streams, h.listed = next, listed
	h.cursor = h.room.signer.encode(h.reached())
}

// read takes what a stream holds beyond what was taken of it, up to its end as it was
// listed.
func (h *hub) read(s *Stream) error {
	filter := notation.SubjectsShared(h.pattern, s.Queue)
	for {
		at := h.taken(s.ID)
		if at >= s.Last {
			return nil
		}
		if s.First > at+1 {
			h.add(&event{kind: kindGap, stream: s.ID, sequence: s.First - 1})
			continue
		}
		ctx, cancel := context.WithTimeout(h.ending, readTime)
		got, err := h.room.bus.Read(ctx, *s, []string{filter}, at, page)
		cancel()
		if err != nil {
			return err
		}
		for i := range got.Messages {
			h.accept(&got.Messages[i])
		}
		if got.Through <= at {
			return errors.New("the stream " + s.Name + " cannot be read on")
		}
		h.reach(s.ID, got.Through)
	}
}

// reach notes that a stream has been taken up to a sequence.
func (h *hub) reach(id, sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.streams {
		t := &h.streams[i]
		if t.ID != id {
			continue
		}
		t.at = max(t.at, sequence)
	}
	h.cursor = h.room.signer.encode(h.reached())
}

// place is where a client joins what the ring holds.
type place struct {
	next   uint64    // number of the first event that it may not have been told
	live   uint64    // from this one on, the events' own cursors are the client's
	at     positions // what it has been told, of each stream
	behind *tracked  // a stream that must be read from the store first; nil: none
	lost   bool      // there may be messages that it cannot be told
}

// join finds out from where on a client can be told what the ring holds. A stream that
// came after its positions were made is told from its first message on. One that is not
// followed any more is dropped from them: what was in it is lost, and may have come back
// in another one, as by restoring a backup. After that, and without positions, streams
// that it does not know are told from now on.
func (h *hub) join(at positions) place {
	h.mu.RLock()
	defer h.mu.RUnlock()
	p := place{next: h.head, live: h.head, lost: h.lost(at)}
	p.at = positions{listed: h.listed.UnixNano(), list: make([]position, 0, len(h.streams))}
	for i := range h.streams {
		t := &h.streams[i]
		sequence, known := at.of(t.ID)
		if !known && (p.lost || at.listed == 0) {
			sequence = t.at
		}
		p.at.list = append(p.at.list, position{t.ID, sequence})
		switch {
		case sequence == t.at:
		case sequence < t.floor, sequence > t.at:
			if p.behind == nil {
				t := *t
				p.behind = &t
			}
		default:
			p.next = h.tail
		}
	}
	return p
}

// lost reports whether positions are of streams that are not followed any more, or lack
// one that is older than they are: those of another route may. The mutex is held.
func (h *hub) lost(at positions) bool {
	known := 0
	for i := range h.streams {
		if _, ok := at.of(h.streams[i].ID); ok {
			known++
		} else if at.listed != 0 && h.streams[i].Created.UnixNano() < at.listed {
			return true
		}
	}
	return known < len(at.list)
}

// since returns at most most events from a number on, and a channel that is closed when
// there are more. It reports false if the ring has forgotten some.
func (h *hub) since(next uint64, most []*event) (got []*event, wake <-chan struct{}, ok bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if next < h.tail {
		return nil, nil, false
	}
	got = most[:0]
	for n := next; n < h.head && len(got) < cap(most); n++ {
		got = append(got, h.ring[n%ringEvents])
	}
	return got, h.wake, true
}

// keeps reports whether all that has been forgotten from a number on can be read from the
// streams.
func (h *hub) keeps(next uint64) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.plain <= next
}

// waiting returns how many events that pass lie between a number and the newest, and
// their bytes. It stops to count beyond most.
func (h *hub) waiting(next uint64, most int, pass func(*event) bool) (n int, bytes int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for i := max(next, h.tail); i < h.head && n <= most; i++ {
		if e := h.ring[i%ringEvents]; pass(e) {
			n++
			bytes += int64(len(e.body))
		}
	}
	return n, bytes
}

// before returns the cursor of a client that has been told all events before a number,
// "" if newer ones have moved it.
func (h *hub) before(next uint64) string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if next != h.head {
		return ""
	}
	return h.cursor
}

// filter decides which events are a client's.
type filter struct {
	patterns []string
	all      bool // everything of the hub's
}

func newFilter(wide string, patterns []string) filter {
	return filter{patterns, slices.Contains(patterns, wide)}
}

func (f *filter) pass(e *event) bool {
	return f.all || e.kind != "" || slices.ContainsFunc(f.patterns, func(p string) bool { return matches(p, e.subject) })
}

// within returns patterns of a queue's messages among which are all of the client's, nil
// if none are. They do not overlap, as a consumer's filters must not: where the client's
// do, it is the whole queue.
func (f *filter) within(queue string) []string {
	var out []string
	for _, p := range f.patterns {
		if both := notation.SubjectsShared(p, queue); both != "" && !slices.Contains(out, both) {
			out = append(out, both)
		}
	}
	if out = apart(out); overlap(out) {
		return []string{queue}
	}
	return out
}

// apart leaves out patterns that lie within another.
func apart(patterns []string) []string {
	return slices.DeleteFunc(slices.Clone(patterns), func(p string) bool {
		return slices.ContainsFunc(patterns, func(o string) bool { return o != p && notation.SubjectsShared(o, p) == p })
	})
}

func overlap(patterns []string) bool {
	for i, p := range patterns {
		if slices.ContainsFunc(patterns[i+1:], func(o string) bool { return notation.SubjectsShared(p, o) != "" }) {
			return true
		}
	}
	return false
}
