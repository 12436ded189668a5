package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"fairlead/internal/system"
)

// upstream carries requests to one endpoint. It is the seam between what the
// gateway decides (which endpoint, whether to try again, what to tell the client)
// and how HTTP is spoken.
type upstream interface {
	// do sends a request and copies the answer to the client. It returns nil once
	// the answer is whole or a tunnel has ended, else a *sendError, or what reading
	// the request's body returned.
	do(w http.ResponseWriter, r *http.Request, x *exchange, q *outbound) error
	// sweep closes connections that have idled for too long.
	sweep(now time.Time)
	// close closes the connections that idle, and each other one when its request
	// is done.
	close()
}

// outbound is a request as services get it. The same can be sent several times.
type outbound struct {
	head    []byte // with the body behind it, if that is at hand
	stream  bool   // r.Body is still to be sent
	chunked bool   // in chunks
	expect  bool   // after the service said 100 Continue
	upgrade string // protocol, "" for none
}

// stage is how far a request got before something broke.
type stage uint8

const (
	unsent  stage = iota // nothing of it can have reached the service
	sent                 // something may have, and there is no answer
	begun                // the answer has begun to reach the client
	refused              // the answer is not HTTP
)

// sendError says what broke, for the access log, and how far the request got.
type sendError struct {
	progress stage
	cause    error
}

func (e *sendError) Error() string { return e.cause.Error() }
func (e *sendError) Unwrap() error { return e.cause }

const (
	dialTime = 5 * time.Second
	// linkIdle is how long a connection may idle. It is less than the five seconds
	// after which Node.js closes one: a request must not meet the close.
	linkIdle = 4 * time.Second
	maxIdle  = 512 // per endpoint
)

// httpUpstream keeps connections to one endpoint and speaks HTTP/1.1 on them, each
// request on the goroutine that serves the client.
type httpUpstream struct {
	network, address string
	dialer           net.Dialer

	mu     sync.Mutex // guards the fields below
	idle   []*link    // the most lately used is last
	closed bool
}

func newHTTPUpstream(network, address string) *httpUpstream {
	return &httpUpstream{network: network, address: address, dialer: net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}}
}

// take returns a connection, one that idles and still lives, or a new one. Its
// deadline is set.
func (u *httpUpstream) take(ctx context.Context, now, deadline time.Time) (*link, error) {
	for {
		l := u.pop()
		if l == nil {
			break
		}
		// The deadline comes first: one that has passed would keep alive from looking.
		if now.Before(l.expires) && l.c.SetDeadline(deadline) == nil && l.alive() {
			return l, nil
		}
		l.close()
	}
	d := u.dialer
	d.Deadline = deadline
	c, err := d.DialContext(ctx, u.network, u.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := c.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return newLink(c), nil
}

func (u *httpUpstream) pop() *link {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.idle)
	if n == 0 {
		return nil
	}
	l := u.idle[n-1]
	u.idle[n-1] = nil
	u.idle = u.idle[:n-1]
	return l
}

// put keeps a connection whose exchange is whole.
func (u *httpUpstream) put(l *link, now time.Time) {
	l.expires = now.Add(l.keep)
	u.mu.Lock()
	if u.closed || len(u.idle) >= maxIdle {
		u.mu.Unlock()
		l.close()
		return
	}
	u.idle = append(u.idle, l)
	u.mu.Unlock()
}

func (u *httpUpstream) sweep(now time.Time) {
	var over []*link
	u.mu.Lock()
	keep := u.idle[:0]
	for _, l := range u.idle {
		if now.Before(l.expires) {
			keep = append(keep, l)
		} else {
			over = append(over, l)
		}
	}
	clear(u.idle[len(keep):])
	u.idle = keep
	u.mu.Unlock()
	for _, l := range over {
		l.close()
	}
}

func (u *httpUpstream) close() {
	u.mu.Lock()
	idle := u.idle
	u.idle, u.closed = nil, true
	u.mu.Unlock()
	for _, l := range idle {
		l.close()
	}
}

var errClosedBefore = errors.New("the service closed the connection without an answer")

func (u *httpUpstream) do(w http.ResponseWriter, r *http.Request, x *exchange, q *outbound) error {
	l, err := u.take(r.Context(), time.Now(), x.deadline)
	if err != nil {
		return &sendError{unsent, err}
	}
	leave := context.AfterFunc(r.Context(), l.interrupt)
	err = l.exchange(w, r, x, q)
	if !leave() {
		l.reusable = false // the interruption may still be under way
	}
	if l.reusable && err == nil {
		u.put(l, time.Now())
	} else {
		l.close()
	}
	return err
}

// newUpstream makes what speaks a protocol with an address. It does no I/O.
func newUpstream(network, address string, protocol system.Protocol) upstream {
	if protocol == system.H2C {
		return newH2CUpstream(network, address)
	}
	return newHTTPUpstream(network, address)
}
