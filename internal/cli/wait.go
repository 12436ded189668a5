package cli

import (
	"sync"
	"time"

	"fairlead/internal/control"
)

// waiting shows on the standard error what goes on while a verb is waited for:
// what the node tells, and on a terminal a line with the time since it began.
type waiting struct {
	app   *app
	doing string
	begun time.Time
	stop  chan struct{}
	ended sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	painter painter
	view    *upView
}

// wait begins to wait; doing is what to show, "" for a verb that is over at once.
func (a *app) wait(doing string) *waiting {
	w := &waiting{
		app: a, doing: doing, begun: time.Now(), stop: make(chan struct{}),
		painter: painter{screen: a.errs}, view: newUpView(a.errs, upHead{}, time.Now()),
	}
	w.view.phase = phaseRunning
	if doing == "" || a.json || !a.errs.live {
		return w
	}
	w.ended.Go(func() {
		silence := time.NewTimer(quiet) // most verbs are over by then
		defer silence.Stop()
		tick := time.NewTicker(frameTime)
		defer tick.Stop()
		select {
		case <-silence.C:
		case <-w.stop:
			return
		}
		for {
			w.paint(nil, w.line())
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	})
	return w
}

func (w *waiting) line() []string {
	d := time.Since(w.begun)
	frame := int(d / frameTime)
	s := w.app.errs
	spin := s.mark(string(spinner[frame%len(spinner)]), string(`|/-\`[frame%4]))
	return []string{s.style(cyan, spin) + " " + w.doing + s.style(dim, "  "+took(d))}
}

// tell shows an event.
func (w *waiting) tell(e control.Event) {
	if w.app.json {
		return // only the result is for a program
	}
	lines := w.view.eventLines(e)
	if !w.app.errs.live {
		_ = w.app.errs.lines(lines...) // who does not read the progress still gets the result
		return
	}
	w.paint(lines, nil)
}

func (w *waiting) paint(stay, block []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.painter.paint(stay, block) // as in tell
}

// end takes the line away.
func (w *waiting) end() {
	close(w.stop)
	w.ended.Wait()
	if w.painter.painted > 0 {
		w.paint(nil, nil)
	}
}
