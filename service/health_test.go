package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/store/redis"
)

const (
	serving    = healthv1.HealthCheckResponse_SERVING
	notServing = healthv1.HealthCheckResponse_NOT_SERVING
)

// A patient is a Health in the virtual time of synctest, whose Redis does what the test says.
type patient struct {
	*Health
	redis atomic.Int32
	log   *logBuffer
}

// stall is longer than a probe may take.
const stall = 10 * time.Second

const (
	well = iota
	gone
	stalled
	readOnly
	scriptless
)

func (p *patient) check(context.Context) redis.Condition {
	switch p.redis.Load() {
	case gone:
		return redis.Down(fmt.Errorf("10.1.2.3: %w", redis.ErrUnavailable))
	case stalled:
		pass(stall) // deaf to its context, as a client that waits for somebody else's dial is
		return redis.Down(errors.New("too late"))
	case readOnly:
		c := redis.Condition{Problems: []redis.Problem{{Kind: "writes", Detail: "1 of 1 primaries refuse: MISCONF"}}}
		c.Failures[redis.ToWrite] = redis.ErrUnavailable
		return c
	case scriptless:
		c := redis.Condition{Problems: []redis.Problem{{Kind: "scripts", Detail: "1 of 1 primaries refuse: NOPERM"}}}
		c.Failures[redis.ToReadByScript] = redis.ErrRefused
		return c
	}
	return redis.Condition{}
}

// observe runs a Health whose Redis is as given at first.
func observe(t *testing.T, redis int32) *patient {
	p := &patient{log: new(logBuffer)}
	p.redis.Store(redis)
	p.Health = newHealth(p.check, patient300ms, NewMetrics(), Options{Logger: slog.New(slog.NewJSONHandler(p.log, nil))}.withDefaults())
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		p.run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		pass(stall)
	})
	synctest.Wait()
	return p
}

// check asks the way a probe asks, and that all names which follow Redis agree.
func (p *patient) want(t *testing.T, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	p.wantEach(t, func(string) healthv1.HealthCheckResponse_ServingStatus { return want })
}

// wantEach is want with a status for each name.
func (p *patient) wantEach(t *testing.T, wanted func(name string) healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	for _, name := range readyNames() {
		want := wanted(name)
		resp, err := p.grpc.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil || resp.Status != want {
			t.Errorf("status of %q = %v, %v, want %v", name, resp, err, want)
		}
	}
	resp, err := p.grpc.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "live"})
	if err != nil || resp.Status != serving {
		t.Errorf("status of live = %v, %v, want %v", resp, err, serving)
	}
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// until returns how long it takes until Redis() is up, at most a minute.
func (p *patient) until(up bool) time.Duration {
	start := time.Now()
	for p.Redis() != up && time.Since(start) < time.Minute {
		pass(10 * time.Millisecond)
		synctest.Wait()
	}
	return time.Since(start)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, test)
		})
	}

	run("NotServingBeforeTheFirstProbe", func(t *testing.T) {
		p := &patient{Health: newHealth(nil, patient300ms, NewMetrics(), Options{}.withDefaults())}
		p.want(t, notServing)
	})

	run("NotServingUntilRedisAnswers", func(t *testing.T) {
		p := observe(t, gone)
		pass(time.Minute)
		p.want(t, notServing)
		p.redis.Store(well)
		if took := p.until(true); took > 100*time.Millisecond {
			t.Errorf("ready %v after Redis answered, want at most 100 ms", took)
		}
		p.want(t, serving)
		if text := p.log.String(); text != "" {
			t.Errorf("log = %q, want nothing about a start", text)
		}
	})

	for name, how := range map[string]int32{"Gone": gone, "Stalled": stalled} {
		run("DownWithinTwoSecondsWhen"+name, func(t *testing.T) {
			p := observe(t, well)
			for offset := range 50 { // wherever between two probes it happens
				pass(10*time.Second + time.Duration(offset)*10*time.Millisecond)
				p.redis.Store(how)
				if took := p.until(false); took > 2*time.Second {
					t.Fatalf("down %v after Redis failed, want at most 2 s", took)
				}
				p.want(t, notServing)
				pass(time.Minute)
				p.redis.Store(well)
				if took := p.until(true); took > 2*time.Second {
					t.Fatalf("up %v after Redis was back, want at most 2 s", took)
				}
				p.want(t, serving)
			}
			if n, m := len(p.log.lines(t, "redis connection lost")), len(p.log.lines(t, "redis connection restored")); n != 50 || m != 50 {
				t.Errorf("logged %d losses and %d returns, want 50 of each", n, m)
			}
			if got := counted(t, p.metrics, "larder_redis_connection_events_total"); got != 100 {
				t.Errorf("larder_redis_connection_events_total = %v, want 100", got)
			}
		})
	}

	run("TwoFailuresAreNotBelieved", func(t *testing.T) {
		p := observe(t, well)
		pass(250 * time.Millisecond) // between two probes
		for range 10 {
			p.redis.Store(gone)
			pass(600 * time.Millisecond) // two probes, the second after half the interval
			p.want(t, serving)
			p.redis.Store(well)
			pass(900 * time.Millisecond)
			p.want(t, serving)
		}
	})

	run("OneSuccessIsNotBelieved", func(t *testing.T) {
		p := observe(t, well)
		p.redis.Store(gone)
		p.until(false)
		pass(250 * time.Millisecond) // between two probes
		for range 10 {
			p.redis.Store(well)
			pass(400 * time.Millisecond) // one probe
			p.redis.Store(gone)
			pass(350 * time.Millisecond)
			p.want(t, notServing)
		}
	})

	run("ReadsOnlyIsDegradedAndServing", func(t *testing.T) {
		p := observe(t, well)
		p.redis.Store(readOnly)
		pass(5 * time.Second)
		p.wantEach(t, func(name string) healthv1.HealthCheckResponse_ServingStatus {
			for _, service := range services {
				if service.desc.ServiceName == name && service.needs == redis.ToWrite {
					return notServing
				}
			}
			return serving
		})
		if got := p.Problems(); got["writes"] == "" || len(got) != 1 {
			t.Errorf("Problems = %v, want one of writes", got)
		}
		if n := len(p.log.lines(t, "redis problem")); n != 1 {
			t.Errorf("logged %d problems, want 1", n)
		}
		p.redis.Store(well)
		pass(5 * time.Second)
		if got := p.Problems(); len(got) != 0 {
			t.Errorf("Problems = %v once Redis is well, want none", got)
		}
		if n := len(p.log.lines(t, "redis problem solved")); n != 1 {
			t.Errorf("logged %d problems as solved, want 1", n)
		}
	})

	run("AServiceThatCannotServeSaysSo", func(t *testing.T) {
		p := observe(t, well)
		p.redis.Store(scriptless)
		pass(5 * time.Second)
		for name, want := range map[string]bool{"": true, "ready": true, "larder.cache.v1.CacheService": true, "larder.session.v1.SessionService": false} {
			if got := p.Serving(name); got != want {
				t.Errorf("Serving(%q) = %v while Redis refuses read-only scripts, want %v", name, got, want)
			}
		}
	})

	run("DrainingLatches", func(t *testing.T) {
		p := observe(t, well)
		p.drain()
		p.want(t, notServing)
		p.redis.Store(gone)
		p.until(false)
		p.redis.Store(well)
		if p.until(true); !p.Redis() {
			t.Error("Redis() = false after Redis was back, want true")
		}
		p.want(t, notServing)
		if p.Ready() {
			t.Error("Ready() = true while draining, want false")
		}
	})
}
