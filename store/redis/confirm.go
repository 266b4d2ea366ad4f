package redis

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// leastConfirm is the shortest interval at which the client confirms the near cache.
const leastConfirm = 50 * time.Millisecond

// keepConfirming asks often enough for the near cache to keep its entries whether they are still what a read would return, and
// leaves servers that must not be used any more, until the client ends.
func (c *Client) keepConfirming(conns *Conns) {
	every := max(c.options.NearCacheTTL/3, leastConfirm)
	ticks, appraisals := time.NewTicker(every), time.NewTicker(appraiseEvery)
	defer ticks.Stop()
	defer appraisals.Stop()
	for {
		select {
		case <-ticks.C:
		case <-appraisals.C:
			ctx, cancel := context.WithTimeout(c.lifetime, c.options.CommandTimeout)
			_ = c.appraise(ctx, conns) // it is connected already
			cancel()
			continue
		case <-c.lifetime.Done():
			return
		}
		// What is confirmed is as old as the question: an answer that takes longer is of no use.
		ctx, cancel := context.WithTimeout(c.lifetime, min(2*every, c.options.CommandTimeout))
		_ = c.confirm(ctx, conns) // entries that are not confirmed expire by themselves
		cancel()
	}
}

// confirm asks, and if the answers leave no doubt, confirms what the near cache holds as of now. There is no doubt if the
// servers that the entries came from have answered over the connections that fetched these, whose pushes have arrived by then,
// and if they are still the ones that a read would ask.
func (c *Client) confirm(ctx context.Context, conns *Conns) (err error) {
	defer c.recovered(&err)
	if c.options.Mode == Cluster {
		return c.confirmCluster(ctx, conns)
	}
	return c.confirmPrimary(ctx, conns)
}

// confirmPrimary confirms what came from the one primary if both connections lead to it and so would a new one, which the
// primary itself cannot know: it may be cut off, and another in its place. With sentinels a majority of them must name it.
func (c *Client) confirmPrimary(ctx context.Context, conns *Conns) error {
	ticket, begin := c.Near.Begin(""), time.Now()
	type answer struct {
		ids []identity
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		ids, err := identifyAll(ctx, conns)
		answers <- answer{ids, err}
	}()
	led, sure, err := c.look(ctx)
	a := <-answers
	if a.err != nil {
		return classify(ctx, a.err, Reads)
	}
	if err != nil {
		return err
	}
	if err := c.judge(append(a.ids, led...), begin); err != nil {
		return err
	}
	if run := a.ids[0].run; sure && run != "" {
		c.Near.Confirm(ticket, run)
	}
	return nil
}

// look finds out where a new connection would lead. It returns the identity of the server, if it has found it out, and whether
// the connections that there are lead there.
func (c *Client) look(ctx context.Context) (led []identity, sure bool, err error) {
	if c.sentinels != nil {
		v, err := c.sentinels.ask(ctx, c.options.sentinelTimeout())
		addr := v.majority()
		if promised := c.sentinels.ahead(); addr == "" || promised != "" && promised != addr {
			return nil, false, err
		}
		if c.network.has(leadElsewhere(addr)) {
			c.sentinels.follow(addr)
			return nil, false, nil
		}
		return nil, true, nil
	}
	id, err := c.visit(ctx, c.options.Addrs[0])
	if err != nil { // a replica in its place is no reason to leave the primary
		return nil, false, err
	}
	return []identity{id}, true, nil
}

// visit asks a server for its identity over a connection of its own, which a replica refuses.
func (c *Client) visit(ctx context.Context, addr string) (identity, error) {
	type answer struct {
		identity
		err error
	}
	answers := make(chan answer, 1)
	go func() { // opening a connection takes up to two seconds, whatever the context says
		var a answer
		guest, err := c.newGuest(addr, false)
		if a.err = err; err == nil {
			a.identity, a.err = identify(ctx, guest)
		}
		if guest != nil {
			guest.Close()
		}
		answers <- a
	}()
	select {
	case a := <-answers:
		return a.identity, a.err
	case <-ctx.Done():
		return identity{}, ctx.Err()
	}
}

// newGuest connects a rueidis client that is for a few questions to one server and tells nobody of its connections. It may
// return a client that connects later, and an error.
func (c *Client) newGuest(addr string, anyRole bool) (rueidis.Client, error) {
	o := c.clientOption()
	o.InitAddress, o.ForceSingleClient, o.DisableCache = []string{addr}, true, true
	o.DialCtxFn = (&dialer{network: c.guests, anyRole: anyRole}).dial
	o.ClientName, o.ClientSetInfo = "", rueidis.DisableClientSetInfo
	o.RingScaleEachConn, o.ReadBufferEachConn, o.WriteBufferEachConn = 2, guestBuffer, guestBuffer
	if o.TLSConfig != nil {
		o.TLSConfig = o.TLSConfig.Clone()
		o.TLSConfig.ClientSessionCache = c.guestSessions
	}
	return rueidis.NewClient(o)
}

// guestBuffer is enough for the answer to INFO at once.
const guestBuffer = 8 << 10

// awaitPrimary waits until a server says that it is a primary, and reports whether it has before ctx ends.
func (c *Client) awaitPrimary(ctx context.Context, addr string) bool {
	guest, _ := c.newGuest(addr, true) // which connects later if it has not yet
	if guest == nil {
		return false
	}
	defer guest.Close()
	ticks := time.NewTicker(followEvery)
	defer ticks.Stop()
	for {
		if id, err := identify(ctx, guest); err == nil && id.primary {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticks.C:
		}
	}
}
