package token_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

func claimOnce(t testing.TB, s *store.Store, namespace string, c token.Claim) token.Claimed {
	t.Helper()
	got, err := s.Tokens.ClaimOnce(t.Context(), namespace, c)
	if err != nil {
		t.Fatalf("ClaimOnce = error %v, want none: %s", err, cause(err))
	}
	return got
}

func claimCounter(t testing.TB, s *store.Store, namespace string, c token.Claim, value int64) token.Claimed {
	t.Helper()
	got, err := s.Tokens.ClaimCounter(t.Context(), namespace, c, value)
	if err != nil {
		t.Fatalf("ClaimCounter = error %v, want none: %s", err, cause(err))
	}
	return got
}

// The jti of a JWT is accepted once, whoever presents it and however many do so at once.
func TestClaimOnceIsGivenOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		replicas := storetest.Replicas(t, s)
		for round := range 20 {
			c := token.Claim{Scope: "https://issuer.example", ID: fmt.Sprint("jti-", round), TTL: time.Minute}
			var claimed atomic.Int64
			together(16, func(n int) {
				if claimOnce(t, replicas[n%2], namespace, c).OK {
					claimed.Add(1)
				}
			})
			if n := claimed.Load(); n != 1 {
				t.Errorf("%d of 16 callers have claimed an identifier, want 1", n)
			}
		}
		for what, c := range map[string]token.Claim{
			"another id":    {Scope: "https://issuer.example", ID: "jti-x", TTL: time.Minute},
			"another scope": {Scope: "https://other.example", ID: "jti-0", TTL: time.Minute},
			"shifted":       {Scope: "https://issuer.example/", ID: "ti-0", TTL: time.Minute},
		} {
			if got := claimOnce(t, s, namespace, c); !got.OK {
				t.Errorf("ClaimOnce of %s = %+v, want it claimed", what, got)
			}
		}
		if got := claimOnce(t, s, storetest.NewNamespace(), token.Claim{Scope: "https://issuer.example", ID: "jti-0", TTL: time.Minute}); !got.OK {
			t.Errorf("ClaimOnce in another namespace = %+v, want it claimed", got)
		}
	})
}

func TestClaimEndsWithItsTTL(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		c := token.Claim{Scope: "s", ID: "id", TTL: 50 * time.Millisecond}
		if got := claimOnce(t, s, namespace, c); !got.OK {
			t.Fatalf("ClaimOnce = %+v, want it claimed", got)
		}
		claimCounter(t, s, namespace, c, 9)
		storetest.Eventually(t, "claimed again", func() bool { return claimOnce(t, s, namespace, c).OK })
		storetest.Eventually(t, "a lower number claimed", func() bool { return claimCounter(t, s, namespace, c, 1).OK })
	})
}

func TestClaimIsRepeatedByTheSameRequestOnly(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		by := func(request string) token.Claim {
			return token.Claim{Scope: "s", ID: "id", TTL: time.Minute, Request: request}
		}
		for request, want := range map[string]bool{"one": true} {
			for range 2 {
				if got := claimOnce(t, s, namespace, by(request)); got.OK != want {
					t.Errorf("ClaimOnce by request %s = %+v, want %t", request, got, want)
				}
				if got := claimCounter(t, s, namespace, by(request), 7); got.OK != want || got.Last != 7 {
					t.Errorf("ClaimCounter by request %s = %+v, want %t", request, got, want)
				}
			}
		}
		for _, request := range []string{"two", ""} {
			if got := claimOnce(t, s, namespace, by(request)); got.OK {
				t.Errorf("ClaimOnce by request %q = %+v, want it refused", request, got)
			}
			if got := claimCounter(t, s, namespace, by(request), 7); got.OK || got.Last != 7 {
				t.Errorf("ClaimCounter by request %q = %+v, want it refused", request, got)
			}
		}
	})
}

// Of the callers who claim time steps at the same time, no two are accepted with the same one, and none with one that is not
// greater than what was accepted before.
func TestClaimCounterOnlyGrows(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		replicas := storetest.Replicas(t, s)
		c := token.Claim{Scope: "totp", ID: "ann", TTL: time.Hour}
		accepted := make([]atomic.Int64, 40)
		together(16, func(n int) {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			highest := int64(-1)
			for range 20 {
				step := random.Int64N(int64(len(accepted)))
				got := claimCounter(t, replicas[n%2], namespace, c, step)
				if got.OK {
					accepted[step].Add(1)
				}
				if got.OK && (step <= highest || got.Last != step) || !got.OK && got.Last < step {
					t.Errorf("ClaimCounter(%d) = %+v after %d was seen, want it accepted only if it is greater", step, got, highest)
				}
				highest = max(highest, got.Last)
			}
		})
		for step := range accepted {
			if n := accepted[step].Load(); n > 1 {
				t.Errorf("step %d was accepted %d times, want at most once", step, n)
			}
		}
		for _, value := range []int64{1 << 53, 1<<53 + 1, math.MaxInt64 - 1, math.MaxInt64} {
			if got := claimCounter(t, s, namespace, c, value); !got.OK || got.Last != value {
				t.Errorf("ClaimCounter(%d) = %+v, want it accepted: it is greater by one", value, got)
			}
			if got := claimCounter(t, s, namespace, c, value); got.OK || got.Last != value {
				t.Errorf("ClaimCounter(%d) again = %+v, want it refused", value, got)
			}
		}
	})
}

// If Redis evicts claims, nothing is claimed twice: until those that were in force would have ended, nothing is claimed at all.
func TestEvictedClaimsAreNotGivenAgain(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t) // others would miss their claims
	const namespace = "n"
	c := token.Claim{Scope: "s", ID: namespace, TTL: time.Minute}
	claimOnce(t, s, namespace, c)
	keys := token.ClaimKeys(namespace, "once", c)
	storetest.Command(t, s, "DEL", keys[0])
	if got := claimOnce(t, s, namespace, c); got.OK || !got.Uncertain || got.RetryAfter <= 0 {
		t.Errorf("ClaimOnce after an eviction = %+v, want it uncertain for a while", got)
	}
	storetest.Command(t, s, "HSET", keys[2], "claims", "1000") // the while is over
	if got := claimOnce(t, s, namespace, c); !got.OK {
		t.Errorf("ClaimOnce after that = %+v, want it claimed", got)
	}
	counter := token.Claim{Scope: "totp", ID: namespace, TTL: time.Minute}
	claimCounter(t, s, namespace, counter, 5)
	keys = token.ClaimKeys(namespace, "counter", counter)
	storetest.Command(t, s, "DEL", keys[1])
	if got := claimCounter(t, s, namespace, counter, 6); got.OK || !got.Uncertain {
		t.Errorf("ClaimCounter after an eviction = %+v, want it uncertain", got)
	}
	storetest.Command(t, s, "HSET", keys[2], "numbers", "1000")
	storetest.Command(t, s, "DEL", keys[2]) // the numbers are gone, and so is the time until when there were any
	if got := claimCounter(t, s, namespace, counter, 4); got.OK || !got.Uncertain || got.RetryAfter <= 0 {
		t.Errorf("ClaimCounter after an eviction of all but the claims = %+v, want it uncertain for a while", got)
	}
}

// Claims that have ended are removed as others are made.
func TestClaimsThatEndedAreRemoved(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	for n := range 3000 {
		claimCounter(t, s, "n", token.Claim{Scope: "s", ID: fmt.Sprint("old", n), TTL: time.Millisecond}, 1)
	}
	for n := range 3000 {
		claimOnce(t, s, "n", token.Claim{Scope: "s", ID: fmt.Sprint("new", n), TTL: time.Hour})
	}
	claims, numbers := int64(0), int64(0)
	for p := range 256 {
		claims += server.Do(t, "ZCARD", fmt.Sprintf("ld:j:{p%d}", p)).(int64)
		numbers += server.Do(t, "HLEN", fmt.Sprintf("ld:j:{p%d}:numbers", p)).(int64)
	}
	if claims != 3000 || numbers != 0 {
		t.Errorf("there are %d claims and %d numbers, want 3000 and 0", claims, numbers)
	}
}

// If Redis evicts the time until when there are claims, those that there are stay for as long as they are in force.
func TestClaimsOutliveTheEvictionOfTheirEnd(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	long := token.Claim{Scope: "s", ID: "long", TTL: time.Hour}
	for what, claim := range map[string]func(c token.Claim) token.Claimed{
		"once":    func(c token.Claim) token.Claimed { return claimOnce(t, s, "n", c) },
		"counter": func(c token.Claim) token.Claimed { return claimCounter(t, s, "n", c, 5) },
	} {
		keys := token.ClaimKeys("n", what, long)
		if got := claim(long); !got.OK {
			t.Fatalf("claim (%s) = %+v, want it claimed", what, got)
		}
		storetest.Command(t, s, "DEL", keys[2])
		short := token.Claim{Scope: "s", TTL: time.Second}
		for n := 0; short.ID == "" || token.ClaimKeys("n", what, short)[0] != keys[0]; n++ { // one of the same partition
			short.ID = fmt.Sprint("short", n)
		}
		if got := claim(short); !got.OK {
			t.Errorf("another claim (%s) = %+v, want it claimed", what, got)
		}
		for _, key := range keys[:map[string]int{"once": 1, "counter": 2}[what]] {
			if left, _ := storetest.Command(t, s, "PTTL", key).(int64); left < time.Minute.Milliseconds() {
				t.Errorf("%s lives for %d ms, want it to live as long as the first claim", key, left)
			}
		}
		storetest.Command(t, s, "DEL", keys[0])
		if got := claim(long); got.OK || !got.Uncertain {
			t.Errorf("claim (%s) after the eviction of claims = %+v, want it uncertain", what, got)
		}
	}
}
