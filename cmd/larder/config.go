package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/berthcare/larder/cmd/larder/setting"
	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/edge/rls"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/session"
)

// Config holds every setting of the server, one line each and nowhere else. The field's name and the prefix of its group
// give the flag; `larder serve --help` and the table in docs/operating.md are generated from the tags. Options checks the
// values.
type Config struct {
	Redis    redisSettings   `embed:"" prefix:"redis-" group:"Redis"`
	Near     nearSettings    `embed:"" prefix:"near-cache-" group:"Near cache"`
	Cache    cacheSettings   `embed:"" group:"Cache"`
	Sessions sessionSettings `embed:"" prefix:"session-" group:"Sessions"`
	Limits   limitSettings   `embed:"" prefix:"sessions-" group:"Sessions"`
	Rates    rateSettings    `embed:"" group:"Rate limits"`
	Secrecy  secrecySettings `embed:"" group:"Encryption"`
	Policy   policySettings  `embed:"" prefix:"policy-" group:"Policy"`
	Envoy    envoySettings   `embed:"" prefix:"envoy-ratelimit-" group:"Envoy's rate limits"`
	Serving  servingSettings `embed:"" group:"Serving"`
	Log      logSettings     `embed:"" group:"Logs and diagnostics"`

	given  map[string]bool // variables of the settings on the command line or in the environment
	faults []error         // variables that could not be parsed or are no settings
	hints  []string        // variables that are likely misspelt, which the log mentions
}

type redisSettings struct {
	URL                  setting.RedisURL `env:"REDIS_URL" default:"redis://localhost:6379" help:"Redis or Valkey server: redis://, rediss:// (TLS), valkey:// or valkeys:// (TLS), then [username:password@]host[:port][/database]; or unix:///path/of/socket. ?db=NUMBER gives the database, too. embedded:// is a store inside this process, whose data is lost when it exits."`
	Username             string           `env:"REDIS_USERNAME" help:"Redis user; overrides the user in REDIS_URL."`
	Password             setting.Secret   `env:"REDIS_PASSWORD" hidden:"" help:"Redis password; overrides the password in REDIS_URL."`
	PasswordFile         string           `env:"REDIS_PASSWORD_FILE" help:"File that contains the Redis password, read for every new connection; not together with REDIS_PASSWORD. It overrides the password in REDIS_URL."`
	DB                   int              `env:"REDIS_DB" default:"0" help:"Redis database number; overrides the number in REDIS_URL. A Redis Cluster has database 0 only."`
	TLS                  bool             `env:"REDIS_TLS" default:"false" negatable:"" help:"Connect to Redis over TLS; default: false, unless REDIS_URL is rediss:// or valkeys://. The TLS files below are read for every new connection."`
	TLSCAFile            string           `name:"tls-ca-file" env:"REDIS_TLS_CA_FILE" help:"PEM file with the authorities trusted to sign the Redis certificate; empty means the authorities of the system."`
	TLSCertFile          string           `env:"REDIS_TLS_CERT_FILE" help:"PEM file with the client certificate presented to Redis."`
	TLSKeyFile           string           `env:"REDIS_TLS_KEY_FILE" help:"PEM file with the private key of the client certificate."`
	TLSServerName        string           `env:"REDIS_TLS_SERVER_NAME" help:"Host name expected in the Redis certificate; empty means the host that is dialled."`
	TLSAllowCN           bool             `name:"tls-allow-cn" env:"REDIS_TLS_ALLOW_CN" default:"false" negatable:"" help:"Accept a Redis certificate that has no subject alternative name if its common name is the expected host; default: false."`
	ClusterNodes         []string         `env:"REDIS_CLUSTER_NODES" placeholder:"HOST:PORT" help:"Addresses of some Redis Cluster nodes, not together with REDIS_URL; the other nodes are discovered."`
	SentinelNodes        []string         `env:"REDIS_SENTINEL_NODES" placeholder:"HOST:PORT" help:"Addresses of some Sentinels, not together with REDIS_URL; the other Sentinels are discovered."`
	SentinelMaster       string           `env:"REDIS_SENTINEL_MASTER" help:"Name of the primary in the Sentinel configuration; required with REDIS_SENTINEL_NODES."`
	SentinelUsername     string           `env:"REDIS_SENTINEL_USERNAME" help:"User for the Sentinels themselves."`
	SentinelPassword     setting.Secret   `env:"REDIS_SENTINEL_PASSWORD" hidden:"" help:"Password for the Sentinels themselves."`
	SentinelPasswordFile string           `env:"REDIS_SENTINEL_PASSWORD_FILE" help:"File that contains the Sentinel password, read for every new connection; not together with REDIS_SENTINEL_PASSWORD."`
	AddressMap           []string         `env:"REDIS_ADDRESS_MAP" placeholder:"TOLD=DIALLED" help:"Where to connect to instead of addresses that Sentinels or cluster nodes tell, as behind NAT, separated by commas: 10.0.0.5:6379=redis.example:7001, or 10.0.0.5=redis.example for every port of a host."`
	Timeout              time.Duration    `env:"LARDER_REDIS_TIMEOUT" default:"2s" help:"Maximum wait for one reply from Redis, for a connection to it, and for the answer to a health probe."`
	Strict               bool             `env:"LARDER_REDIS_STRICT" default:"false" negatable:"" help:"Refuse to start with a Redis that may lose or evict acknowledged writes: a maxmemory-policy other than noeviction, no append-only file, or no replica in a Cluster or with Sentinel. Default: off, which logs a warning instead."`
}

type nearSettings struct {
	Bytes setting.Bytes `env:"LARDER_NEAR_CACHE_BYTES" default:"64MiB" help:"Memory limit of the near cache of this process; 0 disables the near cache."`
	TTL   time.Duration `env:"LARDER_NEAR_CACHE_TTL" default:"5s" help:"Maximum age of a near-cached answer while Redis cannot reach this process."`
}

type cacheSettings struct {
	MaxValueBytes  setting.Bytes `env:"LARDER_MAX_VALUE_BYTES" default:"1MiB" help:"Maximum size of a value, at most 512MiB."`
	CompressAbove  setting.Bytes `env:"LARDER_COMPRESS_ABOVE" default:"16KiB" help:"Size above which values are compressed in Redis; 0 disables compression."`
	DefaultTTL     time.Duration `env:"LARDER_DEFAULT_TTL" default:"1h" help:"TTL of an entry that is written without a TTL; at most LARDER_MAX_TTL."`
	MaxTTL         time.Duration `env:"LARDER_MAX_TTL" default:"720h" help:"Maximum TTL of an entry, stale_ttl included; at most 1752000h (200 years)."`
	PlainNamespace string        `env:"LARDER_PLAIN_NAMESPACE" placeholder:"NAMESPACE" help:"Namespace whose keys are the Redis keys themselves, to serve data that other Redis clients write; empty means none."`
}

type sessionSettings struct {
	IdleTimeout     time.Duration `env:"LARDER_SESSION_IDLE_TIMEOUT" default:"30m" help:"Time without activity after which a session expires, at least 1s and at most LARDER_SESSION_ABSOLUTE_TIMEOUT; a policy or a request may only shorten it."`
	AbsoluteTimeout time.Duration `env:"LARDER_SESSION_ABSOLUTE_TIMEOUT" default:"12h" help:"Time after its creation at which a session expires; a policy or a request may only shorten it."`
	RotationGrace   time.Duration `env:"LARDER_SESSION_ROTATION_GRACE" default:"30s" help:"Rotation grace: time for which the previous token stays valid after RotateSession, and longer until the new token is first presented; at most 5m; 0 ends it at once."`
	CacheFor        time.Duration `env:"LARDER_SESSION_CACHE_FOR" default:"5s" help:"Maximum time for which a caller may reuse a session validation (cache_for); 0 means never."`
	LimitPolicy     string        `env:"LARDER_SESSION_LIMIT_POLICY" default:"evict_least_recently_used" help:"Action when a new session would exceed a limit: evict_least_recently_used, evict_oldest or reject."`
	SweepInterval   time.Duration `env:"LARDER_SESSION_SWEEP_INTERVAL" default:"10s" help:"Maximum delay between the expiry of a session and its removal and event, from 1s to 10m."`
}

type limitSettings struct {
	PerSubject int `env:"LARDER_SESSIONS_PER_SUBJECT" default:"0" help:"Maximum concurrent sessions per subject; 0 means unlimited."`
	PerClass   int `env:"LARDER_SESSIONS_PER_CLASS" default:"0" help:"Maximum concurrent sessions per subject and device class; 0 means unlimited."`
}

type rateSettings struct {
	Replicas int `env:"LARDER_REPLICAS" default:"1" help:"Number of replicas of Larder that are expected to run, by which the rate limits with on_failure: local are divided while Redis does not decide; at least 1."`
}

type secrecySettings struct {
	KeyringFile string `env:"LARDER_KEYRING_FILE" help:"File with the keys that encrypt session attributes, and values in namespaces marked encrypt. Each line has a key id and 32 bytes in base64; the first key encrypts. Reloaded when it changes."`
}

type policySettings struct {
	File string `env:"LARDER_POLICY_FILE" help:"YAML or JSON file with limits and defaults for single namespaces, within the settings above; reloaded when it changes."`
}

type envoySettings struct {
	Config          []string      `env:"LARDER_ENVOY_RATELIMIT_CONFIG" placeholder:"PATH" help:"Configuration files of envoyproxy/ratelimit, or folders of them, by which Envoy's rate limit protocol is served; reloaded when they change. Files named larder.yaml hold what only Larder knows of. Empty means that the protocol is not served."`
	MergeDomains    bool          `env:"LARDER_ENVOY_RATELIMIT_MERGE_DOMAINS" default:"false" negatable:"" help:"Let several files have rules of one domain; default: false."`
	FailurePolicy   string        `env:"LARDER_ENVOY_RATELIMIT_FAILURE_POLICY" default:"fail_open" help:"Answer while Redis does not decide: fail_open allows, fail_closed denies, local counts in this process alone, and error fails the call, so that failure_mode_deny of Envoy decides. larder.yaml may set another for a rule."`
	RedisTimeout    time.Duration `env:"LARDER_ENVOY_RATELIMIT_REDIS_TIMEOUT" default:"50ms" help:"Maximum time for Redis to decide, at most 50ms; 3 ms before the deadline of the call if that is sooner."`
	ChargeAll       bool          `env:"LARDER_ENVOY_RATELIMIT_CHARGE_ALL" default:"false" negatable:"" help:"Count a denied request on all of its descriptors, as envoyproxy/ratelimit does; default: false, which counts it on none."`
	ShadowMode      bool          `env:"LARDER_ENVOY_RATELIMIT_SHADOW_MODE" default:"false" negatable:"" help:"Let every request pass, and still count and report it; default: false."`
	QuotaMode       bool          `env:"LARDER_ENVOY_RATELIMIT_QUOTA_MODE" default:"false" negatable:"" help:"Treat every rule as one with quota_mode; default: false."`
	NearLimitRatio  float64       `env:"LARDER_ENVOY_RATELIMIT_NEAR_LIMIT_RATIO" default:"0.8" help:"Share of a limit above which hits count as near_limit, above 0 and at most 1."`
	Headers         bool          `env:"LARDER_ENVOY_RATELIMIT_HEADERS" default:"false" negatable:"" help:"Add headers about the tightest limit to responses; default: false. Envoy can add x-ratelimit headers by itself."`
	LimitHeader     string        `env:"LARDER_ENVOY_RATELIMIT_LIMIT_HEADER" default:"RateLimit-Limit" help:"Name of the header with the limit."`
	RemainingHeader string        `env:"LARDER_ENVOY_RATELIMIT_REMAINING_HEADER" default:"RateLimit-Remaining" help:"Name of the header with what remains of the limit."`
	ResetHeader     string        `env:"LARDER_ENVOY_RATELIMIT_RESET_HEADER" default:"RateLimit-Reset" help:"Name of the header with the seconds until the limit is whole again."`
	DynamicMetadata bool          `env:"LARDER_ENVOY_RATELIMIT_DYNAMIC_METADATA" default:"false" negatable:"" help:"Add the request, and metadata of the rules that allow it, to the dynamic metadata of Envoy; default: false."`
}

// options returns nil unless Envoy's rate limit protocol is to be served.
func (e *envoySettings) options() *service.EnvoyRateLimits {
	if len(e.Config) == 0 {
		return nil
	}
	failure := rls.FailurePolicy(e.FailurePolicy)
	if e.FailurePolicy == failWithError {
		failure = ""
	}
	return &service.EnvoyRateLimits{
		Options: rls.Options{
			Shadow: e.ShadowMode, Quota: e.QuotaMode, ChargeAll: e.ChargeAll, NearRatio: e.NearLimitRatio, Headers: e.Headers,
			HeaderNames:     rls.HeaderNames{Limit: e.LimitHeader, Remaining: e.RemainingHeader, Reset: e.ResetHeader},
			DynamicMetadata: e.DynamicMetadata,
		},
		Failure: failure, RedisTimeout: e.RedisTimeout,
	}
}

// failWithError is the failure policy by which calls fail.
const failWithError = "error"

type servingSettings struct {
	GRPCAddr             string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the gRPC port; :50051 listens on every interface."`
	AdminAddr            string        `env:"LARDER_ADMIN_ADDR" default:"127.0.0.1:9090" help:"Address of the HTTP port for /health and /metrics."`
	MaxDeadline          time.Duration `env:"LARDER_MAX_DEADLINE" default:"30s" help:"Maximum duration of a unary call, whatever deadline its caller set."`
	MaxInFlight          int           `env:"LARDER_MAX_IN_FLIGHT" default:"4096" help:"Maximum concurrent unary calls, and as many streams; further ones fail with RESOURCE_EXHAUSTED."`
	MaxInFlightBytes     setting.Bytes `env:"LARDER_MAX_IN_FLIGHT_BYTES" default:"64MiB" help:"Maximum size of the requests of unary calls in flight together, each of which takes about three times its size; further ones fail with RESOURCE_EXHAUSTED. Requests of 16 KiB and less are not counted."`
	MaxConcurrentStreams uint32        `env:"LARDER_MAX_CONCURRENT_STREAMS" default:"1000" help:"Maximum concurrent calls on one connection."`
	StartupTimeout       time.Duration `env:"LARDER_STARTUP_TIMEOUT" default:"30s" help:"Maximum time to connect to Redis at start, after which the process exits with 1."`
	DrainDelay           time.Duration `env:"LARDER_DRAIN_DELAY" default:"5s" help:"Time for which a stopping server keeps serving, so that callers notice that it leaves."`
	StopTimeout          time.Duration `env:"LARDER_STOP_TIMEOUT" default:"20s" help:"Maximum time for calls in flight to finish after the drain delay."`
}

type logSettings struct {
	LogLevel   setting.Level `env:"LARDER_LOG_LEVEL" default:"info" help:"Lowest level that is logged: debug, info, warn or error."`
	LogFormat  string        `env:"LARDER_LOG_FORMAT" default:"json" help:"Format of the log on standard output: json or text."`
	SlowCall   time.Duration `env:"LARDER_SLOW_CALL" default:"100ms" help:"Duration above which a call or a Redis round trip is logged as a warning."`
	Reflection bool          `env:"LARDER_REFLECTION" default:"true" negatable:"" help:"Serve gRPC reflection, by which tools such as grpcurl find the services; default: true."`
	Pprof      bool          `env:"LARDER_PPROF" default:"false" negatable:"" help:"Serve /debug/pprof on the admin address; profiles show the memory of the process. Default: false."`
}

// Options returns the options of the store and of the service, or all faults in the settings joined, each with the name of
// its variable. It reads the files that the settings name, except for the policy file, and has no other effect.
func (c *Config) Options() (store.Options, service.Options, error) {
	stored, err := c.Redis.options(c.given)
	stored.Redis.NearCacheBytes = int64(c.Near.Bytes)
	stored.Redis.NearCacheTTL = c.Near.TTL
	stored.Cache.PlainNamespace = c.Cache.PlainNamespace
	stored.Cache.MaxTTL = c.Cache.MaxTTL
	stored.Sessions.SweepInterval = c.Sessions.SweepInterval
	stored.Cache.CompressAbove = int(c.Cache.CompressAbove)
	stored.RateLimits.Replicas = c.Rates.Replicas
	keyring, keyringErr := readKeyring(c.Secrecy.KeyringFile)
	if keyringErr != nil {
		err = errors.Join(err, fmt.Errorf("LARDER_KEYRING_FILE: %w", keyringErr))
	}
	stored.Keyring = keyring
	serving := service.Options{
		Version: release(),
		Limits: policy.Limits{
			MaxValueBytes:          int(c.Cache.MaxValueBytes),
			DefaultTTL:             c.Cache.DefaultTTL,
			MaxTTL:                 c.Cache.MaxTTL,
			SessionIdleTimeout:     c.Sessions.IdleTimeout,
			SessionAbsoluteTimeout: c.Sessions.AbsoluteTimeout,
			SessionRotationGrace:   orNone(c.Sessions.RotationGrace),
			SessionCacheFor:        orNone(c.Sessions.CacheFor),
			SessionsPerSubject:     c.Limits.PerSubject,
			SessionsPerClass:       c.Limits.PerClass,
			SessionLimitPolicy:     session.LimitPolicy(c.Sessions.LimitPolicy),
			PlainNamespace:         c.Cache.PlainNamespace,
			Keyring:                keyring != nil,
		},
		EnvoyRateLimits:      c.Envoy.options(),
		SlowCall:             c.Log.SlowCall,
		MaxDeadline:          c.Serving.MaxDeadline,
		MaxInFlight:          c.Serving.MaxInFlight,
		MaxInFlightBytes:     int64(c.Serving.MaxInFlightBytes),
		MaxConcurrentStreams: c.Serving.MaxConcurrentStreams,
		DrainDelay:           c.Serving.DrainDelay,
		StopTimeout:          c.Serving.StopTimeout,
		Reflection:           c.Log.Reflection,
	}
	return stored, serving, errors.Join(append(append(c.faults, err), c.broken()...)...)
}

// namespace matches the names that the API accepts for namespaces.
var namespace = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// broken returns the faults in all settings but those of Redis, which redisSettings.options checks.
func (c *Config) broken() []error {
	var faults []error
	for _, rule := range []struct {
		holds bool
		fault string
	}{
		{c.Near.Bytes == 0 || c.Near.TTL > 0, "LARDER_NEAR_CACHE_TTL: must be above zero; LARDER_NEAR_CACHE_BYTES=0 turns the near cache off"},
		{c.Cache.MaxValueBytes > 0 && c.Cache.MaxValueBytes <= 512<<20, "LARDER_MAX_VALUE_BYTES: must be between 1 and 512MiB, which is as much as Redis takes"},
		{c.Cache.DefaultTTL > 0, "LARDER_DEFAULT_TTL: must be above zero"},
		{c.Cache.DefaultTTL <= c.Cache.MaxTTL, fmt.Sprintf("LARDER_DEFAULT_TTL: must not be above LARDER_MAX_TTL, which is %s", policy.Span(c.Cache.MaxTTL))},
		{c.Cache.PlainNamespace == "" || namespace.MatchString(c.Cache.PlainNamespace), "LARDER_PLAIN_NAMESPACE: must be 1 to 63 characters of a-z, 0-9, dot, underscore and dash, the first a letter or a digit"},
		{c.Sessions.IdleTimeout >= time.Second, "LARDER_SESSION_IDLE_TIMEOUT: must be at least 1s"},
		{c.Sessions.IdleTimeout <= c.Sessions.AbsoluteTimeout, fmt.Sprintf("LARDER_SESSION_IDLE_TIMEOUT: must not be above LARDER_SESSION_ABSOLUTE_TIMEOUT, which is %s", policy.Span(c.Sessions.AbsoluteTimeout))},
		{c.Sessions.RotationGrace >= 0 && c.Sessions.RotationGrace <= 5*time.Minute, "LARDER_SESSION_ROTATION_GRACE: must be between 0 and 5m"},
		{c.Sessions.CacheFor >= 0, "LARDER_SESSION_CACHE_FOR: must not be below zero"},
		{c.Limits.PerSubject >= 0, "LARDER_SESSIONS_PER_SUBJECT: must not be below zero"},
		{c.Limits.PerClass >= 0, "LARDER_SESSIONS_PER_CLASS: must not be below zero"},
		{isLimitPolicy(c.Sessions.LimitPolicy), "LARDER_SESSION_LIMIT_POLICY: must be evict_least_recently_used, evict_oldest or reject"},
		{c.Sessions.SweepInterval >= time.Second && c.Sessions.SweepInterval <= 10*time.Minute, "LARDER_SESSION_SWEEP_INTERVAL: must be between 1s and 10m"},
		{c.Rates.Replicas >= 1, "LARDER_REPLICAS: must be at least 1"},
		{isFailurePolicy(c.Envoy.FailurePolicy), "LARDER_ENVOY_RATELIMIT_FAILURE_POLICY: must be fail_open, fail_closed, local or error"},
		{c.Envoy.RedisTimeout >= time.Millisecond && c.Envoy.RedisTimeout <= 50*time.Millisecond, "LARDER_ENVOY_RATELIMIT_REDIS_TIMEOUT: must be between 1ms and 50ms"},
		{c.Envoy.NearLimitRatio > 0 && c.Envoy.NearLimitRatio <= 1, "LARDER_ENVOY_RATELIMIT_NEAR_LIMIT_RATIO: must be above 0 and at most 1"},
		{isHeader(c.Envoy.LimitHeader), "LARDER_ENVOY_RATELIMIT_LIMIT_HEADER: must be the name of an HTTP header"},
		{isHeader(c.Envoy.RemainingHeader), "LARDER_ENVOY_RATELIMIT_REMAINING_HEADER: must be the name of an HTTP header"},
		{isHeader(c.Envoy.ResetHeader), "LARDER_ENVOY_RATELIMIT_RESET_HEADER: must be the name of an HTTP header"},
		{setting.IsAddr(c.Serving.GRPCAddr), "LARDER_GRPC_ADDR: must be host:port or :port"},
		{setting.IsAddr(c.Serving.AdminAddr), "LARDER_ADMIN_ADDR: must be host:port or :port"},
		{c.Serving.MaxDeadline > 0, "LARDER_MAX_DEADLINE: must be above zero"},
		{c.Serving.MaxInFlight > 0, "LARDER_MAX_IN_FLIGHT: must be above zero"},
		{c.Serving.MaxInFlightBytes > 0, "LARDER_MAX_IN_FLIGHT_BYTES: must be above zero"},
		{c.Serving.MaxConcurrentStreams > 0, "LARDER_MAX_CONCURRENT_STREAMS: must be above zero"},
		{c.Serving.StartupTimeout > 0, "LARDER_STARTUP_TIMEOUT: must be above zero"},
		{c.Serving.DrainDelay >= 0, "LARDER_DRAIN_DELAY: must not be below zero"},
		{c.Serving.StopTimeout > 0, "LARDER_STOP_TIMEOUT: must be above zero"},
		{c.Log.LogFormat == "json" || c.Log.LogFormat == "text", "LARDER_LOG_FORMAT: must be json or text"},
		{c.Log.SlowCall > 0, "LARDER_SLOW_CALL: must be above zero"},
	} {
		if !rule.holds {
			faults = append(faults, errors.New(rule.fault))
		}
	}
	return faults
}

// orNone returns d, or -1 for zero: in policy.Limits zero means the default and a negative duration means none.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func isLimitPolicy(policy string) bool {
	return slices.Contains([]session.LimitPolicy{session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject}, session.LimitPolicy(policy))
}

func isFailurePolicy(policy string) bool {
	return slices.Contains([]rls.FailurePolicy{rls.FailOpen, rls.FailClosed, rls.Local, failWithError}, rls.FailurePolicy(policy))
}

// header matches names of HTTP headers.
var header = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func isHeader(name string) bool { return header.MatchString(name) }
