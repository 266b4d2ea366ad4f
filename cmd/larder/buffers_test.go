package main

import "testing"

// TestBuffersAreLittleLargerThanMessages: a buffer is cleared whenever it is given out, and what a message does not need of
// it is wasted.
func TestBuffersAreLittleLargerThanMessages(t *testing.T) {
	t.Parallel()
	pool := newBuffers()
	for size := 16 << 10; size <= 4<<20; size += 10_000 {
		b := pool.Get(size)
		if len(*b) != size || cap(*b) > 2*size {
			t.Errorf("%d bytes are given a buffer of %d, %d", size, len(*b), cap(*b))
		}
		pool.Put(b)
	}
}
