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
