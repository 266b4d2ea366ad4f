package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// While Redis does not answer, the tokens of a batch that the near cache knows have their verdicts, and the others fail.
func TestBatchOfTokensWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, CommandTimeout: 300 * time.Millisecond}})
	held, _ := createSession(t, s, "n", sessionOf("ann"))
	other, _ := createSession(t, s, "n", sessionOf("bob"))
	for range 3 {
		validate(t, s, "n", held, cached)
	}
	server.Pause(t)
	got, err := s.Sessions.ValidateAll(t.Context(), "n", []session.Validation{
		{Token: held, Near: true, Touch: session.TouchNever},
		{Token: other, Near: true, Touch: session.TouchNever},
		{Token: "junk", Near: true},
	})
	_, all := s.Sessions.ValidateAll(t.Context(), "n", []session.Validation{{Token: other, Near: true, Touch: session.TouchNever}})
	server.Resume(t)
	if err != nil {
		t.Fatalf("ValidateAll: error %v, want none: %s", err, redis.Cause(err))
	}
	if got[0].Err != nil || got[0].Outcome != session.Active || !errors.Is(got[1].Err, redis.ErrUnavailable) || got[2].Err != nil || got[2].Outcome != session.Inactive {
		t.Errorf("ValidateAll = %+v, want active, %v, inactive", got, redis.ErrUnavailable)
	}
	if !redis.Retryable(all) {
		t.Errorf("ValidateAll of a token that is not held: error %v, want one that may be retried", all)
	}
}
