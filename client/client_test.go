package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
)

var hit = always(&cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT})

func TestTargetIsResolvedThroughDNS(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, target, want string }{
		{"Empty", "", "dns:///127.0.0.1:50051"},
		{"HostAndPort", "larder.default.svc:50051", "dns:///larder.default.svc:50051"},
		{"AddressAndPort", "10.0.0.1:50051", "dns:///10.0.0.1:50051"},
		{"DNS", "dns:///larder:50051", "dns:///larder:50051"},
		{"OtherScheme", "passthrough:///larder:50051", "passthrough:///larder:50051"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, client.Options{Target: tt.target})
			if got := c.Conn().CanonicalTarget(); got != tt.want {
				t.Errorf("the target of the connection is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	t.Parallel()
	c, err := client.New(client.Options{DialOptions: []grpc.DialOption{grpc.WithDefaultServiceConfig("{")}})
	if err == nil {
		t.Errorf("New with a broken service config = %v and no error, want an error", c)
	}
}

// over returns the options of a client whose target resolves to these backends.
func over(backends ...*backend) client.Options {
	r := manual.NewBuilderWithScheme("test")
	var state resolver.State
	for _, b := range backends {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: b.addr})
	}
	r.InitialState(state)
	return client.Options{Target: "test:///larder", DialOptions: []grpc.DialOption{grpc.WithResolvers(r)}}
}

// callUntil calls Get until done returns true.
func callUntil(t *testing.T, c *client.Client, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !done() {
		if _, err := c.Cache.Get(ctx, "k"); err != nil {
			t.Fatalf("Get = error %v, want none until all backends have been called", err)
		}
	}
}

func TestCallsGoRoundOverAllBackends(t *testing.T) {
	t.Parallel()
	a, b := serve(t, hit), serve(t, hit)
	c := connect(t, over(a, b))
	callUntil(t, c, func() bool { return a.calls() > 0 && b.calls() > 0 })

	fromA, fromB := a.calls(), b.calls()
	for range 100 {
		if _, err := c.Cache.Get(t.Context(), "k"); err != nil {
			t.Fatalf("Get = error %v, want none", err)
		}
	}
	if gotA, gotB := a.calls()-fromA, b.calls()-fromB; gotA != 50 || gotB != 50 {
		t.Errorf("of 100 calls the backends got %d and %d, want 50 each", gotA, gotB)
	}
}

func TestBackendThatIsNotReadyIsLeftOut(t *testing.T) {
	t.Parallel()
	a, b := serve(t, hit), serve(t, hit)
	b.health.SetServingStatus("ready", healthpb.HealthCheckResponse_NOT_SERVING)
	b.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	c := connect(t, over(a, b))
	callUntil(t, c, func() bool { return a.calls() >= 100 })
	if n := b.calls(); n != 0 {
		t.Errorf("the backend that is not ready got %d calls, want 0", n)
	}

	b.health.SetServingStatus("ready", healthpb.HealthCheckResponse_SERVING)
	callUntil(t, c, func() bool { return b.calls() > 0 })

	a.health.SetServingStatus("ready", healthpb.HealthCheckResponse_NOT_SERVING)
	b.health.SetServingStatus("ready", healthpb.HealthCheckResponse_NOT_SERVING)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, err := c.Cache.Get(ctx, "k"); err != nil {
			if !errors.Is(err, client.ErrUnavailable) {
				t.Errorf("Get with no backend ready = error %v, want ErrUnavailable", err)
			}
			return
		}
	}
}

// A backend without Redis is not ready, and answers calls of rate limits by their failure policies all the same.
func TestRateLimitsAreAskedOfBackendsThatAreNotReady(t *testing.T) {
	t.Parallel()
	b := serve(t, always(&ratelimitv1.ConsumeResponse{Outcome: ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_ALLOWED, Degraded: true}))
	b.health.SetServingStatus("ready", healthpb.HealthCheckResponse_NOT_SERVING)
	c := connect(t, client.Options{Target: b.addr})
	d, err := c.RateLimits.Consume(t.Context(), "ann", []client.RateLimit{{Rule: "login"}}, client.ConsumeOptions{})
	if err != nil || d.Outcome != client.Allowed || !d.Degraded {
		t.Errorf("Consume = %+v, %v, want allowed and degraded", d, err)
	}
	if _, err := c.Cache.Get(t.Context(), "k"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Get = error %v, want ErrUnavailable", err)
	}
}

func TestUnreachableServerIsUnavailable(t *testing.T) {
	t.Parallel()
	c := connect(t, client.Options{Target: "127.0.0.1:1"})
	_, err := c.Cache.Get(t.Context(), "k")
	var e *client.Error
	if !errors.As(err, &e) || !errors.Is(err, client.ErrUnavailable) || e.Reason != "" {
		t.Errorf("Get = error %#v, want ErrUnavailable without a reason", err)
	}
}

func TestDeadlineDefault(t *testing.T) {
	t.Parallel()
	var deadline time.Duration
	b := serve(t, func(ctx context.Context, _ any) (any, error) {
		d, _ := ctx.Deadline()
		deadline = time.Until(d)
		return &cachev1.GetResponse{}, nil
	})
	tests := []struct {
		name    string
		timeout time.Duration
		own     time.Duration
		want    time.Duration
	}{
		{name: "NoneIsFiveSeconds", want: 5 * time.Second},
		{name: "OfTheOptions", timeout: time.Minute, want: time.Minute},
		{name: "OfTheCallerWins", timeout: time.Second, own: time.Hour, want: time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(t, client.Options{Target: b.addr, Timeout: tt.timeout})
			ctx := t.Context()
			if tt.own != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.own)
				defer cancel()
			}
			if _, err := c.Cache.Get(ctx, "k"); err != nil {
				t.Fatalf("Get = error %v, want none", err)
			}
			if deadline > tt.want || deadline < tt.want*9/10-time.Second/2 {
				t.Errorf("the server saw a deadline in %v, want %v or little less", deadline, tt.want)
			}
		})
	}
}

func TestTimeoutEndsACall(t *testing.T) {
	t.Parallel()
	b := serve(t, func(ctx context.Context, _ any) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := connect(t, client.Options{Target: b.addr, Timeout: time.Second})
	_, err := c.Cache.Get(t.Context(), "k")
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get = error %v, want DeadlineExceeded that is context.DeadlineExceeded", err)
	}
	if n := b.calls(); n != 1 {
		t.Errorf("the server got %d calls, want 1", n)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	// Only for its certificate, which is valid for 127.0.0.1.
	web := httptest.NewTLSServer(nil)
	t.Cleanup(web.Close)
	b := &backend{answer: hit}
	b.start(t, credentials.NewTLS(&tls.Config{Certificates: web.TLS.Certificates}))

	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	c := connect(t, client.Options{Target: b.addr, TLS: &tls.Config{RootCAs: pool}})
	if _, err := c.Cache.Get(t.Context(), "k"); err != nil {
		t.Errorf("Get with the right certificate authority = error %v, want none", err)
	}
	c = connect(t, client.Options{Target: b.addr, TLS: &tls.Config{}})
	if _, err := c.Cache.Get(t.Context(), "k"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Get with a foreign certificate authority = error %v, want ErrUnavailable", err)
	}
	c = connect(t, client.Options{Target: b.addr})
	if _, err := c.Cache.Get(t.Context(), "k"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Get in plaintext = error %v, want ErrUnavailable", err)
	}
}

func TestLargeAnswersAreTaken(t *testing.T) {
	t.Parallel()
	value := make([]byte, 10<<20)
	b := serve(t, always(&cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT, Value: value}))
	c := connect(t, client.Options{Target: b.addr})
	if e, err := c.Cache.Get(t.Context(), "k"); err != nil || len(e.Value) != len(value) {
		t.Errorf("Get = a value of %d bytes, error %v; want %d bytes and no error", len(e.Value), err, len(value))
	}
}
