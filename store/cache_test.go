package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
)

// reads are the ways to read one entry: a batch of one must not differ from a single read.
var reads = []struct {
	name string
	get  func(t *testing.T, s *store.Store, namespace, key string) store.Found
}{
	{"primary", func(t *testing.T, s *store.Store, namespace, key string) store.Found {
		t.Helper()
		return get(t, s, namespace, key, false)
	}},
	{"near", func(t *testing.T, s *store.Store, namespace, key string) store.Found {
		t.Helper()
		return get(t, s, namespace, key, true)
	}},
	{"batch", func(t *testing.T, s *store.Store, namespace, key string) store.Found {
		t.Helper()
		results, err := s.BatchGet(t.Context(), namespace, []string{key}, true)
		if err != nil || len(results) != 1 || results[0].Err != nil {
			t.Fatalf("batch get %q: %v, %v", key, results, err)
		}
		return results[0].Found
	}},
}

func get(tb testing.TB, s *store.Store, namespace, key string, near bool) store.Found {
	tb.Helper()
	found, err := s.Get(tb.Context(), namespace, key, near)
	if err != nil {
		tb.Fatalf("get %q: %v: %s", key, err, store.Cause(err))
	}
	return found
}

// set writes an entry and returns its etag.
func set(tb testing.TB, s *store.Store, namespace, key string, w store.Write) string {
	tb.Helper()
	stored, etag, err := s.Set(tb.Context(), namespace, key, w, store.Condition{})
	if err != nil || !stored {
		tb.Fatalf("set %q: %v, %v", key, stored, err)
	}
	return etag
}

// sameExpiry allows for what the clock estimate may be off by, on a machine under load.
const sameExpiry = 2 * time.Second

func about(got, want time.Duration) bool { return (got - want).Abs() <= sameExpiry }

// expiry returns the PTTL of a key.
func expiry(tb testing.TB, s *store.Store, namespace, key string) time.Duration {
	tb.Helper()
	return time.Duration(s.Command(tb, "PTTL", s.RedisKey(namespace, key)).(int64)) * time.Millisecond
}

const noExpiry = -time.Millisecond // what PTTL answers for a key that stays

func TestGetReturnsWhatWasSet(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		tests := []struct {
			name  string
			write store.Write
		}{
			{"text", store.Write{Value: []byte("value"), Fresh: time.Minute}},
			{"empty", store.Write{Value: []byte{}, Fresh: time.Minute}},
			{"for ever", store.Write{Value: []byte("value")}},
			{"stale", store.Write{Value: []byte("value"), Fresh: time.Minute, Stale: time.Hour}},
			{"negative", store.Write{Negative: true, Fresh: time.Minute}},
			{"any bytes", store.Write{Value: []byte("\x00\r\n\xff\xc1LD\x01{}"), Fresh: time.Minute}},
			{"large", store.Write{Value: []byte(strings.Repeat("x", 1<<20)), Fresh: time.Minute}},
			{"labels", store.Write{
				Value: []byte("value"), Fresh: time.Minute, Tags: []string{"a", strings.Repeat("b", 128)}, ContentType: "text/plain",
			}},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				w := test.write
				before := s.Now()
				etag := set(t, s, namespace, test.name, w)
				after := s.Now()
				var first *store.Entry
				for _, read := range reads {
					e := read.get(t, s, namespace, test.name).Entry
					if e == nil {
						t.Fatalf("%s: nothing there", read.name)
					}
					if string(e.Value) != string(w.Value) || e.Negative != w.Negative || e.ContentType != w.ContentType ||
						!cmp.Equal(e.Tags, w.Tags) || e.ETag.String() != etag {
						t.Errorf("%s: %+v", read.name, e)
					}
					if first == nil {
						first = e
					}
					if diff := cmp.Diff(first, e, cmp.Comparer(bytes.Equal)); diff != "" {
						t.Errorf("%s reads another entry:\n%s", read.name, diff)
					}
				}
				if first.AsOf.Before(before.Truncate(time.Microsecond)) || first.AsOf.After(after) {
					t.Errorf("as of %v, written from %v to %v", first.AsOf, before, after)
				}
				left := expiry(t, s, namespace, test.name)
				if w.Fresh == 0 {
					if !first.Soft.IsZero() || !first.Hard.IsZero() || left != noExpiry {
						t.Errorf("ends at %v, %v, in %v", first.Soft, first.Hard, left)
					}
					return
				}
				if soft, hard := first.Soft.Sub(first.AsOf), first.Hard.Sub(first.AsOf); soft != w.Fresh || hard != w.Fresh+w.Stale {
					t.Errorf("fresh for %v, kept for %v", soft, hard)
				}
				if !about(left, w.Fresh+w.Stale) {
					t.Errorf("redis keeps it for %v", left)
				}
			})
		}
	})
}

func TestGetMissesWhatIsNotThere(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace+"x", "key", store.Write{Value: []byte("of another namespace")})
		for _, read := range reads {
			if found := read.get(t, s, namespace, "key"); found.Entry != nil {
				t.Errorf("%s: %+v", read.name, found.Entry)
			}
		}
	})
}

func TestNamespacesDoNotMeet(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		other := namespace + "-b"
		set(t, s, namespace, "key", store.Write{Value: []byte("1")})
		set(t, s, other, "key", store.Write{Value: []byte("2")})
		if _, _, err := s.Delete(t.Context(), namespace, "key", nil); err != nil {
			t.Fatal(err)
		}
		if e := get(t, s, other, "key", false).Entry; e == nil || string(e.Value) != "2" {
			t.Errorf("the other namespace holds %v", e)
		}
	})
}

func TestKeysMayHoldAnything(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		keys := []string{"{", "}", "}{", "{}", "a}b", "{a}:{b}", ":", "a:b", "\n", "\r\n$1\r\n", " ", "*", "é", "日本", "🥫", "\x00", "\xff", strings.Repeat("k", 1024)}
		for _, k := range keys {
			set(t, s, namespace, k, store.Write{Value: []byte(k)})
		}
		for _, k := range keys {
			for _, read := range reads {
				if e := read.get(t, s, namespace, k).Entry; e == nil || string(e.Value) != k {
					t.Errorf("%s %q: %v", read.name, k, e)
				}
			}
		}
	})
}

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

func TestDelete(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		other := store.ETag{1, 2, 3, 4, 5, 6, 7, 8}
		for _, situation := range situations {
			for _, how := range []string{"always", "match", "match other"} {
				key := situation.name + "/" + how
				situation.make(t, s, namespace, key)
				before := state(t, s, namespace, key)
				var match *store.ETag
				was := get(t, s, namespace, key, true).Entry
				switch {
				case how == "match" && was != nil:
					match = &was.ETag
				case how != "always":
					match = &other
				}
				deleted, etag, err := s.Delete(t.Context(), namespace, key, match)
				if err != nil {
					t.Fatalf("%s: %v: %s", key, err, store.Cause(err))
				}
				if want := !situation.absent && how != "match other"; deleted != want {
					t.Errorf("%s: deleted is %v", key, deleted)
				}
				switch {
				case deleted || situation.absent:
					if e := get(t, s, namespace, key, true).Entry; e != nil || etag != "" {
						t.Errorf("%s: left %v, etag %q", key, e, etag)
					}
				case etag != was.ETag.String():
					t.Errorf("%s: returned etag %q, left %s", key, etag, was.ETag)
				default:
					if diff := cmp.Diff(before, state(t, s, namespace, key)); diff != "" {
						t.Errorf("%s: not deleted and yet changed:\n%s", key, diff)
					}
				}
			}
		}
	})
}

// TestExpiry watches an entry pass from fresh over stale to gone, neither early nor late.
func TestExpiry(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, condition := range []store.ConditionKind{store.Always, store.IfAbsent} {
			for _, read := range reads {
				t.Run(string(condition)+"/"+read.name, func(t *testing.T) {
					t.Parallel()
					key := string(condition) + read.name
					w := store.Write{Value: []byte("value"), Fresh: 200 * time.Millisecond, Stale: 300 * time.Millisecond}
					if _, _, err := s.Set(t.Context(), namespace, key, w, store.Condition{Kind: condition}); err != nil {
						t.Fatal(err)
					}
					entry := get(t, s, namespace, key, false).Entry
					stale := false
					eventually(t, "the entry is gone", func() bool {
						asked := s.Now()
						e := read.get(t, s, namespace, key).Entry
						if e == nil {
							if early := entry.Hard.Sub(s.Now()); early > 50*time.Millisecond {
								t.Errorf("gone %v early", early)
							}
							return true
						}
						if diff := cmp.Diff(entry, e); diff != "" {
							t.Errorf("expiry changed the entry:\n%s", diff)
						}
						if !asked.Before(entry.Hard) {
							t.Errorf("served %v after its end", asked.Sub(entry.Hard))
						}
						stale = stale || !s.Now().Before(e.Soft)
						return false
					})
					if !stale {
						t.Error("was never seen stale")
					}
				})
			}
		}
	})
}

func TestShortestExpiry(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace, "set", store.Write{Value: []byte("value"), Fresh: time.Nanosecond})
		set(t, s, namespace, "touched", store.Write{Value: []byte("value")})
		if found, changed, err := s.Touch(t.Context(), namespace, "touched", time.Nanosecond, store.TouchOverwrite); !found || !changed || err != nil {
			t.Fatal(found, changed, err)
		}
		if _, err := s.Increment(t.Context(), namespace, "counter", store.Increment{Delta: 1, TTL: time.Nanosecond, Policy: store.TTLOnCreate}); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"set", "touched", "counter"} {
			eventually(t, key+" is gone", func() bool { return get(t, s, namespace, key, true).Entry == nil })
		}
	})
}

func TestTouch(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	type kind struct {
		name  string
		stale time.Duration
		make  func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration)
	}
	entry := func(stale time.Duration) func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration) {
		return func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration) {
			t.Helper()
			w := store.Write{Value: []byte("value"), Fresh: fresh, Tags: []string{"tag"}, ContentType: "text/plain"}
			if fresh > 0 {
				w.Stale = stale
			}
			set(t, s, namespace, key, w)
		}
	}
	kinds := []kind{
		{"entry", 0, entry(0)},
		{"entry with a stale window", 10 * time.Minute, entry(10 * time.Minute)},
		{"plain value", 0, func(t *testing.T, s *store.Store, namespace, key string, fresh time.Duration) {
			t.Helper()
			args := []string{"value"}
			if fresh > 0 {
				args = append(args, "PX", fmt.Sprint(fresh.Milliseconds()))
			}
			s.Command(t, "SET", s.RedisKey(namespace, key), args...)
		}},
	}
	const never = 0
	tests := []struct {
		old, fresh time.Duration
		mode       store.TouchMode
		changed    bool
	}{
		{hour, day, store.TouchOverwrite, true},
		{day, hour, store.TouchOverwrite, true},
		{hour, never, store.TouchOverwrite, true},
		{never, hour, store.TouchOverwrite, true},
		{never, never, store.TouchOverwrite, true},
		{hour, day, store.TouchExtend, true},
		{day, hour, store.TouchExtend, false},
		{hour, never, store.TouchExtend, true},
		{never, hour, store.TouchExtend, false},
		{never, never, store.TouchExtend, false},
		{hour, day, store.TouchShorten, false},
		{day, hour, store.TouchShorten, true},
		{hour, never, store.TouchShorten, false},
		{never, hour, store.TouchShorten, true},
		{never, never, store.TouchShorten, false},
	}
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			for _, test := range tests {
				key := fmt.Sprintf("%s/%s from %v to %v", kind.name, test.mode, test.old, test.fresh)
				kind.make(t, s, namespace, key, test.old)
				unchanged := state(t, s, namespace, key)
				before := get(t, s, namespace, key, true).Entry
				asked := s.Now()
				found, changed, err := s.Touch(t.Context(), namespace, key, test.fresh, test.mode)
				if err != nil || !found || changed != test.changed {
					t.Errorf("%s: %v, %v, %v", key, found, changed, err)
					continue
				}
				if !changed {
					if diff := cmp.Diff(unchanged, state(t, s, namespace, key)); diff != "" {
						t.Errorf("%s: changed:\n%s", key, diff)
					}
					continue
				}
				after := get(t, s, namespace, key, true).Entry
				if after == nil {
					t.Errorf("%s: gone", key)
					continue
				}
				stale := kind.stale
				if test.old == never || test.fresh == never {
					stale = 0
				}
				left := expiry(t, s, namespace, key)
				if test.fresh == never {
					if !after.Soft.IsZero() || !after.Hard.IsZero() || left != noExpiry {
						t.Errorf("%s: ends at %v, %v, in %v", key, after.Soft, after.Hard, left)
					}
				} else if !about(after.Soft.Sub(asked), test.fresh) || after.Hard.Sub(after.Soft) != stale || !about(left, test.fresh+stale) {
					t.Errorf("%s: fresh for %v, stale for %v, kept for %v", key, after.Soft.Sub(asked), after.Hard.Sub(after.Soft), left)
				}
				rest := *after
				rest.Soft, rest.Hard = before.Soft, before.Hard
				if diff := cmp.Diff(before, &rest); diff != "" {
					t.Errorf("%s: changed more than the expiry:\n%s", key, diff)
				}
			}
		}
	})
}

func TestTouchOfNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, mode := range []store.TouchMode{store.TouchOverwrite, store.TouchExtend, store.TouchShorten} {
			found, changed, err := s.Touch(t.Context(), namespace, "key", time.Hour, mode)
			if err != nil || found || changed || get(t, s, namespace, "key", true).Entry != nil {
				t.Errorf("%s: %v, %v, %v", mode, found, changed, err)
			}
		}
	})
}

// TestTouchRevivesTheStale: an entry past its soft and within its hard expiry becomes fresh again, for both windows.
func TestTouchRevivesTheStale(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace, "key", store.Write{Value: []byte("value"), Fresh: time.Millisecond, Stale: time.Hour})
		eventually(t, "the entry is stale", func() bool { return s.Now().After(get(t, s, namespace, "key", true).Soft) })
		if found, changed, err := s.Touch(t.Context(), namespace, "key", time.Hour, store.TouchExtend); !found || !changed || err != nil {
			t.Fatal(found, changed, err)
		}
		e := get(t, s, namespace, "key", true).Entry
		if fresh := e.Soft.Sub(s.Now()); !about(fresh, time.Hour) || e.Hard.Sub(e.Soft) != time.Hour {
			t.Errorf("fresh for %v, stale for %v", fresh, e.Hard.Sub(e.Soft))
		}
	})
}

func TestPlainValuesAreRead(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
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
			redisKey := s.RedisKey(namespace, test.name)
			if test.ttl > 0 {
				s.Command(t, "SETEX", redisKey, fmt.Sprint(int(test.ttl.Seconds())), test.value)
			} else {
				s.Command(t, "SET", redisKey, test.value)
			}
			for _, read := range reads {
				e := read.get(t, s, namespace, test.name).Entry
				if e == nil {
					t.Fatalf("%s %s: nothing there", read.name, test.name)
				}
				if string(e.Value) != test.value || e.Negative || !e.AsOf.IsZero() || e.ETag == (store.ETag{}) {
					t.Errorf("%s %s: %+v", read.name, test.name, e)
				}
				if test.ttl == 0 && !e.Hard.IsZero() || test.ttl > 0 && (!about(e.Hard.Sub(s.Now()), test.ttl) || !e.Soft.Equal(e.Hard)) {
					t.Errorf("%s %s: ends at %v, %v", read.name, test.name, e.Soft, e.Hard)
				}
			}
		}
		s.Command(t, "SET", s.RedisKey(namespace, "short"), "value", "PX", "150")
		eventually(t, "the short plain value is gone", func() bool { return get(t, s, namespace, "short", true).Entry == nil })
	})
}

// TestPlainNamespace: keys of other clients are served under their own names, and Larder's own keys stay out of sight.
func TestPlainNamespace(t *testing.T) {
	t.Parallel()
	for _, mode := range []store.Mode{store.Standalone, store.Cluster, store.Sentinel, store.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := options(mode)
			o.PlainNamespace = newNamespace()
			s, plain := open(t, o), o.PlainNamespace
			prefix := plain + ":user:"
			key := prefix + "123"
			s.Command(t, "SETEX", key, "60", "alice")
			if e := get(t, s, plain, key, true).Entry; e == nil || string(e.Value) != "alice" || !about(e.Hard.Sub(s.Now()), time.Minute) {
				t.Errorf("read %v", e)
			}
			set(t, s, plain, prefix+"124", store.Write{Value: []byte("bob")})
			if s.Command(t, "GET", prefix+"124") == nil {
				t.Error("written under another key")
			}
			if _, err := s.Increment(t.Context(), plain, prefix+"125", store.Increment{Delta: 5}); err != nil {
				t.Fatal(err)
			}
			if v := s.Command(t, "GET", prefix+"125"); v != "5" {
				t.Errorf("the counter is %v", v)
			}
			set(t, s, plain+"-other", "ld:"+prefix, store.Write{Value: []byte("not to be seen")})
			s.Command(t, "HSET", prefix+"hash", "f", "v")

			want := map[string]bool{key: true, prefix + "124": true, prefix + "125": true}
			if diff := cmp.Diff(want, keySet(list(t, s, plain, prefix+"*", 100))); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			for _, pattern := range []string{"ld:*", "*" + prefix + "*"} {
				for _, k := range list(t, s, plain, pattern, 100) {
					if strings.HasPrefix(k, "ld:") {
						t.Errorf("%s shows %q", pattern, k)
					}
				}
			}
			if n := deleteMatching(t, s, plain, "*"+prefix+"*"); n != 3 {
				t.Errorf("deleted %d", n)
			}
			if e := get(t, s, plain+"-other", "ld:"+prefix, true).Entry; e == nil {
				t.Error("deleted an entry of another namespace")
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
			_, err := s.Get(ctx, namespace, "hash", false)
			return err
		}},
		{"near get", func(ctx context.Context, s *store.Store, namespace string) error {
			_, err := s.Get(ctx, namespace, "hash", true)
			return err
		}},
		{"set if absent", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Set(ctx, namespace, "hash", store.Write{}, store.Condition{Kind: store.IfAbsent})
			return err
		}},
		{"set if present", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Set(ctx, namespace, "hash", store.Write{}, store.Condition{Kind: store.IfPresent})
			return err
		}},
		{"set if match", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Set(ctx, namespace, "hash", store.Write{}, store.Condition{Kind: store.IfMatch})
			return err
		}},
		{"set if none match", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Set(ctx, namespace, "hash", store.Write{}, store.Condition{Kind: store.IfNoneMatch})
			return err
		}},
		{"delete if match", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Delete(ctx, namespace, "hash", &store.ETag{})
			return err
		}},
		{"touch", func(ctx context.Context, s *store.Store, namespace string) error {
			_, _, err := s.Touch(ctx, namespace, "hash", time.Minute, store.TouchOverwrite)
			return err
		}},
		{"increment", func(ctx context.Context, s *store.Store, namespace string) error {
			_, err := s.Increment(ctx, namespace, "hash", store.Increment{Delta: 1, Max: &one, Saturate: true})
			return err
		}},
	}
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		redisKey := s.RedisKey(namespace, "hash")
		s.Command(t, "HSET", redisKey, "field", "value")
		for _, op := range ops {
			err := op.run(t.Context(), s, namespace)
			if !errors.Is(err, store.ErrWrongType) || store.Retryable(err) {
				t.Errorf("%s: %v: %s", op.name, err, store.Cause(err))
			}
			if v := s.Command(t, "HGET", redisKey, "field"); v != "value" {
				t.Errorf("%s changed the hash: %v", op.name, v)
			}
			if left := s.Command(t, "PTTL", redisKey); left != int64(-1) {
				t.Errorf("%s gave the hash an expiry: %v", op.name, left)
			}
		}
		// SET and UNLINK do not ask what they replace, and neither do these.
		set(t, s, namespace, "hash", store.Write{Value: []byte("value")})
		if e := get(t, s, namespace, "hash", true).Entry; e == nil || string(e.Value) != "value" {
			t.Errorf("unconditional set over a hash: %v", e)
		}
	})
}

func TestEntriesOfLaterVersionsAreCorrupt(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		s.Command(t, "SET", s.RedisKey(namespace, "key"), "\xc1LD\x02"+strings.Repeat("x", 60))
		for _, near := range []bool{false, true} {
			if _, err := s.Get(t.Context(), namespace, "key", near); !errors.Is(err, store.ErrCorrupt) || store.Retryable(err) {
				t.Errorf("near %v: %v", near, err)
			}
		}
		set(t, s, namespace, "key", store.Write{Value: []byte("mended")})
		if e := get(t, s, namespace, "key", true).Entry; e == nil || string(e.Value) != "mended" {
			t.Errorf("after a set: %v", e)
		}
	})
}

// TestScriptsReadTheHeaderAsGoDoes: the scripts find the same etag and expiry in an entry as decoding it does, whatever
// the entry is made of, on Redis and on the embedded store.
func TestScriptsReadTheHeaderAsGoDoes(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		rapid.Check(t, func(t *rapid.T) {
			w := store.Write{
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
			if _, _, err := s.Set(context.Background(), namespace, "key", w, store.Condition{}); err != nil {
				t.Fatal(err)
			}
			found, err := s.Get(context.Background(), namespace, "key", true)
			if err != nil {
				t.Fatal(err)
			}
			want := found.ETag.String()
			stored, etag, err := s.Set(context.Background(), namespace, "key", store.Write{}, store.Condition{Kind: store.IfAbsent})
			if err != nil || stored || etag != want {
				t.Fatalf("the script sees etag %q, Go %q (%v, %v)", etag, want, stored, err)
			}
			// The old expiry is neither later nor earlier than itself.
			if !found.Hard.IsZero() {
				for mode, shift := range map[store.TouchMode]time.Duration{store.TouchExtend: -time.Second, store.TouchShorten: time.Second} {
					left := found.Soft.Sub(s.Now()) + shift
					if _, changed, err := s.Touch(context.Background(), namespace, "key", left, mode); err != nil || changed {
						t.Fatalf("%s from %v by %v: %v, %v", mode, found.Soft, shift, changed, err)
					}
				}
			}
			if deleted, _, err := s.Delete(context.Background(), namespace, "key", &found.ETag); err != nil || !deleted {
				t.Fatalf("delete with the etag that Go sees: %v, %v", deleted, err)
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
	stores := []*store.Store{open(f, options(store.Standalone)), open(f, options(store.Embedded))}
	namespace := newNamespace()
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, s := range stores {
			s.Command(t, "SET", s.RedisKey(namespace, "key"), string(raw))
			found, err := s.Get(t.Context(), namespace, "key", true)
			if err != nil && !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
			stored, etag, scriptErr := s.Set(t.Context(), namespace, "key", store.Write{}, store.Condition{Kind: store.IfAbsent})
			if scriptErr != nil || stored || err == nil && found.Entry != nil && etag != found.ETag.String() {
				t.Fatalf("the script sees etag %q, Go %v (%v, %v)", etag, found.Entry, stored, scriptErr)
			}
			if _, _, err := s.Touch(t.Context(), namespace, "key", time.Minute, store.TouchOverwrite); err != nil {
				t.Fatalf("touch: %v: %s", err, store.Cause(err))
			}
			if _, err := s.Increment(t.Context(), namespace, "key", store.Increment{Delta: 1}); err != nil &&
				!errors.Is(err, store.ErrNotCounter) && !errors.Is(err, store.ErrOverflow) {
				t.Fatalf("increment: %v: %s", err, store.Cause(err))
			}
		}
	})
}
