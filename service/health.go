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
	// liveName is the name under which grpc.health.v1 tells whether the process can answer, whatever Redis does.
	liveName = "live"
	// downAfter and upAfter are how many probes in a row it takes to believe that Redis went, or that it is back.
	downAfter = 3
	upAfter   = 2
)

// readyNames returns the names that tell whether calls can be served: Redis answers and the server is not shutting down.
func readyNames() []string {
	names := []string{"", "ready"}
	for _, desc := range Descriptors() {
		names = append(names, desc.ServiceName)
	}
	return names
}

// Health knows whether this server can serve. It asks Redis itself, with its own deadline, and does not trust the calls
// that pass: those answered from memory succeed while Redis is away.
type Health struct {
	grpc     *health.Server
	ping     func(context.Context) error
	interval time.Duration
	timeout  time.Duration
	logger   *slog.Logger
	metrics  *Metrics

	mu       sync.Mutex
	up       bool
	draining bool
	changed  time.Time // when up last changed
}

func newHealth(ping func(context.Context) error, m *Metrics, o Options) *Health {
	h := &Health{
		grpc: health.NewServer(), ping: ping, interval: o.ProbeInterval, timeout: o.ProbeTimeout,
		logger: o.Logger, metrics: m,
	}
	// An unregistered name is NOT_FOUND, which the kubelet takes for a failure, and "" begins as SERVING.
	h.grpc.SetServingStatus(liveName, healthv1.HealthCheckResponse_SERVING)
	h.publish()
	return h
}

// Redis reports whether Redis answers, as far as the probes know.
func (h *Health) Redis() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// Ready reports whether the server can serve: Redis answers and the server is not shutting down.
func (h *Health) Ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up && !h.draining
}

// run probes Redis until ctx ends.
func (h *Health) run(ctx context.Context) {
	// The first success counts at once, and until then it looks more often: a server that starts is being waited for.
	needed, every := 1, max(h.interval/10, time.Millisecond)
	next := time.NewTimer(0)
	defer next.Stop()

	surprises := 0 // probes in a row that contradict what is believed
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
		surprises++
		if up := err == nil; up == h.Redis() {
			surprises = 0
		} else if surprises >= needed {
			h.believe(up, err)
			surprises, needed, every = 0, upAfter, h.interval
			if up {
				needed = downAfter
			}
		}
		wait := every
		if surprises > 0 {
			wait /= 2 // a doubt is settled sooner
		}
		next.Reset(max(wait-time.Since(start), 0))
	}
}

// probe asks Redis once. It returns on time even when the ping does not, because a stalled one is a failed one.
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

// believe takes note that Redis went or that it is back.
func (h *Health) believe(up bool, err error) {
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
	case first: // the start is not a return
	case up:
		h.metrics.Connection(redis.Restored, 0, nil)
		h.logger.LogAttrs(ctx, slog.LevelInfo, "redis connection restored", slog.Duration("after", after))
	default:
		h.metrics.Connection(redis.Lost, 0, err)
		h.logger.LogAttrs(ctx, slog.LevelWarn, "redis connection lost", slog.String("cause", redis.Cause(err)))
	}
}

// drain says NOT_SERVING from now on, whatever Redis does. The process stays live: it has calls to finish, and killing it
// would lose them.
func (h *Health) drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.publish()
}

// publish tells the health service. It holds the lock, so that two changes are not published in the wrong order.
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
}
