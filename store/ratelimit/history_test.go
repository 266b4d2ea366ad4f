package ratelimit_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// A grant is a cost that was allowed, some time between sent and answered by the time of Redis.
type grant struct {
	cost           int64
	sent, answered time.Time
}

// redisTime asks the server of a key for its time.
func redisTime(t *testing.T, s *store.Store, key string) time.Time {
	at, err := redis.RoundTrip(t.Context(), s.Redis, "test", redis.Reads, func(ctx context.Context, conns *redis.Conns) (time.Time, error) {
		c := conns.Primary
		parts, err := c.Do(ctx, c.B().Eval().Script("return redis.call('TIME')").Numkeys(1).Key(key).Build()).AsStrSlice()
		if err != nil || len(parts) != 2 {
			return time.Time{}, errors.Join(err, rueidis.ErrNoSlot)
		}
		seconds, _ := strconv.ParseInt(parts[0], 10, 64)
		micros, _ := strconv.ParseInt(parts[1], 10, 64)
		return time.UnixMicro(seconds*1e6 + micros), nil
	})
	if err != nil {
		t.Errorf("TIME: error %v, want none: %s", err, redis.Cause(err))
	}
	return at
}

// TestLimitIsNeverExceeded: 64 workers on three replicas that charge one limit for a while never get more of it, in any window, than
// the definition of its algorithm allows, and together all of it.
func TestLimitIsNeverExceeded(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		replicas := []*store.Store{s, s, s}
		if s.Redis.Mode() != redis.Embedded {
			for i := range 2 {
				replicas[i+1] = storetest.Open(t, storetest.Options(t, s.Redis.Mode()))
			}
		}
		const length = 1200 * time.Millisecond
		for _, rule := range []ratelimit.Rule{
			{Algorithm: ratelimit.GCRA, Capacity: 40, Period: 200 * time.Millisecond},
			{Algorithm: ratelimit.GCRA, Capacity: 30, Period: 300 * time.Millisecond, Burst: 7},
			{Algorithm: ratelimit.SlidingWindow, Capacity: 40, Period: 200 * time.Millisecond},
			{Algorithm: ratelimit.FixedWindow, Capacity: 40, Period: 200 * time.Millisecond, Alignment: ratelimit.Epoch},
			{Algorithm: ratelimit.FixedWindow, Capacity: 40, Period: 200 * time.Millisecond},
		} {
			var mu sync.Mutex
			var grants []grant
			var workers sync.WaitGroup
			c := charge("ann", string(rule.Algorithm)+"-"+string(rule.Alignment)+strconv.FormatInt(rule.Burst, 10), rule, 1)
			key := ratelimit.UsageKey(namespace, c)
			begin := redisTime(t, s, key)
			for w := range 64 {
				workers.Go(func() {
					random := rand.New(rand.NewPCG(uint64(w), 7))
					replica := replicas[w%3]
					for end := time.Now().Add(length); time.Now().Before(end); {
						mine := c
						mine.Cost = random.Int64N(3) + 1
						sent := redisTime(t, replica, key)
						d, err := replica.RateLimits.Consume(t.Context(), namespace, []ratelimit.Charge{mine}, plain)
						answered := redisTime(t, replica, key)
						if err != nil {
							t.Errorf("Consume: error %v, want none: %s", err, redis.Cause(err))
							return
						}
						if d.Allowed {
							mu.Lock()
							grants = append(grants, grant{mine.Cost, sent, answered})
							mu.Unlock()
						}
					}
				})
			}
			workers.Wait()
			check(t, rule, begin, redisTime(t, s, key), grants)
		}
	})
}

// check compares grants with the most that any implementation of a rule may allow in the times in which they certainly were made.
func check(t *testing.T, rule ratelimit.Rule, begin, end time.Time, grants []grant) {
	t.Helper()
	var total int64
	for _, g := range grants {
		total += g.cost
	}
	// most is what may be allowed between two times.
	most := func(from, to time.Time) int64 {
		d, period := to.Sub(from), rule.Period
		switch rule.Algorithm {
		case ratelimit.GCRA:
			return full(rule) + int64(d)*rule.Capacity/int64(period)
		case ratelimit.FixedWindow:
			windows := to.UnixMicro()/period.Microseconds() - from.UnixMicro()/period.Microseconds() + 1
			if rule.Alignment != ratelimit.Epoch {
				windows = int64(d/period) + 2 // the first may end as the time begins
			}
			return windows * rule.Capacity
		default:
			windows := to.UnixMicro()/period.Microseconds() - from.UnixMicro()/period.Microseconds() + 1
			return windows * rule.Capacity
		}
	}
	slices.SortFunc(grants, func(a, b grant) int { return a.sent.Compare(b.sent) })
	for i := range grants {
		for j := range grants {
			from, to := grants[i].sent, grants[j].answered
			if !from.Before(to) {
				continue
			}
			var within int64
			for _, g := range grants {
				if !g.sent.Before(from) && !g.answered.After(to) {
					within += g.cost
				}
			}
			if allowed := most(from, to); within > allowed {
				t.Fatalf("%+v: %d were allowed in %v, want at most %d", rule, within, to.Sub(from), allowed)
			}
		}
		if i > 300 { // n^3 otherwise
			break
		}
	}
	if first := rule.Capacity; total < min(first, full(rule)) {
		t.Errorf("%+v: %d were allowed in %v, want at least what may be used at once", rule, total, end.Sub(begin))
	}
}
