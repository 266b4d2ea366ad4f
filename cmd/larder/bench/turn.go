package bench

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a call may last beyond the end of its turn, before it is cancelled and counts as failed.
const patience = 10 * time.Second

// A leg is the part of one server in a workload: its callers, and the turns that it has had.
type leg struct {
	server  *server
	call    callFunc
	waves   bool // see workload.waves
	callers []*caller
	loads   atomic.Int64 // loads from the origin in a stampede
	wave    int          // number of the last wave
	turns   []turn
}

// A turn is what one server did in one round.
type turn struct {
	calls, items int64
	waves        int
	took         time.Duration
	spent        usage
}

// leg returns a leg with the callers of a server.
func (l *load) leg(s *server, call callFunc, waves bool) *leg {
	g := &leg{server: s, call: call, waves: waves}
	for i := range l.command.InFlight {
		c := l.caller(s, i)
		c.loads = &g.loads
		g.callers = append(g.callers, c)
	}
	return g
}

// turn lets all callers make calls for a duration, or until ctx ends. Each caller makes at least one call, so that a short turn
// on a busy machine has calls to divide by. Calls in flight at the end are finished, and count.
func (g *leg) turn(ctx context.Context, d time.Duration) (t turn) {
	calls, cancel := context.WithTimeout(context.WithoutCancel(ctx), d+patience)
	defer cancel()
	spent := g.server.meter(calls)
	items := g.items()
	start := time.Now()
	more := func() bool { return ctx.Err() == nil && time.Since(start) < d }
	if g.waves {
		for ; t.waves == 0 || more(); t.waves++ {
			g.wave++
			t.calls += g.all(func(c *caller) int64 {
				c.wave = g.wave
				c.do(calls, g.call)
				return 1
			})
		}
	} else {
		t.calls = g.all(func(c *caller) (n int64) {
			for ; n == 0 || more(); n++ {
				c.do(calls, g.call)
			}
			return n
		})
	}
	t.took = time.Since(start)
	t.spent = spent()
	t.items = g.items() - items
	return t
}

// all runs a function for every caller at the same time and returns the sum of the results.
func (g *leg) all(run func(*caller) int64) int64 {
	var done sync.WaitGroup
	var sum atomic.Int64
	for _, c := range g.callers {
		done.Go(func() { sum.Add(run(c)) })
	}
	done.Wait()
	return sum.Load()
}

// items returns the number of entries or sessions that the callers have read or written.
func (g *leg) items() (n int64) {
	for _, c := range g.callers {
		n += c.items
	}
	return n
}

// warmUp runs a turn whose results are dropped.
func (g *leg) warmUp(ctx context.Context, d time.Duration) {
	g.turn(ctx, d)
	g.loads.Store(0)
	for _, c := range g.callers {
		c.latencies.Reset()
		clear(c.failures)
	}
}

// measure runs the rounds of a workload. A round that ctx cuts short does not count.
func (l *load) measure(ctx context.Context, w workload, larder, floor *server, p *progress) result {
	bare := w.bare
	if bare == nil {
		bare = w.call
	}
	legs := []*leg{l.leg(larder, w.call, w.waves), l.leg(floor, bare, w.waves)}
	if w.beside != nil {
		legs = append(legs, l.leg(larder, w.beside, false))
	}
	length := l.command.Duration / time.Duration(l.command.Rounds*len(legs))
	if w.warm != nil {
		n := len(l.keys)
		// Every key is read twice: the near cache need not keep what the first read brings.
		_ = l.each(ctx, larder, 2*n, func(c *caller, i int) error {
			c.choose = func() int { return i % n }
			_, err := w.warm(ctx, c)
			return err // a failure will also be met, and counted, by the measured calls
		})
	}
	for _, g := range legs {
		p.step(w.name)
		g.warmUp(ctx, length)
	}
	for round := range l.command.Rounds {
		order := slices.Clone(legs)
		if round%2 == 1 {
			slices.Reverse(order) // so that what one server leaves behind, such as garbage, slows each of them equally often
		}
		turns := make(map[*leg]turn, len(legs))
		for _, g := range order {
			p.step(w.name)
			turns[g] = g.turn(ctx, length)
		}
		if ctx.Err() != nil {
			break
		}
		for g, t := range turns {
			g.turns = append(g.turns, t)
		}
	}
	return w.result(legs)
}
