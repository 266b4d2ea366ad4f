// Package service serves the store over gRPC.
//
// A call passes through the interceptors of interceptors.go, is checked by validate*.go, makes one call of the store and
// is answered. Handlers return plain errors; errors.go says what callers see of them.
package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
)

// services is the registry: one line adds a service. Its name in the health service, its metrics, its entry in the
// reflection service and the tests that go through every method follow from the line.
var services = []struct {
	desc *grpc.ServiceDesc
	make func(backend) any
}{
	{&cachev1.CacheService_ServiceDesc, func(b backend) any { return NewCache(b.store, b.policies, b.metrics) }},
	{&sessionv1.SessionService_ServiceDesc, func(b backend) any { return NewSession(b.store, b.policies) }},
}

// A backend is what the handlers of a service can be made of.
type backend struct {
	store    *store.Store
	policies *policy.Policies
	metrics  *Metrics
}

// Descriptors returns the descriptor of every service of Larder's API.
func Descriptors() []*grpc.ServiceDesc {
	descs := make([]*grpc.ServiceDesc, len(services))
	for i, service := range services {
		descs[i] = service.desc
	}
	return descs
}

// Options configures a Server. Zero values mean the defaults that are given with each field.
type Options struct {
	// Version is what larder_build_info says; "unknown" by default.
	Version string
	// Limits are what the handlers check requests against.
	Limits policy.Limits
	// Logger receives the log; slog.Default() by default.
	Logger *slog.Logger
	// SlowCall is how long a call or a Redis command may take before it is warned about; 100 ms by default.
	SlowCall time.Duration
	// MaxDeadline bounds the time of a unary call whose caller allowed more or set no deadline; 30 s by default.
	MaxDeadline time.Duration
	// MaxInFlight is how many unary calls, and apart from them how many streams, may be in flight at once before
	// further ones are refused; 4096 by default.
	MaxInFlight int
	// MaxConcurrentStreams is how many calls one connection may have in flight; its client makes further ones wait;
	// 1000 by default.
	MaxConcurrentStreams uint32
	// DrainDelay is how long Shutdown keeps serving after it has said NOT_SERVING, for load balancers to notice; none
	// by default.
	DrainDelay time.Duration
	// StopTimeout is how long Shutdown then waits for calls in flight; 20 s by default.
	StopTimeout time.Duration
	// ProbeInterval is how often Redis is probed; 500 ms by default.
	ProbeInterval time.Duration
	// ProbeTimeout is how long a probe may take; 300 ms by default, so that the three failures which it takes to report
	// NOT_SERVING fit well into two seconds however Redis fails.
	ProbeTimeout time.Duration
	// Reflection lets clients such as grpcurl ask the server for its API.
	Reflection bool
}

func (o Options) withDefaults() Options {
	o.Limits = o.Limits.WithDefaults()
	o.Version = cmp.Or(o.Version, "unknown")
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.SlowCall = cmp.Or(o.SlowCall, 100*time.Millisecond)
	o.MaxDeadline = cmp.Or(o.MaxDeadline, 30*time.Second)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, 4096)
	o.MaxConcurrentStreams = cmp.Or(o.MaxConcurrentStreams, 1000)
	o.StopTimeout = cmp.Or(o.StopTimeout, 20*time.Second)
	o.ProbeInterval = cmp.Or(o.ProbeInterval, 500*time.Millisecond)
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, 300*time.Millisecond)
	return o
}

// A Server serves the store over gRPC, together with grpc.health.v1 and, if asked for, reflection.
type Server struct {
	options  Options
	metrics  *Metrics
	policies *policy.Policies
	health   *Health
	grpc     *grpc.Server

	// probing and streams end when Shutdown has come so far.
	probing, streams       context.Context
	stopProbes, endStreams context.CancelFunc

	shutdown atomic.Bool
	// forced ends when Shutdown is called again, stopped is closed when its first call has finished.
	forced  context.Context
	force   context.CancelFunc
	stopped chan struct{}
}

// New returns a server for a store, which may not be connected yet. A Metrics serves one server.
func New(st *store.Store, m *Metrics, o Options) *Server {
	s := newServer(st.Redis.Ping, m, o)
	m.watch(st.Stats, s.options)
	s.register(st)
	return s
}

// register adds the services of the registry.
func (s *Server) register(st *store.Store) {
	for _, service := range services {
		s.grpc.RegisterService(service.desc, service.make(backend{st, s.policies, s.metrics}))
	}
	s.metrics.calls.InitializeMetrics(s.grpc) // last, because it needs every method
}

// newServer returns a server of everything but the store.
func newServer(ping func(context.Context) error, m *Metrics, o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		options: o, metrics: m, policies: policy.New(o.Limits), health: newHealth(ping, m, o), stopped: make(chan struct{}),
	}
	s.forced, s.force = context.WithCancel(context.Background())
	s.probing, s.stopProbes = context.WithCancel(context.Background())
	s.streams, s.endStreams = context.WithCancel(context.Background())

	s.grpc = grpc.NewServer(s.grpcOptions()...)
	healthv1.RegisterHealthServer(s.grpc, s.health.grpc)
	if o.Reflection {
		reflection.Register(s.grpc)
	}
	return s
}

// grpcOptions sets every limit explicitly, because most of grpc's defaults are no limits.
func (s *Server) grpcOptions() []grpc.ServerOption {
	unary, stream := s.interceptors()
	message := messageBytes(s.options.Limits)
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		// Never runs: its presence makes grpc hand unknown methods to the interceptors, where they are counted.
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errNoMethod }),
		grpc.MaxConcurrentStreams(s.options.MaxConcurrentStreams),
		grpc.MaxRecvMsgSize(message),
		grpc.MaxSendMsgSize(message),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:    time.Minute,
			Timeout: 20 * time.Second,
			// Connections end now and then, so that clients find replicas which were added since.
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: 30 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		// A new goroutine has a small stack, and growing it costs more than a hit in memory. Calls beyond these get one.
		grpc.NumStreamWorkers(streamWorkers),
		// The store is closed when Shutdown has returned, and no handler may still use it.
		grpc.WaitForHandlers(true),
	}
}

// streamWorkers is how many goroutines stay around to serve calls, each with a stack of about 8 KiB.
const streamWorkers = 128

// messageBytes is the limit of a message: the largest that the handlers take, with room for what surrounds the values,
// and never below the 4 MiB that clients expect. A value above its own limit so meets the handler that can say so.
func messageBytes(l policy.Limits) int {
	return max(max(l.MaxBatchBytes, l.MaxValueBytes)+64<<10, 4<<20)
}

// SetPolicy puts a policy in force, for calls that begin from now on. Where Check finds fault with it, the old one stays.
func (s *Server) SetPolicy(p *policy.Policy) error {
	err := s.policies.Set(p)
	if err == nil {
		s.metrics.policyLoaded.Store(time.Now().Unix())
	}
	return err
}

// Health returns the server's health.
func (s *Server) Health() *Health { return s.health }

// Serve takes calls from a listener until Shutdown, and closes it. It returns nil after Shutdown, else what broke the
// listener. Probing Redis begins here.
func (s *Server) Serve(listener net.Listener) error {
	var probes sync.WaitGroup
	probes.Go(func() { s.health.run(s.probing) })
	err := s.grpc.Serve(listener)
	s.stopProbes()
	probes.Wait()
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Shutdown ends the server so that no unary call is lost which it has accepted: it reports NOT_SERVING, keeps serving for
// DrainDelay, or until ctx ends if that is sooner, ends the streams, and waits for the calls in flight up to
// StopTimeout, after which they are cancelled. It returns when all has ended. A second call, while the first waits, cuts
// all that short.
func (s *Server) Shutdown(ctx context.Context) {
	if !s.shutdown.CompareAndSwap(false, true) {
		s.force()
		<-s.stopped
		return
	}
	defer close(s.stopped)

	s.health.drain()
	select {
	case <-time.After(s.options.DrainDelay):
	case <-ctx.Done():
	case <-s.forced.Done():
	}
	s.endStreams()
	s.stopCalls()
	s.stopProbes()
}

// cancelled is how long cancelled handlers may take to return before Shutdown gives them up.
const cancelled = 2 * time.Second

func (s *Server) stopCalls() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.grpc.GracefulStop()
	}()
	select {
	case <-ended:
		return
	case <-time.After(s.options.StopTimeout):
	case <-s.forced.Done():
	}
	s.options.Logger.Warn("calls in flight are cancelled")
	go s.grpc.Stop()
	select {
	case <-ended:
	case <-time.After(cancelled):
		s.options.Logger.Error("a handler does not end")
	}
}
