package service

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// rawCodec sends a request as the bytes that it is given, which no generated client would send.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}

func embeddedAPI(t testing.TB) *api {
	t.Helper()
	return serveStore(t, store.Options{Redis: redis.Options{Mode: redis.Embedded}}, policy.Limits{})
}

// raw calls a method with the bytes of a request.
func (a *api) raw(t testing.TB, m protoreflect.MethodDescriptor, request []byte) error {
	t.Helper()
	_, err := a.call(t.Context(), t, m, request, grpc.ForceCodecV2(rawCodec{}))
	return err
}

// badStrings returns, for every string field of a message and of those inside it, its path and a message in which it is not
// UTF-8.
func badStrings(d protoreflect.MessageDescriptor, depth int) map[string][]byte {
	found := make(map[string][]byte)
	if depth == 0 {
		return found
	}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		path := string(f.Name())
		if f.IsList() {
			path += "[0]"
		}
		field := func(b []byte) []byte {
			return protowire.AppendBytes(protowire.AppendTag(nil, f.Number(), protowire.BytesType), b)
		}
		switch {
		case f.Kind() == protoreflect.StringKind:
			found[path] = field([]byte("a\xff"))
		case f.IsMap():
			for inner, b := range badStrings(f.Message(), depth-1) {
				found[path+" "+inner] = field(b) // the path of an entry is that of the map
			}
		case f.Kind() == protoreflect.MessageKind:
			for inner, b := range badStrings(f.Message(), depth-1) {
				found[path+"."+inner] = field(b)
			}
		}
	}
	return found
}

func violationsOf(err error) (paths []string) {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				paths = append(paths, v.Field)
			}
		}
	}
	return paths
}

// Text that is not UTF-8 is the caller's mistake, in every string field of every rpc, and the error names the field.
func TestTextThatIsNotUTF8NamesItsField(t *testing.T) {
	t.Parallel()
	a := embeddedAPI(t)
	health := healthv1.File_grpc_health_v1_health_proto.Services().Get(0).Methods()
	all := append(methods(), health.ByName("Check"), health.ByName("Watch"))
	for _, m := range all {
		var request []byte
		var want []string
		for path, b := range badStrings(m.Input(), 8) {
			path, _, _ = strings.Cut(path, " ")
			err := a.raw(t, m, b)
			wantAnswer(t, err, answer{codes.InvalidArgument, "INVALID_FIELD", false})
			if diff := cmp.Diff([]string{path}, violationsOf(err)); diff != "" {
				t.Errorf("%s with %s not UTF-8 = %v, violations (-want +got):\n%s", m.Name(), path, err, diff)
			}
			if !slices.Contains(want, path) {
				want = append(want, path)
			}
			if !strings.Contains(path, "[") { // a second message would be the second item of its list
				request = append(request, b...)
			}
		}
		want = slices.DeleteFunc(want, func(path string) bool { return strings.Contains(path, "[") })
		if len(want) == 0 {
			continue
		}
		// All of them at once.
		got := violationsOf(a.raw(t, m, request))
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s with every text not UTF-8, violations (-want +got):\n%s", m.Name(), diff)
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	a := embeddedAPI(t)
	get, set, watch := methodOf(t, "Get"), methodOf(t, "BatchSet"), methodOf(t, "Watch")
	item := protowire.AppendTag(nil, 2, protowire.BytesType)
	for _, tt := range []struct {
		name    string
		method  protoreflect.MethodDescriptor
		request []byte
		reason  string
		field   string
	}{
		{"NoTag", get, []byte{0x80}, "MESSAGE_MALFORMED", ""},
		{"FieldZero", get, []byte{0x02, 0x00}, "MESSAGE_MALFORMED", ""},
		{"StreamWithoutTag", watch, []byte{0x80}, "MESSAGE_MALFORMED", ""},
		{"LengthBeyondTheEnd", get, []byte{0x12, 0x05, 'k'}, "INVALID_FIELD", "key"},
		{"InsideAnItem", set, append(protowire.AppendBytes(slices.Clone(item), nil), protowire.AppendBytes(item, []byte{0x0a, 0x05, 'k'})...), "INVALID_FIELD", "items[1].key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := a.raw(t, tt.method, tt.request)
			wantAnswer(t, err, answer{codes.InvalidArgument, tt.reason, false})
			var want []string
			if tt.field != "" {
				want = []string{tt.field}
			}
			if diff := cmp.Diff(want, violationsOf(err)); diff != "" {
				t.Errorf("violations of %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// A message that is refused is told to its caller, to the log and to the metrics, whatever its size.
func TestMessagesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	s := run(t, failing(nil), Options{})
	limit := messageBytes(s.options.Limits)
	for i, size := range []int{limit + 1, 2 * limit, 16 * limit} {
		_, err := s.cache.Get(t.Context(), &cachev1.GetRequest{Key: strings.Repeat("k", size)}, grpc.MaxCallSendMsgSize(size+100))
		wantAnswer(t, err, answer{codes.ResourceExhausted, "MESSAGE_TOO_LARGE", false})
		if got, want := metric(t, s.Server, "larder_messages_refused_total", "reason", "MESSAGE_TOO_LARGE"), float64(i+1); got != want {
			t.Errorf("larder_messages_refused_total = %v, want %v", got, want)
		}
	}
	walk, err := s.cache.DeleteMatching(t.Context(), &cachev1.DeleteMatchingRequest{Pattern: strings.Repeat("k", limit)}, grpc.MaxCallSendMsgSize(2*limit))
	if err == nil {
		_, err = walk.Recv()
	}
	wantAnswer(t, err, answer{codes.ResourceExhausted, "MESSAGE_TOO_LARGE", false})
	if got := s.log.lines(t, "call failed"); len(got) == 0 || got[0]["reason"] != "MESSAGE_TOO_LARGE" {
		t.Errorf("log = %v, want a line with the reason MESSAGE_TOO_LARGE", got)
	}
}

func TestCompressedMessages(t *testing.T) {
	t.Parallel()
	a := embeddedAPI(t)
	value := bytes.Repeat([]byte("a"), 64<<10)
	for _, encoding := range []string{grpcgzip.Name, "deflate"} {
		compressed := grpc.UseCompressor(encoding)
		if _, err := a.cache.Set(t.Context(), &cachev1.SetRequest{Key: encoding, Value: value}, compressed); err != nil {
			t.Fatalf("Set with %s = %v, want nil", encoding, err)
		}
		got, err := a.cache.Get(t.Context(), &cachev1.GetRequest{Key: encoding}, compressed)
		if err != nil || !bytes.Equal(got.GetValue(), value) {
			t.Errorf("Get with %s = %d bytes, %v, want %d", encoding, len(got.GetValue()), err, len(value))
		}
		if _, err := a.call(t.Context(), t, methodOf(t, "DeleteMatching"), &cachev1.DeleteMatchingRequest{Pattern: "none*"}, compressed); err != nil {
			t.Errorf("DeleteMatching with %s = %v, want nil", encoding, err)
		}
		// A small message that would become a large one is read no further than to the limit.
		_, err = a.cache.Set(t.Context(), &cachev1.SetRequest{Key: "bomb", Value: make([]byte, 256<<20)}, compressed, grpc.MaxCallSendMsgSize(1<<30))
		wantAnswer(t, err, answer{codes.ResourceExhausted, "MESSAGE_TOO_LARGE", false})
	}
	for name, body := range map[string][]byte{"NotGzip": []byte("no gzip"), "CutShort": gzipped(t, value)[:40]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, want := a.post(t, frameOf(1, body)), "3 MESSAGE_MALFORMED"; got != want {
				t.Errorf("answer = %q, want %q", got, want)
			}
		})
	}
}

// What no client of gRPC sends in a unary call.
func TestMalformedStreams(t *testing.T) {
	t.Parallel()
	a := embeddedAPI(t)
	get := []byte{0x12, 0x01, 'k'}
	for name, body := range map[string][]byte{
		"NoMessage":    nil,
		"HalfAHeader":  {0, 0},
		"CutShort":     frameOf(0, get)[:6],
		"TwoMessages":  append(frameOf(0, get), frameOf(0, get)...),
		"UnknownFlags": frameOf(7, get),
		"LengthAhead":  {0, 0x00, 0x00, 0x01, 0x00, 'k'},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, want := a.post(t, body), "3 MESSAGE_MALFORMED"; got != want {
				t.Errorf("answer = %q, want %q", got, want)
			}
		})
	}
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil || w.Close() != nil {
		t.Fatalf("gzip = %v, want nil", err)
	}
	return out.Bytes()
}

func frameOf(flags byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message))), message...)
}

// post sends the body of a Get and returns the code and the reason of the answer.
func (a *api) post(t testing.TB, body []byte) string {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.running.addr+"/larder.cache.v1.CacheService/Get", bytes.NewReader(body))
	if err != nil {
		t.Fatalf("NewRequest = %v, want nil", err)
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Encoding": {"gzip"}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("POST = %v, want nil", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatalf("body = %v, want nil", err)
	}
	header := resp.Trailer
	if header.Get("Grpc-Status") == "" {
		header = resp.Header
	}
	return fmt.Sprintf("%s %s", header.Get("Grpc-Status"), reasonIn(t, header.Get("Grpc-Status-Details-Bin")))
}

// reasonIn returns the reason in the details of a status as gRPC sends them.
func reasonIn(t testing.TB, details string) string {
	t.Helper()
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "="))
	st := new(spb.Status)
	if err != nil || proto.Unmarshal(b, st) != nil {
		t.Fatalf("grpc-status-details-bin = %q, want a status", details)
	}
	return answerOf(t, status.FromProto(st).Err()).Reason
}

// An answer that is too large to be sent is told like every other failure, where grpc-go would tell nobody but the caller.
func TestAnswersThatAreTooLarge(t *testing.T) {
	t.Parallel()
	limit := newAnswerCap(100)
	for size, want := range map[int]error{10: nil, 1000: errAnswerTooLarge} {
		answer := &cachev1.BatchGetResponse{Results: []*cachev1.BatchGetResult{{Value: make([]byte, size)}}}
		info := &grpc.UnaryServerInfo{FullMethod: cachev1.CacheService_BatchGet_FullMethodName}
		_, err := limit.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return answer, nil })
		if !errors.Is(err, want) {
			t.Errorf("answer with %d bytes = %v, want %v", size, err, want)
		}
	}
	if !limit.lists[sessionv1.SessionService_ListSubjectSessions_FullMethodName] || limit.lists[cachev1.CacheService_Get_FullMethodName] {
		t.Errorf("methods with lists = %v, want ListSubjectSessions and not Get among them", limit.lists)
	}
}
