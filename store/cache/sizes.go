package cache

import "sync"

const (
	// portionBytes is about how much of the values a batch reads at a time, and portionKeys the maximum number of values.
	portionBytes = 1 << 20
	portionKeys  = 128
	// firstPortion is the number of values that are read of a namespace about whose values nothing is known.
	firstPortion = 16
	// maxSized is the number of namespaces whose values are known. The others share what is known of them.
	maxSized = 1000
)

// sizes are the average sizes of the values that were read of each namespace, of late. They bound what a batch reads at a time:
// the memory that it takes and the time for which its answers hold up others.
type sizes struct {
	mu      sync.Mutex
	average map[string]int
}

// name returns the name under which a namespace is known. The lock must be held.
func (s *sizes) name(namespace string) string {
	if _, known := s.average[namespace]; !known && len(s.average) >= maxSized {
		return "" // no namespace has this name
	}
	return namespace
}

// portion returns how many values of a namespace to read at a time.
func (s *sizes) portion(namespace string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	average, known := s.average[s.name(namespace)]
	if !known {
		return firstPortion
	}
	return min(max(portionBytes/max(average, 1), 1), portionKeys)
}

// learn takes note of how many values of a namespace were read and of their size together.
func (s *sizes) learn(namespace string, values, bytes int) {
	if values == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.average == nil {
		s.average = make(map[string]int)
	}
	name, average := s.name(namespace), bytes/values
	if before, known := s.average[name]; known {
		average = (3*before + average) / 4
	}
	s.average[name] = average
}
