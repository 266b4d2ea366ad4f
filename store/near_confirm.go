package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
)

// confirm asks the primaries over the connections that fill the near cache and, if all have answered, confirms what it
// holds. Primaries are what the nodes of a cluster have said of themselves since the ticket was taken: one that said
// nothing may be where an entry came from.
func (s *Store) confirm(ctx context.Context, tracked rueidis.Client, primaries map[string]bool, ticket near.Ticket) error {
	nodes := tracked.Nodes()
	if s.options.Mode == Cluster {
		for addr := range nodes {
			switch primary, said := primaries[addr]; {
			case !said:
				return nil
			case !primary:
				delete(nodes, addr) // nothing is read from it, and no connection is wanted
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
			primary, err := s.vouches(ctx, node)
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
		return classify(ctx, failed, reads)
	}
	slices.Sort(sources)
	s.near.Confirm(ticket, strings.Join(sources, " "))
	return nil
}

// vouches asks a node whether what it has pushed can be relied on. One that is a replica by now hears of writes late, if at
// all, and pushes no sooner; a standalone server is all there is, whatever it is.
func (s *Store) vouches(ctx context.Context, node rueidis.Client) (bool, error) {
	if s.options.Mode == Standalone {
		return true, node.Do(ctx, node.B().Ping().Build()).Error()
	}
	return isPrimary(ctx, node)
}

// leastConfirm bounds how often the store confirms by itself.
const leastConfirm = 50 * time.Millisecond

// keepConfirming pings in time for the near cache to keep what it holds, unless pings from outside do.
func (s *Store) keepConfirming(c *clients) {
	every := max(s.options.NearCacheTTL/3, leastConfirm)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-s.lifetime.Done():
			return
		}
		if s.near.SinceConfirmed() < every {
			continue
		}
		ctx, cancel := context.WithTimeout(s.lifetime, min(every, s.options.CommandTimeout))
		_ = s.ping(ctx, c) // what is not confirmed ends by itself
		cancel()
	}
}
