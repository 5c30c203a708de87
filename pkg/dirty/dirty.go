// Package dirty holds the keys of what has changed and waits to be worked off.
// A key that changes again while it waits waits once. Both programs import it.
package dirty

import "sync"

// Set holds keys in the order in which they were added. It is safe for
// concurrent use.
type Set[K comparable] struct {
	wake chan struct{}

	mu    sync.Mutex // guards what follows
	order []K
	has   map[K]struct{}
}

// NewSet returns an empty set.
func NewSet[K comparable]() *Set[K] {
	return &Set[K]{wake: make(chan struct{}, 1), has: map[K]struct{}{}}
}

// Add adds keys and returns those that did not wait yet.
func (s *Set[K]) Add(keys ...K) (added []K) {
	added = s.Return(keys...)
	if len(keys) > 0 {
		s.Signal()
	}
	return added
}

// Signal makes Wake receive: there is reason to try again.
func (s *Set[K]) Signal() { Signal(s.wake) }

// Signal puts a signal into a channel of capacity 1, unless one is waiting already, which
// says the same.
func Signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Return is Add without a signal, for keys whose work failed: whoever returns
// them knows when to try again.
func (s *Set[K]) Return(keys ...K) (added []K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if _, waits := s.has[k]; !waits {
			s.has[k] = struct{}{}
			added = append(added, k)
		}
	}
	s.order = append(s.order, added...)
	return added
}

// Wake receives after Add and Signal. Signals that nobody took yet become one.
func (s *Set[K]) Wake() <-chan struct{} { return s.wake }

// Take removes all keys and returns them.
func (s *Set[K]) Take() []K {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := s.order
	s.order = nil
	clear(s.has)
	return keys
}

// Pop removes the key that has waited for the longest time.
func (s *Set[K]) Pop() (k K, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		s.order = nil // a burst's memory is given back
		return k, false
	}
	k = s.order[0]
	s.order = s.order[1:]
	delete(s.has, k)
	return k, true
}
