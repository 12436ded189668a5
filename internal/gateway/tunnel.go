package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"fairlead/internal/gateway/meter"
)

// tunnels are the connections that were upgraded.
type tunnels struct {
	mu    sync.Mutex // guards the fields below
	open  map[*tunnel]struct{}
	empty chan struct{} // closed when the last one ends; nil while nobody waits
	over  bool          // cut has been called
	ages  meter.Ages
}

var errStopped = errors.New("the gateway stops")

// errEnded says that the gateway itself has ended what was open.
var errEnded = errors.New("ended for a drain")

// tunnel carries bytes between a client and a service once both have agreed to
// leave HTTP. Each side may end its half first; a side that does not read holds the
// other one up and nothing else.
type tunnel struct {
	client, service       net.Conn
	fromClient, toService io.Reader // what was read ahead, then the connections
	age                   meter.Age
}

func (ts *tunnels) add(t *tunnel) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.open == nil {
		ts.open = map[*tunnel]struct{}{}
	}
	ts.open[t] = struct{}{}
	t.age = ts.ages.Enter()
}

func (ts *tunnels) remove(t *tunnel) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.open, t)
	ts.ages.Leave(t.age)
	if len(ts.open) == 0 && ts.empty != nil {
		close(ts.empty)
		ts.empty = nil
	}
}

// wait returns when no tunnel is open.
func (ts *tunnels) wait(ctx context.Context) error {
	ts.mu.Lock()
	if len(ts.open) == 0 {
		ts.mu.Unlock()
		return nil
	}
	if ts.empty == nil {
		ts.empty = make(chan struct{})
	}
	empty := ts.empty
	ts.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join gives a tunnel its client. It reports false, and closes both sides, if all
// tunnels have been cut in the meantime.
func (ts *tunnels) join(t *tunnel, client net.Conn) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.client = client
	if ts.over {
		t.close()
	}
	return !ts.over
}

// cut closes all tunnels, those that are just coming up too.
func (ts *tunnels) cut() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.over = true
	for t := range ts.open {
		t.close()
	}
}

func (t *tunnel) close() {
	_ = t.service.Close() // whatever it says, the connection is over
	if t.client != nil {
		_ = t.client.Close() // as above
	}
}

// run returns when both directions have ended, with the bytes sent to the client.
func (t *tunnel) run() int64 {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.carry(t.service, t.fromClient)
	}()
	n := t.carry(t.client, t.toService)
	<-done
	t.close()
	return n
}

// carry copies one direction and passes its end on. If the receiver is gone, the
// other direction is of no use either.
func (t *tunnel) carry(dst net.Conn, src io.Reader) int64 {
	n, err := io.Copy(dst, src)
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		t.close()
	}
	return n
}
