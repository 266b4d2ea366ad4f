package service

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/redis"
)

// A call is one unary call through a retrier, in the virtual time of synctest.
type call struct {
	trailer  metadata.MD
	attempts int
	took     time.Duration
	err      error
}

func (c *call) Method() string                  { return cachev1.CacheService_Get_FullMethodName }
func (c *call) SetHeader(metadata.MD) error     { return nil }
func (c *call) SendHeader(metadata.MD) error    { return nil }
func (c *call) SetTrailer(md metadata.MD) error { c.trailer = metadata.Join(c.trailer, md); return nil }

// through calls a method whose attempts fail with errs one after the other, the last of them for ever.
func through(ctx context.Context, r *retrier, method string, errs ...error) *call {
	c := new(call)
	ctx = grpc.NewContextWithServerTransportStream(ctx, c)
	start := time.Now()
	_, c.err = r.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		c.attempts++
		return nil, errs[min(c.attempts, len(errs))-1]
	})
	c.took = time.Since(start)
	return c
}

func retrying() *retrier {
	r := newRetrier(func() bool { return true }, NewMetrics())
	r.retryable = func(err error) bool {
		return errors.Is(err, redis.ErrUnavailable) || errors.Is(err, redis.ErrOutcomeUnknown)
	}
	return r
}

func TestRetry(t *testing.T) {
	t.Parallel()
	const (
		get  = cachev1.CacheService_Get_FullMethodName
		set  = cachev1.CacheService_Set_FullMethodName
		incr = cachev1.CacheService_Increment_FullMethodName
		none = "/nobody.Knows/This"
	)
	down, lost := redis.ErrUnavailable, redis.ErrOutcomeUnknown
	tests := []struct {
		name     string
		method   string
		errs     []error
		want     error
		attempts int
		pushback bool
	}{
		{"Success", get, []error{nil}, nil, 1, false},
		{"ReadThatRecovers", get, []error{down, down, nil}, nil, 3, false},
		{"IdempotentWriteThatRecovers", set, []error{lost, nil}, nil, 2, false},
		{"ReadThatDoesNot", get, []error{down}, down, 5, true},
		{"NotIdempotent", incr, []error{down}, down, 1, false},
		{"NotDeclared", none, []error{down}, down, 1, false},
		{"NotTransient", get, []error{redis.ErrWrongType}, redis.ErrWrongType, 1, false},
		{"NoLongerTransient", get, []error{down, redis.ErrWrongType}, redis.ErrWrongType, 2, false},
		{"OverloadIsNotAnswered", get, []error{redis.ErrOverloaded}, redis.ErrOverloaded, 1, false},
		// A later attempt that wrote nothing says nothing about the first.
		{"LostAnswerThenDown", set, []error{lost, down}, lost, 5, true},
		{"LostAnswerThenOverload", set, []error{lost, redis.ErrOverloaded}, lost, 2, false},
		{"DownThenLostAnswer", set, []error{down, lost}, lost, 5, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := retrying()
				c := through(t.Context(), r, tt.method, tt.errs...)
				if !errors.Is(c.err, tt.want) {
					t.Errorf("error = %v, want %v", c.err, tt.want)
				}
				if c.attempts != tt.attempts {
					t.Errorf("attempts = %d, want %d", c.attempts, tt.attempts)
				}
				if c.took > maxRetrying {
					t.Errorf("took %v, want at most %v", c.took, maxRetrying)
				}
				var want []string
				if tt.pushback {
					want = []string{"-1"}
				}
				if diff := cmp.Diff(want, c.trailer.Get("grpc-retry-pushback-ms")); diff != "" {
					t.Errorf("trailer (-want +got):\n%s", diff)
				}
				if got := counted(t, r.metrics, "larder_retries_total"); got != float64(tt.attempts-1) {
					t.Errorf("larder_retries_total = %v, want %d", got, tt.attempts-1)
				}
			})
		})
	}
}

func TestRetryStaysInsideTheDeadline(t *testing.T) {
	t.Parallel()
	for _, deadline := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(deadline.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for range 100 {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					c := through(ctx, retrying(), cachev1.CacheService_Get_FullMethodName, redis.ErrUnavailable)
					cancel()
					if !errors.Is(c.err, redis.ErrUnavailable) || c.took > deadline/2 {
						t.Fatalf("error = %v after %v, want %v after at most %v", c.err, c.took, redis.ErrUnavailable, deadline/2)
					}
				}
			})
		})
	}
}

// Attempts that take long themselves leave less for more of them.
func TestRetryBoundsTheTimeOfSlowAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		start := time.Now()
		_, err := retrying().unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: cachev1.CacheService_Get_FullMethodName},
			func(context.Context, any) (any, error) {
				attempts++
				pass(2 * time.Second)
				return nil, redis.ErrUnavailable
			})
		if took := time.Since(start); !errors.Is(err, redis.ErrUnavailable) || attempts > 2 || took > 4*time.Second+maxRetrying {
			t.Errorf("error = %v after %d attempts and %v, want %v after at most 2 and %v", err, attempts, took, redis.ErrUnavailable, 4*time.Second+maxRetrying)
		}
	})
}

func TestRetryEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		_, err := retrying().unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: cachev1.CacheService_Get_FullMethodName},
			func(context.Context, any) (any, error) { cancel(); return nil, redis.ErrUnavailable })
		if !errors.Is(err, context.Canceled) || time.Since(start) > 0 {
			t.Errorf("error = %v after %v, want %v at once", err, time.Since(start), context.Canceled)
		}
	})
}

func TestNoRetryWhileRedisIsKnownToBeAway(t *testing.T) {
	t.Parallel()
	r := retrying()
	r.up = func() bool { return false }
	c := through(t.Context(), r, cachev1.CacheService_Get_FullMethodName, redis.ErrUnavailable)
	if c.attempts != 1 || len(c.trailer) != 0 {
		t.Errorf("attempts = %d, trailer = %v, want 1 and none", c.attempts, c.trailer)
	}
}

func TestRetryBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const get = cachev1.CacheService_Get_FullMethodName
		r := retrying()
		retries := func(calls int) (n int) {
			for range calls {
				n += through(t.Context(), r, get, redis.ErrUnavailable).attempts - 1
			}
			return n
		}
		if got := retries(1000); got != 50 {
			t.Errorf("retries in an outage of 1000 calls = %d, want 50", got)
		}
		if got := counted(t, r.metrics, "larder_retry_budget_exhausted_total"); got < 980 {
			t.Errorf("larder_retry_budget_exhausted_total = %v, want at least 980", got)
		}
		if c := through(t.Context(), r, get, redis.ErrUnavailable); c.took > 0 || len(c.trailer) == 0 {
			t.Errorf("without a budget: took %v, trailer = %v, want 0 and a pushback", c.took, c.trailer)
		}
		for range 100 {
			through(t.Context(), r, get, nil)
		}
		if got := retries(1000); got != 10 {
			t.Errorf("retries after 100 successes = %d, want 10", got)
		}
		for range 10_000 {
			through(t.Context(), r, get, nil)
		}
		if got := retries(1000); got != 50 {
			t.Errorf("retries in an outage after many successes = %d, want 50", got)
		}
	})
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for failed, bound := range []time.Duration{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		bound *= time.Millisecond
		least, most := time.Duration(math.MaxInt64), time.Duration(0)
		for range 2000 {
			wait := backoff(failed + 1)
			least, most = min(least, wait), max(most, wait)
		}
		if least > bound/50 || most < bound*49/50 || most > bound {
			t.Errorf("backoff(%d) = %v to %v, want 0 to %v", failed+1, least, most, bound)
		}
	}
}

func TestIdempotentMethodsAreTheDeclaredOnes(t *testing.T) {
	t.Parallel()
	methods := idempotentMethods()
	for method, want := range map[string]bool{
		cachev1.CacheService_Get_FullMethodName:                 true,  // NO_SIDE_EFFECTS
		cachev1.CacheService_Delete_FullMethodName:              true,  // IDEMPOTENT
		cachev1.CacheService_Increment_FullMethodName:           false, // IDEMPOTENCY_UNKNOWN
		sessionv1.SessionService_ValidateSession_FullMethodName: true,
		sessionv1.SessionService_CreateSession_FullMethodName:   false,
	} {
		if methods[method] != want {
			t.Errorf("%s is idempotent: %t, want %t", method, methods[method], want)
		}
	}
}

func counted(t testing.TB, m *Metrics, name string) (sum float64) {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatalf("Gather = %v, want nil", err)
	}
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.Metric {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
