package service

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// onRedis serves a store over a real Redis, which it connects to in the background.
func onRedis(t *testing.T, addr string, o Options) *running {
	t.Helper()
	m := NewMetrics()
	st, err := store.New(store.Options{Redis: redis.Options{Addrs: []string{addr}, CommandTimeout: 500 * time.Millisecond, Observer: m}})
	if err != nil {
		t.Fatalf("store.New = %v, want nil", err)
	}
	t.Cleanup(st.Close)
	log := new(logBuffer)
	o.Logger = slog.New(slog.NewJSONHandler(log, nil))
	r := serve(t, New(st, m, o))
	r.log = log
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		_ = st.Redis.Connect(t.Context())
	}()
	t.Cleanup(func() { <-connected })
	return r
}

// state asks the way a probe asks.
func (r *running) state(t *testing.T, name string) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	resp, err := r.live.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatalf("Check(%s) = %v, want nil", name, err)
	}
	return resp.Status
}

// read reads a key that is not there from Redis, never from the near cache.
func (r *running) read(ctx context.Context) error {
	_, err := r.cache.Get(ctx, &cachev1.GetRequest{Key: "k", Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY})
	return err
}

// wantAway checks what a caller is told when Redis is away, and how soon.
func (r *running) wantAway(t *testing.T, addr string, within time.Duration) {
	t.Helper()
	start := time.Now()
	err := r.read(t.Context())
	if took := time.Since(start); took > within {
		t.Errorf("error after %v, want at most %v", took, within)
	}
	wantAnswer(t, err, answer{Code: codes.Unavailable, Reason: "REDIS_UNAVAILABLE", Retry: true})
	_, port, _ := net.SplitHostPort(addr)
	if text := status.Convert(err).String(); strings.Contains(text, port) || strings.Contains(text, "dial") {
		t.Errorf("status = %q, want it without address and driver text", text)
	}
}

func TestRedisDownAtStart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	proxy.Refuse(true)
	s := onRedis(t, proxy.Addr, Options{})

	if live, ready := s.state(t, "live"), s.state(t, "ready"); live != serving || ready != notServing {
		t.Errorf("live = %v, ready = %v, want %v and %v", live, ready, serving, notServing)
	}
	s.wantAway(t, proxy.Addr, 500*time.Millisecond)

	proxy.Refuse(false)
	eventually(t, "ready", func() bool { return s.state(t, "ready") == serving })
	if err := s.read(t.Context()); err != nil {
		t.Errorf("read = %v, want nil", err)
	}
}

func TestRedisOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := onRedis(t, server.Addr, Options{})
	eventually(t, "ready", func() bool { return s.state(t, "ready") == serving })

	for _, outage := range []struct {
		name       string
		begin, end func()
		// within is when a caller hears of it once the server knows.
		within time.Duration
	}{
		{"Killed", server.Kill, func() { server.Restart(t) }, 500 * time.Millisecond},
		{"Stalled", func() { server.Pause(t) }, func() { server.Resume(t) }, 2 * time.Second},
	} {
		start := time.Now()
		outage.begin()
		if outage.name == "Killed" {
			s.wantAway(t, server.Addr, 3*time.Second) // before the probes have noticed, retries included
		}
		eventually(t, "not ready", func() bool { return s.state(t, "ready") == notServing })
		if took := time.Since(start); took > 3*time.Second { // 2 s and what a loaded machine adds
			t.Errorf("%s: not ready after %v, want at most 3 s", outage.name, took)
		}
		s.wantAway(t, server.Addr, outage.within)
		if got := s.state(t, "live"); got != serving {
			t.Errorf("%s: live = %v, want %v", outage.name, got, serving)
		}
		if got := metric(t, s.Server, "larder_redis_up"); got != 0 {
			t.Errorf("%s: larder_redis_up = %v, want 0", outage.name, got)
		}
		outage.end()
		eventually(t, "ready again", func() bool { return s.state(t, "ready") == serving })
		if err := s.read(t.Context()); err != nil {
			t.Errorf("%s: read afterwards = %v, want nil", outage.name, err)
		}
	}
	if n, m := len(s.log.lines(t, "redis connection lost")), len(s.log.lines(t, "redis connection restored")); n != 2 || m != 2 {
		t.Errorf("log has %d losses and %d returns, want 2 of each:\n%s", n, m, s.log)
	}
}

func TestReadersDoNotNoticeABrokenConnection(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := onRedis(t, proxy.Addr, Options{})
	eventually(t, "ready", func() bool { return s.state(t, "ready") == serving })

	ctx, stop := context.WithCancel(t.Context())
	var reads atomic.Int64
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := s.read(t.Context()); err != nil {
					t.Errorf("read = %v, want nil", err)
				}
				reads.Add(1)
			}
		})
	}
	for range 3 {
		before := reads.Load()
		eventually(t, "reading", func() bool { return reads.Load() > before+50 })
		proxy.CutAll()
	}
	before := reads.Load()
	eventually(t, "reading", func() bool { return reads.Load() > before+50 })
	stop()
	readers.Wait()
	if got := metric(t, s.Server, "larder_retries_total", "method", cachev1.CacheService_Get_FullMethodName); got == 0 {
		t.Error("larder_retries_total of Get = 0, want at least 1")
	}
}

func TestALostAnswerOfAWriteIsSaidToBeOne(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := onRedis(t, proxy.Addr, Options{})
	eventually(t, "ready", func() bool { return s.state(t, "ready") == serving })

	sessions := sessionv1.NewSessionServiceClient(s.conn)
	_, err := sessions.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{}) // so that Redis knows the script
	succeeds(t, "CreateSession", err)

	proxy.DropReplies(true)
	var trailer metadata.MD
	_, err = sessions.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{}, grpc.Trailer(&trailer))
	wantAnswer(t, err, answer{Code: codes.Unavailable, Reason: "WRITE_OUTCOME_UNKNOWN", Retry: true})
	if diff := cmp.Diff([]string{"-1"}, trailer.Get("grpc-retry-pushback-ms")); diff != "" {
		t.Errorf("trailer (-want +got):\n%s", diff)
	}
	// Each attempt would be another session.
	if n := len(server.Do(t, "KEYS", "ld:s:*").([]any)); n > 2 {
		t.Errorf("there are %d sessions, want that of before, and at most one of the write whose answer was lost", n)
	}
}

func TestTheLogTellsTheTimeOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := onRedis(t, proxy.Addr, Options{SlowCall: 100 * time.Millisecond})
	eventually(t, "ready", func() bool { return s.state(t, "ready") == serving })

	proxy.Delay(150 * time.Millisecond)
	if err := s.read(t.Context()); err != nil {
		t.Fatalf("read = %v, want nil", err)
	}
	calls := s.log.lines(t, "slow call")
	if len(calls) != 1 || calls[0]["redis_time"].(float64) < float64(150*time.Millisecond) || calls[0]["redis_trips"].(float64) < 1 {
		t.Errorf("log has %d slow calls, want 1 with a redis_time of at least 150 ms and a round trip:\n%s", len(calls), s.log)
	}
	if len(s.log.lines(t, "slow redis command")) == 0 {
		t.Errorf("log has no slow redis command, want one:\n%s", s.log)
	}
}
