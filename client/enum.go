package client

import (
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unrecognized stands for an enum value that this version of the package does not know, sent by a later server. It is
// an untyped constant because every string type of the package can hold it: [Outcome], [Source], [SessionEventType]
// and [LockLostReason].
// [Cache.Watch] reports an event that it does not recognize as [WatchReset] instead.
const Unrecognized = "UNRECOGNIZED"

// text returns the name of an enum value without the prefix of its enum: the empty string for the unspecified value and
// [Unrecognized] for a number that the generated code does not know.
func text[E protoreflect.Enum](e E, prefix string) string {
	if e.Number() == 0 {
		return ""
	}
	value := e.Descriptor().Values().ByNumber(e.Number())
	if value == nil {
		return Unrecognized
	}
	return strings.TrimPrefix(string(value.Name()), prefix)
}

// number is the reverse of text, for a field of a request. The empty string is the unspecified value; anything that is
// not one of the constants of its type is an invalid argument, found without asking the server.
func number[E ~int32, S ~string](field string, s S, prefix string, values map[string]int32) (E, error) {
	if s == "" {
		return 0, nil
	}
	n := values[prefix+string(s)]
	if n == 0 {
		return 0, invalid(field, fmt.Sprintf("%q is not a constant of type %T", string(s), s))
	}
	return E(n), nil
}

// toInt32 converts a number for a request and keeps one that is out of range out of range of what the server accepts.
func toInt32(n int) int32 {
	return int32(max(math.MinInt32, min(n, math.MaxInt32))) //nolint:gosec // within the range by then
}
