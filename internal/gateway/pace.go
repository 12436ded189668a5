package gateway

import (
	"errors"
	"net/http"
	"time"

	"fairlead/internal/gateway/upstream"
)

const (
	// paceWindow is the time over which a client's pace is measured.
	paceWindow = 10 * time.Second
	// blockedLeast is what a write may take without counting as blocked: time on a
	// busy machine is not the client's.
	blockedLeast = 10 * time.Millisecond
	// slowPiece is how much is written at once to a client that has been slow, so
	// that a deadline means a pace.
	slowPiece = 4 << 10
)

var errSlowClient = errors.New("the client takes the answer too slowly")

// pace cuts clients that take an answer too slowly. Only the time that writing
// blocks counts: a slow service is not a slow client. A client that takes less than
// least bytes per second over ten seconds of it is cut; so is one that takes nothing
// for as long, and for no longer than streamIdle whatever is due.
type pace struct {
	least   int64         // bytes per second, 0 for streamIdle only
	until   time.Time     // the write deadline, zero before the first
	blocked time.Duration // in the present window
	taken   int64         // meanwhile
	pending int64         // written without blocking lately
	slow    bool          // a write has blocked for long
	cut     bool
}

// begin sets the deadline for a write of n bytes. It returns the time.
func (p *pace) begin(control *http.ResponseController, n int) time.Time {
	now := time.Now()
	patience := streamIdle
	if p.least > 0 {
		patience = min(streamIdle, paceWindow+time.Duration(int64(n)*int64(time.Second)/p.least))
	}
	if due := now.Add(patience); due.After(p.until) && !p.cut {
		p.until = due.Add(time.Second) // spares setting it at every write
		_ = control.SetWriteDeadline(p.until)
	}
	return now
}

// end notes that a write which began at a time has written n bytes. It returns
// errSlowClient if the client is to be cut; then the connection takes nothing more.
func (p *pace) end(control *http.ResponseController, began time.Time, n int64, err error) error {
	took := time.Since(began)
	switch {
	case p.cut:
		return err
	case err != nil:
		if upstream.TimedOut(err) {
			p.cut = true
			return errors.Join(errSlowClient, err)
		}
		return err
	case took < blockedLeast:
		p.pending = min(p.pending+n, 16*slowPiece)
		return nil
	}
	p.slow = p.slow || took >= time.Second
	p.blocked += took
	p.taken += p.pending + n
	p.pending = 0
	if p.blocked < paceWindow {
		return nil
	}
	if float64(p.taken) < float64(p.least)*p.blocked.Seconds() {
		p.cut = true
		_ = control.SetWriteDeadline(past) // what follows must not make the answer look whole
		return errSlowClient
	}
	p.blocked, p.taken = 0, 0
	return nil
}
