package cache_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// TestCompression: what is stored is shorter, and nobody can tell.
func TestCompression(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel, redis.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o, namespace := storetest.Options(t, mode), storetest.NewNamespace()
			o.Cache.CompressAbove = 1000
			s := storetest.Open(t, o)
			plain := s
			if mode != redis.Embedded { // where another store has other data
				plain = storetest.Open(t, storetest.Options(t, mode))
			}
			value := strings.Repeat("a value that repeats itself. ", 1000)
			writes := map[string]func(key string) error{
				"set": func(key string) error {
					_, _, err := s.Cache.Set(t.Context(), namespace, key, tagged(value, "tag"), cache.Condition{})
					return err
				},
				"conditional": func(key string) error {
					_, _, err := s.Cache.Set(t.Context(), namespace, key, tagged(value, "tag"), cache.Condition{Kind: cache.IfAbsent})
					return err
				},
				"batch": func(key string) error {
					_, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: key, Write: tagged(value, "tag")}})
					return err
				},
				"fill": func(key string) error {
					_, _, err := s.Cache.Fill(t.Context(), namespace, key, lease(t, s, namespace, key, tenSeconds), tagged(value, "tag"))
					return err
				},
			}
			for name, write := range writes {
				if err := write(name); err != nil {
					t.Fatalf("%s: error %v, want none", name, err)
				}
				if stored := storetest.Command(t, s, "STRLEN", s.Cache.RedisKey(namespace, name)).(int64); stored > int64(len(value)/4) {
					t.Errorf("%s: stored %d bytes of %d, want at most a quarter", name, stored, len(value))
				}
				// A store that does not compress reads it all the same.
				for _, reader := range []*store.Store{s, plain} {
					for _, read := range reads {
						f := read.get(t, reader, namespace, name)
						if f.Entry == nil || string(f.Value) != value || !cmp.Equal(f.Tags, []string{"tag"}) {
							t.Errorf("%s, %s: found %+v, want the %d bytes written, tag included", name, read.name, f, len(value))
						}
					}
				}
			}
			redisKey := s.Cache.RedisKey(namespace, "set")
			stored := storetest.Command(t, s, "GET", redisKey).(string)
			storetest.Command(t, s, "SET", redisKey, stored[:len(stored)-1])
			for _, near := range []bool{false, true} {
				storetest.Eventually(t, "what is corrupt is told", func() bool {
					_, err := s.Cache.Get(t.Context(), namespace, "set", near)
					return errors.Is(err, redis.ErrCorrupt)
				})
			}
		})
	}
}
