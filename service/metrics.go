package service

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
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

// maxCommands is the maximum number of command names that become labels; the store uses a fixed set of fewer.
const maxCommands = 64

// seconds are the buckets of both histograms, from a near-cache hit to a call that runs into its deadline.
var seconds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// Metrics holds everything that /metrics serves, in a registry of its own, and is the [redis.Observer] of the store. This
// file has the name, the labels and the help text of every metric, except those of the Go runtime and the process and
// those that go-grpc-middleware's provider gives to calls: grpc_server_started_total, grpc_server_handled_total,
// grpc_server_handling_seconds, grpc_server_msg_received_total and grpc_server_msg_sent_total, labelled grpc_type,
// grpc_service and grpc_method, and grpc_server_handled_total also grpc_code.
type Metrics struct {
	registry *prometheus.Registry

	calls           *grpcprom.ServerMetrics
	unary, streams  load
	waits           atomic.Pointer[waits]
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

// A load counts the unary calls or the streams in flight, and those that were refused.
type load struct{ inFlight, shed atomic.Int64 }

// A redisLog says where to log changes of the connections to Redis, and commands that take longer than slow.
type redisLog struct {
	logger *slog.Logger
	slow   time.Duration
}

// NewMetrics returns the metrics of the process, of calls and of Redis commands. [New] adds those of the build, of the
// store and of the services.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		commands: map[string]prometheus.Observer{},

		calls: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramBuckets(seconds))),

		unknownMethods:  counter("larder_unknown_methods_total", "Calls of methods that this server does not implement."),
		retries:         counters("larder_retries_total", "Retries of a handler after a transient failure of Redis, by full method name.", "method"),
		budgetExhausted: counter("larder_retry_budget_exhausted_total", "Calls that failed without a further retry because the retry budget was spent."),
		panics:          counter("larder_panics_total", "Panics in handlers, each answered with the reason PANIC."),

		policyReloads: counters("larder_policy_reloads_total", "Reloads of a changed policy file, by result: applied or rejected.", "result"),

		commandErrors:    counters("larder_redis_command_errors_total", "Failed round trips to Redis, by command and by the error reason that callers receive.", "command", "kind"),
		connectionEvents: counters("larder_redis_connection_events_total", "Changes of the connections to Redis, by event: dialed, dial_failed, closed, lost or restored.", "event"),
		commandSeconds:   histograms("larder_redis_command_duration_seconds", "Duration of round trips to Redis in seconds, by command.", "command"),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.calls, m.unknownMethods, m.retries, m.budgetExhausted, m.panics,
		m.commandSeconds, m.commandErrors, m.connectionEvents, m.policyReloads,
		gaugeFunc("larder_policy_loaded_timestamp_seconds", "Unix time at which the policy in force was loaded; 0 without a policy file.", nil,
			func() float64 { return float64(m.policyLoaded.Load()) }),
		gaugeFunc("larder_redis_up", "1 while Redis answers the health probes, otherwise 0.", nil, func() float64 {
			if m.up.Load() {
				return 1
			}
			return 0
		}),
	)
	m.registry.MustRegister(gaugeFunc("larder_rpc_waiting", "Unary calls that wait for another call, such as for a load under a lease; they are not in flight.", nil, func() float64 {
		if w := m.waits.Load(); w != nil {
			return float64(w.waiting())
		}
		return 0
	}))
	for kind, l := range map[string]*load{"unary": &m.unary, "stream": &m.streams} {
		labels := prometheus.Labels{"type": kind}
		m.registry.MustRegister(
			gaugeFunc("larder_rpc_in_flight", "Calls in flight by type, unary or stream; health checks are not counted.", labels, func() float64 { return float64(l.inFlight.Load()) }),
			counterFunc("larder_rpc_shed_total", "Calls refused with the reason SERVER_OVERLOADED because too many were in flight.", labels, func() float64 { return float64(l.shed.Load()) }),
		)
	}
	return m
}

// watch adds the metrics of the build and those that the store counts itself, and sets where commands and connections are
// logged.
func (m *Metrics) watch(stats func() store.Stats, o Options) {
	m.log.Store(&redisLog{o.Logger, o.SlowCall})
	read := func(field func(store.Stats) int64) func() float64 {
		return func() float64 { return float64(field(stats())) }
	}
	for key := range stats().KeyUses {
		m.registry.MustRegister(counterFunc("larder_keyring_opened_total", "Values and attributes decrypted with a key of the keyring. An old key can be removed once its counter stands still on every replica for the longest lifetime of data.",
			prometheus.Labels{"key": key}, read(func(s store.Stats) int64 { return s.KeyUses[key] })))
	}
	for _, setting := range redis.WarningSettings {
		m.registry.MustRegister(gaugeFunc("larder_redis_unsafe_setting", "1 while Redis has this setting in a way that may lose or evict acknowledged writes, otherwise 0.",
			prometheus.Labels{"setting": setting}, read(func(s store.Stats) int64 {
				if slices.ContainsFunc(s.Warnings, func(w redis.Warning) bool { return w.Setting == setting }) {
					return 1
				}
				return 0
			})))
	}
	m.registry.MustRegister(
		gaugeFunc("larder_build_info", "Always 1; the labels are the version of Larder and of Go.",
			prometheus.Labels{"version": o.Version, "go_version": runtime.Version()}, func() float64 { return 1 }),
		gaugeFunc("larder_redis_in_flight", "Round trips to Redis in flight.", nil, read(func(s store.Stats) int64 { return s.InFlight })),
		counterFunc("larder_sessions_expired_total", "Sessions that this replica has ended because of a timeout, idle or absolute.",
			prometheus.Labels{"timeout": "idle"}, read(func(s store.Stats) int64 { return s.Sessions.ExpiredIdle })),
		counterFunc("larder_sessions_expired_total", "Sessions that this replica has ended because of a timeout, idle or absolute.",
			prometheus.Labels{"timeout": "absolute"}, read(func(s store.Stats) int64 { return s.Sessions.ExpiredAbsolute })),
		counterFunc("larder_sessions_removed_total", "Revoked sessions whose remaining records this replica has removed.", nil, read(func(s store.Stats) int64 { return s.Sessions.Removed })),
		gaugeFunc("larder_session_sweep_lag_seconds", "Delay in seconds between the end of the oldest session found by the last sweep of this replica and the sweep.", nil,
			func() float64 { return stats().Sessions.SweepLate.Seconds() }),
		gaugeFunc("larder_near_cache_entries", "Entries in the near cache.", nil, read(func(s store.Stats) int64 { return s.Near.Entries })),
		gaugeFunc("larder_near_cache_bytes", "Memory used by the near cache in bytes.", nil, read(func(s store.Stats) int64 { return s.Near.Bytes })),
		counterFunc("larder_near_cache_hits_total", "Reads answered from the near cache.", nil, read(func(s store.Stats) int64 { return s.Near.Hits })),
		counterFunc("larder_near_cache_misses_total", "Reads that the near cache could not answer.", nil, read(func(s store.Stats) int64 { return s.Near.Misses })),
		counterFunc("larder_near_cache_evictions_total", "Entries dropped from the near cache to make room for others.", nil, read(func(s store.Stats) int64 { return s.Near.Evictions })),
		counterFunc("larder_near_cache_invalidations_total", "Entries dropped from the near cache because they changed in Redis.", nil, read(func(s store.Stats) int64 { return s.Near.Invalidations })),
		counterFunc("larder_near_cache_flushes_total", "Number of times the near cache was emptied, for example because a connection was lost.", nil, read(func(s store.Stats) int64 { return s.Near.Flushes })),
	)
}

// watchHealth adds what the probes tell.
func (m *Metrics) watchHealth(h *Health) {
	is := func(holds func() bool) func() float64 {
		return func() float64 {
			if holds() {
				return 1
			}
			return 0
		}
	}
	for _, kind := range redis.ProblemKinds {
		m.registry.MustRegister(gaugeFunc("larder_redis_degraded", "1 while some calls fail, or would with the next fault, for a reason: shards, nodes, reads, scripts or writes; otherwise 0.",
			prometheus.Labels{"problem": kind}, is(func() bool { return h.Problems()[kind] != "" })))
	}
	for _, name := range readyNames()[1:] { // the first is ready under another name
		m.registry.MustRegister(gaugeFunc("larder_serving", "1 while a name of the health service is SERVING, otherwise 0.",
			prometheus.Labels{"name": name}, is(func() bool { return h.Serving(name) })))
	}
}

// watchReceives adds the size of the requests in flight.
func (m *Metrics) watchReceives(r *receiving) {
	m.registry.MustRegister(gaugeFunc("larder_rpc_in_flight_bytes", "Size of the requests of unary calls in flight in bytes, but for those of 16 KiB and less.", nil,
		func() float64 { return float64(r.held.Load()) }))
}

// watchReads adds the counts of reads. They are collected when Prometheus scrapes, so that a read updates one counter only.
func (m *Metrics) watchReads(r *reads) { m.registry.MustRegister(readsCollector{r}) }

// A readsCollector collects the counts of reads, of at most maxReadNamespaces namespaces and of all others together.
type readsCollector struct{ reads *reads }

var readsDesc = prometheus.NewDesc("larder_cache_reads_total",
	"Entries read by Get, BatchGet and GetOrLease, by outcome and by source: near_cache or redis. Namespaces after the first 100 are counted together as _other.",
	[]string{"namespace", "outcome", "source"}, nil)

// Describe implements [prometheus.Collector].
func (readsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- readsDesc }

// Collect implements [prometheus.Collector].
func (c readsCollector) Collect(ch chan<- prometheus.Metric) {
	for namespace, counts := range c.reads.all() {
		counts.each(func(outcome cachev1.ReadOutcome, source cachev1.Source, n int64) {
			ch <- prometheus.MustNewConstMetric(readsDesc, prometheus.CounterValue, float64(n), namespace,
				strings.ToLower(strings.TrimPrefix(outcome.String(), "READ_OUTCOME_")),
				strings.ToLower(strings.TrimPrefix(source.String(), "SOURCE_")))
		})
	}
}

// Command records a round trip to Redis and logs it as a warning if it was slow. It implements [redis.Observer].
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

// command returns the histogram of a command and the command's label, which is "other" beyond maxCommands names. It does
// not hash labels on each round trip, as the vector's own look-up would.
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

// PolicyReloaded counts a reload of the policy file: as rejected if err is not nil, otherwise as applied.
func (m *Metrics) PolicyReloaded(err error) {
	result := "applied"
	if err != nil {
		result = "rejected"
	}
	m.policyReloads.WithLabelValues(result).Inc()
}

// Connection counts a change of the connections to Redis, and logs connections that were opened or closed. It does not log
// the other events: [Health] logs that Redis was lost or restored, and the store logs failed attempts. It implements
// [redis.Observer].
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
