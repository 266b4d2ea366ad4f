package service

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

var (
	wrongType = answer{Code: codes.FailedPrecondition, Reason: "WRONG_TYPE"}
	noToken   = answer{Code: codes.InvalidArgument, Reason: "PAGE_TOKEN_INVALID"}
)

// set writes an entry that has to be stored and returns its etag.
func (a *api) set(t testing.TB, r *cachev1.SetRequest) string {
	t.Helper()
	resp := must[*cachev1.SetResponse](t)(a.cache.Set(t.Context(), r))
	if resp.Outcome != cachev1.SetOutcome_SET_OUTCOME_STORED || !isETag(resp.Etag) {
		t.Fatalf("Set(%s) = %v, want STORED with an etag", r.Key, resp)
	}
	return resp.Etag
}

func (a *api) get(t testing.TB, r *cachev1.GetRequest) *cachev1.GetResponse {
	t.Helper()
	return must[*cachev1.GetResponse](t)(a.cache.Get(t.Context(), r))
}

// primary reads from Redis.
func (a *api) primary(t testing.TB, namespace, key string) *cachev1.GetResponse {
	t.Helper()
	return a.get(t, &cachev1.GetRequest{Namespace: namespace, Key: key, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY})
}

func isETag(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}

func same(t testing.TB, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// secs is a duration of seconds.
func secs(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }

func setTTL(d time.Duration) *cachev1.SetRequest_Ttl {
	return &cachev1.SetRequest_Ttl{Ttl: durationpb.New(d)}
}

func TestGet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{PlainNamespace: "plain"})

	t.Run("Miss", func(t *testing.T) {
		t.Parallel()
		for range 2 { // the second time from the near cache
			same(t, &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_MISS}, a.get(t, &cachev1.GetRequest{Namespace: "miss", Key: "k"}))
		}
	})

	t.Run("Hit", func(t *testing.T) {
		t.Parallel()
		etag := a.set(t, &cachev1.SetRequest{
			Namespace: "hit", Key: "k", Value: []byte("v\x00\xff"), Expiry: setTTL(time.Minute), StaleTtl: secs(1800),
			ContentType: "text/plain", Tags: []string{"a"},
		})
		for _, source := range []cachev1.Source{
			cachev1.Source_SOURCE_REDIS, cachev1.Source_SOURCE_NEAR_CACHE, cachev1.Source_SOURCE_NEAR_CACHE, cachev1.Source_SOURCE_REDIS,
		} {
			r := &cachev1.GetRequest{Namespace: "hit", Key: "k"}
			if source == cachev1.Source_SOURCE_REDIS {
				r.Consistency = cachev1.Consistency_CONSISTENCY_PRIMARY
			} else if got := a.get(t, r); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_HIT {
				t.Fatalf("Get = %v, want HIT", got) // and now it is near
			}
			got := a.get(t, r)
			remains(t, "ttl", &got.Ttl, time.Minute)
			remains(t, "stale_ttl", &got.StaleTtl, 30*time.Minute)
			elapsed(t, "age", &got.Age)
			same(t, &cachev1.GetResponse{
				Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT, Value: []byte("v\x00\xff"), Etag: etag, Source: source, ContentType: "text/plain",
				Tags: []string{"a"},
			}, got)
		}
	})

	t.Run("HitOfAnEmptyValueThatNeverExpires", func(t *testing.T) {
		t.Parallel()
		etag := a.set(t, &cachev1.SetRequest{Namespace: "never", Key: "k", Expiry: &cachev1.SetRequest_Never{Never: true}})
		got := a.primary(t, "never", "k")
		elapsed(t, "age", &got.Age)
		same(t, &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT, Etag: etag, Source: cachev1.Source_SOURCE_REDIS}, got)
	})

	t.Run("Stale", func(t *testing.T) {
		t.Parallel()
		etag := a.set(t, &cachev1.SetRequest{
			Namespace: "stale", Key: "k", Value: []byte("v"), Expiry: setTTL(time.Nanosecond), StaleTtl: secs(60), ContentType: "text/plain",
		})
		eventually(t, "stale", func() bool {
			return a.primary(t, "stale", "k").Outcome == cachev1.GetOutcome_GET_OUTCOME_STALE
		})
		// A stale entry is never NOT_MODIFIED.
		got := a.get(t, &cachev1.GetRequest{Namespace: "stale", Key: "k", IfNoneMatch: etag})
		remains(t, "stale_ttl", &got.StaleTtl, time.Minute)
		elapsed(t, "age", &got.Age)
		same(t, &cachev1.GetResponse{
			Outcome: cachev1.GetOutcome_GET_OUTCOME_STALE, Value: []byte("v"), Etag: etag, Source: cachev1.Source_SOURCE_REDIS, ContentType: "text/plain",
		}, got)
	})

	t.Run("GoneAfterItsTime", func(t *testing.T) {
		t.Parallel()
		a.set(t, &cachev1.SetRequest{Namespace: "gone", Key: "k", Value: []byte("v"), Expiry: setTTL(20 * time.Millisecond), StaleTtl: durationpb.New(20 * time.Millisecond)})
		eventually(t, "gone", func() bool {
			return a.get(t, &cachev1.GetRequest{Namespace: "gone", Key: "k"}).Outcome == cachev1.GetOutcome_GET_OUTCOME_MISS
		})
	})

	t.Run("Negative", func(t *testing.T) {
		t.Parallel()
		etag := a.set(t, &cachev1.SetRequest{Namespace: "negative", Key: "k", Negative: true, Expiry: setTTL(time.Minute)})
		got := a.get(t, &cachev1.GetRequest{Namespace: "negative", Key: "k", IfNoneMatch: etag})
		remains(t, "ttl", &got.Ttl, time.Minute)
		elapsed(t, "age", &got.Age)
		same(t, &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_NEGATIVE, Etag: etag, Source: cachev1.Source_SOURCE_REDIS}, got)
	})

	t.Run("NotModified", func(t *testing.T) {
		t.Parallel()
		etag := a.set(t, &cachev1.SetRequest{
			Namespace: "etag", Key: "k", Value: []byte("v"), Expiry: setTTL(time.Minute), StaleTtl: secs(60), ContentType: "text/plain",
		})
		got := a.get(t, &cachev1.GetRequest{Namespace: "etag", Key: "k", IfNoneMatch: etag})
		remains(t, "ttl", &got.Ttl, time.Minute)
		remains(t, "stale_ttl", &got.StaleTtl, time.Minute)
		elapsed(t, "age", &got.Age)
		same(t, &cachev1.GetResponse{
			Outcome: cachev1.GetOutcome_GET_OUTCOME_NOT_MODIFIED, Etag: etag, Source: cachev1.Source_SOURCE_REDIS, ContentType: "text/plain",
		}, got)
		if got := a.get(t, &cachev1.GetRequest{Namespace: "etag", Key: "k", IfNoneMatch: "0123456789abcdef"}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_HIT || string(got.Value) != "v" {
			t.Errorf("Get with another etag = %v, want a HIT of v", got)
		}
		if got := a.get(t, &cachev1.GetRequest{Namespace: "etag", Key: "none", IfNoneMatch: etag}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_MISS {
			t.Errorf("Get of no entry with an etag = %v, want MISS", got)
		}
	})

	t.Run("PlainValueOfAnotherClient", func(t *testing.T) {
		t.Parallel()
		a.do(t, "SETEX", "user:123", "600", "theirs")
		a.do(t, "SET", "user:124", "theirs")
		got := a.get(t, &cachev1.GetRequest{Namespace: "plain", Key: "user:123"})
		remains(t, "ttl", &got.Ttl, 10*time.Minute)
		// The etag is the beginning of the value's SHA-1.
		want := &cachev1.GetResponse{
			Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT, Value: []byte("theirs"), Etag: "d16d74303205ee18", Source: cachev1.Source_SOURCE_REDIS,
		}
		same(t, want, got)
		same(t, want, a.get(t, &cachev1.GetRequest{Namespace: "plain", Key: "user:124"}))
		want.Outcome, want.Value = cachev1.GetOutcome_GET_OUTCOME_NOT_MODIFIED, nil
		same(t, want, a.primaryIf(t, "plain", "user:124", got.Etag))
	})

	t.Run("Namespaces", func(t *testing.T) {
		t.Parallel()
		a.set(t, &cachev1.SetRequest{Key: "ns", Value: []byte("v")})
		for namespace, want := range map[string]cachev1.GetOutcome{
			"": cachev1.GetOutcome_GET_OUTCOME_HIT, "default": cachev1.GetOutcome_GET_OUTCOME_HIT, "other": cachev1.GetOutcome_GET_OUTCOME_MISS,
		} {
			if got := a.get(t, &cachev1.GetRequest{Namespace: namespace, Key: "ns"}); got.Outcome != want {
				t.Errorf("Get in the namespace %q = %v, want %v", namespace, got, want)
			}
		}
	})

	t.Run("WhatCannotBeRead", func(t *testing.T) {
		t.Parallel()
		a.do(t, "LPUSH", "ld:c:{bad:list}", "x")
		a.do(t, "SET", "ld:c:{bad:corrupt}", "\xc1LD\x09 no such version")
		_, err := a.cache.Get(t.Context(), &cachev1.GetRequest{Namespace: "bad", Key: "list"})
		wantAnswer(t, err, wrongType)
		_, err = a.cache.Get(t.Context(), &cachev1.GetRequest{Namespace: "bad", Key: "corrupt"})
		wantAnswer(t, err, answer{Code: codes.DataLoss, Reason: "ENTRY_CORRUPT"})
	})
}

func (a *api) primaryIf(t testing.TB, namespace, key, etag string) *cachev1.GetResponse {
	t.Helper()
	return a.get(t, &cachev1.GetRequest{Namespace: namespace, Key: key, IfNoneMatch: etag, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	del := func(r *cachev1.DeleteRequest) *cachev1.DeleteResponse {
		t.Helper()
		return must[*cachev1.DeleteResponse](t)(a.cache.Delete(t.Context(), r))
	}
	deleted := &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED}
	miss := &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_MISS}

	same(t, miss, del(&cachev1.DeleteRequest{Key: "k"}))
	same(t, miss, del(&cachev1.DeleteRequest{Key: "k", IfMatch: "0123456789abcdef"}))
	a.set(t, &cachev1.SetRequest{Key: "k"})
	same(t, deleted, del(&cachev1.DeleteRequest{Key: "k"}))
	etag := a.set(t, &cachev1.SetRequest{Key: "k"})
	same(t, &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_NOT_DELETED, Etag: etag},
		del(&cachev1.DeleteRequest{Key: "k", IfMatch: "0123456789abcdef"}))
	same(t, deleted, del(&cachev1.DeleteRequest{Key: "k", IfMatch: etag}))
	if got := a.get(t, &cachev1.GetRequest{Key: "k"}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_MISS {
		t.Errorf("Get after Delete = %v, want MISS", got)
	}
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	_, err := a.cache.Delete(t.Context(), &cachev1.DeleteRequest{Key: "list", IfMatch: etag})
	wantAnswer(t, err, wrongType)
	same(t, deleted, del(&cachev1.DeleteRequest{Key: "list"}))
}
