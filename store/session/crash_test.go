package session_test

import (
	"testing"

	"github.com/berthcare/larder/store/redistest"
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
