package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"fairlead/internal/gateway/bridge"
	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/upstream"
)

const (
	// replayBody is the most of a body that is kept so that it can be sent again.
	replayBody = 64 << 10
	// maxAttempts bounds how often one request is sent.
	maxAttempts = 4
)

// outBuffers are for a head with a small body behind it.
var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// proxy sends the request to an instance of the route's service.
func (x *exchange) proxy(w http.ResponseWriter, r *http.Request) {
	q := upstream.Request{Deadline: x.deadline}
	if r.ProtoMajor == 1 { // the others cannot leave HTTP
		q.Upgrade = hop.Upgrade(r.Header)
	}
	buf := outBuffers.Get().(*[]byte) // the pool holds nothing else
	defer func() {
		if cap(q.Head) <= replayBody+maxHead {
			*buf = q.Head[:0]
		}
		outBuffers.Put(buf)
	}()
	q.Head = (*buf)[:0]
	if !x.prepare(w, r, &q) {
		return
	}
	if !x.takePlace(w, r, (*ready).anyHTTP) {
		return
	}
	defer x.givePlace()
	p := x.pool
	p.retries.earn()
	want := p.wishOf(x.wish, r, x.origin.Client)
	var triedBuf [4]*endpoint
	tried := triedBuf[:0]
	for pause := firstPause; ; {
		e := p.pick(x.snap, time.Now(), tried, want)
		if e == nil {
			var err error
			if tried, pause, err = x.awaitEndpoint(r.Context(), tried, pause); err != nil {
				x.unready(w, r, err)
				return
			}
			continue
		}
		x.instance, x.endpoint = e.Instance, e
		err := x.send(r, e, &q)
		if err == nil {
			return
		}
		if !x.again(r, &q, err) {
			x.broken(w, r, err)
			return
		}
		tried = append(tried, e)
	}
}

// send makes one attempt.
func (x *exchange) send(r *http.Request, e *endpoint, q *upstream.Request) error {
	defer e.leave()
	e.served.Add(1)
	err := e.up.Do((*receiver)(x), r, q)
	x.left = err != nil && x.clientLeft(r)
	x.pool.judge(e, x.faultOf(r, err), err != nil)
	var failed *upstream.SendError
	if errors.As(err, &failed) && failed.Progress == upstream.Unsent {
		e.served.Add(^uint64(0))
		e.shun.Store(time.Now().Add(shunTime).UnixNano())
		return err
	}
	x.sent++
	return err
}

// prepare makes what is sent. A small body is read first: then it can be sent
// again, and goes out in one piece with the head.
func (x *exchange) prepare(w http.ResponseWriter, r *http.Request, q *upstream.Request) bool {
	length := r.ContentLength
	if r.Body == nil || r.Body == http.NoBody {
		length = 0
	}
	if length != 0 {
		q.Upgrade = ""
	}
	q.Expect = length != 0 && r.ProtoAtLeast(1, 1) && hop.Nominated(r.Header["Expect"], "100-continue")
	q.Stream = q.Expect || length < 0 || length > replayBody
	q.Chunked = length < 0
	identity := ""
	if x.user != nil && x.g.minter != nil {
		told, err := x.g.minter.Token(x.user, x.pool.service)
		if err != nil {
			x.cause = err.Error()
			x.fail(w, r, http.StatusInternalServerError, "")
			return false
		}
		identity = told
	}
	q.Head = appendHead(q.Head, r, x, identity, q.Upgrade, length, q.Expect)
	if q.Stream || length == 0 {
		return true
	}
	start := len(q.Head)
	if need := start + int(length); cap(q.Head) < need {
		grown := make([]byte, start, need)
		copy(grown, q.Head)
		q.Head = grown
	}
	q.Head = q.Head[:start+int(length)]
	if _, err := io.ReadFull(r.Body, q.Head[start:]); err != nil {
		x.failBody(w, r, err)
		return false
	}
	if b, ok := r.Body.(*guardedBody); ok {
		b.finish()
	}
	return true
}

// again decides whether a request that broke may be sent once more.
func (x *exchange) again(r *http.Request, q *upstream.Request, err error) bool {
	var failed *upstream.SendError
	if !errors.As(err, &failed) || x.clientLeft(r) || !time.Now().Before(x.deadline) {
		return false
	}
	switch failed.Progress {
	case upstream.Unsent:
		return true // costs the service nothing; pauses and the deadline bound it
	case upstream.Sent:
		if upstream.TimedOut(err) || q.Stream || q.Upgrade != "" || x.sent >= maxAttempts || !(x.route.def.Retry || idempotent(r.Method)) {
			return false
		}
		return x.pool.retries.spend(time.Now())
	case upstream.Begun, upstream.Refused:
	}
	return false
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

const (
	firstPause = 10 * time.Millisecond
	mostPause  = time.Second
)

// awaitEndpoint waits for an instance to become ready, or if all refused the
// connection, for a change or a growing pause. Afterwards all may be tried again.
func (x *exchange) awaitEndpoint(ctx context.Context, tried []*endpoint, pause time.Duration) ([]*endpoint, time.Duration, error) {
	p := x.pool
	ctx, cancel := context.WithDeadline(ctx, x.deadline)
	defer cancel()
	if len(tried) == 0 {
		return tried, pause, p.await(ctx, (*ready).anyHTTP)
	}
	if time.Since(x.start) >= p.g.opts.WaitForReady {
		return tried, pause, errNotReady
	}
	began := time.Now()
	defer func() { p.waited(began, time.Now()) }()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-p.changes():
	case <-timer.C:
	case <-p.g.stopping:
		return tried, pause, errNotReady
	case <-ctx.Done():
		return tried, pause, ctx.Err()
	}
	return tried[:0], min(2*pause, mostPause), nil
}

// unready answers a request that found no instance.
func (x *exchange) unready(w http.ResponseWriter, r *http.Request, err error) {
	if x.clientLeft(r) {
		x.gone(r)
	}
	if x.cause == "" {
		x.cause = err.Error()
	}
	x.fail(w, r, http.StatusServiceUnavailable, unreadyText(err))
}

// unreadyText is what a client is told when no instance takes its request.
func unreadyText(err error) string {
	switch {
	case errors.Is(err, bridge.ErrHalted):
		return bridge.ErrHalted.Error()
	case errors.Is(err, errQueueFull), errors.Is(err, errQueueTime):
		return "the service has too much to do"
	}
	return "no instance of the service is ready"
}

// broken answers a request that was sent and brought no whole answer.
func (x *exchange) broken(w http.ResponseWriter, r *http.Request, err error) {
	x.cause = err.Error()
	var failed *upstream.SendError
	if !errors.As(err, &failed) {
		x.failBody(w, r, err)
		return
	}
	var client *upstream.ClientError
	switch {
	case errors.As(err, &client), x.clientLeft(r):
		x.gone(r)
	case failed.Progress == upstream.Begun:
		x.failure(http.StatusBadGateway)
		panic(http.ErrAbortHandler)
	case upstream.TimedOut(err) || !time.Now().Before(x.deadline):
		x.fail(w, r, http.StatusGatewayTimeout, "the service did not answer in time"+x.doubt(r))
	case failed.Progress == upstream.Unsent:
		x.fail(w, r, http.StatusServiceUnavailable, unreadyText(err))
	default:
		x.fail(w, r, http.StatusBadGateway, "the service broke off"+x.doubt(r))
	}
}

// unknown is added to what a client is told of a request that it cannot simply make
// again, and that a service may or may not have done.
const unknown = "; whether it has done what was asked is unknown"

func (x *exchange) doubt(r *http.Request) string {
	if x.sent == 0 || x.route.def.Retry || idempotent(r.Method) {
		return ""
	}
	return unknown
}
