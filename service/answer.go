package service

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// errAnswerTooLarge is the error of an answer that grpc-go would not send, which it would tell neither the log nor the metrics.
var errAnswerTooLarge = errors.New("the answer is larger than the server sends; ask for less at a time")

// An answerCap refuses answers above a size, of the methods whose answers have lists of messages. No other answer can be large:
// one value fits, and so do lists of names.
type answerCap struct {
	most  int
	lists map[string]bool // by full name
}

func newAnswerCap(most int) answerCap {
	a := answerCap{most: most, lists: make(map[string]bool)}
	for _, desc := range Descriptors() {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(desc.ServiceName))
		service, ok := found.(protoreflect.ServiceDescriptor)
		if err != nil || !ok {
			continue // a service without descriptors has no lists either
		}
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			if hasLists(m.Output()) {
				a.lists["/"+desc.ServiceName+"/"+string(m.Name())] = true
			}
		}
	}
	return a
}

func hasLists(m protoreflect.MessageDescriptor) bool {
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.IsList() && f.Message() != nil {
			return true
		}
	}
	return false
}

func (a answerCap) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil || !a.lists[info.FullMethod] {
		return resp, err
	}
	if m, ok := resp.(proto.Message); ok && proto.Size(m) > a.most {
		return nil, errAnswerTooLarge
	}
	return resp, nil
}
