package service

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

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
				t.Fatalf("got %v", got) // and now it is near
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
	a := newAPI(t, policy.Limits{DefaultTTL: 7 * time.Minute})

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
	a := newAPI(t, policy.Limits{})
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
		t.Errorf("afterwards there is %v", got)
	}
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	_, err := a.cache.Delete(t.Context(), &cachev1.DeleteRequest{Key: "list", IfMatch: etag})
	wantAnswer(t, err, wrongType)
	same(t, deleted, del(&cachev1.DeleteRequest{Key: "list"}))
}

func TestTouch(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{DefaultTTL: 5 * time.Minute})
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
	a := newAPI(t, policy.Limits{DefaultTTL: 5 * time.Minute})
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
