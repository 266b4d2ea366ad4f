package redis_test

import (
	"cmp"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// operations are one of each kind: what they may have done when no answer comes, and whether to make them again.
var operations = []struct {
	name   string
	run    func(ctx context.Context, s *store.Store) error
	writes bool
	again  bool
}{
	{"get", func(ctx context.Context, s *store.Store) error {
		_, err := s.Cache.Get(ctx, "n", "key", false)
		return err
	}, false, true},
	{"near get", func(ctx context.Context, s *store.Store) error {
		_, err := s.Cache.Get(ctx, "n", storetest.NewNamespace(), true) // of a key that is not held
		return err
	}, false, true},
	{"batch get", func(ctx context.Context, s *store.Store) error {
		results, err := s.Cache.BatchGet(ctx, "n", []string{storetest.NewNamespace(), storetest.NewNamespace()}, true)
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return err
	}, false, true},
	{"list", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.ListKeys(ctx, "n", "", "", 10)
		return err
	}, false, true},
	{"set", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Set(ctx, "n", "set", cache.Write{Value: []byte("value")}, cache.Condition{})
		return err
	}, true, true},
	{"batch set", func(ctx context.Context, s *store.Store) error {
		results, err := s.Cache.BatchSet(ctx, "n", []cache.BatchWrite{{Key: "a"}, {Key: "b"}})
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return err
	}, true, true},
	{"delete", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Delete(ctx, "n", "key", nil)
		return err
	}, true, true},
	{"batch delete", func(ctx context.Context, s *store.Store) error {
		results, err := s.Cache.BatchDelete(ctx, "n", []string{"a", "b"})
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return err
	}, true, true},
	{"touch", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Touch(ctx, "n", "set", time.Minute, cache.TouchOverwrite)
		return err
	}, true, true},
	// Once more would meet its own write and say that the condition did not hold, or count twice.
	{"conditional set", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Set(ctx, "n", "conditional", cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
		return err
	}, true, false},
	{"increment", func(ctx context.Context, s *store.Store) error {
		_, err := s.Cache.Increment(ctx, "n", "counter", cache.Increment{Delta: 1})
		return err
	}, true, false},
}

// TestErrorsTellNothing: what a caller sees names no address, key, value or text of the driver; the cause, for the log,
// names no key or value.
func TestErrorsTellNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const canary = "canary-73"
		redisKey := storetest.EntryKey(namespace, canary)
		storetest.Command(t, s, "HSET", redisKey, "f", canary)
		_, err1 := s.Cache.Get(t.Context(), namespace, canary, false)
		_, err2 := s.Cache.Increment(t.Context(), namespace, canary, cache.Increment{Delta: 1})
		_, _, err3 := s.Cache.Touch(t.Context(), namespace, canary, time.Minute, cache.TouchOverwrite)
		storetest.Command(t, s, "SET", storetest.EntryKey(namespace, "counter"), canary)
		_, err4 := s.Cache.Increment(t.Context(), namespace, "counter", cache.Increment{Delta: 1})
		for _, err := range []error{err1, err2, err3, err4} {
			if err == nil {
				t.Error("no error, want one")
				continue
			}
			if text := err.Error() + redis.Cause(err); strings.Contains(text, canary) {
				t.Errorf("error and cause = %q, want them without %q", text, canary)
			}
		}
	})
}
