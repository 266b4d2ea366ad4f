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

// trip makes one round trip: run sends commands, and the error it returns is classified by eff. Name is for figures.
func (s *Store) trip(ctx context.Context, name string, eff effect, run func(context.Context, *clients) error) error {
	c := s.clients.Load()
	if c == nil {
		return &opError{kind: ErrUnavailable, cause: errors.New("not connected yet")}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	tripCtx, cancel := context.WithTimeout(ctx, s.options.CommandTimeout)
	defer cancel()
	start := time.Now()
	err := run(tripCtx, c)
	if rueidis.IsRedisNil(err) {
		err = nil
	}
	err = classify(ctx, err, eff)
	s.observe(ctx, name, start, err)
	return err
}

// ask sends one command to the primary and returns its answer, which may be nil.
func (s *Store) ask(ctx context.Context, name string, eff effect, build func(rueidis.Builder) rueidis.Completed) (m rueidis.RedisMessage, err error) {
	err = s.trip(ctx, name, eff, func(ctx context.Context, c *clients) error {
		var err error
		m, err = c.primary.Do(ctx, build(c.primary.B())).ToMessage()
		return err
	})
	return m, err
}

// script runs one script on the primary.
func (s *Store) script(ctx context.Context, sc *script, eff effect, keys []string, args ...string) (m rueidis.RedisMessage, err error) {
	err = s.trip(ctx, sc.name, eff, func(ctx context.Context, c *clients) error {
		var err error
		m, err = sc.lua.Exec(ctx, c.primary, keys, args).ToMessage()
		return err
	})
	return m, err
}
