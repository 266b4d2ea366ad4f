package service

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // callers may compress their messages
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// The errors of messages that no handler sees.
var (
	errMessageTooLarge  = errors.New("the message is larger than the server accepts")
	errMessageMalformed = errors.New("the message cannot be decoded")
)

// A receiver receives the request of a call. grpc-go would do that before any interceptor runs, and would answer a message
// that it refuses itself: without details, a line in the log or a metric, and with INTERNAL for what is the caller's mistake.
// The error of a receiver passes the interceptors as if the handler had returned it.
type receiver struct {
	most   int // bytes of a message, compressed or not
	refuse func(reason string)
}

// A rawStream is the stream of a call below grpc-go's own receiving. The type that implements it is internal to grpc-go, so
// that another version may lack these methods; grpc-go then receives the message.
type rawStream interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
}

// A registrar registers services whose unary methods receive through a receiver, within the bounds of receives unless it is nil.
// Streams receive so in [drainedStream.RecvMsg].
type registrar struct {
	*grpc.Server
	receiver *receiver
	receives *receiving
}

// RegisterService registers a service.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	received := *desc
	received.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		received.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: r.unary(m.Handler)}
	}
	r.Server.RegisterService(&received, impl)
}

// unary lets the interceptors of a method run also where its request is refused.
func (r registrar) unary(method grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, receive func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		var refused error
		bounds := reception{receiving: r.receives}
		defer bounds.end()
		return method(srv, ctx, func(m any) error {
			refused = r.receiver.receive(ctx, m, receive, &bounds)
			return nil
		}, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if refused != nil {
				handler = func(context.Context, any) (any, error) { return nil, refused }
			}
			return interceptor(ctx, req, info, handler)
		})
	}
}

// receive receives the only request of a call into m, within bounds. It uses grpc-go's own function where the stream is of an unknown
// type.
func (r *receiver) receive(ctx context.Context, m any, own func(any) error, bounds *reception) error {
	raw, known := grpc.ServerTransportStreamFromContext(ctx).(rawStream)
	into, decodes := m.(proto.Message)
	if !known || !decodes {
		return own(m)
	}
	err := r.read(ctx, raw, into, bounds)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err() // the call has ended, which is why nothing could be read
	case errors.Is(err, errMessageTooLarge), errors.Is(err, errMessageMalformed), len(fieldErrors(err)) > 0:
		r.refuse(reason(err))
	}
	return err
}

// read reads one message and the end of the stream. A message is a byte of flags, its length in four bytes, and the bytes.
func (r *receiver) read(ctx context.Context, raw rawStream, into proto.Message, bounds *reception) error {
	var header [5]byte
	switch err := raw.ReadMessageHeader(header[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: there is none", errMessageMalformed)
	case err != nil:
		return err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if uint64(size) > uint64(r.most) {
		return errMessageTooLarge // before its bytes are read
	}
	if err := bounds.begin(ctx, int(size), header[0] == 1); err != nil {
		return err
	}
	defer bounds.received()
	data, err := raw.Read(int(size))
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it is cut short", errMessageMalformed)
	case err != nil:
		return err
	}
	defer func() { data.Free() }()
	if header[0] > 1 {
		return fmt.Errorf("%w: its flags are unknown", errMessageMalformed)
	}
	if header[0] == 1 {
		inflated, err := r.inflate(encoding.GetCompressor(raw.RecvCompress()), data)
		if err != nil {
			return err
		}
		data.Free()
		data = inflated
		if err := bounds.hold(data.Len()); err != nil {
			return err
		}
	}
	switch err := raw.ReadMessageHeader(header[:]); {
	case err == nil:
		return fmt.Errorf("%w: a second one follows", errMessageMalformed)
	case !errors.Is(err, io.EOF):
		return err
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return decode(buffer.ReadOnlyData(), into)
}

// inflate returns a compressed message as it was, reading no more of it than is accepted.
func (r *receiver) inflate(c encoding.Compressor, data mem.BufferSlice) (mem.BufferSlice, error) {
	if c == nil { // grpc-go has refused encodings that it does not know
		return nil, fmt.Errorf("%w: it is compressed and no encoding is named", errMessageMalformed)
	}
	in := data.Reader()
	defer func() { _ = in.Close() }() // returns its buffers
	inflating, err := c.Decompress(in)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not compressed as it says", errMessageMalformed)
	}
	if closer, ok := inflating.(io.Closer); ok {
		defer func() { _ = closer.Close() }()
	}
	out, err := mem.ReadAll(io.LimitReader(inflating, int64(r.most)+1), mem.DefaultBufferPool())
	switch {
	case err != nil:
		out.Free()
		return nil, fmt.Errorf("%w: it is not compressed as it says", errMessageMalformed)
	case out.Len() > r.most:
		out.Free()
		return nil, errMessageTooLarge
	}
	return out, nil
}
