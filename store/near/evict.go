package near

// push puts an entry at the head of the list.
func (s *shard) push(e *entry) {
	e.older = s.head
	if s.head != nil {
		s.head.newer = e
	}
	s.head = e
	if s.tail == nil {
		s.tail = e
	}
	s.bytes += e.size
}

// remove takes an entry, nil for none, out of the list and the map.
func (s *shard) remove(e *entry) {
	if e == nil {
		return
	}
	if s.hand == e {
		s.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.head = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.tail = e.newer
	}
	delete(s.entries, e.key)
	s.bytes -= e.size
}

// evict removes the first entry, from the hand towards the head, that was not used since the hand last passed it. This is
// SIEVE (Zhang et al., NSDI 2024): a hit only sets a bit, so that readers share the lock.
func (s *shard) evict() {
	e := s.hand
	if e == nil {
		e = s.tail
	}
	for e.visited.Load() {
		e.visited.Store(false)
		if e = e.newer; e == nil {
			e = s.tail
		}
	}
	s.hand = e.newer
	s.remove(e)
}
