package supervise

import (
	"fmt"
	"time"
)

// RestartPolicy says when a service's instance that ended by itself gets a
// successor. It never gives up: nothing has an order to start in, so what an
// instance misses today may be there in a minute. The zero value means the
// documented defaults.
type RestartPolicy struct {
	Min         time.Duration // pause after the first end, default 100 ms
	Max         time.Duration // longest pause, default 30 s
	Stable      time.Duration // an instance that was ready for so long forgives all before it, default 30 s
	FailedAfter int           // quick ends in a row from which on it counts as failed, default 10
}

func (p RestartPolicy) withDefaults() RestartPolicy {
	if p.Min <= 0 {
		p.Min = 100 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 30 * time.Second
	}
	if p.Stable <= 0 {
		p.Stable = 30 * time.Second
	}
	if p.FailedAfter <= 0 {
		p.FailedAfter = 10
	}
	return p
}

// History is what the policy knows of the instances that ran in one place.
type History struct {
	Quick    int       // ends in a row before this one, none of a stable instance
	Ready    time.Time // when the one that ended became ready; zero: never
	Reason   string    // why it ended
	Hopeless bool      // it could not be started at all: no such command or folder
	Jitter   float64   // from 0 to below 1, chosen at random: instances that ended together must not start together
}

// Decision is what the policy says.
type Decision struct {
	After  time.Duration // pause before the successor starts
	State  State         // Backoff or Failed, for the one that ended
	Quick  int           // for the next History
	Reason string        // for a person: why, and what happens now
}

// Decide is a pure function: the pause doubles with every quick end, is made up
// to a fifth shorter by the jitter, and starts over once an instance was stable.
func (p RestartPolicy) Decide(h History, now time.Time) Decision {
	p = p.withDefaults()
	quick := h.Quick + 1
	if !h.Ready.IsZero() && now.Sub(h.Ready) >= p.Stable {
		quick = 1
	}
	pause := p.Max
	if doubled := quick - 1; doubled < 30 && p.Min<<doubled < p.Max && !h.Hopeless {
		pause = p.Min << doubled
	}
	pause -= time.Duration(float64(pause) * h.Jitter / 5)
	d := Decision{After: pause, State: Backoff, Quick: quick}
	shown := pause.Round(time.Millisecond)
	if shown > time.Second {
		shown = pause.Round(100 * time.Millisecond)
	}
	switch {
	case h.Hopeless:
		d.State = Failed
		d.Reason = fmt.Sprintf("%s; next try in %v", h.Reason, shown)
	case quick >= p.FailedAfter:
		d.State = Failed
		d.Reason = fmt.Sprintf("%s; %d times in a row, next try in %v", h.Reason, quick, shown)
	case quick > 1:
		d.Reason = fmt.Sprintf("%s; %d times in a row, next try in %v", h.Reason, quick, shown)
	default:
		d.Reason = fmt.Sprintf("%s; next try in %v", h.Reason, shown)
	}
	return d
}
