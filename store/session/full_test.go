package session_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// fill writes entries of others until Redis has no memory left, or has written that many.
func fill(t *testing.T, server *redistest.Server, most int) {
	t.Helper()
	value := strings.Repeat("x", 8<<10)
	for i := range most {
		if _, err := server.TryDo("SET", fmt.Sprint("filler:", i), value, "EX", "86400"); err != nil {
			if strings.HasPrefix(err.Error(), "OOM") {
				return
			}
			t.Fatalf("SET: error %v, want OOM", err)
		}
	}
}

// full lowers the memory of a server to what it uses.
func full(t *testing.T, server *redistest.Server) {
	t.Helper()
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if _, err := server.TryDo("SET", "filler", "x"); err == nil || !strings.HasPrefix(err.Error(), "OOM") {
		t.Fatalf("SET at full memory: error %v, want OOM", err)
	}
}

// With no memory left, rights can be taken away, sessions in use live on and the sweep frees what has ended; creation is
// refused.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := beside(t, server)
	const count = 200
	create := func(subject, class string) (tokens []string, sessions []*session.Session) {
		return createMany(t, s, "n", ofClass(subject, class), count)
	}
	byIDs, byIDSessions := create("ids", "")
	byTokens, _ := create("tokens", "")
	ofSubject, _ := create("subject", "")
	ofMobile, _ := create("class", "mobile")
	others, othersSessions := create("others", "")
	ended, endedSessions := create("ended", "")
	inUse, inUseSession := createSession(t, s, "n", sessionOf("busy"))
	stolen, stolenSession := createSession(t, s, "n", sessionOf("victim"))
	successor, _ := rotate(t, s, "n", stolen)
	seen(t, s, "n", successor, stolenSession)
	rotatedLongAgo(t, s, "n", stolenSession)
	age(t, s, "n", inUseSession, 10*time.Minute)
	for _, sess := range endedSessions {
		age(t, s, "n", sess, 2*time.Hour)
		p, _ := subjectPartition("n", "ended")
		server.Do(t, "ZADD", fmt.Sprintf("ld:x:{p%d}", p), "1000", "n:"+sess.ID)
	}
	// None of the scripts may be known: they are loaded at full memory, too.
	server.Do(t, "SCRIPT", "FLUSH")
	full(t, server)

	if _, err := s.Sessions.Create(t.Context(), "n", sessionOf("ann")); !errors.Is(err, redis.ErrOverloaded) {
		t.Errorf("Create: error %v, want ErrOverloaded", err)
	}
	for i, sess := range byIDSessions {
		if !revokeSession(t, s, "n", byID(sess)) {
			t.Errorf("Revoke of session %d = false, want true", i)
		}
	}
	for i, token := range byTokens {
		ctx := session.WithRequest(t.Context(), "")
		for range 2 {
			if revoked, err := s.Sessions.Revoke(ctx, "n", byToken(token)); !revoked || err != nil {
				t.Errorf("Revoke by token %d = %t, %v; want true, no error", i, revoked, err)
			}
		}
	}
	if n := revokeSubject(t, s, "n", "subject", ""); n != count {
		t.Errorf("RevokeSubject = %d, want %d", n, count)
	}
	if n := revokeClass(t, s, "n", "class", "mobile", "").Count; n != count {
		t.Errorf("RevokeSubject of a class = %d, want %d", n, count)
	}
	if n := revokeSubject(t, s, "n", "others", othersSessions[0].ID); n != count-1 {
		t.Errorf("RevokeSubject but one = %d, want %d", n, count-1)
	}
	if n := revokeSubject(t, s, "n", "nobody", ""); n != 0 {
		t.Errorf("RevokeSubject of a subject without sessions = %d, want 0", n)
	}
	for what, tokens := range map[string][]string{"id": byIDs, "token": byTokens, "subject": ofSubject, "class": ofMobile, "others": others[1:]} {
		for i, token := range tokens {
			if validate(t, s, "n", token, primary) != nil {
				t.Fatalf("revoked by %s: token %d is active, want inactive", what, i)
			}
		}
	}
	wantActive(t, s, "n", others[0])
	if got := touch(t, s, "n", inUse, primary, session.TouchForce); got == nil || s.Redis.Now().Sub(got.LastActiveAt) > time.Minute {
		t.Errorf("Validate with a touch = %+v, want activity now", got)
	}
	validate(t, s, "n", stolen, primary)
	wantTheft(t, s, "n", stolenSession, successor, "at full memory")

	sweeping := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}, Sessions: session.Options{SweepInterval: 200 * time.Millisecond}})
	storetest.Eventually(t, "the ended sessions are swept", func() bool {
		for _, sess := range endedSessions {
			if leaves(t, s, "n", sess) {
				return false
			}
		}
		return true
	})
	if got := emitted(t, s, "n", "ended", "type=expired_idle"); len(got) != count {
		t.Errorf("%d expired events, want %d", len(got), count)
	}
	storetest.Eventually(t, "the revoked sessions are swept", func() bool { return sweeping.Stats().Sessions.Removed >= 3*count-1 })
	for i, token := range ended {
		if validate(t, s, "n", token, primary) != nil {
			t.Errorf("expired token %d is active, want inactive", i)
		}
	}
}

// Under every policy that evicts, no revoked token is active however much is evicted.
func TestEvictionPolicies(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "allkeys-lru", "allkeys-lfu", "allkeys-random"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{Args: []string{"maxmemory-policy", policy, "maxmemory-samples", "10"}})
			s := beside(t, server)
			const subjects = 200
			var revoked, living []string
			for i := range subjects {
				n := ofClass(fmt.Sprint("s", i), "mobile")
				n.Attributes = map[string]string{"role": "guest"}
				for range 2 {
					token, _ := createSession(t, s, "n", n)
					revoked = append(revoked, token)
				}
				if i%2 == 0 {
					revokeSubject(t, s, "n", n.Subject, "")
				} else {
					revokeClass(t, s, "n", n.Subject, "mobile", "")
				}
				token, _ := createSession(t, s, "n", n)
				living = append(living, token)
			}
			info := server.Do(t, "INFO", "memory").(string)
			_, used, _ := strings.Cut(info, "used_memory:")
			used, _, _ = strings.Cut(used, "\r\n")
			n, err := strconv.Atoi(used)
			if err != nil {
				t.Fatalf("used_memory = %q, want a number", used)
			}
			server.Do(t, "CONFIG", "SET", "maxmemory", strconv.Itoa(n+64<<10))
			active, lost := 0, 0
			for round := range 12 {
				fill(t, server, 40)
				server.Do(t, "CONFIG", "SET", "maxmemory", strconv.Itoa(n+64<<10-round*40<<10))
				for _, token := range revoked {
					if validate(t, s, "n", token, primary) != nil {
						active++
					}
				}
			}
			for i, token := range living {
				got := validate(t, s, "n", token, primary)
				if got == nil {
					lost++
				} else if got.Attributes["role"] != "guest" {
					t.Errorf("session %d is active without its attributes: %+v, want it inactive", i, got)
				}
			}
			if active > 0 {
				t.Errorf("revoked tokens were active %d times, want 0", active)
			}
			if lost == 0 {
				t.Error("no session was lost: nothing was tried")
			}
			t.Logf("%d of %d living sessions lost", lost, subjects)
		})
	}
}
