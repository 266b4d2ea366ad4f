package near

import "time"

// Confirm records that every source of the kept values has answered, over the connection that fetched them, a question
// asked after the ticket was taken. Redis answers and pushes in one order over one connection, so every invalidation from
// before the answer has arrived, and the kept values are those that a read would have returned when the ticket was taken.
//
// Sources names the primaries that have answered. If it differs from the last call's, everything is dropped: the remaining
// sources cannot confirm what a former one sent.
func (c *Cache) Confirm(t Ticket, sources string) {
	if c == nil {
		return
	}
	c.confirming.Lock()
	defer c.confirming.Unlock()
	if sources != c.sources {
		if c.sources != "" {
			c.Flush()
		}
		c.sources = sources
		return
	}
	if sources != "" && c.generation.Load() == t.generation && int64(t.began) > c.heard.Load() {
		c.heard.Store(int64(t.began))
	}
}

// SinceConfirmed returns how long ago the kept values were last confirmed.
func (c *Cache) SinceConfirmed() time.Duration {
	return time.Since(c.epoch) - time.Duration(c.heard.Load())
}
