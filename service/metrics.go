package service

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// maxCommands bounds how many command names become labels, should the store ever invent some.
const maxCommands = 64

// seconds are the buckets of both histograms: from a hit in memory to a call at its deadline.
var seconds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// Metrics holds everything that /metrics shows, in a registry of its own. It is the store's Observer.
type Metrics struct {
	registry *prometheus.Registry

	calls           *grpcprom.ServerMetrics
	unary, streams  load
	unknownMethods  prometheus.Counter
	retries         *prometheus.CounterVec
	budgetExhausted prometheus.Counter
	panics          prometheus.Counter

	commandSeconds   *prometheus.HistogramVec
	commandErrors    *prometheus.CounterVec
	connectionEvents *prometheus.CounterVec
	up               atomic.Bool

	policyReloads *prometheus.CounterVec
	policyLoaded  atomic.Int64 // Unix time

	mu       sync.RWMutex
	commands map[string]prometheus.Observer
	log      atomic.Pointer[redisLog]
}

// A load counts the calls of one kind that are in flight, and those that were shed.
type load struct{ inFlight, shed atomic.Int64 }

// A redisLog is where changes of the connections are logged, and commands that take longer than a limit.
type redisLog struct {
	logger *slog.Logger
	slow   time.Duration
}

// NewMetrics returns metrics that show the process and the Go runtime; New adds the build, the server and the store.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		commands: map[string]prometheus.Observer{},

		calls: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramBuckets(seconds))),

		unknownMethods:  counter("larder_unknown_methods_total", "Calls of methods that the server does not have."),
		retries:         counters("larder_retries_total", "Runs of a handler beyond the first of its call.", "method"),
		budgetExhausted: counter("larder_retry_budget_exhausted_total", "Calls that failed without another attempt because too few calls succeed."),
		panics:          counter("larder_panics_total", "Handlers that panicked."),

		policyReloads: counters("larder_policy_reloads_total", "Changes of the policy file, by whether they were applied or rejected.", "result"),

		commandErrors:    counters("larder_redis_command_errors_total", "Round trips to Redis that failed, by the reason that callers are given.", "command", "kind"),
		connectionEvents: counters("larder_redis_connection_events_total", "Changes of the connections to Redis.", "event"),
		commandSeconds:   histograms("larder_redis_command_duration_seconds", "Duration of round trips to Redis.", "command"),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.calls, m.unknownMethods, m.retries, m.budgetExhausted, m.panics,
		m.commandSeconds, m.commandErrors, m.connectionEvents, m.policyReloads,
		gaugeFunc("larder_policy_loaded_timestamp_seconds", "When the policy in force was loaded, in Unix time; 0 without one.", nil,
			func() float64 { return float64(m.policyLoaded.Load()) }),
		gaugeFunc("larder_redis_up", "Whether Redis answers the health probes.", nil, func() float64 {
			if m.up.Load() {
				return 1
			}
			return 0
		}),
	)
	for kind, l := range map[string]*load{"unary": &m.unary, "stream": &m.streams} {
		labels := prometheus.Labels{"type": kind}
		m.registry.MustRegister(
			gaugeFunc("larder_rpc_in_flight", "Calls in flight, without health checks.", labels, func() float64 { return float64(l.inFlight.Load()) }),
			counterFunc("larder_rpc_shed_total", "Calls refused because too many were in flight.", labels, func() float64 { return float64(l.shed.Load()) }),
		)
	}
	return m
}

// watch adds the build and what the store counts itself, and says where to log what passes between it and Redis.
func (m *Metrics) watch(stats func() store.Stats, o Options) {
	m.log.Store(&redisLog{o.Logger, o.SlowCall})
	read := func(field func(store.Stats) int64) func() float64 {
		return func() float64 { return float64(field(stats())) }
	}
	for key := range stats().KeyUses {
		m.registry.MustRegister(counterFunc("larder_keyring_opened_total", "What a key of the keyring has decrypted; an old one that stays at rest everywhere, for as long as data lives, can go.",
			prometheus.Labels{"key": key}, read(func(s store.Stats) int64 { return s.KeyUses[key] })))
	}
	m.registry.MustRegister(
		gaugeFunc("larder_build_info", "Always 1; the labels say what runs.",
			prometheus.Labels{"version": o.Version, "go_version": runtime.Version()}, func() float64 { return 1 }),
		gaugeFunc("larder_redis_in_flight", "Operations on their way to Redis.", nil, read(func(s store.Stats) int64 { return s.InFlight })),
		counterFunc("larder_sessions_expired_total", "Sessions that this process has ended when their time was over, by the timeout.",
			prometheus.Labels{"timeout": "idle"}, read(func(s store.Stats) int64 { return s.Sessions.ExpiredIdle })),
		counterFunc("larder_sessions_expired_total", "Sessions that this process has ended when their time was over, by the timeout.",
			prometheus.Labels{"timeout": "absolute"}, read(func(s store.Stats) int64 { return s.Sessions.ExpiredAbsolute })),
		counterFunc("larder_sessions_removed_total", "Revoked sessions of which this process has removed what they had left.", nil, read(func(s store.Stats) int64 { return s.Sessions.Removed })),
		gaugeFunc("larder_session_sweep_lag_seconds", "How long the first session that the last sweep of this process ended had been over.", nil,
			func() float64 { return stats().Sessions.SweepLate.Seconds() }),
		gaugeFunc("larder_near_cache_entries", "Entries in the near cache.", nil, read(func(s store.Stats) int64 { return s.Near.Entries })),
		gaugeFunc("larder_near_cache_bytes", "Bytes that the near cache takes.", nil, read(func(s store.Stats) int64 { return s.Near.Bytes })),
		counterFunc("larder_near_cache_hits_total", "Reads answered by the near cache.", nil, read(func(s store.Stats) int64 { return s.Near.Hits })),
		counterFunc("larder_near_cache_misses_total", "Reads that the near cache could not answer.", nil, read(func(s store.Stats) int64 { return s.Near.Misses })),
		counterFunc("larder_near_cache_evictions_total", "Entries dropped from the near cache for want of room.", nil, read(func(s store.Stats) int64 { return s.Near.Evictions })),
		counterFunc("larder_near_cache_invalidations_total", "Entries dropped from the near cache because they changed in Redis.", nil, read(func(s store.Stats) int64 { return s.Near.Invalidations })),
		counterFunc("larder_near_cache_flushes_total", "Times that the near cache was emptied, as when a connection was lost.", nil, read(func(s store.Stats) int64 { return s.Near.Flushes })),
	)
}

// watchReads adds what reads have found. The counts are read when Prometheus asks, so that a read counts once and nowhere
// else.
func (m *Metrics) watchReads(r *reads) { m.registry.MustRegister(readsCollector{r}) }

// A readsCollector shows the counts of reads, those of at most maxReadNamespaces namespaces and one more.
type readsCollector struct{ reads *reads }

var readsDesc = prometheus.NewDesc("larder_cache_reads_total",
	"Entries that were read by Get, BatchGet and GetOrLease, by what was found and where that was known; namespaces beyond the first 100 are together _other.",
	[]string{"namespace", "outcome", "source"}, nil)

// Describe is part of prometheus.Collector.
func (readsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- readsDesc }

// Collect is part of prometheus.Collector.
func (c readsCollector) Collect(ch chan<- prometheus.Metric) {
	for namespace, counts := range c.reads.all() {
		counts.each(func(outcome cachev1.ReadOutcome, source cachev1.Source, n int64) {
			ch <- prometheus.MustNewConstMetric(readsDesc, prometheus.CounterValue, float64(n), namespace,
				strings.ToLower(strings.TrimPrefix(outcome.String(), "READ_OUTCOME_")),
				strings.ToLower(strings.TrimPrefix(source.String(), "SOURCE_")))
		})
	}
}

// Command counts a round trip to Redis, and warns of a slow one. It is part of redis.Observer.
func (m *Metrics) Command(name string, took time.Duration, err error) {
	observer, name := m.command(name)
	observer.Observe(took.Seconds())
	if err != nil {
		m.commandErrors.WithLabelValues(name, reason(err)).Inc()
	}
	if log := m.log.Load(); log != nil && took > log.slow {
		log.logger.LogAttrs(context.Background(), slog.LevelWarn, "slow redis command",
			slog.String("command", name), slog.Duration("duration", took))
	}
}

// command returns the histogram of a command without hashing labels on each round trip, and the name it goes by.
func (m *Metrics) command(name string) (prometheus.Observer, string) {
	m.mu.RLock()
	observer, ok := m.commands[name]
	m.mu.RUnlock()
	if ok {
		return observer, name
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if observer, ok = m.commands[name]; ok {
		return observer, name
	}
	if len(m.commands) >= maxCommands {
		return m.commandSeconds.WithLabelValues("other"), "other"
	}
	observer = m.commandSeconds.WithLabelValues(name)
	m.commands[name] = observer
	return observer, name
}

// PolicyReloaded counts a change of the policy file; err says why it was rejected.
func (m *Metrics) PolicyReloaded(err error) {
	result := "applied"
	if err != nil {
		result = "rejected"
	}
	m.policyReloads.WithLabelValues(result).Inc()
}

// Connection counts a change of the connections to Redis, and logs those that opened and ended; Health logs whether Redis
// is there, and the store each failed attempt. It is part of redis.Observer.
func (m *Metrics) Connection(event redis.ConnectionEvent, attempt int, _ error) {
	m.connectionEvents.WithLabelValues(string(event)).Inc()
	if log := m.log.Load(); log != nil && (event == redis.Dialed || event == redis.Closed) {
		log.logger.LogAttrs(context.Background(), slog.LevelInfo, "redis connection",
			slog.String("event", string(event)), slog.Int("attempt", attempt))
	}
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histograms(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds}, labels)
}

func gaugeFunc(name, help string, labels prometheus.Labels, read func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read)
}

func counterFunc(name, help string, labels prometheus.Labels, read func() float64) prometheus.CounterFunc {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, read)
}
