package redis

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// errNoAnswer is the error of a round trip that was left alone because no answer came in time.
var errNoAnswer = errors.New("no answer in time")

// notice draws the conclusions from an error of a round trip that began at start, before it is classified.
func (c *Client) notice(conns *Conns, err error, eff Effect, start time.Time) {
	if err == nil || c.options.Mode == Embedded {
		return
	}
	var re *rueidis.RedisError
	if errors.As(err, &re) {
		// A replica of a cluster says MOVED instead.
		if text := re.Error(); c.options.Mode != Cluster && (begins(text, "READONLY") || begins(text, "MASTERDOWN")) {
			c.network.drop(errReplica.Error(), openedBefore(start))
		}
		return
	}
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, errNoAnswer)
	if eff != Reads && late && !notSent(err) {
		c.fence.begin(func() { c.checkDelivery(conns) })
	}
}

// checkDelivery bounds how long after its call has failed a write may still arrive: a question that is sent after it must be
// answered in time, by when the write has been done, or the connection is closed and the write is not sent.
func (c *Client) checkDelivery(conns *Conns) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(c.lifetime, max(c.options.CommandTimeout, c.options.writeTimeout()))
	defer cancel()
	var asked sync.WaitGroup
	for addr, node := range conns.Primary.Nodes() {
		if primary, known := c.roles.Load(addr); known && primary == false {
			continue
		}
		asked.Go(func() {
			err := node.Do(ctx, node.B().Ping().Build()).NonRedisError()
			if err != nil && c.lifetime.Err() == nil {
				c.network.drop("a write was not answered, nor what was asked after it", func(conn *watchedConn) bool {
					return conn.addr == addr && conn.opened.Before(begin)
				})
			}
		})
	}
	asked.Wait()
}

// fenceEvery is how often a check may begin.
const fenceEvery = 100 * time.Millisecond

// fence begins checks. Those that are asked for at about the same time are one, which begins after the last of them was asked for:
// it must not wait for a check that was begun before the write in question was sent.
type fence struct {
	mu   sync.Mutex
	due  bool // whether a check will begin
	last time.Time
}

func (f *fence) begin(check func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.due {
		return
	}
	f.due = true
	time.AfterFunc(fenceEvery-time.Since(f.last), func() {
		f.mu.Lock()
		f.due, f.last = false, time.Now()
		f.mu.Unlock()
		check()
	})
}
