package near

// Confirm records that every source of the kept values has answered, over the connection that fetched them, a question
// asked after the ticket was taken. Redis answers and pushes in one order over one connection, so every invalidation from
// before the answer has arrived, and the kept values are those that a read would have returned when the ticket was taken.
//
// Sources identifies the servers that have answered and what each is the source of. If it differs from the last call's,
// everything is dropped: the remaining sources cannot confirm what a former one sent. It is empty while there is doubt about
// them: then nothing is confirmed, and what is read meanwhile is dropped when the doubt ends.
//
// It reports whether the sources are others than before. What was waited for at the former ones will not be told by them.
func (c *Cache) Confirm(t Ticket, sources string) (changed bool) {
	if c == nil {
		return false
	}
	c.confirming.Lock()
	defer c.confirming.Unlock()
	if sources != c.sources {
		c.Flush()
		c.sources = sources
		return true
	}
	if sources != "" && c.generation.Load() == t.generation && int64(t.began) > c.heard.Load() {
		c.heard.Store(int64(t.began))
	}
	return false
}
