package service

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

// An entry that is too old for the caller is answered as any stale one is: without a ttl, and not at all where it has no
// value.
func TestGetOrLeaseOfWhatIsTooOld(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	etag := a.set(t, &cachev1.SetRequest{Key: "value", Expiry: setTTL(time.Hour)})
	a.set(t, &cachev1.SetRequest{Key: "negative", Negative: true, Expiry: setTTL(time.Hour)})
	for _, ask := range []struct {
		key     string
		outcome cachev1.GetOrLeaseOutcome
		token   bool
		etag    string
	}{
		{"value", leaseStale, true, etag},
		{"value", leaseStale, false, etag},
		{"negative", leaseMiss, true, ""},
		{"negative", leasePending, false, ""},
	} {
		r := &cachev1.GetOrLeaseRequest{Key: ask.key, MaxAge: durationpb.New(time.Nanosecond), Beta: proto.Float64(0)}
		if got := a.lease(t, r, ask.outcome, ask.token); got.Etag != ask.etag || got.Ttl != nil {
			t.Errorf("GetOrLease(%s) = %v, want the etag %q and no ttl", ask.key, got, ask.etag)
		}
	}
}

// An increment that is refused writes nothing, and so revokes no lease either.
func TestARefusedIncrementLeavesTheLease(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	token := a.lease(t, &cachev1.GetOrLeaseRequest{Key: "k"}, leaseMiss, true).LeaseToken
	got := must[*cachev1.IncrementResponse](t)(a.cache.Increment(t.Context(), &cachev1.IncrementRequest{Key: "k", Max: proto.Int64(0)}))
	if got.Outcome != cachev1.IncrementOutcome_INCREMENT_OUTCOME_REJECTED {
		t.Fatalf("Increment = %v, want REJECTED", got)
	}
	filled := must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{Key: "k", LeaseToken: token}))
	if filled.Outcome != cachev1.FillOutcome_FILL_OUTCOME_STORED {
		t.Errorf("Fill = %v, want STORED", filled)
	}
}

// A write under a condition is not repeated when its answer is lost: it would meet what the first try has done, and say
// that the condition did not hold.
func TestALostAnswerUnderAConditionIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, a *api, etag string, trailer *metadata.MD) error{
		"set": func(ctx context.Context, a *api, etag string, trailer *metadata.MD) error {
			_, err := a.cache.Set(ctx, &cachev1.SetRequest{Key: "k", Precondition: &cachev1.SetRequest_IfMatch{IfMatch: etag}}, grpc.Trailer(trailer))
			return err
		},
		"delete": func(ctx context.Context, a *api, etag string, trailer *metadata.MD) error {
			_, err := a.cache.Delete(ctx, &cachev1.DeleteRequest{Key: "k", IfMatch: etag}, grpc.Trailer(trailer))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, proxy := behindProxy(t)
			etag := a.set(t, &cachev1.SetRequest{Key: "k"})
			var trailer metadata.MD
			if err := write(t.Context(), a, "0123456789abcdef", &trailer); err != nil { // and now Redis knows the script
				t.Fatalf("first write = %v, want nil", err)
			}
			before := a.redis.CommandCalls(t)["evalsha"]
			proxy.DropReplies(true)
			answered := make(chan error, 1)
			go func() { answered <- write(t.Context(), a, etag, &trailer) }()
			eventually(t, "applied", func() bool { return a.redis.CommandCalls(t)["evalsha"] > before })
			proxy.Refuse(true) // what connects meanwhile would be out of step
			proxy.CutAll()
			proxy.DropReplies(false)
			proxy.Refuse(false) // and from here on a second try would be answered
			err := wait(t, "answer", answered)
			wantAnswer(t, err, answer{Code: codes.Unavailable, Reason: "WRITE_OUTCOME_UNKNOWN", Retry: true})
			if got := trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 || got[0] != "-1" {
				t.Errorf("trailer grpc-retry-pushback-ms = %q, want -1", got)
			}
		})
	}
}
