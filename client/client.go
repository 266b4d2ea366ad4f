package client

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // asks each backend whether it is ready
	"google.golang.org/grpc/keepalive"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// balancing is the service config of a Client: calls go round over all backends that say that they are ready. It has no
// retryPolicy, because the interceptors retry; service_config.json, which has one, is for everybody else.
const balancing = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "ready"}
}`

// maxMessage is the largest message that a Client sends or takes. The server's own limits are below it.
const maxMessage = 64 << 20

// Options say where Larder is and how to call it. The zero value reaches a server on this machine.
type Options struct {
	// Target is host:port, which is resolved through DNS to every address behind it, or any other gRPC target. In
	// Kubernetes it is the headless service, so that calls go round over all replicas. Empty means 127.0.0.1:50051.
	Target string
	// Namespace is that of every key, session and subject. Empty means "default".
	Namespace string
	// TLS encrypts the connections; nil means plaintext.
	TLS *tls.Config
	// Logger gets one line for each call: at debug level when it succeeded or was cancelled by its caller, as a warning
	// when it failed. Keys, values and tokens are never in it. Nil means no logging.
	Logger *slog.Logger
	// Timeout ends a call, all its attempts included, whose context has no deadline. It does not apply to
	// Cache.DeleteMatching, which takes as long as it takes. Zero means 5 s.
	Timeout time.Duration
	// MaxAttempts is how often at most a call is made that may be made again. Zero means 3, 1 means never again.
	MaxAttempts uint
	// DialOptions are added to the client's own and win over them. Interceptors among them run inside the client's, once
	// for each attempt. A service config among them cannot bring in gRPC's own retries, which are off.
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

// A Client calls Larder. It is safe for concurrent use; one per process is enough. Close it when done.
type Client struct {
	// Cache calls larder.cache.v1.CacheService.
	Cache *Cache
	// Sessions calls larder.session.v1.SessionService.
	Sessions *Sessions

	conn *grpc.ClientConn
}

// New returns a client. It does not connect: the first call does, and fails with ErrUnavailable if nobody answers. An
// error means that the options are wrong.
func New(o Options) (*Client, error) {
	o = o.withDefaults()
	conn, err := grpc.NewClient(o.Target, dialOptions(o)...)
	if err != nil {
		return nil, fmt.Errorf("larder: %w", err)
	}
	return &Client{
		Cache:    &Cache{rpc: cachev1.NewCacheServiceClient(conn), namespace: o.Namespace},
		Sessions: &Sessions{rpc: sessionv1.NewSessionServiceClient(conn), namespace: o.Namespace},
		conn:     conn,
	}, nil
}

// Conn returns the connection, for the generated clients and for services that this package does not wrap. Calls made
// through it pass the same interceptors, so that they are retried alike and fail with an *Error.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close ends the connections. Calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

func dialOptions(o Options) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	return slices.Concat([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent("larder-go"),
		grpc.WithDefaultServiceConfig(balancing),
		// Neither a TXT record nor an option may add a second layer of retries. What gRPC does on its own when the server
		// cannot have seen a call goes on.
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		// gRPC's default would leave a replica alone for up to two minutes after it has come back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
		// The server takes more than one ping in 10 s for an attack.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                20 * time.Second,
			Timeout:             5 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}, interceptors(o), o.DialOptions)
}
