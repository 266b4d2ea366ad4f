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
		return c.askTime(ctx, addrOf(conns.Primary), conns.Primary)
	case Cluster:
		return c.pingNodes(ctx, conns)
	case Standalone, Sentinel:
	}
	begin := time.Now()
	var id identity
	err := together(
		func() error { return c.askTime(ctx, addrOf(conns.Primary), conns.Primary) },
		func() (err error) { id, err = identify(ctx, conns.Primary); return err },
		func() error { return askTracked(ctx, conns.trackedNodes()[addrOf(conns.Primary)]) },
	)
	if err != nil {
		return classify(ctx, err, Reads)
	}
	return c.judge([]identity{id}, begin)
}

// together calls functions concurrently, and returns their errors as one.
func together(fs ...func() error) error {
	errs := make([]error, len(fs))
	var called sync.WaitGroup
	for i, f := range fs {
		called.Go(func() { errs[i] = f() })
	}
	called.Wait()
	return errors.Join(errs...)
}

// askTracked asks for a sign of life over the tracked connection of a server, nil for none. A Redis that cannot save its data
// refuses a PING, and lives.
func askTracked(ctx context.Context, tracked rueidis.Client) error {
	if tracked == nil {
		return nil
	}
	if err := tracked.Do(ctx, tracked.B().Ping().Build()).Error(); !isMisconf(err) {
		return err
	}
	return nil
}

// askReads reads from every node as a call would: from one that answers, at least.
func (c *Client) askReads(ctx context.Context, conns *Conns) error {
	if c.options.Mode == Embedded {
		return nil
	}
	nodes := conns.Primary.Nodes()
	answers := make(chan error, len(nodes))
	for _, node := range nodes {
		go func() {
			ctx, cancel := context.WithTimeout(c.lifetime, c.options.CommandTimeout) // see serverInfo
			defer cancel()
			answers <- c.askRead(ctx, node)
		}()
	}
	var failed error
	for range nodes {
		select {
		case failed = <-answers:
			if failed == nil {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return classify(ctx, failed, Reads)
}

// identity is what a server says of itself.
type identity struct {
	primary bool
	// run is an id of the process, which no other server has. It is empty if the user may not ask for it.
	run string
}

// elsewhere bounds how often connections are closed because they lead to different servers: behind some addresses there are
// several, by turns.
type elsewhere struct {
	mu   sync.Mutex
	last [2]time.Time // the last two times
}

// elsewhereFor is the time in which connections are closed for that reason twice at most.
const elsewhereFor = 10 * time.Second

func (e *elsewhere) allows(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.last[0]) < elsewhereFor {
		return false
	}
	e.last[0], e.last[1] = e.last[1], now
	return true
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
			if c.elsewhere.allows(begin) {
				return c.abandon(errElsewhere, begin)
			}
			return Fail(ErrUnavailable, errElsewhere) // new connections would be no better
		}
	}
	return nil
}

// abandon closes the connections that were opened before a point in time, for the reason that it returns.
func (c *Client) abandon(why error, before time.Time) error {
	c.network.drop(why.Error(), openedBefore(before))
	return Fail(ErrUnavailable, why)
}

// identifyAll asks over all connections to a primary over which the near cache is filled, and that of its writes.
func identifyAll(ctx context.Context, conns *Conns) ([]identity, error) {
	nodes := []rueidis.Client{conns.Primary}
	if conns.Tracked != conns.Primary {
		nodes = append(nodes, conns.Tracked, conns.Bulk)
	}
	ids, asks := make([]identity, len(nodes)), make([]func() error, len(nodes))
	for i, node := range nodes {
		asks[i] = func() (err error) { ids[i], err = identify(ctx, node); return err }
	}
	return ids, together(asks...)
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
	role := fields["role"]
	return identity{role == "master" || role == "primary", fields["run_id"]}, nil
}

// isDenied reports whether an error means that the user lacks the right to a command.
func isDenied(err error) bool {
	var re *rueidis.RedisError
	return errors.As(err, &re) && begins(re.Error(), "NOPERM")
}

// isMisconf reports whether an error means that Redis cannot save its data.
func isMisconf(err error) bool {
	var re *rueidis.RedisError
	return errors.As(err, &re) && begins(re.Error(), "MISCONF")
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
	nodes, tracked := conns.Primary.Nodes(), conns.trackedNodes()
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
		_ = c.askTime(ctx, addr, node) // its clock is known before it takes over; it may be away
		return nil
	}
	return together(
		func() error { return c.askTime(ctx, addr, node) },
		func() error { return askTracked(ctx, tracked) },
	)
}

func isPrimary(ctx context.Context, node rueidis.Client) (bool, error) {
	role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
	if err != nil || len(role) == 0 {
		return false, err
	}
	name, err := role[0].ToString()
	return name == "master", err
}

// addrOf returns the address of the server that a client is connected to.
func addrOf(client rueidis.Client) string {
	for addr := range client.Nodes() {
		return addr
	}
	return ""
}

// askTime samples the clock of a server. TIME is as good a sign of life as PING.
func (c *Client) askTime(ctx context.Context, addr string, node rueidis.Client) error {
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
	c.clock.sample(addr, time.Unix(n[0], n[1]*1000), sent, c.clock.read())
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
