package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/internal/system/notation"
	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

// memory is a bus of a test: it keeps queues, and may lose what it tells.
type memory struct {
	mu        sync.Mutex
	queues    []*queue
	listeners map[*listener]bool
	broken    error // of Streams and Read
	reads     int
}

type queue struct {
	Stream

	kept []Message
}

type listener struct {
	pattern string
	in      chan Message
	missed  func()
}

func newMemory(queues ...string) *memory {
	m := &memory{listeners: map[*listener]bool{}}
	for _, name := range queues {
		m.addQueue(name)
	}
	return m
}

func (b *memory) addQueue(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := &queue{Stream: Stream{ID: uint64(len(b.queues) + 1), Name: strings.ReplaceAll(name, ".", "_"), Queue: name, First: 1, Created: time.Now()}}
	b.queues = append(b.queues, q)
}

func (b *memory) queue(subject string) *queue {
	for _, q := range b.queues {
		if matches(q.Queue, subject) {
			return q
		}
	}
	return nil
}

// publish stores a message and tells it, unless it is lost on the way.
func (b *memory) publish(subject, data string, lost bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := Message{Subject: subject, Data: []byte(data), Time: time.Unix(1, 0)}
	if q := b.queue(subject); q != nil {
		q.Last++
		m.Stream, m.Sequence = q.Name, q.Last
		q.kept = append(q.kept, m)
	}
	if !lost {
		b.tell(m)
	}
}

func (b *memory) tell(m Message) {
	for l := range b.listeners {
		if matches(l.pattern, m.Subject) {
			l.in <- m
		}
	}
}

// forget drops the oldest messages of a queue up to a sequence.
func (b *memory) forget(subject string, through uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue(subject)
	q.kept = slices.DeleteFunc(q.kept, func(m Message) bool { return m.Sequence <= through })
	q.First = through + 1
}

// interrupt says that messages may have been lost.
func (b *memory) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listeners {
		l.missed()
	}
}

func (b *memory) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

func (b *memory) Listen(pattern string, take func(*Message, bool), missed func()) (func(), error) {
	l := &listener{pattern, make(chan Message, 100_000), missed}
	b.mu.Lock()
	b.listeners[l] = true
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range l.in {
			take(&m, len(l.in) > 0)
		}
	}()
	return func() {
		b.mu.Lock()
		delete(b.listeners, l)
		b.mu.Unlock()
		close(l.in)
		<-done
	}, nil
}

func (b *memory) Streams(_ context.Context, pattern string) ([]Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Stream
	for _, q := range b.queues {
		if notation.SubjectsShared(pattern, q.Queue) != "" {
			list = append(list, q.Stream)
		}
	}
	return list, b.broken
}

func (b *memory) Read(_ context.Context, s Stream, patterns []string, after uint64, most int) (Page, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	for _, q := range b.queues {
		if q.ID != s.ID {
			continue
		}
		p := Page{Through: after, First: q.First, Last: q.Last}
		for _, m := range q.kept {
			if m.Sequence > after && slices.ContainsFunc(patterns, func(f string) bool { return matches(f, m.Subject) }) && len(p.Messages) < most {
				p.Messages = append(p.Messages, m)
				p.Through = m.Sequence
			}
		}
		if len(p.Messages) < most {
			p.Through = max(after, q.Last)
		}
		return p, b.broken
	}
	return Page{}, errors.Join(b.broken, fmt.Errorf("no stream %s", s.Name))
}
