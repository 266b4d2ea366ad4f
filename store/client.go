package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// clients are the connections to Redis. Reads that fill the near cache go over connections of their own, which Redis
// tracks: everything read there is pushed back when it is written. Writes, scripts and reads from the primary go over
// the others, so that Redis remembers no key that nobody keeps, and a script that reads and writes one key causes no push.
type clients struct {
	primary rueidis.Client
	tracked rueidis.Client // the same as primary where there is no near cache
}

func (c *clients) close() {
	c.primary.Close()
	if c.tracked != c.primary {
		c.tracked.Close()
	}
}

// Connect connects, trying again with exponential backoff until it succeeds or ctx ends. It returns at once where no
// waiting will help: ErrRefused for wrong credentials, ErrWrongMode for a Redis of another kind or older than 7.0.
// Before it has succeeded every operation fails with ErrUnavailable; afterwards connections are renewed without it.
func (s *Store) Connect(ctx context.Context) error {
	for failures := 1; ; failures++ {
		c, version, err := s.open(ctx)
		if err == nil {
			s.version.Store(&version)
			if !s.clients.CompareAndSwap(nil, c) {
				c.close()
			} else if s.near != nil {
				go s.keepConfirming(c)
			}
			return nil
		}
		if errors.Is(err, ErrRefused) || errors.Is(err, ErrWrongMode) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-s.lifetime.Done():
			return err
		case <-time.After(backoff(failures)):
		}
	}
}

// open makes one attempt.
func (s *Store) open(ctx context.Context) (*clients, string, error) {
	primary, err := s.newClient(nil)
	if err != nil {
		return nil, "", s.opening(err)
	}
	c := &clients{primary: primary, tracked: primary}
	if s.near != nil {
		if c.tracked, err = s.newClient(&tracker{
			// Not OPTIN: whatever is read over these connections is tracked, and no command has to say so.
			options: []string{"OPTOUT"}, told: s.invalidated,
		}); err != nil {
			primary.Close()
			return nil, "", s.opening(err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.CommandTimeout)
	defer cancel()
	version, err := s.inspect(ctx, primary)
	if err == nil {
		err = s.ping(ctx, c)
	}
	if err != nil {
		c.close()
		return nil, "", err
	}
	return c, version, nil
}

// tracker says what Redis is to push over a client's connections, and to whom.
type tracker struct {
	options []string
	told    func(keys []rueidis.RedisMessage)
	// addr, if any, is the one server to connect to, by dial.
	addr string
	dial func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)
}

// newClient connects; t is nil for connections over which nothing is pushed.
func (s *Store) newClient(t *tracker) (rueidis.Client, error) {
	o := &s.options
	co := rueidis.ClientOption{
		InitAddress:       o.Addrs,
		Username:          o.Username,
		Password:          o.Password,
		ClientName:        "larder",
		SelectDB:          o.DB,
		TLSConfig:         o.TLS,
		DialCtxFn:         s.dialer.dial,
		Dialer:            net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive},
		ConnWriteTimeout:  writeTimeout,
		ForceSingleClient: o.Mode == Standalone || o.Mode == Embedded,
		// One layer retries each hop, and here it is the service's interceptor.
		DisableRetry: true,
		// Without it a caller's deadline would close the connection under everybody else.
		AlwaysPipelining:  true,
		PipelineMultiplex: -1,
		DisableCache:      t == nil,
		ClientNoEvict:     o.Mode != Embedded,
		ClusterOption:     rueidis.ClusterOption{ShardsRefreshInterval: 2 * time.Second, MaxMovedRedirections: 8},
	}
	if t != nil {
		co.ClientTrackingOptions, co.OnInvalidations = t.options, t.told
	}
	switch {
	case t != nil && t.addr != "":
		co.InitAddress, co.DialCtxFn, co.ForceSingleClient = []string{t.addr}, t.dial, true
	case o.Mode == Sentinel:
		co.Sentinel = rueidis.SentinelOption{
			MasterSet: o.SentinelMaster, Username: o.SentinelUsername, Password: o.SentinelPassword,
			TLSConfig: o.TLS, Dialer: co.Dialer, ClientName: "larder", TopologyRefreshInterval: 5 * time.Second,
		}
	case o.Mode == Embedded:
		co.InitAddress = []string{"embedded"}
		co.DialCtxFn = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) { return s.embedded.Dial() }
	}
	client, err := rueidis.NewClient(co)
	if err != nil && client != nil { // as ForceSingleClient does
		client.Close()
	}
	return client, err
}

// invalidated is told of keys that were written, and with nil that everything may have been: it was flushed, or a
// connection was lost and with it what Redis remembered of it.
func (s *Store) invalidated(keys []rueidis.RedisMessage) {
	if keys == nil {
		s.near.Flush()
		s.waiting.wakeAll()
		return
	}
	for _, k := range keys {
		if key, err := k.ToString(); err == nil {
			s.near.Invalidate(key)
			s.waiting.wake(key)
		}
	}
}

// opening tells apart why no client could be made.
func (s *Store) opening(err error) error {
	if classified := classify(context.Background(), err, reads); errors.Is(classified, ErrRefused) {
		return classified
	}
	text := strings.ToUpper(err.Error())
	switch {
	case strings.Contains(text, "NOPERM"): // where rueidis has wrapped it beyond recognition
		return &opError{kind: ErrRefused, cause: err}
	case strings.Contains(text, "CLUSTER SUPPORT DISABLED"):
		return wrongMode("redis is not a cluster")
	case strings.Contains(text, "UNKNOWN COMMAND") && strings.Contains(text, "SENTINEL"):
		return wrongMode("the sentinel address is not a sentinel's")
	case strings.Contains(text, "DB INDEX IS OUT OF RANGE"):
		return wrongMode("redis has no database of that number")
	case errors.Is(err, rueidis.ErrNoCache):
		return wrongMode("redis does not support client-side caching: it is older than 6.0 or behind a proxy, or an ACL denies client|tracking")
	}
	return &opError{kind: ErrUnavailable, cause: err}
}

func wrongMode(why string) error {
	return fmt.Errorf("%w: %s", ErrWrongMode, why)
}

var infoLine = regexp.MustCompile(`(?m)^(redis_version|redis_mode|valkey_version):([^\r\n]*)`)

// inspect asserts the mode and the version, and returns the latter.
func (s *Store) inspect(ctx context.Context, c rueidis.Client) (version string, err error) {
	if s.options.Mode == Embedded {
		return "embedded", nil
	}
	text, err := c.Do(ctx, c.B().Info().Section("server").Build()).ToString()
	if err != nil {
		return "", s.opening(err)
	}
	info := make(map[string]string)
	for _, m := range infoLine.FindAllStringSubmatch(text, -1) {
		info[m[1]] = m[2]
	}
	want := "standalone" // that is what the primary behind sentinels calls itself, too
	if s.options.Mode == Cluster {
		want = "cluster"
	}
	if got := info["redis_mode"]; got != want {
		return "", wrongMode(fmt.Sprintf("redis runs as %s, the configuration says %s", got, s.options.Mode))
	}
	major, _, _ := strings.Cut(info["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		return "", wrongMode(fmt.Sprintf("redis is version %q, the oldest supported is 7.0", info["redis_version"]))
	}
	if v := info["valkey_version"]; v != "" {
		return "valkey " + v, nil
	}
	return info["redis_version"], nil
}

// Ping asks every primary for a sign of life, within ctx's deadline.
func (s *Store) Ping(ctx context.Context) error {
	c := s.clients.Load()
	if c == nil {
		return ErrUnavailable
	}
	return s.ping(ctx, c)
}

// ping also takes samples of Redis TIME, and confirms what the near cache holds.
func (s *Store) ping(ctx context.Context, c *clients) error {
	ticket := s.near.Begin("")
	var primaries map[string]bool
	var err error
	if s.options.Mode == Cluster {
		primaries, err = s.pingNodes(ctx, c)
	} else {
		err = s.askTime(ctx, c.primary)
	}
	if err != nil || c.tracked == c.primary {
		return err
	}
	return s.confirm(ctx, c.tracked, primaries, ticket)
}

// pingNodes asks the nodes of a cluster all at once and returns which of them are primaries, of those that have answered.
// A silent node counts if it was a primary when it last spoke: a replica may be away.
func (s *Store) pingNodes(ctx context.Context, c *clients) (primaries map[string]bool, err error) {
	type answer struct {
		addr            string
		primary, silent bool
		err             error
	}
	nodes := c.primary.Nodes()
	answers := make(chan answer, len(nodes))
	for addr, node := range nodes {
		go func() {
			primary, err := isPrimary(ctx, node)
			silent := err != nil
			switch {
			case !silent && primary:
				err = s.askTime(ctx, node)
				s.roles.Store(addr, true)
			case !silent:
				s.roles.Store(addr, false)
			default:
				if was, known := s.roles.Load(addr); !known || was == false {
					err = nil
				}
			}
			answers <- answer{addr, primary, silent, err}
		}()
	}
	primaries = make(map[string]bool, len(nodes))
	for range nodes {
		a := <-answers
		if !a.silent {
			primaries[a.addr] = a.primary
		}
		if a.err != nil {
			err = a.err
		}
	}
	if err != nil {
		return nil, classify(ctx, err, reads)
	}
	return primaries, nil
}

func isPrimary(ctx context.Context, node rueidis.Client) (bool, error) {
	role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
	if err != nil || len(role) == 0 {
		return false, err
	}
	name, err := role[0].ToString()
	return name == "master", err
}

// askTime takes a sample of Redis TIME, which is as good a sign of life as PING.
func (s *Store) askTime(ctx context.Context, c rueidis.Client) error {
	sent := time.Now()
	parts, err := c.Do(ctx, c.B().Time().Build()).AsStrSlice()
	if err != nil {
		return classify(ctx, err, reads)
	}
	var n [2]int64
	for i, p := range parts[:min(2, len(parts))] {
		if n[i], err = strconv.ParseInt(p, 10, 64); err != nil {
			return fmt.Errorf("time of redis: %w", err)
		}
	}
	s.clock.sample(time.Unix(n[0], n[1]*1000), sent, time.Now())
	return nil
}
