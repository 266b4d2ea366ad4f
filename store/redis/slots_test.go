package redis_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestErrorsWhileASlotMoves: whatever a cluster answers about a slot that is half moved or owned by another node means that
// the call may be repeated later, and never that Larder is at fault.
func TestErrorsWhileASlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}})
	undeclared := redis.NewScript("test", "return redis.call('GET', KEYS[1] .. ':beside')", nil)
	reads := redis.NewReadScript("test", "return redis.call('GET', KEYS[1] .. ':beside')")
	twoKeys := redis.NewScript("test", "return redis.call('MGET', KEYS[1], KEYS[2])", nil)
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	redisKey := storetest.EntryKey("n", "key")
	slot := cluster.Slot(t, redisKey)
	refused := 0
	check := func(when string) {
		t.Helper()
		_, err1 := s.Redis.Run(t.Context(), undeclared, redis.Reads, []string{redisKey})
		_, err2 := s.Redis.RunRead(t.Context(), reads, true, []string{redisKey})
		_, err3 := s.Redis.Run(t.Context(), twoKeys, redis.Reads, []string{redisKey, redisKey + ":beside"})
		_, _, err4 := s.Cache.Touch(t.Context(), "n", "key", 10*time.Second, cache.TouchOverwrite)
		err5 := s.Redis.RunScripts(t.Context(), redis.Items(2), redis.ScriptBatch{
			Script: undeclared, Effect: redis.Reads, Fail: func(int, error) {},
			Call: func(int) (keys, args []string) { return []string{redisKey}, nil },
			Read: func(_ int, answer rueidis.RedisResult) error {
				if err := answer.Error(); !rueidis.IsRedisNil(err) {
					return err
				}
				return nil
			},
		})
		_, err6 := s.Cache.Get(t.Context(), "n", "key", false)
		for i, err := range []error{err1, err2, err3, err4, err5, err6} {
			if err == nil {
				continue
			}
			refused++
			if !redis.Moving(err) {
				t.Errorf("%s: Moving of the error of call %d (%s) = false, want true", when, i+1, storetest.Cause(err))
			}
			if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
				t.Errorf("%s: call %d = %v (%s), retryable %v, want %v, retryable", when, i+1, err, storetest.Cause(err), redis.Retryable(err), redis.ErrUnavailable)
			}
		}
	}
	check("before")
	if refused != 0 {
		t.Errorf("%d calls were refused before the slot moves, want none", refused)
	}
	for range 2 {
		to := cluster.Another(t, slot)
		cluster.BeginMove(t, slot, to)
		check("while no key has moved")
		cluster.MoveKeys(t, slot, to)
		check("when the keys have moved")
		cluster.EndMove(t, slot, to)
		check("when the slot has moved")
	}
	if refused == 0 {
		t.Error("no call was refused while the slot moved, want some")
	}
	after := refused
	check("afterwards")
	if refused != after {
		t.Errorf("%d calls were refused afterwards, want none", refused-after)
	}
}
