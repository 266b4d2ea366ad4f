package session

import (
	"context"
	"errors"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// maxAsks bounds how often a script may ask for further keys.
const maxAsks = 4

// missing returns the keys that a script has asked for instead of answering: keys that it has learned of from a record and has
// not found. It must be run again with them among its keys. In a cluster they may be on another node, as their slot moves;
// Redis tells, but only of the keys that a script declares. Elsewhere they do not exist. See elsewhere in common.lua.
func missing(m rueidis.RedisMessage) (keys []string, asked bool) {
	if !m.IsArray() {
		return nil, false
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) < 2 || !parts[0].IsString() {
		return nil, false
	}
	if first, err := parts[0].ToString(); err != nil || first != "LARDER_MISSING" {
		return nil, false
	}
	keys, err = m.AsStrSlice()
	return keys[min(1, len(keys)):], err == nil
}

// run runs a script on the primary, in one round trip unless it asks for further keys.
func (s *Sessions) run(ctx context.Context, script *redis.Script, eff redis.Effect, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return ask(keys, func(keys []string) (rueidis.RedisMessage, error) { return s.redis.Run(ctx, script, eff, keys, args...) })
}

// runRead is run for a script that only reads.
func (s *Sessions) runRead(ctx context.Context, script *redis.Script, tracked bool, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return ask(keys, func(keys []string) (rueidis.RedisMessage, error) {
		return s.redis.RunRead(ctx, script, tracked, keys, args...)
	})
}

// runBulk is runRead over the connections for large answers.
func (s *Sessions) runBulk(ctx context.Context, script *redis.Script, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return ask(keys, func(keys []string) (rueidis.RedisMessage, error) { return s.redis.RunBulk(ctx, script, keys, args...) })
}

func ask(keys []string, run func(keys []string) (rueidis.RedisMessage, error)) (m rueidis.RedisMessage, err error) {
	for range maxAsks {
		if m, err = run(keys); err != nil {
			return m, err
		}
		more, asked := missing(m)
		if !asked {
			return m, nil
		}
		keys = append(keys[:len(keys):len(keys)], more...)
	}
	return m, redis.Fail(redis.ErrUnavailable, errors.New("the script kept asking for keys"))
}
