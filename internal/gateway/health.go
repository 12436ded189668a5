package gateway

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/lasting"
	"fairlead/internal/gateway/upstream"
	"fairlead/internal/wire"
)

// mostEjection bounds how many times its pool's eject time an endpoint is out.
const mostEjection = 10

// health is what the answers of an endpoint say about it.
type health struct {
	row   atomic.Int64 // failures in a row
	until atomic.Int64 // Unix nanoseconds until which it is ejected, 0: never was

	// The pool's mutex guards the fields below.
	times int       // ejections since it last behaved for as long as it had been out
	since time.Time // of the last ejection
}

// fault is a kind of failure that counts against an endpoint.
type fault uint8

const (
	faultNone    fault = iota
	faultConnect       // no connection could be made
	faultBroken        // the answer is missing, cut off or not HTTP
	faultTimeout       // no answer came in time
	faultStatus        // the service answered 502, 503 or 504
	faults
)

// faultOf judges one attempt. What the client's side caused is no fault of the
// endpoint: a client that left or stalled, a body that could not be read.
func (x *exchange) faultOf(r *http.Request, err error) fault {
	var failed *upstream.SendError
	var client *upstream.ClientError
	switch {
	case err == nil:
		if s := x.answer.status; s >= http.StatusBadGateway && s <= http.StatusGatewayTimeout {
			return faultStatus
		}
		return faultNone
	case !errors.As(err, &failed), errors.As(err, &client), errors.Is(err, lasting.ErrEnded), x.clientLeft(r):
		return faultNone
	case upstream.TimedOut(err):
		return faultTimeout
	case failed.Progress == upstream.Unsent:
		return faultConnect
	}
	return faultBroken
}

// judge notes how an attempt ended, and ejects an endpoint that fails too often in
// a row: for the pool's eject time, longer each time it comes back and fails at
// once. At least half of the pool is left in.
func (p *pool) judge(e *endpoint, f fault, spared bool) {
	if f == faultNone {
		if !spared && e.health.row.Load() != 0 {
			p.recovered(e)
		}
		return
	}
	p.faults[f].Add(1)
	if f == faultConnect {
		p.g.external.Failed(p.service)
	}
	e.failed.Add(1)
	set := p.settings.Load()
	if row := e.health.row.Add(1); set.Eject > 0 && row >= int64(set.Eject) {
		p.eject(e, time.Now(), set.EjectTime, row)
	}
}

func (p *pool) eject(e *endpoint, now time.Time, unit time.Duration, row int64) {
	if unit <= 0 {
		unit = defaultEjectTime
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	rd := p.current()
	if rd == nil || e.health.until.Load() > now.UnixNano() || e.gone.Load() {
		return
	}
	out := 1
	for _, other := range rd.http {
		if other.health.until.Load() > now.UnixNano() {
			out++
		}
	}
	if 2*out > len(rd.http) {
		return
	}
	h := &e.health
	if back := time.Unix(0, h.until.Load()); h.until.Load() != 0 && now.Sub(back) > back.Sub(h.since) {
		h.times = 0
	}
	h.times = min(h.times+1, mostEjection)
	h.since = now
	took := time.Duration(h.times) * unit
	h.until.Store(now.Add(took).UnixNano())
	p.ejections.Add(1)
	if h.times == 1 { // what comes of coming back is no news
		p.g.log.Warn("endpoint ejected from its pool", wire.KeyService, p.service, wire.KeyInstance, e.Instance, "failures", row, "for", took)
	}
}

// recovered ends a row of failures.
func (p *pool) recovered(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.health.row.Swap(0) > 0 && e.health.times > 0 && e.health.until.Load() <= time.Now().UnixNano() {
		p.g.log.Info("ejected endpoint answers again", wire.KeyService, p.service, wire.KeyInstance, e.Instance)
	}
}
