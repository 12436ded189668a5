package gateway

import (
	"container/list"
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/system"
)

var (
	errQueueFull = errors.New("too many requests are open, and too many wait")
	errQueueTime = errors.New("too many requests are open")
)

// queue bounds the requests open on a pool. Those beyond the limit wait in the
// order in which they came. The zero queue lets everyone pass.
type queue struct {
	limit   atomic.Int64  // requests open at once, 0 for no limit
	refused atomic.Uint64 // requests that found the queue full, or waited too long

	mu   sync.Mutex // guards the fields below
	most int        // that wait
	time time.Duration
	open int64
	line list.List // of chan struct{}, closed when its place is given
}

// set changes the limits. Who waits goes on waiting by the new ones.
func (q *queue) set(s *system.Pool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.most, q.time = s.Queue, s.QueueTime
	if q.time <= 0 {
		q.time = defaultQueueTime
	}
	q.limit.Store(int64(s.Concurrency))
	q.pass()
}

// pass gives free places to those who wait longest. The mutex is held.
func (q *queue) pass() {
	for limit := q.limit.Load(); q.line.Len() > 0 && (limit == 0 || q.open < limit); {
		q.open++
		close(q.line.Remove(q.line.Front()).(chan struct{})) //nolint:forcetypeassert // the line holds nothing else
	}
}

// enter takes a place, which leave gives back. It returns errQueueFull at once when
// too many wait, errQueueTime, or the context's error.
func (q *queue) enter(ctx context.Context, stopping <-chan struct{}) error {
	q.mu.Lock()
	if q.open < q.limit.Load() || q.limit.Load() == 0 {
		q.open++
		q.mu.Unlock()
		return nil
	}
	if q.line.Len() >= q.most {
		q.mu.Unlock()
		q.refused.Add(1)
		return errQueueFull
	}
	mine := make(chan struct{})
	at := q.line.PushBack(mine)
	timer := time.NewTimer(q.time)
	q.mu.Unlock()
	defer timer.Stop()
	var err error
	select {
	case <-mine:
		return nil
	case <-timer.C:
		err = errQueueTime
	case <-stopping:
		err = errQueueTime
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-mine:
		return nil // the place came at the same time
	default:
	}
	q.line.Remove(at)
	if errors.Is(err, errQueueTime) {
		q.refused.Add(1)
	}
	return err
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open--
	q.pass()
}

// waiting returns how many wait for a place.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.line.Len()
}

// takePlace waits until fewer requests than the pool's concurrency are open on it,
// or answers the request and reports false. It waits for an instance first: who
// waits for that takes nobody's place.
func (x *exchange) takePlace(w http.ResponseWriter, r *http.Request, enough func(*ready) bool) bool {
	p := x.pool
	if p == nil || p.queue.limit.Load() == 0 {
		return true
	}
	ctx, cancel := context.WithDeadline(r.Context(), x.deadline)
	defer cancel()
	err := p.await(ctx, enough)
	if err == nil {
		began := time.Now()
		if err = p.queue.enter(ctx, p.g.stopping); err == nil {
			p.waited(began, time.Now())
			x.placed = true
			return true
		}
	}
	x.unready(w, r, err)
	return false
}

// givePlace ends what takePlace began.
func (x *exchange) givePlace() {
	if x.placed {
		x.placed = false
		x.pool.queue.leave()
	}
}
