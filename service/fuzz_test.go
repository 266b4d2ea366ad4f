package service

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// FuzzRequests calls every method with any bytes: whatever they hold, the answer is a success or an error of the table that
// blames the request. The seeds are random messages of likely and of unlikely values.
func FuzzRequests(f *testing.F) {
	a := serveStore(f, store.Options{Redis: redis.Options{Mode: redis.Embedded}}, policy.Limits{MaxValueBytes: 1 << 10, PlainNamespace: "plain"})
	all := methods()

	// Some of the seeds speak of what is there.
	session := a.create(f, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "1"}})
	g := &generator{rand.New(rand.NewPCG(1, 2)), f, []string{
		session.SessionToken, session.Session.SessionId, a.set(f, &cachev1.SetRequest{Key: "k", Value: []byte("v")}),
	}}
	for i := range all {
		for _, bad := range badStrings(all[i].Input(), 8) {
			f.Add(uint8(i), bad)              //nolint:gosec // there are fewer than 256 methods
			f.Add(uint8(i), bad[:len(bad)-1]) //nolint:gosec // as above
		}
		for range 25 {
			b, err := proto.Marshal(g.message(all[i].Input()).Interface())
			if err != nil {
				f.Fatalf("Marshal = %v, want nil", err)
			}
			f.Add(uint8(i), b) //nolint:gosec // there are fewer than 256 methods
		}
	}

	reasons := map[string]codes.Code{}
	for _, row := range errorTable {
		reasons[row.reason] = row.code
	}
	calls := 0
	f.Fuzz(func(t *testing.T, method uint8, request []byte) {
		m := all[int(method)%len(all)]
		req := newMessage(t, m.Input())
		if proto.Unmarshal(request, req) != nil {
			err := a.raw(t, m, request)
			if got := answerOf(t, err); got.Code != codes.InvalidArgument || got.Reason != "INVALID_FIELD" && got.Reason != "MESSAGE_MALFORMED" {
				t.Errorf("%s with bytes that are no message = %v, want INVALID_ARGUMENT", m.Name(), err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if calls++; calls%1000 == 0 { // or walks of what the others have left would take all the time
			if _, err := a.call(ctx, t, methodOf(t, "DeleteMatching"), &cachev1.DeleteMatchingRequest{Namespace: "plain", Pattern: "*"}); err != nil {
				t.Fatalf("DeleteMatching = %v, want nil", err)
			}
		}
		_, err := a.call(ctx, t, m, req)
		if err == nil {
			return
		}
		got := answerOf(t, err)
		switch got.Code {
		case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Aborted:
			if reasons[got.Reason] == got.Code {
				return
			}
		default: // Redis is here, well and fast, and nothing else may go wrong
		}
		t.Errorf("%s = %v, want a success or an error of the request\n%s", m.Name(), err, prototext.Format(req))
	})
}

// A generator makes random messages.
type generator struct {
	*rand.Rand
	testing.TB
	known []string // text that means something to the server
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) message(d protoreflect.MessageDescriptor) protoreflect.Message {
	message := newMessage(g, d)
	m := message.ProtoReflect()
	switch v := message.(type) {
	case *durationpb.Duration:
		v.Seconds, v.Nanos = pick[int64](g, 0, 1, 60, 3600, 720*3600, -1, math.MaxInt64), pick[int32](g, 0, 0, 0, 1, 999999999, 1000000000, -1)
		return m
	case *timestamppb.Timestamp:
		v.Seconds, v.Nanos = time.Now().Unix()+pick[int64](g, 2, 60, 3600, 720*3600, 0, -1, 1<<40), pick[int32](g, 0, 0, 0, 1, -1)
		return m
	}
	for i := range d.Fields().Len() {
		field := d.Fields().Get(i)
		switch {
		case g.IntN(10) < 4:
		case field.IsMap():
			for range pick(g, 1, 2, 3, 65) {
				m.Mutable(field).Map().Set(g.value(field.MapKey()).MapKey(), g.value(field.MapValue()))
			}
		case field.IsList():
			for range pick(g, 1, 1, 2, 2, 3, 3, 4, 33, g.IntN(1002)) {
				m.Mutable(field).List().Append(g.value(field))
			}
		default:
			m.Set(field, g.value(field))
		}
	}
	return m
}

func (g *generator) value(field protoreflect.FieldDescriptor) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return protoreflect.ValueOfMessage(g.message(field.Message()))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(pick[protoreflect.EnumNumber](g, 0, 1, 1, 2, 2, 3, 4, -1))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.IntN(4) > 0)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(pick[int32](g, 0, 1, 2, 200, 1001, math.MaxInt32, -1))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(pick[int64](g, 0, 1, -1, 2, 1<<53+1, math.MaxInt64, math.MinInt64))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pick(g, 0, 1, 100, 1e308, -1, math.NaN(), math.Inf(1)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(pick(g, nil, []byte("v"), []byte("42"), []byte("\xc1LD\x01"), make([]byte, 1025)))
	case protoreflect.StringKind:
	default:
		g.Fatalf("the generator has no values for %s, want some", field.FullName())
	}
	if field.Name() == "namespace" {
		return protoreflect.ValueOfString(pick(g, "", "", "default", "plain", "other", "NO"))
	}
	odd := []string{
		"", "n", "\x00", "ld:c:{default:k}", "ls1_", "0123456789abcdef", strings.Repeat("k", 1025), "größe", "a\r\n$5", "{}", "}:{",
		"*", "?", "k*", "[a-c]*", "[^a]", "[z-a]", "[^]", "[", `\`, `\\E(`, `\\Q`, `[\d]`, "[[:x:]]", "[a-]", `(?i)+{2,1}`,
	}
	return protoreflect.ValueOfString(pick(g, "k", "k", "n", "ann", pick(g, g.known...), pick(g, odd...)))
}
