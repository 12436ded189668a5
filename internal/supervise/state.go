package supervise

import "slices"

// State is where an instance is in its life.
type State string

// The states of an instance.
const (
	Starting State = "starting" // its process is being started, or runs and was never ready
	Ready    State = "ready"    // may take traffic
	Draining State = "draining" // takes no new traffic, ends what it has, then its process is ended
	Stopped  State = "stopped"  // ended because that was wanted
	Backoff  State = "backoff"  // ended by itself or unhealthy; a successor starts after a pause
	Failed   State = "failed"   // as backoff, but so often that a person should look
)

// next holds every change of state that may happen. An instance is never
// started twice: the successor of one in backoff or failed is a new instance.
var next = map[State][]State{
	Starting: {Ready, Backoff, Failed, Stopped}, // what was never ready has nothing to drain
	Ready:    {Draining, Backoff, Failed, Stopped},
	Draining: {Stopped, Backoff, Failed}, // the latter two when it was taken out for being unhealthy
	Backoff:  {Stopped},
	Failed:   {Stopped},
	Stopped:  {},
}

// mayBecome reports whether the change from s to t is in the table.
func (s State) mayBecome(t State) bool { return slices.Contains(next[s], t) }
