package cache_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// movingOps are calls about one key, which may be leased under a token.
var movingOps = []struct {
	name string
	do   func(t *testing.T, s *store.Store, namespace, key, token string) error
}{
	{"get", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, err := s.Cache.Get(t.Context(), namespace, key, false)
		return err
	}},
	{"get near", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, err := s.Cache.Get(t.Context(), namespace, key, true)
		return err
	}},
	{"batch get", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		found, err := s.Cache.BatchGet(t.Context(), namespace, []string{key}, false)
		if err == nil {
			err = found[0].Err
		}
		return err
	}},
	{"set", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, _, err := s.Cache.Set(t.Context(), namespace, key, tagged("new", "tag"), cache.Condition{})
		return err
	}},
	{"short set", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, _, err := s.Cache.Set(t.Context(), namespace, key, cache.Write{Value: []byte("new"), Fresh: time.Minute}, cache.Condition{})
		return err
	}},
	{"set if present", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, _, err := s.Cache.Set(t.Context(), namespace, key, tagged("new", "tag"), cache.Condition{Kind: cache.IfPresent})
		return err
	}},
	{"set if absent", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, _, err := s.Cache.Set(t.Context(), namespace, key, tagged("new", "tag"), cache.Condition{Kind: cache.IfAbsent})
		return err
	}},
	{"batch set", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		stored, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: key, Write: cache.Write{Value: []byte("new"), Fresh: time.Minute}}})
		if err == nil {
			err = stored[0].Err
		}
		return err
	}},
	{"delete", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, _, err := s.Cache.Delete(t.Context(), namespace, key, nil)
		return err
	}},
	{"batch delete", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		deleted, err := s.Cache.BatchDelete(t.Context(), namespace, []string{key})
		if err == nil {
			err = deleted[0].Err
		}
		return err
	}},
	{"touch", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, _, err := s.Cache.Touch(t.Context(), namespace, key, 2*time.Hour, cache.TouchOverwrite)
		return err
	}},
	{"increment", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, err := s.Cache.Increment(t.Context(), namespace, key, cache.Increment{Delta: 1})
		if errors.Is(err, redis.ErrNotCounter) {
			return nil
		}
		return err
	}},
	{"get or lease", func(t *testing.T, s *store.Store, namespace, key, _ string) error {
		_, err := s.Cache.GetOrLease(t.Context(), namespace, key, cache.LeaseOptions{TTL: time.Minute, Primary: true})
		return err
	}},
	{"fill", func(t *testing.T, s *store.Store, namespace, key, token string) error {
		_, _, err := s.Cache.Fill(t.Context(), namespace, key, token, tagged("new", "tag"))
		return err
	}},
	{"release", func(t *testing.T, s *store.Store, namespace, key, token string) error {
		_, err := s.Cache.ReleaseLease(t.Context(), namespace, key, token, 0)
		return err
	}},
}

// TestMovingSlot: while a slot is moved, at every step of it, a call either does all it should or fails as unavailable and does
// nothing. Afterwards all calls work.
func TestMovingSlot(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{
		Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20},
		Cache: cache.Options{PlainNamespace: "plain"},
	})
	type kept struct{ entry, lease any }
	for _, there := range []string{"nothing", "entry", "lease", "entry and lease"} {
		for _, stage := range []string{"begun", "entry moved", "lease moved", "all moved"} {
			for _, space := range []string{storetest.NewNamespace(), "plain"} {
				var entries, leases []string
				tokens := make(map[string]string)
				before := make(map[string]kept)
				state := func(key string) kept {
					return kept{storetest.Command(t, s, "GET", s.Cache.RedisKey(space, key)), storetest.Command(t, s, "GET", s.Cache.LeaseKey(space, key))}
				}
				// The keys of all calls are in one slot: what follows the brace is not part of the hash tag.
				keyOf := func(op string) string { return "{" + there + stage + "}" + op }
				if space != "plain" {
					keyOf = func(op string) string { return "key}" + op }
				}
				for _, op := range movingOps {
					key := keyOf(op.name)
					entries, leases = append(entries, s.Cache.RedisKey(space, key)), append(leases, s.Cache.LeaseKey(space, key))
					if there == "entry" || there == "entry and lease" {
						storetest.Set(t, s, space, key, tagged("old", "tag"))
					}
					if there == "lease" || there == "entry and lease" {
						tokens[key] = lease(t, s, space, key, cache.LeaseOptions{TTL: time.Minute, Primary: true, MaxAge: time.Nanosecond})
					}
					before[key] = state(key)
				}
				slot := cluster.Slot(t, entries[0])
				to := cluster.Another(t, slot)
				cluster.BeginMove(t, slot, to)
				switch stage {
				case "entry moved":
					cluster.MoveKeys(t, slot, to, entries...)
				case "lease moved":
					cluster.MoveKeys(t, slot, to, leases...)
				case "all moved":
					cluster.MoveKeys(t, slot, to)
				}
				failed := make(map[string]error)
				for _, op := range movingOps {
					key := keyOf(op.name)
					err := op.do(t, s, space, key, tokens[key])
					failed[key] = err
					if err != nil && (!errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err)) {
						t.Errorf("%s, %s, %s: %s: error %v, want none or %v, retryable: %s", space, there, stage, op.name, err, redis.ErrUnavailable, redis.Cause(err))
					}
				}
				cluster.MoveKeys(t, slot, to)
				cluster.EndMove(t, slot, to)
				for _, op := range movingOps {
					key := keyOf(op.name)
					if after := state(key); failed[key] != nil && before[key] != after {
						t.Errorf("%s, %s, %s: %s failed with %v and changed %q to %q, want it unchanged", space, there, stage, op.name, failed[key], before[key], after)
					}
					if err := op.do(t, s, space, key, tokens[key]); err != nil {
						t.Errorf("%s, %s, %s: %s after the move: error %v, want none: %s", space, there, stage, op.name, err, redis.Cause(err))
					}
				}
			}
		}
	}
}

// TestMovingSlotOfInvalidations: while the slot of a tag, of a namespace or of what is kept of them is moved, an invalidation
// works or fails as unavailable, and one that was acknowledged is seen at the primary at every step.
func TestMovingSlotOfInvalidations(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	o := store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}}
	s, other := storetest.Open(t, o), storetest.Open(t, o)
	for _, way := range []string{"tag", "namespace", "memory"} {
		for _, invalidatedBefore := range []bool{false, true} {
			for _, moved := range []bool{false, true} {
				namespace := storetest.NewNamespace()
				key := map[string]string{"tag": cache.TagKey(namespace, "tag"), "namespace": cache.ClearKey(namespace), "memory": "ld:tagmemory"}[way]
				invalidate := func(s *store.Store) error {
					if way == "namespace" {
						return s.Cache.ClearNamespace(t.Context(), namespace, cache.InvalidateDelete)
					}
					return s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateDelete)
				}
				name := fmt.Sprintf("%s, invalidated before: %v, moved: %v", way, invalidatedBefore, moved)
				if invalidatedBefore {
					if err := invalidate(s); err != nil {
						t.Fatalf("%s: error %v, want none: %s", name, err, redis.Cause(err))
					}
				}
				for _, k := range []string{"get", "set if absent", "touch", "late"} {
					storetest.Set(t, s, namespace, k, tagged("old", "tag"))
				}
				token := lease(t, other, namespace, "fill", tenSeconds)
				slot := cluster.Slot(t, key)
				to := cluster.Another(t, slot)
				cluster.BeginMove(t, slot, to)
				if moved {
					cluster.MoveKeys(t, slot, to)
				}
				check := func(what string, err error) bool {
					t.Helper()
					if err != nil && (!errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err)) {
						t.Errorf("%s: %s: error %v, want none or %v, retryable: %s", name, what, err, redis.ErrUnavailable, redis.Cause(err))
					}
					return err == nil
				}
				if check("invalidate", invalidate(s)) {
					f, err := other.Cache.Get(t.Context(), namespace, "get", false)
					if check("get", err) && f.Entry != nil {
						t.Errorf("%s: Get = %+v, want nothing", name, f)
					}
					stored, _, err := other.Cache.Set(t.Context(), namespace, "set if absent", tagged("new", "tag"), cache.Condition{Kind: cache.IfAbsent})
					if check("set if absent", err) && !stored {
						t.Errorf("%s: Set if absent = not stored, want stored", name)
					}
					found, _, err := other.Cache.Touch(t.Context(), namespace, "touch", time.Hour, cache.TouchOverwrite)
					if check("touch", err) && found {
						t.Errorf("%s: Touch = found, want nothing", name)
					}
					outcome, _, err := other.Cache.Fill(t.Context(), namespace, "fill", token, tagged("old", "tag"))
					if check("fill", err) && outcome != cache.Invalidated {
						t.Errorf("%s: Fill = %v, want %v", name, outcome, cache.Invalidated)
					}
				} else {
					t.Logf("%s: unavailable", name)
				}
				cluster.MoveKeys(t, slot, to)
				cluster.EndMove(t, slot, to)
				if err := invalidate(s); err != nil {
					t.Errorf("%s, after the move: error %v, want none: %s", name, err, redis.Cause(err))
				}
				if f := storetest.Get(t, other, namespace, "late", false); f.Entry != nil {
					t.Errorf("%s, after the move: Get = %+v, want nothing", name, f)
				}
			}
		}
	}
}
