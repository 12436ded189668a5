package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"fairlead/internal/supervise/process"
)

// unprobed is how long a process must live to count as ready when nothing says
// how to see it: long enough to notice a program that ends at once, also one of
// a slow runtime.
const unprobed = 500 * time.Millisecond

// How often readiness is looked at: quickly at first, since a service is ready
// within milliseconds as a rule.
const (
	eagerProbe = 10 * time.Millisecond
	lazyProbe  = 200 * time.Millisecond
)

// verdict is the end of waiting for an instance.
type verdict struct {
	endpoint Endpoint
	reason   string // why it is not ready; "" when it is
}

// probe looks at one instance.
type probe struct {
	spec     Spec
	id       string
	mark     process.Mark
	pid      int
	port     int
	socket   string
	ended    <-chan struct{}
	host     Host
	note     func(reason string)
	client   *http.Client
	endpoint Endpoint // found by awaitReady
}

func newProbe(p *place, a *attempt) *probe {
	pr := &probe{
		spec: p.spec, id: a.id, mark: process.Mark{Data: p.sup.dataID, Instance: a.id},
		pid: a.process.Identity.PID, port: a.port, socket: a.socket, ended: a.process.Ended(), host: p.sup.opts.Host,
		note: p.note,
	}
	pr.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return pr.dial(ctx, pr.endpoint) },
			// Each probe sees whether new connections are accepted.
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return pr
}

func (p *probe) close() { p.client.CloseIdleConnections() }

func (p *probe) dial(ctx context.Context, e Endpoint) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, e.Network, e.Address)
}

// awaitReady waits until the instance is ready, for at most the start period.
// The verdict means nothing when ctx has ended.
func (p *probe) awaitReady(ctx context.Context) verdict {
	limit, cancel := context.WithTimeout(ctx, p.spec.Healthcheck.StartPeriod)
	defer cancel()
	if !p.spec.OnBus && !p.spec.endpoint() {
		select {
		case <-time.After(unprobed):
		case <-ctx.Done():
		}
		return verdict{endpoint: Endpoint{Network: "bus"}}
	}
	missing := "it was not looked at"
	for pause := eagerProbe; ; pause = min(pause*3/2, lazyProbe) {
		now := p.missing(limit)
		if now == "" {
			return verdict{endpoint: p.endpoint}
		}
		// What was broken off by the limit says nothing; a dial may notice first.
		if end, _ := limit.Deadline(); limit.Err() == nil && time.Now().Before(end) {
			missing = now
			p.note(now)
		}
		select {
		case <-time.After(pause):
		case <-limit.Done():
			return verdict{reason: fmt.Sprintf("not ready within %v: %s", p.spec.Healthcheck.StartPeriod, missing)}
		}
	}
}

// missing says what the instance lacks to be ready, "" for nothing.
func (p *probe) missing(ctx context.Context) string {
	if p.spec.endpoint() {
		if p.endpoint.Network == "" {
			found, reason := p.find(ctx)
			if reason != "" {
				return reason
			}
			p.endpoint = found
		}
		if reason := p.check(ctx); reason != "" {
			return reason
		}
	} else {
		p.endpoint = Endpoint{Network: "bus"}
	}
	if p.spec.OnBus {
		return p.host.Unregistered(p.id)
	}
	return ""
}

// find returns the endpoint that accepts connections, the socket or the port.
func (p *probe) find(ctx context.Context) (Endpoint, string) {
	ctx, cancel := context.WithTimeout(ctx, p.spec.Healthcheck.Timeout)
	defer cancel()
	// The socket's folder is ours alone: who listens there is the instance.
	unix := Endpoint{Network: "unix", Address: p.socket}
	if p.accepts(ctx, unix) == nil {
		return unix, ""
	}
	tcp := Endpoint{Network: "tcp", Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))}
	if err := p.accepts(ctx, tcp); err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return Endpoint{}, fmt.Sprintf("nothing listens on PORT %d or the socket", p.port)
		}
		return Endpoint{}, fmt.Sprintf("PORT %d does not accept connections: %v", p.port, err)
	}
	listeners, err := process.Listening(p.port)
	if err != nil {
		return Endpoint{}, err.Error()
	}
	table, err := process.All()
	if err != nil {
		return Endpoint{}, err.Error()
	}
	var roots []int
	select {
	case <-p.ended:
	default:
		roots = []int{p.pid}
	}
	if !table.Marked(p.mark, roots, nil).Own(listeners) {
		return Endpoint{}, fmt.Sprintf("PORT %d is held by a process that is not of the instance", p.port)
	}
	return tcp, ""
}

func (p *probe) accepts(ctx context.Context, e Endpoint) error {
	conn, err := p.dial(ctx, e)
	if err != nil {
		return err
	}
	_ = conn.Close()
	return nil
}

// check says what is wrong with the endpoint, "" for nothing. Without an HTTP
// probe it is enough that a connection is accepted.
func (p *probe) check(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, p.spec.Healthcheck.Timeout)
	defer cancel()
	path := p.spec.Healthcheck.HTTP
	if path == "" {
		if err := p.accepts(ctx, p.endpoint); err != nil {
			return fmt.Sprintf("%s does not accept connections: %v", p.endpoint, err)
		}
		return ""
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, http.NoBody)
	if err != nil {
		return fmt.Sprintf("%s cannot be asked for: %v", path, err)
	}
	request.Header.Set("User-Agent", "fairlead-healthcheck")
	answer, err := p.client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Sprintf("%s did not answer within %v", path, p.spec.Healthcheck.Timeout)
		}
		return fmt.Sprintf("%s did not answer: %v", path, errors.Unwrap(err))
	}
	// Some servers count an answer that is not read as broken off.
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	_ = answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Sprintf("%s answered %d", path, answer.StatusCode)
	}
	return ""
}

// watch returns why the instance is to be replaced, once as many probes in a
// row failed as the health check says. Without a probe of its own, an instance
// lives as long as its process. The result means nothing when ctx has ended.
func (p *probe) watch(ctx context.Context) string {
	h := p.spec.Healthcheck
	if h.HTTP == "" && !h.TCP {
		<-ctx.Done()
		return ""
	}
	for failures := 0; ; {
		select {
		case <-time.After(h.Interval):
		case <-ctx.Done():
			return ""
		}
		reason := p.check(ctx)
		if reason == "" {
			failures = 0
			continue
		}
		if failures++; failures >= h.Retries {
			return fmt.Sprintf("unhealthy %d times in a row: %s", failures, reason)
		}
	}
}
