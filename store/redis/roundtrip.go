package redis

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/redis/rueidis"
)

// RoundTrip makes one round trip: run sends commands and returns the answer. It bounds the time by ctx and by
// CommandTimeout, and the concurrency by MaxInFlight ([ErrOverloaded] beyond). An error of run is classified by the effect
// of its commands; the answer nil of Redis is no error, and a panic is [ErrInternal]. Name labels metrics and must be one of a
// small fixed set.
func RoundTrip[T any](ctx context.Context, c *Client, name string, eff Effect, run func(context.Context, *Conns) (T, error)) (T, error) {
	return observed(ctx, c, c.common, name, eff, run)
}

// RoundTripTo is [RoundTrip] for commands to the shard of a key. While another shard hangs, they are not refused because of it.
func RoundTripTo[T any](ctx context.Context, c *Client, key, name string, eff Effect, run func(context.Context, *Conns) (T, error)) (T, error) {
	return observed(ctx, c, c.shareOfKey(key), name, eff, run)
}

// observed makes a round trip and reports it.
func observed[T any](ctx context.Context, c *Client, in share, name string, eff Effect, run func(context.Context, *Conns) (T, error)) (T, error) {
	start := time.Now()
	answer, sent, err := roundTrip(ctx, c, in, eff, run)
	if sent {
		c.observe(ctx, name, start, err)
	}
	return answer, err
}

// roundTrip makes a round trip within a share of those in flight, and reports whether it got so far.
func roundTrip[T any](ctx context.Context, c *Client, in share, eff Effect, run func(context.Context, *Conns) (T, error)) (answer T, sent bool, err error) {
	conns := c.conns.Load()
	if conns == nil {
		return answer, false, Fail(ErrUnavailable, errors.New("not connected yet"))
	}
	if err := ctx.Err(); err != nil {
		return answer, false, err
	}
	if err := in.enter(ctx); err != nil {
		return answer, false, err
	}
	start := time.Now()
	if c.dialer.busy.Load() == 0 {
		answer, err = attached(ctx, c, in, conns, run)
	} else {
		answer, err = detached(ctx, c, in, conns, run)
	}
	if rueidis.IsRedisNil(err) {
		err = nil
	}
	c.notice(conns, err, eff, start)
	return answer, true, classify(ctx, err, eff)
}

// attached runs a round trip in the caller's goroutine and frees its place.
func attached[T any](ctx context.Context, c *Client, in share, conns *Conns, run func(context.Context, *Conns) (T, error)) (answer T, err error) {
	defer in.leave()
	defer c.recovered(&err)
	// The embedded store always answers: on a busy machine it is as late as its caller, which has a deadline of its own.
	if deadline, ok := ctx.Deadline(); c.options.Mode != Embedded && (!ok || time.Until(deadline) > c.options.CommandTimeout) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.options.CommandTimeout)
		defer cancel()
	}
	return run(ctx, conns)
}

// recovered, deferred, turns a panic into an error and logs its stack. rueidis panics where a command is built wrongly, such as
// one with keys of several slots, and in a goroutine that no handler waits for a panic would end the process. The value is
// logged only where it cannot hold a key.
func (c *Client) recovered(err *error) {
	value := recover()
	if value == nil {
		return
	}
	text := "not logged, for it may hold data"
	if known, ok := value.(runtime.Error); ok {
		text = known.Error()
	}
	c.options.Logger.Error("panic in a round trip to redis", "panic", text, "stack", string(debug.Stack()))
	*err = Fail(ErrInternal, errors.New("panic in a round trip"))
}

// detached runs a round trip in a goroutine of its own and returns when ctx ends, whether or not the round trip has. It is
// used while rueidis dials: callers block inside rueidis on the goroutine that dials, which ignores their deadlines.
func detached[T any](ctx context.Context, c *Client, in share, conns *Conns, run func(context.Context, *Conns) (T, error)) (none T, err error) {
	type result struct {
		answer T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := attached(ctx, c, in, conns, run)
		done <- result{answer, err}
	}()
	timeout := time.NewTimer(c.options.CommandTimeout)
	defer timeout.Stop()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-timeout.C:
		return none, errNoAnswer
	}
}
