package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // checks whether each backend is ready
	"google.golang.org/grpc/keepalive"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// balancing is the service config of a Client: round robin over all backends that report to be ready. It has no
// retryPolicy because the interceptors retry; service_config.json, which has one, is for other languages.
const balancing = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "ready"}
}`

// balancingLimits is balancing for calls of RateLimitService, which backends answer by failure policies while they are not ready
// for want of Redis.
const balancingLimits = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "larder.ratelimit.v1.RateLimitService"}
}`

// maxMessage is the size of the largest message that a Client sends or receives. The server's own limits are lower.
const maxMessage = 64 << 20

// Options say where Larder is and how to call it. The zero value calls a server on this machine in plaintext.
type Options struct {
	// Target is the server's host:port. The host is resolved through DNS, and calls are spread over all of its addresses;
	// in Kubernetes use the name of the headless service. Any other gRPC target, such as "unix:///run/larder.sock" or
	// "xds:///larder", works too. A URL such as "http://larder:50051" is refused. Without a port gRPC uses 443. Empty means
	// "127.0.0.1:50051".
	Target string
	// Namespace is the namespace of all keys, sessions, tokens, subjects and locks; [Cache.In] and its like choose another one.
	// Empty means "default".
	Namespace string
	// TLS encrypts the connections. Nil means plaintext.
	TLS *tls.Config
	// Logger receives one line for each call: at debug level if the call succeeded or was canceled by its caller, at
	// warning level if it failed. A line never contains keys, values or tokens. Nil means no logging.
	Logger *slog.Logger
	// Timeout limits a call whose context has no deadline, all of its attempts together. It does not apply to the
	// streams: [Cache.DeleteMatching], [Cache.Watch], [Sessions.WatchEvents], [Locks.Hold] and [Locks.Observe]. Zero means 5 s.
	Timeout time.Duration
	// MaxAttempts is the maximum number of attempts of a call that may be retried, the first one included. Zero means 3,
	// and 1 means no retries.
	MaxAttempts uint
	// DialOptions are applied after the client's own options and override them. Interceptors among them run inside the
	// client's own, once for each attempt. A service config among them cannot turn on gRPC's own retries.
	DialOptions []grpc.DialOption
}

func (o Options) withDefaults() Options {
	if o.Target == "" {
		o.Target = "127.0.0.1:50051"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 3
	}
	return o
}

// A Client calls Larder. It is safe for concurrent use, and one per process is enough. Create it with [New] and close it
// after use.
type Client struct {
	// Cache calls larder.cache.v1.CacheService.
	Cache *Cache
	// Sessions calls larder.session.v1.SessionService.
	Sessions *Sessions
	// RateLimits calls larder.ratelimit.v1.RateLimitService, over connections of its own: a backend without Redis is not ready for
	// other calls, and answers these by their failure policies.
	RateLimits *RateLimits
	// Tokens calls larder.token.v1.TokenService.
	Tokens *Tokens
	// Locks calls larder.lock.v1.LockService.
	Locks *Locks

	conn, limits *grpc.ClientConn
}

// New returns a Client. It does not connect: the first call does, and fails with [ErrUnavailable] if nothing answers.
// New returns an error, which is not an [*Error], if the options are wrong.
func New(o Options) (*Client, error) {
	o = o.withDefaults()
	if err := checkTarget(o.Target); err != nil {
		return nil, fmt.Errorf("larder: %w", err)
	}
	conn, err := grpc.NewClient(o.Target, dialOptions(o, balancing)...)
	if err != nil {
		return nil, fmt.Errorf("larder: %w", err)
	}
	limits, err := grpc.NewClient(o.Target, dialOptions(o, balancingLimits)...)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("larder: %w", err)
	}
	return &Client{
		Cache:      &Cache{rpc: cachev1.NewCacheServiceClient(conn), namespace: o.Namespace},
		Sessions:   &Sessions{rpc: sessionv1.NewSessionServiceClient(conn), namespace: o.Namespace},
		RateLimits: &RateLimits{rpc: ratelimitv1.NewRateLimitServiceClient(limits), namespace: o.Namespace},
		Tokens:     &Tokens{rpc: tokenv1.NewTokenServiceClient(conn), namespace: o.Namespace},
		Locks:      &Locks{rpc: lockv1.NewLockServiceClient(conn), namespace: o.Namespace},
		conn:       conn,
		limits:     limits,
	}, nil
}

// Conn returns the connection, for generated clients and for services that this package does not wrap. Calls made through
// it pass the same interceptors: they get the same deadline, retries and log lines, and fail with an [*Error].
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close closes the connections. Calls in flight fail.
func (c *Client) Close() error { return errors.Join(c.conn.Close(), c.limits.Close()) }

func dialOptions(o Options, serviceConfig string) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	return slices.Concat([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent("larder-go"),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Neither a DNS TXT record nor an option may add a second layer of retries. gRPC's transparent retries of calls
		// that the server cannot have seen remain on.
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		// With its default backoff gRPC would ignore a replica for up to two minutes after it has come back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
		// The server closes connections that ping more often than every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                20 * time.Second,
			Timeout:             5 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}, interceptors(o), o.DialOptions)
}
