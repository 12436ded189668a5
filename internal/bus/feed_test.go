package bus

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
	"fairlead/test/await"
)

// hearNext returns the next message that a feed hears.
func hearNext(t *testing.T, heard <-chan Heard) Heard {
	t.Helper()
	return await.From(t, "something is heard", heard)
}

// TestFeedHearsWhereMessagesAreStored has one of a queue, one of none, and one whose
// publisher says that it is stored elsewhere.
func TestFeedHearsWhereMessagesAreStored(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.raw"}))
	f, err := b.Feed()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	heard, missed := make(chan Heard, 10), make(chan struct{}, 10)
	stop, err := f.Listen("data.*", func(m Heard, more bool) {
		if more {
			t.Error("nobody is told of the last message until there is another one")
		}
		heard <- m
	}, func() { missed <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	js, nc := stream(t, b, "receiver")
	forged := nats.NewMsg("data.raw")
	forged.Data = []byte("1")
	forged.Header.Set("Nats-Stream", "other")
	forged.Header.Set("Nats-Sequence", "77")
	if _, err := js.PublishMsg(await.Context(t), forged); err != nil {
		t.Fatal(err)
	}
	if m := hearNext(t, heard); m.Subject != "data.raw" || m.Stream != "data_raw" || m.Sequence != 1 || string(m.Data) != "1" || time.Since(m.Time) > time.Minute {
		t.Errorf("a stored one: %+v", m)
	}
	if err := nc.Publish("data.live", []byte("2")); err != nil {
		t.Fatal(err)
	}
	if m := hearNext(t, heard); m.Subject != "data.live" || m.Stream != "" || m.Sequence != 0 {
		t.Errorf("a plain one: %+v", m)
	}
	streams, err := f.Streams(await.Context(t), "data.>")
	if err != nil || len(streams) != 1 || streams[0].Name != "data_raw" || streams[0].Last != 1 || streams[0].ID == 0 {
		t.Errorf("the streams are %+v, %v", streams, err)
	}
	if other, err := f.Streams(await.Context(t), "activity.>"); err != nil || len(other) != 0 {
		t.Errorf("of another pattern there are %+v, %v", other, err)
	}

	// What may have been lost is told, once the bus is back.
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	await.From(t, "it is told that something may have been missed", missed)
}

func TestFeedReadsPages(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "activity.>"}))
	f, err := b.Feed()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	for i := range 20 {
		subject := []string{"activity.vhf", "activity.mxt"}[i%2]
		if _, err := f.js.Publish(await.Context(t), subject, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name    string
		filters []string
		after   uint64
		most    int
		want    string
		through uint64
	}{
		{"a part", []string{"activity.>"}, 0, 3, "[0 1 2]", 3},
		{"of one subject", []string{"activity.mxt"}, 4, 3, "[5 7 9]", 10},
		{"the rest", []string{"activity.vhf", "activity.mxt"}, 17, 10, "[17 18 19]", 20},
		{"what is not there", []string{"activity.none"}, 3, 10, "[]", 20},
		{"nothing more", []string{"activity.>"}, 20, 10, "[]", 20},
		{"beyond the end", []string{"activity.>"}, 30, 10, "[]", 30},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := f.Read(await.Context(t), "activity_ALL", tt.filters, tt.after, tt.most)
			got := []string{}
			for _, m := range p.Messages {
				got = append(got, string(m.Data))
			}
			if err != nil || fmt.Sprint(got) != tt.want || p.Through != tt.through || p.First != 1 || p.Last != 20 {
				t.Errorf("%v through %d, %v; want %s through %d", got, p.Through, err, tt.want, tt.through)
			}
		})
	}
	left := 0
	s, err := f.js.Stream(await.Context(t), "activity_ALL")
	if err != nil {
		t.Fatal(err)
	}
	for range s.ConsumerNames(context.Background()).Name() {
		left++
	}
	if left != 0 {
		t.Errorf("%d consumers are left", left)
	}
}

// TestLoneMessageIsNotHeldBack: of the last message of several, and of a lone one, it is
// not said that another is at hand.
func TestLoneMessageIsNotHeldBack(t *testing.T) {
	b := open(t, observatory())
	f, err := b.Feed()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	more, release := make(chan bool, 10), make(chan struct{})
	stop, err := f.Listen("data.*", func(_ Heard, at bool) { more <- at; <-release }, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	_, nc := stream(t, b, "receiver")
	if err := nc.Publish("data.live", nil); err != nil {
		t.Fatal(err)
	}
	if <-more {
		t.Error("a lone message has another behind it")
	}
	for range 2 {
		if err := nc.Publish("data.live", nil); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	var sub *nats.Subscription
	for sub = range f.missed {
	}
	f.mu.Unlock()
	await.Until(t, "both are there", func() bool { n, _, err := sub.Pending(); return err == nil && n == 3 })
	close(release)
	if !<-more || <-more {
		t.Error("of two messages, the first has none behind it or the last has one")
	}
}
