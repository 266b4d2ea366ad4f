package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// An Ability is what a kind of call needs of Redis.
type Ability int

// The abilities.
const (
	// ToRead is needed by calls that read keys.
	ToRead Ability = iota
	// ToReadByScript is needed by calls that read by a script.
	ToReadByScript
	// ToWrite is needed by calls that write, which most do by a script.
	ToWrite
	abilities = iota
)

// ProblemKinds are the values of [Problem].Kind.
var ProblemKinds = []string{"nodes", "reads", "scripts", "shards", "writes"}

// A Problem makes some calls fail, or leaves nothing to take over when a primary dies, while other calls succeed.
type Problem struct {
	// Kind is "shards" for primaries that do not answer, "nodes" for other nodes of a cluster that do not, and "reads", "scripts"
	// or "writes" for what primaries refuse. It is one of a small fixed set.
	Kind string
	// Detail says how many and why, for the operator. It holds no addresses.
	Detail string
}

// A Condition says which calls would succeed if they were made now.
type Condition struct {
	// Failures say for each [Ability] why no call that needs it would succeed; nil means that calls to one shard would, at least.
	Failures [abilities]error
	// Problems are what is wrong with single shards and nodes, ordered by kind.
	Problems []Problem
}

// Down returns the condition in which every call fails for one reason.
func Down(why error) (d Condition) {
	for a := range d.Failures {
		d.Failures[a] = why
	}
	return d
}

const (
	// leastPatience is how long a check waits for a node that usually answers sooner.
	leastPatience = 300 * time.Millisecond
	// patienceTrips is how many of its usual round trips a check waits for a node, and CommandTimeout at most.
	patienceTrips = 3
)

// pulse is what is known of one node. A node is asked one thing at a time: an answer that comes too late for one check is that of the
// next one, so that a node which is far away is known to be well and one that hangs is not asked without end.
type pulse struct {
	mu     sync.Mutex
	asking chan struct{} // closed when it has answered or its time is over; nil while nothing is asked
	vitals vitals        // as of the last answer
	usual  time.Duration // how long it takes to answer, of late
}

// vitals are what a node has answered.
type vitals struct {
	// away is why it is of no use at all.
	away error
	// primary means that it said so.
	primary bool
	// refused are the errors with which it refuses what needs an ability.
	refused [abilities]error
}

// take returns the vitals of a node: those that the question under way brings, or else those of the one that ask puts. It waits as
// long as the node is worth it.
func (p *pulse) take(ctx context.Context, limit time.Duration, ask func() vitals) vitals {
	p.mu.Lock()
	if p.asking == nil {
		done := make(chan struct{})
		p.asking = done
		go func() {
			begin := time.Now()
			v := ask()
			took := time.Since(begin)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.vitals = v; v.away == nil {
				p.usual = max(took, p.usual-p.usual/8)
			}
			p.asking = nil
			close(done)
		}()
	}
	done, patience := p.asking, p.patience(limit)
	p.mu.Unlock()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.vitals
	case <-timeout.C:
		return vitals{away: Fail(ErrUnavailable, errNoAnswer)}
	case <-ctx.Done():
		return vitals{away: ctx.Err()}
	}
}

// patience returns how long a check waits for the node. Its lock must be held.
func (p *pulse) patience(limit time.Duration) time.Duration {
	return min(max(leastPatience, patienceTrips*p.usual), limit)
}

// Patience returns how long [Client.Check] takes at most: 300 ms, or as long as three of the round trips that it has seen of late,
// and no longer than CommandTimeout.
func (c *Client) Patience() time.Duration {
	longest := min(leastPatience, c.options.CommandTimeout)
	c.pulses.Range(func(_, p any) bool {
		p.(*pulse).mu.Lock()
		defer p.(*pulse).mu.Unlock()
		longest = max(longest, p.(*pulse).patience(c.options.CommandTimeout))
		return true
	})
	return longest
}

// Check asks every node what a call would ask of it, and so finds out which calls would succeed. It waits no longer than
// [Client.Patience]; a node that has not answered by then counts as one that does not, and if it answers within CommandTimeout, the
// next check knows. It also samples the clocks of Redis.
func (c *Client) Check(ctx context.Context) Condition {
	conns := c.conns.Load()
	if conns == nil {
		return Down(Fail(ErrUnavailable, errors.New("not connected yet")))
	}
	tracked := conns.trackedNodes()
	var mu sync.Mutex
	var found []vitals
	var asked sync.WaitGroup
	for addr, node := range conns.Primary.Nodes() {
		if c.network.refuses(addr) {
			continue // the others say that it is no longer one of them
		}
		asked.Go(func() {
			known, _ := c.pulses.LoadOrStore(addr, new(pulse))
			v := known.(*pulse).take(ctx, c.options.CommandTimeout, func() vitals {
				ctx, cancel := context.WithTimeout(c.lifetime, c.options.CommandTimeout)
				defer cancel()
				return c.examine(ctx, addr, node, tracked[addr])
			})
			if was, _ := c.roles.Load(addr); v.away != nil && (c.options.Mode != Cluster || was == true) {
				v.primary = true
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, v)
		})
	}
	asked.Wait()
	return conclude(found)
}

// conclude says what follows from the vitals of all nodes.
func conclude(nodes []vitals) (d Condition) {
	primaries := slices.DeleteFunc(slices.Clone(nodes), func(v vitals) bool { return !v.primary })
	others := slices.DeleteFunc(slices.Clone(nodes), func(v vitals) bool { return v.primary })
	if len(primaries) == 0 {
		return Down(Fail(ErrUnavailable, errors.New("no primary is known")))
	}
	away := func(v vitals) error { return v.away }
	if n, _ := tally(others, away); n > 0 {
		d.Problems = append(d.Problems, Problem{"nodes", fmt.Sprintf("%d of %d other nodes do not answer", n, len(others))})
	}
	for a, kind := range []string{ToRead: "reads", ToReadByScript: "scripts", ToWrite: "writes"} {
		if n, why := tally(primaries, func(v vitals) error { return v.refused[a] }); n > 0 {
			d.Problems = append(d.Problems, Problem{kind, fmt.Sprintf("%d of %d primaries refuse: %s", n, len(primaries), Cause(why))})
		}
		if n, why := tally(primaries, func(v vitals) error { return cmp.Or(v.away, v.refused[a]) }); n == len(primaries) {
			d.Failures[a] = why
		}
	}
	if n, _ := tally(primaries, away); n > 0 && n < len(primaries) { // else the failures say so
		d.Problems = append(d.Problems, Problem{"shards", fmt.Sprintf("%d of %d primaries do not answer", n, len(primaries))})
	}
	return d
}

// tally returns how many nodes have an error, and one of the errors.
func tally(nodes []vitals, of func(v vitals) error) (n int, why error) {
	for _, v := range nodes {
		if err := of(v); err != nil {
			n, why = n+1, err
		}
	}
	return n, why
}

// probeKey is read by probes. Nothing is ever written to it.
const probeKey = "ld:probe"

// Redis refuses these scripts whenever it would refuse one that reads, or one that writes: it looks at their flags and at the rights to
// what they call. None of them changes anything. In a cluster, where the key may belong to another node, they have none.
var (
	readProbe  = rueidis.NewLuaScriptReadOnly("#!lua flags=no-writes\nreturn KEYS[1] and redis.call('exists', KEYS[1])")
	writeProbe = rueidis.NewLuaScript("#!lua\nreturn KEYS[1] and redis.call('unlink', KEYS[1])")
)

// examine asks one node for everything. Tracked is its tracked connection, nil for none.
func (c *Client) examine(ctx context.Context, addr string, node, tracked rueidis.Client) (v vitals) {
	defer c.recovered(&v.away)
	if c.options.Mode == Embedded {
		return vitals{primary: true, away: c.askTime(ctx, addr, node)}
	}
	if c.options.Mode == Cluster {
		primary, err := isPrimary(ctx, node)
		if err != nil {
			return vitals{away: classify(ctx, err, Reads)}
		}
		if c.roles.Store(addr, primary); !primary {
			_ = c.askTime(ctx, addr, node) // its clock is known before it takes over
			return v
		}
	}
	v.primary = true
	keys := []string{probeKey}
	if c.options.Mode == Cluster {
		keys = nil
	}
	begin := time.Now()
	err := together(
		func() error { return c.askTime(ctx, addr, node) },
		func() error { return c.askRole(ctx, node, begin) },
		func() (err error) { v.refused[ToRead], err = refusedOrAway(c.askRead(ctx, node)); return err },
		func() (err error) {
			v.refused[ToReadByScript], err = refusedOrAway(readProbe.Exec(ctx, node, keys, nil).Error())
			return err
		},
		func() (err error) {
			v.refused[ToWrite], err = refusedOrAway(writeProbe.Exec(ctx, node, keys, nil).Error())
			return err
		},
		func() error {
			if tracked == nil {
				return nil
			}
			_, err := refusedOrAway(c.askRead(ctx, tracked)) // what it refuses, the other refuses as well
			return err
		},
	)
	if err != nil {
		v.away = classify(ctx, err, Reads)
	}
	for a, err := range v.refused {
		v.refused[a] = classify(ctx, err, Reads)
	}
	if down := v.refused[ToRead]; down != nil && Cause(down) == "CLUSTERDOWN" { // refuses only what has keys
		v.refused[ToReadByScript], v.refused[ToWrite] = down, down
	}
	return v
}

// askRole finds out whether the server behind the one connection is still the primary. In a cluster that was asked before.
func (c *Client) askRole(ctx context.Context, node rueidis.Client, begin time.Time) error {
	if c.options.Mode == Cluster {
		return nil
	}
	id, err := identify(ctx, node)
	if err != nil {
		return err
	}
	return c.judge([]identity{id}, begin)
}

// askRead reads as a call would, which is refused while a PING or a TIME is not: when Redis loads its data, and when its cluster is
// down. PING on the other hand is refused when Redis cannot save. That the key belongs to another node is an answer, too.
func (c *Client) askRead(ctx context.Context, node rueidis.Client) error {
	err := node.Do(ctx, node.B().Get().Key(probeKey).Build()).Error()
	var re *rueidis.RedisError
	if rueidis.IsRedisNil(err) || errors.As(err, &re) && c.options.Mode == Cluster && isElsewhere(re) {
		return nil
	}
	return err
}

// isElsewhere reports an answer of a node of a cluster that says no more than where a key is, or that no node has its slot.
func isElsewhere(re *rueidis.RedisError) bool {
	switch code(re) {
	case "MOVED", "ASK", "TRYAGAIN":
		return true
	case "CLUSTERDOWN":
		return strings.Contains(re.Error(), "slot not served")
	}
	return false
}

// refusedOrAway tells what a server refuses from what does not reach it.
func refusedOrAway(err error) (refused, away error) {
	var re *rueidis.RedisError
	switch {
	case rueidis.IsRedisNil(err):
		return nil, nil
	case errors.As(err, &re):
		return err, nil
	}
	return nil, err
}
