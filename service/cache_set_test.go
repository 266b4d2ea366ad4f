package service

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

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
					t.Errorf("%s: Get = %v, want no ttl, also in Redis", tt.name, got)
				}
			} else {
				remains(t, tt.name+": ttl", &got.Ttl, tt.ttl)
			}
			if tt.stale > 0 {
				remains(t, tt.name+": stale_ttl", &got.StaleTtl, tt.stale)
			}
			if got.StaleTtl != nil {
				t.Errorf("%s: stale_ttl = %v, want none", tt.name, got.StaleTtl)
			}
			// Redis itself lets go of the entry when nothing of it is wanted any more.
			if left := a.do(t, "PTTL", "ld:c:{expiry:k}").(int64); tt.ttl > 0 && time.Duration(left)*time.Millisecond > tt.ttl+tt.stale {
				t.Errorf("%s: Redis keeps the entry for %d ms, want at most %v", tt.name, left, tt.ttl+tt.stale)
			}
		}
	})

	t.Run("NewEtagEachTime", func(t *testing.T) {
		t.Parallel()
		r := &cachev1.SetRequest{Namespace: "etag", Key: "k", Value: []byte("v")}
		first, second := a.set(t, r), a.set(t, r)
		if first == second || a.primary(t, "etag", "k").Etag != second {
			t.Errorf("etags of two writes = %q, %q, want two, the second in place", first, second)
		}
	})

	t.Run("TagsAreKeptOnce", func(t *testing.T) {
		t.Parallel()
		a.set(t, &cachev1.SetRequest{Namespace: "tags", Key: "k", Tags: []string{"red", "blue", "red", "red"}})
		raw := a.do(t, "GET", "ld:c:{tags:k}").(string)
		if strings.Count(raw, "red") != 1 || strings.Count(raw, "blue") != 1 {
			t.Errorf("Redis holds %q, want each tag once", raw)
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
						t.Errorf("etag = %q, want a new one in the place of %q", etag, old)
					}
					return
				}
				same(t, &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_NOT_STORED, Etag: old}, must[*cachev1.SetResponse](t)(a.cache.Set(t.Context(), r)))
				if got := a.primary(t, "", key); got.Etag != old || string(got.Value) == "new" {
					t.Errorf("Get after a refused Set = %v, want the etag %s and the old value", got, old)
				}
			})
		}
	}
}
