package client

import (
	"strconv"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// unsent returns the error of a request that gRPC could not encode because of text that is not UTF-8: an [ErrInvalid] that
// names the fields. Any other error is returned as it is.
func unsent(request any, err error) error {
	message, ok := request.(proto.Message)
	if !ok || status.Code(err) != codes.Internal {
		return err
	}
	var bad []Violation
	message.ProtoReflect().Range(eachText("", &bad))
	if len(bad) == 0 {
		return err
	}
	return invalidFields(bad...)
}

// eachText returns a function that collects the text that is not UTF-8 in the fields of a message at a path.
func eachText(path string, bad *[]Violation) func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
	one := func(field protoreflect.FieldDescriptor, name string, v protoreflect.Value) {
		switch field.Kind() {
		case protoreflect.StringKind:
			if !utf8.ValidString(v.String()) && (len(*bad) == 0 || (*bad)[len(*bad)-1].Field != name) {
				*bad = append(*bad, Violation{Field: name, Description: "must be valid UTF-8"})
			}
		case protoreflect.MessageKind:
			v.Message().Range(eachText(name+".", bad))
		default:
		}
	}
	return func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := path + string(field.Name())
		switch {
		case field.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				one(field.MapKey(), name, k.Value())
				one(field.MapValue(), name, v)
				return true
			})
		case field.IsList():
			for i := range v.List().Len() {
				one(field, name+"["+strconv.Itoa(i)+"]", v.List().Get(i))
			}
		default:
			one(field, name, v)
		}
		return true
	}
}
