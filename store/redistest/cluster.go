package redistest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Slots is the number of hash slots of every Redis cluster.
const Slots = 16384

// ClusterOptions configures a Cluster.
type ClusterOptions struct {
	// Primaries is the number of primaries; 3 when zero.
	Primaries int
	// Replicas is the number of replicas of each primary.
	Replicas int
	// Args is as in Options, for every node.
	Args []string
	// Severable lets CutOff work: the nodes talk to each other through proxies.
	Severable bool
}

// Cluster is a Redis cluster whose primaries share all slots evenly, in the
// order of Nodes.
type Cluster struct {
	// Nodes holds the primaries, then the replicas: node i replicates, to
	// begin with, node i modulo the number of primaries.
	Nodes []*Server

	buses []*Proxy // of the nodes, if the cluster is severable
}

// StartCluster runs a cluster until the test ends. It returns once every node
// reports cluster_state:ok, all give the same CLUSTER SLOTS and the replicas
// are in sync. With -short it skips the test.
func StartCluster(tb testing.TB, o ClusterOptions) *Cluster {
	tb.Helper()
	StandaloneOnly(tb)
	c, stop, err := StartClusterMain(o)
	if err != nil {
		tb.Fatal(err)
	}
	onCleanup(tb, stop, c.Nodes...)
	return c
}

// StartClusterMain is StartCluster for TestMain: the caller must call the
// returned function.
func StartClusterMain(o ClusterOptions) (*Cluster, func(), error) {
	if o.Primaries == 0 {
		o.Primaries = 3
	}
	options := make([]Options, o.Primaries*(1+o.Replicas))
	for i := range options {
		options[i].Args = []string{
			"cluster-enabled", "yes",
			"cluster-config-file", "nodes.conf",
			"cluster-node-timeout", "2000",
			"cluster-announce-ip", "127.0.0.1",
			"repl-diskless-sync-delay", "0",
			// CLUSTER SLOTS hides a replica that has received nothing yet, if
			// only a ping, which by default takes 10 s.
			"repl-ping-replica-period", "1",
		}
		options[i].Args = append(options[i].Args, o.Args...)
	}
	nodes, err := startAll(options)
	if err != nil {
		return nil, nil, err
	}
	c := &Cluster{Nodes: nodes}
	stop := func() {
		for _, bus := range c.buses {
			bus.stop()
		}
		closeAll(nodes)
	}
	if o.Severable {
		err = c.announceProxies()
	}
	if err == nil {
		err = c.form(o.Primaries)
	}
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("forming the cluster: %w", err)
	}
	return c, stop, nil
}

// form joins the nodes and gives the first ones, the primaries, their slots.
func (c *Cluster) form(primaries int) error {
	for i, n := range c.Nodes {
		// Distinct epochs from the start save resolving conflicts later.
		if _, err := n.TryDo("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return err
		}
		if i > 0 {
			meet := []string{"CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(n.port)}
			if c.buses != nil {
				meet = append(meet, c.buses[i].port())
			}
			if _, err := c.Nodes[0].TryDo(meet...); err != nil {
				return err
			}
		}
		if i < primaries {
			first, last := i*Slots/primaries, (i+1)*Slots/primaries-1
			if _, err := n.TryDo("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)); err != nil {
				return err
			}
		}
	}
	for i, n := range c.Nodes[primaries:] {
		if err := replicate(n, c.Nodes[i%primaries]); err != nil {
			return err
		}
	}
	return poll(startTimeout, func() error { return c.ready(primaries) })
}

// replicate makes node a replica of primary once it has heard of it.
func replicate(node, primary *Server) error {
	id, err := primary.TryDo("CLUSTER", "MYID")
	if err != nil {
		return err
	}
	return poll(startTimeout, func() error {
		_, err := node.TryDo("CLUSTER", "REPLICATE", id.(string))
		return err
	})
}

// ready returns what the cluster still lacks.
func (c *Cluster) ready(primaries int) error {
	var want []string
	for i, n := range c.Nodes {
		v, err := n.TryDo("CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if !strings.Contains(v.(string), "cluster_state:ok") {
			return fmt.Errorf("%s: %s", n.Addr, v)
		}
		slots, members, err := slotMap(n)
		if err != nil {
			return err
		}
		if len(slots) != primaries || members != len(c.Nodes) {
			return fmt.Errorf("%s does not know all nodes: %v", n.Addr, slots)
		}
		if i == 0 {
			want = slots
		}
		if !slices.Equal(slots, want) {
			return fmt.Errorf("%s sees %v, %s sees %v", c.Nodes[0].Addr, want, n.Addr, slots)
		}
		if i >= primaries {
			if err := inSync(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// slotMap returns node's CLUSTER SLOTS as sorted text, one element for each
// range, and how many nodes it names.
func slotMap(node *Server) (ranges []string, members int, err error) {
	v, err := node.TryDo("CLUSTER", "SLOTS")
	if err != nil {
		return nil, 0, err
	}
	list, _ := v.([]any)
	for _, e := range list {
		r := e.([]any)
		var addrs []string
		for _, m := range r[2:] {
			m := m.([]any)
			addrs = append(addrs, net.JoinHostPort(fmt.Sprint(m[0]), fmt.Sprint(m[1])))
		}
		slices.Sort(addrs[1:]) // the replicas come in any order
		ranges = append(ranges, fmt.Sprintf("%d-%d %s", r[0], r[1], strings.Join(addrs, " ")))
		members += len(addrs)
	}
	slices.Sort(ranges)
	return ranges, members, nil
}

// inSync returns an error unless replica follows its primary.
func inSync(replica *Server) error {
	info, err := replica.info("replication")
	if err != nil {
		return err
	}
	if info["master_link_status"] != "up" {
		return errors.New("replica " + replica.Addr + " is not in sync")
	}
	return nil
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string { return addrs(c.Nodes) }

// CommandCalls returns the sum of the CommandCalls of all running nodes.
func (c *Cluster) CommandCalls(tb testing.TB) map[string]int64 {
	tb.Helper()
	sum := map[string]int64{}
	for _, n := range c.running() {
		for name, calls := range n.CommandCalls(tb) {
			sum[name] += calls
		}
	}
	return sum
}

// ResetCommandCalls resets CommandCalls of all running nodes.
func (c *Cluster) ResetCommandCalls(tb testing.TB) {
	tb.Helper()
	for _, n := range c.running() {
		n.ResetCommandCalls(tb)
	}
}

func (c *Cluster) running() []*Server {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(s *Server) bool { return s.process().exited() })
}

func addrs(servers []*Server) []string {
	list := make([]string, len(servers))
	for i, s := range servers {
		list[i] = s.Addr
	}
	return list
}
