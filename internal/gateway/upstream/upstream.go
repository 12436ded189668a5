// Package upstream speaks HTTP with services: HTTP/1.1 on connections that are kept, and
// HTTP/2 by prior knowledge. It copies answers as they come, in both directions at once
// where it must, and says how far a request got when something broke.
//
// It takes hostile answers apart with bounds on every part, and passes on only what may
// go outside. It does not choose endpoints, try again or answer clients by itself: what
// it needs of them is a [Receiver]. It makes no head of a request, and runs no tunnel.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"fairlead/internal/gateway/lasting"
	"fairlead/internal/system"
)

// Transport carries requests to one endpoint. It is safe for concurrent use.
type Transport interface {
	// Do sends a request and passes the answer on. What r says beside its body, its
	// trailers and its context is in q. It returns nil once the answer is whole or a
	// tunnel has ended, else a *SendError, or what reading the request's body returned.
	Do(to Receiver, r *http.Request, q *Request) error
	// Sweep closes connections that have idled for too long. Call it every second.
	Sweep(now time.Time)
	// Close closes the connections that idle, and each other one when its request
	// is done. Requests may still be sent.
	Close()
}

// Receiver is where an answer goes: the client, as the gateway sees it. The header of
// the http.ResponseWriter gets what the service said and may go outside; informational
// answers are written as such. PassesTrailer, Halt, Lasts and Ended may be called while
// another call is under way.
type Receiver interface {
	http.ResponseWriter
	io.ReaderFrom
	Flush()
	// Direct reports whether ReadFrom may hand the body to the client without anybody
	// looking at its bytes.
	Direct() bool
	// Duplex lets the answer begin before all of the request's body has been read.
	Duplex()
	// PassesTrailer reports whether a trailer of the request goes on to the service.
	PassesTrailer(name string) bool
	// Halt ends the reading of the request's body for good, one under way too. From now
	// on the context of the request says nothing of the client.
	Halt()
	// Lasts is told of an answer that comes in pieces, Ended of its end.
	Lasts(s *lasting.Stream)
	Ended(s *lasting.Stream)
	// Tunnel answers that the protocol is switched, with what is in the header, and
	// returns when the tunnel has ended. The bytes that were read ahead of the service
	// go first. An error, a *ClientError too, means that there was no tunnel.
	Tunnel(t *lasting.Tunnel, protocol string, ahead []byte) error
}

// Request is a request as services get it. The same can be sent several times.
type Request struct {
	Head     []byte    // with the body behind it, if that is at hand
	Stream   bool      // the body of the http.Request is still to be sent
	Chunked  bool      // in chunks
	Expect   bool      // after the service said 100 Continue
	Upgrade  string    // protocol, "" for none
	Deadline time.Time // for the head of the answer
}

// Stage is how far a request got before something broke.
type Stage uint8

// How far a request got.
const (
	Unsent  Stage = iota // nothing of it can have reached the service
	Sent                 // something may have, and there is no answer
	Begun                // the answer has begun to reach the client
	Refused              // the answer is not HTTP
)

// SendError says what broke, for the access log, and how far the request got.
type SendError struct {
	Progress Stage
	cause    error
}

// Error returns the text of what broke.
func (e *SendError) Error() string { return e.cause.Error() }

// Unwrap returns what broke.
func (e *SendError) Unwrap() error { return e.cause }

// ClientError is one of the client's connection.
type ClientError struct{ Cause error }

// Error says that the client is why the answer broke off.
func (e *ClientError) Error() string { return "write to the client: " + e.Cause.Error() }

// Unwrap returns the error of the connection.
func (e *ClientError) Unwrap() error { return e.Cause }

// TimedOut reports whether an operation on a connection took too long.
func TimedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// StreamIdle is how long an answer's body may make no progress.
const StreamIdle = 60 * time.Second

const (
	dialTime = 5 * time.Second
	// linkIdle is how long a connection may idle. It is less than the five seconds
	// after which Node.js closes one: a request must not meet the close.
	linkIdle = 4 * time.Second
	maxIdle  = 512 // per endpoint
)

// New returns what speaks a protocol with an address. It does no I/O.
func New(network, address string, protocol system.Protocol) Transport {
	if protocol == system.H2C {
		return newH2C(network, address)
	}
	return newHTTP1(network, address)
}

// http1 keeps connections to one endpoint and speaks HTTP/1.1 on them, each
// request on the goroutine that serves the client.
type http1 struct {
	network, address string
	dialer           net.Dialer

	mu     sync.Mutex // guards the fields below
	idle   []*link    // the most lately used is last
	closed bool
}

func newHTTP1(network, address string) *http1 {
	return &http1{network: network, address: address, dialer: net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}}
}

// take returns a connection, one that idles and still lives, or a new one. Its
// deadline is set.
func (u *http1) take(ctx context.Context, now, deadline time.Time) (*link, error) {
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

func (u *http1) pop() *link {
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
func (u *http1) put(l *link, now time.Time) {
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

// Sweep closes what has idled for too long.
func (u *http1) Sweep(now time.Time) {
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

// Close closes what idles.
func (u *http1) Close() {
	u.mu.Lock()
	idle := u.idle
	u.idle, u.closed = nil, true
	u.mu.Unlock()
	for _, l := range idle {
		l.close()
	}
}

var errClosedBefore = errors.New("the service closed the connection without an answer")

// Do sends a request on a connection that nobody else uses meanwhile.
func (u *http1) Do(to Receiver, r *http.Request, q *Request) error {
	l, err := u.take(r.Context(), time.Now(), q.Deadline)
	if err != nil {
		return &SendError{Unsent, err}
	}
	leave := context.AfterFunc(r.Context(), l.interrupt)
	err = l.exchange(to, r, q)
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

// Live returns how many of the connections that idle can take a request.
func (u *http1) Live() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, l := range u.idle {
		if l.alive() {
			n++
		}
	}
	return n
}
