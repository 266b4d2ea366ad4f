package main

import (
	"slices"

	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// setBuffers replaces the pool of buffers in which grpc-go encodes messages. The buffers of its own pool have no size between
// 32 KiB and 1 MiB, and the pool clears a buffer each time it gives one out, so that a response of 100 KiB costs the clearing
// of 1 MiB: a quarter of the CPU time of a BatchGet. The floor of `larder bench` keeps grpc-go's own pool.
func setBuffers(args []string) {
	if !slices.Contains(args, "bench-floor") {
		experimental.SetDefaultBufferPool(newBuffers())
	}
}

// newBuffers returns a pool whose buffers have the powers of two from 16 KiB to 4 MiB, and grpc-go's own smaller sizes.
func newBuffers() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22)
	if err != nil { // the exponents are out of range
		panic(err)
	}
	return pool
}
