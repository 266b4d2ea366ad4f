package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/store/redis"
)

const (
	// liveName is the name that is SERVING for as long as the process can answer, whatever Redis does.
	liveName = "live"
	// downAfter is how many probes in a row must fail before Redis counts as down, upAfter how many must succeed before it
	// counts as up again.
	downAfter = 3
	upAfter   = 2
)

// readyNames returns the names that are SERVING while calls can be served: Redis answers and the server does not shut down.
func readyNames() []string {
	names := append(make([]string, 0, 2+len(services)), "", "ready")
	for _, service := range services {
		names = append(names, service.desc.ServiceName)
	}
	return names
}

// edgeNames returns the names of the services that answer without Redis too, by a failure policy. They are SERVING until the
// server shuts down.
func edgeNames(o *Options) (names []string) {
	for _, edge := range edgeServices {
		if edge.asked(o) {
			names = append(names, edge.desc.ServiceName)
		}
	}
	return names
}

// Health keeps whether this server can serve, for grpc.health.v1 and for the admin port's /health. It probes Redis itself,
// with its own deadline; the outcome of calls would not tell, because calls answered from memory succeed without Redis.
type Health struct {
	grpc     *health.Server
	ping     func(context.Context) error
	interval time.Duration
	timeout  time.Duration
	logger   *slog.Logger
	metrics  *Metrics
	edges    []string

	mu       sync.Mutex
	up       bool
	draining bool
	changed  time.Time // when up was last set, zero before the first probe succeeds
}

func newHealth(ping func(context.Context) error, m *Metrics, o Options) *Health {
	h := &Health{
		grpc: health.NewServer(), ping: ping, interval: o.ProbeInterval, timeout: o.ProbeTimeout,
		logger: o.Logger, metrics: m, edges: edgeNames(&o),
	}
	// Every name gets a status at once: grpc-go answers NOT_FOUND for a name without one, which the kubelet counts as a
	// failure, and begins with "" as SERVING.
	h.grpc.SetServingStatus(liveName, healthv1.HealthCheckResponse_SERVING)
	h.publish()
	return h
}

// Redis reports whether Redis answers, according to the probes.
func (h *Health) Redis() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// Ready reports whether the server can serve: Redis answers and the server does not shut down.
func (h *Health) Ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up && !h.draining
}

// run probes Redis until ctx ends.
func (h *Health) run(ctx context.Context) {
	// Until the first success Redis is probed ten times as often, and that success counts at once, because callers wait
	// for a server that starts.
	needed, every := 1, max(h.interval/10, time.Millisecond)
	next := time.NewTimer(0)
	defer next.Stop()

	contraryProbes := 0 // probes in a row whose outcome contradicts h.up
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		start := time.Now()
		err := h.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		contraryProbes++
		if up := err == nil; up == h.Redis() {
			contraryProbes = 0
		} else if contraryProbes >= needed {
			h.set(up, err)
			contraryProbes, needed, every = 0, upAfter, h.interval
			if up {
				needed = downAfter
			}
		}
		wait := every
		if contraryProbes > 0 {
			wait /= 2 // to know sooner whether the change lasts
		}
		next.Reset(max(wait-time.Since(start), 0))
	}
}

// probe pings Redis once and returns after the timeout even if the ping ignores its context: a ping that stalls has failed.
func (h *Health) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- h.ping(ctx) }()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set records and logs that Redis went down, for the reason err, or came up.
func (h *Health) set(up bool, err error) {
	h.mu.Lock()
	h.up = up
	after := time.Since(h.changed)
	first := h.changed.IsZero()
	h.changed = time.Now()
	h.mu.Unlock()

	h.metrics.up.Store(up)
	h.publish()
	ctx := context.Background()
	switch {
	case first: // Redis was found, not restored
	case up:
		h.metrics.Connection(redis.Restored, 0, nil)
		h.logger.LogAttrs(ctx, slog.LevelInfo, "redis connection restored", slog.Duration("after", after))
	default:
		h.metrics.Connection(redis.Lost, 0, err)
		h.logger.LogAttrs(ctx, slog.LevelWarn, "redis connection lost", slog.String("cause", redis.Cause(err)))
	}
}

// drain sets every name but live to NOT_SERVING for good, whatever Redis does. live stays SERVING, because the process has
// calls to finish, which a restart by the kubelet would lose.
func (h *Health) drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.publish()
}

// publish sets the status of every name but live. It holds the lock, so that two changes are published in their order.
func (h *Health) publish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if h.up && !h.draining {
		status = healthv1.HealthCheckResponse_SERVING
	}
	for _, name := range readyNames() {
		h.grpc.SetServingStatus(name, status)
	}
	status = healthv1.HealthCheckResponse_SERVING
	if h.draining {
		status = healthv1.HealthCheckResponse_NOT_SERVING
	}
	for _, name := range h.edges {
		h.grpc.SetServingStatus(name, status)
	}
}
