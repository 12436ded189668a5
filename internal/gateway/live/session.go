package live

import (
	"context"
	"errors"
	"strconv"
	"time"

	"fairlead/internal/wire"
)

const (
	defaultBuffer    = 256
	defaultHeartbeat = 15 * time.Second
	// bufferBytes bounds what waits for a slow client, whatever its number.
	bufferBytes = 4 << 20
	// blockedTime is how long a write must have taken for a client to be slow: on a
	// busy machine more than its buffer may wait for one that is quick.
	blockedTime = time.Second
	// together is how many events are written at once.
	together = 64
	// aheadTime is how long a client with a cursor from elsewhere waits until the hub
	// is as far.
	aheadTime = 5 * time.Second
)

// Client is somebody who is let in.
type Client struct {
	Wide      string   // the pattern of the route: clients with the same one share what is heard
	Subjects  []string // what this one is told, each within Wide
	Crowd     string   // names those who are together
	Presence  bool     // it wants to know how many they are
	Cursor    string   // that it has come to before, "" for from now on
	Buffer    int      // the most messages that wait for it; 0: 256
	Heartbeat time.Duration
	Expires   time.Time       // when it must show anew who it is; zero: never
	Leave     <-chan struct{} // closed when it shall leave; nil: never
}

// End is why a client is made to leave.
type End struct {
	Code   string // slow, leaving, expired
	Status uint16 // of a close frame
	Reason string
}

// The ends. A nil end is the client's own.
var (
	endSlow    = &End{"slow", 1013, "the messages are taken too slowly"}
	endLeaving = &End{"leaving", 1001, "come back with the cursor"}
	endExpired = &End{"expired", 1008, "log in again"}
)

// Session is a client that is in. It serves one connection, once.
type Session struct {
	room   *Room
	client Client
	hub    *hub
	crowd  *crowd
	filter filter

	at    positions // what it has been told, while it is behind
	reset bool      // it came with a cursor that is not ours
	took  time.Duration
	wrote time.Time
}

// sink is where a session writes to.
type sink interface {
	// put writes events, one after the other.
	put(events []*event) error
	// beat writes a heartbeat. It returns an error if the client is gone.
	beat(e *event) error
}

// errGone says that the client has left.
var errGone = errors.New("the client has left")

// Enter lets a client in. It returns an error if the bus cannot be heard. Leave must
// follow.
func (r *Room) Enter(ctx context.Context, c Client) (*Session, error) {
	if c.Buffer <= 0 {
		c.Buffer = defaultBuffer
	}
	c.Buffer = min(c.Buffer, ringEvents/2)
	if c.Heartbeat <= 0 {
		c.Heartbeat = defaultHeartbeat
	}
	h, err := r.enter(ctx, c.Wide)
	if err != nil {
		return nil, err
	}
	s := &Session{room: r, client: c, hub: h, filter: newFilter(c.Wide, c.Subjects)}
	if c.Cursor != "" {
		at, ok := r.signer.decode(c.Cursor)
		s.at, s.reset = at, !ok
	}
	s.crowd = r.enterCrowd(c.Crowd)
	return s, nil
}

// Leave takes the client out.
func (s *Session) Leave() {
	s.room.leaveCrowd(s.client.Crowd, s.crowd)
	s.room.leave(s.hub)
}

// run tells a client everything until it leaves, or shall. ending is closed when the
// connection shall end.
func (s *Session) run(ctx context.Context, ending <-chan struct{}, out sink) (*End, error) {
	place, end, err := s.greet(ctx, ending, out)
	if end != nil || err != nil {
		return end, err
	}
	timer := time.NewTimer(s.patience())
	defer timer.Stop()
	var (
		buf    [together]*event
		count  int
		people <-chan struct{} // nil: it does not want to know
	)
	if s.client.Presence {
		if count, people, err = s.present(out, -1); err != nil {
			return nil, err
		}
	}
	for {
		got, wake, ok := s.hub.since(place.next, buf[:0])
		switch {
		case !ok && s.took < blockedTime && s.hub.keeps(place.next):
			// It is quick, but more came at once than is remembered.
			s.at = place.at
			if place, end, err = s.follow(ctx, ending, out); end != nil || err != nil {
				return end, err
			}
			continue
		case !ok || s.slow(place):
			return endSlow, nil
		}
		if len(got) > 0 {
			if err := s.pass(out, &place, got); err != nil {
				return nil, err
			}
			if end := s.told(ending); end != nil {
				return end, nil
			}
			continue
		}
		select {
		case <-wake:
		case <-people:
			if count, people, err = s.present(out, count); err != nil {
				return nil, err
			}
		case now := <-timer.C:
			switch {
			case s.expired(now):
				return endExpired, nil
			case now.Sub(s.wrote) >= s.client.Heartbeat:
				if err := s.beat(out, place); err != nil {
					return nil, err
				}
			}
			timer.Reset(s.patience())
		case <-ctx.Done():
			return nil, errGone
		case <-ending:
			return endLeaving, nil
		case <-s.client.Leave:
			return endLeaving, nil
		case <-s.room.retired:
			return endLeaving, nil
		}
	}
}

// told reports, while there is always more to write, whether the client shall leave.
func (s *Session) told(ending <-chan struct{}) *End {
	select {
	case <-ending:
		return endLeaving
	case <-s.client.Leave:
		return endLeaving
	case <-s.room.retired:
		return endLeaving
	default:
	}
	if s.expired(time.Now()) {
		return endExpired
	}
	return nil
}

// patience is how long nothing may be written, or until the client expires.
func (s *Session) patience() time.Duration {
	d := s.client.Heartbeat - time.Since(s.wrote)
	if !s.client.Expires.IsZero() {
		d = min(d, time.Until(s.client.Expires))
	}
	return max(d, time.Millisecond)
}

func (s *Session) expired(now time.Time) bool {
	return !s.client.Expires.IsZero() && !now.Before(s.client.Expires)
}

// slow reports whether more waits for the client than may, because it has held up a
// write.
func (s *Session) slow(p place) bool {
	if s.took < blockedTime || p.next < p.live {
		return false
	}
	s.took = 0
	n, bytes := s.hub.waiting(p.next, s.client.Buffer, s.filter.pass)
	return n > s.client.Buffer || bytes > bufferBytes
}

// pass writes those of the events that are the client's.
func (s *Session) pass(out sink, p *place, got []*event) error {
	mine := make([]*event, 0, len(got))
	for _, e := range got {
		if p.next++; p.next > p.live {
			if e.stream != 0 {
				p.at = p.at.with(e.stream, e.sequence)
			}
			if s.filter.pass(e) {
				mine = append(mine, e)
			}
			continue
		}
		// It may have been told this one, and its cursor is its own. What no queue
		// keeps is live only.
		if told, ok := p.at.of(e.stream); e.stream == 0 || !ok || e.sequence <= told {
			continue
		}
		p.at = p.at.with(e.stream, e.sequence)
		if s.filter.pass(e) {
			mine = append(mine, e.at(s.room.signer.encode(p.at)))
		}
	}
	return s.write(out, mine)
}

func (s *Session) write(out sink, events []*event) error {
	if len(events) == 0 {
		return nil
	}
	began := time.Now()
	err := out.put(events)
	s.wrote = time.Now()
	s.took = max(s.took, s.wrote.Sub(began))
	return err
}

// greet says what the client is told, and where it is, and brings it to the hub.
func (s *Session) greet(ctx context.Context, ending <-chan struct{}, out sink) (place, *End, error) {
	p := s.hub.join(s.at)
	hello := &event{kind: "hello", cursor: s.room.signer.encode(p.at)}
	hello.body = append(hello.body, `"heartbeat":`...)
	hello.body = strconv.AppendInt(hello.body, s.client.Heartbeat.Milliseconds(), 10)
	hello.body = append(hello.body, `,"subjects":[`...)
	for i, subject := range s.client.Subjects {
		if i > 0 {
			hello.body = append(hello.body, ',')
		}
		hello.body = wire.AppendString(hello.body, subject)
	}
	hello.body = append(hello.body, ']')
	first := []*event{hello}
	if s.reset || p.lost {
		first = append(first, &event{kind: kindGap, cursor: hello.cursor})
	}
	if err := s.write(out, first); err != nil {
		return p, nil, err
	}
	if p.behind == nil {
		return p, nil, nil // what came while hello was written comes next
	}
	s.at = p.at
	return s.follow(ctx, ending, out)
}

// follow tells the client what the hub does not remember, until it can join there.
func (s *Session) follow(ctx context.Context, ending <-chan struct{}, out sink) (place, *End, error) {
	p := s.hub.join(s.at)
	for p.behind != nil || p.lost {
		if end := s.told(ending); end != nil {
			return p, end, nil
		}
		s.at = p.at
		if p.lost {
			if err := s.write(out, []*event{{kind: kindGap, cursor: s.room.signer.encode(s.at)}}); err != nil {
				return p, nil, err
			}
			p = s.hub.join(s.at)
			continue
		}
		if err := s.catchUp(ctx, out, p.behind); err != nil {
			return p, nil, err
		}
		p = s.hub.join(s.at)
	}
	s.took = 0
	return p, nil, nil
}

// catchUp brings the client on in a stream that the hub does not remember far enough.
func (s *Session) catchUp(ctx context.Context, out sink, t *tracked) error {
	after, _ := s.at.of(t.ID)
	if after > t.at {
		return s.wait(ctx, out, t, after)
	}
	within := s.filter.within(t.Queue)
	if len(within) == 0 {
		s.at = s.at.with(t.ID, t.at) // nothing of it is the client's
		return nil
	}
	got, err := s.read(ctx, t, within, after)
	if err != nil {
		return err
	}
	var events []*event
	if got.First > after+1 {
		s.at = s.at.with(t.ID, got.First-1)
		events = append(events, &event{kind: kindGap, cursor: s.room.signer.encode(s.at)})
	}
	// From here on the hub has it, and tells it with what it hears.
	got.Through = min(got.Through, t.at)
	for i := range got.Messages {
		m := &got.Messages[i]
		if m.Sequence > t.at {
			break
		}
		e := newMessage(m)
		s.at = s.at.with(t.ID, m.Sequence)
		if s.filter.pass(e) {
			e.cursor = s.room.signer.encode(s.at)
			events = append(events, e)
		}
	}
	if reached, _ := s.at.of(t.ID); got.Through > reached {
		s.at = s.at.with(t.ID, got.Through)
	} else if reached <= after {
		return errors.New("read stream " + t.Name + ": there is no more, though there was")
	}
	return s.write(out, events)
}

// read reads a page, when it is this client's turn.
func (s *Session) read(ctx context.Context, t *tracked, within []string, after uint64) (Page, error) {
	select {
	case s.room.reads <- struct{}{}:
		defer func() { <-s.room.reads }()
	case <-ctx.Done():
		return Page{}, errGone
	case <-s.room.retired:
		return Page{}, errGone
	}
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	return s.room.bus.Read(ctx, t.Stream, within, after, page)
}

// wait is for a client that is further than the hub, which another process has told
// more. If the stream itself is not as far it has lost messages, and so has the client.
func (s *Session) wait(ctx context.Context, out sink, t *tracked, after uint64) error {
	limit := time.NewTimer(aheadTime)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.AfterFunc(aheadTime/5, s.hub.missed)
	defer late.Stop()
	for {
		p := s.hub.join(s.at)
		if p.behind == nil || p.behind.ID != t.ID || p.behind.at >= after {
			return nil
		}
		select {
		case <-tick.C:
		case <-limit.C:
			s.at = s.at.with(t.ID, p.behind.at)
			return s.write(out, []*event{{kind: kindGap, cursor: s.room.signer.encode(s.at)}})
		case <-ctx.Done():
			return errGone
		case <-s.room.retired:
			return errGone
		}
	}
}

// present tells how many there are, if that is news.
func (s *Session) present(out sink, before int) (int, <-chan struct{}, error) {
	count, wake := s.crowd.present()
	if count == before {
		return count, wake, nil
	}
	body := strconv.AppendInt([]byte(`"count":`), int64(count), 10)
	return count, wake, s.write(out, []*event{{kind: "presence", body: body}})
}

// beat says that all is well, and where the client is: where little of what the hub
// hears is its own, the cursor would grow old.
func (s *Session) beat(out sink, p place) error {
	cursor := ""
	if p.next >= p.live {
		cursor = s.hub.before(p.next)
	}
	began := time.Now()
	err := out.beat(&event{kind: "heartbeat", cursor: cursor})
	s.wrote = time.Now()
	s.took = max(s.took, s.wrote.Sub(began))
	return err
}
