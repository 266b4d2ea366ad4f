package redis

import (
	"context"
	"fmt"
	"hash/fnv"
	"sort"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// Ping asks every primary for a sign of life, within ctx's deadline.
func (c *Client) Ping(ctx context.Context) error {
	conns := c.conns.Load()
	if conns == nil {
		return ErrUnavailable
	}
	return c.ping(ctx, conns)
}

// ping also samples the clock of Redis and confirms the near cache.
func (c *Client) ping(ctx context.Context, conns *Conns) error {
	ticket := c.Near.Begin("")
	var primaries map[string]bool
	var err error
	if c.options.Mode == Cluster {
		primaries, err = c.pingNodes(ctx, conns)
	} else {
		err = c.askTime(ctx, conns.Primary)
	}
	if err != nil || conns.Tracked == conns.Primary {
		return err
	}
	return c.confirm(ctx, conns.Tracked, primaries, ticket)
}

// pingNodes asks the nodes of a cluster concurrently, and returns for those that answered whether they are primaries. A
// node that does not answer is an error only if it was a primary when it last answered, or has never answered.
func (c *Client) pingNodes(ctx context.Context, conns *Conns) (primaries map[string]bool, err error) {
	type answer struct {
		addr            string
		primary, silent bool
		err             error
	}
	nodes := conns.Primary.Nodes()
	answers := make(chan answer, len(nodes))
	for addr, node := range nodes {
		go func() {
			primary, err := isPrimary(ctx, node)
			silent := err != nil
			switch {
			case !silent && primary:
				err = c.askTime(ctx, node)
				c.roles.Store(addr, true)
			case !silent:
				c.roles.Store(addr, false)
			default:
				if was, known := c.roles.Load(addr); !known || was == false {
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
		return nil, classify(ctx, err, Reads)
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
			if was, known := c.roles.Load(addr); known && was == false {
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
