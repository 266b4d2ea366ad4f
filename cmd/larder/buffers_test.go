package main

import "testing"

// The pool clears a buffer each time it gives one out, so what a message does not need of a buffer costs time.
func TestBuffersAreLittleLargerThanMessages(t *testing.T) {
	t.Parallel()
	pool := newBuffers()
	for size := 16 << 10; size <= 4<<20; size += 10_000 {
		b := pool.Get(size)
		if len(*b) != size || cap(*b) > 2*size {
			t.Errorf("Get(%d) = a buffer of length %d and capacity %d, want length %d and capacity at most %d", size, len(*b), cap(*b), size, 2*size)
		}
		pool.Put(b)
	}
}
