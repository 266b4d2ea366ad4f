package redis_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestAWriteInALongQueueLandsSoonOrNever: the connection works and is slow, so that what it is asked to send waits for longer
// than its callers do.
func TestAWriteInALongQueueLandsSoonOrNever(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	proxy.Throttle(200 << 10)
	direct := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: timeout}})
	var fillers sync.WaitGroup
	for i := range 20 { // a quarter of a second each
		fillers.Go(func() { _ = trySet(t, s, fmt.Sprint("filler-", i), strings.Repeat("x", 50<<10)) })
	}
	storetest.Eventually(t, "they are under way", func() bool { return s.Stats().InFlight == 20 })
	if err := trySet(t, s, "key", "1"); err == nil {
		t.Fatal("Set = no error, want one: it is the last of a long queue")
	}
	failed := time.Now()
	storetest.Set(t, direct, "n", "key", cache.Write{Value: []byte("2")})
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for landed := time.Duration(0); time.Since(failed) < 6*timeout && landed == 0; <-ticks.C {
		if storetest.Version(t, storetest.Get(t, direct, "n", "key", false)) == 1 {
			landed = time.Since(failed)
			if most := 2 * timeout; landed > most {
				t.Errorf("the write landed %v after it had failed, want %v at most", landed, most)
			}
		}
	}
	fillers.Wait()
}

// TestAWriteThatFailedNeverLandsLater: the network takes nothing any more, so that writes wait in the kernel's buffer. Once
// the connection is given up they are not sent, whatever has been written over them by then.
func TestAWriteThatFailedNeverLandsLater(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "TLS"}[encrypted], func(t *testing.T) {
			t.Parallel()
			o := redistest.Options{}
			var config *tls.Config
			if encrypted {
				o.TLS = redistest.GenerateTLS(t)
				config = o.TLS.ClientConfig(t)
			}
			server := redistest.Start(t, o)
			proxy := redistest.StartProxy(t, server.Addr)
			direct := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, TLS: config}})
			watched := new(watcher)
			s := storetest.Open(t, store.Options{Redis: redis.Options{
				Addrs: []string{proxy.Addr}, TLS: config, Observer: watched, CommandTimeout: 500 * time.Millisecond,
			}})
			set := func(key, value string) error {
				_, _, err := s.Cache.Set(t.Context(), "n", key, cache.Write{Value: []byte(value)}, cache.Condition{})
				return err
			}
			before, closed := clientIDs(t, server), watched.seen(redis.Closed)
			proxy.Blackhole(true) // it reads no more
			begin := time.Now()
			// The first write fills what the other side takes without reading; the others stay in this side's kernel.
			for _, write := range [][2]string{{"filler", strings.Repeat("x", 200<<10)}, {"key", "1"}} {
				if err := set(write[0], write[1]); !errors.Is(err, redis.ErrOutcomeUnknown) {
					t.Fatalf("Set(%q) = %v (%s), want %v", write[0], err, storetest.Cause(err), redis.ErrOutcomeUnknown)
				}
			}
			failed := time.Now()
			storetest.Set(t, direct, "n", "key", cache.Write{Value: []byte("2")})
			storetest.Eventually(t, "the connection is given up", func() bool { return watched.seen(redis.Closed) > closed })
			t.Logf("given up %v after the first write, %v after the last one had failed", time.Since(begin), time.Since(failed))
			proxy.Blackhole(false)
			storetest.Eventually(t, "what was on its way has arrived or is lost", func() bool {
				now := clientIDs(t, server)
				return slices.ContainsFunc(before, func(id string) bool { return !slices.Contains(now, id) })
			})
			if got := storetest.Version(t, storetest.Get(t, direct, "n", "key", false)); got != 2 {
				t.Errorf("Get = %d, want 2: the write of 1 had failed before", got)
			}
			if f := storetest.Get(t, direct, "n", "filler", false); f.Entry != nil {
				t.Errorf("Get = %d bytes of the first write, want a miss", len(f.Value))
			}
		})
	}
}
