package redistest

import (
	"fmt"
	"strings"
	"testing"
)

func TestCluster(t *testing.T) {
	var left []int
	t.Run("run", func(t *testing.T) {
		c := StartCluster(t, ClusterOptions{})
		left = pids(c.Nodes...)
		if len(c.Nodes) != 3 || len(c.Addrs()) != 3 || c.Addrs()[2] != c.Nodes[2].Addr {
			t.Fatalf("Nodes = %v, want 3", c.Addrs())
		}
		// The slots of these keys are 12182 and 5061.
		c.Nodes[2].Do(t, "SET", "foo", "v")
		c.Nodes[0].Do(t, "SET", "bar", "v")
		if _, err := c.Nodes[0].TryDo("GET", "foo"); err == nil || err.Error() != "MOVED 12182 "+c.Nodes[2].Addr {
			t.Errorf("GET on the wrong node = %v, want MOVED 12182 %s", err, c.Nodes[2].Addr)
		}
		if got := c.CommandCalls(t)["set"]; got != 2 {
			t.Errorf("CommandCalls = %d calls of SET, want 2", got)
		}
		c.ResetCommandCalls(t)
		c.Nodes[1].Kill()
		if got := c.CommandCalls(t)["set"]; got != 0 {
			t.Errorf("CommandCalls = %d calls of SET after the reset, want 0", got)
		}

		id := c.Nodes[0].Do(t, "CLUSTER", "MYID")
		c.Nodes[0].Restart(t)
		c.Nodes[1].Restart(t)
		if got := c.Nodes[0].Do(t, "CLUSTER", "MYID"); got != id {
			t.Errorf("CLUSTER MYID after a restart = %v, want %v", got, id)
		}
		eventually(t, func() error { return c.ready(3) })
	})
	wantGone(t, left)
}

func TestClusterReplicas(t *testing.T) {
	c, stop, err := StartClusterMain(ClusterOptions{Primaries: 3, Replicas: 1})
	if err != nil {
		t.Fatalf("StartClusterMain = %v, want no error", err)
	}
	left := pids(c.Nodes...)
	defer func() {
		stop()
		wantGone(t, left[1:])
	}()
	for i, n := range c.Nodes {
		want := "master"
		if i >= 3 {
			want = "slave"
		}
		role := n.Do(t, "ROLE").([]any)
		if role[0] != want {
			t.Errorf("node %d is %v, want %s", i, role, want)
		}
		if i >= 3 && fmt.Sprint(role[2]) != fmt.Sprint(c.Nodes[i-3].port) {
			t.Errorf("node %d replicates %v, want port %d", i, role, c.Nodes[i-3].port)
		}
	}
	c.Nodes[0].Kill()
	eventually(t, func() error {
		v, err := c.Nodes[1].TryDo("CLUSTER", "SLOTS")
		if err != nil {
			return err
		}
		info, err := c.Nodes[3].info("replication")
		if err != nil {
			return err
		}
		if info["role"] != "master" || !strings.Contains(fmt.Sprint(v), fmt.Sprint(c.Nodes[3].port)) {
			return fmt.Errorf("the replica is %s, slots %v", info["role"], v)
		}
		return nil
	})
}
