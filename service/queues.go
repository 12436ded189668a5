package service

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	namesTimeout = 2 * time.Second
	namesPause   = 250 * time.Millisecond
)

// queues are the subjects that queues keep, as far as the node has told.
type queues struct {
	mu      sync.RWMutex // guards what follows
	exact   map[string]struct{}
	pattern []string
	all     []string
	changed []func() // called when they are others
	back    []func() // called when the bus is there again
}

// set takes what the node has told.
func (q *queues) set(names []string) {
	exact := make(map[string]struct{}, len(names))
	var pattern []string
	for _, name := range names {
		if strings.ContainsAny(name, "*>") {
			pattern = append(pattern, name)
		} else {
			exact[name] = struct{}{}
		}
	}
	q.mu.Lock()
	same := slices.Equal(q.all, names)
	q.exact, q.pattern, q.all = exact, pattern, slices.Clone(names)
	changed := slices.Clone(q.changed)
	q.mu.Unlock()
	if !same {
		for _, f := range changed {
			f()
		}
	}
}

// onChange has f called whenever the queues are others.
func (q *queues) onChange(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changed = append(q.changed, f)
}

// onReturn has f called whenever the bus is there again.
func (q *queues) onReturn(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.back = append(q.back, f)
}

func (q *queues) returned() {
	q.mu.RLock()
	back := slices.Clone(q.back)
	q.mu.RUnlock()
	for _, f := range back {
		f()
	}
}

// keep reports whether a queue keeps what is published on a subject.
func (q *queues) keep(subject string) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if _, ok := q.exact[subject]; ok {
		return true
	}
	return slices.ContainsFunc(q.pattern, func(p string) bool { return matches(p, subject) })
}

// matches reports whether a literal subject is one of a pattern's.
func matches(pattern, subject string) bool {
	for {
		p, pRest, pMore := strings.Cut(pattern, ".")
		s, sRest, sMore := strings.Cut(subject, ".")
		switch {
		case p == ">" && !pMore:
			return true
		case p != "*" && p != s, pMore != sMore:
			return false
		case !pMore:
			return true
		}
		pattern, subject = pRest, sRest
	}
}

// heedQueues begins to hear which queues there are, if there is a node to tell.
func (s *Service) heedQueues() error {
	if !s.config.node {
		return nil
	}
	s.queues.set(s.config.queues)
	_, err := s.conn.Subscribe(wire.SubjectQueues, func(m *nats.Msg) {
		var told wire.QueueNames
		if err := json.Unmarshal(m.Data, &told); err == nil {
			s.queues.set(told.Queues)
		}
	})
	return err
}

// askQueues asks the node which queues there are, until it answers: the bus is there
// again, and something may have changed meanwhile.
func (s *Service) askQueues() {
	if !s.config.node {
		return
	}
	for s.ctx.Err() == nil {
		var told wire.QueueNames
		if err := s.askNode(s.ctx, wire.SubjectNames, struct{}{}, &told); err == nil {
			s.queues.set(told.Queues)
			return
		}
		if !pause(s.ctx, namesPause) {
			return
		}
	}
}

// askNode asks the node something about queues, in the name of this instance.
func (s *Service) askNode(ctx context.Context, prefix string, req, reply any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, namesTimeout)
	defer cancel()
	ctx, release := s.denials.watch(ctx, prefix+s.config.busUser)
	defer release()
	m, err := s.conn.RequestWithContext(ctx, prefix+s.config.busUser, body)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = errors.Join(cause, err)
		}
		return err
	}
	return json.Unmarshal(m.Data, reply)
}
