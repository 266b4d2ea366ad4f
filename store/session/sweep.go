package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

const (
	// partitions is how many there are.
	partitions = 256
	// One step of the sweeper keeps Redis busy for about a millisecond: a few commands for each of so many sessions.
	sweepDue       = 100
	sweepDiscarded = 200
	// maxPartitionEvents bounds the events of a partition, about 20 MB of them, so that an unusual number of changes does
	// not fill Redis within the day that events are kept. It is exceeded by what happens within a sweep interval.
	maxPartitionEvents = 100_000
	// eventRetention is how long events are kept, as session.lua says.
	eventRetention = 24 * time.Hour
)

// sweeper ends the sessions whose time is over, in the background. Every replica has one, and at most one of them works at
// a time. Two that do all the same harm nobody, as each step is one script that looks again.
type sweeper struct {
	stopped   chan struct{} // closed when it has ended; nil if it never began
	maxEvents int64         // maxPartitionEvents, but in tests
	next      partition     // whose old events are dropped next

	idle, absolute, removed, late atomic.Int64
}

// sweep clears up once per interval until the store is closed.
func (s *Sessions) sweep() {
	defer close(s.sweeper.stopped)
	for {
		wait, err := s.sweepInTurn(s.redis.Lifetime())
		if err != nil {
			wait = s.options.SweepInterval / 4 // the observer has counted it
		}
		select {
		case <-s.redis.Lifetime().Done():
			return
		case <-time.After(max(wait, time.Millisecond)):
		}
	}
}

// sweepInTurn clears up if no other replica does, and returns how long to wait before asking again: until the turn is over
// that this replica or another one has, so that where one stops another takes over within the interval.
func (s *Sessions) sweepInTurn(ctx context.Context) (wait time.Duration, err error) {
	interval := s.options.SweepInterval
	turn := interval * 9 / 10
	type lease struct {
		ours bool
		left time.Duration
	}
	l, err := redis.RoundTrip(ctx, s.redis, "sweep", redis.WritesOnce, func(ctx context.Context, conns *redis.Conns) (lease, error) {
		answers := conns.Primary.DoMulti(ctx,
			conns.Primary.B().Set().Key(sweepKey).Value("1").Nx().Px(turn).Build(),
			conns.Primary.B().Pttl().Key(sweepKey).Build())
		err := answers[0].Error()
		if err != nil && !rueidis.IsRedisNil(err) {
			return lease{}, err
		}
		left, failed := answers[1].AsInt64()
		return lease{err == nil, time.Duration(left) * time.Millisecond}, failed
	})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if l.ours {
		err = s.sweepAll(ctx)
	}
	spread := rand.N(interval/20 + 1) //nolint:gosec // spreads load, guards nothing
	return l.left - time.Since(began) + spread, err
}

// sweepAll clears up all partitions.
func (s *Sessions) sweepAll(ctx context.Context) error {
	due, err := s.sweepDue(ctx)
	late := int64(0)
	for err == nil && len(due) > 0 {
		var left []partition
		for _, p := range due {
			var more bool
			var behind int64
			if more, behind, err = s.sweepPartition(ctx, p); err != nil {
				break
			}
			late = max(late, behind)
			if more {
				left = append(left, p)
			}
		}
		due = left
	}
	if err == nil {
		s.sweeper.late.Store(late)
	}
	return err
}

// sweepDue returns the partitions in which there is something to do. It asks each three short questions, in one round trip
// for each shard, and one of them drops events.
func (s *Sessions) sweepDue(ctx context.Context) (due []partition, err error) {
	const ended, discarded, trimmed, questions = 0, 1, 2, 3
	now := s.redis.Now()
	old := strconv.FormatInt(now.Add(-eventRetention).UnixMilli(), 10)
	s.sweeper.next++
	found := make([]bool, partitions)
	var failed error
	err = s.redis.RunBatch(ctx, redis.Items(questions*partitions), redis.Batch{
		Name: "sweep", Effect: redis.Writes,
		Command: func(b rueidis.Builder, i int) rueidis.Completed {
			p := partition(i / questions)
			switch {
			case i%questions == ended:
				return b.Zcount().Key(endsKey(p)).Min("-inf").Max(strconv.FormatInt(now.UnixMilli(), 10)).Build()
			case i%questions == discarded:
				return b.Llen().Key(discardedKey(p)).Build()
			case p == s.sweeper.next:
				// In the other partitions old events are trimmed when new ones are added.
				return b.Xtrim().Key(eventsKey(p)).Minid().Almost().Threshold(old).Build()
			default:
				return b.Xtrim().Key(eventsKey(p)).Maxlen().Almost().Threshold(strconv.FormatInt(s.sweeper.maxEvents, 10)).Build()
			}
		},
		Read: func(i int, r rueidis.RedisResult) error {
			n, err := r.AsInt64()
			if n > 0 && i%questions != trimmed {
				found[i/questions] = true
			}
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	for p, is := range found {
		if is {
			due = append(due, partition(p))
		}
	}
	return due, errors.Join(err, failed)
}

// sweepPartition makes one step and returns whether there is more to do, and by how many milliseconds it was late.
func (s *Sessions) sweepPartition(ctx context.Context, p partition) (more bool, late int64, err error) {
	most, discarded := sweepDue, sweepDiscarded
	if s.redis.Mode() == redis.Embedded { // which takes longer
		most, discarded = most/10, discarded/10
	}
	m, err := s.redis.Run(ctx, sweepScript, redis.WritesOnce, []string{endsKey(p), eventsKey(p), discardedKey(p)},
		sessionPrefix(p), attributesPrefix(p), subjectPrefix(p), indexPrefix(p), strconv.Itoa(most), strconv.Itoa(discarded))
	if err != nil {
		return false, 0, err
	}
	n, err := m.AsIntSlice()
	if err != nil || len(n) != 5 {
		return false, 0, redis.ErrInternal
	}
	s.sweeper.idle.Add(n[0])
	s.sweeper.absolute.Add(n[1])
	s.sweeper.removed.Add(n[2])
	s.redis.Forget(endsKey(p)) // wakes who waits for events where Redis does not
	return n[3] == 1, n[4], nil
}
