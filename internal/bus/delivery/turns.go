package delivery

import (
	"context"
	"sync"
)

const (
	// atOnce is how many requests of one user are served at a time.
	atOnce = 2
	// mostWaiting is how many of one user may be at the desk, with those that are served.
	mostWaiting = 128
)

// turns keep the users of a desk apart: each waits for the own requests only.
type turns struct {
	mu    sync.Mutex // guards what follows
	lines map[string]*line
}

// line is where one user's requests wait.
type line struct {
	places chan struct{}
	length int // guarded by turns.mu
}

func newTurns() *turns { return &turns{lines: map[string]*line{}} }

// join takes a place in a user's line, and returns nil if it is too long. leave must
// follow.
func (t *turns) join(user string) *line {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[user]
	if l == nil {
		l = &line{places: make(chan struct{}, atOnce)}
		t.lines[user] = l
	}
	if l.length == mostWaiting {
		return nil
	}
	l.length++
	return l
}

func (t *turns) leave(user string, l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.length--; l.length == 0 {
		delete(t.lines, user)
	}
}

// begin waits until a request may be served, and reports false if ctx ends before. end
// must follow.
func (l *line) begin(ctx context.Context) bool {
	select {
	case l.places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *line) end() { <-l.places }
