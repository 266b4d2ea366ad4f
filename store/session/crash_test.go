package session_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// With an append-only file that is flushed always, what was revoked before Redis is killed is revoked when it is back.
func TestRevocationsOutliveACrash(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Args: []string{"appendonly", "yes", "appendfsync", "always"}})
	s := beside(t, server)
	for range 3 {
		one, oneSession := createSession(t, s, "n", sessionOf("ann"))
		two, _ := createSession(t, s, "n", sessionOf("ann"))
		living, kept := createSession(t, s, "n", sessionOf("ann"))
		rotated, _ := createSession(t, s, "n", sessionOf("bob"))
		revokeSession(t, s, "n", byID(oneSession))
		next, _ := rotate(t, s, "n", rotated)
		revokeSubject(t, s, "n", "ann", kept.ID)
		server.Kill()
		server.Restart(t)
		storetest.Eventually(t, "the store is connected again", func() bool { return s.Redis.Ping(t.Context()) == nil })
		for _, token := range []string{one, two} {
			wantInactive(t, s, "n", token)
		}
		for _, token := range []string{living, next} {
			wantActive(t, s, "n", token)
		}
	}
}

// A change that has failed while the network took nothing is not made later, over one that another replica has made since. Nor
// does it bring rights back that were taken away meanwhile.
func TestUpdateThatFailedNeverLandsLater(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	direct := beside(t, server)
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: 500 * time.Millisecond}})
	set := func(by *store.Store, token, name, value string) error {
		_, err := by.Sessions.Update(t.Context(), "n", byToken(token), session.Changes{Set: map[string]string{name: value}})
		return err
	}
	token, _ := createSession(t, direct, "n", sessionOf("ann"))
	other, _ := createSession(t, direct, "n", sessionOf("bob"))
	if err := errors.Join(set(s, token, "role", "user"), set(direct, token, "role", "user")); err != nil {
		t.Fatalf("Update: error %v, want none", err)
	}
	proxy.Blackhole(true)
	// The first fills what the other side takes without reading; the others wait in this side's kernel.
	for _, change := range [][2]string{{"filler", strings.Repeat("x", 60<<10)}, {"filler", strings.Repeat("y", 60<<10)}, {"filler", strings.Repeat("z", 60<<10)}, {"role", "admin"}} {
		if err := set(s, token, change[0], change[1]); !errors.Is(err, redis.ErrOutcomeUnknown) && !errors.Is(err, redis.ErrUnavailable) {
			t.Fatalf("Update of %s: error %v, want an unknown outcome", change[0], err)
		}
	}
	if _, err := s.Sessions.Create(t.Context(), "n", sessionOf("eve")); err == nil {
		t.Error("Create: no error, want one")
	}
	if err := set(direct, token, "role", "guest"); err != nil {
		t.Fatalf("Update through another replica: error %v, want none", err)
	}
	revokeSession(t, direct, "n", byToken(other))
	proxy.Blackhole(false)
	storetest.Eventually(t, "the store is connected again", func() bool { return s.Redis.Ping(t.Context()) == nil })
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for begin := time.Now(); time.Since(begin) < 3*time.Second; <-ticks.C {
		if got := validate(t, direct, "n", token, primary); got == nil || got.Attributes["role"] != "guest" {
			t.Fatalf("the session = %+v, want the role guest", got)
		}
	}
	wantInactive(t, direct, "n", other)
}
