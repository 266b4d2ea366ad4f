package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Ping asks every primary for a sign of life, within ctx's deadline. A server that has become a replica gives none.
func (c *Client) Ping(ctx context.Context) error {
	conns := c.conns.Load()
	if conns == nil {
		return ErrUnavailable
	}
	return c.ping(ctx, conns)
}

// ping also samples the clock of Redis.
func (c *Client) ping(ctx context.Context, conns *Conns) error {
	switch c.options.Mode {
	case Embedded:
		return c.askTime(ctx, conns.Primary)
	case Cluster:
		return c.pingNodes(ctx, conns)
	case Standalone, Sentinel:
	}
	begin := time.Now()
	if err := c.askTime(ctx, conns.Primary); err != nil {
		return err
	}
	id, err := identify(ctx, conns.Primary)
	if err == nil && conns.Tracked != conns.Primary {
		err = conns.Tracked.Do(ctx, conns.Tracked.B().Ping().Build()).Error()
	}
	if err != nil {
		return classify(ctx, err, Reads)
	}
	return c.judge([]identity{id}, begin)
}

// identity is what a server says of itself.
type identity struct {
	primary bool
	// run is an id of the process, which no other server has. It is empty if the user may not ask for it.
	run string
}

var errElsewhere = errors.New("the connections lead to different servers")

// judge returns an error unless all identities are that of one primary. In that case it closes the connections that were open
// when these were asked for, so that the next ones lead to where the address leads now.
func (c *Client) judge(ids []identity, begin time.Time) error {
	for _, id := range ids {
		switch {
		case !id.primary:
			return c.abandon(errReplica, begin)
		case id.run != ids[0].run && id.run != "" && ids[0].run != "":
			return c.abandon(errElsewhere, begin)
		}
	}
	return nil
}

// abandon closes the connections that were opened before a point in time, for the reason that it returns.
func (c *Client) abandon(why error, before time.Time) error {
	c.network.drop(why.Error(), openedBefore(before))
	return Fail(ErrUnavailable, why)
}

// identifyBoth asks over both connections to a primary, or over the only one.
func identifyBoth(ctx context.Context, conns *Conns) ([]identity, error) {
	nodes := []rueidis.Client{conns.Primary}
	if conns.Tracked != conns.Primary {
		nodes = append(nodes, conns.Tracked)
	}
	ids, errs := make([]identity, len(nodes)), make([]error, len(nodes))
	var asked sync.WaitGroup
	for i, node := range nodes {
		asked.Go(func() { ids[i], errs[i] = identify(ctx, node) })
	}
	asked.Wait()
	return ids, errors.Join(errs...)
}

// identify asks a server for its identity over its connection. A server that says neither its id nor its role was a primary when
// the connection was opened.
func identify(ctx context.Context, node rueidis.Client) (id identity, err error) {
	// The right to INFO may be limited to its first argument.
	text, err := node.Do(ctx, node.B().Info().Section("server", "replication").Build()).ToString()
	if isDenied(err) {
		if id.primary, err = isPrimary(ctx, node); isDenied(err) {
			return identity{primary: true}, nil
		}
		return id, err
	}
	if err != nil {
		return id, err
	}
	fields := infoFields(text)
	return identity{fields["role"] == "master", fields["run_id"]}, nil
}

// isDenied reports whether an error means that the user lacks the right to a command.
func isDenied(err error) bool {
	var re *rueidis.RedisError
	return errors.As(err, &re) && begins(re.Error(), "NOPERM")
}

// infoFields returns the fields of an answer to INFO.
func infoFields(text string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// pingNodes asks the nodes of a cluster concurrently whether they are primaries, and primaries over both connections. A node
// that does not answer is an error only if it was a primary when it last answered.
func (c *Client) pingNodes(ctx context.Context, conns *Conns) error {
	nodes, tracked := conns.Primary.Nodes(), map[string]rueidis.Client(nil)
	if conns.Tracked != conns.Primary {
		tracked = conns.Tracked.Nodes()
	}
	errs := make(chan error, len(nodes))
	for addr, node := range nodes {
		go func() { errs <- c.pingNode(ctx, addr, node, tracked[addr]) }()
	}
	var failed error
	for range nodes {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	if failed != nil {
		return classify(ctx, failed, Reads)
	}
	return nil
}

// pingNode also asks over the tracked connection, nil for none.
func (c *Client) pingNode(ctx context.Context, addr string, node, tracked rueidis.Client) (err error) {
	defer c.recovered(&err)
	primary, err := isPrimary(ctx, node)
	if err != nil {
		if was, known := c.roles.Load(addr); !known || was == false || c.network.refuses(addr) {
			return nil
		}
		return err
	}
	c.roles.Store(addr, primary)
	if !primary {
		return nil
	}
	if err := c.askTime(ctx, node); err != nil || tracked == nil {
		return err
	}
	return tracked.Do(ctx, tracked.B().Ping().Build()).Error()
}

func isPrimary(ctx context.Context, node rueidis.Client) (bool, error) {
	role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
	if err != nil || len(role) == 0 {
		return false, err
	}
	name, err := role[0].ToString()
	return name == "master", err
}

// askTime samples the clock of Redis. TIME is as good a sign of life as PING.
func (c *Client) askTime(ctx context.Context, node rueidis.Client) error {
	sent := c.clock.read()
	parts, err := node.Do(ctx, node.B().Time().Build()).AsStrSlice()
	if err != nil {
		return classify(ctx, err, Reads)
	}
	var n [2]int64
	for i, p := range parts[:min(2, len(parts))] {
		if n[i], err = strconv.ParseInt(p, 10, 64); err != nil {
			return fmt.Errorf("time of redis: %w", err)
		}
	}
	c.clock.sample(time.Unix(n[0], n[1]*1000), sent, c.clock.read())
	return nil
}

// Primaries returns the primaries by an id of each, and the ids in ascending order. The id is a hash of the address, so that
// page tokens can hold it without telling the address. Outside a cluster the only id is 0.
func (c *Client) Primaries(ctx context.Context, conns *Conns) (ids []uint64, nodes map[uint64]rueidis.Client, err error) {
	if c.options.Mode != Cluster {
		return []uint64{0}, map[uint64]rueidis.Client{0: conns.Primary}, nil
	}
	nodes = make(map[uint64]rueidis.Client)
	for addr, node := range conns.Primary.Nodes() {
		primary, err := isPrimary(ctx, node)
		if err != nil {
			if was, known := c.roles.Load(addr); known && was == false || c.network.refuses(addr) {
				continue // a replica may be away
			}
			return nil, nil, err
		}
		if primary {
			h := fnv.New64a()
			_, _ = h.Write([]byte(addr))
			nodes[h.Sum64()] = node
			ids = append(ids, h.Sum64())
		}
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids, nodes, nil
}
