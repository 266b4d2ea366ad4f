package cache_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// situations are what a conditional write can meet.
var situations = []struct {
	name   string
	absent bool
	make   func(t *testing.T, s *store.Store, namespace, key string)
}{
	{"absent", true, func(*testing.T, *store.Store, string, string) {}},
	{"deleted", true, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		storetest.Set(t, s, namespace, key, cache.Write{Value: []byte("old")})
		if _, _, err := s.Cache.Delete(t.Context(), namespace, key, nil); err != nil {
			t.Fatalf("Delete: error %v, want none", err)
		}
	}},
	{"fresh", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		storetest.Set(t, s, namespace, key, cache.Write{Value: []byte("old"), Fresh: time.Hour, Tags: []string{"tag"}})
	}},
	{"stale", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		storetest.Set(t, s, namespace, key, cache.Write{Value: []byte("old"), Fresh: time.Microsecond, Stale: time.Hour})
		storetest.Eventually(t, "the entry is stale", func() bool { return !s.Redis.Now().Before(storetest.Get(t, s, namespace, key, false).Soft) })
	}},
	{"negative", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		storetest.Set(t, s, namespace, key, cache.Write{Negative: true, Fresh: time.Hour})
	}},
	{"plain value", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, key), "old", "PX", "3600000")
	}},
	{"empty plain value", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, key), "")
	}},
	{"counter", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		if _, err := s.Cache.Increment(t.Context(), namespace, key, cache.Increment{Delta: 7}); err != nil {
			t.Fatalf("Increment: error %v, want none", err)
		}
	}},
}

// state is all that Redis knows of a key, in a form that does not change with time.
func state(tb testing.TB, s *store.Store, namespace, key string) [2]any {
	tb.Helper()
	redisKey := s.Cache.RedisKey(namespace, key)
	ends := storetest.Command(tb, s, "PEXPIRETIME", redisKey)
	if ms, _ := ends.(int64); s.Redis.Mode() == redis.Embedded && ms > 0 {
		ends = "some time" // it keeps how much is left, and its answer wavers by milliseconds
	}
	return [2]any{storetest.Command(tb, s, "GET", redisKey), ends}
}

func TestSetObeysItsCondition(t *testing.T) {
	conditions := []struct {
		name string
		kind cache.ConditionKind
		own  bool // with the etag of what is there
		// onAbsent and onPresent are whether it writes.
		onAbsent, onPresent bool
	}{
		{"always", cache.Always, false, true, true},
		{"if absent", cache.IfAbsent, false, true, false},
		{"if present", cache.IfPresent, false, false, true},
		{"if match", cache.IfMatch, true, false, true},
		{"if match other", cache.IfMatch, false, false, false},
		{"if none match", cache.IfNoneMatch, true, true, false},
		{"if none match other", cache.IfNoneMatch, false, true, true},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, situation := range situations {
			for _, condition := range conditions {
				key := situation.name + "/" + condition.name
				situation.make(t, s, namespace, key)
				before := state(t, s, namespace, key)
				etag := cache.ETag{1, 2, 3, 4, 5, 6, 7, 8}
				was := ""
				if e := storetest.Get(t, s, namespace, key, true).Entry; e != nil {
					was = e.ETag.String()
					if condition.own {
						etag = e.ETag
					}
				}
				want := condition.onPresent
				if situation.absent {
					want = condition.onAbsent
				}
				w := cache.Write{Value: []byte("new"), Fresh: time.Minute, Stale: time.Minute}
				stored, got, err := s.Cache.Set(t.Context(), namespace, key, w, cache.Condition{Kind: condition.kind, ETag: etag})
				if err != nil {
					t.Fatalf("%s: Set: error %v, want none: %s", key, err, redis.Cause(err))
				}
				if stored != want {
					t.Errorf("%s: stored = %v, want %v", key, stored, want)
				}
				if !stored {
					if got != was {
						t.Errorf("%s: Set returned etag %q, want that of the entry left, %q", key, got, was)
					}
					if diff := cmp.Diff(before, state(t, s, namespace, key)); diff != "" {
						t.Errorf("%s: Set stored nothing, want the key unchanged (-before +after):\n%s", key, diff)
					}
					continue
				}
				e := storetest.Get(t, s, namespace, key, true).Entry
				if e == nil || string(e.Value) != "new" || e.ETag.String() != got || got == was || e.Negative || e.Tags != nil {
					t.Errorf("%s: the key holds %v, want value new with etag %s, other than %s", key, e, got, was)
				}
				if left := expiry(t, s, namespace, key); !about(left, 2*time.Minute) {
					t.Errorf("%s: PTTL = %v, want about %v", key, left, 2*time.Minute)
				}
			}
		}
	})
}

func TestSetForEverUnderAConditionRemovesTheExpiry(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("old"), Fresh: time.Minute})
		stored, _, err := s.Cache.Set(t.Context(), namespace, "key", cache.Write{Value: []byte("new")}, cache.Condition{Kind: cache.IfPresent})
		if err != nil || !stored {
			t.Fatalf("Set if present = %v, %v, want stored", stored, err)
		}
		if left := expiry(t, s, namespace, "key"); left != noExpiry {
			t.Errorf("PTTL = %v, want %v", left, noExpiry)
		}
	})
}

// TestETagIsNeverReused: a caller that read a version before it was deleted and written again, with the same bytes, must
// not be told that nothing happened in between.
func TestETagIsNeverReused(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		w := cache.Write{Value: []byte("same"), Fresh: time.Minute}
		seen := map[string]bool{}
		for range 200 {
			etag := storetest.Set(t, s, namespace, "key", w)
			if _, ok := cache.ParseETag(etag); !ok || seen[etag] {
				t.Fatalf("Set returned etag %q, want a valid one not seen before", etag)
			}
			seen[etag] = true
		}
		first := storetest.Get(t, s, namespace, "key", false)
		if _, _, err := s.Cache.Delete(t.Context(), namespace, "key", nil); err != nil {
			t.Fatalf("Delete: error %v, want none", err)
		}
		again := storetest.Set(t, s, namespace, "key", w)
		match := cache.Condition{Kind: cache.IfMatch, ETag: first.ETag}
		if stored, etag, err := s.Cache.Set(t.Context(), namespace, "key", w, match); err != nil || stored || etag != again {
			t.Errorf("Set with the etag of the deleted version = %v, %q, %v, want not stored and etag %q", stored, etag, err, again)
		}
		if deleted, etag, err := s.Cache.Delete(t.Context(), namespace, "key", &first.ETag); err != nil || deleted || etag != again {
			t.Errorf("Delete with the etag of the deleted version = %v, %q, %v, want not deleted and etag %q", deleted, etag, err, again)
		}
	})
}

// TestOneConditionalSetWins: of writers that all saw one version, exactly one replaces it.
func TestOneConditionalSetWins(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const writers = 16
		for _, kind := range []cache.ConditionKind{cache.IfAbsent, cache.IfMatch} {
			cond := cache.Condition{Kind: kind}
			if kind == cache.IfMatch {
				cond.ETag = storetest.Get(t, s, namespace, "key", false).ETag
			}
			won := make(chan string, writers)
			for i := range writers {
				go func() {
					stored, etag, err := s.Cache.Set(t.Context(), namespace, "key", cache.Write{Value: fmt.Append(nil, i)}, cond)
					if err != nil {
						t.Errorf("Set: error %v, want none", err)
					}
					if !stored {
						etag = ""
					}
					won <- etag
				}()
			}
			var winners []string
			for range writers {
				if etag := <-won; etag != "" {
					winners = append(winners, etag)
				}
			}
			if len(winners) != 1 || storetest.Get(t, s, namespace, "key", true).ETag.String() != winners[0] {
				t.Errorf("%s: %v have won, want the one whose entry is there", kind, winners)
			}
		}
	})
}
