package upstream

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/hop"
)

// feeder sends a body that is not at hand, on a goroutine of its own: the service
// may answer before it has read all of it.
type feeder struct {
	to    Receiver
	l     *link
	r     *http.Request
	q     *Request
	once  sync.Once
	done  chan struct{}
	whole atomic.Bool // all of it was sent
	err   error       // of reading the body; valid once done is closed
}

func newFeeder(to Receiver, l *link, r *http.Request, q *Request) *feeder {
	to.Duplex()
	return &feeder{to: to, l: l, r: r, q: q, done: make(chan struct{})}
}

// start begins to send; later calls do nothing.
func (f *feeder) start() { f.once.Do(func() { go f.run() }) }

func (f *feeder) run() {
	defer close(f.done)
	if err := f.copy(); err != nil {
		f.err = err
		f.l.interrupt() // the service cannot answer what it does not get
		return
	}
}

// copy sends the body. It returns errors of reading it only: when writing fails,
// the service has answered, or the reader of the answer will see why not.
func (f *feeder) copy() error {
	buf := copyBuffers.Get().(*[32 << 10]byte) // the pool holds nothing else
	defer copyBuffers.Put(buf)
	// Room for a chunk's size before the bytes and a line end behind them.
	const front, back = 8, 2
	for {
		n, err := f.r.Body.Read(buf[front : len(buf)-back])
		if n > 0 {
			out := buf[front : front+n]
			if f.q.Chunked {
				size := strconv.AppendInt(make([]byte, 0, front), int64(n), 16)
				size = append(size, "\r\n"...)
				start := front - len(size)
				copy(buf[start:], size)
				out = append(buf[start:front+n], "\r\n"...)
			}
			if _, werr := f.l.c.Write(out); werr != nil {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return f.finish()
		}
		if err != nil {
			return err
		}
	}
}

// finish sends what follows the last chunk.
func (f *feeder) finish() error {
	if f.q.Chunked {
		out := []byte("0\r\n")
		for name, values := range f.r.Trailer {
			if !f.to.PassesTrailer(name) {
				continue
			}
			for _, v := range values {
				out = hop.AppendField(out, name, v)
			}
		}
		if _, err := f.l.c.Write(append(out, "\r\n"...)); err != nil {
			return nil //nolint:nilerr // the reader of the answer will see why
		}
	}
	f.whole.Store(true)
	return nil
}

// settled reports whether nothing is left to send. It waits a moment, because a
// service may answer faster than this side notices that it has sent all.
func (f *feeder) settled() bool {
	if f == nil || f.whole.Load() {
		return true
	}
	f.wait(5 * time.Millisecond)
	return f.whole.Load()
}

// wait waits for the end at most so long. A feeder that has not started ends.
func (f *feeder) wait(most time.Duration) {
	f.once.Do(func() { close(f.done) })
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
	}
}

// failure returns why the body could not be read, nil if it could. late says that
// the answer failed to come in time, or that the request's context ended: both
// happen when a client stalls, and may be noticed before the stall itself is.
func (f *feeder) failure(late bool) error {
	if late {
		f.wait(100 * time.Millisecond)
	}
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// stop ends the goroutine, if need be by breaking off both connections.
func (f *feeder) stop() {
	f.once.Do(func() { close(f.done) })
	select {
	case <-f.done:
		return
	default:
	}
	_ = f.l.c.SetWriteDeadline(past) // fails only on a closed connection
	f.to.Halt()
	<-f.done
}
