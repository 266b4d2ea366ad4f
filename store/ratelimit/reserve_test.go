package ratelimit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/storetest"
)

// reserve reserves a cost, which must be allowed.
func reserve(t *testing.T, s *store.Store, namespace string, ttl time.Duration, charges ...ratelimit.Charge) string {
	t.Helper()
	d, id, err := s.RateLimits.Reserve(t.Context(), namespace, charges, ttl, plain)
	if err != nil || !d.Allowed || id == "" {
		t.Fatalf("Reserve = %+v, %q, %v, want a reservation: %s", d, id, err, storetest.Cause(err))
	}
	return id
}

// used returns what is used of limits.
func used(t *testing.T, s *store.Store, namespace string, charges ...ratelimit.Charge) (n []int64) {
	t.Helper()
	for _, c := range charges {
		c.Cost = 0
		n = append(n, consume(t, s, namespace, plain, c).Results[0].Used)
	}
	return n
}

// TestReservation: the real cost replaces the estimate, or nothing does; each of it once, however often it is asked for.
func TestReservation(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		type settle = func(id string) (ratelimit.Settlement, error)
		commit := func(n int64) settle {
			return func(id string) (ratelimit.Settlement, error) {
				return s.RateLimits.Commit(t.Context(), namespace, id, n)
			}
		}
		cancel := func(id string) (ratelimit.Settlement, error) { return s.RateLimits.Cancel(t.Context(), namespace, id) }
		for name, test := range map[string]struct {
			end   settle
			other settle
			used  int64
		}{
			"commit less": {commit(2), cancel, 3}, "commit as much": {commit(5), cancel, 6}, "commit what was reserved": {commit(-1), cancel, 6},
			"commit more": {commit(8), cancel, 9}, "commit more than the limit": {commit(30), cancel, 31}, "commit nothing": {commit(0), cancel, 1},
			"cancel": {cancel, commit(5), 1},
		} {
			var charges []ratelimit.Charge
			for _, a := range algorithms {
				charges = append(charges, charge("ann "+name, string(a), perHour(a, 10), 5))
			}
			one := append([]ratelimit.Charge(nil), charges...)
			for i := range one {
				one[i].Cost = 1
			}
			consume(t, s, namespace, plain, one...)
			id := reserve(t, s, namespace, time.Minute, charges...)
			if diff := cmp.Diff([]int64{6, 6, 6}, used(t, s, namespace, charges...)); diff != "" {
				t.Errorf("%s: used while reserved (-want +got):\n%s", name, diff)
			}
			first, err := test.end(id)
			if err != nil || first.Outcome != ratelimit.Settled {
				t.Errorf("%s = %+v, %v, want it settled: %s", name, first, err, storetest.Cause(err))
			}
			for i, r := range first.Results {
				if r.Used != test.used || r.Remaining != max(10-test.used, 0) || first.Names[i] != charges[i].Name || first.Full[i] != 10 {
					t.Errorf("%s: limit %d = %+v, want %d used", name, i, r, test.used)
				}
			}
			if again, err := test.end(id); err != nil || !cmp.Equal(first, again) {
				t.Errorf("%s again = %+v, %v, want the same answer", name, again, err)
			}
			if other, err := test.other(id); err != nil || other.Outcome != ratelimit.SettledOtherwise {
				t.Errorf("%s, then the other = %+v, %v, want it settled otherwise", name, other, err)
			}
			if diff := cmp.Diff([]int64{test.used, test.used, test.used}, used(t, s, namespace, charges...)); diff != "" {
				t.Errorf("%s: used afterwards (-want +got):\n%s", name, diff)
			}
		}
	})
}

// TestCrashBetweenReserveAndCommit: the reservation expires by itself, its estimate stays charged, and a late Commit or Cancel
// changes nothing.
func TestCrashBetweenReserveAndCommit(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		c := charge("ann", "tokens", perHour(ratelimit.GCRA, 10), 7)
		id := reserve(t, s, namespace, time.Millisecond, c)
		storetest.Eventually(t, "expired", func() bool {
			return storetest.Command(t, s, "EXISTS", ratelimit.ReservationKey(namespace, id)) == int64(0)
		})
		if end, err := s.RateLimits.Commit(t.Context(), namespace, id, 0); err != nil || end.Outcome != ratelimit.NotReserved || end.Results != nil {
			t.Errorf("Commit = %+v, %v, want no such reservation", end, err)
		}
		if end, err := s.RateLimits.Cancel(t.Context(), namespace, id); err != nil || end.Outcome != ratelimit.NotReserved {
			t.Errorf("Cancel = %+v, %v, want no such reservation", end, err)
		}
		other := reserve(t, s, namespace, time.Minute, charge("bob", "tokens", perHour(ratelimit.GCRA, 10), 7))
		if end, err := s.RateLimits.Cancel(t.Context(), storetest.NewNamespace(), other); err != nil || end.Outcome != ratelimit.NotReserved {
			t.Errorf("Cancel in another namespace = %+v, %v, want no such reservation", end, err)
		}
		if n := used(t, s, namespace, c)[0]; n != 7 {
			t.Errorf("used = %d, want the estimate, 7", n)
		}
	})
}

// TestReserveDenied: a denial reserves nothing, and a repeated request reserves once, also after its end.
func TestReserveDenied(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		c := charge("ann", "tokens", perHour(ratelimit.FixedWindow, 10), 7)
		o := ratelimit.ConsumeOptions{RequestID: "r"}
		first, id, err := s.RateLimits.Reserve(t.Context(), namespace, []ratelimit.Charge{c}, time.Minute, o)
		if err != nil || id == "" {
			t.Fatalf("Reserve = %+v, %v, want a reservation", first, err)
		}
		for _, when := range []string{"open", "committed"} {
			again, sameID, err := s.RateLimits.Reserve(t.Context(), namespace, []ratelimit.Charge{c}, time.Minute, o)
			if err != nil || sameID != id || !again.Repeated || !again.Allowed || again.Results[0].Used != first.Results[0].Used {
				t.Errorf("Reserve again, %s = %+v, %q, %v, want the same", when, again, sameID, err)
			}
			if _, err := s.RateLimits.Commit(t.Context(), namespace, id, 7); err != nil {
				t.Fatalf("Commit: error %v, want none", err)
			}
		}
		d, none, err := s.RateLimits.Reserve(t.Context(), namespace, []ratelimit.Charge{c}, time.Minute, plain)
		if err != nil || d.Allowed || none != "" {
			t.Errorf("Reserve beyond the limit = %+v, %q, %v, want a denial", d, none, err)
		}
		d, part, err := s.RateLimits.Reserve(t.Context(), namespace, []ratelimit.Charge{c}, time.Minute, ratelimit.ConsumeOptions{Mode: ratelimit.Partial})
		if err != nil || d.Granted != 3 || part == "" {
			t.Errorf("Reserve, partial = %+v, %q, %v, want 3 granted", d, part, err)
		}
	})
}

// TestReservationIDs: only ids that were returned are ids, and one of the ids of another subject or limit ends nothing.
func TestReservationIDs(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		c := charge("ann}:{", "a.b-c_d", perHour(ratelimit.GCRA, 10), 3)
		id := reserve(t, s, namespace, time.Minute, c)
		if !ratelimit.ValidReservation(id) {
			t.Errorf("ValidReservation(%q) = false, want true", id)
		}
		for _, wrong := range []string{"", "lr1_", id + "A", id[:len(id)-1], strings.Replace(id, "lr1_", "lr2_", 1), "lr1_!" + id[5:], id + "\n"} {
			if ratelimit.ValidReservation(wrong) {
				t.Errorf("ValidReservation(%q) = true, want false", wrong)
			}
		}
		if end, err := s.RateLimits.Commit(t.Context(), namespace, id, 0); err != nil || end.Outcome != ratelimit.Settled {
			t.Errorf("Commit = %+v, %v, want it settled", end, err)
		}
	})
}

func FuzzReservationIDs(f *testing.F) {
	f.Add("lr1_AAAAAAAAAAAAAAAAAAAAAAFhAmd-")
	f.Fuzz(func(_ *testing.T, id string) { ratelimit.ValidReservation(id) }) // does not panic
}

// TestKeysAreInjective: different limits have different keys, and all limits of a subject one hash tag.
func TestKeysAreInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (string, ratelimit.Charge) {
			namespace := rapid.SampledFrom([]string{"a", "a.b", "b"}).Draw(t, label)
			return namespace, ratelimit.Charge{
				Subject: rapid.StringOf(rapid.SampledFrom([]rune("ab:{}~g"))).Draw(t, label), Name: rapid.StringOf(rapid.SampledFrom([]rune("ab{}~g"))).Draw(t, label),
				Rule: ratelimit.Rule{Algorithm: rapid.SampledFrom(algorithms).Draw(t, label)},
			}
		}
		n1, c1 := draw("one")
		n2, c2 := draw("other")
		same := n1 == n2 && c1 == c2
		if k1, k2 := ratelimit.UsageKey(n1, c1), ratelimit.UsageKey(n2, c2); (k1 == k2) != same {
			t.Fatalf("keys of %q %+v and %q %+v are %q and %q, want equal: %v", n1, c1, n2, c2, k1, k2, same)
		}
	})
}
