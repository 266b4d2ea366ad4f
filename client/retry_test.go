package client_test

import (
	"context"
	"errors"
	"path"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

type call = func(context.Context, *client.Client) error

// safe are the calls that the client retries, by method.
var safe = map[string]call{
	"Get": func(ctx context.Context, c *client.Client) error { return second(c.Cache.Get(ctx, "k")) },
	"Set": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Set(ctx, "k", nil, client.SetOptions{}))
	},
	"Delete": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Delete(ctx, "k", client.DeleteOptions{}))
	},
	"Touch": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Touch(ctx, "k", client.TouchOptions{}))
	},
	"BatchGet": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.BatchGet(ctx, nil, client.BatchGetOptions{}))
	},
	"BatchSet":    func(ctx context.Context, c *client.Client) error { return second(c.Cache.BatchSet(ctx, nil)) },
	"BatchDelete": func(ctx context.Context, c *client.Client) error { return second(c.Cache.BatchDelete(ctx, nil)) },
	"DeleteMatching": func(ctx context.Context, c *client.Client) error {
		return end(c.Cache.DeleteMatching(ctx, "*", client.DeleteMatchingOptions{}))
	},
	"ListKeys": func(ctx context.Context, c *client.Client) error {
		return end(c.Cache.ListKeys(ctx, "*", client.ListKeysOptions{}))
	},
	"GetStats": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Stats(ctx, client.StatsOptions{}))
	},
	"GetOrLease": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.GetOrLease(ctx, "k", client.LeaseOptions{}))
	},
	"ReleaseLease": func(ctx context.Context, c *client.Client) error { return c.Cache.ReleaseLease(ctx, "k", "l", 0) },
	"InvalidateTags": func(ctx context.Context, c *client.Client) error {
		return c.Cache.InvalidateTags(ctx, client.Remove, "t")
	},
	"ClearNamespace": func(ctx context.Context, c *client.Client) error { return c.Cache.Clear(ctx, client.Remove) },
	"Watch":          func(ctx context.Context, c *client.Client) error { return end(c.Cache.Watch(ctx)) },
	"WatchSessionEvents": func(ctx context.Context, c *client.Client) error {
		return end(c.Sessions.WatchEvents(ctx, client.WatchEventsOptions{}))
	},
	"ValidateSession": func(ctx context.Context, c *client.Client) error {
		return second(c.Sessions.Validate(ctx, "t", client.ValidateOptions{}))
	},
	"GetSession": func(ctx context.Context, c *client.Client) error { return second(c.Sessions.Get(ctx, "s")) },
	"RevokeSession": func(ctx context.Context, c *client.Client) error {
		return second(c.Sessions.Revoke(ctx, client.ByID("s")))
	},
	"BatchValidateSessions": func(ctx context.Context, c *client.Client) error {
		return second(c.Sessions.BatchValidate(ctx, []client.ValidateItem{{Token: "t"}}))
	},
	"RotateSession": func(ctx context.Context, c *client.Client) error {
		_, _, err := c.Sessions.Rotate(ctx, "t")
		return err
	},
	"PromoteSession": func(ctx context.Context, c *client.Client) error {
		_, _, err := c.Sessions.Promote(ctx, "t", "ann", client.PromoteOptions{})
		return err
	},
	"RevokeSubjectSessions": func(ctx context.Context, c *client.Client) error {
		return second(c.Sessions.RevokeSubject(ctx, "ann", client.RevokeSubjectOptions{}))
	},
	"GetSubject": func(ctx context.Context, c *client.Client) error { return second(c.Sessions.SubjectEpoch(ctx, "ann")) },
	"IssueToken": func(ctx context.Context, c *client.Client) error {
		return second(c.Tokens.Issue(ctx, "ann", "reset", client.TokenLink, client.IssueOptions{}))
	},
	"ConsumeToken": func(ctx context.Context, c *client.Client) error {
		return second(c.Tokens.Consume(ctx, "reset", client.ByLink("l"), client.ConsumeTokenOptions{}))
	},
	"InspectToken": func(ctx context.Context, c *client.Client) error {
		return second(c.Tokens.Inspect(ctx, client.ByLink("l"), client.InspectOptions{}))
	},
	"ExchangeToken": func(ctx context.Context, c *client.Client) error {
		return second(c.Tokens.Exchange(ctx, "reset", client.ByCode("t", "123456"), client.ExchangeOptions{}))
	},
	"RevokeToken":    func(ctx context.Context, c *client.Client) error { return second(c.Tokens.Revoke(ctx, "ann", "reset")) },
	"InspectSubject": func(ctx context.Context, c *client.Client) error { return second(c.Tokens.InspectSource(ctx, "ip")) },
	"ResetSubject":   func(ctx context.Context, c *client.Client) error { return c.Tokens.ResetSource(ctx, "ip") },
	"ClaimOnce": func(ctx context.Context, c *client.Client) error {
		return c.Tokens.ClaimOnce(ctx, "iss", "jti", time.Minute)
	},
	"ClaimCounter": func(ctx context.Context, c *client.Client) error {
		return second(c.Tokens.ClaimCounter(ctx, "totp", "ann", 1, 0))
	},
	"ListSubjectSessions": func(ctx context.Context, c *client.Client) error {
		return end(c.Sessions.ListSubject(ctx, "ann", client.ListSubjectOptions{}))
	},
	"Peek": func(ctx context.Context, c *client.Client) error {
		return second(c.RateLimits.Peek(ctx, "ann", nil, nil))
	},
	"Commit": func(ctx context.Context, c *client.Client) error { return second(c.RateLimits.Commit(ctx, "r", nil)) },
	"Cancel": func(ctx context.Context, c *client.Client) error { return second(c.RateLimits.Cancel(ctx, "r")) },
	"Reset":  func(ctx context.Context, c *client.Client) error { return second(c.RateLimits.Reset(ctx, "ann")) },
}

// onceOnly are the calls that the client never retries, by method and, for methods that it does retry, by option.
var onceOnly = map[string]call{
	"Increment": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Increment(ctx, "k", 1, client.IncrementOptions{}))
	},
	"Fill": func(ctx context.Context, c *client.Client) error { // a second attempt would find the lease gone
		return second(c.Cache.Fill(ctx, "k", "l", nil, client.SetOptions{}))
	},
	"CreateSession": func(ctx context.Context, c *client.Client) error {
		_, _, err := c.Sessions.Create(ctx, "ann", client.CreateOptions{})
		return err
	},
	"ReauthenticateSession": func(ctx context.Context, c *client.Client) error {
		_, _, err := c.Sessions.Reauthenticate(ctx, "t", client.ReauthenticateOptions{})
		return err
	},
	"UpdateSession": func(ctx context.Context, c *client.Client) error {
		return second(c.Sessions.Update(ctx, client.ByID("s"), client.UpdateOptions{}))
	},
	"Consume": func(ctx context.Context, c *client.Client) error {
		return second(c.RateLimits.Consume(ctx, "ann", nil, client.ConsumeOptions{}))
	},
	"BatchConsume": func(ctx context.Context, c *client.Client) error { return second(c.RateLimits.BatchConsume(ctx, nil)) },
	"Refund": func(ctx context.Context, c *client.Client) error {
		return second(c.RateLimits.Refund(ctx, "ann", nil, client.RefundOptions{}))
	},
	"Reserve": func(ctx context.Context, c *client.Client) error {
		return second(c.RateLimits.Reserve(ctx, "ann", nil, 0, client.ConsumeOptions{}))
	},
	"Set/IfAbsent": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Set(ctx, "k", nil, client.SetOptions{IfAbsent: true}))
	},
	"Set/IfMatch": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Set(ctx, "k", nil, client.SetOptions{IfMatch: "e"}))
	},
	"Delete/IfMatch": func(ctx context.Context, c *client.Client) error {
		return second(c.Cache.Delete(ctx, "k", client.DeleteOptions{IfMatch: "e"}))
	},
}

func second[T any](_ T, err error) error { return err }

// end returns the last error of an iterator.
func end[T any](walk func(func(T, error) bool)) (last error) {
	for _, err := range walk {
		last = err
	}
	return last
}

func TestUnavailableIsRetriedWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	for attempts, calls := range map[int]map[string]call{3: safe, 1: onceOnly} {
		for name, call := range calls {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := serve(t, refuse("0"))
				c := connect(t, client.Options{Target: b.addr})
				err := call(t.Context(), c)
				if n := b.calls(); n != attempts {
					t.Errorf("the server got %d calls, want %d", n, attempts)
				}
				var e *client.Error
				if !errors.As(err, &e) || e.Reason != "REDIS_UNAVAILABLE" {
					t.Errorf("error = %v, want a *client.Error with the reason REDIS_UNAVAILABLE", err)
				}
			})
		}
	}
}

func TestEveryMethodIsCalledHere(t *testing.T) {
	t.Parallel()
	for want, calls := range map[bool]map[string]call{true: safe, false: onceOnly} {
		for _, method := range methods(want) {
			if calls[path.Base(method)] == nil {
				t.Errorf("there is no call of %s in this file, want one among the calls that may be retried: %v", method, want)
			}
		}
	}
}

func TestNothingElseIsRetried(t *testing.T) {
	t.Parallel()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if code == codes.Unavailable {
			continue
		}
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			b := serve(t, fail(larderError(code, "ANY", &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})))
			c := connect(t, client.Options{Target: b.addr})
			if _, err := c.Cache.Get(t.Context(), "k"); err == nil {
				t.Errorf("Get = no error, want %v", code)
			}
			if n := b.calls(); n != 1 {
				t.Errorf("the server got %d calls, want 1", n)
			}
		})
	}
}

func TestMaxAttempts(t *testing.T) {
	t.Parallel()
	for attempts, want := range map[uint]int{0: 3, 1: 1, 2: 2, 6: 6} {
		b := serve(t, refuse("0"))
		c := connect(t, client.Options{Target: b.addr, MaxAttempts: attempts})
		if _, err := c.Cache.Get(t.Context(), "k"); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("Get with MaxAttempts %d = error %v, want ErrUnavailable", attempts, err)
		}
		if n := b.calls(); n != want {
			t.Errorf("the server got %d calls with MaxAttempts %d, want %d", n, attempts, want)
		}
	}
}

func TestRetryOfGRPCItselfCannotBeAdded(t *testing.T) {
	t.Parallel()
	b := serve(t, refuse("0"))
	c := connect(t, client.Options{Target: b.addr, DialOptions: []grpc.DialOption{grpc.WithDefaultServiceConfig(serviceConfig)}})
	_ = second(c.Cache.Get(t.Context(), "k"))
	if n := b.calls(); n != 3 {
		t.Errorf("the server got %d calls, want 3", n)
	}
}

func TestRetrySucceedsWhenTheServerRecovers(t *testing.T) {
	t.Parallel()
	var b *backend
	b = serve(t, func(ctx context.Context, req any) (any, error) {
		if b.calls() < 3 {
			return refuse()(ctx, req)
		}
		return hit(ctx, req)
	})
	c := connect(t, client.Options{Target: b.addr})
	if e, err := c.Cache.Get(t.Context(), "k"); err != nil || !e.Found() {
		t.Errorf("Get = %+v, %v; want a HIT", e, err)
	}
}

func TestPushbackIsObeyed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		trailer []string
		calls   int
		atLeast time.Duration
	}{
		{"NegativeStops", []string{"-1"}, 1, 0},
		{"NonsenseStops", []string{"soon"}, 1, 0},
		{"OutOfRangeStops", []string{"99999999999999"}, 1, 0},
		{"TwoStop", []string{"1", "2"}, 1, 0},
		{"BeyondTheDeadlineStops", []string{"60000"}, 1, 0},
		{"WaitsAsLongAsTold", []string{"200"}, 3, 400 * time.Millisecond},
	}
	for _, tt := range tests {
		for _, method := range []string{"Get", "DeleteMatching"} {
			t.Run(tt.name+method, func(t *testing.T) {
				t.Parallel()
				b := serve(t, refuse(tt.trailer...))
				c := connect(t, client.Options{Target: b.addr})
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				start := time.Now()
				if err := safe[method](ctx, c); !errors.Is(err, client.ErrUnavailable) {
					t.Errorf("%s = error %v, want ErrUnavailable", method, err)
				}
				took := time.Since(start)
				if n := b.calls(); n != tt.calls || took < tt.atLeast || took > 10*time.Second {
					t.Errorf("the server got %d calls in %v, want %d in %v to 10s", n, took, tt.calls, tt.atLeast)
				}
			})
		}
	}
}

func TestRetryInfoIsTheLeastWait(t *testing.T) {
	t.Parallel()
	b := serve(t, fail(larderError(codes.Unavailable, "REDIS_UNAVAILABLE", &errdetails.RetryInfo{RetryDelay: durationpb.New(200 * time.Millisecond)})))
	c := connect(t, client.Options{Target: b.addr})
	start := time.Now()
	_, err := c.Cache.Get(t.Context(), "k")
	if took := time.Since(start); b.calls() != 3 || took < 400*time.Millisecond {
		t.Errorf("the server got %d calls in %v, want 3 in at least 400ms", b.calls(), took)
	}
	var e *client.Error
	if !errors.As(err, &e) || e.RetryAfter != 200*time.Millisecond {
		t.Errorf("Get = error %#v, want RetryAfter 200ms", err)
	}
}

func TestWalkIsNotBegunAgainOnceItHasProgressed(t *testing.T) {
	t.Parallel()
	b := &backend{}
	b.walk = func(s grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
		if b.calls() == 1 {
			return second(refuse("0")(s.Context(), nil))
		}
		if err := s.Send(&cachev1.DeleteMatchingResponse{DeletedCount: 7, ResumeToken: "here"}); err != nil {
			return err
		}
		return larderError(codes.Unavailable, "REDIS_UNAVAILABLE")
	}
	b.start(t, nil)
	c := connect(t, client.Options{Target: b.addr})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []client.Progress
	var last error
	for p, err := range c.Cache.DeleteMatching(ctx, "user:*", client.DeleteMatchingOptions{}) {
		if err == nil {
			got = append(got, p)
		}
		last = err
	}
	if want := []client.Progress{{Deleted: 7, ResumeToken: "here"}}; !slices.Equal(got, want) {
		t.Errorf("DeleteMatching yielded %+v, want %+v", got, want)
	}
	if !errors.Is(last, client.ErrUnavailable) || b.calls() != 2 {
		t.Errorf("DeleteMatching ended with %v after %d calls, want ErrUnavailable after 2", last, b.calls())
	}
}

func TestCallsOutsideLarderAreNotRetried(t *testing.T) {
	t.Parallel()
	b := serve(t, refuse("0"))
	c := connect(t, client.Options{Target: b.addr})
	_, err := grpc_health_v1.NewHealthClient(c.Conn()).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if !errors.Is(err, client.ErrUnavailable) || b.calls() != 1 {
		t.Errorf("Check = error %v after %d calls, want ErrUnavailable after 1", err, b.calls())
	}
}
