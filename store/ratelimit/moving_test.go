package ratelimit_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// limiterOps are calls about the limits of one subject.
var limiterOps = []struct {
	name string
	do   func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, reservation string) error
}{
	{"consume", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		_, err := s.RateLimits.Consume(t.Context(), namespace, charges, plain)
		return err
	}},
	{"one limit", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		_, err := s.RateLimits.Consume(t.Context(), namespace, charges[:1], plain)
		return err
	}},
	{"request", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		_, err := s.RateLimits.Consume(t.Context(), namespace, charges, ratelimit.ConsumeOptions{RequestID: "r"})
		return err
	}},
	{"batch", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		return s.RateLimits.BatchConsume(t.Context(), namespace, []ratelimit.BatchItem{{Charges: charges}})[0].Err
	}},
	{"refund", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		_, err := s.RateLimits.Refund(t.Context(), namespace, charges, plain)
		return err
	}},
	{"reserve", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		_, _, err := s.RateLimits.Reserve(t.Context(), namespace, charges, time.Minute, plain)
		return err
	}},
	{"commit", func(t *testing.T, s *store.Store, namespace string, _ []ratelimit.Charge, reservation string) error {
		end, err := s.RateLimits.Commit(t.Context(), namespace, reservation, 3)
		if err == nil && end.Outcome != ratelimit.Settled {
			t.Errorf("Commit = %+v, want it settled", end)
		}
		return err
	}},
	{"reset", func(t *testing.T, s *store.Store, namespace string, charges []ratelimit.Charge, _ string) error {
		_, err := s.RateLimits.Reset(t.Context(), namespace, charges[0].Subject, []string{charges[0].Name, charges[1].Name})
		return err
	}},
}

// values is what Redis holds of keys, without their expiry, which a move rounds.
func values(t *testing.T, s *store.Store, keys ...string) (all []any) {
	t.Helper()
	for _, key := range keys {
		all = append(all, storetest.Command(t, s, "GET", key))
	}
	return all
}

// TestMovingSlot: while the slot of a subject is moved, at every step of it, a call either does all it should or fails as
// unavailable and does nothing: no limit begins anew because its key is elsewhere. Afterwards all calls work.
func TestMovingSlot(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}, RateLimits: ratelimit.Options{NoLocalDenials: true}})
	for _, there := range []bool{false, true} {
		for _, stage := range []string{"begun", "one limit moved", "record moved", "all moved"} {
			for _, op := range limiterOps {
				name := op.name + ", " + stage
				namespace := storetest.NewNamespace()
				charges := []ratelimit.Charge{charge("ann", "a", perHour(ratelimit.GCRA, 20), 2), charge("ann", "b", perHour(ratelimit.SlidingWindow, 20), 2)}
				reservation := ""
				keys := []string{ratelimit.UsageKey(namespace, charges[0]), ratelimit.UsageKey(namespace, charges[1])}
				if op.name == "commit" || there {
					reservation = reserve(t, s, namespace, time.Minute, charges...)
					keys = append(keys, ratelimit.ReservationKey(namespace, reservation))
				}
				before := values(t, s, keys...)
				slot := cluster.Slot(t, keys[0])
				to := cluster.Another(t, slot)
				cluster.BeginMove(t, slot, to)
				switch {
				case stage == "one limit moved":
					cluster.MoveKeys(t, slot, to, keys[0])
				case stage == "record moved" && reservation != "":
					cluster.MoveKeys(t, slot, to, keys[2])
				case stage == "all moved":
					cluster.MoveKeys(t, slot, to)
				}
				err := op.do(t, s, namespace, charges, reservation)
				if err != nil && (!errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err)) {
					t.Errorf("%s: error %v, want none or %v, retryable: %s", name, err, redis.ErrUnavailable, redis.Cause(err))
				}
				cluster.MoveKeys(t, slot, to)
				cluster.EndMove(t, slot, to)
				if diff := cmp.Diff(before, values(t, s, keys...)); err != nil && diff != "" {
					t.Errorf("%s: failed with %v and changed what Redis holds (-before +after):\n%s", name, err, diff)
				}
				if err == nil && (op.name == "consume" || op.name == "batch" || op.name == "reserve") {
					want := []int64{2, 2}
					if there {
						want = []int64{4, 4}
					}
					if diff := cmp.Diff(want, used(t, s, namespace, charges...)); diff != "" {
						t.Errorf("%s: used afterwards (-want +got):\n%s", name, diff)
					}
				}
				if err := op.do(t, s, namespace, charges, reservation); err != nil {
					t.Errorf("%s, after the move: error %v, want none: %s", name, err, redis.Cause(err))
				}
			}
		}
	}
}

// TestFullMemory: limits hold when Redis has no memory left, for subjects that it knows and for new ones.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	for _, a := range algorithms {
		consume(t, s, "n", plain, charge("known", string(a), perHour(a, 2), 1))
	}
	server.Do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	for _, a := range algorithms {
		for subject, most := range map[string]int{"known": 1, "new": 2} {
			c := charge(subject, string(a), perHour(a, 2), 1)
			for i := range 3 {
				if d := consume(t, s, "n", plain, c); d.Allowed != (i < most) || d.Degraded {
					t.Errorf("%s, %s, %d: Consume = %+v, want allowed: %v", a, subject, i, d, i < most)
				}
			}
			if d, err := s.RateLimits.Refund(t.Context(), "n", []ratelimit.Charge{c}, plain); err != nil || d.Results[0].Used != 1 {
				t.Errorf("%s, %s: Refund = %+v, %v, want 1 used", a, subject, d, err)
			}
			id := reserve(t, s, "n", time.Minute, c)
			if end, err := s.RateLimits.Cancel(t.Context(), "n", id); err != nil || end.Outcome != ratelimit.Settled {
				t.Errorf("%s, %s: Cancel = %+v, %v, want it settled", a, subject, end, err)
			}
			if reset, err := s.RateLimits.Reset(t.Context(), "n", subject, []string{string(a)}); err != nil || !reset {
				t.Errorf("%s, %s: Reset = %v, %v, want true", a, subject, reset, err)
			}
		}
	}
}

// TestCalendarWindows: windows begin with the units of the calendar, and are as long as those.
func TestCalendarWindows(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	for _, test := range []struct {
		period time.Duration
		ends   func(now time.Time) time.Time
	}{
		{time.Second, func(now time.Time) time.Time { return now.Truncate(time.Second).Add(time.Second) }},
		{time.Minute, func(now time.Time) time.Time { return now.Truncate(time.Minute).Add(time.Minute) }},
		{time.Hour, func(now time.Time) time.Time { return now.Truncate(time.Hour).Add(time.Hour) }},
		{24 * time.Hour, func(now time.Time) time.Time {
			return time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, time.UTC)
		}},
		{168 * time.Hour, func(now time.Time) time.Time {
			days := (8 - int(now.Weekday())) % 7 // to Monday
			if days == 0 {
				days = 7
			}
			return time.Date(now.Year(), now.Month(), now.Day()+days, 0, 0, 0, 0, time.UTC)
		}},
		{720 * time.Hour, func(now time.Time) time.Time { return time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC) }},
		{8760 * time.Hour, func(now time.Time) time.Time { return time.Date(now.Year()+1, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		c := charge("ann", test.period.String(), ratelimit.Rule{Algorithm: ratelimit.FixedWindow, Capacity: 5, Period: test.period, Alignment: ratelimit.Calendar}, 1)
		before := time.Now().UTC() // the clock of this machine is that of its Redis
		d := consume(t, s, "n", plain, c)
		after := time.Now().UTC()
		if test.ends(before) != test.ends(after) {
			continue // a window ended between
		}
		reset := d.Results[0].ResetAfter
		if end := test.ends(after); before.Add(reset).After(end.Add(time.Millisecond)) || after.Add(reset).Before(end.Add(-time.Millisecond)) {
			t.Errorf("a window of %v ends in %v, want at %v, now is %v", test.period, reset, end, after)
		}
	}
	// Months around the year's end.
	edges := ratelimit.CalendarEdges(720*time.Hour, time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC))
	want := ""
	for _, month := range []time.Time{
		time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		if want != "" {
			want += " "
		}
		want += strconv.FormatInt(month.UnixMicro(), 10)
	}
	if edges != want {
		t.Errorf("CalendarEdges = %q, want %q", edges, want)
	}
}
