package redis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

// A Batch is one command for each of several items, sent in one round trip for each shard. Items are known by their index.
type Batch struct {
	// Name labels metrics.
	Name string
	// Effect is that of every command.
	Effect Effect
	// Tracked sends the commands over the tracked connections, so that the answers may be kept in the near cache.
	Tracked bool
	// Command returns the command of an item.
	Command func(b rueidis.Builder, i int) rueidis.Completed
	// Read takes the answer of an item. Its error, or that of the answer, makes the item fail.
	Read func(i int, answer rueidis.RedisResult) error
	// Fail takes the classified error of an item that has failed.
	Fail func(i int, err error)
}

// RunBatch sends the commands of the items. It returns an error, and tells Fail nothing, if the round trip failed; and one
// if every item failed and the first failure may be retried.
func (c *Client) RunBatch(ctx context.Context, items []int, b Batch) error {
	if len(items) == 0 {
		return nil
	}
	begin := time.Now()
	results, err := RoundTrip(ctx, c, b.Name, b.Effect, func(ctx context.Context, conns *Conns) ([]rueidis.RedisResult, error) {
		client := conns.Primary
		if b.Tracked {
			client = conns.Tracked
		}
		commands := make([]rueidis.Completed, len(items))
		for n, i := range items {
			commands[n] = b.Command(client.B(), i)
		}
		return client.DoMulti(ctx, commands...), nil
	})
	if err != nil {
		return err
	}
	var first error
	failed := 0
	for n, r := range results {
		err := b.Read(items[n], r)
		if err == nil {
			continue
		}
		failed++
		c.notice(c.conns.Load(), err, b.Effect, begin)
		err = classify(ctx, err, b.Effect)
		if first == nil {
			first = err
		}
		b.Fail(items[n], err)
	}
	if ctxErr := ctx.Err(); ctxErr != nil && failed > 0 {
		return ctxErr
	}
	if failed == len(items) && Retryable(first) {
		return first
	}
	return nil
}

// Items returns the indexes of n items.
func Items(n int) []int {
	items := make([]int, n)
	for i := range items {
		items[i] = i
	}
	return items
}

// A ScriptBatch runs one script for each of several items, in one round trip for each shard.
type ScriptBatch struct {
	// Script is run for each item.
	Script *Script
	// Effect, Tracked, Read and Fail are as in [Batch].
	Effect  Effect
	Tracked bool
	Read    func(i int, answer rueidis.RedisResult) error
	Fail    func(i int, err error)
	// Call returns the keys and arguments of an item.
	Call func(i int) (keys, args []string)
	// Command, if set, may return another command for an item.
	Command func(b rueidis.Builder, i int) (command rueidis.Completed, instead bool)
}

// RunScripts runs the scripts of the items by hash, and again by text on a server that does not know the script yet. Its
// errors are those of RunBatch.
func (c *Client) RunScripts(ctx context.Context, items []int, s ScriptBatch) error {
	s.Script = c.script(s.Script)
	var unknown []int
	run := func(items []int, byHash bool) error {
		return c.RunBatch(ctx, items, Batch{
			Name: s.Script.name, Effect: s.Effect, Tracked: s.Tracked, Fail: s.Fail,
			Command: func(b rueidis.Builder, i int) rueidis.Completed {
				if s.Command != nil {
					if command, instead := s.Command(b, i); instead {
						return command
					}
				}
				keys, args := s.Call(i)
				return s.Script.command(b, byHash, s.Effect == Reads, keys, args)
			},
			Read: func(i int, answer rueidis.RedisResult) error {
				var re *rueidis.RedisError
				if byHash && errors.As(answer.Error(), &re) && re.IsNoScript() {
					unknown = append(unknown, i)
					return nil
				}
				return s.Script.translate(s.Read(i, answer))
			},
		})
	}
	if err := run(items, true); err != nil {
		return err
	}
	return run(unknown, false)
}
