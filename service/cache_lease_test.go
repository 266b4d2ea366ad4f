package service

import (
	"context"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

// lease asks for an entry or its lease, and checks the outcome and whether there is a token.
func (a *api) lease(t testing.TB, r *cachev1.GetOrLeaseRequest, want cachev1.GetOrLeaseOutcome, token bool) *cachev1.GetOrLeaseResponse {
	t.Helper()
	got := must[*cachev1.GetOrLeaseResponse](t)(a.cache.GetOrLease(t.Context(), r))
	if got.Outcome != want || (got.LeaseToken != "") != token || (got.LeaseTtl != nil) != token {
		t.Fatalf("GetOrLease(%v) = %v, want %v, with a lease: %t", r, got, want, token)
	}
	return got
}

const (
	leaseHit      = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_HIT
	leaseStale    = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_STALE
	leaseNegative = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_NEGATIVE
	leaseMiss     = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_MISS
	leasePending  = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_PENDING
)

// stale makes an entry that is stale and has a tag.
func (a *api) stale(t testing.TB, ns string) (etag string) {
	t.Helper()
	etag = a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "k", Value: []byte("old"), Tags: []string{"tag"}, Expiry: setTTL(time.Millisecond), StaleTtl: secs(600)})
	eventually(t, "stale", func() bool {
		return a.primary(t, ns, "k").Outcome == cachev1.GetOutcome_GET_OUTCOME_STALE
	})
	return etag
}

// ages waits until so much time has passed by the clock of Redis, which decides how old things are.
func (a *api) ages(t testing.TB, d time.Duration) {
	t.Helper()
	now := func() time.Time {
		parts := a.do(t, "TIME").([]any)
		sec, err1 := strconv.ParseInt(parts[0].(string), 10, 64)
		usec, err2 := strconv.ParseInt(parts[1].(string), 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("TIME = %v, want two numbers", parts)
		}
		return time.Unix(sec, usec*1000)
	}
	began := now()
	eventually(t, "older", func() bool { return now().Sub(began) >= d })
}

func TestGetOrLease(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})

	t.Run("Hit", func(t *testing.T) {
		t.Parallel()
		etag := a.set(t, &cachev1.SetRequest{Namespace: "hit", Key: "k", Value: []byte("v"), Expiry: setTTL(time.Hour), ContentType: "text/plain"})
		got := a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: "hit", Key: "k", Beta: proto.Float64(0)}, leaseHit, false)
		remains(t, "ttl", &got.Ttl, time.Hour)
		elapsed(t, "age", &got.Age)
		got.Source = 0
		same(t, &cachev1.GetOrLeaseResponse{Outcome: leaseHit, Value: []byte("v"), Etag: etag, ContentType: "text/plain"}, got)
	})

	t.Run("HitThatIsRefreshedEarly", func(t *testing.T) {
		t.Parallel()
		// The load takes a while and the value is to last for little longer than that: beta 100 asks for a new one.
		r := &cachev1.GetOrLeaseRequest{Namespace: "early", Key: "k", Beta: proto.Float64(100)}
		first := a.lease(t, r, leaseMiss, true)
		a.ages(t, 50*time.Millisecond)
		filled := must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{
			Namespace: "early", Key: "k", LeaseToken: first.LeaseToken, Value: []byte("v"), Expiry: &cachev1.FillRequest_Ttl{Ttl: secs(20)},
		}))
		if filled.Outcome != cachev1.FillOutcome_FILL_OUTCOME_STORED {
			t.Fatalf("Fill = %v, want STORED", filled)
		}
		eventually(t, "asked to refresh", func() bool {
			got := must[*cachev1.GetOrLeaseResponse](t)(a.cache.GetOrLease(t.Context(), r))
			if got.Outcome != leaseHit || string(got.Value) != "v" {
				t.Fatalf("GetOrLease = %v, want a HIT of v", got)
			}
			return got.LeaseToken != ""
		})
	})

	t.Run("Stale", func(t *testing.T) {
		t.Parallel()
		etag := a.stale(t, "stale")
		r := &cachev1.GetOrLeaseRequest{Namespace: "stale", Key: "k", LeaseTtl: secs(30)}
		for _, token := range []bool{true, false} {
			got := a.lease(t, r, leaseStale, token)
			if string(got.Value) != "old" || got.Etag != etag || got.Ttl != nil {
				t.Errorf("GetOrLease = %v, want old with the etag %s and no ttl", got, etag)
			}
			if token {
				remains(t, "lease_ttl", &got.LeaseTtl, 30*time.Second)
			}
		}
	})

	t.Run("Negative", func(t *testing.T) {
		t.Parallel()
		a.set(t, &cachev1.SetRequest{Namespace: "negative", Key: "k", Negative: true})
		a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: "negative", Key: "k", Beta: proto.Float64(0)}, leaseNegative, false)
	})

	t.Run("MissAndPending", func(t *testing.T) {
		t.Parallel()
		r := &cachev1.GetOrLeaseRequest{Namespace: "miss", Key: "k"}
		got := a.lease(t, r, leaseMiss, true)
		remains(t, "lease_ttl", &got.LeaseTtl, 10*time.Second)
		if got := a.lease(t, r, leasePending, false); got.RetryAfter.AsDuration() <= 0 {
			t.Errorf("retry_after = %v, want above zero", got.RetryAfter)
		}
		r.WaitTimeout = durationpb.New(20 * time.Millisecond)
		a.lease(t, r, leasePending, false)
	})

	t.Run("WaitsForTheValue", func(t *testing.T) {
		t.Parallel()
		a := newAPI(t, policy.Limits{}) // whose commands are counted
		r := &cachev1.GetOrLeaseRequest{Namespace: "wait", Key: "k", LeaseTtl: secs(60)}
		token := a.lease(t, r, leaseMiss, true).LeaseToken
		a.redis.ResetCommandCalls(t)
		type result struct {
			resp *cachev1.GetOrLeaseResponse
			err  error
		}
		waited := make(chan result, 1)
		go func() {
			resp, err := a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Namespace: "wait", Key: "k", WaitTimeout: secs(30)})
			waited <- result{resp, err}
		}()
		// The script that refuses the lease asks how long it lasts, and so does who begins to wait.
		asked := func() int64 { return a.redis.CommandCalls(t)["pttl"] }
		eventually(t, "waiting", func() bool { return asked() == 2 })
		began := time.Now()
		must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{Namespace: "wait", Key: "k", LeaseToken: token, Value: []byte("new")}))
		if got := <-waited; got.err != nil || got.resp.Outcome != leaseHit || string(got.resp.Value) != "new" {
			t.Errorf("waiting GetOrLease = %v, %v, want a HIT of new", got.resp, got.err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("the waiter returned after %v, want at most 20 s, by the push", took)
		}
		if n := asked(); n > 3 {
			t.Errorf("asked %d times how long the lease lasts, want at most 3", n)
		}
	})

	t.Run("TooOld", func(t *testing.T) {
		t.Parallel()
		a.set(t, &cachev1.SetRequest{Namespace: "old", Key: "k", Value: []byte("v")})
		a.ages(t, 20*time.Millisecond)
		a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: "old", Key: "k", MaxAge: durationpb.New(5 * time.Millisecond)}, leaseStale, true)
	})
}

func TestFill(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for _, tt := range []struct {
		name  string
		lease time.Duration
		then  func(t *testing.T, ns, token string)
		want  cachev1.FillOutcome
	}{
		{"stored", time.Minute, func(*testing.T, string, string) {}, cachev1.FillOutcome_FILL_OUTCOME_STORED},
		{"expired", time.Millisecond, func(t *testing.T, _, _ string) { a.ages(t, 50*time.Millisecond) }, cachev1.FillOutcome_FILL_OUTCOME_LEASE_EXPIRED},
		{"deleted", time.Minute, func(t *testing.T, ns, _ string) {
			must[*cachev1.DeleteResponse](t)(a.cache.Delete(t.Context(), &cachev1.DeleteRequest{Namespace: ns, Key: "k"}))
		}, cachev1.FillOutcome_FILL_OUTCOME_INVALIDATED},
		{"released", time.Minute, func(t *testing.T, ns, token string) {
			must[*cachev1.ReleaseLeaseResponse](t)(a.cache.ReleaseLease(t.Context(), &cachev1.ReleaseLeaseRequest{Namespace: ns, Key: "k", LeaseToken: token}))
		}, cachev1.FillOutcome_FILL_OUTCOME_INVALIDATED},
		{"tag", time.Minute, func(t *testing.T, ns, _ string) {
			must[*cachev1.InvalidateTagsResponse](t)(a.cache.InvalidateTags(t.Context(), &cachev1.InvalidateTagsRequest{Namespace: ns, Tags: []string{"tag"}}))
		}, cachev1.FillOutcome_FILL_OUTCOME_INVALIDATED},
		{"cleared", time.Minute, func(t *testing.T, ns, _ string) {
			must[*cachev1.ClearNamespaceResponse](t)(a.cache.ClearNamespace(t.Context(), &cachev1.ClearNamespaceRequest{Namespace: ns}))
		}, cachev1.FillOutcome_FILL_OUTCOME_INVALIDATED},
		{"superseded", time.Minute, func(t *testing.T, ns, _ string) {
			a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "k", Value: []byte("theirs")})
		}, cachev1.FillOutcome_FILL_OUTCOME_SUPERSEDED},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &cachev1.GetOrLeaseRequest{Namespace: tt.name, Key: "k", LeaseTtl: durationpb.New(tt.lease)}
			token := a.lease(t, r, leaseMiss, true).LeaseToken
			tt.then(t, tt.name, token)
			got := must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{
				Namespace: tt.name, Key: "k", LeaseToken: token, Value: []byte("mine"), Tags: []string{"tag"},
			}))
			stored := tt.want == cachev1.FillOutcome_FILL_OUTCOME_STORED
			if got.Outcome != tt.want || isETag(got.Etag) != stored {
				t.Errorf("Fill = %v, want %v, with an etag: %t", got, tt.want, stored)
			}
			if now := a.primary(t, tt.name, "k"); (string(now.Value) == "mine") != stored {
				t.Errorf("entry after the Fill = %v, want the filled value: %t", now, stored)
			}
		})
	}
}

func TestReleaseLease(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	r := &cachev1.GetOrLeaseRequest{Key: "k"}
	for range 2 { // the next caller is given the lease at once
		release := &cachev1.ReleaseLeaseRequest{Key: "k", LeaseToken: a.lease(t, r, leaseMiss, true).LeaseToken}
		for _, want := range []cachev1.ReleaseLeaseOutcome{
			cachev1.ReleaseLeaseOutcome_RELEASE_LEASE_OUTCOME_RELEASED, cachev1.ReleaseLeaseOutcome_RELEASE_LEASE_OUTCOME_NOT_HELD,
		} {
			same(t, &cachev1.ReleaseLeaseResponse{Outcome: want}, must[*cachev1.ReleaseLeaseResponse](t)(a.cache.ReleaseLease(t.Context(), release)))
		}
	}

	// Held back, it is given to nobody, and a stale value keeps being served.
	hold := func(ns string, outcome cachev1.GetOrLeaseOutcome) *cachev1.GetOrLeaseRequest {
		r := &cachev1.GetOrLeaseRequest{Namespace: ns, Key: "k"}
		token := a.lease(t, r, outcome, true).LeaseToken
		must[*cachev1.ReleaseLeaseResponse](t)(a.cache.ReleaseLease(t.Context(), &cachev1.ReleaseLeaseRequest{
			Namespace: ns, Key: "k", LeaseToken: token, RetryAfter: secs(60),
		}))
		return r
	}
	a.lease(t, hold("nothing", leaseMiss), leasePending, false)
	a.stale(t, "something")
	a.lease(t, hold("something", leaseStale), leaseStale, false)
}

func TestGetOfStaleAndOldEntries(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.stale(t, "stale")
	for _, tt := range []struct {
		allow *bool
		want  cachev1.GetOutcome
	}{
		{nil, cachev1.GetOutcome_GET_OUTCOME_STALE},
		{proto.Bool(true), cachev1.GetOutcome_GET_OUTCOME_STALE},
		{proto.Bool(false), cachev1.GetOutcome_GET_OUTCOME_MISS},
	} {
		if got := a.get(t, &cachev1.GetRequest{Namespace: "stale", Key: "k", AllowStale: tt.allow}); got.Outcome != tt.want {
			t.Errorf("Get with allow_stale %v = %v, want %v", tt.allow, got, tt.want)
		}
	}

	a.set(t, &cachev1.SetRequest{Key: "k", Value: []byte("v")})
	a.ages(t, 20*time.Millisecond)
	young, old := secs(60), durationpb.New(5*time.Millisecond)
	for _, tt := range []struct {
		request *cachev1.GetRequest
		want    cachev1.GetOutcome
	}{
		{&cachev1.GetRequest{MaxAge: young}, cachev1.GetOutcome_GET_OUTCOME_HIT},
		{&cachev1.GetRequest{MaxAge: old}, cachev1.GetOutcome_GET_OUTCOME_STALE},
		{&cachev1.GetRequest{MaxAge: old, AllowStale: proto.Bool(false)}, cachev1.GetOutcome_GET_OUTCOME_MISS},
	} {
		tt.request.Key = "k"
		if got := a.get(t, tt.request); got.Outcome != tt.want {
			t.Errorf("Get(%v) = %v, want %v", tt.request, got, tt.want)
		}
	}
}

func TestInvalidateTagsAndClearNamespace(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for mode, want := range map[cachev1.InvalidationMode]cachev1.GetOutcome{
		cachev1.InvalidationMode_INVALIDATION_MODE_UNSPECIFIED: cachev1.GetOutcome_GET_OUTCOME_MISS,
		cachev1.InvalidationMode_INVALIDATION_MODE_DELETE:      cachev1.GetOutcome_GET_OUTCOME_MISS,
		cachev1.InvalidationMode_INVALIDATION_MODE_STALE:       cachev1.GetOutcome_GET_OUTCOME_STALE,
	} {
		for name, invalidate := range map[string]func(ns string) error{
			"tags": func(ns string) error {
				_, err := a.cache.InvalidateTags(t.Context(), &cachev1.InvalidateTagsRequest{Namespace: ns, Tags: []string{"other", "tag"}, Mode: mode})
				return err
			},
			"clear": func(ns string) error {
				_, err := a.cache.ClearNamespace(t.Context(), &cachev1.ClearNamespaceRequest{Namespace: ns, Mode: mode})
				return err
			},
		} {
			ns := name + "-" + string(rune('0'+mode))
			set := func() {
				a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "k", Value: []byte("v"), Tags: []string{"tag"}})
				a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "plain", Value: []byte("v")})
				a.get(t, &cachev1.GetRequest{Namespace: ns, Key: "k"}) // into the near cache
			}
			set()
			if err := invalidate(ns); err != nil {
				t.Fatalf("invalidation of %s = %v, want nil", ns, err)
			}
			rest := cachev1.GetOutcome_GET_OUTCOME_HIT
			if name == "clear" {
				rest = want
			}
			for key, want := range map[string]cachev1.GetOutcome{"k": want, "plain": rest} {
				if got := a.primary(t, ns, key); got.Outcome != want {
					t.Errorf("%s: Get(%s) at PRIMARY = %v, want %v", ns, key, got.Outcome, want)
				}
				if got := a.get(t, &cachev1.GetRequest{Namespace: ns, Key: key}); got.Outcome != want {
					t.Errorf("%s: Get(%s) = %v, want %v", ns, key, got.Outcome, want)
				}
			}
			set() // what is written afterwards is not affected
			if got := a.primary(t, ns, "k"); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_HIT {
				t.Errorf("%s: Get of what was written afterwards = %v, want HIT", ns, got)
			}
		}
	}
}

func TestTaggedEntriesMustExpire(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.set(t, &cachev1.SetRequest{Key: "k", Tags: []string{"tag"}})
	_, err := a.cache.Touch(t.Context(), &cachev1.TouchRequest{Key: "k", Expiry: &cachev1.TouchRequest_Never{Never: true}})
	wantAnswer(t, err, answer{Code: codes.FailedPrecondition, Reason: "TAGGED_ENTRY_MUST_EXPIRE"})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := a.cache.Watch(ctx, &cachev1.WatchRequest{Namespace: "shop", Prefixes: []string{"user:"}})
	if err != nil {
		t.Fatalf("Watch = %v, want a stream", err)
	}
	next := func() *cachev1.WatchResponse {
		t.Helper()
		return must[*cachev1.WatchResponse](t)(stream.Recv())
	}
	want := func(want *cachev1.WatchResponse) {
		t.Helper()
		for {
			got := next()
			// Another RESET may say that from then on nothing is missed.
			if got.Event == want.Event || got.Event != cachev1.WatchEvent_WATCH_EVENT_RESET && got.Event != cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT {
				same(t, want, got)
				return
			}
		}
	}
	same(t, &cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_RESET}, next())
	want(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT}) // and now it is connected

	a.set(t, &cachev1.SetRequest{Namespace: "shop", Key: "order:1"})
	a.set(t, &cachev1.SetRequest{Namespace: "other", Key: "user:1"})
	a.set(t, &cachev1.SetRequest{Namespace: "shop", Key: "user:2"})
	want(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_INVALIDATED, Keys: []string{"user:2"}})
	must[*cachev1.DeleteResponse](t)(a.cache.Delete(ctx, &cachev1.DeleteRequest{Namespace: "shop", Key: "user:2"}))
	want(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_INVALIDATED, Keys: []string{"user:2"}})
	must[*cachev1.InvalidateTagsResponse](t)(a.cache.InvalidateTags(ctx, &cachev1.InvalidateTagsRequest{Namespace: "shop", Tags: []string{"tag"}}))
	want(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED, Tag: "tag"})
	must[*cachev1.ClearNamespaceResponse](t)(a.cache.ClearNamespace(ctx, &cachev1.ClearNamespaceRequest{Namespace: "shop"}))
	want(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_CLEARED})

	a.Shutdown(ctx)
	for err == nil {
		_, err = stream.Recv()
	}
	if got := answerOf(t, err); got.Code != codes.Unavailable || got.Reason != "SERVER_SHUTTING_DOWN" {
		t.Errorf("the watch ended with %v, want UNAVAILABLE, SERVER_SHUTTING_DOWN", err)
	}
}
