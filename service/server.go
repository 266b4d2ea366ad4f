// Package service serves the store over gRPC.
//
// A call passes the interceptors of interceptors.go. Its handler validates the request by validate*.go, calls the store
// once and builds the response. Handlers return plain errors, which errors.go maps to what callers see.
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

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// services is the registry: one line adds a service. Its name in the health service, its metrics, its entry in the
// reflection service and the tests that go through every method follow from the line. A service is SERVING while Redis can do
// what its calls need: a service whose reads are of use by themselves needs to read, one all of whose calls write needs to write.
// One that is withoutRedis answers by a failure policy then.
var services = []struct {
	desc  *grpc.ServiceDesc
	needs redis.Ability
	make  func(backend) any
}{
	{&cachev1.CacheService_ServiceDesc, redis.ToRead, func(b backend) any { return NewCache(b.store, b.policies, b.metrics) }},
	{&sessionv1.SessionService_ServiceDesc, redis.ToReadByScript, func(b backend) any { return NewSession(b.store, b.policies) }},
	{&ratelimitv1.RateLimitService_ServiceDesc, withoutRedis, func(b backend) any { return NewRateLimit(b.store, b.policies, b.metrics) }},
	{&tokenv1.TokenService_ServiceDesc, redis.ToWrite, func(b backend) any { return NewToken(b.store, b.policies, b.metrics, b.log) }},
	{&lockv1.LockService_ServiceDesc, redis.ToReadByScript, func(b backend) any { return NewLock(b.store, b.policies, b.log) }},
}

// edgeServices are services of other protocols, which are served where the options ask for them. Everything follows from a line as
// in the registry, except that they are no part of Larder's API.
var edgeServices = []struct {
	desc  *grpc.ServiceDesc
	asked func(*Options) bool
	make  func(*Server, *store.Store) any
}{
	{
		&envoy.RateLimitService_ServiceDesc, func(o *Options) bool { return o.EnvoyRateLimits != nil },
		func(s *Server, st *store.Store) any { return s.envoy.use(st.RateLimits, st.Redis.Now) },
	},
}

// withoutRedis is what a service needs that is SERVING until the server shuts down. It does not count for ready.
const withoutRedis redis.Ability = -1

// A backend is what the handlers of a service are made from.
type backend struct {
	store    *store.Store
	policies *policy.Policies
	metrics  *Metrics
	log      *slog.Logger
}

// Descriptors returns the descriptors of all services of Larder's API, in the order of the registry.
func Descriptors() []*grpc.ServiceDesc {
	descs := make([]*grpc.ServiceDesc, len(services))
	for i, service := range services {
		descs[i] = service.desc
	}
	return descs
}

// Options configures a [Server]. A zero field means the default given with it.
type Options struct {
	// Version is the version label of the metric larder_build_info; "unknown" by default.
	Version string
	// Limits are the limits that handlers check requests against, unless a policy is stricter.
	Limits policy.Limits
	// Logger receives the log; [slog.Default] by default.
	Logger *slog.Logger
	// SlowCall is the duration above which a unary call or a Redis command is logged as a warning; 100 ms by default.
	SlowCall time.Duration
	// MaxDeadline is the maximum duration of a unary call, whatever deadline its caller set; 30 s by default.
	MaxDeadline time.Duration
	// MaxInFlight is the maximum number of unary calls in flight, and separately that of streams; further ones are refused
	// with the reason SERVER_OVERLOADED; 4096 by default.
	MaxInFlight int
	// MaxInFlightBytes is the maximum size of the requests of unary calls in flight together, but for those of 16 KiB and less;
	// further ones are refused with the reason SERVER_OVERLOADED; 64 MiB by default. A request takes about three times its size.
	MaxInFlightBytes int64
	// MaxConcurrentStreams is the maximum number of calls in flight on one connection; its client queues further ones;
	// 1000 by default.
	MaxConcurrentStreams uint32
	// EnvoyRateLimits serves envoy.service.ratelimit.v3.RateLimitService; nil does not. It has no rules until
	// [Server.SetEnvoyRateLimits] is called.
	EnvoyRateLimits *EnvoyRateLimits
	// DrainDelay is how long Shutdown keeps serving after it has reported NOT_SERVING, so that load balancers notice; 0 by
	// default.
	DrainDelay time.Duration
	// StopTimeout is how long Shutdown then waits for the calls in flight before it cancels them; 20 s by default.
	StopTimeout time.Duration
	// ProbeInterval is the time between two probes of Redis; 500 ms by default.
	ProbeInterval time.Duration
	// Reflection registers gRPC's reflection service, from which clients such as grpcurl learn the API; off by default.
	Reflection bool
}

func (o Options) withDefaults() Options {
	o.Limits = o.Limits.WithDefaults()
	o.Version = cmp.Or(o.Version, "unknown")
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.SlowCall = cmp.Or(o.SlowCall, 100*time.Millisecond)
	o.MaxDeadline = cmp.Or(o.MaxDeadline, 30*time.Second)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, 4096)
	o.MaxInFlightBytes = cmp.Or(o.MaxInFlightBytes, 64<<20)
	o.MaxConcurrentStreams = cmp.Or(o.MaxConcurrentStreams, 1000)
	o.StopTimeout = cmp.Or(o.StopTimeout, 20*time.Second)
	o.ProbeInterval = cmp.Or(o.ProbeInterval, 500*time.Millisecond)
	return o
}

// A Server serves the store over gRPC, together with grpc.health.v1 and, if [Options] say so, the reflection service.
type Server struct {
	options  Options
	metrics  *Metrics
	policies *policy.Policies
	health   *Health
	receiver *receiver
	digest   *digest
	grpc     *grpc.Server
	receives *receiving

	envoy    *envoyRateLimit        // nil unless it is served
	warnings func() []redis.Warning // of the store; nil without one

	// probing and streams are the contexts of the probes and of all streams; Shutdown cancels them.
	probing, streams       context.Context
	stopProbes, endStreams context.CancelFunc

	shutdown atomic.Bool
	// forced is cancelled by a second call of Shutdown; stopped is closed when the first has returned.
	forced  context.Context
	force   context.CancelFunc
	stopped chan struct{}
}

// New returns a server for a store, which need not be connected yet. Each server needs a [Metrics] of its own.
func New(st *store.Store, m *Metrics, o Options) *Server {
	s := newServer(st.Redis.Check, st.Redis.Patience, m, o)
	s.warnings = st.Redis.Warnings
	st.Locks.LimitWaiters(s.options.MaxInFlight / 2) // the others need not wait for those who wait
	m.watch(st.Stats, s.options)
	s.register(st)
	return s
}

// register adds the services of the registry, and of the others those that the options ask for.
func (s *Server) register(st *store.Store) {
	for _, service := range services {
		s.registrar().RegisterService(service.desc, service.make(backend{st, s.policies, s.metrics, s.options.Logger}))
	}
	for _, edge := range edgeServices {
		if edge.asked(&s.options) {
			s.registrar().RegisterService(edge.desc, edge.make(s, st))
		}
	}
	s.metrics.calls.InitializeMetrics(s.grpc) // last, because it needs every method
}

// registrar returns where services are registered, so that the requests of all are received alike.
func (s *Server) registrar() registrar { return registrar{s.grpc, s.receiver, s.receives} }

// newServer returns a server without the services of the registry.
func newServer(check func(context.Context) redis.Condition, patience func() time.Duration, m *Metrics, o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		options: o, metrics: m, policies: policy.New(o.Limits), health: newHealth(check, patience, m, o), stopped: make(chan struct{}),
		digest: newDigest(o.Logger, digestEvery),
	}
	s.receives = &receiving{gate: gate{max: maxReceiving}, max: s.options.MaxInFlightBytes, load: &m.unary}
	m.watchHealth(s.health)
	if o.EnvoyRateLimits != nil {
		s.envoy = newEnvoyRateLimit(*o.EnvoyRateLimits)
		m.watchEnvoyRateLimits(s.envoy)
	}
	m.watchReceives(s.receives)
	s.forced, s.force = context.WithCancel(context.Background())
	s.probing, s.stopProbes = context.WithCancel(context.Background())
	s.streams, s.endStreams = context.WithCancel(context.Background())

	s.receiver = &receiver{most: messageBytes(o.Limits), refuse: func(reason string) { m.messagesRefused.WithLabelValues(reason).Inc() }}
	s.grpc = grpc.NewServer(s.grpcOptions()...)
	healthv1.RegisterHealthServer(registrar{Server: s.grpc, receiver: s.receiver}, s.health.grpc)
	if o.Reflection {
		reflection.Register(s.registrar())
	}
	return s
}

// grpcOptions sets every limit explicitly, because most of grpc-go's defaults are unlimited.
func (s *Server) grpcOptions() []grpc.ServerOption {
	unary, stream := s.interceptors()
	message := s.receiver.most
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		// The interceptors answer calls of unknown methods, so this handler never runs; without one, grpc-go would answer
		// them itself and they would not be counted.
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errNoMethod }),
		grpc.MaxConcurrentStreams(s.options.MaxConcurrentStreams),
		grpc.MaxRecvMsgSize(message),
		grpc.MaxSendMsgSize(message),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:    time.Minute,
			Timeout: 20 * time.Second,
			// Clients look up the replicas again when a connection ends, and so find those added since.
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: 30 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		// A new goroutine begins with a small stack, and growing it costs more than a near-cache hit.
		grpc.NumStreamWorkers(streamWorkers),
		// The store is closed after Shutdown, when no handler may still use it.
		grpc.WaitForHandlers(true),
	}
}

// streamWorkers is the number of goroutines that are kept to serve calls, each with a stack of about 8 KiB. Calls beyond
// them get goroutines of their own.
const streamWorkers = 128

// messageBytes returns the maximum size of a message: that of the largest values which handlers accept and 64 KiB for the
// other fields, but at least 4 MiB, gRPC's default. A value slightly above its limit so reaches the handler, whose error
// names the field.
func messageBytes(l policy.Limits) int {
	return max(max(l.MaxBatchBytes, l.MaxValueBytes)+64<<10, 4<<20)
}

// SetPolicy puts a policy in force for calls that begin from now on. If the policy is invalid, SetPolicy returns a
// [*policy.FieldError] and the previous one stays in force.
func (s *Server) SetPolicy(p *policy.Policy) error {
	err := s.policies.Set(p)
	if err == nil {
		s.metrics.policyLoaded.Store(time.Now().Unix())
	}
	return err
}

// Health returns the server's health.
func (s *Server) Health() *Health { return s.health }

// Serve accepts calls on a listener until Shutdown, and closes the listener. It returns nil after Shutdown, otherwise the
// error of the listener. Serve also probes Redis, for [Server.Health].
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

// Shutdown ends the server without losing an accepted unary call: it reports NOT_SERVING, keeps serving for DrainDelay or
// until ctx ends, ends the streams, waits for the calls in flight for StopTimeout, and then cancels those that remain. It
// returns when every handler has returned, or 2 s after cancelling them. A second call, made while the first waits,
// cancels the calls in flight at once.
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
	s.digest.close()
	s.metrics.closeLog()
}

// cancelTimeout is how long Shutdown waits for cancelled handlers to return.
const cancelTimeout = 2 * time.Second

// stopCalls waits for the calls in flight, and cancels them after StopTimeout.
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
	s.options.Logger.Warn("cancelling the calls in flight")
	go s.grpc.Stop()
	select {
	case <-ended:
	case <-time.After(cancelTimeout):
		s.options.Logger.Error("a cancelled handler does not return")
	}
}
