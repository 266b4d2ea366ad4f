package ratelimit

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxDenial is how long a denial is kept at most. For that long a replica may not know of what others have given back.
	maxDenial = time.Second
	// denialShards is the number of locks, and maxDenialBytes the memory of what is kept, in each of two generations.
	denialShards   = 64
	maxDenialBytes = 8 << 20
	// denialBytes is about what an entry needs beside its key.
	denialBytes = 320
)

// denials keeps what limits have said to calls that were denied, until the calls would be allowed and for 1 s at most, so that a
// caller who is denied costs Redis one command in a second. It keeps nothing of calls that were allowed. A nil one keeps nothing.
type denials struct {
	seed   maphash.Seed
	shards [denialShards]denialShard
	// changes counts what was given back: an answer that may be older is not kept.
	changes atomic.Uint64
	now     func() time.Time
}

// A denialShard has two generations of entries, so that entries which have ended go without being looked for.
type denialShard struct {
	mu         sync.Mutex
	young, old map[string]denial
	bytes      int
	turned     time.Time
}

// A denial is what a limit said to a call that was denied, by it or by another limit.
type denial struct {
	rule  Rule
	cost  int64
	at    time.Time // when the call was sent
	until time.Time
	said  Result
}

func newDenials() *denials {
	return &denials{seed: maphash.MakeSeed(), now: time.Now}
}

// ticket returns what keep needs to know whether anything was given back since.
func (d *denials) ticket() uint64 {
	if d == nil {
		return 0
	}
	return d.changes.Load()
}

func (d *denials) shard(key string) *denialShard {
	return &d.shards[maphash.String(d.seed, key)%denialShards]
}

// worth returns the cost at which a charge is denied, and whether a kept denial may answer it: a call that would change something
// even if denied must reach Redis.
func (c *call) worth(i int) (cost int64, ok bool) {
	ch := &c.charges[i]
	if ch.Cost <= 0 || ch.Peek || ch.Rule.Penalize {
		return 0, false
	}
	return c.least(i), true
}

// decide answers a call if one of its limits has denied as much lately, and every limit was heard since. A request with an id may
// have been allowed before, so that Redis answers it.
func (d *denials) decide(c *call) (Decision, bool) {
	if d == nil || c.named || c.options.Mode == Each {
		return Decision{}, false
	}
	var results []Result
	denied := false
	now := d.now()
	for i := range c.charges {
		cost, ok := c.worth(i)
		if !ok {
			return Decision{}, false
		}
		kept, ok := d.get(c.keys[i], now)
		if !ok || kept.cost != cost || kept.rule != c.charges[i].Rule {
			return Decision{}, false
		}
		r := kept.said
		denied = denied || r.Outcome != Allowed && !kept.rule.Shadow
		if results == nil {
			results = make([]Result, len(c.charges))
		}
		r.pass(now.Sub(kept.at))
		results[i] = r
	}
	if !denied {
		return Decision{}, false
	}
	decision := Decision{Allowed: true, Local: true, Results: results}
	decision.judge(c)
	return decision, true
}

// pass makes a result that is some time old one of now.
func (r *Result) pass(age time.Duration) {
	for _, t := range []*time.Duration{&r.AvailableAfter, &r.ResetAfter, &r.RetryAfter} {
		if *t != Never {
			*t = max(*t-age, 0)
		}
	}
}

func (d *denials) get(key string, now time.Time) (denial, bool) {
	s := d.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.young[key]
	if !ok {
		if kept, ok = s.old[key]; !ok {
			return denial{}, false
		}
	}
	return kept, now.Before(kept.until)
}

// keep takes the answer of Redis to a call that was denied.
func (d *denials) keep(c *call, decision *Decision) {
	if d == nil || c.options.Mode == Each {
		return
	}
	lifetime := maxDenial
	if decision.RetryAfter != Never {
		lifetime = min(lifetime, decision.RetryAfter)
	}
	until := c.sent.Add(lifetime)
	for i := range c.charges {
		if _, ok := c.worth(i); !ok {
			return
		}
	}
	for i := range c.charges {
		cost, _ := c.worth(i)
		d.put(c.keys[i], denial{rule: c.charges[i].Rule, cost: cost, at: c.sent, until: until, said: decision.Results[i]}, c.ticket)
	}
}

func (d *denials) put(key string, kept denial, ticket uint64) {
	s := d.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.changes.Load() != ticket {
		return
	}
	if now := d.now(); now.Sub(s.turned) > maxDenial || s.young == nil {
		s.old = s.young
		if now.Sub(s.turned) > 2*maxDenial {
			s.old = nil
		}
		s.young, s.bytes, s.turned = make(map[string]denial), 0, now
	}
	if _, ok := s.young[key]; !ok {
		size := len(key) + denialBytes
		if s.bytes+size > maxDenialBytes/denialShards {
			return
		}
		s.bytes += size
	}
	s.young[key] = kept
}

// forget drops what is kept of limits of which something was given back.
func (d *denials) forget(keys ...string) {
	if d == nil {
		return
	}
	d.changes.Add(1)
	for _, key := range keys {
		s := d.shard(key)
		s.mu.Lock()
		delete(s.young, key)
		delete(s.old, key)
		s.mu.Unlock()
	}
}
