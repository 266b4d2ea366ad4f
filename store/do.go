package store

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

// enterTimeout is how long an operation waits for its turn when MaxInFlight round trips are under way.
const enterTimeout = 100 * time.Millisecond

// enter takes a place among the round trips under way.
func (s *Store) enter(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(enterTimeout)
	defer t.Stop()
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return &opError{kind: ErrOverloaded, cause: errors.New("too many round trips to redis under way")}
	}
}

func (s *Store) leave() { <-s.slots }

// trip makes one round trip: run sends commands to Redis and returns what it answered. Its error, where that is not the
// answer nil, is classified by eff. Name is for figures.
func trip[T any](ctx context.Context, s *Store, name string, eff effect, run func(context.Context, *clients) (T, error)) (answer T, err error) {
	c := s.clients.Load()
	if c == nil {
		return answer, &opError{kind: ErrUnavailable, cause: errors.New("not connected yet")}
	}
	if err := ctx.Err(); err != nil {
		return answer, err
	}
	if err := s.enter(ctx); err != nil {
		return answer, err
	}
	start := time.Now()
	if s.dialer.busy.Load() == 0 {
		answer, err = timed(ctx, s, c, run)
	} else {
		answer, err = detached(ctx, s, c, run)
	}
	if rueidis.IsRedisNil(err) {
		err = nil
	}
	err = classify(ctx, err, eff)
	s.observe(ctx, name, start, err)
	return answer, err
}

// timed runs a round trip within the time that one may take, and gives up its place.
func timed[T any](ctx context.Context, s *Store, c *clients, run func(context.Context, *clients) (T, error)) (T, error) {
	defer s.leave()
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > s.options.CommandTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.options.CommandTimeout)
		defer cancel()
	}
	return run(ctx, c)
}

// detached does the same and returns when ctx ends, whether or not the round trip has. It is for while a connection is
// being made: whoever needs it then waits inside rueidis for the one who makes it, and no deadline is heeded.
func detached[T any](ctx context.Context, s *Store, c *clients, run func(context.Context, *clients) (T, error)) (none T, err error) {
	type result struct {
		answer T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := timed(ctx, s, c, run)
		done <- result{answer, err}
	}()
	timeout := time.NewTimer(s.options.CommandTimeout)
	defer timeout.Stop()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-timeout.C:
		return none, errors.New("no answer in time")
	}
}

// script runs one script on the primary.
func (s *Store) script(ctx context.Context, sc *script, eff effect, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return trip(ctx, s, sc.name, eff, func(ctx context.Context, c *clients) (rueidis.RedisMessage, error) {
		return sc.lua.Exec(ctx, c.primary, keys, args).ToMessage()
	})
}
