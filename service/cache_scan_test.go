package service

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// fill writes plain values k0 to k<n-1> into a namespace.
func (a *api) fill(t testing.TB, namespace string, n int) {
	t.Helper()
	a.do(t, "EVAL", `for i = 0, ARGV[2] - 1 do redis.call('SET', 'ld:c:{' .. ARGV[1] .. ':k' .. i .. '}', 'v') end`, "0", namespace, strconv.Itoa(n))
}

// left lists every key of a namespace.
func (a *api) left(t testing.TB, namespace string) (keys []string) {
	t.Helper()
	r := &cachev1.ListKeysRequest{Namespace: namespace, PageSize: 1000}
	for {
		page := must[*cachev1.ListKeysResponse](t)(a.cache.ListKeys(t.Context(), r))
		keys = append(keys, page.Keys...)
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			slices.Sort(keys)
			return slices.Compact(keys)
		}
	}
}

// walk makes a call and returns its messages, ending it after a number of them.
func (a *api) walk(t testing.TB, r *cachev1.DeleteMatchingRequest, most int) (all []*cachev1.DeleteMatchingResponse) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := a.cache.DeleteMatching(ctx, r)
	if err != nil {
		t.Fatalf("DeleteMatching = %v, want a stream", err)
	}
	for len(all) < most {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("Recv = %v, want a message or the end", err)
		}
		all = append(all, m)
	}
	return all
}

func TestDeleteMatching(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})

	t.Run("ReportsProgress", func(t *testing.T) {
		t.Parallel()
		a.fill(t, "all", 3000)
		a.fill(t, "all-other", 10)
		before := int64(0)
		messages := a.walk(t, &cachev1.DeleteMatchingRequest{Namespace: "all", Pattern: "*"}, math.MaxInt)
		for i, m := range messages {
			last := i == len(messages)-1
			if m.DeletedCount < before || m.Done != last || (m.ResumeToken == "") != last {
				t.Errorf("message %d of %d = %v after a count of %d, want a count that does not fall and done at the end only", i, len(messages), m, before)
			}
			before = m.DeletedCount
		}
		if before != 3000 || len(messages) < 3 {
			t.Errorf("removed %d keys in %d messages, want 3000 in at least 3", before, len(messages))
		}
		if n, m := len(a.left(t, "all")), len(a.left(t, "all-other")); n != 0 || m != 10 {
			t.Errorf("%d keys are left and %d of another namespace, want 0 and 10", n, m)
		}
	})

	t.Run("GoesOnFromAToken", func(t *testing.T) {
		t.Parallel()
		a.fill(t, "resume", 5000)
		r := &cachev1.DeleteMatchingRequest{Namespace: "resume", Pattern: "k*"}
		first := a.walk(t, r, 1)[0]
		if first.Done || first.ResumeToken == "" {
			t.Fatalf("first message = %v, want a resume token", first)
		}
		r.ResumeToken = first.ResumeToken
		rest := a.walk(t, r, math.MaxInt)
		last := rest[len(rest)-1]
		// The walk that was ended may have gone a step further than it could say.
		if n := first.DeletedCount + last.DeletedCount; !last.Done || n > 5000 || n < 5000-3*1100 || len(a.left(t, "resume")) != 0 {
			t.Errorf("messages = %v and then %v with %d keys left, want about 5000 removed in all and none left", first, last, len(a.left(t, "resume")))
		}
		for _, other := range []*cachev1.DeleteMatchingRequest{
			{Namespace: "resume", Pattern: "x*", ResumeToken: first.ResumeToken},
			{Namespace: "other", Pattern: "k*", ResumeToken: first.ResumeToken},
			{Namespace: "resume", Pattern: "k*", ResumeToken: first.ResumeToken + "x"},
			{Namespace: "resume", Pattern: "k*", ResumeToken: "?"},
		} {
			stream, err := a.cache.DeleteMatching(t.Context(), other)
			if err != nil {
				t.Fatalf("DeleteMatching = %v, want a stream", err)
			}
			_, err = stream.Recv()
			wantAnswer(t, err, noToken)
		}
	})
}

// Patterns mean the same to every Redis, and nothing that a caller writes ends the embedded one.
func TestPatterns(t *testing.T) {
	t.Parallel()
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		testPatterns(t, newAPI(t, policy.Limits{}), "ä") // which the embedded store takes for one character, and not for two bytes
	})
	t.Run("Embedded", func(t *testing.T) {
		t.Parallel()
		testPatterns(t, serveStore(t, store.Options{Redis: redis.Options{Mode: redis.Embedded}}, policy.Limits{}))
	})
}

func testPatterns(t *testing.T, a *api, more ...string) {
	keys := append([]string{"a", "b", "c", "ab", "a*", "a?", "[a]", `a\`, `a\E(`, "a-", "x:{y}"}, more...)
	for i, tt := range []struct {
		pattern string
		want    []string // in order
	}{
		{"a", []string{"a"}},
		{"a*", []string{"a", "a*", "a-", "a?", `a\`, `a\E(`, "ab"}},
		{`a\*`, []string{"a*"}},
		{`a\?`, []string{"a?"}},
		{"a?", []string{"a*", "a-", "a?", `a\`, "ab"}},
		{`\[a]`, []string{"[a]"}},
		{`a\\`, []string{`a\`}},
		{`a\\E(`, []string{`a\E(`}},
		{`\a`, []string{"a"}},
		{"[a-b]", []string{"a", "b"}},
		{"[ac]", []string{"a", "c"}},
		{"[^a]", []string{"b", "c"}},
		{"[^a-b]", []string{"c"}},
		{`a[\\*]`, []string{"a*", `a\`}},
		{`a[b\-]`, []string{"a-", "ab"}},
		{`a[-b]`, []string{"a-", "ab"}},
		{`\[[a]\]`, []string{"[a]"}},
		{"x:{*}", []string{"x:{y}"}},
		{"*}", []string{"x:{y}"}},
		{"ä", more},
		{"none", nil},
	} {
		namespace := "p" + strconv.Itoa(i)
		var left []string
		for _, key := range keys {
			a.set(t, &cachev1.SetRequest{Namespace: namespace, Key: key})
			if !slices.Contains(tt.want, key) {
				left = append(left, key)
			}
		}
		slices.Sort(left)
		listed := must[*cachev1.ListKeysResponse](t)(a.cache.ListKeys(t.Context(), &cachev1.ListKeysRequest{
			Namespace: namespace, Pattern: tt.pattern, PageSize: 1000,
		})).Keys
		slices.Sort(listed)
		if diff := cmp.Diff(tt.want, listed, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("ListKeys(%s) (-want +got):\n%s", tt.pattern, diff)
		}
		messages := a.walk(t, &cachev1.DeleteMatchingRequest{Namespace: namespace, Pattern: tt.pattern}, math.MaxInt)
		if diff := cmp.Diff(left, a.left(t, namespace)); diff != "" || messages[len(messages)-1].DeletedCount != int64(len(tt.want)) {
			t.Errorf("DeleteMatching(%s) removed %v, want %d, and left (-want +got):\n%s", tt.pattern, messages, len(tt.want), diff)
		}
	}
}

func TestListKeys(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{PlainNamespace: "plain"})
	a.fill(t, "list", 2500)
	a.fill(t, "listed", 10)

	for _, size := range []int32{0, 1, 100, 1000, 1001, math.MaxInt32} {
		want := 100
		if size > 0 {
			want = int(min(size, 1000))
		}
		seen, pages, token := map[string]bool{}, 0, ""
		for {
			page := must[*cachev1.ListKeysResponse](t)(a.cache.ListKeys(t.Context(), &cachev1.ListKeysRequest{Namespace: "list", PageSize: size, PageToken: token}))
			if n := len(page.Keys); n > 2*want+10 {
				t.Errorf("size %d: a page has %d keys, want at most %d", size, n, 2*want+10)
			}
			for _, key := range page.Keys {
				seen[key] = true
			}
			pages++
			if token = page.NextPageToken; token == "" || size == 1 && pages == 20 {
				break
			}
		}
		if size != 1 && len(seen) != 2500 || pages < min(20, 2500/(2*want+10)) {
			t.Errorf("size %d: %d keys on %d pages, want 2500 on at least %d", size, len(seen), pages, min(20, 2500/(2*want+10)))
		}
		for key := range seen {
			if !strings.HasPrefix(key, "k") {
				t.Fatalf("ListKeys lists %q, want keys that begin with k", key)
			}
		}
	}

	token := must[*cachev1.ListKeysResponse](t)(a.cache.ListKeys(t.Context(), &cachev1.ListKeysRequest{Namespace: "list"})).NextPageToken
	for _, r := range []*cachev1.ListKeysRequest{
		{Namespace: "list", Pattern: "k*", PageToken: token},
		{Namespace: "other", PageToken: token},
		{Namespace: "list", PageToken: token + "A"},
		{Namespace: "list", PageToken: token[1:]},
		{Namespace: "list", PageToken: "\x00"},
	} {
		_, err := a.cache.ListKeys(t.Context(), r)
		wantAnswer(t, err, noToken)
	}
	same(t, &cachev1.ListKeysResponse{}, must[*cachev1.ListKeysResponse](t)(a.cache.ListKeys(t.Context(), &cachev1.ListKeysRequest{Namespace: "empty"})))
}

// In the plain namespace there is what others wrote. Larder's own keys are not in it, and a key that no request can name
// must not keep the others from being listed.
func TestListKeysOfOthers(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{PlainNamespace: "plain"})
	a.set(t, &cachev1.SetRequest{Namespace: "other", Key: "own"})
	a.do(t, "SET", "user:1", "v")
	a.do(t, "LPUSH", "queue", "v")
	a.do(t, "SET", "binary:\xff\xfe", "v")
	if diff := cmp.Diff([]string{"user:1"}, a.left(t, "plain")); diff != "" {
		t.Errorf("ListKeys (-want +got):\n%s", diff)
	}
}
