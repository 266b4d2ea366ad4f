package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

func to(n int64) *int64 { return &n }

func TestIncrement(t *testing.T) {
	const absent = "absent"
	const exact = 1 << 53 // the last number up to which a float64, and so Lua, counts exactly
	const lowest, highest = math.MinInt64, math.MaxInt64
	tests := []struct {
		name    string
		before  string
		inc     cache.Increment
		outcome cache.IncrementOutcome
		value   int64
		err     error
		after   string // what Redis holds
	}{
		{"creates", absent, cache.Increment{Delta: 1}, cache.Added, 1, nil, "1"},
		{"creates from initial", absent, cache.Increment{Delta: 2, Initial: 40}, cache.Added, 42, nil, "42"},
		{"creates from a negative initial", absent, cache.Increment{Delta: 2, Initial: -40}, cache.Added, -38, nil, "-38"},
		{"creates by adding nothing", absent, cache.Increment{Initial: 7}, cache.Added, 7, nil, "7"},
		{"adds", "41", cache.Increment{Delta: 1, Initial: 1000}, cache.Added, 42, nil, "42"},
		{"subtracts", "41", cache.Increment{Delta: -42}, cache.Added, -1, nil, "-1"},
		{"adds nothing", "41", cache.Increment{}, cache.Added, 41, nil, "41"},
		{"comes to zero", "-1", cache.Increment{Delta: 1}, cache.Added, 0, nil, "0"},

		{"2^53+1", fmt.Sprint(exact), cache.Increment{Delta: 1}, cache.Added, exact + 1, nil, "9007199254740993"},
		{"2^53+2", fmt.Sprint(exact + 1), cache.Increment{Delta: 1}, cache.Added, exact + 2, nil, "9007199254740994"},
		{"-2^53-1", fmt.Sprint(-exact), cache.Increment{Delta: -1}, cache.Added, -exact - 1, nil, "-9007199254740993"},
		{"delta of 2^53+1", "1", cache.Increment{Delta: exact + 1}, cache.Added, exact + 2, nil, "9007199254740994"},
		{"initial of 2^53+1", absent, cache.Increment{Initial: exact + 1}, cache.Added, exact + 1, nil, "9007199254740993"},
		{"bound of 2^53+1, below", fmt.Sprint(exact), cache.Increment{Delta: 1, Max: to(exact + 1)}, cache.Added, exact + 1, nil, "9007199254740993"},
		{"bound of 2^53+1, above", fmt.Sprint(exact + 1), cache.Increment{Delta: 1, Max: to(exact + 1)}, cache.Rejected, exact + 1, nil, "9007199254740993"},

		{"to the highest", fmt.Sprint(highest - 1), cache.Increment{Delta: 1}, cache.Added, highest, nil, "9223372036854775807"},
		{"to the lowest", fmt.Sprint(lowest + 1), cache.Increment{Delta: -1}, cache.Added, lowest, nil, "-9223372036854775808"},
		{"by the lowest", "0", cache.Increment{Delta: lowest}, cache.Added, lowest, nil, "-9223372036854775808"},
		{"by the highest from the lowest", fmt.Sprint(lowest), cache.Increment{Delta: highest}, cache.Added, -1, nil, "-1"},
		{"by the lowest from the highest", fmt.Sprint(highest), cache.Increment{Delta: lowest}, cache.Added, -1, nil, "-1"},
		{"above the highest", fmt.Sprint(highest), cache.Increment{Delta: 1}, 0, 0, redis.ErrOverflow, "9223372036854775807"},
		{"below the lowest", fmt.Sprint(lowest), cache.Increment{Delta: -1}, 0, 0, redis.ErrOverflow, "-9223372036854775808"},
		{"far above the highest", fmt.Sprint(highest), cache.Increment{Delta: highest}, 0, 0, redis.ErrOverflow, "9223372036854775807"},
		{"far below the lowest", "-1", cache.Increment{Delta: lowest}, 0, 0, redis.ErrOverflow, "-1"},
		{"overflow of an absent one", absent, cache.Increment{Delta: 1, Initial: highest}, 0, 0, redis.ErrOverflow, absent},
		{"underflow of an absent one", absent, cache.Increment{Delta: -1, Initial: lowest}, 0, 0, redis.ErrOverflow, absent},
		{"overflow with a bound on the other side", fmt.Sprint(highest), cache.Increment{Delta: 1, Min: to(0), Saturate: true}, 0, 0, redis.ErrOverflow, "9223372036854775807"},

		{"to the bound", "9", cache.Increment{Delta: 1, Max: to(10)}, cache.Added, 10, nil, "10"},
		{"rejects above", "9", cache.Increment{Delta: 2, Max: to(10)}, cache.Rejected, 9, nil, "9"},
		{"rejects below", "1", cache.Increment{Delta: -2, Min: to(0)}, cache.Rejected, 1, nil, "1"},
		{"saturates above", "9", cache.Increment{Delta: 2, Max: to(10), Saturate: true}, cache.Saturated, 10, nil, "10"},
		{"saturates below", "1", cache.Increment{Delta: -2, Min: to(0), Saturate: true}, cache.Saturated, 0, nil, "0"},
		{"rejects an overflow", fmt.Sprint(highest), cache.Increment{Delta: 1, Max: to(highest)}, cache.Rejected, highest, nil, "9223372036854775807"},
		{"saturates an overflow", fmt.Sprint(highest - 1), cache.Increment{Delta: 5, Max: to(highest), Saturate: true}, cache.Saturated, highest, nil, "9223372036854775807"},
		{"saturates an underflow", fmt.Sprint(lowest + 1), cache.Increment{Delta: -5, Min: to(lowest), Saturate: true}, cache.Saturated, lowest, nil, "-9223372036854775808"},
		{"rejects an absent one", absent, cache.Increment{Delta: 11, Max: to(10)}, cache.Rejected, 0, nil, absent},
		{"rejects an absent one, initial", absent, cache.Increment{Delta: 1, Initial: 10, Max: to(10)}, cache.Rejected, 10, nil, absent},
		{"rejects an absent one below", absent, cache.Increment{Delta: -1, Min: to(0)}, cache.Rejected, 0, nil, absent},
		{"saturates an absent one", absent, cache.Increment{Delta: 11, Max: to(10), Saturate: true}, cache.Saturated, 10, nil, "10"},
		{"negative bounds", "-5", cache.Increment{Delta: -6, Min: to(-10)}, cache.Rejected, -5, nil, "-5"},
		{"bounds of different lengths", "99", cache.Increment{Delta: 1, Max: to(1000)}, cache.Added, 100, nil, "100"},
		{"bound of another sign", "-5", cache.Increment{Delta: 1, Max: to(10)}, cache.Added, -4, nil, "-4"},
		// What is outside for another reason may come back, as only the bound ahead can be crossed.
		{"returns from above", "20", cache.Increment{Delta: -5, Max: to(10), Min: to(0)}, cache.Added, 15, nil, "15"},
		{"returns from below", "-20", cache.Increment{Delta: 5, Max: to(10), Min: to(0)}, cache.Added, -15, nil, "-15"},
		{"stays outside", "20", cache.Increment{Max: to(10), Min: to(0)}, cache.Added, 20, nil, "20"},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, test := range tests {
			redisKey := s.Cache.RedisKey(namespace, test.name)
			if test.before != absent {
				storetest.Command(t, s, "SET", redisKey, test.before)
			}
			r, err := s.Cache.Increment(t.Context(), namespace, test.name, test.inc)
			if !errors.Is(err, test.err) || r.Outcome != test.outcome || r.Value != test.value {
				t.Errorf("%s: Increment = %+v, %v, want outcome %v, value %d, error %v", test.name, r, err, test.outcome, test.value, test.err)
			}
			if redis.Retryable(err) {
				t.Errorf("%s: Retryable(%v) = true, want false", test.name, err)
			}
			after := storetest.Command(t, s, "GET", redisKey)
			if after == nil {
				after = absent
			}
			if after != test.after {
				t.Errorf("%s: the key holds %v afterwards, want %v", test.name, after, test.after)
			}
		}
	})
}

// TestIncrementAgreesWithArithmetic compares with integers of any size, on Redis and on the embedded store, whose INCRBY
// wraps around.
func TestIncrementAgreesWithArithmetic(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		numbers := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-20, 20),
			rapid.SampledFrom([]int64{math.MinInt64, math.MinInt64 + 1, math.MaxInt64 - 1, math.MaxInt64, 1<<53 - 1, 1 << 53, 1<<53 + 1, -1<<53 - 1}))
		ctx := context.Background()
		rapid.Check(t, func(t *rapid.T) {
			if _, _, err := s.Cache.Delete(ctx, namespace, "key", nil); err != nil {
				t.Fatalf("Delete: error %v, want none", err)
			}
			exists := rapid.Bool().Draw(t, "exists")
			from := numbers.Draw(t, "from")
			inc := cache.Increment{Delta: numbers.Draw(t, "delta"), Initial: from, Saturate: rapid.Bool().Draw(t, "saturate")}
			if rapid.Bool().Draw(t, "has min") {
				inc.Min = to(numbers.Draw(t, "min"))
			}
			if rapid.Bool().Draw(t, "has max") {
				inc.Max = to(numbers.Draw(t, "max"))
			}
			if exists {
				if _, err := s.Cache.Increment(ctx, namespace, "key", cache.Increment{Initial: from}); err != nil {
					t.Fatalf("Increment: error %v, want none", err)
				}
				inc.Initial = numbers.Draw(t, "unused initial")
			}

			sum := new(big.Int).Add(big.NewInt(from), big.NewInt(inc.Delta))
			var bound *int64
			if inc.Delta > 0 && inc.Max != nil && sum.Cmp(big.NewInt(*inc.Max)) > 0 {
				bound = inc.Max
			}
			if inc.Delta < 0 && inc.Min != nil && sum.Cmp(big.NewInt(*inc.Min)) < 0 {
				bound = inc.Min
			}
			want := cache.Incremented{TTL: noExpiry}
			var wantErr error
			switch {
			case bound != nil && inc.Saturate:
				want.Outcome, want.Value = cache.Saturated, *bound
			case bound != nil:
				want.Outcome, want.Value = cache.Rejected, from
				if !exists {
					want.TTL = -2 * time.Millisecond
				}
			case sum.IsInt64():
				want.Outcome, want.Value = cache.Added, sum.Int64()
			default:
				want, wantErr = cache.Incremented{}, redis.ErrOverflow
			}
			got, err := s.Cache.Increment(ctx, namespace, "key", inc)
			if !errors.Is(err, wantErr) || got != want {
				t.Fatalf("Increment = %+v, %v, want %+v, %v", got, err, want, wantErr)
			}
			left := want.Value
			if wantErr != nil || want.Outcome == cache.Rejected {
				left = from
				if !exists {
					if found, err := s.Cache.Get(ctx, namespace, "key", true); err != nil || found.Entry != nil {
						t.Fatalf("the key holds %v, %v afterwards, want nothing", found.Entry, err)
					}
					return
				}
			}
			if found, err := s.Cache.Get(ctx, namespace, "key", true); err != nil || found.Entry == nil || string(found.Value) != strconv.FormatInt(left, 10) {
				t.Fatalf("the key holds %v, %v afterwards, want %d", found.Entry, err, left)
			}
		})
	})
}

func TestIncrementSetsTheExpiry(t *testing.T) {
	const minute, hour, absent = time.Minute, time.Hour, -2 * time.Millisecond
	tests := []struct {
		name   string
		before time.Duration // noExpiry: a counter without one
		policy cache.TTLPolicy
		ttl    time.Duration // zero: for ever
		after  time.Duration
	}{
		{"create, absent", absent, cache.TTLOnCreate, minute, minute},
		{"create, absent, for ever", absent, cache.TTLOnCreate, 0, noExpiry},
		{"create, there", hour, cache.TTLOnCreate, minute, hour},
		{"create, there for ever", noExpiry, cache.TTLOnCreate, minute, noExpiry},
		{"always, absent", absent, cache.TTLAlways, minute, minute},
		{"always, there", hour, cache.TTLAlways, minute, minute},
		{"always, there, for ever", hour, cache.TTLAlways, 0, noExpiry},
		{"always, there for ever", noExpiry, cache.TTLAlways, minute, minute},
		{"keep, absent", absent, cache.TTLKeep, 0, noExpiry},
		{"keep, there", hour, cache.TTLKeep, 0, hour},
		{"keep, there for ever", noExpiry, cache.TTLKeep, 0, noExpiry},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, test := range tests {
			for name, inc := range map[string]cache.Increment{"adds": {Delta: 1}, "saturates": {Delta: 5, Max: to(3), Saturate: true}} {
				key := test.name + "/" + name
				redisKey := s.Cache.RedisKey(namespace, key)
				switch test.before {
				case absent:
				case noExpiry:
					storetest.Command(t, s, "SET", redisKey, "1")
				default:
					storetest.Command(t, s, "SET", redisKey, "1", "PX", strconv.FormatInt(test.before.Milliseconds(), 10))
				}
				inc.TTL, inc.Policy = test.ttl, test.policy
				r, err := s.Cache.Increment(t.Context(), namespace, key, inc)
				if err != nil {
					t.Fatalf("%s: Increment: error %v, want none: %s", key, err, redis.Cause(err))
				}
				if left := expiry(t, s, namespace, key); !about(left, test.after) || !about(r.TTL, test.after) || (left < 0) != (test.after < 0) {
					t.Errorf("%s: PTTL = %v, TTL = %v, want about %v", key, left, r.TTL, test.after)
				}
			}
		}
	})
}

// TestIncrementThatFailsChangesNothing: neither the value nor the expiry, to the millisecond.
func TestIncrementThatFailsChangesNothing(t *testing.T) {
	type test struct {
		value string
		inc   cache.Increment
		err   error
	}
	tests := []test{
		{"9223372036854775807", cache.Increment{Delta: 1}, redis.ErrOverflow},
		{"-9223372036854775808", cache.Increment{Delta: -1}, redis.ErrOverflow},
		{"5", cache.Increment{Delta: 10, Max: to(7)}, nil}, // rejected
		{"5", cache.Increment{Delta: math.MaxInt64, Max: to(7)}, nil},
	}
	for _, v := range []string{
		"", " ", "abc", "1.5", "1e3", "01", "00", "-0", "-01", "+1", " 1", "1 ", "1\n", "0x1", "--1", "-", "1\x00",
		"9223372036854775808", "-9223372036854775809", "99999999999999999999999999",
	} {
		tests = append(tests, test{v, cache.Increment{Delta: 1}, redis.ErrNotCounter}, test{v, cache.Increment{Delta: -1, Min: to(0), Saturate: true}, redis.ErrNotCounter})
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for i, test := range tests {
			for _, px := range []string{"", "3600000"} {
				key := fmt.Sprintf("%d/%q/%s", i, test.value, px)
				redisKey := s.Cache.RedisKey(namespace, key)
				if px == "" {
					storetest.Command(t, s, "SET", redisKey, test.value)
				} else {
					storetest.Command(t, s, "SET", redisKey, test.value, "PX", px)
				}
				before := state(t, s, namespace, key)
				test.inc.TTL, test.inc.Policy = time.Minute, cache.TTLAlways
				if r, err := s.Cache.Increment(t.Context(), namespace, key, test.inc); !errors.Is(err, test.err) || err == nil && r.Outcome != cache.Rejected {
					t.Errorf("%s: Increment = %+v, %v, want error %v or a rejection: %s", key, r, err, test.err, storetest.Cause(err))
				}
				if diff := cmp.Diff(before, state(t, s, namespace, key)); diff != "" {
					t.Errorf("%s: want the key unchanged (-before +after):\n%s", key, diff)
				}
			}
		}
		storetest.Set(t, s, namespace, "entry", cache.Write{Value: []byte("1"), Fresh: time.Hour})
		before := state(t, s, namespace, "entry")
		if _, err := s.Cache.Increment(t.Context(), namespace, "entry", cache.Increment{Delta: 1}); !errors.Is(err, redis.ErrNotCounter) {
			t.Errorf("Increment of an entry: error %v, want %v", err, redis.ErrNotCounter)
		}
		if diff := cmp.Diff(before, state(t, s, namespace, "entry")); diff != "" {
			t.Errorf("want the entry unchanged (-before +after):\n%s", diff)
		}
	})
}

// TestIncrementsAddUp: no increment of many at once is lost, and no caller sees a sum that another one has seen.
func TestIncrementsAddUp(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const callers, each = 8, 50
		sums := make(chan int64, callers*each)
		for range callers {
			go func() {
				for range each {
					r, err := s.Cache.Increment(t.Context(), namespace, "key", cache.Increment{Delta: 1})
					if err != nil {
						t.Errorf("Increment: error %v, want none", err)
					}
					sums <- r.Value
				}
			}()
		}
		seen := map[int64]bool{}
		for range callers * each {
			seen[<-sums] = true
		}
		if len(seen) != callers*each || !seen[callers*each] {
			t.Errorf("%d different sums, %d among them: %v, want %d sums", len(seen), callers*each, seen[callers*each], callers*each)
		}
	})
}

// TestIncrementNeverCrossesABound: callers that all take from one stock get exactly what was in it.
func TestIncrementNeverCrossesABound(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const callers, each, stock = 8, 30, 100
		taken := make(chan bool, callers*each)
		for range callers {
			go func() {
				for range each {
					r, err := s.Cache.Increment(t.Context(), namespace, "stock", cache.Increment{Delta: -1, Initial: stock, Min: to(0)})
					if err != nil || r.Value < 0 {
						t.Errorf("Increment = %+v, %v, want a value of at least 0", r, err)
					}
					taken <- r.Outcome == cache.Added
				}
			}()
		}
		count := 0
		for range callers * each {
			if <-taken {
				count++
			}
		}
		if count != stock {
			t.Errorf("%d decrements of %d were done, want %d", count, callers*each, stock)
		}
	})
}
