package service

import (
	"strconv"
	"unicode/utf8"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/berthcare/larder/service/edge/rls"
)

// decode decodes a message. Its error names every string field that is not UTF-8, which protobuf requires and of which
// [proto.Unmarshal] does not say where it is, or the field at which the message cannot be decoded. Requests of Envoy are
// decoded as they are: a client chooses what they contain.
func decode(b []byte, into proto.Message) error {
	if proto.Unmarshal(b, into) == nil {
		return nil
	}
	if request, ok := into.(*envoy.RateLimitRequest); ok && rls.Unmarshal(b, request) == nil {
		return nil
	}
	s := scan{fields: &fields{}}
	intact := s.message(into.ProtoReflect().Descriptor(), "", b, protowire.DefaultRecursionLimit)
	if err := s.fields.err(); err != nil {
		return err
	}
	if !intact && s.broken != "" {
		return &FieldError{s.broken, "cannot be decoded"}
	}
	return errMessageMalformed
}

// A scan looks through an encoded message for what keeps it from being decoded.
type scan struct {
	fields *fields // collects the strings that are not UTF-8
	broken string  // the innermost field that is known and cannot be decoded
}

// message looks through the fields of a message at a path, which is empty or ends with a dot. It returns false if the message
// cannot be decoded.
func (s *scan) message(desc protoreflect.MessageDescriptor, path string, b []byte, depth int) bool {
	if depth == 0 {
		return false
	}
	items := make(map[protowire.Number]int)
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		field := desc.Fields().ByNumber(number)
		name := path
		if field != nil {
			name += string(field.Name())
			if field.IsList() {
				name += "[" + strconv.Itoa(items[number]) + "]"
				items[number]++
			}
		}
		n = protowire.ConsumeFieldValue(number, kind, b)
		if n < 0 {
			if field != nil && s.broken == "" {
				s.broken = name
			}
			return false
		}
		if field != nil && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			if !s.value(field, name, value, depth) {
				return false
			}
		}
		b = b[n:]
	}
	return true
}

// value looks at a field that has a length: a string or a message.
func (s *scan) value(field protoreflect.FieldDescriptor, name string, b []byte, depth int) bool {
	switch {
	case field.Kind() == protoreflect.StringKind && !utf8.Valid(b):
		s.fields.once(name, "must be valid UTF-8")
	case field.IsMap():
		return s.entry(field, name, b, depth-1)
	case field.Kind() == protoreflect.MessageKind:
		if !s.message(field.Message(), name+".", b, depth-1) {
			if s.broken == "" {
				s.broken = name
			}
			return false
		}
	}
	return true
}

// entry looks at an entry of a map. Its path is that of the map, because keys are data of the caller.
func (s *scan) entry(field protoreflect.FieldDescriptor, name string, b []byte, depth int) bool {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeField(b)
		if n < 0 || depth == 0 {
			if s.broken == "" {
				s.broken = name
			}
			return false
		}
		_, _, tag := protowire.ConsumeTag(b)
		part := field.Message().Fields().ByNumber(number)
		if part != nil && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b[tag:])
			if !s.value(part, name, value, depth) {
				return false
			}
		}
		b = b[n:]
	}
	return true
}
