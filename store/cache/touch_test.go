package cache_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/storetest"
)

func TestTouch(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	type kind struct {
		name  string
		stale time.Duration
		make  func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration)
	}
	entry := func(stale time.Duration, tags ...string) func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration) {
		return func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration) {
			t.Helper()
			w := cache.Write{Value: []byte("value"), Fresh: fresh, Tags: tags, ContentType: "text/plain"}
			if fresh > 0 {
				w.Stale = stale
			}
			storetest.Set(t, s, namespace, key, w)
		}
	}
	kinds := []kind{
		{"entry", 0, entry(0)},
		{"entry with a stale window", 10 * time.Minute, entry(10 * time.Minute)},
		{"entry with tags", 10 * time.Minute, entry(10*time.Minute, "tag")},
		{"plain value", 0, func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration) {
			t.Helper()
			args := []string{"value"}
			if fresh > 0 {
				args = append(args, "PX", fmt.Sprint(fresh.Milliseconds()))
			}
			storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, key), args...)
		}},
	}
	const never = 0
	tests := []struct {
		old, fresh time.Duration
		mode       cache.TouchMode
		changed    bool
	}{
		{hour, day, cache.TouchOverwrite, true},
		{day, hour, cache.TouchOverwrite, true},
		{hour, never, cache.TouchOverwrite, true},
		{never, hour, cache.TouchOverwrite, true},
		{never, never, cache.TouchOverwrite, true},
		{hour, day, cache.TouchExtend, true},
		{day, hour, cache.TouchExtend, false},
		{hour, never, cache.TouchExtend, true},
		{never, hour, cache.TouchExtend, false},
		{never, never, cache.TouchExtend, false},
		{hour, day, cache.TouchShorten, false},
		{day, hour, cache.TouchShorten, true},
		{hour, never, cache.TouchShorten, false},
		{never, hour, cache.TouchShorten, true},
		{never, never, cache.TouchShorten, false},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			for _, test := range tests {
				key := fmt.Sprintf("%s/%s from %v to %v", kind.name, test.mode, test.old, test.fresh)
				kind.make(t, s, namespace, key, test.old)
				unchanged := state(t, s, namespace, key)
				before := storetest.Get(t, s, namespace, key, true).Entry
				asked := s.Redis.Now()
				found, changed, err := s.Cache.Touch(t.Context(), namespace, key, test.fresh, test.mode)
				if kind.name == "entry with tags" && test.fresh == never {
					// It could outlive what is remembered of invalidations.
					if diff := cmp.Diff(unchanged, state(t, s, namespace, key)); !errors.Is(err, cache.ErrTagged) || diff != "" {
						t.Errorf("%s: Touch: error %v, want %v and the key unchanged (-before +after):\n%s", key, err, cache.ErrTagged, diff)
					}
					continue
				}
				if err != nil || !found || changed != test.changed {
					t.Errorf("%s: Touch = %v, %v, %v, want found and changed %v", key, found, changed, err, test.changed)
					continue
				}
				if !changed {
					if diff := cmp.Diff(unchanged, state(t, s, namespace, key)); diff != "" {
						t.Errorf("%s: want the key unchanged (-before +after):\n%s", key, diff)
					}
					continue
				}
				after := storetest.Get(t, s, namespace, key, true).Entry
				if after == nil {
					t.Errorf("%s: found nothing after Touch, want the entry", key)
					continue
				}
				stale := kind.stale
				if test.old == never || test.fresh == never {
					stale = 0
				}
				left := expiry(t, s, namespace, key)
				if test.fresh == never {
					if !after.Soft.IsZero() || !after.Hard.IsZero() || left != noExpiry {
						t.Errorf("%s: Soft = %v, Hard = %v, PTTL = %v, want no expiry", key, after.Soft, after.Hard, left)
					}
				} else if !about(after.Soft.Sub(asked), test.fresh) || after.Hard.Sub(after.Soft) != stale || !about(left, test.fresh+stale) {
					t.Errorf("%s: fresh for %v, stale for %v, PTTL %v, want %v, %v and their sum", key, after.Soft.Sub(asked), after.Hard.Sub(after.Soft), left, test.fresh, stale)
				}
				rest := *after
				rest.Soft, rest.Hard = before.Soft, before.Hard
				if diff := cmp.Diff(before, &rest); diff != "" {
					t.Errorf("%s: want only the expiry changed (-before +after):\n%s", key, diff)
				}
			}
		}
	})
}

func TestTouchOfNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, mode := range []cache.TouchMode{cache.TouchOverwrite, cache.TouchExtend, cache.TouchShorten} {
			found, changed, err := s.Cache.Touch(t.Context(), namespace, "key", time.Hour, mode)
			if err != nil || found || changed || storetest.Get(t, s, namespace, "key", true).Entry != nil {
				t.Errorf("%s: Touch of nothing = %v, %v, %v, want not found, and nothing written", mode, found, changed, err)
			}
		}
	})
}

// TestTouchRevivesTheStale: an entry past its soft and within its hard expiry becomes fresh again, for both windows.
func TestTouchRevivesTheStale(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value"), Fresh: time.Millisecond, Stale: time.Hour})
		storetest.Eventually(t, "the entry is stale", func() bool { return s.Redis.Now().After(storetest.Get(t, s, namespace, "key", true).Soft) })
		if found, changed, err := s.Cache.Touch(t.Context(), namespace, "key", time.Hour, cache.TouchExtend); !found || !changed || err != nil {
			t.Fatalf("Touch = %v, %v, %v, want found and changed", found, changed, err)
		}
		e := storetest.Get(t, s, namespace, "key", true).Entry
		if fresh := e.Soft.Sub(s.Redis.Now()); !about(fresh, time.Hour) || e.Hard.Sub(e.Soft) != time.Hour {
			t.Errorf("fresh for %v, stale for %v, want an hour each", fresh, e.Hard.Sub(e.Soft))
		}
	})
}
