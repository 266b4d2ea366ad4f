package main

import (
	"slices"

	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// setBuffers replaces the buffers that grpc makes messages in. Its own have no size between 32 KiB and 1 MiB and are
// cleared whenever they are given out, so that an answer of 100 KiB pays for a mebibyte: a quarter of the CPU time of a
// BatchGet. The floor that bench compares with is grpc as it comes.
func setBuffers(args []string) {
	if !slices.Contains(args, "bench-floor") {
		experimental.SetDefaultBufferPool(newBuffers())
	}
}

// newBuffers has buffers of powers of two from 16 KiB to 4 MiB, and of the smaller sizes of grpc.
func newBuffers() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22)
	if err != nil { // the exponents are out of range
		panic(err)
	}
	return pool
}
