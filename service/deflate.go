package service

import (
	"compress/zlib"
	"io"

	"google.golang.org/grpc/encoding"
)

// The clients that are built on gRPC's C core offer deflate beside gzip, and grpc-go has it not.
func init() { encoding.RegisterCompressor(deflate{}) }

// deflate is the encoding deflate of gRPC's protocol: the format zlib, RFC 1950.
type deflate struct{}

// Name returns the name of the encoding.
func (deflate) Name() string { return "deflate" }

// Compress returns a writer that writes to w what it compresses.
func (deflate) Compress(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil }

// Decompress returns a reader of what r holds in compressed form.
func (deflate) Decompress(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }
