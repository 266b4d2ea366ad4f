package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// An api is a server over a connected store, with a client of each of its services.
type api struct {
	*running
	session sessionv1.SessionServiceClient
	tokens  tokenv1.TokenServiceClient
	lock    lockv1.LockServiceClient
	redis   *redistest.Server // nil over the embedded store
	addr    string            // where the store looks for Redis
	held    string            // the lock token of a lock that is held, if there is one
}

// newAPI serves a Redis of its own, with a near cache. Commands have the time that a busy machine may need.
func newAPI(t testing.TB, l policy.Limits) *api {
	t.Helper()
	server := redistest.Start(t, redistest.Options{})
	a := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 10 * time.Second}, Cache: cache.Options{PlainNamespace: l.PlainNamespace}}, l)
	a.redis, a.addr = server, server.Addr
	return a
}

// behindProxy is newAPI with a proxy before its Redis.
func behindProxy(t testing.TB) (*api, *redistest.Proxy) {
	t.Helper()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	a := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: time.Second}}, policy.Limits{})
	a.redis, a.addr = server, proxy.Addr
	return a, proxy
}

func serveStore(t testing.TB, so store.Options, l policy.Limits) *api {
	t.Helper()
	return serveWith(t, so, Options{Limits: l})
}

// serveWith is serveStore with options of the server.
func serveWith(t testing.TB, so store.Options, o Options) *api {
	t.Helper()
	l := o.Limits
	m := NewMetrics()
	so.Redis.NearCacheBytes, so.Redis.Observer = 16<<20, m
	if l.Keyring {
		keys, err := keyring.New("a", map[string][]byte{"a": bytes.Repeat([]byte("k"), keyring.KeyBytes)})
		if err != nil {
			t.Fatalf("NewKeyring = %v, want nil", err)
		}
		so.Keyring = keys
	}
	st, err := store.New(so)
	if err != nil {
		t.Fatalf("store.New = %v, want nil", err)
	}
	t.Cleanup(st.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := st.Redis.Connect(ctx); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	o.Logger = slog.New(slog.DiscardHandler)
	r := serve(t, New(st, m, o))
	return &api{running: r, session: sessionv1.NewSessionServiceClient(r.conn), tokens: tokenv1.NewTokenServiceClient(r.conn), lock: lockv1.NewLockServiceClient(r.conn)}
}

// do sends commands to Redis as another client of it would.
func (a *api) do(t testing.TB, args ...string) any {
	t.Helper()
	return a.redis.Do(t, args...)
}

// methods are all methods of the API.
func methods() (all []protoreflect.MethodDescriptor) {
	for _, desc := range Descriptors() {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(desc.ServiceName))
		if err != nil {
			panic(err)
		}
		list := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range list.Len() {
			all = append(all, list.Get(i))
		}
	}
	return all
}

// methodOf finds a method by its name, which no two services share.
func methodOf(t testing.TB, rpc string) protoreflect.MethodDescriptor {
	t.Helper()
	for _, m := range methods() {
		if string(m.Name()) == rpc {
			return m
		}
	}
	t.Fatalf("the API has no rpc %s, want one", rpc)
	return nil
}

func newMessage(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatalf("FindMessageByName(%s) = %v, want the message", d.FullName(), err)
	}
	return mt.New().Interface()
}

// call makes a call of any method; that of a stream returns its last message, or the first one of a watch, which has none.
func (a *api) call(ctx context.Context, t testing.TB, m protoreflect.MethodDescriptor, req any, opts ...grpc.CallOption) (proto.Message, error) {
	t.Helper()
	name := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	resp := newMessage(t, m.Output())
	if !m.IsStreamingServer() {
		return resp, a.conn.Invoke(ctx, name, req, resp, opts...)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name, opts...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		return nil, err
	}
	for {
		next := newMessage(t, m.Output())
		if err := stream.RecvMsg(next); errors.Is(err, io.EOF) {
			return resp, nil
		} else if err != nil {
			return resp, err
		}
		resp = next
		if slices.Contains([]protoreflect.Name{"Watch", "WatchSessionEvents", "HoldLock", "WatchLock"}, m.Name()) {
			return resp, nil
		}
	}
}

// must returns the answer of a call that has to succeed.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("error = %v, want none", err)
		}
		return v
	}
}

// remains checks a duration that began as want and has run down since, and takes it out of its message, which can so be
// compared. The server's idea of the time of Redis, from which it is told, may be behind a little.
func remains(t testing.TB, what string, d **durationpb.Duration, want time.Duration) {
	t.Helper()
	if got := (*d).AsDuration(); *d == nil || got > want+time.Second || got < want-20*time.Second {
		t.Errorf("%s = %v, want just below %v", what, *d, want)
	}
	*d = nil
}

// elapsed does the same with one that began as zero.
func elapsed(t testing.TB, what string, d **durationpb.Duration) {
	t.Helper()
	if got := (*d).AsDuration(); *d == nil || got < 0 || got > 20*time.Second {
		t.Errorf("%s = %v, want just above zero", what, *d)
	}
	*d = nil
}
