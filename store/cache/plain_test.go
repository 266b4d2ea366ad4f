package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

func TestPlainValuesAreRead(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		tests := []struct {
			name, value string
			ttl         time.Duration
		}{
			{"set", "value", 0},
			{"setex", "value", time.Hour},
			{"empty", "", 0},
			{"json", `{"a":1}`, time.Hour},
			{"begins like an entry", "\xc1L", 0},
		}
		for _, test := range tests {
			redisKey := s.Cache.RedisKey(namespace, test.name)
			if test.ttl > 0 {
				storetest.Command(t, s, "SETEX", redisKey, fmt.Sprint(int(test.ttl.Seconds())), test.value)
			} else {
				storetest.Command(t, s, "SET", redisKey, test.value)
			}
			for _, read := range reads {
				e := read.get(t, s, namespace, test.name).Entry
				if e == nil {
					t.Fatalf("%s %s: found nothing, want a plain value", read.name, test.name)
				}
				if string(e.Value) != test.value || e.Negative || !e.AsOf.IsZero() || e.ETag == (cache.ETag{}) {
					t.Errorf("%s %s = %+v, want plain %q", read.name, test.name, e, test.value)
				}
				if test.ttl == 0 && !e.Hard.IsZero() || test.ttl > 0 && (!about(e.Hard.Sub(s.Redis.Now()), test.ttl) || !e.Soft.Equal(e.Hard)) {
					t.Errorf("%s %s: Soft = %v, Hard = %v, want an expiry in %v, 0 meaning none", read.name, test.name, e.Soft, e.Hard, test.ttl)
				}
			}
		}
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "short"), "value", "PX", "150")
		storetest.Eventually(t, "the short plain value is gone", func() bool { return storetest.Get(t, s, namespace, "short", true).Entry == nil })
	})
}

// TestPlainNamespace: keys of other clients are served under their own names, and Larder's own keys stay out of sight.
func TestPlainNamespace(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel, redis.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := storetest.Options(t, mode)
			o.Cache.PlainNamespace = storetest.NewNamespace()
			s, plain := storetest.Open(t, o), o.Cache.PlainNamespace
			prefix := plain + ":user:"
			key := prefix + "123"
			storetest.Command(t, s, "SETEX", key, "60", "alice")
			if e := storetest.Get(t, s, plain, key, true).Entry; e == nil || string(e.Value) != "alice" || !about(e.Hard.Sub(s.Redis.Now()), time.Minute) {
				t.Errorf("Get of %q = %v, want alice for a minute", key, e)
			}
			storetest.Set(t, s, plain, prefix+"124", cache.Write{Value: []byte("bob")})
			if storetest.Command(t, s, "GET", prefix+"124") == nil {
				t.Errorf("GET %q found nothing, want the entry that Set wrote", prefix+"124")
			}
			if _, err := s.Cache.Increment(t.Context(), plain, prefix+"125", cache.Increment{Delta: 5}); err != nil {
				t.Fatalf("Increment: error %v, want none", err)
			}
			if v := storetest.Command(t, s, "GET", prefix+"125"); v != "5" {
				t.Errorf("GET of the counter = %v, want 5", v)
			}
			storetest.Set(t, s, plain+"-other", "ld:"+prefix, cache.Write{Value: []byte("not to be seen")})
			storetest.Command(t, s, "HSET", prefix+"hash", "f", "v")

			want := map[string]bool{key: true, prefix + "124": true, prefix + "125": true}
			if diff := cmp.Diff(want, keySet(list(t, s, plain, prefix+"*", 100))); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			for _, pattern := range []string{"ld:*", "*" + prefix + "*"} {
				for _, k := range list(t, s, plain, pattern, 100) {
					if strings.HasPrefix(k, "ld:") {
						t.Errorf("ListKeys with %s = %q among others, want no key of Larder's own", pattern, k)
					}
				}
			}
			if n := deleteMatching(t, s, plain, "*"+prefix+"*"); n != 3 {
				t.Errorf("DeleteMatching deleted %d entries, want 3", n)
			}
			if e := storetest.Get(t, s, plain+"-other", "ld:"+prefix, true).Entry; e == nil {
				t.Error("DeleteMatching deleted an entry of another namespace, want it left")
			}
		})
	}
}

func TestOtherTypesAreLeftAlone(t *testing.T) {
	one := int64(1)
	ops := []struct {
		name string
		run  func(ctx context.Context, s *store.Store, namespace string) error
	}{
		{"get", func(ctx context.Context, s *store.Store, namespace string) error {
			_, err := s.Cache.Get(ctx, namespace, "hash", false)
			return err
		}},
		{"near get", func(ctx context.Context, s *store.Store, namespace string) error {
			_, err := s.Cache.Get(ctx, namespace, "hash", true)
			return err
		}},
		{"set if absent", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Set(ctx, namespace, "hash", cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
			return err
		}},
		{"set if present", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Set(ctx, namespace, "hash", cache.Write{}, cache.Condition{Kind: cache.IfPresent})
			return err
		}},
		{"set if match", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Set(ctx, namespace, "hash", cache.Write{}, cache.Condition{Kind: cache.IfMatch})
			return err
		}},
		{"set if none match", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Set(ctx, namespace, "hash", cache.Write{}, cache.Condition{Kind: cache.IfNoneMatch})
			return err
		}},
		{"delete if match", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Delete(ctx, namespace, "hash", &cache.ETag{})
			return err
		}},
		{"touch", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Touch(ctx, namespace, "hash", time.Minute, cache.TouchOverwrite)
			return err
		}},
		{"increment", func(ctx context.Context, s *store.Store, namespace string) error {
			_, err := s.Cache.Increment(ctx, namespace, "hash", cache.Increment{Delta: 1, Max: &one, Saturate: true})
			return err
		}},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		redisKey := s.Cache.RedisKey(namespace, "hash")
		storetest.Command(t, s, "HSET", redisKey, "field", "value")
		for _, op := range ops {
			err := op.run(t.Context(), s, namespace)
			if !errors.Is(err, redis.ErrWrongType) || redis.Retryable(err) {
				t.Errorf("%s: error %v, want %v, not retryable: %s", op.name, err, redis.ErrWrongType, redis.Cause(err))
			}
			if v := storetest.Command(t, s, "HGET", redisKey, "field"); v != "value" {
				t.Errorf("%s: the hash holds %v afterwards, want value", op.name, v)
			}
			if left := storetest.Command(t, s, "PTTL", redisKey); left != int64(-1) {
				t.Errorf("%s: PTTL of the hash = %v afterwards, want -1", op.name, left)
			}
		}
		// SET and UNLINK do not ask what they replace, and neither do these.
		storetest.Set(t, s, namespace, "hash", cache.Write{Value: []byte("value")})
		if e := storetest.Get(t, s, namespace, "hash", true).Entry; e == nil || string(e.Value) != "value" {
			t.Errorf("Get after a Set over a hash = %v, want value", e)
		}
	})
}

func TestEntriesOfLaterVersionsAreCorrupt(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "key"), "\xc1LD\x02"+strings.Repeat("x", 60))
		for _, near := range []bool{false, true} {
			if _, err := s.Cache.Get(t.Context(), namespace, "key", near); !errors.Is(err, redis.ErrCorrupt) || redis.Retryable(err) {
				t.Errorf("Get with useNear %v: error %v, want %v, not retryable", near, err, redis.ErrCorrupt)
			}
		}
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("mended")})
		if e := storetest.Get(t, s, namespace, "key", true).Entry; e == nil || string(e.Value) != "mended" {
			t.Errorf("Get after a Set over a corrupt entry = %v, want mended", e)
		}
	})
}

// TestScriptsReadTheHeaderAsGoDoes: the scripts find the same etag and expiry in an entry as decoding it does, whatever
// the entry is made of, on Redis and on the embedded store.
func TestScriptsReadTheHeaderAsGoDoes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		rapid.Check(t, func(t *rapid.T) {
			w := cache.Write{
				Value:       rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "value"),
				Negative:    rapid.Bool().Draw(t, "negative"),
				Tags:        rapid.SliceOfN(rapid.StringN(1, -1, 128), 0, 32).Draw(t, "tags"),
				ContentType: rapid.StringN(0, -1, 255).Draw(t, "type"),
				Fresh:       time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "fresh")),
			}
			if w.Fresh > 0 {
				w.Fresh += time.Minute
				w.Stale = time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "stale"))
			}
			if _, _, err := s.Cache.Set(context.Background(), namespace, "key", w, cache.Condition{}); err != nil {
				t.Fatalf("Set: error %v, want none", err)
			}
			found, err := s.Cache.Get(context.Background(), namespace, "key", true)
			if err != nil {
				t.Fatalf("Get: error %v, want none", err)
			}
			want := found.ETag.String()
			stored, etag, err := s.Cache.Set(context.Background(), namespace, "key", cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
			if err != nil || stored || etag != want {
				t.Fatalf("Set if absent = %v, %q, %v, want not stored and the etag that Get returns, %q", stored, etag, err, want)
			}
			// The old expiry is neither later nor earlier than itself.
			if !found.Hard.IsZero() {
				for mode, shift := range map[cache.TouchMode]time.Duration{cache.TouchExtend: -time.Second, cache.TouchShorten: time.Second} {
					left := found.Soft.Sub(s.Redis.Now()) + shift
					if _, changed, err := s.Cache.Touch(context.Background(), namespace, "key", left, mode); err != nil || changed {
						t.Fatalf("Touch %s from %v by %v: changed %v, %v, want unchanged", mode, found.Soft, shift, changed, err)
					}
				}
			}
			if deleted, _, err := s.Cache.Delete(context.Background(), namespace, "key", &found.ETag); err != nil || !deleted {
				t.Fatalf("Delete with the etag that Get returns = %v, %v, want deleted", deleted, err)
			}
		})
	})
}

// FuzzRawValue puts any bytes under a key, as another client can: Go and the scripts agree on what they are, and no
// operation breaks on them.
func FuzzRawValue(f *testing.F) {
	for _, raw := range []string{
		"", "x", "12", "\xc1", "\xc1L", "\xc1LD", "\xc1LD\x01", "\xc1LD\x02", "\xc1LD\x01" + strings.Repeat("\x00", 36),
		"\xc1LD\x01" + strings.Repeat("\x00", 37), "\xc1LD\x01" + strings.Repeat("\xff", 60), "\xc1LD\x01\x02" + strings.Repeat("\x00", 36) + "\x05\x01a",
	} {
		f.Add([]byte(raw))
	}
	stores := []*store.Store{storetest.Open(f, storetest.Options(f, redis.Standalone)), storetest.Open(f, storetest.Options(f, redis.Embedded))}
	namespace := storetest.NewNamespace()
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, s := range stores {
			storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "key"), string(raw))
			found, err := s.Cache.Get(t.Context(), namespace, "key", true)
			if err != nil && !errors.Is(err, redis.ErrCorrupt) {
				t.Fatalf("Get: error %v, want none or %v", err, redis.ErrCorrupt)
			}
			stored, etag, scriptErr := s.Cache.Set(t.Context(), namespace, "key", cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
			if scriptErr != nil || stored || err == nil && found.Entry != nil && etag != found.ETag.String() {
				t.Fatalf("Set if absent = %v, %q, %v, want not stored and the etag of %v", stored, etag, scriptErr, found.Entry)
			}
			if _, _, err := s.Cache.Touch(t.Context(), namespace, "key", time.Minute, cache.TouchOverwrite); err != nil {
				t.Fatalf("Touch: error %v, want none: %s", err, redis.Cause(err))
			}
			if _, err := s.Cache.Increment(t.Context(), namespace, "key", cache.Increment{Delta: 1}); err != nil &&
				!errors.Is(err, redis.ErrNotCounter) && !errors.Is(err, redis.ErrOverflow) {
				t.Fatalf("Increment: error %v, want none, %v or %v: %s", err, redis.ErrNotCounter, redis.ErrOverflow, redis.Cause(err))
			}
		}
	})
}

// TestPlainKeysInACluster: keys of other clients may hold braces in any place, and have their leases in their own slot all the same.
func TestPlainKeysInACluster(t *testing.T) {
	t.Parallel()
	o := storetest.Options(t, redis.Cluster)
	o.Cache.PlainNamespace = "plain"
	s := storetest.Open(t, o)
	cluster := storetest.Cluster(t)
	prefix := storetest.NewNamespace()
	for i, form := range []string{"a", "a}b", "{}a", "}{", "}a{b}", "a{}b", "{}{a}", "{a}b", "a{b", "{", "}", "{}", "a{b}c}", "{{a}}", "\x00}", "}\xff"} {
		for _, key := range []string{form, prefix + form, form + prefix} {
			if i == 0 && key == form {
				continue
			}
			if got, want := cluster.Slot(t, s.Cache.LeaseKey("plain", key)), cluster.Slot(t, key); got != want {
				t.Errorf("slot of the lease of %q = %d, want that of the key, %d", key, got, want)
				continue
			}
			for _, op := range movingOps {
				token := getOrLease(t, s, "plain", key, cache.LeaseOptions{TTL: time.Minute, Primary: true, MaxAge: time.Nanosecond}).Token
				if err := op.do(t, s, "plain", key, token); err != nil {
					t.Errorf("%q: %s: error %v, want none: %s", key, op.name, err, redis.Cause(err))
				}
			}
			if err := s.Cache.DeleteMatching(t.Context(), "plain", strings.NewReplacer("{", "?", "}", "?", "\\", "?").Replace(key), "", func(int64, string) error { return nil }); err != nil {
				t.Errorf("DeleteMatching of %q: error %v, want none: %s", key, err, redis.Cause(err))
			}
			if e := storetest.Get(t, s, "plain", key, false).Entry; e != nil {
				t.Errorf("Get of %q after DeleteMatching = %v, want nothing", key, e)
			}
		}
	}
}

// TestLongPlainValuesAreNotHashed where nobody asks for their etag: that would keep Redis from everybody for a second.
func TestLongPlainValuesAreNotHashed(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	server.Do(t, "CONFIG", "SET", "slowlog-log-slower-than", "100000")
	const key = "long"
	for name, call := range map[string]func() error{
		"Delete": func() error {
			deleted, _, err := s.Cache.Delete(t.Context(), "n", key, nil)
			if err == nil && !deleted {
				t.Error("Delete of a long plain value = nothing there, want it removed")
			}
			return err
		},
		"Touch": func() error {
			_, _, err := s.Cache.Touch(t.Context(), "n", key, time.Hour, cache.TouchOverwrite)
			return err
		},
		"Set if absent": func() error {
			stored, _, err := s.Cache.Set(t.Context(), "n", key, cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
			if stored {
				t.Error("Set if_absent over a long plain value = stored, want it not stored")
			}
			return err
		},
		"Set if present": func() error {
			stored, _, err := s.Cache.Set(t.Context(), "n", key, cache.Write{}, cache.Condition{Kind: cache.IfPresent})
			if err == nil && !stored {
				t.Error("Set if_present over a long plain value = not stored, want it stored")
			}
			return err
		},
		"Increment": func() error {
			_, err := s.Cache.Increment(t.Context(), "n", key, cache.Increment{Delta: 1})
			if !errors.Is(err, redis.ErrNotCounter) {
				t.Errorf("Increment of a long plain value = %v, want %v", err, redis.ErrNotCounter)
			}
			return nil
		},
	} {
		server.Do(t, "SETRANGE", storetest.EntryKey("n", key), strconv.Itoa(64<<20), "x")
		server.Do(t, "SLOWLOG", "RESET")
		if err := call(); err != nil {
			t.Errorf("%s = %v (%s), want no error", name, err, redis.Cause(err))
		}
		if n := server.Do(t, "SLOWLOG", "LEN"); n != int64(0) {
			t.Errorf("%s of 64 MiB keeps Redis busy for more than 100 ms, want less: %v", name, server.Do(t, "SLOWLOG", "GET"))
		}
	}
}
