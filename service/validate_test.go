package service

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

// strictLimits are limits that small requests reach.
var strictLimits = policy.Limits{
	MaxValueBytes: 64, DefaultTTL: 10 * time.Minute, MaxTTL: time.Hour,
	SessionIdleTimeout: 10 * time.Minute, SessionAbsoluteTimeout: time.Hour, PlainNamespace: "plain",
	SessionsPerSubject: 3, SessionsPerClass: 2,
}

// violations are the fields that are named in an answer, in its order.
func violations(t testing.TB, err error) (fields []string) {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				fields = append(fields, v.Field)
				if v.Description == "" {
					t.Errorf("description of %s is empty, want what the field must be", v.Field)
				}
			}
		}
	}
	return fields
}

// texts are all strings and bytes of a message that are long enough to be told from others.
func texts(m protoreflect.Message) (all []string) {
	add := func(kind protoreflect.FieldDescriptor, v protoreflect.Value) {
		var s string
		switch kind.Kind() {
		case protoreflect.StringKind:
			s = v.String()
		case protoreflect.BytesKind:
			s = string(v.Bytes())
		case protoreflect.MessageKind:
			all = append(all, texts(v.Message())...)
		default:
		}
		if len(s) > 4 {
			all = append(all, s)
		}
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				add(field.MapKey(), k.Value())
				add(field.MapValue(), v)
				return true
			})
		case field.IsList():
			for i := range v.List().Len() {
				add(field, v.List().Get(i))
			}
		default:
			add(field, v)
		}
		return true
	})
	return all
}

// wantInvalid checks everything that an answer to a bad request says.
func wantInvalid(t testing.TB, req proto.Message, err error, fields ...string) {
	t.Helper()
	wantAnswer(t, err, answer{Code: codes.InvalidArgument, Reason: "INVALID_FIELD"})
	if diff := cmp.Diff(fields, violations(t, err)); diff != "" {
		t.Errorf("invalid fields (-want +got):\n%s", diff)
	}
	message := status.Convert(err).Message()
	if !strings.HasPrefix(message, fields[0]+": ") {
		t.Errorf("message = %q, want it to begin with %s", message, fields[0])
	}
	said := status.Convert(err).Proto().String()
	for _, text := range texts(req.ProtoReflect()) {
		if strings.Contains(said, text) {
			t.Errorf("answer = %.300q, want it without %.40q of the request", said, text)
		}
	}
}

// snapshot is all that Redis holds.
const snapshot = `
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  all[#all + 1] = key .. redis.call('DUMP', key) .. redis.call('PEXPIRETIME', key)
end
table.sort(all)
return redis.sha1hex(table.concat(all))`

func quoted(n int) string { return `"` + strings.Repeat("q", n) + `"` }

func times(n int, s string) string { return strings.Repeat(s+" ", n) }

// numbered repeats a format with a number that makes each one different.
func numbered(n int, format string) (s string) {
	for i := range n {
		s += fmt.Sprintf(format+" ", i)
	}
	return s
}

// edges returns requests as prototext: bad ones that are just invalid, with the field that is, and good ones that are just
// valid.
func edges() (bad, good [][3]string) {
	cacheBad, cacheGood := cacheEdges()
	sessionBad, sessionGood := sessionEdges()
	limitBad, limitGood := rateLimitEdges()
	tokenBad, tokenGood := tokenEdges()
	return slices.Concat(cacheBad, sessionBad, limitBad, tokenBad), slices.Concat(cacheGood, sessionGood, limitGood, tokenGood)
}

// parse reads a request from prototext, in which $TOKEN and $ID are those of a session, and $LEASE and $RESERVATION a lease
// and a reservation that have ended.
func parse(t testing.TB, rpc, text string, s *sessionv1.CreateSessionResponse) (protoreflect.MethodDescriptor, proto.Message) {
	t.Helper()
	m := methodOf(t, rpc)
	req := newMessage(t, m.Input())
	text = strings.NewReplacer("$RESERVATION", endedReservation, "$LEASE", strings.Repeat("A", 43), "$TOKEN", s.SessionToken, "$ID", s.Session.GetSessionId()).Replace(text)
	if err := prototext.Unmarshal([]byte(text), req); err != nil {
		t.Fatalf("%s %.100s = %v, want a valid request", rpc, text, err)
	}
	return m, req
}

func TestBadRequestsAreNamedAndChangeNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(t, strictLimits)
	a.set(t, &cachev1.SetRequest{Key: "k", Value: []byte("untouched"), StaleTtl: secs(60)})
	session := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "1"}})
	before := a.do(t, "EVAL", snapshot, "0")

	check := func(rpc, text string, fields ...string) {
		t.Helper()
		m, req := parse(t, rpc, text, session)
		_, err := a.call(t.Context(), t, m, req)
		wantInvalid(t, req, err, fields...)
		if a.do(t, "EVAL", snapshot, "0") != before {
			t.Error("Redis holds something else after a refused request, want no change")
		}
		if t.Failed() {
			t.Fatalf("the request was %s %.300s, want the answer above", rpc, text)
		}
	}
	bad, _ := edges()
	covered := map[string]bool{}
	for _, b := range bad {
		check(b[0], b[1], b[2])
		covered[b[0]] = true
	}
	for _, m := range methods() {
		rpc := string(m.Name())
		if !covered[rpc] {
			t.Errorf("edges have no bad request of %s, want one", rpc)
		}
		for _, ns := range []string{"Upper", "-dash", ".dot", "_line", "white space", "a:colon", "a{brace", "a*star", "größe", "nul\x00", strings.Repeat("n", 64)} {
			req := newMessage(t, m.Input())
			req.ProtoReflect().Set(m.Input().Fields().ByName("namespace"), protoreflect.ValueOfString(ns))
			_, err := a.call(t.Context(), t, m, req)
			if got := violations(t, err); len(got) == 0 || got[0] != "namespace" {
				t.Errorf("%s in %q: invalid fields = %q, want namespace first", rpc, ns, got)
			}
			if text := status.Convert(err).Proto().String(); strings.Contains(text, ns) {
				t.Errorf("answer = %q, want it without %q", text, ns)
			}
		}
	}

	// Whatever is wrong is said at once.
	check("Set", `namespace: "NS" key: "" value: `+quoted(65)+` ttl {} stale_ttl {nanos: -1} tags: "" tags: "ok" tags: "" content_type: `+quoted(300)+` if_match: "etag"`,
		"namespace", "key", "ttl", "tags[0]", "tags[2]", "value", "stale_ttl", "content_type", "if_match")
	check("Set", `key: "k" never: false stale_ttl {seconds: 1} negative: true value: "v" if_absent: false`, "never", "value", "stale_ttl", "if_absent")
	check("Increment", `ttl_policy: 9 on_bound: 9 ttl {} min: 1 max: 0`, "key", "ttl_policy", "on_bound", "ttl", "max")
	check("CreateSession", `subject: "\000" idle_timeout {} absolute_timeout {} attributes {} device {ip: "\000" user_agent: "\000" label: "\000"}`,
		"subject", "attributes", "idle_timeout", "absolute_timeout", "device.ip", "device.user_agent", "device.label")
	check("UpdateSession", `set_attributes {} delete_attributes: "" expected_version: -1`, "target", "set_attributes", "delete_attributes[0]", "delete_attributes[0]", "expected_version")
	check("BatchSet", `items {} items {key: "k" ttl {}} items {key: "k"} items {value: `+quoted(65)+`}`, "items[0].key", "items[1].ttl", "items[3].key", "items[3].value")

	// But not without end.
	var twenty []string
	for i := range 20 {
		twenty = append(twenty, fmt.Sprintf("items[%d].key", i))
	}
	check("BatchSet", times(1000, "items {}"), twenty...)
	m, req := parse(t, "BatchSet", times(1000, "items {}"), session)
	_, err := a.call(t.Context(), t, m, req)
	if got, want := status.Convert(err).Message(), "items[0].key: must not be empty (and 19 more)"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}

func TestRequestsAtTheirLimitsAreTaken(t *testing.T) {
	t.Parallel()
	a := newAPI(t, strictLimits)
	_, good := edges()
	for _, g := range good {
		m, req := parse(t, g[0], g[1], &sessionv1.CreateSessionResponse{})
		if g[0] == "Increment" && !strings.HasPrefix(g[1], `key: "n"`) {
			a.do(t, "FLUSHALL") // what the others have written is no counter
		}
		if _, err := a.call(t.Context(), t, m, req); err != nil {
			t.Errorf("%s %.300s = %v, want nil", g[0], g[1], err)
		}
	}
	for _, m := range methods() {
		for _, ns := range []string{"a", "0", "a.b_c-d", "9-", strings.Repeat("n", 63)} {
			req := newMessage(t, m.Input())
			req.ProtoReflect().Set(m.Input().Fields().ByName("namespace"), protoreflect.ValueOfString(ns))
			if _, err := a.call(t.Context(), t, m, req); slices.Contains(violations(t, err), "namespace") {
				t.Errorf("%s in %q = %v, want the namespace to be valid", m.Name(), ns, err)
			}
		}
	}
}

func TestDurationsBelowAMillisecondAreRoundedUp(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]time.Duration{
		1: time.Millisecond, time.Millisecond - 1: time.Millisecond, time.Millisecond: time.Millisecond,
		time.Millisecond + 1: time.Millisecond + 1, time.Hour: time.Hour,
	} {
		f := &fields{}
		if got := f.duration("ttl", durationpb.New(d), 1, time.Hour); got != want || f.err() != nil {
			t.Errorf("duration(%v) = %v, %v, want %v", d, got, f.err(), want)
		}
	}
}

// Errors show durations as settings are written.
func TestDurationErrorsNameTheBoundsBriefly(t *testing.T) {
	t.Parallel()
	for most, want := range map[time.Duration]string{
		720 * time.Hour: "ttl: must be at least 1ms and at most 720h", 30 * time.Minute: "ttl: must be at least 1ms and at most 30m", 90 * time.Second: "ttl: must be at least 1ms and at most 1m30s",
	} {
		f := &fields{}
		f.duration("ttl", durationpb.New(1000*time.Hour), 1, most)
		if err := f.err(); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("duration above %v = %v, want %q", most, err, want)
		}
	}
}

func TestExpireTimeIsInTheFutureAndNotTooFar(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 5)
	for d, ok := range map[time.Duration]bool{-1: false, 0: false, 1: true, time.Hour: true, time.Hour + 1: false} {
		f := newFields(policy.New(strictLimits), func() time.Time { return now })
		r := &cachev1.SetRequest{Expiry: &cachev1.SetRequest_ExpireTime{ExpireTime: timestamppb.New(now.Add(d))}}
		if got := f.fresh(r, false); got != d || (f.err() == nil) != ok {
			t.Errorf("fresh of %v from now = %v, %v, want %v, valid: %t", d, got, f.err(), d, ok)
		}
	}
}

// rawBytes sends bytes as they are.
type rawBytes struct{ encoding.CodecV2 }

func (c rawBytes) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Text that is not UTF-8 is no message of proto3. It is refused before any handler sees it, and not repeated.
func TestTextThatIsNotUTF8ReachesNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(t, strictLimits)
	codec := rawBytes{encoding.GetCodecV2(protocodec.Name)}
	for _, m := range methods() {
		for i := range m.Input().Fields().Len() {
			field := m.Input().Fields().Get(i)
			if field.Kind() != protoreflect.StringKind || field.IsMap() {
				continue
			}
			wire := []byte{byte(field.Number()<<3 | 2), 9, 's', 'e', 'c', 'r', 'e', 't', 0xff, 0xfe, 0xfd}
			_, err := a.call(t.Context(), t, m, wire, grpc.ForceCodecV2(codec))
			if st := status.Convert(err); st.Code() != codes.InvalidArgument || strings.Contains(st.String(), "secret") || !strings.Contains(st.Message(), "UTF-8") {
				t.Errorf("%s that is not UTF-8 = %v, want INVALID_ARGUMENT without the text", field.FullName(), err)
			}
		}
	}
	if n := a.do(t, "DBSIZE"); n != int64(0) {
		t.Errorf("keys in Redis = %v, want 0", n)
	}
}
