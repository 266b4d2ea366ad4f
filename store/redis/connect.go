package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Connect connects, and retries with exponential backoff until it succeeds or ctx or the client's lifetime ends. It
// returns at once on errors that no retry mends: [ErrRefused] for wrong credentials or missing rights, [ErrWrongMode] for a
// Redis of another kind or older than 7.0, [ErrUnsafe] for one that Strict refuses. After it has succeeded, lost connections are renewed without it.
func (c *Client) Connect(ctx context.Context) error {
	var said error // why it failed, the last time that this was known
	for failures := 1; ; failures++ {
		conns, version, err := c.open(ctx)
		if err != nil && (said == nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)) {
			said = err
		}
		if err == nil {
			c.version.Store(&version)
			c.protect(conns, "")
			if !c.conns.CompareAndSwap(nil, conns) {
				conns.close()
			} else if c.options.Mode != Embedded {
				go c.keepConfirming(conns)
			}
			return nil
		}
		if errors.Is(err, ErrRefused) || errors.Is(err, ErrWrongMode) || errors.Is(err, ErrUnsafe) {
			return err
		}
		select {
		case <-ctx.Done():
			return said
		case <-c.lifetime.Done():
			return said
		case <-time.After(backoff(failures)):
		}
	}
}

// open makes one attempt to connect.
func (c *Client) open(ctx context.Context) (*Conns, string, error) {
	primary, err := c.newClient(nil)
	if err != nil {
		return nil, "", connectError(err)
	}
	conns := &Conns{Primary: primary, Tracked: primary, Bulk: primary}
	var tracking *tracker
	if c.Near != nil {
		// Not OPTIN: Redis tracks whatever is read over these connections, and no command has to ask for it.
		tracking = &tracker{options: []string{"OPTOUT"}, told: c.invalidated}
		if conns.Tracked, err = c.newClient(tracking); err != nil {
			primary.Close()
			return nil, "", connectError(err)
		}
	}
	if c.options.Mode != Embedded {
		if conns.Bulk, err = c.newClient(tracking); err != nil {
			conns.Bulk = primary
			conns.close()
			return nil, "", connectError(err)
		}
	}
	// No context of a step ends before the last step: a dial that one step has begun and not waited for is that of the next.
	opening, opened := context.WithCancel(ctx)
	defer opened()
	within := func(limit time.Duration, step func(context.Context) error) error {
		timed, cancel := context.WithTimeout(opening, limit)
		context.AfterFunc(opening, cancel)
		return step(timed)
	}
	var version string
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) (err error) { version, err = c.inspect(ctx, primary); return err },
		func(ctx context.Context) error { return c.ping(ctx, conns) },
		func(ctx context.Context) error { return c.askReads(ctx, conns) },
		func(ctx context.Context) error { return c.appraise(ctx, conns) },
	} {
		if err := within(c.options.CommandTimeout, step); err != nil {
			conns.close()
			return nil, "", err
		}
	}
	if c.options.Mode != Embedded {
		// The near cache must know its sources before it holds anything. Where that fails it will be dropped once.
		_ = within(c.options.sentinelTimeout(), func(ctx context.Context) error { return c.confirm(ctx, conns) })
	}
	return conns, version, nil
}

// tracker says what Redis pushes over a rueidis client's connections, and which function is told.
type tracker struct {
	options []string
	told    func(keys []rueidis.RedisMessage)
	// addr, if any, is the one server to connect to, by dial.
	addr string
	dial func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)
}

// primaryName is what rueidis takes for the address of a primary that sentinels name.
const primaryName = "primary"

// newDialer returns a dialer of connections to the primary, or to the nodes of a cluster.
func (c *Client) newDialer() *dialer {
	d := &dialer{network: c.network, anyRole: c.options.Mode == Cluster}
	if c.sentinels != nil {
		d.resolve, d.failed = c.sentinels.resolve, c.sentinels.disappointed
	}
	return d
}

// clientOption returns what all rueidis clients have in common.
func (c *Client) clientOption() rueidis.ClientOption {
	o := &c.options
	return rueidis.ClientOption{
		AuthCredentialsFn: c.credentials(o.Username, o.Password, o.PasswordFile),

		ClientName:       "larder",
		SelectDB:         o.DB,
		TLSConfig:        o.TLS,
		Dialer:           net.Dialer{Timeout: o.dialTimeout(), KeepAlive: keepAlive, Control: o.control},
		ConnWriteTimeout: o.writeTimeout(),
		// One layer retries each hop; for this hop it is the service's interceptor.
		DisableRetry: true,
		// Without it the deadline of one caller would close the connection that all callers share.
		AlwaysPipelining:  true,
		PipelineMultiplex: -1,
		ClusterOption:     rueidis.ClusterOption{ShardsRefreshInterval: 2 * time.Second, MaxMovedRedirections: 8},
	}
}

// credentials returns a function that tells rueidis how to authenticate a new connection. The password is that in the file, if
// there is one.
func (c *Client) credentials(username, password, file string) func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
	return func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		return rueidis.AuthCredentials{Username: username, Password: c.files.password(file, password)}, nil
	}
}

// newClient connects a rueidis client; with a nil tracker Redis pushes nothing over it.
func (c *Client) newClient(t *tracker) (rueidis.Client, error) {
	co := c.clientOption()
	co.InitAddress, co.DialCtxFn, co.DisableCache = c.options.Addrs, c.dialer.dial, t == nil
	co.ForceSingleClient = c.options.Mode != Cluster
	switch c.options.Mode {
	case Sentinel:
		co.InitAddress = []string{primaryName}
	case Embedded:
		co.InitAddress = []string{"embedded"}
		co.Dialer.KeepAlive, co.ConnWriteTimeout = -1, -1 // no pings and no timeouts: there is no network to fail
		co.DialCtxFn = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) { return c.embedded.Dial() }
	case Standalone, Cluster:
	}
	if t != nil {
		co.ClientTrackingOptions, co.OnInvalidations = t.options, t.told
		if t.addr != "" {
			co.InitAddress, co.DialCtxFn, co.ForceSingleClient = []string{t.addr}, t.dial, true
		}
	}
	client, err := rueidis.NewClient(co)
	if err != nil && client != nil { // ForceSingleClient returns both
		client.Close()
	}
	return client, err
}

// invalidated is called by rueidis with keys that were written, or with nil if any key may have been: the data was flushed,
// or the connection was lost and with it what Redis tracked for it.
func (c *Client) invalidated(keys []rueidis.RedisMessage) {
	if keys == nil {
		c.Near.Flush()
		c.waiting.wakeAll()
		return
	}
	for _, k := range keys {
		if key, err := k.ToString(); err == nil {
			c.Near.Invalidate(key)
			c.waiting.wake(key)
		}
	}
}

// connectError classifies the error of making a rueidis client.
func connectError(err error) error {
	if classified := classify(context.Background(), err, Reads); errors.Is(classified, ErrRefused) {
		return classified
	}
	text := strings.ToUpper(err.Error())
	switch {
	case strings.Contains(text, "NOPERM") && strings.Contains(text, "TRACKING"): // rueidis has wrapped it beyond recognition
		return Fail(ErrRefused, errNoTracking)
	case strings.Contains(text, "NOPERM"):
		return Fail(ErrRefused, err)
	case strings.Contains(text, "CLUSTER SUPPORT DISABLED"):
		return wrongMode("redis is not a cluster")
	case strings.Contains(text, "UNKNOWN COMMAND") && strings.Contains(text, "SENTINEL"):
		return wrongMode("the sentinel address is not a sentinel's")
	case strings.Contains(text, "DB INDEX IS OUT OF RANGE"):
		return wrongMode("redis has no database of that number")
	case errors.Is(err, rueidis.ErrNoCache):
		return wrongMode("redis does not support client-side caching (CLIENT TRACKING over RESP3): it is older than 6.0 or behind a proxy")
	}
	return Fail(ErrUnavailable, err)
}

// errNoTracking is the reason of a near cache that cannot be kept right.
var errNoTracking = errors.New("NOPERM this user may not run client|tracking, which the near cache needs")

func wrongMode(why string) error {
	return fmt.Errorf("%w: %s", ErrWrongMode, why)
}
