package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/session"
)

// Config holds every setting of the server. Each has one line here and nowhere else: its flag is made of the field's
// name, and README.md's table and the help of `larder serve` of the rest. Options checks them.
type Config struct {
	Redis    redisSettings   `embed:"" prefix:"redis-" group:"Redis"`
	Near     nearSettings    `embed:"" prefix:"near-cache-" group:"Near cache"`
	Cache    cacheSettings   `embed:"" group:"Cache"`
	Sessions sessionSettings `embed:"" prefix:"session-" group:"Sessions"`
	Secrecy  secrecySettings `embed:"" group:"Encryption"`
	Policy   policySettings  `embed:"" prefix:"policy-" group:"Policy"`
	Serving  servingSettings `embed:"" group:"Serving"`
	Log      logSettings     `embed:"" group:"Logs and diagnostics"`

	given  map[string]bool // the variables of the settings that were made, and not left at their defaults
	faults []error         // what parse could not read
}

type redisSettings struct {
	URL                  RedisURL      `env:"REDIS_URL" default:"redis://localhost:6379" help:"One Redis: redis:// or rediss://[username:password@]host[:port][/database]; or embedded:// for a store in this process, lost at its end."`
	Username             string        `env:"REDIS_USERNAME" help:"User of Redis; overrides the URL's."`
	Password             Secret        `env:"REDIS_PASSWORD" hidden:"" help:"Password of Redis; overrides the URL's."`
	PasswordFile         string        `env:"REDIS_PASSWORD_FILE" help:"File that holds the password of Redis, instead of REDIS_PASSWORD."`
	DB                   int           `env:"REDIS_DB" default:"0" help:"Database number; overrides the URL's. A cluster has 0 alone."`
	TLS                  bool          `env:"REDIS_TLS" default:"false" negatable:"" help:"Use TLS; rediss:// does so too."`
	TLSCAFile            string        `name:"tls-ca-file" env:"REDIS_TLS_CA_FILE" help:"PEM file of the authorities that may have signed Redis's certificate; without it the system's."`
	TLSCertFile          string        `env:"REDIS_TLS_CERT_FILE" help:"PEM file of the certificate to show to Redis."`
	TLSKeyFile           string        `env:"REDIS_TLS_KEY_FILE" help:"PEM file of the key of that certificate."`
	TLSServerName        string        `env:"REDIS_TLS_SERVER_NAME" help:"Name that Redis's certificate must bear; without it the host that is dialled."`
	ClusterNodes         []string      `env:"REDIS_CLUSTER_NODES" placeholder:"HOST:PORT" help:"Some nodes of a Redis Cluster, instead of REDIS_URL; the rest are discovered."`
	SentinelNodes        []string      `env:"REDIS_SENTINEL_NODES" placeholder:"HOST:PORT" help:"Some sentinels, instead of REDIS_URL; the rest are discovered."`
	SentinelMaster       string        `env:"REDIS_SENTINEL_MASTER" help:"Name by which the sentinels know the primary; required with them."`
	SentinelUsername     string        `env:"REDIS_SENTINEL_USERNAME" help:"User of the sentinels themselves."`
	SentinelPassword     Secret        `env:"REDIS_SENTINEL_PASSWORD" hidden:"" help:"Password of the sentinels themselves."`
	SentinelPasswordFile string        `env:"REDIS_SENTINEL_PASSWORD_FILE" help:"File that holds the password of the sentinels, instead of REDIS_SENTINEL_PASSWORD."`
	Timeout              time.Duration `env:"LARDER_REDIS_TIMEOUT" default:"2s" help:"Longest wait for one answer of Redis."`
}

type nearSettings struct {
	Bytes Bytes         `env:"LARDER_NEAR_CACHE_BYTES" default:"64MiB" help:"Memory for entries kept in this process; 0 turns that off."`
	TTL   time.Duration `env:"LARDER_NEAR_CACHE_TTL" default:"5s" help:"Oldest that an entry kept in this process may get while Redis cannot reach it."`
}

type cacheSettings struct {
	MaxValueBytes  Bytes         `env:"LARDER_MAX_VALUE_BYTES" default:"1MiB" help:"Longest value."`
	CompressAbove  Bytes         `env:"LARDER_COMPRESS_ABOVE" default:"16KiB" help:"Values longer than this are compressed in Redis; 0 turns that off."`
	DefaultTTL     time.Duration `env:"LARDER_DEFAULT_TTL" default:"1h" help:"Lifetime of an entry that is set without one."`
	MaxTTL         time.Duration `env:"LARDER_MAX_TTL" default:"720h" help:"Longest lifetime that an entry may be given."`
	PlainNamespace string        `env:"LARDER_PLAIN_NAMESPACE" placeholder:"NAMESPACE" help:"Namespace whose keys are Redis keys as they stand, to serve what other Redis clients write; none if empty."`
}

type sessionSettings struct {
	IdleTimeout     time.Duration `env:"LARDER_SESSION_IDLE_TIMEOUT" default:"30m" help:"End of a session without activity; a session may be given less."`
	AbsoluteTimeout time.Duration `env:"LARDER_SESSION_ABSOLUTE_TIMEOUT" default:"12h" help:"End of a session whatever its activity; a session may be given less."`
	RotationGrace   time.Duration `env:"LARDER_SESSION_ROTATION_GRACE" default:"30s" help:"How long a rotated token stays good, at most 5m, so that lost answers and calls under way do no harm; 0 ends it at once."`
	CacheFor        time.Duration `env:"LARDER_SESSION_CACHE_FOR" default:"5s" help:"Longest that callers may believe a verdict on a session without asking again; 0 means not at all."`
	PerSubject      int           `env:"LARDER_SESSIONS_PER_SUBJECT" default:"0" help:"Most sessions that a subject may have at once; 0 is any number."`
	PerClass        int           `env:"LARDER_SESSIONS_PER_CLASS" default:"0" help:"Most of them with the same class of device; 0 is any number."`
	LimitPolicy     string        `env:"LARDER_SESSION_LIMIT_POLICY" default:"evict_least_recently_used" help:"What happens at these limits: evict_least_recently_used, evict_oldest or reject."`
	SweepInterval   time.Duration `env:"LARDER_SESSION_SWEEP_INTERVAL" default:"10s" help:"How soon after its end a session is removed and its expiry told to watchers; from 1s to 10m."`
}

type secrecySettings struct {
	KeyringFile string `env:"LARDER_KEYRING_FILE" help:"File of keys that encrypt what is stored: attributes of sessions, and values in namespaces marked encrypt. A line each: id and 32 bytes in base64, the active one first."`
}

type policySettings struct {
	File string `env:"LARDER_POLICY_FILE" help:"YAML or JSON file of what holds in single namespaces, within the settings above; read again when it changes."`
}

type servingSettings struct {
	GRPCAddr             string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address to serve gRPC on; :50051 is every interface."`
	AdminAddr            string        `env:"LARDER_ADMIN_ADDR" default:"127.0.0.1:9090" help:"Address to serve /health and /metrics on, over HTTP."`
	MaxDeadline          time.Duration `env:"LARDER_MAX_DEADLINE" default:"30s" help:"Longest that a unary call may take, also one without a deadline."`
	MaxInFlight          int           `env:"LARDER_MAX_IN_FLIGHT" default:"4096" help:"Calls served at once; more are refused with RESOURCE_EXHAUSTED."`
	MaxConcurrentStreams uint32        `env:"LARDER_MAX_CONCURRENT_STREAMS" default:"1000" help:"Calls served at once on one connection."`
	StartupTimeout       time.Duration `env:"LARDER_STARTUP_TIMEOUT" default:"30s" help:"Longest wait for Redis at the start; then the process ends."`
	DrainDelay           time.Duration `env:"LARDER_DRAIN_DELAY" default:"5s" help:"How long a stopping server goes on serving, so that callers learn of it."`
	StopTimeout          time.Duration `env:"LARDER_STOP_TIMEOUT" default:"20s" help:"How long calls in flight may then take."`
}

type logSettings struct {
	LogLevel   slog.Level    `env:"LARDER_LOG_LEVEL" default:"info" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat  string        `env:"LARDER_LOG_FORMAT" default:"json" help:"Format of the log on standard output: json or text."`
	SlowCall   time.Duration `env:"LARDER_SLOW_CALL" default:"100ms" help:"Calls and Redis commands that take longer are logged as warnings."`
	Reflection bool          `env:"LARDER_REFLECTION" default:"true" negatable:"" help:"Describe the services to tools such as grpcurl."`
	Pprof      bool          `env:"LARDER_PPROF" default:"false" negatable:"" help:"Serve /debug/pprof on the admin address."`
}

// Options returns what the store and the service are to be made with, or all the faults in the settings at once, each
// naming its variable. It reads the files that settings name, and does nothing else.
func (c *Config) Options() (store.Options, service.Options, error) {
	redis, err := c.Redis.options(c.given)
	redis.Redis.NearCacheBytes = int64(c.Near.Bytes)
	redis.Redis.NearCacheTTL = c.Near.TTL
	redis.Cache.PlainNamespace = c.Cache.PlainNamespace
	redis.Sessions.SweepInterval = c.Sessions.SweepInterval
	redis.Cache.CompressAbove = int(c.Cache.CompressAbove)
	keyring, keyringErr := readKeyring(c.Secrecy.KeyringFile)
	if keyringErr != nil {
		err = errors.Join(err, fmt.Errorf("LARDER_KEYRING_FILE: %w", keyringErr))
	}
	redis.Keyring = keyring
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
			SessionsPerSubject:     c.Sessions.PerSubject,
			SessionsPerClass:       c.Sessions.PerClass,
			SessionLimitPolicy:     session.LimitPolicy(c.Sessions.LimitPolicy),
			PlainNamespace:         c.Cache.PlainNamespace,
			Keyring:                keyring != nil,
		},
		SlowCall:             c.Log.SlowCall,
		MaxDeadline:          c.Serving.MaxDeadline,
		MaxInFlight:          c.Serving.MaxInFlight,
		MaxConcurrentStreams: c.Serving.MaxConcurrentStreams,
		DrainDelay:           c.Serving.DrainDelay,
		StopTimeout:          c.Serving.StopTimeout,
		Reflection:           c.Log.Reflection,
	}
	return redis, serving, errors.Join(append(append(c.faults, err), c.broken()...)...)
}

// A namespace as the API allows it; the proto files say so too.
var namespace = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// broken tells what is wrong with single settings, those of Redis excepted.
func (c *Config) broken() []error {
	var faults []error
	for _, rule := range []struct {
		holds bool
		fault string
	}{
		{c.Near.Bytes == 0 || c.Near.TTL > 0, "LARDER_NEAR_CACHE_TTL: must be above zero; LARDER_NEAR_CACHE_BYTES=0 turns the near cache off"},
		{c.Cache.MaxValueBytes > 0 && c.Cache.MaxValueBytes <= 512<<20, "LARDER_MAX_VALUE_BYTES: must be between 1 and 512MiB, which is as much as Redis takes"},
		{c.Cache.DefaultTTL > 0, "LARDER_DEFAULT_TTL: must be above zero"},
		{c.Cache.DefaultTTL <= c.Cache.MaxTTL, "LARDER_DEFAULT_TTL: must not be above LARDER_MAX_TTL"},
		{c.Cache.PlainNamespace == "" || namespace.MatchString(c.Cache.PlainNamespace), "LARDER_PLAIN_NAMESPACE: must be 1 to 63 characters of a-z, 0-9, dot, underscore and dash, the first a letter or a digit"},
		{c.Sessions.IdleTimeout >= time.Second, "LARDER_SESSION_IDLE_TIMEOUT: must be at least 1s"},
		{c.Sessions.IdleTimeout <= c.Sessions.AbsoluteTimeout, "LARDER_SESSION_IDLE_TIMEOUT: must not be above LARDER_SESSION_ABSOLUTE_TIMEOUT"},
		{c.Sessions.RotationGrace >= 0 && c.Sessions.RotationGrace <= 5*time.Minute, "LARDER_SESSION_ROTATION_GRACE: must be between 0 and 5m"},
		{c.Sessions.CacheFor >= 0, "LARDER_SESSION_CACHE_FOR: must not be below zero"},
		{c.Sessions.PerSubject >= 0, "LARDER_SESSIONS_PER_SUBJECT: must not be below zero"},
		{c.Sessions.PerClass >= 0, "LARDER_SESSIONS_PER_CLASS: must not be below zero"},
		{isLimitPolicy(c.Sessions.LimitPolicy), "LARDER_SESSION_LIMIT_POLICY: must be evict_least_recently_used, evict_oldest or reject"},
		{c.Sessions.SweepInterval >= time.Second && c.Sessions.SweepInterval <= 10*time.Minute, "LARDER_SESSION_SWEEP_INTERVAL: must be between 1s and 10m"},
		{isAddr(c.Serving.GRPCAddr), "LARDER_GRPC_ADDR: must be host:port or :port"},
		{isAddr(c.Serving.AdminAddr), "LARDER_ADMIN_ADDR: must be host:port or :port"},
		{c.Serving.MaxDeadline > 0, "LARDER_MAX_DEADLINE: must be above zero"},
		{c.Serving.MaxInFlight > 0, "LARDER_MAX_IN_FLIGHT: must be above zero"},
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

// orNone says none in the way of policy.Limits, where zero asks for the default.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// isAddr reports whether the server can be asked to listen on addr; port 0 is any free one.
func isAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	_, notNumber := strconv.ParseUint(port, 10, 16)
	return err == nil && notNumber == nil
}

func isLimitPolicy(policy string) bool {
	return slices.Contains([]session.LimitPolicy{session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject}, session.LimitPolicy(policy))
}
