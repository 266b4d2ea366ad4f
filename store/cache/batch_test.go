package cache_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// many is less on the embedded store, which is a hundred times slower.
func many(s *store.Store, n int) int {
	if s.Redis.Mode() == redis.Embedded {
		return n / 10
	}
	return n
}

func TestBatchesKeepTheOrder(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		keys := storetest.Keys(many(s, 1000))
		items := make([]cache.BatchWrite, len(keys))
		for i, k := range keys {
			items[i] = cache.BatchWrite{Key: k, Write: cache.Write{Value: []byte(k), Fresh: time.Minute, Stale: time.Minute}}
		}
		stored, err := s.Cache.BatchSet(t.Context(), namespace, items)
		if err != nil || len(stored) != len(keys) {
			t.Fatalf("BatchSet = %d results, %v, want %d results", len(stored), err, len(keys))
		}
		// The first time from Redis, the second time from the near cache, as far as there is one.
		for _, again := range []bool{false, true} {
			found, err := s.Cache.BatchGet(t.Context(), namespace, keys, true)
			if err != nil || len(found) != len(keys) {
				t.Fatalf("BatchGet = %d results, %v, want %d results", len(found), err, len(keys))
			}
			for i, f := range found {
				if f.Err != nil || f.Entry == nil || string(f.Value) != keys[i] || f.ETag.String() != stored[i].ETag {
					t.Fatalf("BatchGet of %q = %+v, want value %q and etag %s", keys[i], f, keys[i], stored[i].ETag)
				}
				if want := again && s.Redis.Mode() != redis.Embedded; f.Near != want {
					t.Fatalf("BatchGet of %q: Near = %v, want %v", keys[i], f.Near, want)
				}
			}
		}
		if left := expiry(t, s, namespace, keys[7]); !about(left, 2*time.Minute) {
			t.Errorf("PTTL of %q = %v, want about %v", keys[7], left, 2*time.Minute)
		}
		deleted, err := s.Cache.BatchDelete(t.Context(), namespace, append([]string{"absent"}, keys...))
		if err != nil || len(deleted) != len(keys)+1 {
			t.Fatalf("BatchDelete = %d results, %v, want %d results", len(deleted), err, len(keys)+1)
		}
		for i, d := range deleted {
			if d.Err != nil || d.Deleted != (i > 0) {
				t.Fatalf("BatchDelete result %d = %+v, want deleted %v", i, d, i > 0)
			}
		}
		found, err := s.Cache.BatchGet(t.Context(), namespace, keys, true)
		if err != nil {
			t.Fatalf("BatchGet: error %v, want none", err)
		}
		for i, f := range found {
			if f.Err != nil || f.Entry != nil {
				t.Fatalf("BatchGet of deleted %q = %+v, want nothing", keys[i], f)
			}
		}
	})
}

func TestBatchOfOneKeyTwice(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		stored, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{
			{Key: "a", Write: cache.Write{Value: []byte("first")}},
			{Key: "b", Write: cache.Write{Value: []byte("other")}},
			{Key: "a", Write: cache.Write{Value: []byte("last")}},
		})
		if err != nil {
			t.Fatalf("BatchSet: error %v, want none", err)
		}
		found, err := s.Cache.BatchGet(t.Context(), namespace, []string{"a", "b", "a"}, true)
		if err != nil {
			t.Fatalf("BatchGet: error %v, want none", err)
		}
		var got []string
		for _, f := range found {
			got = append(got, string(f.Value))
		}
		if diff := cmp.Diff([]string{"last", "other", "last"}, got); diff != "" {
			t.Errorf("values (-want +got):\n%s", diff)
		}
		if found[0].ETag.String() != stored[2].ETag {
			t.Errorf("etag of the key written twice = %s, want that of the second write, %s", found[0].ETag, stored[2].ETag)
		}
		deleted, err := s.Cache.BatchDelete(t.Context(), namespace, []string{"a", "a"})
		if err != nil || !deleted[0].Deleted || deleted[1].Deleted {
			t.Errorf("BatchDelete of one key twice = %v, %v, want deleted only once", deleted, err)
		}
	})
}

func TestBatchOfNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		if found, err := s.Cache.BatchGet(t.Context(), namespace, nil, true); err != nil || len(found) != 0 {
			t.Errorf("BatchGet of no keys = %v, %v, want no results", found, err)
		}
		if stored, err := s.Cache.BatchSet(t.Context(), namespace, nil); err != nil || len(stored) != 0 {
			t.Errorf("BatchSet of no items = %v, %v, want no results", stored, err)
		}
		if deleted, err := s.Cache.BatchDelete(t.Context(), namespace, nil); err != nil || len(deleted) != 0 {
			t.Errorf("BatchDelete of no keys = %v, %v, want no results", deleted, err)
		}
	})
}

// TestBatchReadsEveryKindOfValue: entries, plain values with and without expiry, what has expired and what is not there.
func TestBatchReadsEveryKindOfValue(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "entry", cache.Write{Value: []byte("entry"), Fresh: time.Hour})
		storetest.Set(t, s, namespace, "negative", cache.Write{Negative: true, Fresh: time.Hour})
		storetest.Set(t, s, namespace, "expired", cache.Write{Value: []byte("expired"), Fresh: time.Millisecond})
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "plain"), "plain")
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "plain for an hour"), "hour", "EX", "3600")
		storetest.Eventually(t, "the short entry is gone", func() bool { return storetest.Get(t, s, namespace, "expired", false).Entry == nil })
		keys := []string{"entry", "absent", "negative", "expired", "plain", "plain for an hour"}
		for _, near := range []bool{false, true, true} {
			found, err := s.Cache.BatchGet(t.Context(), namespace, keys, near)
			if err != nil {
				t.Fatalf("BatchGet: error %v, want none", err)
			}
			for i, key := range keys {
				one := storetest.Get(t, s, namespace, key, false)
				if found[i].Err != nil || (found[i].Entry == nil) != (one.Entry == nil) {
					t.Fatalf("%s: BatchGet = %+v, want what Get returns, %+v", key, found[i], one)
				}
				if one.Entry == nil {
					continue
				}
				a, b := *found[i].Entry, *one.Entry
				if !about(a.Hard.Sub(b.Hard), 0) || !about(a.Soft.Sub(b.Soft), 0) {
					t.Errorf("%s: BatchGet expires at %v and %v, want about the %v and %v of Get", key, a.Soft, a.Hard, b.Soft, b.Hard)
				}
				a.Soft, a.Hard = b.Soft, b.Hard
				if diff := cmp.Diff(b, a); diff != "" {
					t.Errorf("%s (-want as Get +got):\n%s", key, diff)
				}
			}
		}
	})
}

func TestBatchFailsItemByItem(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "a", cache.Write{Value: []byte("a")})
		storetest.Set(t, s, namespace, "z", cache.Write{Value: []byte("z")})
		storetest.Command(t, s, "HSET", s.Cache.RedisKey(namespace, "hash"), "f", "v")
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "corrupt"), "\xc1LD\x09")
		keys := []string{"a", "hash", "absent", "corrupt", "z"}
		for _, near := range []bool{false, true, true} {
			found, err := s.Cache.BatchGet(t.Context(), namespace, keys, near)
			if err != nil {
				t.Fatalf("BatchGet: error %v, want none", err)
			}
			if !errors.Is(found[1].Err, redis.ErrWrongType) || !errors.Is(found[3].Err, redis.ErrCorrupt) {
				t.Errorf("BatchGet of a hash and a corrupt entry: errors %v and %v, want %v and %v", found[1].Err, found[3].Err, redis.ErrWrongType, redis.ErrCorrupt)
			}
			for _, i := range []int{0, 2, 4} {
				if found[i].Err != nil {
					t.Errorf("BatchGet of %q: error %v, want none", keys[i], found[i].Err)
				}
			}
			if found[0].Entry == nil || string(found[0].Value) != "a" || found[2].Entry != nil || found[4].Entry == nil || string(found[4].Value) != "z" {
				t.Errorf("BatchGet = %+v, want values a and z, and nothing between the failures", found)
			}
		}
		// Even where every item fails: that they do is theirs, and does not go away by asking again.
		found, err := s.Cache.BatchGet(t.Context(), namespace, []string{"hash"}, true)
		if err != nil || !errors.Is(found[0].Err, redis.ErrWrongType) {
			t.Errorf("BatchGet of one hash = %v, %v, want the item's error %v", found, err, redis.ErrWrongType)
		}
		// SET and UNLINK do not ask what they replace.
		stored, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "hash", Write: cache.Write{Value: []byte("value")}}})
		if err != nil || stored[0].Err != nil || storetest.Get(t, s, namespace, "hash", true).Entry == nil {
			t.Errorf("BatchSet over a hash = %v, %v, want an entry", stored, err)
		}
	})
}

func TestBatchOfACancelledCaller(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Cache.BatchGet(ctx, namespace, storetest.Keys(3), true); !errors.Is(err, context.Canceled) {
			t.Errorf("BatchGet: error %v, want %v", err, context.Canceled)
		}
		if _, err := s.Cache.BatchSet(ctx, namespace, []cache.BatchWrite{{Key: "a"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("BatchSet: error %v, want %v", err, context.Canceled)
		}
		if _, err := s.Cache.BatchDelete(ctx, namespace, storetest.Keys(3)); !errors.Is(err, context.Canceled) {
			t.Errorf("BatchDelete: error %v, want %v", err, context.Canceled)
		}
	})
}

// TestBatchReadsAboutWhatItAnswers: a batch of large values that its caller has no room for does not read them all.
func TestBatchReadsAboutWhatItAnswers(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	keys := storetest.Keys(100)
	for _, key := range keys {
		storetest.Set(t, s, "n", key, cache.Write{Value: make([]byte, 512<<10)})
	}
	sent := func() int64 {
		var n int64
		for line := range strings.Lines(server.Do(t, "INFO", "stats").(string)) {
			if text, ok := strings.CutPrefix(line, "total_net_output_bytes:"); ok {
				n, _ = strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			}
		}
		return n
	}
	for i, most := range []int64{10 << 20, 4 << 20} { // the first time nothing is known of the values
		before, room := sent(), 2<<20
		if err := s.Cache.BatchGetEach(t.Context(), "n", keys, false, func(_ int, found []cache.BatchFound) bool {
			for _, f := range found {
				room -= len(f.Value)
			}
			return room > 0
		}); err != nil {
			t.Fatalf("BatchGetEach = %v (%s), want no error", err, redis.Cause(err))
		}
		if got := sent() - before; got > most {
			t.Errorf("batch %d that had room for 2 MiB has read %d bytes, want %d at most", i, got, most)
		}
	}
}
