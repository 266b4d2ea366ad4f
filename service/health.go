package service

import (
	"context"
	"log/slog"
	"maps"
	"slices"
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

// readyNames returns the names that follow Redis and draining: the empty name, ready and the name of each service that needs Redis.
func readyNames() []string {
	names := append(make([]string, 0, 2+len(services)), "", "ready")
	for _, service := range services {
		if service.needs != withoutRedis {
			names = append(names, service.desc.ServiceName)
		}
	}
	return names
}

// independentNames returns the names of the services that answer without Redis too, by a failure policy. They are SERVING until
// the server shuts down.
func independentNames(o *Options) (names []string) {
	for _, service := range services {
		if service.needs == withoutRedis {
			names = append(names, service.desc.ServiceName)
		}
	}
	for _, edge := range edgeServices {
		if edge.asked(o) {
			names = append(names, edge.desc.ServiceName)
		}
	}
	return names
}

// Health keeps whether this server can serve, for grpc.health.v1 and for the admin port's /health. It asks Redis itself what
// calls would ask of it, with its own deadline; the outcome of calls would not tell, because calls answered from memory succeed
// without Redis.
type Health struct {
	grpc     *health.Server
	check    func(context.Context) redis.Condition
	interval time.Duration
	timeout  func() time.Duration
	logger   *slog.Logger
	metrics  *Metrics
	// independent are the names that do not follow Redis.
	independent []string

	mu        sync.Mutex
	abilities map[redis.Ability]*belief
	problems  map[string]*belief // by kind
	details   map[string]string  // of the problems that are believed, as of the last probe
	draining  bool
	changed   time.Time // when Redis was last lost or found, zero before the first probe succeeds
}

// A belief is what probes have told for long enough.
type belief struct {
	holds          bool
	contraryProbes int // probes in a row that contradict it
}

// see takes the outcome of a probe and reports whether the belief has changed, as it does after a number of contrary probes.
func (b *belief) see(now bool, after int) (changed bool) {
	if now == b.holds {
		b.contraryProbes = 0
		return false
	}
	if b.contraryProbes++; b.contraryProbes < after {
		return false
	}
	b.holds, b.contraryProbes = now, 0
	return true
}

// newHealth returns a Health whose probes are calls of check, each of which has failed after the time that timeout returns.
func newHealth(check func(context.Context) redis.Condition, timeout func() time.Duration, m *Metrics, o Options) *Health {
	h := &Health{
		grpc: health.NewServer(), check: check, interval: o.ProbeInterval, timeout: timeout, logger: o.Logger, metrics: m,
		independent: independentNames(&o),
		abilities:   make(map[redis.Ability]*belief), problems: make(map[string]*belief),
	}
	for _, a := range []redis.Ability{redis.ToRead, redis.ToReadByScript, redis.ToWrite} {
		h.abilities[a] = new(belief)
	}
	for _, kind := range redis.ProblemKinds {
		h.problems[kind] = new(belief)
	}
	// Every name gets a status at once: grpc-go answers NOT_FOUND for a name without one, which the kubelet counts as a
	// failure, and begins with "" as SERVING.
	h.grpc.SetServingStatus(liveName, healthv1.HealthCheckResponse_SERVING)
	h.publish()
	return h
}

// Redis reports whether Redis answers, according to the probes: whether calls that read would succeed, at least those to one shard.
func (h *Health) Redis() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.abilities[redis.ToRead].holds
}

// Ready reports whether the server can serve: calls to one service would succeed, at least, and it does not shut down.
func (h *Health) Ready() bool { return h.Serving("") }

// Serving reports whether a name is SERVING: the empty name, ready or that of a service.
func (h *Health) Serving(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.serving(name)
}

// serving is Serving for callers that hold the lock.
func (h *Health) serving(name string) bool {
	if slices.Contains(h.independent, name) {
		return !h.draining
	}
	for _, service := range services {
		if all := name == "" || name == "ready"; (all || name == service.desc.ServiceName) && h.holds(service.needs) {
			return !h.draining
		}
	}
	return false
}

// holds reports whether Redis can do what services need of it. The lock must be held.
func (h *Health) holds(need redis.Ability) bool {
	return need != withoutRedis && h.abilities[need].holds
}

// Problems returns what makes some calls fail while others succeed, by kind.
func (h *Health) Problems() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.details)
}

// run probes Redis until ctx ends.
func (h *Health) run(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		start := time.Now()
		condition := h.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		found, doubtful := h.see(condition)
		wait := h.interval
		switch {
		case !found: // callers wait for a server that starts
			wait = max(h.interval/10, time.Millisecond)
		case doubtful: // to know sooner whether the change lasts
			wait /= 2
		}
		next.Reset(max(wait-time.Since(start), 0))
	}
}

// probe checks Redis once and returns after the timeout even if the check ignores its context: a check that stalls has failed.
func (h *Health) probe(ctx context.Context) redis.Condition {
	limit := h.timeout()
	ctx, cancel := context.WithTimeout(ctx, limit+probeSlack)
	defer cancel()
	answered := make(chan redis.Condition, 1)
	go func() { answered <- h.check(ctx) }()
	select {
	case condition := <-answered:
		return condition
	case <-ctx.Done():
		return redis.Down(ctx.Err())
	}
}

// probeSlack is what a check takes beyond its patience with Redis, on a busy machine.
const probeSlack = 50 * time.Millisecond

// see takes the outcome of a probe. It reports whether Redis has ever been found, and whether anything contradicts what is
// believed.
func (h *Health) see(condition redis.Condition) (found, doubtful bool) {
	h.mu.Lock()
	up := upAfter
	if h.changed.IsZero() {
		up = 1 // a start ends with the first success
	}
	changed, lost := false, false
	for a, b := range h.abilities {
		now := condition.Failures[a] == nil
		after := downAfter
		if now {
			after = up
		}
		if b.see(now, after) {
			changed, lost = true, lost || a == redis.ToRead
		}
		doubtful = doubtful || b.contraryProbes > 0
	}
	details := make(map[string]string)
	for _, p := range condition.Problems {
		details[p.Kind] = p.Detail
	}
	var logs []func()
	for kind, b := range h.problems {
		detail, now := details[kind]
		after := upAfter
		if now && !h.changed.IsZero() {
			after = downAfter
		} else if now {
			after = 1
		}
		if b.see(now, after) {
			logs = append(logs, func() { h.logProblem(kind, detail) })
		}
		if doubtful = doubtful || b.contraryProbes > 0; !b.holds {
			delete(details, kind)
		} else if !now {
			details[kind] = h.details[kind]
		}
	}
	h.details = details
	first, since, isUp := h.changed.IsZero(), time.Since(h.changed), h.abilities[redis.ToRead].holds
	if lost {
		h.changed = time.Now()
	}
	found = !h.changed.IsZero()
	h.mu.Unlock()

	if changed {
		h.metrics.up.Store(isUp)
		h.publish()
	}
	if lost && !first { // else Redis was found, not restored
		h.logRedis(isUp, since, condition.Failures[redis.ToRead])
	}
	for _, log := range logs {
		log()
	}
	return found, doubtful
}

// logRedis logs that Redis was lost, for the reason err, or restored.
func (h *Health) logRedis(up bool, after time.Duration, err error) {
	ctx := context.Background()
	if up {
		h.metrics.Connection(redis.Restored, 0, nil)
		h.logger.LogAttrs(ctx, slog.LevelInfo, "redis connection restored", slog.Duration("after", after))
		return
	}
	h.metrics.Connection(redis.Lost, 0, err)
	h.logger.LogAttrs(ctx, slog.LevelWarn, "redis connection lost", slog.String("cause", redis.Cause(err)))
}

// logProblem logs that a problem has appeared, or with no detail that it has gone.
func (h *Health) logProblem(kind, detail string) {
	if detail == "" {
		h.logger.LogAttrs(context.Background(), slog.LevelInfo, "redis problem solved", slog.String("problem", kind))
		return
	}
	h.logger.LogAttrs(context.Background(), slog.LevelWarn, "redis problem", slog.String("problem", kind), slog.String("detail", detail))
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
	for _, name := range slices.Concat(readyNames(), h.independent) {
		status := healthv1.HealthCheckResponse_NOT_SERVING
		if h.serving(name) {
			status = healthv1.HealthCheckResponse_SERVING
		}
		h.grpc.SetServingStatus(name, status)
	}
}
