package redis

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
)

// confirm asks the primaries over the tracked connections and, if all have answered, confirms the near cache. Primaries says
// of the nodes of a cluster that have answered since the ticket was taken whether they are primaries. A node that has not
// answered may be the source of an entry, so that nothing is confirmed.
func (c *Client) confirm(ctx context.Context, tracked rueidis.Client, primaries map[string]bool, ticket near.Ticket) error {
	nodes := tracked.Nodes()
	if c.options.Mode == Cluster {
		for addr := range nodes {
			switch primary, answered := primaries[addr]; {
			case !answered:
				return nil
			case !primary:
				delete(nodes, addr) // nothing is read from a replica, and no connection to it is needed
			}
		}
	}
	type answer struct {
		addr    string
		primary bool
		err     error
	}
	answers := make(chan answer)
	for addr, node := range nodes {
		go func() {
			primary, err := c.isSource(ctx, node)
			answers <- answer{addr, primary, err}
		}()
	}
	var sources []string
	var failed error
	for range nodes {
		a := <-answers
		if a.err != nil {
			failed = a.err
		} else if a.primary {
			sources = append(sources, a.addr)
		}
	}
	if failed != nil {
		return classify(ctx, failed, Reads)
	}
	slices.Sort(sources)
	c.Near.Confirm(ticket, strings.Join(sources, " "))
	return nil
}

// isSource asks a node over its tracked connection whether its pushes can be relied on. Those of a replica cannot: it learns
// of writes late, if at all. A standalone server is the only source, whatever its role.
func (c *Client) isSource(ctx context.Context, node rueidis.Client) (bool, error) {
	if c.options.Mode == Standalone {
		return true, node.Do(ctx, node.B().Ping().Build()).Error()
	}
	return isPrimary(ctx, node)
}

// leastConfirm is the shortest interval at which the client confirms by itself.
const leastConfirm = 50 * time.Millisecond

// keepConfirming pings often enough for the near cache to keep its entries, unless callers of Ping already do.
func (c *Client) keepConfirming(conns *Conns) {
	every := max(c.options.NearCacheTTL/3, leastConfirm)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-c.lifetime.Done():
			return
		}
		if c.Near.SinceConfirmed() < every {
			continue
		}
		ctx, cancel := context.WithTimeout(c.lifetime, min(every, c.options.CommandTimeout))
		_ = c.ping(ctx, conns) // entries that are not confirmed expire by themselves
		cancel()
	}
}
