package redis

import (
	"context"
	"errors"
	"strings"
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

// owners are the shares of the owners of all slots.
type owners [clusterSlots]share

// divide gives each owner of slots a share of its own. Owners keep the one they had.
func (c *Client) divide(s survey) {
	next := new(owners)
	for id, ranges := range s.slots {
		own, _ := c.shares.LoadOrStore(id, make(share, c.options.MaxInFlight))
		for _, r := range ranges {
			for slot := r[0]; slot <= r[1]; slot++ {
				next[slot] = own.(share)
			}
		}
	}
	c.owners.Store(next)
	c.shares.Range(func(id, _ any) bool {
		if _, owns := s.slots[id.(string)]; !owns {
			c.shares.Delete(id) // who is in it still leaves it
		}
		return true
	})
}

// shareOf returns the share of the shard that has a slot, or the common one if that is not known.
func (c *Client) shareOf(slot uint16) share {
	if o := c.owners.Load(); o != nil && slot < clusterSlots && o[slot] != nil {
		return o[slot]
	}
	return c.common
}

// shareOfKey is shareOf for the slot of a key.
func (c *Client) shareOfKey(key string) share {
	if key == "" || c.owners.Load() == nil {
		return c.common
	}
	return c.shareOf(keySlot(key))
}

// keySlot returns the slot of a key in a cluster, which is that of its hash tag if it has one.
func keySlot(key string) uint16 {
	if _, tag, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(tag, "}"); ok && tag != "" {
			return Slot(tag)
		}
	}
	return Slot(key)
}

// Slot returns the slot of a hash tag: its CRC16 (XMODEM) modulo the number of slots, by the Redis Cluster specification.
func Slot(tag string) uint16 {
	var crc uint16
	for i := range len(tag) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^tag[i]]
	}
	return crc % clusterSlots
}

// crcTable has the CRC16 of each byte.
var crcTable = func() (table [256]uint16) {
	for b := range table {
		crc := uint16(b) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
		table[b] = crc
	}
	return table
}()

// byShare returns the indexes of commands grouped by the share of the shard that each goes to, in their order.
func (c *Client) byShare(commands []rueidis.Completed) map[share][]int {
	groups := make(map[share][]int, 1)
	for i := range commands {
		s := c.shareOf(commands[i].Slot())
		groups[s] = append(groups[s], i)
	}
	return groups
}
