package service

import (
	"fmt"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// No call fails because a setting lets entries and sessions live for longer than anybody, which operators write for "for ever".
func TestTheLongestTimes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	for i, longest := range []time.Duration{150 * 365 * 24 * time.Hour, math.MaxInt64} {
		t.Run(longest.String(), func(t *testing.T) {
			t.Parallel()
			a := serveStore(t, store.Options{
				Redis: redis.Options{Addrs: []string{server.Addr}, DB: i, CommandTimeout: 10 * time.Second}, Cache: cache.Options{MaxTTL: longest},
			}, policy.Limits{MaxTTL: longest, SessionAbsoluteTimeout: longest, SessionIdleTimeout: longest})
			longest := a.options.Limits.MaxTTL
			ctx, most := t.Context(), durationpb.New(longest)
			half := durationpb.New(longest / 2)

			_, err := a.cache.Set(ctx, &cachev1.SetRequest{Key: "k", Expiry: &cachev1.SetRequest_Ttl{Ttl: half}, StaleTtl: half, Tags: []string{"t"}})
			succeeds(t, "Set", err)
			_, err = a.cache.Set(ctx, &cachev1.SetRequest{Key: "long", Expiry: &cachev1.SetRequest_Ttl{Ttl: most}})
			succeeds(t, "Set for as long as can be", err)
			_, err = a.cache.Increment(ctx, &cachev1.IncrementRequest{Key: "n", Expiry: &cachev1.IncrementRequest_Ttl{Ttl: most}})
			succeeds(t, "Increment", err)
			_, err = a.cache.Touch(ctx, &cachev1.TouchRequest{Key: "k", Expiry: &cachev1.TouchRequest_Ttl{Ttl: half}})
			succeeds(t, "Touch", err)
			for _, mode := range []cachev1.InvalidationMode{cachev1.InvalidationMode_INVALIDATION_MODE_STALE, cachev1.InvalidationMode_INVALIDATION_MODE_DELETE} {
				_, err = a.cache.InvalidateTags(ctx, &cachev1.InvalidateTagsRequest{Tags: []string{"t"}, Mode: mode})
				succeeds(t, "InvalidateTags", err)
			}
			if got, err := a.cache.Get(ctx, &cachev1.GetRequest{Key: "k"}); err != nil || got.GetOutcome() != cachev1.GetOutcome_GET_OUTCOME_MISS {
				t.Errorf("Get of an invalidated entry = %v, %v, want a miss", got.GetOutcome(), err)
			}
			if got, err := a.cache.Get(ctx, &cachev1.GetRequest{Key: "long"}); err != nil || got.GetOutcome() != cachev1.GetOutcome_GET_OUTCOME_HIT {
				t.Errorf("Get = %v, %v, want a hit", got.GetOutcome(), err)
			}
			lease, err := a.cache.GetOrLease(ctx, &cachev1.GetOrLeaseRequest{Key: "loaded"})
			succeeds(t, "GetOrLease", err)
			_, err = a.cache.Fill(ctx, &cachev1.FillRequest{Key: "loaded", LeaseToken: lease.GetLeaseToken(), Expiry: &cachev1.FillRequest_Ttl{Ttl: most}})
			succeeds(t, "Fill", err)

			made := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
			if got, err := a.session.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{SessionToken: made.GetSessionToken(), Touch: sessionv1.Touch_TOUCH_FORCE}); err != nil || got.GetOutcome() != sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE {
				t.Errorf("ValidateSession = %v, %v, want active", got.GetOutcome(), err)
			}
			_, err = a.session.RotateSession(ctx, &sessionv1.RotateSessionRequest{SessionToken: made.GetSessionToken()})
			succeeds(t, "RotateSession", err)
			if got, err := a.session.RevokeSubjectSessions(ctx, &sessionv1.RevokeSubjectSessionsRequest{Subject: "ann"}); err != nil || got.GetRevokedCount() != 1 {
				t.Errorf("RevokeSubjectSessions = %v, %v, want 1", got.GetRevokedCount(), err)
			}
		})
	}
}

func succeeds(t testing.TB, call string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s = %v, want nil", call, err)
	}
}

// Every rpc that takes a session by its id, or its latest token, works however often the token was replaced, where the
// attributes are encrypted.
func TestEncryptedSessionsAfterRotations(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{Keyring: true})
	ctx := t.Context()
	made := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"n": "1"}})
	id, token := made.GetSession().GetSessionId(), made.GetSessionToken()
	for rotations := range 5 {
		for _, target := range []*sessionv1.UpdateSessionRequest{
			{Target: &sessionv1.UpdateSessionRequest_SessionId{SessionId: id}}, {Target: &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: token}},
		} {
			target.IncrementAttributes = map[string]int64{"n": 1}
			if _, err := a.session.UpdateSession(ctx, target); err != nil {
				t.Fatalf("UpdateSession of %v after %d rotations = %v, want nil", target.GetTarget(), rotations, err)
			}
		}
		if got, err := a.session.GetSession(ctx, &sessionv1.GetSessionRequest{SessionId: id}); err != nil || got.GetSession().GetAttributes()["n"] != fmt.Sprint(3+2*rotations) {
			t.Fatalf("GetSession after %d rotations = %v, %v, want n to be %d", rotations, got.GetSession().GetAttributes(), err, 3+2*rotations)
		}
		next, err := a.session.RotateSession(ctx, &sessionv1.RotateSessionRequest{SessionToken: token})
		if err != nil {
			t.Fatalf("RotateSession = %v, want nil", err)
		}
		token = next.GetSessionToken()
	}
}
