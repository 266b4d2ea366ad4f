package session_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// After a failover behind one address some connections lead to the new primary, while the tracked ones still lead to the former
// one, which knows nothing of what was written since. What the former one does not know ends nobody's session.
func TestTrackedConnectionsToTheFormerPrimaryEndNoSession(t *testing.T) {
	t.Parallel()
	former, next := redistest.Start(t, redistest.Options{}), redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, former.Addr)
	// The near cache is confirmed, and with it the connections, every 20 s.
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Minute}})
	for _, subject := range []string{"", "ann"} {
		createSession(t, s, "n", sessionOf(subject)) // the scripts are known
	}
	proxy.SetTarget(next.Addr)
	for line := range strings.Lines(former.Do(t, "CLIENT", "LIST").(string)) {
		fields := make(map[string]string)
		for _, field := range strings.Fields(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		if !strings.Contains(fields["flags"], "t") {
			_, _ = former.TryDo("CLIENT", "KILL", "ID", fields["id"]) // one is the connection of this very command
		}
	}
	// copied makes the former primary know a session as it is.
	copied := func(token string) {
		for _, kind := range []string{"s", "u"} {
			for _, key := range evicted(t, s, "n", kind, tokenBytes(t, token)[0]) {
				former.Do(t, "RESTORE", key, "0", next.Do(t, "DUMP", key).(string), "REPLACE")
			}
		}
		if validate(t, s, "n", token, cached) == nil {
			t.Error("Validate of a session that both servers know = inactive, want active")
		}
	}
	for _, subject := range []string{"", "ann"} {
		token, _ := createSession(t, s, "n", sessionOf(subject))
		if next.Do(t, "DBSIZE") == int64(0) {
			t.Fatal("the session was created at the former primary, want it at the new one")
		}
		batch := func(what, token string) {
			t.Helper()
			verdicts, err := s.Sessions.ValidateAll(t.Context(), "n", []session.Validation{{Token: token, Near: true}})
			if err != nil || len(verdicts) != 1 || verdicts[0].Err != nil || verdicts[0].Session == nil {
				t.Errorf("ValidateAll of %s = %+v, %v, want it active", what, verdicts, err)
			}
		}
		what := fmt.Sprintf("a new session of %q", subject)
		if validate(t, s, "n", token, cached) == nil {
			t.Errorf("Validate of %s = inactive, want active", what)
		}
		batch(what, token)

		token, _ = createSession(t, s, "n", sessionOf(subject))
		copied(token)
		rotated, _ := rotate(t, s, "n", token)
		what = fmt.Sprintf("a rotated session of %q", subject)
		if validate(t, s, "n", rotated, cached) == nil {
			t.Errorf("Validate of %s = inactive, want active", what)
		}
		batch(what, rotated)
	}
}
