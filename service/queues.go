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
	// namesPause is how long is waited first, and namesPauseMost at most, before the
	// node is asked again. In a system without queues nobody answers; whoever begins to
	// answer tells everybody the queues.
	namesPause     = 250 * time.Millisecond
	namesPauseMost = time.Minute
)

// queues are the subjects that queues keep, as far as the node has told.
type queues struct {
	mu      sync.RWMutex // guards what follows
	exact   map[string]struct{}
	pattern []string
	all     []string
	told    context.CancelFunc // ends the asking which queues there are; nil: nobody has asked
	changed []func()           // called when they are others
	back    []func()           // called when the bus is there again
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
	if q.told != nil {
		q.told()
	}
	q.mu.Unlock()
	if !same {
		for _, f := range changed {
			f()
		}
	}
}

// asking is a context for asking which queues there are. It ends when they are told, or
// when they are asked for anew.
func (q *queues) asking(ctx context.Context) context.Context {
	ctx, told := context.WithCancel(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.told != nil {
		q.told()
	}
	q.told = told
	return ctx
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

// askQueues asks the node which queues there are, until it has told: the bus is there
// again, and something may have changed meanwhile.
func (s *Service) askQueues() {
	if !s.config.node {
		return
	}
	ctx := s.queues.asking(s.ctx)
	insist(ctx, func() error {
		var told wire.QueueNames
		err := s.askNode(ctx, wire.SubjectNames, struct{}{}, &told)
		if err == nil {
			s.queues.set(told.Queues)
		}
		return err
	})
}

// insist asks until there is an answer, less and less often, or until ctx ends.
func insist(ctx context.Context, ask func() error) {
	for wait := namesPause; ask() != nil && pause(ctx, wait); {
		wait = min(2*wait, namesPauseMost)
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
