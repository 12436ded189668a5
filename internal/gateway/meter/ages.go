package meter

import "sync"

// Ages tells which of the things that are open, such as connections, were open at
// an earlier moment. The zero Ages is ready to use. Its size does not grow with the
// number of things, only with that of the moments that something is still open from.
type Ages struct {
	mu   sync.Mutex // guards the fields below
	now  Age
	open map[Age]int // by the age in which they were opened
}

// Age is the time between two marks.
type Age uint64

// Enter counts something that was opened. Give what it returns to Leave.
func (a *Ages) Enter() Age {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = map[Age]int{}
	}
	a.open[a.now]++
	return a.now
}

// Leave counts something that was closed.
func (a *Ages) Leave(of Age) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[of]--; a.open[of] <= 0 {
		delete(a.open, of)
	}
}

// Mark ends an age. It returns the age that ended, and how many are open.
func (a *Ages) Mark() (ended Age, open int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ended = a.now
	a.now++
	for _, n := range a.open {
		open += n
	}
	return ended, open
}

// Since returns how many are still open of those that were when the age ended.
func (a *Ages) Since(ended Age) (open int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for of, n := range a.open {
		if of <= ended {
			open += n
		}
	}
	return open
}

// Open returns how many are open.
func (a *Ages) Open() (open int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.open {
		open += n
	}
	return open
}
