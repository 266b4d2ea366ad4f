package cache_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// reads are the ways to read one entry: a batch of one must not differ from a single read.
var reads = []struct {
	name string
	get  func(t *testing.T, s *store.Store, namespace, key string) cache.Found
}{
	{"primary", func(t *testing.T, s *store.Store, namespace, key string) cache.Found {
		t.Helper()
		return storetest.Get(t, s, namespace, key, false)
	}},
	{"near", func(t *testing.T, s *store.Store, namespace, key string) cache.Found {
		t.Helper()
		return storetest.Get(t, s, namespace, key, true)
	}},
	{"batch", func(t *testing.T, s *store.Store, namespace, key string) cache.Found {
		t.Helper()
		results, err := s.Cache.BatchGet(t.Context(), namespace, []string{key}, true)
		if err != nil || len(results) != 1 || results[0].Err != nil {
			t.Fatalf("BatchGet of %q = %v, %v, want one result", key, results, err)
		}
		return results[0].Found
	}},
}

// sameExpiry allows for what the clock estimate may be off by, on a machine under load.
const sameExpiry = 2 * time.Second

func about(got, want time.Duration) bool { return (got - want).Abs() <= sameExpiry }

// expiry returns the PTTL of a key.
func expiry(tb testing.TB, s *store.Store, namespace, key string) time.Duration {
	tb.Helper()
	return time.Duration(storetest.Command(tb, s, "PTTL", s.Cache.RedisKey(namespace, key)).(int64)) * time.Millisecond
}

const noExpiry = -time.Millisecond // what PTTL answers for a key that stays

func TestGetReturnsWhatWasSet(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		tests := []struct {
			name  string
			write cache.Write
		}{
			{"text", cache.Write{Value: []byte("value"), Fresh: time.Minute}},
			{"empty", cache.Write{Value: []byte{}, Fresh: time.Minute}},
			{"for ever", cache.Write{Value: []byte("value")}},
			{"stale", cache.Write{Value: []byte("value"), Fresh: time.Minute, Stale: time.Hour}},
			{"negative", cache.Write{Negative: true, Fresh: time.Minute}},
			{"any bytes", cache.Write{Value: []byte("\x00\r\n\xff\xc1LD\x01{}"), Fresh: time.Minute}},
			{"large", cache.Write{Value: []byte(strings.Repeat("x", 1<<20)), Fresh: time.Minute}},
			{"labels", cache.Write{
				Value: []byte("value"), Fresh: time.Minute, Tags: []string{"a", strings.Repeat("b", 128)}, ContentType: "text/plain",
			}},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				w := test.write
				before := s.Redis.Now()
				etag := storetest.Set(t, s, namespace, test.name, w)
				after := s.Redis.Now()
				var first *cache.Entry
				for _, read := range reads {
					e := read.get(t, s, namespace, test.name).Entry
					if e == nil {
						t.Fatalf("%s: found nothing, want an entry", read.name)
					}
					if !bytes.Equal(e.Value, w.Value) || e.Negative != w.Negative || e.ContentType != w.ContentType ||
						!cmp.Equal(e.Tags, w.Tags) || e.ETag.String() != etag {
						t.Errorf("%s = %+v, want %+v with etag %s", read.name, e, w, etag)
					}
					if first == nil {
						first = e
					}
					if diff := cmp.Diff(first, e, cmp.Comparer(bytes.Equal)); diff != "" {
						t.Errorf("%s (-want as the first read +got):\n%s", read.name, diff)
					}
				}
				// It is a time that Redis has surely reached, so that no invalidation before the write reaches past it.
				if first.AsOf.Before(before.Add(-sameExpiry)) || !first.AsOf.Before(after) {
					t.Errorf("AsOf = %v, want a time within %v before the write, which was from %v to %v", first.AsOf, sameExpiry, before, after)
				}
				left := expiry(t, s, namespace, test.name)
				if w.Fresh == 0 {
					if !first.Soft.IsZero() || !first.Hard.IsZero() || left != noExpiry {
						t.Errorf("Soft = %v, Hard = %v, PTTL = %v, want no expiry", first.Soft, first.Hard, left)
					}
					return
				}
				written := first.Soft.Add(-w.Fresh)
				if written.Before(before.Truncate(time.Microsecond)) || written.After(after) || first.Hard.Sub(first.Soft) != w.Stale {
					t.Errorf("Soft - Fresh = %v, stale for %v, want a time from %v to %v and %v", written, first.Hard.Sub(first.Soft), before, after, w.Stale)
				}
				if !about(left, w.Fresh+w.Stale) {
					t.Errorf("PTTL = %v, want about %v", left, w.Fresh+w.Stale)
				}
			})
		}
	})
}

func TestGetMissesWhatIsNotThere(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace+"x", "key", cache.Write{Value: []byte("of another namespace")})
		for _, read := range reads {
			if found := read.get(t, s, namespace, "key"); found.Entry != nil {
				t.Errorf("%s = %+v, want nothing", read.name, found.Entry)
			}
		}
	})
}

func TestNamespacesDoNotMeet(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		other := namespace + "-b"
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("1")})
		storetest.Set(t, s, other, "key", cache.Write{Value: []byte("2")})
		if _, _, err := s.Cache.Delete(t.Context(), namespace, "key", nil); err != nil {
			t.Fatalf("Delete: error %v, want none", err)
		}
		if e := storetest.Get(t, s, other, "key", false).Entry; e == nil || string(e.Value) != "2" {
			t.Errorf("the other namespace holds %v, want value 2", e)
		}
	})
}

func TestKeysMayHoldAnything(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		keys := []string{"{", "}", "}{", "{}", "a}b", "{a}:{b}", ":", "a:b", "\n", "\r\n$1\r\n", " ", "*", "é", "日本", "🥫", "\x00", "\xff", strings.Repeat("k", 1024)}
		for _, k := range keys {
			storetest.Set(t, s, namespace, k, cache.Write{Value: []byte(k)})
		}
		for _, k := range keys {
			for _, read := range reads {
				if e := read.get(t, s, namespace, k).Entry; e == nil || string(e.Value) != k {
					t.Errorf("%s of %q = %v, want the key as its value", read.name, k, e)
				}
			}
		}
	})
}

func TestDelete(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		other := cache.ETag{1, 2, 3, 4, 5, 6, 7, 8}
		for _, situation := range situations {
			for _, how := range []string{"always", "match", "match other"} {
				key := situation.name + "/" + how
				situation.make(t, s, namespace, key)
				before := state(t, s, namespace, key)
				var match *cache.ETag
				was := storetest.Get(t, s, namespace, key, true).Entry
				switch {
				case how == "match" && was != nil:
					match = &was.ETag
				case how != "always":
					match = &other
				}
				deleted, etag, err := s.Cache.Delete(t.Context(), namespace, key, match)
				if err != nil {
					t.Fatalf("%s: Delete: error %v, want none: %s", key, err, redis.Cause(err))
				}
				if want := !situation.absent && how != "match other"; deleted != want {
					t.Errorf("%s: deleted = %v, want %v", key, deleted, want)
				}
				switch {
				case deleted || situation.absent:
					if e := storetest.Get(t, s, namespace, key, true).Entry; e != nil || etag != "" {
						t.Errorf("%s: after Delete the key holds %v, etag %q, want nothing", key, e, etag)
					}
				case etag != was.ETag.String():
					t.Errorf("%s: Delete returned etag %q, want that of the entry left, %s", key, etag, was.ETag)
				default:
					if diff := cmp.Diff(before, state(t, s, namespace, key)); diff != "" {
						t.Errorf("%s: Delete deleted nothing, want the key unchanged (-before +after):\n%s", key, diff)
					}
				}
			}
		}
	})
}

// TestExpiry watches entries pass from fresh over stale to gone, neither early nor late, however they were written and
// are read.
func TestExpiry(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		type watched struct {
			name  string
			read  func(t *testing.T, s *store.Store, namespace, key string) cache.Found
			entry *cache.Entry
			stale bool
		}
		var left []*watched
		for _, condition := range []cache.ConditionKind{cache.Always, cache.IfAbsent} {
			for _, read := range reads {
				w := &watched{name: string(condition) + " " + read.name, read: read.get}
				write := cache.Write{Value: []byte("value"), Fresh: 100 * time.Millisecond, Stale: 900 * time.Millisecond}
				if _, _, err := s.Cache.Set(t.Context(), namespace, w.name, write, cache.Condition{Kind: condition}); err != nil {
					t.Fatalf("Set: error %v, want none", err)
				}
				w.entry = storetest.Get(t, s, namespace, w.name, false).Entry
				left = append(left, w)
			}
		}
		storetest.Eventually(t, "the entries are gone", func() bool {
			left = slices.DeleteFunc(left, func(w *watched) bool {
				asked := s.Redis.Now()
				e := w.read(t, s, namespace, w.name).Entry
				if e == nil {
					if early := w.entry.Hard.Sub(s.Redis.Now()); early > 50*time.Millisecond || !w.stale {
						t.Errorf("%s: gone %v before its expiry, seen stale: %v, want at most 50ms and seen stale", w.name, early, w.stale)
					}
					return true
				}
				if diff := cmp.Diff(w.entry, e); diff != "" {
					t.Errorf("%s: want the entry unchanged until its expiry (-want +got):\n%s", w.name, diff)
				}
				if !asked.Before(w.entry.Hard) {
					t.Errorf("%s: served %v after its expiry, want nothing", w.name, asked.Sub(w.entry.Hard))
				}
				w.stale = w.stale || !s.Redis.Now().Before(e.Soft)
				return false
			})
			return len(left) == 0
		})
	})
}

func TestShortestExpiry(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "set", cache.Write{Value: []byte("value"), Fresh: time.Nanosecond})
		storetest.Set(t, s, namespace, "touched", cache.Write{Value: []byte("value")})
		if found, changed, err := s.Cache.Touch(t.Context(), namespace, "touched", time.Nanosecond, cache.TouchOverwrite); !found || !changed || err != nil {
			t.Fatalf("Touch = %v, %v, %v, want found and changed", found, changed, err)
		}
		if _, err := s.Cache.Increment(t.Context(), namespace, "counter", cache.Increment{Delta: 1, TTL: time.Nanosecond, Policy: cache.TTLOnCreate}); err != nil {
			t.Fatalf("Increment: error %v, want none", err)
		}
		for _, key := range []string{"set", "touched", "counter"} {
			storetest.Eventually(t, key+" is gone", func() bool { return storetest.Get(t, s, namespace, key, true).Entry == nil })
		}
	})
}
