package redistest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
)

// Slot returns the slot of a key.
func (c *Cluster) Slot(tb testing.TB, key string) int {
	tb.Helper()
	slot, _ := c.running()[0].Do(tb, "CLUSTER", "KEYSLOT", key).(int64)
	return int(slot)
}

// Owner returns the primary of a slot, as the first running node sees it.
func (c *Cluster) Owner(tb testing.TB, slot int) *Server {
	tb.Helper()
	return c.OwnerAccordingTo(tb, c.running()[0], slot)
}

// OwnerAccordingTo returns the primary of a slot as one node sees it.
func (c *Cluster) OwnerAccordingTo(tb testing.TB, node *Server, slot int) *Server {
	tb.Helper()
	owner, err := c.owner(node, slot)
	if err != nil {
		tb.Fatal(err)
	}
	return owner
}

func (c *Cluster) owner(node *Server, slot int) (*Server, error) {
	v, err := node.TryDo("CLUSTER", "SLOTS")
	if err != nil {
		return nil, err
	}
	list, _ := v.([]any)
	for _, e := range list {
		r := e.([]any)
		if r[0].(int64) > int64(slot) || r[1].(int64) < int64(slot) {
			continue
		}
		port := r[2].([]any)[1].(int64)
		for _, n := range c.Nodes {
			if int64(n.port) == port {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("%s knows no owner of slot %d", node.Addr, slot)
}

// Another returns a primary that does not own the slot.
func (c *Cluster) Another(tb testing.TB, slot int) *Server {
	tb.Helper()
	owner := c.Owner(tb, slot)
	for _, n := range c.running() {
		if n != owner && isPrimary(n) == nil {
			return n
		}
	}
	tb.Fatalf("no primary but %s, want another one", owner.Addr)
	return nil
}

// BeginMove marks a slot as migrating to another primary, and moves no key.
func (c *Cluster) BeginMove(tb testing.TB, slot int, to *Server) {
	tb.Helper()
	from, n := c.Owner(tb, slot), strconv.Itoa(slot)
	to.Do(tb, "CLUSTER", "SETSLOT", n, "IMPORTING", id(tb, from))
	from.Do(tb, "CLUSTER", "SETSLOT", n, "MIGRATING", id(tb, to))
}

// MoveKeys moves keys of a slot after BeginMove, by default all that are there.
func (c *Cluster) MoveKeys(tb testing.TB, slot int, to *Server, keys ...string) {
	tb.Helper()
	from := c.Owner(tb, slot)
	if len(keys) == 0 {
		keys = c.KeysInSlot(tb, from, slot)
	}
	for batch := range slices.Chunk(keys, 100) {
		c.Migrate(tb, from, to, batch...)
	}
}

// Migrate moves keys of a slot in one step after BeginMove.
func (c *Cluster) Migrate(tb testing.TB, from, to *Server, keys ...string) {
	tb.Helper()
	from.Do(tb, append([]string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.port), "", "0", "5000", "KEYS"}, keys...)...)
}

// EndMove makes the other primary the owner after MoveKeys, and returns once
// all primaries know it.
func (c *Cluster) EndMove(tb testing.TB, slot int, to *Server) {
	tb.Helper()
	from := c.Owner(tb, slot)
	for _, n := range []*Server{to, from} {
		n.Do(tb, "CLUSTER", "SETSLOT", strconv.Itoa(slot), "NODE", id(tb, to))
	}
	c.AwaitOwner(tb, slot, to)
}

// MoveSlot moves a slot with its keys to another primary.
func (c *Cluster) MoveSlot(tb testing.TB, slot int, to *Server) {
	tb.Helper()
	c.BeginMove(tb, slot, to)
	c.MoveKeys(tb, slot, to)
	c.EndMove(tb, slot, to)
}

// KeysInSlot returns the keys of a slot that one node holds.
func (c *Cluster) KeysInSlot(tb testing.TB, node *Server, slot int) (keys []string) {
	tb.Helper()
	list, _ := node.Do(tb, "CLUSTER", "GETKEYSINSLOT", strconv.Itoa(slot), "1000000").([]any)
	for _, key := range list {
		keys = append(keys, key.(string))
	}
	return keys
}

// MoveEmpty makes other primaries the owners of slots that hold no key. It
// tells every node, those that will own the slots first, and is done when they
// have answered.
func (c *Cluster) MoveEmpty(tb testing.TB, slots []int, to func(slot int) *Server) {
	tb.Helper()
	ids := map[*Server]string{}
	for _, n := range c.running() {
		ids[n] = id(tb, n)
	}
	for _, first := range []bool{true, false} {
		for _, n := range c.running() {
			var commands [][]string
			for _, slot := range slots {
				if owner := to(slot); (owner == n) == first {
					commands = append(commands, []string{"CLUSTER", "SETSLOT", strconv.Itoa(slot), "NODE", ids[owner]})
				}
			}
			if err := n.pipeline(commands); err != nil {
				tb.Fatalf("%s: %v, want the slots moved", n.Addr, err)
			}
		}
	}
}

// HandOver makes another primary the owner of a slot and leaves the keys
// behind, which the former owner drops without a word.
func (c *Cluster) HandOver(tb testing.TB, slot int, to *Server) {
	tb.Helper()
	to.Do(tb, "CLUSTER", "SETSLOT", strconv.Itoa(slot), "NODE", id(tb, to))
	to.Do(tb, "CLUSTER", "BUMPEPOCH")
	c.AwaitOwner(tb, slot, to)
}

// AwaitOwner returns once all running nodes see the owner of a slot.
func (c *Cluster) AwaitOwner(tb testing.TB, slot int, owner *Server) {
	tb.Helper()
	err := poll(startTimeout, func() error {
		for _, n := range c.running() {
			seen, err := c.owner(n, slot)
			if err != nil {
				return err
			}
			if seen != owner {
				return errors.New(n.Addr + " sees slot " + strconv.Itoa(slot) + " at " + seen.Addr)
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatalf("%v, want it at %s", err, owner.Addr)
	}
}

// id returns the id of a node of a cluster.
func id(tb testing.TB, node *Server) string {
	tb.Helper()
	s, _ := node.Do(tb, "CLUSTER", "MYID").(string)
	return s
}
