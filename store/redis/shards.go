package redis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

// A share bounds the round trips in flight to one shard of a cluster, or to the one server. A shard that hangs fills its own, and
// costs the calls to the others nothing.
type share chan struct{}

// enterTimeout is how long a round trip waits to begin while MaxInFlight others to its shard are in flight.
const enterTimeout = 100 * time.Millisecond

// enter takes a place for a round trip.
func (s share) enter(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(enterTimeout)
	defer t.Stop()
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return Fail(ErrOverloaded, errors.New("too many round trips to redis in flight"))
	}
}

func (s share) leave() { <-s }

// slotShares are the shares of the owners of all slots.
type slotShares [clusterSlots]share

// divide gives each owner of slots a share of its own. Owners keep the one they had.
func (c *Client) divide(s survey) {
	next := new(slotShares)
	for id, ranges := range s.slots {
		own, _ := c.shares.LoadOrStore(id, make(share, c.options.MaxInFlight))
		for _, r := range ranges {
			for slot := r[0]; slot <= r[1]; slot++ {
				next[slot] = own.(share)
			}
		}
	}
	c.slotShares.Store(next)
	c.shares.Range(func(id, _ any) bool {
		if _, owns := s.slots[id.(string)]; !owns {
			c.shares.Delete(id) // who is in it still leaves it
		}
		return true
	})
}

// shareOf returns the share of the shard that has a slot, or the common one if that is not known.
func (c *Client) shareOf(slot uint16) share {
	if o := c.slotShares.Load(); o != nil && slot < clusterSlots && o[slot] != nil {
		return o[slot]
	}
	return c.common
}

// shareOfKey is shareOf for the slot of a key.
func (c *Client) shareOfKey(key string) share {
	if key == "" || c.slotShares.Load() == nil {
		return c.common
	}
	return c.shareOf(slotOf(key))
}

// byShare returns the indexes of commands grouped by the share of the shard that each goes to, in their order.
func (c *Client) byShare(commands []rueidis.Completed) map[share][]int {
	groups := make(map[share][]int, 1)
	for i := range commands {
		s := c.shareOf(commands[i].Slot())
		groups[s] = append(groups[s], i)
	}
	return groups
}
