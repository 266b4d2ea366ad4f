package redis

import (
	"context"
	"errors"
	"slices"
	"sync"
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
	// Bulk sends the commands over the connections for large answers.
	Bulk bool
	// Command returns the command of an item.
	Command func(b rueidis.Builder, i int) rueidis.Completed
	// Read takes the answer of an item. Its error, or that of the answer, makes the item fail.
	Read func(i int, answer rueidis.RedisResult) error
	// Fail takes the classified error of an item that has failed.
	Fail func(i int, err error)
}

// RunBatch sends the commands of the items, those to each shard by themselves, so that a shard that hangs or is overloaded fails
// its own items alone. It returns an error, and tells Fail nothing, if every round trip failed; and one if every item failed and
// the first failure may be retried.
func (c *Client) RunBatch(ctx context.Context, items []int, b Batch) error {
	if len(items) == 0 {
		return nil
	}
	conns := c.conns.Load()
	if conns == nil {
		return Fail(ErrUnavailable, errors.New("not connected yet"))
	}
	begin := time.Now()
	commands, err := c.build(conns, items, b)
	if err != nil {
		return err
	}
	answers := c.send(ctx, b, commands)
	if !slices.ContainsFunc(answers, func(a shardAnswer) bool { return a.err == nil }) {
		err = answers[0].err
	}
	if slices.ContainsFunc(answers, func(a shardAnswer) bool { return a.sent }) {
		c.observe(ctx, b.Name, begin, err)
	}
	if err != nil {
		return err
	}
	var first error
	failed := 0
	for _, a := range answers {
		for n, at := range a.commands {
			err := a.err
			if err == nil {
				err = b.Read(items[at], a.results[n])
			}
			if err == nil {
				continue
			}
			failed++
			if a.err == nil {
				c.notice(conns, err, b.Effect, begin)
			}
			err = classify(ctx, err, b.Effect)
			if first == nil {
				first = err
			}
			b.Fail(items[at], err)
		}
	}
	if ctxErr := ctx.Err(); ctxErr != nil && failed > 0 {
		return ctxErr
	}
	if failed == len(items) && Retryable(first) {
		return first
	}
	return nil
}

// client returns the connections that the batch goes over.
func (b *Batch) client(conns *Conns) rueidis.Client {
	switch {
	case b.Bulk:
		return conns.Bulk
	case b.Tracked:
		return conns.Tracked
	}
	return conns.Primary
}

// build builds the commands of the items.
func (c *Client) build(conns *Conns, items []int, b Batch) (commands []rueidis.Completed, err error) {
	defer c.recovered(&err)
	commands = make([]rueidis.Completed, len(items))
	for n, i := range items {
		commands[n] = b.Command(b.client(conns).B(), i)
	}
	return commands, nil
}

// shardAnswer is what one shard has answered to the commands with the given indexes.
type shardAnswer struct {
	commands []int
	results  []rueidis.RedisResult
	sent     bool
	err      error
}

// send sends the commands to each shard at the same time.
func (c *Client) send(ctx context.Context, b Batch, commands []rueidis.Completed) []shardAnswer {
	groups := c.byShare(commands)
	answers := make([]shardAnswer, 0, len(groups))
	for _, at := range groups {
		answers = append(answers, shardAnswer{commands: at})
	}
	var sent sync.WaitGroup
	for n := range answers {
		a := &answers[n]
		own := make([]rueidis.Completed, len(a.commands))
		for m, at := range a.commands {
			own[m] = commands[at]
		}
		run := func() {
			in := c.shareOf(own[0].Slot())
			a.results, a.sent, a.err = roundTrip(ctx, c, in, b.Effect, func(ctx context.Context, conns *Conns) ([]rueidis.RedisResult, error) {
				return b.client(conns).DoMulti(ctx, own...), nil
			})
		}
		if n == len(answers)-1 { // the last one in this goroutine, which is the only one outside a cluster
			run()
		} else {
			sent.Go(run)
		}
	}
	sent.Wait()
	return answers
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
