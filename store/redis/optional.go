package redis

import (
	"context"
	"sync"

	"github.com/redis/rueidis"
)

// protect asks Redis not to close the connections to an address, empty for all, when clients use too much memory. It is of help
// under maxmemory-clients and not needed: a user that may not ask for it, and a server that does not know it, are served.
func (c *Client) protect(conns *Conns, addr string) {
	if c.options.Mode == Embedded {
		return
	}
	ctx, cancel := context.WithTimeout(c.lifetime, c.options.CommandTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for _, nodes := range []map[string]rueidis.Client{conns.Primary.Nodes(), conns.trackedNodes(), conns.bulkNodes()} {
		for at, node := range nodes {
			if addr == "" || addr == at {
				asked.Go(func() { c.protectOne(ctx, node) })
			}
		}
	}
	asked.Wait()
}

// protectOne does the same for the connection of one client.
func (c *Client) protectOne(ctx context.Context, node rueidis.Client) {
	var err error
	defer c.recovered(&err)
	err = node.Do(ctx, node.B().Arbitrary("CLIENT", "NO-EVICT", "ON").Build()).Error()
	if re, refused := rueidis.IsRedisErr(err); refused {
		c.unprotected.Do(func() {
			c.options.Logger.Info("redis refuses CLIENT NO-EVICT; under maxmemory-clients it may close connections of larder", "error", code(re))
		})
	}
}

// greeting asks for what a server says of itself in a greeting, which needs no right beyond that to connect.
func greeting(ctx context.Context, node rueidis.Client) (map[string]string, error) {
	return node.Do(ctx, node.B().Arbitrary("HELLO").Build()).AsStrMap()
}
