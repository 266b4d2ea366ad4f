package rls

import (
	"strings"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unmarshal reads a request from the wire, also one with text that is not UTF-8. Envoy sends the values of headers as they
// are, and a client must not get around its limits by a header that makes the request unreadable. Each run of bytes that
// are no UTF-8 counts as U+FFFD, so that such values share a counter.
func Unmarshal(wire []byte, request *envoy.RateLimitRequest) error {
	err := proto.Unmarshal(wire, request)
	if err == nil {
		return nil
	}
	readable, ok := repair(wire, request.ProtoReflect().Descriptor())
	if !ok {
		return err
	}
	return proto.Unmarshal(readable, request)
}

// repair returns an encoded message with all text made UTF-8, and false if it is not the encoding of a message. Its depth is
// that of the message's type, which does not contain itself.
func repair(wire []byte, message protoreflect.MessageDescriptor) (readable []byte, ok bool) {
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeField(wire)
		if n < 0 {
			return nil, false
		}
		field := message.Fields().ByNumber(number)
		if kind != protowire.BytesType || field == nil {
			readable = append(readable, wire[:n]...)
			wire = wire[n:]
			continue
		}
		_, _, tag := protowire.ConsumeTag(wire)
		value, _ := protowire.ConsumeBytes(wire[tag:])
		switch field.Kind() {
		case protoreflect.StringKind:
			value = []byte(strings.ToValidUTF8(string(value), "\uFFFD"))
		case protoreflect.MessageKind:
			if value, ok = repair(value, field.Message()); !ok {
				return nil, false
			}
		default:
		}
		readable = protowire.AppendTag(readable, number, protowire.BytesType)
		readable = protowire.AppendBytes(readable, value)
		wire = wire[n:]
	}
	return readable, true
}
