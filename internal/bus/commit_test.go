package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/internal/system/message"
	"fairlead/test/await"
)

// door is an observatory with routes that publish to its queues.
func door(queues ...system.Queue) *system.System {
	sys := observatory(queues...)
	for _, q := range sys.Queues {
		sys.Routes = append(sys.Routes, &system.Route{Key: "/" + q.Name, Publish: &system.Publish{Subject: strings.ReplaceAll(q.Name, "*", "{name}")}})
	}
	return sys
}

// posted publishes as the door does.
func posted(t *testing.T, b *Bus, m catalogue.Publication) catalogue.Stored {
	t.Helper()
	s, err := b.Publish(await.Context(t), m)
	if err != nil {
		t.Fatalf("publish %s: %v", m.Subject, err)
	}
	return s
}

func level(n int) []byte { return fmt.Appendf(nil, `{"level": %d}`, n) }

func TestTheDoorStoresWhatSatisfiesTheType(t *testing.T) {
	b := open(t, door(
		system.Queue{Name: "data.vhf", Type: "Level"}, system.Queue{Name: "data.q", Type: "Level", Enforce: system.EnforceQuarantine},
		system.Queue{Name: "data.o", Type: "Level", Enforce: system.EnforceObserve}, system.Queue{Name: "activity.*"},
	))
	_, page := stream(t, b, "page")
	heard, err := page.SubscribeSync("data.*")
	if err == nil {
		err = page.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Header: nats.Header{"Trace": {"x"}}, Data: level(1)}); s != (catalogue.Stored{Stream: "data_vhf", Sequence: 1}) {
		t.Errorf("stored as %+v", s)
	}
	_, err = b.Publish(await.Context(t), catalogue.Publication{Subject: "data.vhf", Data: []byte(`{"level": "x"}`)})
	if f, ok := errors.AsType[*message.Fault](err); !ok || f.Pointer != "/level" || f.Type != "Level" {
		t.Errorf("of another type: %v", err)
	}
	if s := posted(t, b, catalogue.Publication{Subject: "data.q", Data: []byte("1")}); s.Stream != catalogue.DeadLetters {
		t.Errorf("quarantined as %+v", s)
	}
	if s := posted(t, b, catalogue.Publication{Subject: "data.o", Data: []byte("1")}); s.Stream != "data_o" {
		t.Errorf("observed as %+v", s)
	}
	if s := posted(t, b, catalogue.Publication{Subject: "activity.mxt", Data: []byte("1")}); s.Stream != "activity_ANY" {
		t.Errorf("without a type stored as %+v", s)
	}
	for subject, want := range map[string]error{"data.none": catalogue.ErrNoQueue, "data.o": catalogue.ErrTooLarge} {
		data := make([]byte, DefaultMaxPayload)
		if _, err := b.Publish(await.Context(t), catalogue.Publication{Subject: subject, Data: data}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", subject, err, want)
		}
	}
	m, err := heard.NextMsgWithContext(await.Context(t))
	if err != nil || m.Subject != "data.vhf" || string(m.Data) != `{"level": 1}` || m.Header.Get("Trace") != "x" || m.Header.Get("Nats-Sequence") != "1" {
		t.Errorf("a subscriber heard %+v, %v", m, err)
	}
	for queue, want := range map[string]catalogue.Counts{
		"data.vhf": {Accepted: 1, Refused: 1}, "data.q": {Quarantined: 1}, "data.o": {Accepted: 2, Observed: 2}, "activity.*": {Accepted: 1},
	} {
		if got := b.Refused()[queue]; got != want {
			t.Errorf("counts of %s: %+v, want %+v", queue, got, want)
		}
	}
	letters, err := catalogue.Read(await.Context(t), b.catalogue.js, catalogue.DeadLetters, ">", 1, 10)
	if err != nil || len(letters) != 1 {
		t.Fatalf("dead letters: %+v, %v", letters, err)
	}
	if m, d, err := catalogue.Revive(letters[0].Header, letters[0].Data); err != nil || m.Subject != "data.q" || d.Cause != catalogue.CauseType {
		t.Errorf("the dead letter: %+v, %+v, %v", m, d, err)
	}
}

// together publishes all at once, and returns what each was answered.
func together(t *testing.T, b *Bus, all []catalogue.Publication) []catalogue.Stored {
	t.Helper()
	out := make([]catalogue.Stored, len(all))
	var sending sync.WaitGroup
	for i := range all {
		sending.Go(func() {
			s, err := b.Publish(await.Context(t), all[i])
			if err != nil {
				t.Errorf("publish %d: %v", i, err)
			}
			out[i] = s
		})
	}
	sending.Wait()
	return out
}

func TestADuplicateGetsTheSameAnswerAndDoesNotFailItsNeighbours(t *testing.T) {
	ids := map[string]func(*catalogue.Publication, string){
		"by key": func(p *catalogue.Publication, id string) { p.Key = id },
		"by id":  func(p *catalogue.Publication, id string) { p.ID = id },
	}
	for name, set := range ids {
		t.Run(name, func(t *testing.T) {
			b := open(t, door(system.Queue{Name: "data.vhf", Type: "Level"}))
			const distinct, times = 20, 3
			var all []catalogue.Publication
			for i := range distinct * times {
				p := catalogue.Publication{Subject: "data.vhf", Data: level(i % distinct)}
				set(&p, fmt.Sprint("key ", i%distinct))
				all = append(all, p, catalogue.Publication{Subject: "data.vhf", Data: level(1000 + i)})
			}
			for round := range 2 {
				got := together(t, b, all)
				if round == 1 {
					got = together(t, b, all[:len(all)/3])
				}
				sequences := map[uint64]string{}
				for i, s := range got {
					was, seen := sequences[s.Sequence]
					if seen && was != string(all[i].Data) || s.Stream != "data_vhf" {
						t.Errorf("%s and %s are both %+v", was, all[i].Data, s)
					}
					sequences[s.Sequence] = string(all[i].Data)
					stored, err := catalogue.At(await.Context(t), b.catalogue.js, "data_vhf", s.Sequence)
					if err != nil || stored == nil || stored.Sequence != s.Sequence || stored.Subject != "data.vhf" || string(stored.Data) != string(all[i].Data) {
						t.Fatalf("%s was answered %+v, there is %+v, %v", all[i].Data, s, stored, err)
					}
				}
			}
			stored, err := catalogue.Read(await.Context(t), b.catalogue.js, "data_vhf", "data.vhf", 1, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			for _, m := range stored {
				seen[string(m.Data)]++
			}
			for i := range distinct {
				if n := seen[string(level(i))]; n != 1 {
					t.Errorf("%s is stored %d times", level(i), n)
				}
			}
			if n := seen[string(level(1000))]; n != 3 {
				t.Errorf("a message without a key is stored %d times, want 3", n)
			}
		})
	}
}

func TestMarkersOfKeysAreNoMessages(t *testing.T) {
	b := open(t, door(system.Queue{Name: "data.vhf"}))
	_, page := stream(t, b, "page")
	heard, err := page.SubscribeSync("data.*")
	if err == nil {
		err = page.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(i), Key: fmt.Sprint(i)})
		posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(i), Key: fmt.Sprint(i)})
	}
	for i := range 3 {
		if m, err := heard.NextMsgWithContext(await.Context(t)); err != nil || string(m.Data) != string(level(i)) || m.Subject != "data.vhf" {
			t.Errorf("heard %+v, %v", m, err)
		}
	}
	if s := state(t, b, "data.vhf"); s.Messages != 3 || s.Markers != 3 || s.Last != 6 {
		t.Errorf("the queue holds %+v, want 3 messages and 3 markers", s)
	}
	if err := catalogue.Keep(await.Context(t), b.catalogue.js, "data.vhf", 1); err != nil {
		t.Fatal(err)
	}
	if s := state(t, b, "data.vhf"); s.Messages != 1 || s.Markers != 1 || s.First != 5 {
		t.Errorf("with one kept the queue holds %+v", s)
	}
	if n, err := catalogue.Count(await.Context(t), b.catalogue.js, "data_vhf", "data.vhf", time.Now().Add(time.Minute)); err != nil || n != 0 {
		t.Errorf("%d messages came in the future, %v", n, err)
	}
	// Once the queue does not keep the message any more, it may come again.
	s, err := b.catalogue.js.Stream(await.Context(t), "data_vhf")
	if err == nil {
		err = s.Purge(await.Context(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"}); s.Duplicate || s.Sequence != 8 {
		t.Errorf("after a purge: %+v", s)
	}
}

func TestABurstBeyondTheBoundsIsTurnedAway(t *testing.T) {
	b := open(t, door(system.Queue{Name: "data.vhf"}))
	var full, stored atomic.Int64
	var sending sync.WaitGroup
	large := make([]byte, 700<<10)
	for range 200 {
		sending.Go(func() {
			switch _, err := b.Publish(await.Context(t), catalogue.Publication{Subject: "data.vhf", Data: large}); {
			case err == nil:
				stored.Add(1)
			case errors.Is(err, catalogue.ErrFull):
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	sending.Wait()
	if s := state(t, b, "data.vhf"); full.Load() == 0 || int64(s.Messages) != stored.Load() {
		t.Errorf("%d turned away, %d answered as stored, %d stored", full.Load(), stored.Load(), s.Messages)
	}
	posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: large})
}

// TestTheDoorPublishesWhileTheBusMoves: nothing that was acknowledged is lost, also
// when another process takes the bus over, and keys hold.
func TestTheDoorPublishesWhileTheBusMoves(t *testing.T) {
	dir := t.TempDir()
	sys := door(system.Queue{Name: "data.vhf", Type: "Level"})
	b, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: sys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	ctx, stop := context.WithCancel(t.Context())
	var acked sync.Map
	var count, failed atomic.Int64
	var sending sync.WaitGroup
	for p := range 8 {
		sending.Go(func() {
			for i := p; ctx.Err() == nil; i += 8 {
				one, cancel := context.WithTimeout(context.WithoutCancel(ctx), await.Patience)
				s, err := b.Publish(one, catalogue.Publication{Subject: "data.vhf", Data: level(i), Key: fmt.Sprint(i)})
				cancel()
				if err != nil {
					failed.Add(1)
					continue
				}
				acked.Store(s.Sequence, string(level(i)))
				count.Add(1)
			}
		})
	}
	more := func() {
		t.Helper()
		was := count.Load()
		await.Until(t, "20 more are stored", func() bool { return count.Load() >= was+20 })
	}
	more()
	for range 2 {
		if err := b.Suspend(await.Context(t)); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(await.Context(t)); err != nil {
			t.Fatal(err)
		}
		more()
		if got := publishers(t, b); !slices.Equal(got, []string{b.publisher.User}) {
			t.Errorf("the door publishes as %v, want within the process", got)
		}
	}
	former := b.Former()
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	next, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: sys, Former: former, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, next) })
	b.Leave()
	more()
	if got := publishers(t, next); !slices.Equal(got, []string{b.gateway.User, next.publisher.User}) {
		t.Errorf("the doors of both processes publish as %v", got)
	}
	stop()
	sending.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d were not stored", n, n+count.Load())
	}
	stored, err := catalogue.Read(await.Context(t), next.catalogue.js, "data_vhf", "data.vhf", 1, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	at := map[uint64]string{}
	for _, m := range stored {
		at[m.Sequence] = string(m.Data)
	}
	acked.Range(func(sequence, data any) bool {
		if at[sequence.(uint64)] != data {
			t.Errorf("%s was answered as %d, there is %q", data, sequence, at[sequence.(uint64)])
		}
		return true
	})
}

// publishers are the users of the connections over which doors publish, sorted.
func publishers(t *testing.T, b *Bus) []string {
	t.Helper()
	z, err := b.connz(&server.ConnzOptions{Username: true})
	if err != nil {
		t.Fatal(err)
	}
	var users []string
	for _, c := range z.Conns {
		if c.Name == "fairlead publishes" {
			users = append(users, c.AuthorizedUser)
		}
	}
	return sorted(users)
}

func TestTheDoorPublishesElsewhere(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	b := h.open(t, Options{Model: door(system.Queue{Name: "data.vhf", Type: "Level"}, system.Queue{Name: "data.q", Type: "Level", Enforce: system.EnforceQuarantine})})
	if s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1)}); s != (catalogue.Stored{Stream: "data_vhf", Sequence: 1}) {
		t.Errorf("stored as %+v", s)
	}
	for i := range 2 {
		s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(2), Key: "two"})
		if s != (catalogue.Stored{Stream: "data_vhf", Sequence: 3, Duplicate: i > 0}) {
			t.Errorf("with a key, time %d: %+v", i+1, s)
		}
	}
	if s := posted(t, b, catalogue.Publication{Subject: "data.q", Data: []byte("1")}); s.Stream != catalogue.DeadLetters {
		t.Errorf("quarantined as %+v", s)
	}
	var all []catalogue.Publication
	for i := range 100 {
		all = append(all, catalogue.Publication{Subject: "data.vhf", Data: level(i), Key: fmt.Sprint(i % 50)})
	}
	together(t, b, all)
	if s := state(t, b, "data.vhf"); s.Messages != 52 || s.Markers != 51 {
		t.Errorf("the queue holds %+v, want 52 messages and 51 markers", s)
	}
}

// BenchmarkCommit is what the door publishes at once, beside one sync for each
// message. What is measured is the time for one message.
func BenchmarkCommit(bench *testing.B) {
	sys := door(system.Queue{Name: "data.vhf", Type: "Level"})
	sys.Services[1].Bus.Publishes = append(sys.Services[1].Bus.Publishes, "bare")
	data := []byte(`{"level": 1, "text": "` + strings.Repeat("x", 220) + `"}`)
	for _, at := range []int{1, 64, 512} {
		for _, way := range []string{"bare", "commit", "key"} {
			bench.Run(fmt.Sprintf("%s/at=%d", way, at), func(bench *testing.B) {
				b := open(bench, sys)
				if _, err := b.catalogue.js.CreateStream(bench.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare"}}); err != nil {
					bench.Fatal(err)
				}
				js, err := jetstream.New(dial(bench, issue(bench, b, "receiver", "receiver-1")), jetstream.WithDefaultTimeout(await.Patience))
				if err != nil {
					bench.Fatal(err)
				}
				var n atomic.Int64
				send := func() error {
					var err error
					switch way {
					case "bare":
						_, err = js.Publish(bench.Context(), "bare", data)
					case "key":
						_, err = b.Publish(bench.Context(), catalogue.Publication{Subject: "data.vhf", Data: data, Key: fmt.Sprint(n.Add(1))})
					default:
						_, err = b.Publish(bench.Context(), catalogue.Publication{Subject: "data.vhf", Data: data})
					}
					return err
				}
				work := make(chan struct{}, at)
				var all sync.WaitGroup
				for range at {
					all.Go(func() {
						for range work {
							if err := send(); err != nil {
								bench.Error(err)
							}
						}
					})
				}
				for bench.Loop() {
					work <- struct{}{}
				}
				close(work)
				all.Wait()
			})
		}
	}
}

// A publisher that opens batches and never ends them takes no more of a stream's than
// leaves room for the door.
func TestOnePublisherHoldsAllBatchesOfAQueue(t *testing.T) {
	b := open(t, door(system.Queue{Name: "data.vhf"}))
	lab := User{BusUser: system.BusUser{Name: "lab", Publishes: []string{"data.vhf"}}, Password: "x"}
	setUsers(t, b, lab)
	nc := dial(t, as(b, lab), nats.CustomInboxPrefix(UserInbox("lab")))
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 { // in one go: the server gives up a batch that rests for ten seconds
		m := &nats.Msg{
			Subject: "data.vhf", Reply: answers.Subject, Data: level(1),
			Header: nats.Header{"Nats-Batch-Id": {strconv.Itoa(i)}, "Nats-Batch-Sequence": {"1"}},
		}
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for range 60 {
		reply, err := answers.NextMsg(await.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(reply.Data), "too many batches are open") {
			refused++
		}
	}
	if refused != 20 {
		t.Errorf("%d are refused", refused)
	}
	if s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "a"}); s.Duplicate {
		t.Errorf("stored %+v", s)
	}
}
