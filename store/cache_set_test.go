package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
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
		set(t, s, namespace, key, store.Write{Value: []byte("old")})
		if _, _, err := s.Delete(t.Context(), namespace, key, nil); err != nil {
			t.Fatal(err)
		}
	}},
	{"fresh", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		set(t, s, namespace, key, store.Write{Value: []byte("old"), Fresh: time.Hour, Tags: []string{"tag"}})
	}},
	{"stale", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		set(t, s, namespace, key, store.Write{Value: []byte("old"), Fresh: time.Microsecond, Stale: time.Hour})
		eventually(t, "the entry is stale", func() bool { return !s.Now().Before(get(t, s, namespace, key, false).Soft) })
	}},
	{"negative", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		set(t, s, namespace, key, store.Write{Negative: true, Fresh: time.Hour})
	}},
	{"plain value", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		s.Command(t, "SET", s.RedisKey(namespace, key), "old", "PX", "3600000")
	}},
	{"empty plain value", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		s.Command(t, "SET", s.RedisKey(namespace, key), "")
	}},
	{"counter", false, func(t *testing.T, s *store.Store, namespace, key string) {
		t.Helper()
		if _, err := s.Increment(t.Context(), namespace, key, store.Increment{Delta: 7}); err != nil {
			t.Fatal(err)
		}
	}},
}

// state is all that Redis knows of a key, in a form that does not change with time.
func state(tb testing.TB, s *store.Store, namespace, key string) [2]any {
	tb.Helper()
	redisKey := s.RedisKey(namespace, key)
	ends := s.Command(tb, "PEXPIRETIME", redisKey)
	if ms, _ := ends.(int64); s.Mode() == store.Embedded && ms > 0 {
		ends = "some time" // it keeps how much is left, and its answer wavers by milliseconds
	}
	return [2]any{s.Command(tb, "GET", redisKey), ends}
}

func TestSetObeysItsCondition(t *testing.T) {
	conditions := []struct {
		name string
		kind store.ConditionKind
		own  bool // with the etag of what is there
		// onAbsent and onPresent are whether it writes.
		onAbsent, onPresent bool
	}{
		{"always", store.Always, false, true, true},
		{"if absent", store.IfAbsent, false, true, false},
		{"if present", store.IfPresent, false, false, true},
		{"if match", store.IfMatch, true, false, true},
		{"if match other", store.IfMatch, false, false, false},
		{"if none match", store.IfNoneMatch, true, true, false},
		{"if none match other", store.IfNoneMatch, false, true, true},
	}
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, situation := range situations {
			for _, condition := range conditions {
				key := situation.name + "/" + condition.name
				situation.make(t, s, namespace, key)
				before := state(t, s, namespace, key)
				etag := store.ETag{1, 2, 3, 4, 5, 6, 7, 8}
				was := ""
				if e := get(t, s, namespace, key, true).Entry; e != nil {
					was = e.ETag.String()
					if condition.own {
						etag = e.ETag
					}
				}
				want := condition.onPresent
				if situation.absent {
					want = condition.onAbsent
				}
				w := store.Write{Value: []byte("new"), Fresh: time.Minute, Stale: time.Minute}
				stored, got, err := s.Set(t.Context(), namespace, key, w, store.Condition{Kind: condition.kind, ETag: etag})
				if err != nil {
					t.Fatalf("%s: %v: %s", key, err, store.Cause(err))
				}
				if stored != want {
					t.Errorf("%s: stored is %v", key, stored)
				}
				if !stored {
					if got != was {
						t.Errorf("%s: returned etag %q, there is %q", key, got, was)
					}
					if diff := cmp.Diff(before, state(t, s, namespace, key)); diff != "" {
						t.Errorf("%s: not stored and yet changed:\n%s", key, diff)
					}
					continue
				}
				e := get(t, s, namespace, key, true).Entry
				if e == nil || string(e.Value) != "new" || e.ETag.String() != got || got == was || e.Negative || e.Tags != nil {
					t.Errorf("%s: %v has etag %s, was %s", key, e, got, was)
				}
				if left := expiry(t, s, namespace, key); !about(left, 2*time.Minute) {
					t.Errorf("%s: redis keeps it for %v", key, left)
				}
			}
		}
	})
}

func TestSetForEverUnderAConditionRemovesTheExpiry(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace, "key", store.Write{Value: []byte("old"), Fresh: time.Minute})
		stored, _, err := s.Set(t.Context(), namespace, "key", store.Write{Value: []byte("new")}, store.Condition{Kind: store.IfPresent})
		if err != nil || !stored {
			t.Fatal(stored, err)
		}
		if left := expiry(t, s, namespace, "key"); left != noExpiry {
			t.Errorf("redis keeps it for %v", left)
		}
	})
}

// TestETagIsNeverReused: a caller that read a version before it was deleted and written again, with the same bytes, must
// not be told that nothing happened in between.
func TestETagIsNeverReused(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		w := store.Write{Value: []byte("same"), Fresh: time.Minute}
		seen := map[string]bool{}
		for range 200 {
			etag := set(t, s, namespace, "key", w)
			if _, ok := store.ParseETag(etag); !ok || seen[etag] {
				t.Fatalf("etag %q", etag)
			}
			seen[etag] = true
		}
		first := get(t, s, namespace, "key", false)
		if _, _, err := s.Delete(t.Context(), namespace, "key", nil); err != nil {
			t.Fatal(err)
		}
		again := set(t, s, namespace, "key", w)
		match := store.Condition{Kind: store.IfMatch, ETag: first.ETag}
		if stored, etag, err := s.Set(t.Context(), namespace, "key", w, match); err != nil || stored || etag != again {
			t.Errorf("set with the etag of the deleted version: %v, %q, %v", stored, etag, err)
		}
		if deleted, etag, err := s.Delete(t.Context(), namespace, "key", &first.ETag); err != nil || deleted || etag != again {
			t.Errorf("delete with the etag of the deleted version: %v, %q, %v", deleted, etag, err)
		}
	})
}

// TestOneConditionalSetWins: of writers that all saw one version, exactly one replaces it.
func TestOneConditionalSetWins(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const writers = 16
		for _, kind := range []store.ConditionKind{store.IfAbsent, store.IfMatch} {
			cond := store.Condition{Kind: kind}
			if kind == store.IfMatch {
				cond.ETag = get(t, s, namespace, "key", false).ETag
			}
			won := make(chan string, writers)
			for i := range writers {
				go func() {
					stored, etag, err := s.Set(t.Context(), namespace, "key", store.Write{Value: fmt.Append(nil, i)}, cond)
					if err != nil {
						t.Error(err)
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
			if len(winners) != 1 || get(t, s, namespace, "key", true).ETag.String() != winners[0] {
				t.Errorf("%s: won by %v", kind, winners)
			}
		}
	})
}
