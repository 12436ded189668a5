package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reader is a client of a test: what it has been told.
type reader struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	end    *End
	err    error
	hold   chan struct{} // nil: it takes everything at once

	mu     sync.Mutex
	news   *sync.Cond
	got    []told
	cursor string
	broken bool
}

type told struct {
	Event    string
	Cursor   string
	Subject  string
	Sequence uint64
	Data     any
	Text     string
	Count    int
}

func (r *reader) put(events []*event) error {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return errors.New("broken")
	}
	for _, e := range events {
		var m told
		text := string(e.serverSent())
		_, body, _ := strings.Cut(text, "data: ")
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			r.t.Errorf("%q: %v", text, err)
		}
		m.Event, m.Cursor = e.name(), e.cursor
		if e.cursor != "" {
			r.cursor = e.cursor
		}
		r.got = append(r.got, m)
	}
	r.news.Broadcast()
	return nil
}

func (r *reader) beat(e *event) error { return r.put([]*event{e}) }

// come lets a client in.
func come(tb testing.TB, room *Room, c Client) *reader {
	tb.Helper()
	if c.Wide == "" {
		c.Wide = "data.>"
	}
	if c.Subjects == nil {
		c.Subjects = []string{c.Wide}
	}
	s, err := room.Enter(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	r := &reader{t: tb, done: make(chan struct{})}
	r.news = sync.NewCond(&r.mu)
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(r.done)
		defer s.Leave()
		r.end, r.err = s.run(ctx, nil, r)
		r.mu.Lock()
		r.news.Broadcast()
		r.mu.Unlock()
	}()
	r.await(1) // hello
	return r
}

func (r *reader) leave() {
	r.cancel()
	<-r.done
}

// await waits for so many events, and returns those that are no hello.
func (r *reader) await(n int) []told {
	r.t.Helper()
	stop := time.AfterFunc(20*time.Second, func() {
		r.mu.Lock()
		r.broken = true
		r.news.Broadcast()
		r.mu.Unlock()
	})
	defer stop.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.got) < n && !r.broken {
		r.news.Wait()
	}
	if r.broken {
		select {
		case <-r.done:
			r.t.Errorf("it ended: %v, %v", r.end, r.err)
		default:
		}
		r.t.Fatalf("%d events came, not %d: %.200v", len(r.got), n, r.got)
	}
	return r.got
}

// texts are the messages that a client was told, gaps as "gap".
func texts(list []told) string {
	var out []string
	for _, m := range list {
		switch m.Event {
		case "message":
			out = append(out, m.Text)
		case "gap":
			out = append(out, "gap")
		}
	}
	return strings.Join(out, " ")
}

func openRoom(tb testing.TB, b Bus) *Room {
	tb.Helper()
	r := New(Options{Bus: b, Key: []byte("key")})
	tb.Cleanup(r.Close)
	return r
}

func TestTellsWhatIsPublished(t *testing.T) {
	bus := newMemory("data.*")
	room := openRoom(t, bus)
	all := come(t, room, Client{})
	some := come(t, room, Client{Subjects: []string{"data.b", "data.c.*"}})
	defer all.leave()
	defer some.leave()
	for _, subject := range []string{"data.a", "other", "data.b", "data.c.d", "data.b"} {
		bus.publish(subject, "<"+subject+">", false)
	}
	if got := texts(all.await(5)); got != "<data.a> <data.b> <data.c.d> <data.b>" {
		t.Error(got)
	}
	got := some.await(4)
	if texts(got) != "<data.b> <data.c.d> <data.b>" {
		t.Error(texts(got))
	}
	if got[1].Sequence != 2 || got[1].Cursor == "" || got[2].Sequence != 0 || got[2].Cursor != "" {
		t.Errorf("a queue's message has a place, any other has none: %+v", got)
	}
}

// TestComesBack resumes by cursor, from memory and from the store.
func TestComesBack(t *testing.T) {
	tests := []struct {
		name   string
		missed int
		forget uint64 // sequence up to which the queue forgets
		anew   bool   // the gateway has been restarted
		other  bool   // with another key
		want   string // first and last told
		count  int
	}{
		{name: "nothing missed", missed: 0, count: 0},
		{name: "from memory", missed: 10, want: "m1 m10", count: 10},
		{name: "after a restart", missed: 10, anew: true, want: "m1 m10", count: 10},
		{name: "after a long restart", missed: 3 * preload, anew: true, want: "m1 m3072", count: 3 * preload},
		{name: "further than memory", missed: ringEvents + 1000, want: "m1 m5096", count: ringEvents + 1000},
		{name: "what is forgotten is a gap", missed: 3 * preload, forget: 100, anew: true, want: "gap m3072", count: 3*preload - 99 + 1},
		{name: "a cursor of others is a gap", missed: 10, anew: true, other: true, want: "gap gap", count: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bus := newMemory("data.*")
			room := openRoom(t, bus)
			bus.publish("data.a", "m0", false)
			first := come(t, room, Client{})
			first.leave()
			stay := come(t, room, Client{Buffer: 1 << 20})
			for i := range tt.missed {
				bus.publish("data.a", fmt.Sprintf("m%d", i+1), false)
			}
			stay.await(1 + tt.missed)
			stay.leave()
			bus.forget("data.a", tt.forget)
			if tt.anew {
				room.Close()
				room = openRoom(t, bus)
			}
			if tt.other {
				room.signer.key = []byte("other")
			}
			again := come(t, room, Client{Cursor: first.cursor})
			defer again.leave()
			got := strings.Fields(texts(again.await(1 + tt.count)))
			if len(got) != tt.count || tt.count > 0 && got[0]+" "+got[len(got)-1] != tt.want {
				t.Errorf("%d told: %.100v, want %d: %s", len(got), got, tt.count, tt.want)
			}
			bus.publish("data.a", "live", false)
			if got := again.await(2 + tt.count); got[len(got)-1].Text != "live" {
				t.Error("it does not go on live")
			}
		})
	}
}

// TestNothingIsLostOrTwice breaks off everything that may break at random: clients,
// the way from the bus, the gateway. Each client is told each message once, in order.
func TestNothingIsLostOrTwice(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			bus := newMemory("data.a.*", "data.b", "more")
			room := openRoom(t, bus)
			type member struct {
				*reader
				client Client
				want   []string
				all    []told
			}
			members := []*member{
				{client: Client{Wide: "data.>"}},
				{client: Client{Wide: "data.>", Subjects: []string{"data.b"}}},
				{client: Client{Wide: "data.>", Subjects: []string{"data.*.1", "data.a.*"}}},
				{client: Client{Wide: ">", Subjects: []string{"*.a.1", "data.a.1", "more"}}},
				{client: Client{Wide: ">"}},
			}
			for _, m := range members {
				m.reader = come(t, room, m.client)
			}
			away := map[*member]bool{}
			part := func(m *member) {
				m.leave()
				m.all = append(m.all, m.got...)
				m.client.Cursor = m.cursor
				away[m] = true
			}
			back := func(m *member) {
				m.reader = come(t, room, m.client)
				delete(away, m)
			}
			n := 0
			for range 400 {
				switch k := rnd.IntN(20); {
				case k < 12:
					lost := rnd.IntN(4) == 0
					for range 1 + rnd.IntN(30) {
						subject := []string{"data.a.1", "data.a.2", "data.b", "more"}[rnd.IntN(4)]
						n++
						text := fmt.Sprintf("%s-%d", subject, n)
						bus.publish(subject, text, lost)
						for _, m := range members {
							subjects := m.client.Subjects
							if subjects == nil {
								subjects = []string{m.client.Wide}
							}
							f := newFilter("", subjects)
							if f.pass(&event{subject: subject}) {
								m.want = append(m.want, text)
							}
						}
					}
					if lost {
						bus.interrupt()
					}
				case k < 18:
					m := members[rnd.IntN(len(members))]
					if away[m] {
						back(m)
					} else {
						part(m)
					}
				case k == 18:
					for _, m := range members {
						if !away[m] {
							part(m)
						}
					}
					room.Close()
					room = openRoom(t, bus)
				default:
					bus.interrupt()
				}
			}
			for i, m := range members {
				if !away[m] {
					part(m)
				}
				back(m)
				// Queues are in order each; the client knows them all apart.
				want, got := map[string][]string{}, map[string][]string{}
				by := func(into map[string][]string, text string) {
					q, _, _ := strings.Cut(text, "-")
					q = strings.TrimSuffix(strings.TrimSuffix(q, ".1"), ".2")
					into[q] = append(into[q], text)
				}
				for _, text := range m.want {
					by(want, text)
				}
				missing := len(m.want)
				for _, e := range m.all {
					if e.Event == "message" {
						missing--
					}
				}
				for _, e := range append(m.all, m.await(1+missing)...) {
					switch e.Event {
					case "message":
						by(got, e.Text)
					case "gap":
						t.Error("there is a gap")
					}
				}
				for q := range want {
					if strings.Join(got[q], " ") != strings.Join(want[q], " ") {
						t.Errorf("client %d, %s: told %d of %d\n got %v\nwant %v", i, q, len(got[q]), len(want[q]), got[q], want[q])
					}
				}
				m.leave()
			}
		})
	}
}

// TestSlowClientIsDropped has one client hold up a write; another one does not notice.
func TestSlowClientIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := newMemory("data.a")
		room := New(Options{Bus: bus})
		defer room.Close()
		s, err := room.Enter(t.Context(), Client{Wide: "data.a", Subjects: []string{"data.a"}, Buffer: 10})
		if err != nil {
			t.Fatal(err)
		}
		slow := &reader{t: t, hold: make(chan struct{})}
		slow.news = sync.NewCond(&slow.mu)
		ended := make(chan *End)
		go func() {
			end, _ := s.run(t.Context(), nil, slow)
			s.Leave()
			ended <- end
		}()
		slow.hold <- struct{}{} // hello
		quick := come(t, room, Client{Wide: "data.a"})
		synctest.Wait()
		for i := range 30 {
			bus.publish("data.a", fmt.Sprint(i), false)
			synctest.Wait()
		}
		if got := quick.await(31); got[30].Data != 29.0 {
			t.Errorf("the quick one was told %v last", got[30])
		}
		time.Sleep(2 * time.Second)
		close(slow.hold)
		if end := <-ended; end != endSlow {
			t.Errorf("it ended with %v", end)
		}
		quick.leave()
	})
}

func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := newMemory("data.a")
		room := New(Options{Bus: bus})
		defer room.Close()
		leave := make(chan struct{})
		expires := come(t, room, Client{Expires: time.Now().Add(20 * time.Second)})
		asked := come(t, room, Client{Leave: leave})
		retired := come(t, room, Client{})
		time.Sleep(19 * time.Second)
		if got := expires.await(2); got[1].Event != "heartbeat" || got[1].Cursor == "" {
			t.Errorf("no heartbeat: %+v", got)
		}
		time.Sleep(2 * time.Second)
		close(leave)
		<-expires.done
		<-asked.done
		room.Retire()
		<-retired.done
		for name, got := range map[string]*End{"expired": expires.end, "leaving": asked.end, "retired": retired.end} {
			if got == nil || got.Code != strings.Replace(name, "retired", "leaving", 1) {
				t.Errorf("%s: ended with %+v", name, got)
			}
		}
		if _, err := room.Enter(t.Context(), Client{Wide: "data.a"}); !errors.Is(err, ErrClosed) {
			t.Errorf("somebody enters a room that is closing: %v", err)
		}
	})
}

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := New(Options{Bus: newMemory()})
		defer room.Close()
		first := come(t, room, Client{Crowd: "a", Presence: true})
		defer first.leave()
		synctest.Wait() // it is told of itself first
		other := come(t, room, Client{Crowd: "b"})
		defer other.leave()
		var more []*reader
		for range 20 {
			more = append(more, come(t, room, Client{Crowd: "a"}))
		}
		time.Sleep(3 * time.Second)
		for _, r := range more {
			r.leave()
		}
		time.Sleep(3 * time.Second)
		var counts []int
		for _, e := range first.await(1) {
			if e.Event == "presence" {
				counts = append(counts, e.Count)
			}
		}
		if fmt.Sprint(counts) != "[1 21 1]" {
			t.Errorf("it was told %v", counts)
		}
	})
}

// TestQueueThatComesLater is followed from its first message on.
func TestQueueThatComesLater(t *testing.T) {
	bus := newMemory("data.a")
	room := openRoom(t, bus)
	r := come(t, room, Client{})
	defer r.leave()
	bus.publish("data.b", "plain", false)
	r.await(2)
	bus.addQueue("data.b")
	room.Refresh()
	for i := range 5 {
		bus.publish("data.b", fmt.Sprintf("m%d", i), false)
	}
	if got := r.await(7); texts(got) != "plain m0 m1 m2 m3 m4" || got[6].Sequence != 5 {
		t.Errorf("%+v", got)
	}
}

// TestStreamThatACursorDoesNotKnow is told from its beginning if it has come since, and
// is a gap otherwise.
func TestStreamThatACursorDoesNotKnow(t *testing.T) {
	fill := func(bus *memory, subject string) {
		for i := range 3 {
			bus.publish(subject, fmt.Sprintf("%s%d", subject, i), false)
		}
	}
	tests := []struct {
		name, want string
		old        []string // queues that there are when the cursor is made
		do         func(*memory)
		wide       string // comes back by another route
	}{
		{"a queue was added", "data.b0 data.b1 data.b2", []string{"data.a"}, func(bus *memory) { bus.addQueue("data.b"); fill(bus, "data.b") }, ""},
		{"the first queue was added", "data.b0 data.b1 data.b2", nil, func(bus *memory) { bus.addQueue("data.b"); fill(bus, "data.b") }, ""},
		{"what was added has forgotten some", "gap data.b1 data.b2", []string{"data.a"}, func(bus *memory) { bus.addQueue("data.b"); fill(bus, "data.b"); bus.forget("data.b", 1) }, ""},
		{"a backup was restored", "gap", []string{"data.a"}, func(bus *memory) {
			bus.mu.Lock()
			bus.queues[0].ID, bus.queues[0].Created = 99, time.Now()
			bus.mu.Unlock()
		}, ""},
		{"a queue is gone", "gap", []string{"data.a", "data.b"}, func(bus *memory) {
			bus.mu.Lock()
			bus.queues = bus.queues[:1]
			bus.mu.Unlock()
		}, ""},
		{"the route has become wider", "gap", []string{"data.a", "more"}, func(bus *memory) { fill(bus, "more") }, ">"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bus := newMemory(tt.old...)
			if len(tt.old) > 0 {
				fill(bus, "data.a")
			}
			room := openRoom(t, bus)
			first := come(t, room, Client{})
			first.leave()
			room.Close()
			tt.do(bus)
			room = openRoom(t, bus)
			again := come(t, room, Client{Cursor: first.cursor, Wide: tt.wide})
			again.await(1 + len(strings.Fields(tt.want)))
			again.leave()
			if got := texts(again.got); got != tt.want {
				t.Errorf("told %q, want %q", got, tt.want)
			}
			third := come(t, room, Client{Cursor: again.cursor, Wide: tt.wide})
			third.leave()
			if got := texts(third.got); got != "" {
				t.Errorf("told %q again", got)
			}
		})
	}
}

// TestForgedPlaceIsNone has a plain message with the headers of a queue's.
func TestForgedPlaceIsNone(t *testing.T) {
	bus := newMemory("data.a")
	room := openRoom(t, bus)
	r := come(t, room, Client{})
	defer r.leave()
	bus.mu.Lock()
	bus.tell(Message{Subject: "data.x", Stream: "data_a", Sequence: 1000, Data: []byte("forged")})
	bus.mu.Unlock()
	bus.publish("data.a", "real", false)
	if got := texts(r.await(3)); got != "forged real" {
		t.Error(got)
	}
}

// TestBusThatCannotBeRead lets nobody in, and the next one once it can.
func TestBusThatCannotBeRead(t *testing.T) {
	bus := newMemory("data.a")
	bus.fail(errors.New("away"))
	room := openRoom(t, bus)
	if _, err := room.Enter(t.Context(), Client{Wide: "data.a"}); err == nil {
		t.Fatal("somebody is let in")
	}
	bus.fail(nil)
	come(t, room, Client{}).leave()
}

// TestGapOfTheHub is told to those who are there.
func TestGapOfTheHub(t *testing.T) {
	bus := newMemory("data.a")
	room := openRoom(t, bus)
	r := come(t, room, Client{})
	defer r.leave()
	for i := range 10 {
		bus.publish("data.a", fmt.Sprintf("m%d", i), true)
	}
	bus.forget("data.a", 5)
	bus.interrupt()
	if got := texts(r.await(7)); got != "gap m5 m6 m7 m8 m9" {
		t.Error(got)
	}
}

func TestStartStopUnderLoad(t *testing.T) {
	bus := newMemory("data.a")
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				bus.publish("data.a", fmt.Sprint(i), i%50 == 0)
			}
		}
	})
	for range 20 {
		room := New(Options{Bus: bus})
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				r := come(t, room, Client{Presence: true})
				r.await(10)
				r.leave()
			})
		}
		bus.interrupt()
		clients.Wait()
		room.Close()
	}
	close(stop)
	work.Wait()
}
