package sky

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"fairlead/stacks/svom/message"
	"fairlead/stacks/svom/notice"
)

func TestSky(t *testing.T) {
	s := New(rand.New(rand.NewPCG(1, 2)))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	bursts, packets, ordered := map[string]int{}, 0, true
	var last notice.Notice
	for range 10 * between {
		now = now.Add(2 * time.Second)
		list, err := s.Next(now)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if d.Data.Type == message.TypeAlert {
				if !json.Valid([]byte(d.Data.Message)) {
					t.Errorf("got %s", d.Data.Message)
				}
				packets++
				continue
			}
			n, err := d.Data.Notice()
			if err != nil || n.Role != "test" {
				t.Fatalf("got %+v, %v", n, err)
			}
			ordered = ordered && (last.Burst != n.Burst || notice.Compare(last, n) <= 0)
			last = n
			bursts[n.Burst]++
		}
	}
	if packets != 10*between || len(bursts) < 8 || ordered {
		t.Errorf("got %d packets, %d bursts, in order: %t", packets, len(bursts), ordered)
	}
}

// Bursts had two digits of chance for a day, and were mixed up after some minutes.
func TestBurstsOfADayHaveTheirOwnNames(t *testing.T) {
	s := New(rand.New(rand.NewPCG(3, 4)))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const day = 3600
	seen := map[string]bool{}
	for range day {
		now = now.Add(between * 2 * time.Second)
		for _, n := range s.burst(now) {
			seen[n.Burst] = true
		}
	}
	if len(seen) != day {
		t.Errorf("%d bursts have %d names", day, len(seen))
	}
}

// Notices were dated up to twelve minutes after the moment in which they were heard.
func TestNoNoticeIsOfTheFuture(t *testing.T) {
	s := New(rand.New(rand.NewPCG(5, 6)))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 100 {
		now = now.Add(time.Minute)
		for _, n := range s.burst(now) {
			if n.Date.After(now) || n.Observed.After(n.Date.Add(time.Second)) {
				t.Fatalf("%s is of %s, observed %s, heard %s", n.ID, n.Date, n.Observed, now)
			}
		}
	}
}
