package live

import (
	"sync"
	"time"
)

// crowd is those who are together: clients of one route that are let in with the same
// pattern.
type crowd struct {
	mu    sync.Mutex // guards what follows
	count int
	wake  chan struct{} // closed when those who asked for it are to be told
	timer *time.Timer   // runs while a change has not been told
	tells bool          // the timer runs
}

const (
	// presencePause is the least between two tellings; a thousand clients add as much
	// again, so that a crowd that comes in is not told of each of it.
	presencePause = time.Second
	presenceEach  = 1000
)

// enterCrowd counts a client in.
func (r *Room) enterCrowd(name string) *crowd {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.crowds[name]
	if c == nil {
		c = &crowd{wake: make(chan struct{})}
		r.crowds[name] = c
	}
	c.change(1)
	return c
}

// leaveCrowd counts it out.
func (r *Room) leaveCrowd(name string, c *crowd) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.change(-1) == 0 {
		c.stop()
		delete(r.crowds, name)
	}
}

func (c *crowd) change(by int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count += by
	if !c.tells {
		c.tells = true
		c.timer = time.AfterFunc(presencePause*time.Duration(1+c.count/presenceEach), c.tell)
	}
	return c.count
}

func (c *crowd) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tells = false
	close(c.wake)
	c.wake = make(chan struct{})
}

// present returns the count, and a channel that is closed when it may have changed.
func (c *crowd) present() (int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.wake
}

func (c *crowd) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}
