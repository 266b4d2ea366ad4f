package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
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
		t.Fatalf("Set of %s got %v", r.Key, resp)
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
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// secs is a duration of seconds.
func secs(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }

func setTTL(d time.Duration) *cachev1.SetRequest_Ttl {
	return &cachev1.SetRequest_Ttl{Ttl: durationpb.New(d)}
}

func TestGet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{PlainNamespace: "plain"})

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
				t.Fatalf("got %v", got) // and now it is near
			}
			got := a.get(t, r)
			remains(t, "ttl", &got.Ttl, time.Minute)
			remains(t, "stale_ttl", &got.StaleTtl, 30*time.Minute)
			elapsed(t, "age", &got.Age)
			same(t, &cachev1.GetResponse{
				Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT, Value: []byte("v\x00\xff"), Etag: etag, Source: source, ContentType: "text/plain",
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
			t.Errorf("with another etag got %v", got)
		}
		if got := a.get(t, &cachev1.GetRequest{Namespace: "etag", Key: "none", IfNoneMatch: etag}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_MISS {
			t.Errorf("where nothing is got %v", got)
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
				t.Errorf("in %q got %v", namespace, got)
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

func TestSet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{DefaultTTL: 7 * time.Minute})

	t.Run("Expiry", func(t *testing.T) {
		t.Parallel()
		for _, tt := range []struct {
			name       string
			request    *cachev1.SetRequest
			ttl, stale time.Duration
		}{
			{"Default", &cachev1.SetRequest{}, 7 * time.Minute, 0},
			{"DefaultAndStale", &cachev1.SetRequest{StaleTtl: secs(60)}, 7 * time.Minute, time.Minute},
			{"TTL", &cachev1.SetRequest{Expiry: setTTL(time.Minute)}, time.Minute, 0},
			{"ExpireTime", &cachev1.SetRequest{Expiry: &cachev1.SetRequest_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}}, time.Hour, 0},
			{"Never", &cachev1.SetRequest{Expiry: &cachev1.SetRequest_Never{Never: true}}, 0, 0},
			{"DefaultAgain", &cachev1.SetRequest{}, 7 * time.Minute, 0}, // each Set replaces the whole entry
		} {
			tt.request.Namespace, tt.request.Key = "expiry", "k"
			a.set(t, tt.request)
			got := a.primary(t, "expiry", "k")
			if tt.ttl == 0 {
				if got.Ttl != nil || a.do(t, "PTTL", "ld:c:{expiry:k}") != int64(-1) {
					t.Errorf("%s: got %v", tt.name, got)
				}
			} else {
				remains(t, tt.name+": ttl", &got.Ttl, tt.ttl)
			}
			if tt.stale > 0 {
				remains(t, tt.name+": stale_ttl", &got.StaleTtl, tt.stale)
			}
			if got.StaleTtl != nil {
				t.Errorf("%s: stale_ttl is %v", tt.name, got.StaleTtl)
			}
			// Redis itself lets go of the entry when nothing of it is wanted any more.
			if left := a.do(t, "PTTL", "ld:c:{expiry:k}").(int64); tt.ttl > 0 && time.Duration(left)*time.Millisecond > tt.ttl+tt.stale {
				t.Errorf("%s: Redis keeps it for %d ms", tt.name, left)
			}
		}
	})

	t.Run("NewEtagEachTime", func(t *testing.T) {
		t.Parallel()
		r := &cachev1.SetRequest{Namespace: "etag", Key: "k", Value: []byte("v")}
		first, second := a.set(t, r), a.set(t, r)
		if first == second || a.primary(t, "etag", "k").Etag != second {
			t.Errorf("etags are %q, %q", first, second)
		}
	})

	t.Run("TagsAreKeptOnce", func(t *testing.T) {
		t.Parallel()
		a.set(t, &cachev1.SetRequest{Namespace: "tags", Key: "k", Tags: []string{"red", "blue", "red", "red"}})
		raw := a.do(t, "GET", "ld:c:{tags:k}").(string)
		if strings.Count(raw, "red") != 1 || strings.Count(raw, "blue") != 1 {
			t.Errorf("Redis holds %q", raw)
		}
	})

	t.Run("OverAnythingThatIsThere", func(t *testing.T) {
		t.Parallel()
		a.do(t, "LPUSH", "ld:c:{over:k}", "x")
		a.set(t, &cachev1.SetRequest{Namespace: "over", Key: "k", Value: []byte("v")})
		a.do(t, "LPUSH", "ld:c:{over:list}", "x")
		_, err := a.cache.Set(t.Context(), &cachev1.SetRequest{Namespace: "over", Key: "list", Precondition: &cachev1.SetRequest_IfAbsent{IfAbsent: true}})
		wantAnswer(t, err, wrongType)
	})
}

func TestSetPreconditions(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})
	const foreign = "0123456789abcdef"
	present := map[string]func(t *testing.T, key string) string{
		"Fresh": func(t *testing.T, key string) string {
			return a.set(t, &cachev1.SetRequest{Key: key, Value: []byte("old")})
		},
		"Negative": func(t *testing.T, key string) string {
			return a.set(t, &cachev1.SetRequest{Key: key, Negative: true})
		},
		"Stale": func(t *testing.T, key string) string {
			etag := a.set(t, &cachev1.SetRequest{Key: key, Value: []byte("old"), Expiry: setTTL(time.Nanosecond), StaleTtl: secs(60)})
			eventually(t, "stale", func() bool { return a.primary(t, "", key).Outcome == cachev1.GetOutcome_GET_OUTCOME_STALE })
			return etag
		},
		"Absent": func(*testing.T, string) string { return "" },
	}
	for name, prepare := range present {
		for _, tt := range []struct {
			condition string
			stored    bool
		}{
			{"IfAbsent", name == "Absent"},
			{"IfPresent", name != "Absent"},
			{"IfMatch", name != "Absent"},
			{"IfMatchForeign", false},
			{"IfNoneMatch", name == "Absent"},
			{"IfNoneMatchForeign", true},
		} {
			t.Run(name+tt.condition, func(t *testing.T) {
				t.Parallel()
				key := name + tt.condition
				old := prepare(t, key)
				r := &cachev1.SetRequest{Key: key, Value: []byte("new")}
				mine := old
				if mine == "" {
					mine = "fedcba9876543210"
				}
				switch tt.condition {
				case "IfAbsent":
					r.Precondition = &cachev1.SetRequest_IfAbsent{IfAbsent: true}
				case "IfPresent":
					r.Precondition = &cachev1.SetRequest_IfPresent{IfPresent: true}
				case "IfMatch":
					r.Precondition = &cachev1.SetRequest_IfMatch{IfMatch: mine}
				case "IfMatchForeign":
					r.Precondition = &cachev1.SetRequest_IfMatch{IfMatch: foreign}
				case "IfNoneMatch":
					r.Precondition = &cachev1.SetRequest_IfNoneMatch{IfNoneMatch: mine}
				case "IfNoneMatchForeign":
					r.Precondition = &cachev1.SetRequest_IfNoneMatch{IfNoneMatch: foreign}
				}
				if tt.stored {
					if etag := a.set(t, r); etag == old || a.primary(t, "", key).Etag != etag {
						t.Errorf("stored with etag %q over %q", etag, old)
					}
					return
				}
				same(t, &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_NOT_STORED, Etag: old}, must[*cachev1.SetResponse](t)(a.cache.Set(t.Context(), r)))
				if got := a.primary(t, "", key); got.Etag != old || string(got.Value) == "new" {
					t.Errorf("afterwards there is %v", got)
				}
			})
		}
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})
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
		t.Errorf("afterwards there is %v", got)
	}
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	_, err := a.cache.Delete(t.Context(), &cachev1.DeleteRequest{Key: "list", IfMatch: etag})
	wantAnswer(t, err, wrongType)
	same(t, deleted, del(&cachev1.DeleteRequest{Key: "list"}))
}

func TestTouch(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{DefaultTTL: 5 * time.Minute})
	ttl := func(d time.Duration) *cachev1.TouchRequest {
		return &cachev1.TouchRequest{Key: "k", Expiry: &cachev1.TouchRequest_Ttl{Ttl: durationpb.New(d)}}
	}
	mode := func(r *cachev1.TouchRequest, m cachev1.TouchMode) *cachev1.TouchRequest {
		r.Mode = m
		return r
	}
	const (
		overwrite = cachev1.TouchMode_TOUCH_MODE_OVERWRITE
		extend    = cachev1.TouchMode_TOUCH_MODE_EXTEND_ONLY
		shorten   = cachev1.TouchMode_TOUCH_MODE_SHORTEN_ONLY
		touched   = cachev1.TouchOutcome_TOUCH_OUTCOME_TOUCHED
		unchanged = cachev1.TouchOutcome_TOUCH_OUTCOME_UNCHANGED
	)
	if got := must[*cachev1.TouchResponse](t)(a.cache.Touch(t.Context(), ttl(time.Minute))); got.Outcome != cachev1.TouchOutcome_TOUCH_OUTCOME_MISS {
		t.Errorf("where nothing is got %v", got)
	}
	etag := a.set(t, &cachev1.SetRequest{Key: "k", Value: []byte("v"), Expiry: setTTL(time.Hour), StaleTtl: secs(60)})
	for i, tt := range []struct {
		request *cachev1.TouchRequest
		want    cachev1.TouchOutcome
		ttl     time.Duration // afterwards; zero means for ever
	}{
		{ttl(2 * time.Hour), touched, 2 * time.Hour},
		{mode(ttl(time.Hour), overwrite), touched, time.Hour},
		{mode(ttl(30*time.Minute), extend), unchanged, time.Hour},
		{mode(ttl(2*time.Hour), extend), touched, 2 * time.Hour},
		{mode(ttl(3*time.Hour), shorten), unchanged, 2 * time.Hour},
		{mode(ttl(time.Hour), shorten), touched, time.Hour},
		{&cachev1.TouchRequest{Key: "k"}, touched, 5 * time.Minute},
		{&cachev1.TouchRequest{Key: "k", Expiry: &cachev1.TouchRequest_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(4 * time.Hour))}}, touched, 4 * time.Hour},
	} {
		got := must[*cachev1.TouchResponse](t)(a.cache.Touch(t.Context(), tt.request))
		same(t, &cachev1.TouchResponse{Outcome: tt.want}, got)
		entry := a.get(t, &cachev1.GetRequest{Key: "k"})
		remains(t, fmt.Sprintf("%d: ttl", i), &entry.Ttl, tt.ttl)
		remains(t, fmt.Sprintf("%d: stale_ttl", i), &entry.StaleTtl, time.Minute)
		if entry.Etag != etag || string(entry.Value) != "v" {
			t.Errorf("%d: left %v", i, entry)
		}
	}

	never := &cachev1.TouchRequest{Key: "k", Expiry: &cachev1.TouchRequest_Never{Never: true}}
	for _, tt := range []struct {
		mode cachev1.TouchMode
		want cachev1.TouchOutcome
	}{{shorten, unchanged}, {extend, touched}, {extend, unchanged}, {overwrite, touched}} {
		if got := must[*cachev1.TouchResponse](t)(a.cache.Touch(t.Context(), mode(never, tt.mode))); got.Outcome != tt.want {
			t.Errorf("never with %v got %v", tt.mode, got)
		}
	}
	if got := a.primary(t, "", "k"); got.Ttl != nil || got.StaleTtl != nil || a.do(t, "PTTL", "ld:c:{default:k}") != int64(-1) {
		t.Errorf("touched for ever: %v", got)
	}
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	_, err := a.cache.Touch(t.Context(), &cachev1.TouchRequest{Key: "list"})
	wantAnswer(t, err, wrongType)
}

func TestIncrement(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{DefaultTTL: 5 * time.Minute})
	const (
		added     = cachev1.IncrementOutcome_INCREMENT_OUTCOME_INCREMENTED
		saturated = cachev1.IncrementOutcome_INCREMENT_OUTCOME_SATURATED
		rejected  = cachev1.IncrementOutcome_INCREMENT_OUTCOME_REJECTED
		saturate  = cachev1.BoundPolicy_BOUND_POLICY_SATURATE
		always    = cachev1.TtlPolicy_TTL_POLICY_ALWAYS
		keep      = cachev1.TtlPolicy_TTL_POLICY_KEEP
	)
	minute := &cachev1.IncrementRequest_Ttl{Ttl: secs(60)}
	hour := &cachev1.IncrementRequest_Ttl{Ttl: secs(3600)}
	never := &cachev1.IncrementRequest_Never{Never: true}
	n := func(v int64) *int64 { return &v }

	for _, tt := range []struct {
		name    string
		request *cachev1.IncrementRequest
		want    *cachev1.IncrementResponse
		ttl     time.Duration // zero means unset
	}{
		// Each key is a counter of its own; those with the same name follow on.
		{"UnsetMeansOne", &cachev1.IncrementRequest{}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, 5 * time.Minute},
		{"UnsetMeansOne", &cachev1.IncrementRequest{Delta: n(0)}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, 5 * time.Minute},
		{"UnsetMeansOne", &cachev1.IncrementRequest{Delta: n(-5), Initial: 100}, &cachev1.IncrementResponse{Outcome: added, Value: -4}, 5 * time.Minute},
		{"Initial", &cachev1.IncrementRequest{Initial: 100, Delta: n(-1)}, &cachev1.IncrementResponse{Outcome: added, Value: 99}, 5 * time.Minute},
		{"Exact", &cachev1.IncrementRequest{Initial: 1 << 53, Delta: n(1)}, &cachev1.IncrementResponse{Outcome: added, Value: 1<<53 + 1}, 5 * time.Minute},
		{"Highest", &cachev1.IncrementRequest{Initial: math.MaxInt64 - 1}, &cachev1.IncrementResponse{Outcome: added, Value: math.MaxInt64}, 5 * time.Minute},
		{"Lowest", &cachev1.IncrementRequest{Delta: n(math.MinInt64)}, &cachev1.IncrementResponse{Outcome: added, Value: math.MinInt64}, 5 * time.Minute},

		{"OnCreate", &cachev1.IncrementRequest{Expiry: minute}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, time.Minute},
		{"OnCreate", &cachev1.IncrementRequest{Expiry: hour}, &cachev1.IncrementResponse{Outcome: added, Value: 2}, time.Minute},
		{"Always", &cachev1.IncrementRequest{Expiry: minute, TtlPolicy: always}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, time.Minute},
		{"Always", &cachev1.IncrementRequest{Expiry: hour, TtlPolicy: always}, &cachev1.IncrementResponse{Outcome: added, Value: 2}, time.Hour},
		{"Always", &cachev1.IncrementRequest{Expiry: never, TtlPolicy: always}, &cachev1.IncrementResponse{Outcome: added, Value: 3}, 0},
		{"Keep", &cachev1.IncrementRequest{TtlPolicy: keep}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, 0},
		{"Keep", &cachev1.IncrementRequest{Expiry: minute}, &cachev1.IncrementResponse{Outcome: added, Value: 2}, 0},
		{"KeepsAnOldOne", &cachev1.IncrementRequest{Expiry: minute}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, time.Minute},
		{"KeepsAnOldOne", &cachev1.IncrementRequest{TtlPolicy: keep}, &cachev1.IncrementResponse{Outcome: added, Value: 2}, time.Minute},
		{"Never", &cachev1.IncrementRequest{Expiry: never}, &cachev1.IncrementResponse{Outcome: added, Value: 1}, 0},
		{
			"ExpireTime", &cachev1.IncrementRequest{Expiry: &cachev1.IncrementRequest_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}},
			&cachev1.IncrementResponse{Outcome: added, Value: 1}, time.Hour,
		},

		{"Reject", &cachev1.IncrementRequest{Initial: 9, Max: n(10)}, &cachev1.IncrementResponse{Outcome: added, Value: 10}, 5 * time.Minute},
		{"Reject", &cachev1.IncrementRequest{Max: n(10)}, &cachev1.IncrementResponse{Outcome: rejected, Value: 10}, 5 * time.Minute},
		{"Reject", &cachev1.IncrementRequest{Delta: n(-11), Min: n(0)}, &cachev1.IncrementResponse{Outcome: rejected, Value: 10}, 5 * time.Minute},
		{"RejectAbsent", &cachev1.IncrementRequest{Initial: 3, Delta: n(8), Max: n(10)}, &cachev1.IncrementResponse{Outcome: rejected, Value: 3}, 0},
		{"Saturate", &cachev1.IncrementRequest{Initial: 3, Delta: n(8), Max: n(10), OnBound: saturate}, &cachev1.IncrementResponse{Outcome: saturated, Value: 10}, 5 * time.Minute},
		{"Saturate", &cachev1.IncrementRequest{Delta: n(-11), Min: n(0), OnBound: saturate}, &cachev1.IncrementResponse{Outcome: saturated, Value: 0}, 5 * time.Minute},
	} {
		tt.request.Key = tt.name
		got := must[*cachev1.IncrementResponse](t)(a.cache.Increment(t.Context(), tt.request))
		if tt.ttl > 0 {
			remains(t, tt.name+": ttl", &got.Ttl, tt.ttl)
		}
		if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := a.get(t, &cachev1.GetRequest{Key: "RejectAbsent"}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_MISS {
		t.Errorf("a rejected increment left %v", got)
	}
	if got := a.get(t, &cachev1.GetRequest{Key: "Exact"}); string(got.Value) != "9007199254740993" {
		t.Errorf("Get reads the counter as %v", got)
	}

	a.set(t, &cachev1.SetRequest{Key: "entry", Value: []byte("5")})
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	for _, tt := range []struct {
		request *cachev1.IncrementRequest
		want    answer
	}{
		{&cachev1.IncrementRequest{Key: "entry"}, answer{Code: codes.FailedPrecondition, Reason: "NOT_A_COUNTER"}},
		{&cachev1.IncrementRequest{Key: "list"}, wrongType},
		{&cachev1.IncrementRequest{Key: "Highest"}, answer{Code: codes.OutOfRange, Reason: "COUNTER_OVERFLOW"}},
		{&cachev1.IncrementRequest{Key: "Lowest", Delta: n(-1)}, answer{Code: codes.OutOfRange, Reason: "COUNTER_OVERFLOW"}},
		{&cachev1.IncrementRequest{Key: "new", Initial: math.MaxInt64}, answer{Code: codes.OutOfRange, Reason: "COUNTER_OVERFLOW"}},
	} {
		_, err := a.cache.Increment(t.Context(), tt.request)
		wantAnswer(t, err, tt.want)
	}
	for key, want := range map[string]string{"entry": "5", "Highest": strconv.Itoa(math.MaxInt64), "new": ""} {
		if got := a.primary(t, "", key); string(got.Value) != want {
			t.Errorf("after a failed increment %s holds %v", key, got)
		}
	}
}

func TestBatchGet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})
	hit := a.set(t, &cachev1.SetRequest{Key: "hit", Value: []byte("v"), Expiry: setTTL(time.Minute), StaleTtl: secs(600), ContentType: "text/plain"})
	stale := a.set(t, &cachev1.SetRequest{Key: "stale", Value: []byte("old"), Expiry: setTTL(time.Nanosecond), StaleTtl: secs(60)})
	negative := a.set(t, &cachev1.SetRequest{Key: "negative", Negative: true, Expiry: &cachev1.SetRequest_Never{Never: true}})
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	a.do(t, "SETEX", "ld:c:{default:plain}", "60", "7")
	eventually(t, "stale", func() bool { return a.primary(t, "", "stale").Outcome == cachev1.GetOutcome_GET_OUTCOME_STALE })

	r := &cachev1.BatchGetRequest{Keys: []string{"hit", "miss", "list", "stale", "hit", "negative", "plain"}}
	for _, source := range []cachev1.Source{cachev1.Source_SOURCE_REDIS, cachev1.Source_SOURCE_NEAR_CACHE, cachev1.Source_SOURCE_REDIS} {
		if source == cachev1.Source_SOURCE_NEAR_CACHE {
			r.Consistency = cachev1.Consistency_CONSISTENCY_NEAR
			must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), r))
		} else {
			r.Consistency = cachev1.Consistency_CONSISTENCY_PRIMARY
		}
		got := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), r))
		if len(got.Results) != len(r.Keys) {
			t.Fatalf("%d results", len(got.Results))
		}
		for _, i := range []int{0, 4} {
			remains(t, "ttl", &got.Results[i].Ttl, time.Minute)
			remains(t, "stale_ttl", &got.Results[i].StaleTtl, 10*time.Minute)
			elapsed(t, "age", &got.Results[i].Age)
		}
		remains(t, "stale_ttl", &got.Results[3].StaleTtl, time.Minute)
		elapsed(t, "age", &got.Results[3].Age)
		elapsed(t, "age", &got.Results[5].Age)
		remains(t, "ttl", &got.Results[6].Ttl, time.Minute)
		plain := got.Results[6].Etag
		if !isETag(plain) {
			t.Errorf("the etag of a plain value is %q", plain)
		}
		of := func(key string, outcome cachev1.BatchGetOutcome, value, etag, contentType string) *cachev1.BatchGetResult {
			return &cachev1.BatchGetResult{Key: key, Outcome: outcome, Value: []byte(value), Etag: etag, Source: source, ContentType: contentType}
		}
		same(t, &cachev1.BatchGetResponse{Results: []*cachev1.BatchGetResult{
			of("hit", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, "v", hit, "text/plain"),
			{Key: "miss", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS},
			{Key: "list", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_FAILED, Reason: "WRONG_TYPE"},
			of("stale", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE, "old", stale, ""),
			of("hit", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, "v", hit, "text/plain"),
			of("negative", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_NEGATIVE, "", negative, ""),
			of("plain", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, "7", plain, ""),
		}}, got)
	}
}

// An answer that would be too large for a caller with gRPC's own limit of 4 MiB is cut, and what is left out can be asked for.
func TestBatchGetAnswersWhatFits(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})
	for _, tt := range []struct {
		name          string
		count         int
		key, value    int // bytes
		smallest, few int // calls it must take, and may take
	}{
		{"LargeValues", 9, 10, 1 << 20, 3, 3},
		{"ManySmall", 1000, 10, 100, 1, 1},
		{"ManyOfOnePage", 1000, 10, 4000, 2, 2},
		{"ManyOfLongKeys", 1000, 1024, 3400, 2, 4},
		{"EverythingLong", 1000, 1024, 5000, 3, 3},
		{"MissesOfLongKeys", 1000, 1024, -1, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var all []string
			for i := range tt.count {
				key := fmt.Sprintf("%04d", i)
				all = append(all, key+strings.Repeat("k", tt.key-len(key)))
			}
			for chunk := range slices.Chunk(all, 100) {
				var items []*cachev1.BatchSetItem
				for _, key := range chunk {
					items = append(items, &cachev1.BatchSetItem{
						Key: key, Value: bytes.Repeat([]byte("v"), max(tt.value, 0)), ContentType: strings.Repeat("c", 255),
					})
				}
				for items := range slices.Chunk(items, max(1, 3<<20/max(tt.value+tt.key, 1))) {
					if tt.value >= 0 {
						must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Namespace: strings.ToLower(tt.name), Items: items}))
					}
				}
			}
			calls, read := 0, map[string]bool{}
			for keys := all; len(keys) > 0; calls++ {
				resp := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Namespace: strings.ToLower(tt.name), Keys: keys}))
				if size := proto.Size(resp); size > 7<<19 {
					t.Errorf("an answer has %d bytes", size)
				}
				var left []string
				for i, result := range resp.Results {
					if result.Key != keys[i] {
						t.Fatalf("result %d is of another key", i)
					}
					switch result.Outcome {
					case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_UNPROCESSED:
						same(t, &cachev1.BatchGetResult{Key: keys[i], Outcome: result.Outcome}, result)
						left = append(left, result.Key)
					case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT:
						if len(result.Value) != tt.value || read[result.Key] {
							t.Fatalf("result %d has %d bytes", i, len(result.Value))
						}
						read[result.Key] = true
					case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS:
						read[result.Key] = tt.value < 0
					default:
						t.Fatalf("result %d is %v", i, result)
					}
				}
				if diff := cmp.Diff(left, resp.Unprocessed); diff != "" || len(left) == len(keys) {
					t.Fatalf("%d of %d unprocessed (-want +got):\n%s", len(left), len(keys), diff)
				}
				keys = resp.Unprocessed
			}
			if len(read) != tt.count || calls < tt.smallest || calls > tt.few {
				t.Errorf("%d entries in %d calls", len(read), calls)
			}
		})
	}
}

// A limit below a single value must not keep a caller asking for ever.
func TestBatchGetAlwaysGetsOn(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{MaxBatchBytes: 10})
	for i, key := range []string{"a", "b", "c"} {
		a.set(t, &cachev1.SetRequest{Key: key, Value: make([]byte, 100*i+50)})
	}
	keys := []string{"a", "b", "none", "c"}
	for calls := 0; len(keys) > 0; calls++ {
		resp := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Keys: keys}))
		if diff := cmp.Diff([][]string{{"b", "c"}, {"c"}, nil}[calls], resp.Unprocessed); diff != "" {
			t.Fatalf("call %d leaves (-want +got):\n%s", calls, diff)
		}
		keys = resp.Unprocessed
	}
}

func TestBatchSet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{DefaultTTL: 5 * time.Minute})
	resp := must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Items: []*cachev1.BatchSetItem{
		{Key: "default", Value: []byte("v")},
		{Key: "all", Value: []byte("v"), Expiry: &cachev1.BatchSetItem_Ttl{Ttl: secs(60)}, StaleTtl: secs(60), Tags: []string{"red", "red"}, ContentType: "text/plain"},
		{Key: "until", Expiry: &cachev1.BatchSetItem_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}},
		{Key: "twice", Value: []byte("first"), Expiry: &cachev1.BatchSetItem_Ttl{Ttl: secs(60)}},
		{Key: "never", Negative: true, Expiry: &cachev1.BatchSetItem_Never{Never: true}},
		{Key: "twice", Value: []byte("last")},
	}}))
	etags := map[string]string{}
	for i, key := range []string{"default", "all", "until", "twice", "never", "twice"} {
		r := resp.Results[i]
		if !isETag(r.Etag) || etags[key] == r.Etag {
			t.Errorf("the etag of %s is %q", key, r.Etag)
		}
		etags[key] = r.Etag
		same(t, &cachev1.BatchSetResult{Key: key, Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED, Etag: r.Etag}, r)
	}
	if len(resp.Results) != 6 {
		t.Errorf("%d results", len(resp.Results))
	}
	for key, want := range map[string]struct {
		ttl, stale time.Duration
		value      string
		outcome    cachev1.GetOutcome
		media      string
	}{
		"default": {5 * time.Minute, 0, "v", cachev1.GetOutcome_GET_OUTCOME_HIT, ""},
		"all":     {time.Minute, time.Minute, "v", cachev1.GetOutcome_GET_OUTCOME_HIT, "text/plain"},
		"until":   {time.Hour, 0, "", cachev1.GetOutcome_GET_OUTCOME_HIT, ""},
		"twice":   {5 * time.Minute, 0, "last", cachev1.GetOutcome_GET_OUTCOME_HIT, ""},
		"never":   {0, 0, "", cachev1.GetOutcome_GET_OUTCOME_NEGATIVE, ""},
	} {
		got := a.primary(t, "", key)
		if want.ttl > 0 {
			remains(t, key+": ttl", &got.Ttl, want.ttl)
		}
		if want.stale > 0 {
			remains(t, key+": stale_ttl", &got.StaleTtl, want.stale)
		}
		elapsed(t, key+": age", &got.Age)
		same(t, &cachev1.GetResponse{
			Outcome: want.outcome, Value: []byte(want.value), Etag: etags[key], Source: cachev1.Source_SOURCE_REDIS, ContentType: want.media,
		}, got)
	}
}

func TestBatchDelete(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})
	a.set(t, &cachev1.SetRequest{Key: "a"})
	a.set(t, &cachev1.SetRequest{Key: "b"})
	a.set(t, &cachev1.SetRequest{Key: "kept"})
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	const (
		deleted = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED
		miss    = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_MISS
	)
	same(t, &cachev1.BatchDeleteResponse{Results: []*cachev1.BatchDeleteResult{
		{Key: "a", Outcome: deleted}, {Key: "none", Outcome: miss}, {Key: "b", Outcome: deleted}, {Key: "a", Outcome: miss}, {Key: "list", Outcome: deleted},
	}}, must[*cachev1.BatchDeleteResponse](t)(a.cache.BatchDelete(t.Context(), &cachev1.BatchDeleteRequest{Keys: []string{"a", "none", "b", "a", "list"}})))
	for key, want := range map[string]cachev1.GetOutcome{"a": cachev1.GetOutcome_GET_OUTCOME_MISS, "kept": cachev1.GetOutcome_GET_OUTCOME_HIT} {
		if got := a.get(t, &cachev1.GetRequest{Key: key}); got.Outcome != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}

// Redis refuses some keys, or all of them.
func TestBatchesThatFailInPart(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})
	item := func(key string) *cachev1.BatchSetItem { return &cachev1.BatchSetItem{Key: key} }
	a.set(t, &cachev1.SetRequest{Key: "mine"})
	a.do(t, "ACL", "SETUSER", "default", "resetkeys", "~ld:c:{default:mine*}")

	set := must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Items: []*cachev1.BatchSetItem{item("theirs"), item("mine")}}))
	if len(set.Results) != 2 || !isETag(set.Results[1].Etag) {
		t.Fatalf("got %v", set)
	}
	set.Results[1].Etag = ""
	same(t, []*cachev1.BatchSetResult{
		{Key: "theirs", Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_FAILED, Reason: "REDIS_REFUSED"},
		{Key: "mine", Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED},
	}, set.Results)
	same(t, []*cachev1.BatchDeleteResult{
		{Key: "mine", Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED},
		{Key: "theirs", Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_FAILED, Reason: "REDIS_REFUSED"},
	}, must[*cachev1.BatchDeleteResponse](t)(a.cache.BatchDelete(t.Context(), &cachev1.BatchDeleteRequest{Keys: []string{"mine", "theirs"}})).Results)

	refused := answer{Code: codes.Internal, Reason: "REDIS_REFUSED"}
	_, err := a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Items: []*cachev1.BatchSetItem{item("theirs"), item("theirs2")}})
	wantAnswer(t, err, refused)
	_, err = a.cache.BatchDelete(t.Context(), &cachev1.BatchDeleteRequest{Keys: []string{"theirs", "theirs2"}})
	wantAnswer(t, err, refused)
}

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
		t.Fatal(err)
	}
	for len(all) < most {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func TestDeleteMatching(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{})

	t.Run("ReportsProgress", func(t *testing.T) {
		t.Parallel()
		a.fill(t, "all", 3000)
		a.fill(t, "all-other", 10)
		before := int64(0)
		messages := a.walk(t, &cachev1.DeleteMatchingRequest{Namespace: "all", Pattern: "*"}, math.MaxInt)
		for i, m := range messages {
			last := i == len(messages)-1
			if m.DeletedCount < before || m.Done != last || (m.ResumeToken == "") != last {
				t.Errorf("message %d of %d is %v after %d", i, len(messages), m, before)
			}
			before = m.DeletedCount
		}
		if before != 3000 || len(messages) < 3 {
			t.Errorf("%d removed in %d messages", before, len(messages))
		}
		if n, m := len(a.left(t, "all")), len(a.left(t, "all-other")); n != 0 || m != 10 {
			t.Errorf("%d are left, and %d of another namespace", n, m)
		}
	})

	t.Run("GoesOnFromAToken", func(t *testing.T) {
		t.Parallel()
		a.fill(t, "resume", 5000)
		r := &cachev1.DeleteMatchingRequest{Namespace: "resume", Pattern: "k*"}
		first := a.walk(t, r, 1)[0]
		if first.Done || first.ResumeToken == "" {
			t.Fatalf("first message is %v", first)
		}
		r.ResumeToken = first.ResumeToken
		rest := a.walk(t, r, math.MaxInt)
		last := rest[len(rest)-1]
		// The walk that was ended may have gone a step further than it could say.
		if n := first.DeletedCount + last.DeletedCount; !last.Done || n > 5000 || n < 5000-3*1100 || len(a.left(t, "resume")) != 0 {
			t.Errorf("%v and then %v, %d are left", first, last, len(a.left(t, "resume")))
		}
		for _, other := range []*cachev1.DeleteMatchingRequest{
			{Namespace: "resume", Pattern: "x*", ResumeToken: first.ResumeToken},
			{Namespace: "other", Pattern: "k*", ResumeToken: first.ResumeToken},
			{Namespace: "resume", Pattern: "k*", ResumeToken: first.ResumeToken + "x"},
			{Namespace: "resume", Pattern: "k*", ResumeToken: "?"},
		} {
			stream, err := a.cache.DeleteMatching(t.Context(), other)
			if err != nil {
				t.Fatal(err)
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
		testPatterns(t, newAPI(t, Limits{}), "ä") // which the embedded store takes for one character, and not for two bytes
	})
	t.Run("Embedded", func(t *testing.T) {
		t.Parallel()
		testPatterns(t, serveStore(t, store.Options{Mode: store.Embedded}, Limits{}))
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
			t.Errorf("%s lists (-want +got):\n%s", tt.pattern, diff)
		}
		messages := a.walk(t, &cachev1.DeleteMatchingRequest{Namespace: namespace, Pattern: tt.pattern}, math.MaxInt)
		if diff := cmp.Diff(left, a.left(t, namespace)); diff != "" || messages[len(messages)-1].DeletedCount != int64(len(tt.want)) {
			t.Errorf("%s removed %v and left (-want +got):\n%s", tt.pattern, messages, diff)
		}
	}
}

func TestListKeys(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Limits{PlainNamespace: "plain"})
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
				t.Errorf("size %d: a page has %d keys", size, n)
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
			t.Errorf("size %d: %d keys on %d pages", size, len(seen), pages)
		}
		for key := range seen {
			if !strings.HasPrefix(key, "k") {
				t.Fatalf("lists %q", key)
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
	a := newAPI(t, Limits{PlainNamespace: "plain"})
	a.set(t, &cachev1.SetRequest{Namespace: "other", Key: "own"})
	a.do(t, "SET", "user:1", "v")
	a.do(t, "LPUSH", "queue", "v")
	a.do(t, "SET", "binary:\xff\xfe", "v")
	if diff := cmp.Diff([]string{"user:1"}, a.left(t, "plain")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
