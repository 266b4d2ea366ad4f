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
	// partitions is the number of partitions.
	partitions = 256
	// One step of the sweeper handles up to sweepDue expired and sweepDiscarded revoked sessions, which keeps Redis busy for
	// about two milliseconds. Then it rests for sweepRest times as long as the step took, so that others have most of Redis.
	sweepDue       = 20
	sweepDiscarded = 40
	sweepRest      = 3
	// maxPartitionEvents bounds the events of a partition to about 20 MB. Events are kept for a day, and an unusual number
	// of changes must not fill Redis. Changes within one sweep interval may exceed the bound.
	maxPartitionEvents = 100_000
	// eventRetention is how long events are kept. It mirrors EVENT_RETENTION in common.lua.
	eventRetention = 24 * time.Hour
)

// sweeper removes expired sessions in the background. Each replica has one, and a lease lets one of them work at a time. Two
// that work at once do no harm: each step is a script that looks again.
type sweeper struct {
	stopped   chan struct{} // closed when the sweeper has ended; nil if it never began
	maxEvents int64         // maxPartitionEvents; tests set it lower
	next      partition     // the next partition to trim old events of

	idle, absolute, removed, late atomic.Int64
}

// sweep sweeps once per interval until the client stops.
func (s *Sessions) sweep() {
	defer close(s.sweeper.stopped)
	for {
		wait, err := s.sweepInTurn(s.redis.Lifetime())
		if err != nil {
			wait = s.options.SweepInterval / 4 // the observer counts failures
		}
		select {
		case <-s.redis.Lifetime().Done():
			return
		case <-time.After(max(wait, time.Millisecond)):
		}
	}
}

// sweepInTurn sweeps if it gets the lease, and returns how long to wait before the next attempt: until the current lease
// expires, whoever holds it. If the holder stops, another replica takes over within the interval.
func (s *Sessions) sweepInTurn(ctx context.Context) (wait time.Duration, err error) {
	interval := s.options.SweepInterval
	turn := interval * 9 / 10
	m, err := s.redis.Run(ctx, leaseScript, redis.WritesOnce, []string{sweepKey}, redis.Millis(turn))
	if redis.Retryable(err) && ctx.Err() == nil {
		// The shard of that key is away, which must not keep the sessions on the others. Two that sweep at once do no harm.
		return interval, s.sweepAll(ctx)
	}
	if err != nil {
		return 0, err
	}
	lease, err := m.AsIntSlice()
	if err != nil || len(lease) != 2 {
		return 0, redis.ErrInternal
	}
	began, left := time.Now(), time.Duration(lease[1])*time.Millisecond
	if lease[0] == 1 {
		err = s.sweepAll(ctx)
	}
	spread := rand.N(interval/20 + 1) //nolint:gosec // spreads load, guards nothing
	return left - time.Since(began) + spread, err
}

// sweepAll sweeps all partitions. It returns the errors of those that it could not sweep.
func (s *Sessions) sweepAll(ctx context.Context) error {
	due, err := s.sweepDue(ctx)
	late := int64(0)
	for len(due) > 0 && ctx.Err() == nil {
		var left []partition
		for _, p := range due {
			begin := time.Now()
			more, behind, failed := s.sweepPartition(ctx, p)
			if failed != nil {
				err = errors.Join(err, failed) // the other partitions do not wait for this one
				continue
			}
			late = max(late, behind)
			if more {
				left = append(left, p)
				rest(ctx, sweepRest*time.Since(begin))
			}
		}
		due = left
	}
	if err == nil {
		s.sweeper.late.Store(late)
	}
	return err
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// sweepDue returns the partitions that have something to remove. It sends three short commands for each partition, one of
// which trims events, in one round trip per shard.
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
				// The other partitions trim old events when they add new ones; this is for those that no longer do.
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

// sweepPartition makes one step. It returns whether there is more to do, and how late the first session was removed in
// milliseconds.
func (s *Sessions) sweepPartition(ctx context.Context, p partition) (more bool, late int64, err error) {
	most, discarded := sweepDue, sweepDiscarded
	if s.redis.Mode() == redis.Embedded { // miniredis is slower
		most, discarded = most/2, discarded/2
	}
	m, err := s.run(ctx, sweepScript, redis.WritesOnce, []string{endsKey(p), eventsKey(p), discardedKey(p)},
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
	s.redis.Forget(endsKey(p)) // wakes watches of the embedded store
	return n[3] == 1, n[4], nil
}
