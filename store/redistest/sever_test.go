package redistest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestCutOffClusterNode: the others replace a primary that goes on to believe
// that it is one.
func TestCutOffClusterNode(t *testing.T) {
	c := StartCluster(t, ClusterOptions{Replicas: 1, Severable: true})
	node := c.Nodes[0]
	node.Do(t, "SET", "bar", "v") // of slot 5061
	slot := c.Slot(t, "bar")
	c.CutOff(t, node)
	eventually(t, func() error {
		owner, err := c.owner(c.Nodes[1], slot)
		if err != nil {
			return err
		}
		if owner != c.Nodes[3] {
			return fmt.Errorf("slot %d is at %s, not at the replica", slot, owner.Addr)
		}
		return isPrimary(c.Nodes[3])
	})
	if got := c.OwnerAccordingTo(t, node, slot); got != node {
		t.Errorf("owner according to the node itself = %s, want %s", got.Addr, node.Addr)
	}
	eventually(t, func() error {
		if info, _ := node.Do(t, "CLUSTER", "INFO").(string); !strings.Contains(info, "cluster_state:fail") {
			return errors.New("the node has not noticed")
		}
		return nil
	})
	c.Rejoin()
	eventually(t, func() error { return inSync(node) })
}

// TestCutOffSentinelPrimary is the same with sentinels.
func TestCutOffSentinelPrimary(t *testing.T) {
	s := StartSeverableSentinel(t)
	s.CutOff()
	eventually(t, func() error {
		for _, p := range s.primaries() {
			if p == s.Primary {
				return errors.New("the sentinels name the node that is cut off")
			}
		}
		return isPrimary(s.Current(t))
	})
	if err := isPrimary(s.Primary); err != nil {
		t.Errorf("role of the node that is cut off: %v, want a primary", err)
	}
	s.Rejoin()
	eventually(t, func() error { return inSync(s.Primary) })
}

// TestMoveSlot: a slot moves with its keys, half-way, and without them.
func TestMoveSlot(t *testing.T) {
	c := StartCluster(t, ClusterOptions{})
	slot := c.Slot(t, "bar")
	first := c.Owner(t, slot)
	first.Do(t, "SET", "bar", "v")
	second := c.Another(t, slot)
	c.MoveSlot(t, slot, second)
	if got := second.Do(t, "GET", "bar"); got != "v" {
		t.Errorf("GET after MoveSlot = %v, want v", got)
	}
	c.BeginMove(t, slot, first)
	if got := second.Do(t, "GET", "bar"); got != "v" {
		t.Errorf("GET after BeginMove = %v, want v", got)
	}
	c.MoveKeys(t, slot, first, "bar")
	if _, err := second.TryDo("GET", "bar"); err == nil || !strings.HasPrefix(err.Error(), "ASK") {
		t.Errorf("GET after MoveKeys = %v, want ASK", err)
	}
	c.EndMove(t, slot, first)
	if got := first.Do(t, "GET", "bar"); got != "v" {
		t.Errorf("GET after EndMove = %v, want v", got)
	}
	c.HandOver(t, slot, second)
	if got := second.Do(t, "GET", "bar"); got != nil {
		t.Errorf("GET after HandOver = %v, want nil", got)
	}
}
