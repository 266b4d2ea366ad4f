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
	"github.com/berthcare/larder/service/edge/rls"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// maxCommands is the maximum number of command names that become labels; the store uses a fixed set of fewer.
const maxCommands = 96

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
	messagesRefused *prometheus.CounterVec
	retries         *prometheus.CounterVec
	budgetExhausted prometheus.Counter
	panics          prometheus.Counter

	commandSeconds   *prometheus.HistogramVec
	commandErrors    *prometheus.CounterVec
	connectionEvents *prometheus.CounterVec
	up               atomic.Bool

	tokenOutcomes *prometheus.CounterVec
	unkeyedCodes  atomic.Bool

	policyReloads  *prometheus.CounterVec
	keyringReloads *prometheus.CounterVec
	policyLoaded   atomic.Int64 // Unix time
	envoyReloads   *prometheus.CounterVec

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
	digest *digest
}

// NewMetrics returns the metrics of the process, of calls and of Redis commands. [New] adds those of the build, of the
// store and of the services.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		commands: map[string]prometheus.Observer{},

		calls: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramBuckets(seconds))),

		unknownMethods:  counter("larder_unknown_methods_total", "Calls of methods that this server does not implement."),
		messagesRefused: counters("larder_messages_refused_total", "Messages of callers that were refused before any handler saw them, by reason: MESSAGE_TOO_LARGE, MESSAGE_MALFORMED, or INVALID_FIELD for text that is not UTF-8.", "reason"),
		retries:         counters("larder_retries_total", "Retries of a handler after a transient failure of Redis, by full method name.", "method"),
		budgetExhausted: counter("larder_retry_budget_exhausted_total", "Calls that failed without a further retry because the retry budget was spent."),
		panics:          counter("larder_panics_total", "Panics in handlers, each answered with the reason PANIC."),

		tokenOutcomes: counters("larder_token_outcomes_total", "Outcomes of IssueToken, ConsumeToken, ExchangeToken, ClaimOnce and ClaimCounter, by method and outcome.", "method", "outcome"),

		policyReloads: counters("larder_policy_reloads_total", "Reloads of a changed policy file, by result: applied or rejected.", "result"),
		envoyReloads:  counters("larder_envoy_ratelimit_config_reloads_total", "Reloads of changed configuration files of Envoy's rate limits, by result: applied or rejected.", "result"),

		keyringReloads: counters("larder_keyring_reloads_total", "Reloads of a changed keyring file, by result: applied or rejected.", "result"),

		commandErrors:    counters("larder_redis_command_errors_total", "Failed round trips to Redis, by command and by the error reason that callers receive.", "command", "kind"),
		connectionEvents: counters("larder_redis_connection_events_total", "Changes of the connections to Redis, by event: dialed, dial_failed, closed, lost or restored.", "event"),
		commandSeconds:   histograms("larder_redis_command_duration_seconds", "Duration of round trips to Redis in seconds, by command.", "command"),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.calls, m.unknownMethods, m.messagesRefused, m.retries, m.budgetExhausted, m.panics,
		m.commandSeconds, m.commandErrors, m.connectionEvents, m.tokenOutcomes, m.policyReloads, m.keyringReloads,
		gaugeFunc("larder_token_codes_unkeyed", "1 once this replica has issued a CODE without a keyring, which whoever reads Redis can find by trying all codes; otherwise 0.", nil, func() float64 {
			if m.unkeyedCodes.Load() {
				return 1
			}
			return 0
		}),
		gaugeFunc("larder_policy_loaded_timestamp_seconds", "Unix time at which the policy in force was loaded; 0 without a policy file.", nil,
			func() float64 { return float64(m.policyLoaded.Load()) }),
		gaugeFunc("larder_redis_up", "1 while Redis answers the health probes, otherwise 0.", nil, func() float64 {
			if m.up.Load() {
				return 1
			}
			return 0
		}),
	)
	for _, reason := range []string{reason(errMessageTooLarge), reason(errMessageMalformed), reason(errInvalidField)} {
		m.messagesRefused.WithLabelValues(reason)
	}
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
	m.log.Store(&redisLog{o.Logger, o.SlowCall, newDigest(o.Logger, digestEvery)})
	read := func(field func(store.Stats) int64) func() float64 {
		return func() float64 { return float64(field(stats())) }
	}
	m.registry.MustRegister(keyringCollector{stats})
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
		counterFunc("larder_ratelimit_local_denials_total", "Calls denied without asking Redis, because a rate limit had denied them less than a second before.", nil, read(func(s store.Stats) int64 { return s.RateLimits.LocalDenials })),
		counterFunc("larder_ratelimit_not_returned_total", "Charges of denied calls that could not be given back in a Redis Cluster because Redis did not answer.", nil, read(func(s store.Stats) int64 { return s.RateLimits.NotReturned })),
		counterFunc("larder_ratelimit_failures_total", "Decisions of rate limits that Redis did not make in time, by failure policy: fail_open, fail_closed or local.",
			prometheus.Labels{"policy": "fail_open"}, read(func(s store.Stats) int64 { return s.RateLimits.FailedOpen })),
		counterFunc("larder_ratelimit_failures_total", "Decisions of rate limits that Redis did not make in time, by failure policy: fail_open, fail_closed or local.",
			prometheus.Labels{"policy": "fail_closed"}, read(func(s store.Stats) int64 { return s.RateLimits.FailedClosed })),
		counterFunc("larder_ratelimit_failures_total", "Decisions of rate limits that Redis did not make in time, by failure policy: fail_open, fail_closed or local.",
			prometheus.Labels{"policy": "local"}, read(func(s store.Stats) int64 { return s.RateLimits.FailedLocal })),
		gaugeFunc("larder_lock_waiters", "Callers of this replica that wait for a lock.", nil, read(func(s store.Stats) int64 { return s.Locks.Waiters })),
		gaugeFunc("larder_lock_holding", "Locks that this replica holds for callers of HoldLock.", nil, read(func(s store.Stats) int64 { return s.Locks.Holding })),
		counterFunc("larder_lock_acquires_total", "Requests for locks that this replica has answered, by outcome: acquired or held.",
			prometheus.Labels{"outcome": "acquired"}, read(func(s store.Stats) int64 { return s.Locks.Acquired })),
		counterFunc("larder_lock_acquires_total", "Requests for locks that this replica has answered, by outcome: acquired or held.",
			prometheus.Labels{"outcome": "held"}, read(func(s store.Stats) int64 { return s.Locks.Held })),
		counterFunc("larder_lock_lost_total", "Locks lost by callers of HoldLock on this replica, by reason: expired, force_released or gone.",
			prometheus.Labels{"reason": "expired"}, read(func(s store.Stats) int64 { return s.Locks.LostExpired })),
		counterFunc("larder_lock_lost_total", "Locks lost by callers of HoldLock on this replica, by reason: expired, force_released or gone.",
			prometheus.Labels{"reason": "force_released"}, read(func(s store.Stats) int64 { return s.Locks.LostForced })),
		counterFunc("larder_lock_lost_total", "Locks lost by callers of HoldLock on this replica, by reason: expired, force_released or gone.",
			prometheus.Labels{"reason": "gone"}, read(func(s store.Stats) int64 { return s.Locks.LostGone })),
		counterFunc("larder_lock_forced_releases_total", "Holders from whom this replica has taken a lock by ForceReleaseLock.", nil, read(func(s store.Stats) int64 { return s.Locks.Forced })),
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

// watchDecisions adds the counts of what rate limits have decided.
func (m *Metrics) watchDecisions(p *policy.Policies) *decisions {
	d := &decisions{policies: p, rules: make(map[ruleLabel]*ruleCounters), total: counters("larder_ratelimit_decisions_total",
		"Decisions of rate limits, by rule of the policy and outcome: allowed, denied, shadow_denied (denied by a rule in shadow) or degraded (by the rule's failure policy). Rules in requests are counted as _inline, namespaces without a policy as _other.",
		"namespace", "rule", "outcome")}
	m.registry.MustRegister(d.total)
	return d
}

// A keyringCollector collects how often each key was used, of those that the keyring has at the time.
type keyringCollector struct{ stats func() store.Stats }

var keyringDesc = prometheus.NewDesc("larder_keyring_opened_total",
	"Values and attributes decrypted with a key of the keyring. An old key can be removed once its counter stands still on every replica for the longest lifetime of data.",
	[]string{"key"}, nil)

// Describe implements [prometheus.Collector].
func (keyringCollector) Describe(ch chan<- *prometheus.Desc) { ch <- keyringDesc }

// Collect implements [prometheus.Collector].
func (c keyringCollector) Collect(ch chan<- prometheus.Metric) {
	for key, n := range c.stats().KeyUses {
		ch <- prometheus.MustNewConstMetric(keyringDesc, prometheus.CounterValue, float64(n), key)
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

// watchEnvoyRateLimits adds the metrics of Envoy's rate limits.
func (m *Metrics) watchEnvoyRateLimits(e *envoyRateLimit) {
	m.registry.MustRegister(
		envoyHitsCollector{&e.stats}, m.envoyReloads,
		counterFunc("larder_envoy_ratelimit_unknown_domain_total", "Requests of Envoy's rate limit protocol in a domain that no file has.", nil,
			func() float64 { return float64(e.stats.UnknownDomains()) }),
		counterFunc("larder_envoy_ratelimit_global_shadow_total", "Requests of Envoy's rate limit protocol that passed only because LARDER_ENVOY_RATELIMIT_SHADOW_MODE is on.", nil,
			func() float64 { return float64(e.stats.GlobalShadow()) }),
		gaugeFunc("larder_envoy_ratelimit_config_loaded_timestamp_seconds", "Unix time at which the rate limit configuration in force was loaded.", nil,
			func() float64 { return float64(e.loaded.Load()) }),
	)
}

// An envoyHitsCollector collects the hits on the rules of Envoy's rate limits. Its labels are parts of the configuration and
// never of requests.
type envoyHitsCollector struct{ stats *rls.Stats }

var envoyHitsDesc = prometheus.NewDesc("larder_envoy_ratelimit_hits_total",
	"Hits on a rule of Envoy's rate limits, by the path of the rule and by outcome. A hit may have several outcomes; total has all hits.",
	[]string{"domain", "rule", "outcome"}, nil)

// Describe implements [prometheus.Collector].
func (envoyHitsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- envoyHitsDesc }

// Collect implements [prometheus.Collector].
func (c envoyHitsCollector) Collect(ch chan<- prometheus.Metric) {
	c.stats.Each(func(domain, rule string, o rls.Outcome, hits uint64) {
		ch <- prometheus.MustNewConstMetric(envoyHitsDesc, prometheus.CounterValue, float64(hits), valid(domain), valid(rule), o.String())
	})
}

// EnvoyRateLimitsReloaded counts a reload of the configuration of Envoy's rate limits: as rejected if err is not nil,
// otherwise as applied.
func (m *Metrics) EnvoyRateLimitsReloaded(err error) {
	m.envoyReloads.WithLabelValues(resultOf(err)).Inc()
}

// Command records a round trip to Redis and logs it as a warning if it was slow, once a second. It implements [redis.Observer].
func (m *Metrics) Command(name string, took time.Duration, err error) {
	observer, name := m.command(name)
	observer.Observe(took.Seconds())
	if err != nil {
		m.commandErrors.WithLabelValues(name, reason(err)).Inc()
	}
	log := m.log.Load()
	if log != nil && took > log.slow && log.digest.first(lineKind{level: slog.LevelWarn, message: "slow redis commands", command: name}, took, "") {
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

// closeLog writes what is left to write about slow commands.
func (m *Metrics) closeLog() {
	if log := m.log.Load(); log != nil {
		log.digest.close()
	}
}

// PolicyReloaded counts a reload of the policy file: as rejected if err is not nil, otherwise as applied.
func (m *Metrics) PolicyReloaded(err error) { m.policyReloads.WithLabelValues(resultOf(err)).Inc() }

// KeyringReloaded counts a reload of the keyring file: as rejected if err is not nil, otherwise as applied.
func (m *Metrics) KeyringReloaded(err error) {
	m.keyringReloads.WithLabelValues(resultOf(err)).Inc()
}

func resultOf(err error) string {
	if err != nil {
		return "rejected"
	}
	return "applied"
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
