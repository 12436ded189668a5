package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	minReconnectDelay = 5 * time.Millisecond
	maxReconnectDelay = 20 * time.Millisecond // leaves time to connect within 50 ms
	dialTimeout       = 2 * time.Second
	pingInterval      = 10 * time.Second
	flushTimeout      = time.Second
)

// connect begins to connect to the bus and goes on for ever, so that neither has to
// start first.
func (s *Service) connect() error {
	opts := []nats.Option{
		nats.Name(s.config.instance),
		nats.Timeout(dialTimeout),
		nats.PingInterval(pingInterval),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),    // the bus may come back before it knows us
		nats.IgnoreDiscoveredServers(), // we are granted these and no others
		nats.CustomReconnectDelay(func(int) time.Duration {
			return minReconnectDelay + rand.N(maxReconnectDelay-minReconnectDelay)
		}),
		nats.ConnectHandler(func(c *nats.Conn) {
			s.logger.Info("bus connected", "server", c.ConnectedServerName())
			close(s.connected)
		}),
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if err != nil && !c.IsClosed() {
				s.logger.Warn("bus connection lost", wire.KeyError, err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			s.holding.end()
			s.lastBusError.Store("")
			s.logger.Info("bus connected again", "reconnects", c.Stats().Reconnects)
			select {
			case <-s.made:
				s.queues.returned()
				go s.askQueues()
			default: // nothing was asked yet
			}
		}),
		nats.ErrorHandler(s.busError),
		nats.ClosedHandler(func(c *nats.Conn) {
			s.holding.end()
			if s.ctx.Err() == nil {
				s.breakdown(fmt.Errorf("lose bus for good: %w", errors.Join(nats.ErrConnectionClosed, c.LastError())))
			}
			close(s.closed)
		}),
	}
	if s.config.busUser != "" {
		opts = append(opts, nats.UserInfo(s.config.busUser, s.config.busPassword))
	}
	if s.config.busInbox != "" {
		opts = append(opts, nats.CustomInboxPrefix(s.config.busInbox))
	}
	conn, err := nats.Connect(s.config.busURL, opts...)
	if err != nil {
		return fmt.Errorf("connect to bus: %w", err)
	}
	s.conn = conn
	close(s.made)
	return errors.Join(s.heedQueues(), s.heedHold())
}

// busError hears what the bus refuses, and what could not keep up.
func (s *Service) busError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		verb, subject := deniedSubject(err.Error())
		if verb == "publish" {
			// The server tells where a subject is mapped to.
			subject = strings.TrimPrefix(subject, "$FLQ.in.")
			if consumer, pulls := strings.CutPrefix(subject, "$FLQ.js.next."); pulls {
				subject = apiNext + consumer
			}
			s.denials.deny(subject)
			if strings.HasPrefix(subject, "$") {
				// An instance that is to stop may pull no more.
				s.logger.Debug("bus denies sending", wire.KeySubject, subject)
				return
			}
			if s.repeated(err) {
				return
			}
			s.logger.Error("bus denies sending", wire.KeySubject, subject, wire.KeyReason, "the file must name it under asks or publishes")
			return
		}
		// The bus takes our subscriptions away before we are stopped, so that no
		// more requests come: that is how an instance is drained.
		s.logger.Debug("bus took a subscription", wire.KeySubject, subject)
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		s.logger.Warn("messages dropped, their handler is too slow", wire.KeySubject, sub.Subject)
	default:
		if !s.repeated(err) {
			s.logger.Warn("bus reports an error", wire.KeyError, err)
		}
	}
}

// repeated reports whether err is what the bus said last.
func (s *Service) repeated(err error) bool {
	text := err.Error()
	return s.lastBusError.Swap(text) == text
}

// deniedSubject reads the server's words: Permissions Violation for Publish to "x".
func deniedSubject(text string) (verb, subject string) {
	for word, v := range map[string]string{`Publish to `: "publish", `Subscription to `: "subscribe", `Publish with Reply of `: "reply"} {
		if _, rest, ok := strings.Cut(text, word); ok {
			if quoted, err := strconv.QuotedPrefix(rest); err == nil {
				subject, _ = strconv.Unquote(quoted) // QuotedPrefix has checked it
			}
			return v, subject
		}
	}
	return "", ""
}

// denials end the asks for a subject that the bus does not let us send to: it tells
// us so without saying which message it was.
type denials struct {
	mu   sync.Mutex // guards asks
	asks map[string]map[*context.CancelCauseFunc]struct{}
}

// watch returns a context that ends with ErrDenied when the bus denies the subject.
func (d *denials) watch(ctx context.Context, subject string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	key := &cancel
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asks == nil {
		d.asks = make(map[string]map[*context.CancelCauseFunc]struct{})
	}
	if d.asks[subject] == nil {
		d.asks[subject] = make(map[*context.CancelCauseFunc]struct{})
	}
	d.asks[subject][key] = struct{}{}
	return ctx, func() {
		d.mu.Lock()
		delete(d.asks[subject], key)
		if len(d.asks[subject]) == 0 {
			delete(d.asks, subject)
		}
		d.mu.Unlock()
		cancel(nil)
	}
}

func (d *denials) deny(subject string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for cancel := range d.asks[subject] {
		(*cancel)(ErrDenied)
	}
}

// subscription is one on the bus, and when it has ended.
type subscription struct {
	*nats.Subscription
	ended chan struct{} // closed after the last message was delivered
}

// subscribe makes a subscription and asks the bus whether it stands.
func (s *Service) subscribe(subject, group string, deliver func(*nats.Msg)) (*subscription, error) {
	before := s.conn.LastError()
	var sub *nats.Subscription
	var err error
	if group == "" {
		sub, err = s.conn.Subscribe(subject, deliver)
	} else {
		sub, err = s.conn.QueueSubscribe(subject, group, deliver)
	}
	if err != nil {
		return nil, err
	}
	out := &subscription{Subscription: sub, ended: make(chan struct{})}
	sub.SetClosedHandler(func(string) { close(out.ended) })
	// If the bus goes away meanwhile, the subscription is made when it is back.
	if err := s.conn.FlushTimeout(flushTimeout); err == nil {
		if err := s.conn.LastError(); errors.Is(err, nats.ErrPermissionViolation) && !errors.Is(before, err) {
			if _, denied := deniedSubject(err.Error()); denied == subject {
				return nil, ErrDenied
			}
		}
	}
	return out, nil
}

// register makes all subscriptions, once the bus is there.
func (s *Service) register(ctx context.Context) error {
	if s.conn == nil {
		return nil
	}
	select {
	case <-s.connected:
	default:
		s.logger.InfoContext(ctx, "waiting for the bus")
		select {
		case <-s.connected:
		case <-ctx.Done():
			return nil
		}
	}
	go s.askQueues() //nolint:contextcheck // it goes on for as long as the service
	s.registerMicro()
	for _, e := range s.endpoints {
		sub, err := s.subscribe(e.subject, e.group, e.deliver)
		if err != nil {
			return fmt.Errorf("answer %q in group %q: %w: the file must name it under answers", e.subject, e.group, err)
		}
		e.sub = sub
	}
	for _, l := range s.listeners {
		sub, err := s.subscribe(l.subject, "", l.deliver)
		if err != nil {
			return fmt.Errorf("subscribe %q: %w: the file must name it under subscribes", l.subject, err)
		}
		l.sub = sub
	}
	for _, r := range s.receivers { // else one that is refused leaves the consumers of the others behind
		if err := r.possible(ctx); err != nil {
			return fmt.Errorf("subscribe %q: %w", r.subject, err)
		}
	}
	for _, r := range s.receivers {
		if err := r.start(ctx); err != nil {
			return fmt.Errorf("subscribe %q: %w", r.subject, err)
		}
	}
	return nil
}

// drainBus stops taking requests and messages and waits until all that were taken
// are done, or ctx ends.
func (s *Service) drainBus(ctx context.Context) error {
	if s.conn == nil {
		return nil
	}
	for _, r := range s.receivers {
		r.stop()
	}
	var subs []*subscription
	for _, e := range s.endpoints {
		subs = append(subs, e.sub)
	}
	for _, l := range s.listeners {
		subs = append(subs, l.sub)
	}
	for _, sub := range subs {
		if sub == nil {
			continue
		}
		end := sub.Drain
		if !s.conn.IsConnected() {
			end = sub.Unsubscribe // a drain would wait for the bus
		}
		if err := end(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			s.logger.WarnContext(ctx, "subscription not ended", wire.KeySubject, sub.Subject, wire.KeyError, err)
		}
	}
	for _, sub := range subs {
		if sub == nil {
			continue
		}
		select {
		case <-sub.ended:
		case <-s.closed:
		case <-ctx.Done():
			return fmt.Errorf("drain %s: %w", sub.Subject, context.Cause(ctx))
		}
	}
	for _, e := range s.endpoints {
		if n := e.open.wait(ctx); n > 0 {
			return fmt.Errorf("drain %s: %d requests are still running: %w", e.subject, n, context.Cause(ctx))
		}
	}
	for _, r := range s.receivers {
		if err := r.drained(ctx); err != nil {
			return err
		}
	}
	return nil
}

// closeBus sends what is buffered and closes the connection.
func (s *Service) closeBus() {
	if s.conn == nil {
		return
	}
	if s.conn.IsConnected() {
		if err := s.conn.FlushTimeout(flushTimeout); err != nil {
			s.logger.Warn("bus not flushed", wire.KeyError, err)
		}
	}
	s.conn.Close()
	<-s.closed
}
