package cache_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// invalidations are the two ways to make many entries gone at once: every test entry has the tag.
var invalidations = []struct {
	name string
	do   func(t *testing.T, s *store.Store, namespace string, mode cache.InvalidationMode)
}{
	{"tag", func(t *testing.T, s *store.Store, namespace string, mode cache.InvalidationMode) {
		t.Helper()
		if err := s.Cache.InvalidateTags(t.Context(), namespace, []string{"unused", "tag"}, mode); err != nil {
			t.Fatalf("InvalidateTags: error %v, want none: %s", err, redis.Cause(err))
		}
	}},
	{"namespace", func(t *testing.T, s *store.Store, namespace string, mode cache.InvalidationMode) {
		t.Helper()
		if err := s.Cache.ClearNamespace(t.Context(), namespace, mode); err != nil {
			t.Fatalf("ClearNamespace: error %v, want none: %s", err, redis.Cause(err))
		}
	}},
}

func tagged(value string, tags ...string) cache.Write {
	return cache.Write{Value: []byte(value), Fresh: time.Hour, Tags: tags}
}

// TestInvalidate: what becomes of entries, however they are read, and that others are left alone.
func TestInvalidate(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		for _, way := range invalidations {
			for _, mode := range []cache.InvalidationMode{cache.InvalidateDelete, cache.InvalidateStale} {
				for _, held := range []bool{false, true} {
					namespace := storetest.NewNamespace()
					other := storetest.NewNamespace()
					negative := tagged("", "tag")
					negative.Negative = true
					storetest.Set(t, s, namespace, "one", tagged("value", "tag"))
					storetest.Set(t, s, namespace, "many", tagged("value", "a", "tag", "b"))
					storetest.Set(t, s, namespace, "negative", negative)
					storetest.Set(t, s, namespace, "other tag", tagged("value", "tag2"))
					storetest.Set(t, s, namespace, "no tag", tagged("value"))
					storetest.Set(t, s, other, "one", tagged("value", "tag"))
					storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "plain"), "value")
					if _, err := s.Cache.Increment(t.Context(), namespace, "counter", cache.Increment{Delta: 3}); err != nil {
						t.Fatalf("Increment: error %v, want none", err)
					}
					keys := []string{"one", "many", "negative", "other tag", "no tag", "plain", "counter"}
					for range 2 {
						if held {
							if _, err := s.Cache.BatchGet(t.Context(), namespace, keys, true); err != nil {
								t.Fatalf("BatchGet: error %v, want none", err)
							}
						}
					}
					way.do(t, s, namespace, mode)
					for _, read := range reads {
						for _, key := range keys {
							hit := key == "one" || key == "many" || key == "negative" || way.name == "namespace" && (key == "other tag" || key == "no tag")
							gone := hit && (mode == cache.InvalidateDelete || key == "negative")
							f := read.get(t, s, namespace, key)
							if (f.Entry == nil) != gone || f.Stale != (hit && !gone) {
								t.Errorf("%s, %s, %s, held %v: %q is there: %v, stale %v, want %v and %v", way.name, mode, read.name, held, key, f.Entry != nil, f.Stale, !gone, hit && !gone)
							}
						}
						if f := read.get(t, s, other, "one"); f.Entry == nil || f.Stale {
							t.Errorf("%s, %s: the entry of another namespace = %+v, want it fresh", way.name, mode, f)
						}
					}
				}
			}
		}
	})
}

// TestInvalidateIsO1: the same commands whether there are 10 entries or 100,000.
func TestInvalidateIsO1(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 64 << 20}})
	for _, way := range invalidations {
		var seen []map[string]int64
		for _, n := range []int{10, 100_000} {
			namespace := storetest.NewNamespace()
			items := make([]cache.BatchWrite, n)
			for i, key := range storetest.Keys(n) {
				items[i] = cache.BatchWrite{Key: key, Write: tagged("value", "tag")}
			}
			for chunk := range slices.Chunk(items, 5000) {
				if _, err := s.Cache.BatchSet(t.Context(), namespace, chunk); err != nil {
					t.Fatalf("BatchSet: error %v, want none", err)
				}
			}
			way.do(t, s, namespace, cache.InvalidateStale) // teaches Redis the script
			seen = append(seen, storetest.Costs(t, server, func() { way.do(t, s, namespace, cache.InvalidateDelete) }))
			if e := storetest.Get(t, s, namespace, fmt.Sprintf("key-%d", n-1), true).Entry; e != nil {
				t.Errorf("%s: the last of %d entries is there, want it gone", way.name, n)
			}
		}
		if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
			t.Errorf("%s: costs with 10 entries and with 100,000, want the same (-10 +100,000):\n%s", way.name, diff)
		}
		for name, calls := range seen[1] {
			if calls > 4 {
				t.Errorf("%s: %d %s, want at most 4", way.name, calls, name)
			}
		}
	}
}

// TestEntryWrittenAfterwardsIsValid: what this replica writes after it invalidated is there at once, although the times of
// both may be the same and the clocks of shards may differ.
func TestEntryWrittenAfterwardsIsValid(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		writes := map[string]func(key string) error{
			"set": func(key string) error {
				_, _, err := s.Cache.Set(t.Context(), namespace, key, tagged("new", "tag"), cache.Condition{})
				return err
			},
			"set if absent": func(key string) error {
				stored, _, err := s.Cache.Set(t.Context(), namespace, key, tagged("new", "tag"), cache.Condition{Kind: cache.IfAbsent})
				if !stored {
					t.Errorf("Set of %s if absent = not stored, want stored", key)
				}
				return err
			},
			"batch": func(key string) error {
				_, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: key, Write: tagged("new", "tag")}})
				return err
			},
		}
		for round := range 20 {
			for _, way := range invalidations {
				for _, mode := range []cache.InvalidationMode{cache.InvalidateDelete, cache.InvalidateStale} {
					for name, write := range writes {
						if mode == cache.InvalidateStale && name == "set if absent" {
							continue
						}
						key := fmt.Sprintf("%s-%d", name, round%3)
						storetest.Set(t, s, namespace, key, tagged("old", "tag"))
						way.do(t, s, namespace, mode)
						if err := write(key); err != nil {
							t.Fatalf("%s: error %v, want none: %s", name, err, redis.Cause(err))
						}
						for _, read := range reads {
							if f := read.get(t, s, namespace, key); f.Entry == nil || f.Stale || string(f.Value) != "new" {
								t.Fatalf("%s, %s, %s, %s = %+v, want value new, fresh", way.name, mode, name, read.name, f)
							}
						}
					}
				}
			}
		}
	})
}

// TestInvalidateReachesOtherReplicas by the push of the invalidation alone: the entries themselves do not change.
func TestInvalidateReachesOtherReplicas(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := storetest.Options(t, mode)
			o.Redis.NearCacheTTL = time.Hour
			s, other := storetest.Open(t, storetest.Options(t, mode)), storetest.Open(t, o)
			for _, way := range invalidations {
				for _, what := range []cache.InvalidationMode{cache.InvalidateStale, cache.InvalidateDelete} {
					namespace := storetest.NewNamespace()
					storetest.Set(t, s, namespace, "key", tagged("value", "tag"))
					storetest.Eventually(t, "the entry is held", func() bool { return storetest.Get(t, other, namespace, "key", true).Near })
					way.do(t, s, namespace, what)
					began := time.Now()
					// The primary knows at once.
					if f := storetest.Get(t, other, namespace, "key", false); (f.Entry == nil) != (what == cache.InvalidateDelete) || f.Stale != (f.Entry != nil) {
						t.Errorf("%s, %s: the primary returns %+v, want it invalidated", way.name, what, f)
					}
					storetest.Eventually(t, "the other replica knows", func() bool {
						f := storetest.Get(t, other, namespace, "key", true)
						return f.Entry == nil || f.Stale
					})
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("%s, %s: known to the other replica after %v, want at most 5s", way.name, what, took)
					}
					if f := storetest.Get(t, other, namespace, "key", true); what == cache.InvalidateStale && f.Entry == nil {
						t.Errorf("%s: the entry is gone, want it stale", way.name)
					}
				}
			}
		})
	}
}

// TestWritesTakeInvalidatedEntriesForAbsent: every script agrees with the reads, also where it meets an entry whose tags
// the caller has not looked up.
func TestWritesTakeInvalidatedEntriesForAbsent(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		for _, way := range invalidations {
			for _, mode := range []cache.InvalidationMode{cache.InvalidateDelete, cache.InvalidateStale} {
				absent := mode == cache.InvalidateDelete
				// The namespace's invalidation reaches entries with and without tags in different ways.
				tags := [][]string{{"tag", "more"}, {"tag", "more"}}
				if way.name == "namespace" {
					tags = append(tags, nil, nil)
				}
				both := storetest.Replicas(t, s)
				for i, tags := range tags {
					writer, namespace := both[i%2], storetest.NewNamespace()
					etags := make(map[string]cache.ETag)
					for _, key := range []string{"if absent", "if present", "if match", "if none match", "delete", "delete match", "touch", "increment"} {
						etag, ok := cache.ParseETag(storetest.Set(t, s, namespace, key, tagged("7", tags...)))
						if !ok {
							t.Fatalf("ParseETag(%q) failed, want an etag", etag)
						}
						etags[key] = etag
					}
					way.do(t, s, namespace, mode)
					if writer != s { // the push may still be under way, and is not waited for
						storetest.Eventually(t, "the other replica knows", func() bool {
							f := storetest.Get(t, writer, namespace, "touch", true)
							return f.Entry == nil || f.Stale
						})
						writer.Cache.Unhear(namespace, "tag", "more")
					}
					check := func(what string, got, want bool, err error) {
						t.Helper()
						if err != nil || got != want {
							t.Errorf("%s, %s, tags %q, replica %d: %s = %v, %v, want %v", way.name, mode, tags, i%2, what, got, err, want)
						}
					}
					for key, want := range map[string]bool{"if absent": absent, "if present": !absent, "if match": !absent, "if none match": absent} {
						kind := map[string]cache.ConditionKind{
							"if absent": cache.IfAbsent, "if present": cache.IfPresent, "if match": cache.IfMatch, "if none match": cache.IfNoneMatch,
						}[key]
						stored, etag, err := writer.Cache.Set(t.Context(), namespace, key, tagged("new"), cache.Condition{Kind: kind, ETag: etags[key]})
						check(key, stored, want, err)
						if old := etags[key]; !stored && (etag == "") != absent || etag == old.String() && absent {
							t.Errorf("%s, %s: %s returns etag %q, want one of an entry that is there: %v", way.name, mode, key, etag, !absent)
						}
					}
					deleted, etag, err := writer.Cache.Delete(t.Context(), namespace, "delete", nil)
					check("delete", deleted, !absent, err)
					if etag != "" {
						t.Errorf("Delete returns etag %q, want none", etag)
					}
					match := etags["delete match"]
					deleted, _, err = writer.Cache.Delete(t.Context(), namespace, "delete match", &match)
					check("delete match", deleted, !absent, err)
					found, _, err := writer.Cache.Touch(t.Context(), namespace, "touch", 2*time.Hour, cache.TouchOverwrite)
					check("touch", found, !absent, err)
					r, err := writer.Cache.Increment(t.Context(), namespace, "increment", cache.Increment{Delta: 1, Initial: 40})
					if absent && (err != nil || r.Value != 41) || !absent && !errors.Is(err, redis.ErrNotCounter) {
						t.Errorf("%s, %s: Increment = %+v, %v, want 41 if absent, which it is: %v", way.name, mode, r, err, absent)
					}
				}
			}
		}
	})
}

// TestTouchDoesNotReviveTheInvalidated: an entry that was invalidated stays stale.
func TestTouchDoesNotReviveTheInvalidated(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "key", tagged("value", "tag"))
		if err := s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateStale); err != nil {
			t.Fatalf("InvalidateTags: error %v, want none", err)
		}
		if found, _, err := s.Cache.Touch(t.Context(), namespace, "key", 2*time.Hour, cache.TouchExtend); !found || err != nil {
			t.Fatalf("Touch = found %v, %v, want found", found, err)
		}
		if f := storetest.Get(t, s, namespace, "key", true); !f.Stale {
			t.Errorf("Get after Touch = %+v, want it stale", f)
		}
	})
}

// TestInvalidationsAreKept for as long as entries with tags can live, and those of a namespace for ever.
func TestInvalidationsAreKept(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		left := func(key string) time.Duration {
			return time.Duration(storetest.Command(t, s, "PTTL", key).(int64)) * time.Millisecond
		}
		invalidation := cache.TagKey(namespace, "tag")
		if err := s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateDelete); err != nil {
			t.Fatalf("InvalidateTags: error %v, want none", err)
		}
		if got, want := left(invalidation), 2*720*time.Hour+time.Minute; got > want || got < want-10*time.Second {
			t.Errorf("PTTL of the invalidation = %v, want about %v", got, want)
		}
		if err := s.Cache.ClearNamespace(t.Context(), namespace, cache.InvalidateDelete); err != nil {
			t.Fatalf("ClearNamespace: error %v, want none", err)
		}
		if got := left(cache.ClearKey(namespace)); got != noExpiry {
			t.Errorf("PTTL of the namespace's invalidation = %v, want %v", got, noExpiry)
		}
	})
}

// TestStaleInvalidationDoesNotUndoADelete, nor the other way round: an invalidation holds both times.
func TestStaleInvalidationDoesNotUndoADelete(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		for _, way := range invalidations {
			namespace := storetest.NewNamespace()
			storetest.Set(t, s, namespace, "key", tagged("value", "tag"))
			way.do(t, s, namespace, cache.InvalidateDelete)
			way.do(t, s, namespace, cache.InvalidateStale)
			if f := storetest.Get(t, s, namespace, "key", true); f.Entry != nil {
				t.Errorf("%s: Get = %+v, want nothing", way.name, f)
			}
		}
	})
}
