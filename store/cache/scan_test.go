package cache_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// list walks all pages.
func list(tb testing.TB, s *store.Store, namespace, pattern string, count int) []string {
	tb.Helper()
	var all []string
	token := ""
	for range 10000 {
		keys, next, err := s.Cache.ListKeys(tb.Context(), namespace, pattern, token, count)
		if err != nil {
			tb.Fatalf("ListKeys of %q: error %v, want none: %s", pattern, err, redis.Cause(err))
		}
		all = append(all, keys...)
		if token = next; token == "" {
			return all
		}
	}
	tb.Fatal("ListKeys returned 10,000 pages and another token, want an end")
	return nil
}

func keySet(keys []string) map[string]bool {
	set := make(map[string]bool, len(keys))
	for _, k := range keys {
		set[k] = true
	}
	return set
}

// deleteMatching walks to the end and returns how many entries were removed.
func deleteMatching(tb testing.TB, s *store.Store, namespace, pattern string) (deleted int64) {
	tb.Helper()
	done := false
	err := s.Cache.DeleteMatching(tb.Context(), namespace, pattern, "", func(n int64, next string) error {
		if n < deleted || done {
			tb.Errorf("progress from %d to %d, after the end: %v, want it to grow until the end", deleted, n, done)
		}
		deleted, done = n, next == ""
		return nil
	})
	if err != nil || !done {
		tb.Fatalf("DeleteMatching of %q: error %v, done %v, want done", pattern, err, done)
	}
	return deleted
}

func TestListKeysFindsEveryKey(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		keys := storetest.Keys(many(s, 3000))
		storetest.Fill(t, s, namespace, keys)
		storetest.Fill(t, s, namespace+"-other", keys[:100])
		storetest.Command(t, s, "HSET", s.Cache.RedisKey(namespace, "not an entry"), "f", "v")
		for _, pattern := range []string{"", "*", "key-*"} {
			if diff := cmp.Diff(keySet(keys), keySet(list(t, s, namespace, pattern, 200))); diff != "" {
				t.Errorf("keys that match %q (-want +got):\n%s", pattern, diff)
			}
		}
		if s.Redis.Mode() == redis.Embedded {
			return // it answers everything in one page
		}
		page, next, err := s.Cache.ListKeys(t.Context(), namespace, "", "", 100)
		if err != nil || next == "" || len(page) > 200 {
			t.Errorf("ListKeys of a page of 100 = %d keys, token %q, %v, want at most 200 keys and a token", len(page), next, err)
		}
	})
}

// TestListKeysWhileKeysComeAndGo: what is there during the whole walk is listed.
func TestListKeysWhileKeysComeAndGo(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		keys := storetest.Keys(many(s, 1000))
		storetest.Fill(t, s, namespace, keys)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				passing := []string{fmt.Sprintf("passing-%d", i), fmt.Sprintf("passing-%d", i+1)}
				storetest.Fill(t, s, namespace, passing)
				if _, err := s.Cache.BatchDelete(t.Context(), namespace, passing[:1]); err != nil {
					t.Errorf("BatchDelete: error %v, want none", err)
				}
			}
		}()
		for range 3 {
			found := keySet(list(t, s, namespace, "", 50))
			for _, k := range keys {
				if !found[k] {
					t.Errorf("ListKeys did not list %s, want every key that was there throughout", k)
				}
			}
		}
		close(stop)
		<-stopped
	})
}

// TestListKeysIsBounded: in a database full of other keys one page does little work, so that it is answered before the
// caller's deadline and its token leads on.
func TestListKeysIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	storetest.Fill(t, s, "others", storetest.Keys(30000))
	storetest.Fill(t, s, "few", storetest.Keys(3))
	server.ResetCommandCalls(t)
	_, next, err := s.Cache.ListKeys(t.Context(), "few", "", "", 10)
	if err != nil || next == "" {
		t.Fatalf("ListKeys = token %q, %v, want a token", next, err)
	}
	if scans := server.CommandCalls(t)["scan"]; scans > 200 {
		t.Errorf("one page made %d steps, want at most 200", scans)
	}
	if diff := cmp.Diff(keySet(storetest.Keys(3)), keySet(list(t, s, "few", "", 10))); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestPatterns(t *testing.T) {
	keys := []string{
		"a", "b", "ab", "abc", "b1", "a*", "a?", "a[b]", `a\`, "a^", "{", "}", "{a}", "a}b", "a:b", "a\nb", "\r\n", "é", "日本", "-", "]", "[",
	}
	tests := []struct {
		pattern string
		want    []string
	}{
		{"a", []string{"a"}},
		{"a?", []string{"ab", "a*", "a?", `a\`, "a^"}},
		{"a*", []string{"a", "ab", "abc", "a*", "a?", "a[b]", `a\`, "a^", "a}b", "a:b", "a\nb"}},
		{"*b", []string{"b", "ab", "a}b", "a:b", "a\nb"}},
		{"[ab]", []string{"a", "b"}},
		{"[a-c]", []string{"a", "b"}},
		{"b[0-9]", []string{"b1"}},
		{`a\*`, []string{"a*"}},
		{`a\?`, []string{"a?"}},
		{`a\[b\]`, []string{"a[b]"}},
		{`a\\`, []string{`a\`}},
		{"a*b*", []string{"ab", "abc", "a[b]", "a}b", "a:b", "a\nb"}},
		{"}", []string{"}"}},
		{"{", []string{"{"}},
		{"{a}", []string{"{a}"}},
		{"*}", []string{"}", "{a}"}},
		{"a\nb", []string{"a\nb"}},
		{"日*", []string{"日本"}},
		{"absent*", nil},
		{"A", nil},
		// A pattern must not break out of its namespace.
		{"a} x*", nil},
		{"*}*{*", nil},
	}
	bytes := []struct {
		pattern string
		want    []string
	}{
		{"??", []string{"ab", "b1", "a*", "a?", `a\`, "a^", "\r\n", "é"}},
		{"[^a-c]", []string{"{", "}", "-", "]", "["}},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		tests := slices.Clone(tests)
		if s.Redis.Mode() != redis.Embedded { // which takes characters where Redis takes bytes
			tests = append(tests, bytes...)
		}
		storetest.Fill(t, s, namespace, keys)
		storetest.Fill(t, s, namespace+"-other", keys)
		for _, test := range tests {
			if diff := cmp.Diff(keySet(test.want), keySet(list(t, s, namespace, test.pattern, 1000))); diff != "" {
				t.Errorf("keys that match %q (-want +got):\n%s", test.pattern, diff)
			}
		}
		for _, test := range tests {
			namespace := storetest.NewNamespace()
			storetest.Fill(t, s, namespace, keys)
			if n := deleteMatching(t, s, namespace, test.pattern); n != int64(len(test.want)) {
				t.Errorf("DeleteMatching of %q deleted %d entries, want %d", test.pattern, n, len(test.want))
			}
			left := keySet(keys)
			for _, k := range test.want {
				delete(left, k)
			}
			if diff := cmp.Diff(left, keySet(list(t, s, namespace, "", 1000))); diff != "" {
				t.Errorf("keys left by DeleteMatching of %q (-want +got):\n%s", test.pattern, diff)
			}
		}
		if got := list(t, s, namespace+"-other", "", 100); len(keySet(got)) != len(keys) {
			t.Errorf("%d keys are left in the other namespace, want %d", len(got), len(keys))
		}
	})
}

func TestPageTokens(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Fill(t, s, namespace, storetest.Keys(500))
		_, token, err := s.Cache.ListKeys(t.Context(), namespace, "key-*", "", 10)
		if err != nil {
			t.Fatalf("ListKeys: error %v, want none", err)
		}
		if s.Redis.Mode() == redis.Embedded {
			token = base64.RawURLEncoding.EncodeToString(make([]byte, 20))
		} else if _, _, err = s.Cache.ListKeys(t.Context(), namespace, "key-*", token, 10); err != nil {
			t.Errorf("ListKeys with its own token: error %v, want none", err)
		}
		tests := []struct{ name, namespace, pattern, token string }{
			{"another namespace", namespace + "-other", "key-*", token},
			{"another pattern", namespace, "key-1*", token},
			{"no pattern", namespace, "", token},
			{"cut short", namespace, "key-*", token[:len(token)-2]},
			{"too long", namespace, "key-*", token + "AAAA"},
			{"broken in two", namespace, "key-*", token[:9] + "\n" + token[9:]},
			{"garbage", namespace, "key-*", "garbage"},
			{"not base64", namespace, "key-*", "!" + token[1:]},
			{"padded", namespace, "key-*", token + "="},
			{"zeros", namespace, "key-*", base64.RawURLEncoding.EncodeToString(make([]byte, 20))},
			{"empty but for a space", namespace, "key-*", " "},
		}
		for _, test := range tests {
			if _, _, err := s.Cache.ListKeys(t.Context(), test.namespace, test.pattern, test.token, 10); !errors.Is(err, redis.ErrPageToken) || redis.Retryable(err) {
				t.Errorf("ListKeys, %s: error %v, want %v, not retryable", test.name, err, redis.ErrPageToken)
			}
			err := s.Cache.DeleteMatching(t.Context(), test.namespace, test.pattern, test.token, func(int64, string) error { return nil })
			if !errors.Is(err, redis.ErrPageToken) {
				t.Errorf("DeleteMatching, %s: error %v, want %v", test.name, err, redis.ErrPageToken)
			}
		}
		if n := len(keySet(list(t, s, namespace, "", 1000))); n != 500 {
			t.Errorf("%d keys are left, want 500", n)
		}
	})
}

// TestPageTokenTellsNothing: addresses, keys and patterns are nobody's business.
func TestPageTokenTellsNothing(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.Options(t, redis.Cluster))
	namespace := storetest.NewNamespace()
	storetest.Fill(t, s, namespace, storetest.Keys(500))
	_, token, err := s.Cache.ListKeys(t.Context(), namespace, "key-*", "", 10)
	if err != nil {
		t.Fatalf("ListKeys: error %v, want none", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatalf("decode the token %q: error %v, want none", token, err)
	}
	for _, secret := range append(storetest.Cluster(t).Addrs(), "127.0.0.1", "key-", namespace) {
		if strings.Contains(string(raw), secret) {
			t.Errorf("the token holds %q, want neither addresses nor keys in it", secret)
		}
	}
}

func TestDeleteMatchingResumes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		keys := storetest.Keys(many(s, 3000))
		storetest.Fill(t, s, namespace, keys)
		storetest.Fill(t, s, namespace, []string{"other"})
		interrupted := errors.New("the caller went away")
		var total int64
		token, calls := "", 0
		for done := false; !done; calls++ {
			var deleted int64
			err := s.Cache.DeleteMatching(t.Context(), namespace, "key-*", token, func(n int64, next string) error {
				deleted, token, done = n, next, next == ""
				return interrupted
			})
			if !errors.Is(err, interrupted) || calls > len(keys) {
				t.Fatalf("DeleteMatching, call %d: error %v, want %v and an end", calls, err, interrupted)
			}
			total += deleted
		}
		if total != int64(len(keys)) {
			t.Errorf("deleted %d in all, want %d", total, len(keys))
		}
		if calls < 3 && s.Redis.Mode() != redis.Embedded {
			t.Errorf("deleted in %d steps, want at least 3", calls)
		}
		if diff := cmp.Diff([]string{"other"}, list(t, s, namespace, "", 100)); diff != "" {
			t.Errorf("keys left (-want +got):\n%s", diff)
		}
	})
}

func TestDeleteMatchingOfACancelledCaller(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Fill(t, s, namespace, storetest.Keys(10))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := s.Cache.DeleteMatching(ctx, namespace, "*", "", func(int64, string) error { return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("DeleteMatching: error %v, want %v", err, context.Canceled)
		}
		if n := len(list(t, s, namespace, "", 100)); n != 10 {
			t.Errorf("%d keys are left, want 10", n)
		}
	})
}

func TestDeleteMatchingLeavesOtherTypesAlone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Fill(t, s, namespace, storetest.Keys(3))
		hash := s.Cache.RedisKey(namespace, "key-hash")
		storetest.Command(t, s, "HSET", hash, "f", "v")
		if n := deleteMatching(t, s, namespace, "key-*"); n != 3 {
			t.Errorf("DeleteMatching deleted %d entries, want 3", n)
		}
		if v := storetest.Command(t, s, "HGET", hash, "f"); v != "v" {
			t.Errorf("the hash holds %v, want v", v)
		}
	})
}
