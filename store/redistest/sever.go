package redistest

import (
	"net"
	"strconv"
	"testing"
)

// announceProxies puts a proxy before the cluster bus of each node and tells
// the node to announce it.
func (c *Cluster) announceProxies() error {
	for _, n := range c.Nodes {
		bus, err := startProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port+busOffset)))
		if err != nil {
			return err
		}
		c.buses = append(c.buses, bus)
		if _, err := n.TryDo("CONFIG", "SET", "cluster-announce-bus-port", bus.port()); err != nil {
			return err
		}
	}
	return nil
}

// CutOff cuts a node off from all other nodes of a severable cluster. Clients
// still reach it, and so do its replicas for their data.
func (c *Cluster) CutOff(tb testing.TB, node *Server) {
	tb.Helper()
	name := id(tb, node) // with which each message on the bus begins
	for i, n := range c.Nodes {
		if n == node {
			c.buses[i].Blackhole(true)
		} else {
			c.buses[i].BlackholeOnly(name)
		}
	}
}

// Rejoin ends CutOff.
func (c *Cluster) Rejoin() {
	for _, bus := range c.buses {
		bus.Blackhole(false)
		bus.CutAll() // what was held back is late
	}
}
