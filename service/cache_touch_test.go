package service

import (
	"fmt"
	"math"
	"strconv"
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
		t.Errorf("Touch of no entry = %v, want MISS", got)
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
			t.Errorf("%d: entry after Touch = %v, want v with the etag %s", i, entry, etag)
		}
	}

	never := &cachev1.TouchRequest{Key: "k", Expiry: &cachev1.TouchRequest_Never{Never: true}}
	for _, tt := range []struct {
		mode cachev1.TouchMode
		want cachev1.TouchOutcome
	}{{shorten, unchanged}, {extend, touched}, {extend, unchanged}, {overwrite, touched}} {
		if got := must[*cachev1.TouchResponse](t)(a.cache.Touch(t.Context(), mode(never, tt.mode))); got.Outcome != tt.want {
			t.Errorf("Touch with never and %v = %v, want %v", tt.mode, got, tt.want)
		}
	}
	if got := a.primary(t, "", "k"); got.Ttl != nil || got.StaleTtl != nil || a.do(t, "PTTL", "ld:c:{default:k}") != int64(-1) {
		t.Errorf("Get after Touch with never = %v, want no ttl, also in Redis", got)
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
			t.Errorf("Increment of %s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := a.get(t, &cachev1.GetRequest{Key: "RejectAbsent"}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_MISS {
		t.Errorf("Get after a rejected Increment = %v, want MISS", got)
	}
	if got := a.get(t, &cachev1.GetRequest{Key: "Exact"}); string(got.Value) != "9007199254740993" {
		t.Errorf("Get of the counter = %v, want 9007199254740993", got)
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
			t.Errorf("Get(%s) after a failed Increment = %v, want %q", key, got, want)
		}
	}
}
