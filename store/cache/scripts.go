package cache

import (
	"context"
	"embed"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

//go:embed *.lua
var files embed.FS

// The text of a script is common.lua, the functions that it needs and the script's own file, and that of a short one its own file
// alone.
var (
	setScript        = script("set", "fence")
	overwriteScript  = short("overwrite")
	deleteScript     = script("delete", "fence")
	removeScript     = short("remove")
	touchScript      = script("touch")
	incrementScript  = script("increment")
	invalidateScript = freeing("invalidate")
	leaseScript      = script("lease")
	fillScript       = script("fill", "fence")
	releaseScript    = freeing("release")
	rememberScript   = script("remember")
)

func script(name string, functions ...string) *redis.Script {
	text := file("common")
	for _, f := range functions {
		text += file(f)
	}
	return redis.NewScript("cache_"+name, text+file(name), map[string]error{"LARDER_TAGGED": ErrTagged, "LARDER_TOO_MANY_FENCES": ErrTooManyFences})
}

// freeing returns a script that Redis runs when its memory is full. Those that only remove keys need not ask for it.
func freeing(name string) *redis.Script {
	return redis.NewFreeingScript("cache_"+name, file("common")+file(name), nil)
}

func short(name string) *redis.Script {
	return redis.NewScript("cache_"+name, file(name), nil)
}

func file(name string) string {
	b, err := files.ReadFile(name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}

// runBeside runs a script and reads the invalidations at Redis keys, in one round trip for each shard.
func (c *Cache) runBeside(ctx context.Context, sc *redis.Script, eff redis.Effect, keys, args, invalidations []string) (answer rueidis.RedisMessage, found []invalidation, err error) {
	found = make([]invalidation, len(invalidations))
	var failed, unread error
	err = c.redis.RunScripts(ctx, redis.Items(1+len(invalidations)), redis.ScriptBatch{
		Script: sc, Effect: eff,
		Call: func(int) (k, a []string) { return keys, args },
		Command: func(b rueidis.Builder, i int) (rueidis.Completed, bool) {
			if i == 0 {
				return rueidis.Completed{}, false
			}
			return b.Get().Key(invalidations[i-1]).Build(), true
		},
		Read: func(i int, r rueidis.RedisResult) (err error) {
			if i == 0 {
				answer, err = r.ToMessage()
			} else {
				found[i-1], err = parseInvalidation(r)
			}
			return err
		},
		Fail: func(i int, err error) {
			if i == 0 {
				failed = err
			} else {
				unread = err
			}
		},
	})
	switch {
	case err != nil:
		return answer, nil, err
	case unread != nil:
		return answer, nil, failed
	}
	return answer, found, failed
}
