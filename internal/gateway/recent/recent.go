// Package recent remembers a bounded number of things that were asked for lately.
// It needs no list of uses and no goroutine. It does not know how old an entry is:
// what ends at a time has to be checked by the caller.
package recent

import "sync"

// Map is a bounded map that forgets what was not asked for while size other
// entries came in. It keeps at most twice size. It is safe for concurrent use.
type Map[K comparable, V any] struct {
	size int

	mu         sync.RWMutex // guards young and old
	young, old map[K]V
}

// New returns an empty map. The size must be at least 1.
func New[K comparable, V any](size int) *Map[K, V] { return &Map[K, V]{size: size} }

// Find returns what is stored under k, and keeps it from being forgotten soon.
func (m *Map[K, V]) Find(k K) (V, bool) {
	m.mu.RLock()
	v, ok := m.young[k]
	if ok {
		m.mu.RUnlock()
		return v, true
	}
	v, ok = m.old[k]
	m.mu.RUnlock()
	if ok {
		m.Store(k, v)
	}
	return v, ok
}

// Store stores v under k, in place of what was there.
func (m *Map[K, V]) Store(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.young == nil {
		m.young = make(map[K]V)
	}
	if _, known := m.young[k]; !known && len(m.young) >= m.size {
		m.old, m.young = m.young, make(map[K]V)
	}
	m.young[k] = v
}

// Remove forgets k.
func (m *Map[K, V]) Remove(k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.young, k)
	delete(m.old, k)
}

// Clear forgets everything.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.young, m.old = nil, nil
}

// Len returns how many entries are kept; one that was found again may count twice.
func (m *Map[K, V]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.young) + len(m.old)
}
