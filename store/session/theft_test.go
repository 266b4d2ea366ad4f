package session_test

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// presentations are the calls to which a token can be presented.
func presentations(t *testing.T, s *store.Store, namespace string) map[string]func(token string) {
	return map[string]func(token string){
		"validate":         func(token string) { validate(t, s, namespace, token, cached) },
		"validate primary": func(token string) { validate(t, s, namespace, token, primary) },
		"force":            func(token string) { touch(t, s, namespace, token, cached, session.TouchForce) },
		"batch":            func(token string) { validateAll(t, s, namespace, session.Validation{Token: token, Near: cached}) },
		"step up":          func(token string) { validateAll(t, s, namespace, session.Validation{Token: token, MinAAL: 3}) },
		"rotate":           func(token string) { rotate(t, s, namespace, token) },
		"reauthenticate":   func(token string) { reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 2}) },
		"promote":          func(token string) { promote(t, s, namespace, token, "bob") },
		"update": func(token string) {
			updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "1"}})
		},
		"refused update": func(token string) {
			_, _ = s.Sessions.Update(t.Context(), namespace, byToken(token), session.Changes{Set: map[string]string{"a": "1"}, ExpectedVersion: 99})
		},
		"revoke": func(token string) { revokeSession(t, s, namespace, byToken(token)) },
	}
}

// wantTheft checks that a session was ended because a stolen token was presented.
func wantTheft(t *testing.T, s *store.Store, namespace string, sess *session.Session, current, what string) {
	t.Helper()
	if got := eventTypes(t, s, namespace, sess); len(got) < 2 || got[len(got)-2] != "token_reuse" || got[len(got)-1] != "revoked token_reuse" {
		t.Errorf("%s: events = %v, want token_reuse and revoked token_reuse at the end", what, got)
	}
	for _, near := range []bool{cached, primary} {
		if validate(t, s, namespace, current, near) != nil {
			t.Errorf("%s: the current token is active (cached %t), want inactive", what, near)
		}
	}
}

// Whoever steals a token and rotates it, ever so often, is found out when its victim presents it.
func TestStolenTokenIsRecognizedHoweverManyRotationsAgo(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for how, present := range presentations(t, s, namespace) {
			for _, rotations := range []int{1, 2, 10, 40, 300} {
				if rotations > 40 && how != "validate" {
					continue
				}
				for _, pause := range []bool{false, true} {
					subject := "ann"
					if how == "promote" {
						subject = ""
					}
					token, sess := createSession(t, s, namespace, sessionOf(subject))
					next := token
					for range rotations {
						next, _ = rotate(t, s, namespace, next)
						if pause && rotations <= 40 {
							ageRotations(t, s, namespace, sess, 2*grace)
						}
					}
					seen(t, s, namespace, next, sess)
					rotatedLongAgo(t, s, namespace, sess)
					present(token)
					wantTheft(t, s, namespace, sess, next, fmt.Sprintf("%s, %d rotations ago, pauses %t", how, rotations, pause))
				}
			}
		}
	})
}

// Any call that brings the successor shows that it has arrived: from then on the token before is good for its grace only.
func TestAnyCallRecordsTheArrivalOfASuccessor(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for how, present := range presentations(t, s, namespace) {
			if how == "revoke" || how == "promote" {
				continue // the session ends
			}
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			next, _ := rotate(t, s, namespace, token)
			present(next)
			if how != "rotate" && how != "reauthenticate" { // which supersede it
				key := sessionKeysOf(t, namespace, sess).record
				storetest.Eventually(t, how+" has recorded the arrival", func() bool { return storetest.Command(t, s, "HGET", key, "seen") == "1" })
			}
			rotatedLongAgo(t, s, namespace, sess)
			if got, _ := rotate(t, s, namespace, token); got != "" {
				t.Errorf("%s: Rotate of the superseded token after its grace = a token, want none", how)
			}
			if got := eventTypes(t, s, namespace, sess); got[len(got)-1] != "revoked token_reuse" {
				t.Errorf("%s: events = %v, want the theft at the end", how, got)
			}
		}
	})
}

// A client that has lost the answer rotates again after the grace; its other requests with the old token end nothing.
func TestRequestsUnderWayAreNoTheft(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for how, present := range presentations(t, s, namespace) {
			if how == "promote" {
				continue // bob's token is not anonymous
			}
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			next, _ := rotate(t, s, namespace, token)
			ageRotations(t, s, namespace, sess, grace+time.Minute)
			if again, _ := rotate(t, s, namespace, token); again != next {
				t.Fatalf("%s: repeated Rotate = %q, want %q", how, again, next)
			}
			seen(t, s, namespace, next, sess)
			present(token)
			wantActive(t, s, namespace, next)
			ageRotations(t, s, namespace, sess, 11*time.Second)
			present(token)
			wantTheft(t, s, namespace, sess, next, how+", later")

			// The same where the grace has just passed.
			token, sess = createSession(t, s, namespace, sessionOf("ann"))
			next, _ = rotate(t, s, namespace, token)
			seen(t, s, namespace, next, sess)
			ageRotations(t, s, namespace, sess, grace+10*time.Millisecond)
			present(token)
			wantActive(t, s, namespace, next)
		}
	})
}

// Each of several tokens that were superseded within the grace is good for its own.
func TestEveryTokenKeepsItsGrace(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const apart = time.Minute
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		tokens := []string{token}
		for range 4 {
			next, _ := rotate(t, s, namespace, tokens[len(tokens)-1])
			seen(t, s, namespace, next, sess)
			tokens = append(tokens, next)
			ageRotations(t, s, namespace, sess, apart)
		}
		current := tokens[len(tokens)-1]
		for i, token := range tokens {
			wantActive(t, s, namespace, token)
			if got, _ := rotate(t, s, namespace, token); i < len(tokens)-1 && got != current {
				t.Errorf("Rotate of token %d = %q, want the current token %q", i, got, current)
			} else if i == len(tokens)-1 {
				current = got
			}
			if v := updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"by": fmt.Sprint(i)}}); v == 0 {
				t.Errorf("Update by token %d = inactive, want active", i)
			}
		}
		seen(t, s, namespace, current, sess)
		// The first was superseded four minutes ago, the second three, and so on.
		ageRotations(t, s, namespace, sess, grace-4*apart+time.Second)
		for i, token := range tokens {
			if active := validate(t, s, namespace, token, primary) != nil; active != (i > 0) {
				t.Errorf("token %d: active = %t, want %t", i, active, i > 0)
			}
		}
		wantActive(t, s, namespace, current)
	})
}

// A token that rotations without a grace, or another authentication, have superseded is no good, nor is any before it.
func TestReauthenticationEndsEveryGrace(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for how, supersede := range map[string]func(token string) string{
			"reauthenticate": func(token string) string {
				next, _ := reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 2})
				return next
			},
			"rotate without grace": func(token string) string {
				next, _, err := s.Sessions.Rotate(t.Context(), namespace, token, 0)
				if err != nil {
					t.Fatalf("Rotate: error %v, want none", err)
				}
				return next
			},
		} {
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			second, _ := rotate(t, s, namespace, token)
			third, _ := rotate(t, s, namespace, second)
			wantActive(t, s, namespace, token)
			last := supersede(third)
			for i, dead := range []string{token, second, third} {
				for _, near := range []bool{cached, primary} {
					if validate(t, s, namespace, dead, near) != nil {
						t.Errorf("%s: token %d is active (cached %t), want inactive", how, i, near)
					}
				}
			}
			wantActive(t, s, namespace, last)
			rotatedLongAgo(t, s, namespace, sess)
			validate(t, s, namespace, second, primary)
			wantTheft(t, s, namespace, sess, last, how)
		}
	})
}

// However many tokens arrive at once and however busy Redis is, each arrival is recorded.
func TestArrivalsAreRecordedHoweverManyTouches(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := beside(t, server)
	const count = 300
	tokens, sessions := createMany(t, s, "n", sessionOf("ann"), count)
	for i := range tokens {
		tokens[i], _ = rotate(t, s, "n", tokens[i])
	}
	server.Do(t, "CLIENT", "PAUSE", "1000", "WRITE") // reads are answered
	for _, token := range tokens {
		if validate(t, s, "n", token, primary) == nil {
			t.Fatal("Validate = inactive, want active")
		}
	}
	for i, sess := range sessions {
		key := sessionKeysOf(t, "n", sess).record
		storetest.Eventually(t, fmt.Sprint("arrival of token ", i), func() bool { return server.Do(t, "HGET", key, "seen") == "1" })
	}
}

// A token that a failover has lost is no good and no sign of theft: the session lives on with the one before.
func TestTokenLostByAFailoverIsNoTheft(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		kept, _ := rotate(t, s, namespace, token)
		seen(t, s, namespace, kept, sess)
		key := sessionKeysOf(t, namespace, sess).record
		storetest.Command(t, s, "COPY", key, key+":before")
		lost, _ := rotate(t, s, namespace, kept)
		storetest.Command(t, s, "DEL", key)
		storetest.Command(t, s, "RENAME", key+":before", key)
		storetest.Eventually(t, "the near cache to follow", func() bool { return validate(t, s, namespace, lost, cached) == nil })
		wantInactive(t, s, namespace, lost)
		wantActive(t, s, namespace, kept)
		if next, _ := rotate(t, s, namespace, kept); next == "" || next == lost {
			t.Errorf("Rotate after the failover = %q, want another token than %q", next, lost)
		}
	})
}

// Sessions that were rotated by a version of Larder without lineages live on, with their tokens and those before.
func TestSessionsRotatedByAnEarlierVersion(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		key, salt := sessionKeysOf(t, namespace, sess).record, "0123456789abcdef"
		b := tokenBytes(t, token)
		secret, err := hkdf.Key(sha256.New, b[17:], []byte(salt), "larder session secret", 32)
		if err != nil {
			t.Fatalf("hkdf.Key: error %v, want none", err)
		}
		next := "ls1_" + base64.RawURLEncoding.EncodeToString(append(b[:17:17], secret...))
		hash, before := sha256.Sum256(secret), sha256.Sum256(b[17:])
		at := strconv.FormatInt(s.Redis.Now().Add(grace).UnixMilli(), 10)
		storetest.Command(t, s, "HSET", key, "h", string(hash[:]), "salt", salt, "seen", "0", "hp", string(before[:]), "pu", at, "pr", at, "old", "12345678", "oldr", at)

		storetest.Eventually(t, "the near cache to follow", func() bool { return validate(t, s, namespace, next, cached) != nil })
		wantActive(t, s, namespace, token)
		wantActive(t, s, namespace, next)
		if again, _ := rotate(t, s, namespace, token); again != next {
			t.Errorf("repeated Rotate = %q, want the successor that the earlier version has derived: %q", again, next)
		}
		last, _ := rotate(t, s, namespace, next)
		seen(t, s, namespace, last, sess)
		wantActive(t, s, namespace, token)
		wantActive(t, s, namespace, next)
		rotatedLongAgo(t, s, namespace, sess)
		rotate(t, s, namespace, last)
		validate(t, s, namespace, token, primary)
		wantTheft(t, s, namespace, sess, last, "the token before the earlier version's rotation")
	})
}
