package cache_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// holder acquires a lock and returns the fence of its holder.
func holder(t testing.TB, s *store.Store, ns, name string) (*lock.Grant, *cache.Fence) {
	t.Helper()
	g, _, err := s.Locks.Acquire(t.Context(), ns, name, lock.Request{TTL: time.Minute})
	if err != nil || g == nil {
		t.Fatalf("Acquire = %v, %v, want a grant", g, err)
	}
	return g, &cache.Fence{Lock: name, Token: g.Fence}
}

// stale returns the fences of a holder that has lost its lock and of the next one, which has written every key.
func stale(t testing.TB, s *store.Store, ns, name string, keys ...string) (old, now *cache.Fence) {
	t.Helper()
	_, old = holder(t, s, ns, name)
	if _, err := s.Locks.ForceRelease(t.Context(), ns, name, 0); err != nil {
		t.Fatalf("ForceRelease = %v, want nil", err)
	}
	_, now = holder(t, s, ns, name)
	for _, key := range keys {
		storetest.Set(t, s, ns, key, cache.Write{Value: []byte("new"), Fence: now})
	}
	return old, now
}

func TestAStaleHolderIsFenced(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		ctx := t.Context()
		other := storetest.Replicas(t, s)[1]
		old, now := stale(t, s, ns, "lock", "key", "deleted", "filled")
		write := cache.Write{Value: []byte("old"), Fence: old, Fresh: time.Hour}
		for _, cond := range []cache.Condition{{}, {Kind: cache.IfPresent}, {Kind: cache.IfAbsent}} {
			if stored, etag, err := other.Cache.Set(ctx, ns, "key", write, cond); !errors.Is(err, cache.ErrFenced) || stored || etag != "" {
				t.Errorf("Set %q of a stale holder = %v, %q, %v, want %v", cond.Kind, stored, etag, err, cache.ErrFenced)
			}
		}
		if deleted, _, err := other.Cache.DeleteFenced(ctx, ns, "key", nil, old); !errors.Is(err, cache.ErrFenced) || deleted {
			t.Errorf("Delete of a stale holder = %v, %v, want %v", deleted, err, cache.ErrFenced)
		}
		if f := storetest.Get(t, s, ns, "key", false); f.Entry == nil || string(f.Value) != "new" {
			t.Errorf("Get = %+v, want what the holder has written", f.Entry)
		}
		// The fence outlives the entry.
		if deleted, _, err := s.Cache.DeleteFenced(ctx, ns, "deleted", nil, now); err != nil || !deleted {
			t.Errorf("Delete of the holder = %v, %v, want deleted", deleted, err)
		}
		if _, _, err := other.Cache.Set(ctx, ns, "deleted", write, cache.Condition{}); !errors.Is(err, cache.ErrFenced) {
			t.Errorf("Set of a stale holder after a Delete = %v, want %v", err, cache.ErrFenced)
		}
		// A lease gives a stale holder no right.
		if _, _, err := s.Cache.Delete(ctx, ns, "filled", nil); err != nil {
			t.Fatalf("Delete = %v, want nil", err)
		}
		token := lease(t, s, ns, "filled", tenSeconds)
		if outcome, etag, err := other.Cache.Fill(ctx, ns, "filled", token, write); !errors.Is(err, cache.ErrFenced) || etag != "" {
			t.Errorf("Fill of a stale holder = %v, %q, %v, want %v", outcome, etag, err, cache.ErrFenced)
		}
		token = lease(t, s, ns, "filled", tenSeconds) // the other one has ended
		if outcome, _, err := s.Cache.Fill(ctx, ns, "filled", token, cache.Write{Value: []byte("v"), Fence: now}); err != nil || outcome != cache.Filled {
			t.Errorf("Fill of the holder = %v, %v, want filled", outcome, err)
		}
		// A write under another lock, or without one, is none of this lock's business.
		_, unrelated := holder(t, s, ns, "unrelated")
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v"), Fence: unrelated})
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v")})
		if _, _, err := s.Cache.Set(ctx, ns, "key", write, cache.Condition{}); !errors.Is(err, cache.ErrFenced) {
			t.Errorf("Set of a stale holder after other writes = %v, want %v", err, cache.ErrFenced)
		}
	})
}

// A write whose condition does not hold has been seen all the same: its holder acts on what it was told.
func TestAConditionThatDoesNotHoldStillFences(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		old, now := stale(t, s, ns, "lock")
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v")})
		stored, _, err := s.Cache.Set(t.Context(), ns, "key", cache.Write{Fence: now}, cache.Condition{Kind: cache.IfAbsent})
		if err != nil || stored {
			t.Errorf("Set if absent = %v, %v, want not stored", stored, err)
		}
		if _, _, err := s.Cache.DeleteFenced(t.Context(), ns, "key", nil, old); !errors.Is(err, cache.ErrFenced) {
			t.Errorf("Delete of a stale holder = %v, want %v", err, cache.ErrFenced)
		}
	})
}

// An entry forgets fences, and then LockService decides about old ones.
func TestAForgottenFence(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		ctx := t.Context()
		_, now := holder(t, s, ns, "lock")
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v"), Fence: now})
		fences := "ld:z:{" + ns + ":key}"
		if ttl := storetest.Command(t, s, "PTTL", fences).(int64); ttl < (24*time.Hour-time.Minute).Milliseconds() || ttl > (24*time.Hour+time.Minute).Milliseconds() {
			t.Errorf("fences are kept for %v, want about 24 h", time.Duration(ttl)*time.Millisecond)
		}
		storetest.Command(t, s, "DEL", fences)
		long := &cache.Fence{Lock: "lock", Token: time.Now().Add(-25 * time.Hour).UnixMicro()}
		if _, _, err := s.Cache.Set(ctx, ns, "key", cache.Write{Fence: long}, cache.Condition{}); !errors.Is(err, cache.ErrFenced) {
			t.Errorf("Set of a holder of yesterday = %v, want %v", err, cache.ErrFenced)
		}
		// A holder that has had the lock for so long is not stale.
		storetest.Command(t, s, "SET", "ld:f:{"+ns+":leader}", "1")
		g, leader := holder(t, s, ns, "leader")
		record := storetest.Command(t, s, "HGETALL", "ld:a:{"+ns+":leader}")
		for id, text := range record.(map[string]any) {
			old := fmt.Sprint(long.Token)
			storetest.Command(t, s, "HSET", "ld:a:{"+ns+":leader}", id, text.(string)[:32]+old+text.(string)[32+len(fmt.Sprint(g.Fence)):])
		}
		leader.Token = long.Token
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v"), Fence: leader})
		if deleted, _, err := s.Cache.DeleteFenced(ctx, ns, "key", nil, leader); err != nil || !deleted {
			t.Errorf("Delete of a holder of yesterday that still has the lock = %v, %v, want deleted", deleted, err)
		}
	})
}

func TestAnEntryKeepsTheFencesOfFewLocks(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		var last *cache.Fence
		for i := range 16 {
			_, last = holder(t, s, ns, fmt.Sprint("lock-", i))
			storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v"), Fence: last})
		}
		_, more := holder(t, s, ns, "one-more")
		if _, _, err := s.Cache.Set(t.Context(), ns, "key", cache.Write{Fence: more}, cache.Condition{}); !errors.Is(err, cache.ErrTooManyFences) {
			t.Errorf("Set with one lock too many = %v, want %v: %s", err, cache.ErrTooManyFences, storetest.Cause(err))
		}
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v"), Fence: last})
		// One that is older than what is kept goes.
		storetest.Command(t, s, "HSET", "ld:z:{"+ns+":key}", "lock-3", fmt.Sprint(time.Now().Add(-25*time.Hour).UnixMicro()))
		storetest.Set(t, s, ns, "key", cache.Write{Value: []byte("v"), Fence: more})
	})
}

// Deleting under a lock works when Redis has no memory left, and fences from then on.
func TestFencedDeleteAtFullMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	old, now := stale(t, s, "n", "lock")
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("v")})
	server.Do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if deleted, _, err := s.Cache.DeleteFenced(t.Context(), "n", "key", nil, now); err != nil || !deleted {
		t.Errorf("Delete = %v, %v, want deleted", deleted, err)
	}
	if _, _, err := s.Cache.DeleteFenced(t.Context(), "n", "key", nil, old); !errors.Is(err, cache.ErrFenced) {
		t.Errorf("Delete of a stale holder = %v, want %v", err, cache.ErrFenced)
	}
	if _, _, err := s.Cache.Set(t.Context(), "n", "key", cache.Write{Fence: now}, cache.Condition{}); !errors.Is(err, redis.ErrOverloaded) {
		t.Errorf("Set = %v, want %v", err, redis.ErrOverloaded)
	}
}

// In the plain namespace, too, the fences are in the slot of their entry.
func TestFencesOfPlainKeys(t *testing.T) {
	t.Parallel()
	o := storetest.Options(t, redis.Cluster)
	o.Cache.PlainNamespace = "plain"
	s := storetest.Open(t, o)
	for _, key := range []string{"user:1", "a}b", "x{y}z", "{}e"} {
		old, now := stale(t, s, "plain", "fences-"+key, "fences-"+key)
		if _, _, err := s.Cache.DeleteFenced(t.Context(), "plain", "fences-"+key, nil, old); !errors.Is(err, cache.ErrFenced) {
			t.Errorf("Delete of %q by a stale holder = %v, want %v", key, err, cache.ErrFenced)
		}
		if _, _, err := s.Cache.DeleteFenced(t.Context(), "plain", "fences-"+key, nil, now); err != nil {
			t.Errorf("Delete of %q = %v, want nil", key, err)
		}
	}
}
