package store_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
)

// TestCompression: what is stored is shorter, and nobody can tell.
func TestCompression(t *testing.T) {
	t.Parallel()
	for _, mode := range []store.Mode{store.Standalone, store.Cluster, store.Sentinel, store.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o, namespace := options(mode), newNamespace()
			o.CompressAbove = 1000
			s := open(t, o)
			plain := s
			if mode != store.Embedded { // where another store has other data
				plain = open(t, options(mode))
			}
			value := strings.Repeat("a value that repeats itself. ", 1000)
			writes := map[string]func(key string) error{
				"set": func(key string) error {
					_, _, err := s.Set(t.Context(), namespace, key, tagged(value, "tag"), store.Condition{})
					return err
				},
				"conditional": func(key string) error {
					_, _, err := s.Set(t.Context(), namespace, key, tagged(value, "tag"), store.Condition{Kind: store.IfAbsent})
					return err
				},
				"batch": func(key string) error {
					_, err := s.BatchSet(t.Context(), namespace, []store.BatchWrite{{Key: key, Write: tagged(value, "tag")}})
					return err
				},
				"fill": func(key string) error {
					_, _, err := s.Fill(t.Context(), namespace, key, lease(t, s, namespace, key, tenSeconds), tagged(value, "tag"))
					return err
				},
			}
			for name, write := range writes {
				if err := write(name); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if stored := s.Command(t, "STRLEN", s.RedisKey(namespace, name)).(int64); stored > int64(len(value)/4) {
					t.Errorf("%s: stored %d bytes of %d", name, stored, len(value))
				}
				// A store that does not compress reads it all the same.
				for _, reader := range []*store.Store{s, plain} {
					for _, read := range reads {
						f := read.get(t, reader, namespace, name)
						if f.Entry == nil || string(f.Value) != value || !cmp.Equal(f.Tags, []string{"tag"}) {
							t.Errorf("%s, %s: %d bytes", name, read.name, len(f.Value))
						}
					}
				}
			}
			redisKey := s.RedisKey(namespace, "set")
			stored := s.Command(t, "GET", redisKey).(string)
			s.Command(t, "SET", redisKey, stored[:len(stored)-1])
			for _, near := range []bool{false, true} {
				eventually(t, "what is corrupt is told", func() bool {
					_, err := s.Get(t.Context(), namespace, "set", near)
					return errors.Is(err, store.ErrCorrupt)
				})
			}
		})
	}
}
