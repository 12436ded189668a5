package supervise

import (
	"slices"
	"testing"
)

var states = []State{Starting, Ready, Draining, Stopped, Backoff, Failed}

func TestStatesTable(t *testing.T) {
	if len(next) != len(states) {
		t.Fatalf("the table has %d states, want %d", len(next), len(states))
	}
	for from, to := range next {
		for _, s := range to {
			if !slices.Contains(states, s) || s == from || s == Starting {
				t.Errorf("%s may become %s, which makes no sense: an instance is never started twice", from, s)
			}
		}
	}
	// Every state can be reached from the first, and the last can be reached
	// from every state.
	reach := func(from State) map[State]bool {
		seen := map[State]bool{from: true}
		for queue := []State{from}; len(queue) > 0; queue = queue[1:] {
			for _, s := range next[queue[0]] {
				if !seen[s] {
					seen[s] = true
					queue = append(queue, s)
				}
			}
		}
		return seen
	}
	for _, s := range states {
		if !reach(Starting)[s] {
			t.Errorf("%s cannot be reached", s)
		}
		if !reach(s)[Stopped] {
			t.Errorf("%s never ends", s)
		}
	}
	if len(next[Stopped]) != 0 {
		t.Errorf("stopped is not the end: %v", next[Stopped])
	}
	if Ready.mayBecome(Starting) || Stopped.mayBecome(Ready) || !Starting.mayBecome(Ready) {
		t.Error("mayBecome does not read the table")
	}
}

// walks checks that the events of every instance follow the table, and that
// each instance begins with starting.
func walks(t *testing.T, events []Event) {
	t.Helper()
	at := make(map[string]State)
	for _, e := range events {
		before, known := at[e.Instance.ID]
		if e.Kind != e.Instance.State {
			t.Errorf("an event of %s tells %s of an instance that is %s", e.Instance.ID, e.Kind, e.Instance.State)
		}
		switch {
		case !known && e.Kind != Starting:
			t.Errorf("%s began as %s", e.Instance.ID, e.Kind)
		case known && !before.mayBecome(e.Kind):
			t.Errorf("%s went from %s to %s, which is not in the table", e.Instance.ID, before, e.Kind)
		}
		at[e.Instance.ID] = e.Kind
	}
}
