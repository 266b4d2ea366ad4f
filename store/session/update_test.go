package session_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func update(tb testing.TB, s *store.Store, namespace string, sess *session.Session, u session.Changes) session.Updated {
	tb.Helper()
	updated, err := s.Sessions.Update(tb.Context(), namespace, byID(sess), u)
	if err != nil {
		tb.Fatalf("Update: error %v: %s; want none", err, redis.Cause(err))
	}
	return updated
}

func TestUpdateSessionMakesEveryKindOfChangeAtOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"set": "1", "there": "1", "gone": "1", "count": "9007199254740993", "keep": "\x00"}
		token, sess := createSession(t, s, namespace, n)
		wantActive(t, s, namespace, token)
		got := update(t, s, namespace, sess, session.Changes{
			Set:         map[string]string{"set": "2"},
			SetIfAbsent: map[string]string{"there": "2", "b": "2", "a": ""},
			Increment:   map[string]int64{"count": 2, "fresh": -7},
			Delete:      []string{"gone", "never"}, ExpectedVersion: 1,
		})
		want := session.Updated{
			Version: 2, SetIfAbsent: []string{"a", "b"}, Incremented: map[string]int64{"count": 9007199254740995, "fresh": -7}, // exact above 2^53
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		attributes := map[string]string{"set": "2", "there": "1", "a": "", "b": "2", "count": "9007199254740995", "fresh": "-7", "keep": "\x00"}
		for _, near := range []bool{cached, primary} {
			if diff := cmp.Diff(attributes, validate(t, s, namespace, token, near).Attributes); diff != "" {
				t.Errorf("cached %t (-want +got):\n%s", near, diff)
			}
		}
		if got := emitted(t, s, namespace, "ann", "type=attributes_changed"); len(got) != 1 {
			t.Errorf("%d attributes_changed events, want 1", len(got))
		}
	})
}

// An update that changes nothing keeps the version and emits no event.
func TestUpdateThatChangesNothingIsNone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "1", "empty": ""}
		_, sess := createSession(t, s, namespace, n)
		for what, u := range map[string]session.Changes{
			"the same":         {Set: map[string]string{"a": "1", "empty": ""}},
			"present":          {SetIfAbsent: map[string]string{"a": "2"}},
			"add nothing":      {Increment: map[string]int64{"a": 0}},
			"delete none":      {Delete: []string{"b"}},
			"nothing at all":   {},
			"expected version": {Set: map[string]string{"a": "1"}, ExpectedVersion: 1},
		} {
			if got := update(t, s, namespace, sess, u); got.Version != 1 {
				t.Errorf("%s: version %d, want 1", what, got.Version)
			}
		}
		if diff := cmp.Diff(sess, getSession(t, s, namespace, sess.ID)); diff != "" {
			t.Errorf("the session changed, want it as before (-before +after):\n%s", diff)
		}
		if got := emitted(t, s, namespace, "ann", "type=attributes_changed"); len(got) != 0 {
			t.Errorf("%d attributes_changed events, want 0", len(got))
		}
		for what, u := range map[string]session.Changes{
			"another value": {Set: map[string]string{"empty": "x"}}, "an empty one": {SetIfAbsent: map[string]string{"c": ""}},
			"zero where there was none": {Increment: map[string]int64{"d": 0}}, "one less": {Delete: []string{"a"}},
		} {
			before := getSession(t, s, namespace, sess.ID).Version
			if got := update(t, s, namespace, sess, u); got.Version != before+1 {
				t.Errorf("%s: version %d, want %d", what, got.Version, before+1)
			}
		}
	})
}

func TestIncrementOfWhatIsNoCounterWritesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"most": fmt.Sprint(math.MaxInt64), "least": fmt.Sprint(math.MinInt64), "ok": "1"}
		notNumbers := []string{"", " 1", "1 ", "01", "+1", "-0", "1.0", "1e3", "0x1", "nan", "9223372036854775808", "-9223372036854775809", strings.Repeat("1", 100)}
		for i, text := range notNumbers {
			n.Attributes[fmt.Sprint("not", i)] = text
		}
		_, sess := createSession(t, s, namespace, n)
		refused := func(name string, delta int64, want error) {
			t.Helper()
			_, err := s.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{
				Set: map[string]string{"other": "x"}, Increment: map[string]int64{name: delta, "ok": 1}, Delete: []string{"not0"},
			})
			if !errors.Is(err, want) || redis.Retryable(err) {
				t.Errorf("increment of %s by %d: error %v: %s; want a final %v", name, delta, err, redis.Cause(err), want)
			}
		}
		for i := range notNumbers {
			refused(fmt.Sprint("not", i), 1, redis.ErrNotCounter)
		}
		refused("most", 1, redis.ErrOverflow)
		refused("least", -1, redis.ErrOverflow)
		refused("least", math.MinInt64, redis.ErrOverflow)
		if diff := cmp.Diff(sess, getSession(t, s, namespace, sess.ID)); diff != "" {
			t.Errorf("the session changed, want it as before (-before +after):\n%s", diff)
		}
		keys := sessionKeysOf(t, namespace, sess)
		if storetest.Command(t, s, "EXISTS", keys.attributes+":sum") != int64(0) {
			t.Error("the key for sums exists, want it removed")
		}
		got := update(t, s, namespace, sess, session.Changes{Increment: map[string]int64{"most": -1, "least": math.MaxInt64, "new": math.MinInt64}})
		want := map[string]int64{"most": math.MaxInt64 - 1, "least": -1, "new": math.MinInt64}
		if diff := cmp.Diff(want, got.Incremented); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// The limits hold for every kind of change.
func TestEveryChangeKeepsToTheLimitsOfAttributes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{}
		for i := range session.MaxAttributes - 1 {
			n.Attributes[fmt.Sprint("n", i)] = ""
		}
		n.Attributes["n0"] = strings.Repeat("x", 60000)
		_, sess := createSession(t, s, namespace, n)
		size := 0
		for name, value := range n.Attributes {
			size += len(name) + len(value)
		}
		left := session.MaxAttributeBytes - size - len("big")
		for what, u := range map[string]session.Changes{
			"two if absent":   {SetIfAbsent: map[string]string{"a": "", "b": ""}},
			"two counters":    {Increment: map[string]int64{"a": 1, "b": 1}},
			"a byte too much": {SetIfAbsent: map[string]string{"big": strings.Repeat("x", left+1)}},
		} {
			if _, err := s.Sessions.Update(t.Context(), namespace, byID(sess), u); !errors.Is(err, session.ErrTooManyAttributes) {
				t.Errorf("%s: error %v, want ErrTooManyAttributes", what, err)
			}
		}
		if got := getSession(t, s, namespace, sess.ID); got.Version != 1 {
			t.Errorf("version %d after refused updates, want 1", got.Version)
		}
		if got := update(t, s, namespace, sess, session.Changes{SetIfAbsent: map[string]string{"big": strings.Repeat("x", left)}}); got.Version != 2 {
			t.Errorf("version %d after an update to exactly the limit, want 2", got.Version)
		}
	})
}

func TestVersionMismatchTellsTheVersion(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		for range 4 {
			update(t, s, namespace, sess, session.Changes{Increment: map[string]int64{"n": 1}})
		}
		_, err := s.Sessions.Update(t.Context(), namespace, byToken(token), session.Changes{Set: map[string]string{"a": "b"}, ExpectedVersion: 4})
		var mismatch *session.VersionMismatchError
		if !errors.As(err, &mismatch) || mismatch.Version != 5 || !errors.Is(err, session.ErrVersionMismatch) {
			t.Errorf("error %v, want a VersionMismatchError with version 5", err)
		}
	})
}

// Increments through two replicas add up, and each call returns a different sum.
func TestParallelIncrementsAddUp(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		_, sess := createSession(t, a, namespace, sessionOf("ann"))
		var sums [101]atomic.Int64
		adds := make([]func(), 100)
		for i := range adds {
			s := []*store.Store{a, b}[i%2]
			adds[i] = func() {
				got, err := s.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{Increment: map[string]int64{"n": 1}})
				if sum := got.Incremented["n"]; err == nil && sum >= 1 && sum <= 100 {
					sums[sum].Add(1)
				} else {
					t.Errorf("Update = %v, %v; want a sum from 1 to 100, no error", got, err)
				}
			}
		}
		atOnce(adds...)
		for sum := 1; sum <= 100; sum++ {
			if n := sums[sum].Load(); n != 1 {
				t.Errorf("%d callers got the sum %d, want 1", n, sum)
			}
		}
		if got := getSession(t, b, namespace, sess.ID); got.Attributes["n"] != "100" || got.Version != 101 {
			t.Errorf("attributes = %v, version %d; want n 100, version 101", got.Attributes, got.Version)
		}
	})
}

func TestSetIfAbsentHasOneWinner(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 20 {
			_, sess := createSession(t, a, namespace, sessionOf("ann"))
			var winner atomic.Value
			var winners atomic.Int64
			sets := make([]func(), 16)
			for i := range sets {
				s, value := []*store.Store{a, b}[i%2], fmt.Sprint(i)
				sets[i] = func() {
					got, err := s.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{SetIfAbsent: map[string]string{"a": value}})
					if err != nil || got.Version != 2 {
						t.Errorf("Update = %v, %v; want version 2, no error", got, err)
					}
					if len(got.SetIfAbsent) == 1 {
						winners.Add(1)
						winner.Store(value)
					}
				}
			}
			atOnce(sets...)
			if got := getSession(t, b, namespace, sess.ID); winners.Load() != 1 || got.Attributes["a"] != winner.Load() {
				t.Fatalf("%d winners, the last with %v, attributes %v; want 1 winner with its value stored", winners.Load(), winner.Load(), got.Attributes)
			}
		}
	})
}

func TestUpdateSessionMergesAttributes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"keep": "1", "change": "1", "drop": "1"}
		token, sess := createSession(t, s, namespace, n)
		wantActive(t, s, namespace, token) // so that the near cache holds what is about to change

		v := updateSession(t, s, namespace, byToken(token), session.Changes{
			Set: map[string]string{"change": "2", "add": "\x00"}, Delete: []string{"drop", "absent"},
		})
		if v != 2 {
			t.Errorf("version %d, want 2", v)
		}
		want := map[string]string{"keep": "1", "change": "2", "add": "\x00"}
		for _, near := range []bool{cached, primary} {
			got := validate(t, s, namespace, token, near)
			if diff := cmp.Diff(want, got.Attributes); diff != "" || got.Version != 2 {
				t.Errorf("cached %t: version %d, (-want +got):\n%s", near, got.Version, diff)
			}
		}
		v = updateSession(t, s, namespace, byID(sess), session.Changes{Delete: []string{"keep", "change", "add"}})
		if got := getSession(t, s, namespace, sess.ID); v != 3 || got.Version != 3 || len(got.Attributes) != 0 {
			t.Errorf("Update = version %d, Get = %+v; want version 3 without attributes", v, got)
		}
	})
}

func TestUpdateSessionConcurrentlyKeepsEveryAttribute(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sess := createSession(t, s, namespace, sessionOf("ann"))
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				name := fmt.Sprint("a", i)
				if _, err := s.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{Set: map[string]string{name: name}}); err != nil {
					t.Errorf("Update: error %v, want none", err)
				}
			})
		}
		wg.Wait()
		if got := getSession(t, s, namespace, sess.ID); len(got.Attributes) != 32 || got.Version != 33 {
			t.Errorf("%d attributes, version %d; want 32 and 33", len(got.Attributes), got.Version)
		}
	})
}

func TestUpdateSessionOfAnotherVersionWritesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "1"}
		_, sess := createSession(t, s, namespace, n)
		for _, version := range []int64{2, 1 << 40} {
			u := session.Changes{Set: map[string]string{"a": "2"}, Delete: []string{"a"}, ExpectedVersion: version}
			if _, err := s.Sessions.Update(t.Context(), namespace, byID(sess), u); !errors.Is(err, session.ErrVersionMismatch) || redis.Retryable(err) {
				t.Errorf("Update that expects version %d: error %v, want a final ErrVersionMismatch", version, err)
			}
		}
		if diff := cmp.Diff(sess, getSession(t, s, namespace, sess.ID)); diff != "" {
			t.Errorf("a refused update changed the session, want it as before (-before +after):\n%s", diff)
		}
		// Of several updates that expect the same version, one succeeds.
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				u := session.Changes{Set: map[string]string{"a": fmt.Sprint("by ", i)}, ExpectedVersion: 1}
				_, errs[i] = s.Sessions.Update(t.Context(), namespace, byID(sess), u)
			})
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
				if got := getSession(t, s, namespace, sess.ID); got.Attributes["a"] != fmt.Sprint("by ", i) || got.Version != 2 {
					t.Errorf("session after update %d won = %+v, want its attribute and version 2", i, got)
				}
			case !errors.Is(err, session.ErrVersionMismatch):
				t.Errorf("Update: error %v, want ErrVersionMismatch", err)
			}
		}
		if won != 1 {
			t.Errorf("%d updates of version 1 won, want 1", won)
		}
	})
}

func TestUpdateSessionKeepsToTheLimits(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		update := func(sess *session.Session, u session.Changes) error {
			_, err := s.Sessions.Update(t.Context(), namespace, byID(sess), u)
			return err
		}
		refused := func(sess *session.Session, u session.Changes) {
			t.Helper()
			before := getSession(t, s, namespace, sess.ID)
			if err := update(sess, u); !errors.Is(err, session.ErrTooManyAttributes) || redis.Retryable(err) {
				t.Errorf("Update over the limit: error %v, want a final ErrTooManyAttributes", err)
			}
			if diff := cmp.Diff(before, getSession(t, s, namespace, sess.ID)); diff != "" {
				t.Errorf("a refused update changed the session, want it as before (-before +after):\n%s", diff)
			}
		}
		accepted := func(sess *session.Session, u session.Changes) {
			t.Helper()
			if err := update(sess, u); err != nil {
				t.Errorf("Update within the limit: error %v, want none", err)
			}
		}
		set := func(name, value string) session.Changes {
			return session.Changes{Set: map[string]string{name: value}}
		}

		n := sessionOf("ann")
		n.Attributes = map[string]string{}
		for i := range session.MaxAttributes - 1 {
			n.Attributes[fmt.Sprint("n", i)] = ""
		}
		_, many := createSession(t, s, namespace, n)
		accepted(many, set("last", ""))
		refused(many, set("one more", ""))
		accepted(many, set("last", "again"))
		accepted(many, session.Changes{Set: map[string]string{"other": ""}, Delete: []string{"last"}})

		_, large := createSession(t, s, namespace, sessionOf("ann"))
		accepted(large, set("name", strings.Repeat("x", session.MaxAttributeBytes-len("name")-1)))
		accepted(large, set("1", "")) // to the byte
		refused(large, set("2", ""))
		refused(large, set("1", "2"))
		refused(large, set("name", strings.Repeat("x", session.MaxAttributeBytes-len("name"))))
		accepted(large, session.Changes{Set: map[string]string{"2": ""}, Delete: []string{"1"}})
	})
}

func TestEndedSessionTakesNoUpdate(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "1"}
		token, sess := createSession(t, s, namespace, n)
		age(t, s, namespace, sess, 61*time.Minute)
		keys := sessionKeysOf(t, namespace, sess)
		for _, target := range []session.Target{byID(sess), byToken(token)} {
			if v := updateSession(t, s, namespace, target, session.Changes{Set: map[string]string{"a": "2"}}); v != 0 {
				t.Errorf("Update of an expired session = version %d, want 0", v)
			}
		}
		if a, v := storetest.Command(t, s, "HGET", keys.attributes, "a"), storetest.Command(t, s, "HGET", keys.record, "v"); a != "1" || v != "1" {
			t.Errorf("attribute %v, version %v; want nothing written", a, v)
		}
		if revokeSession(t, s, namespace, byToken(token)) {
			t.Error("Revoke of an expired session = true, want false")
		}
	})
}
