package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestNearHardBoundWhenPartitioned: no push comes through, and what is served is never older than NearCacheTTL.
func TestNearHardBoundWhenPartitioned(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheTTL = []string{proxy.Addr}, 500*time.Millisecond
	s, direct, namespace := storetest.Open(t, o), storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	storetest.Set(t, direct, namespace, "key", cache.Write{Value: []byte("1")})

	var read time.Time // what is held was asked for before
	storetest.Eventually(t, "the value is held", func() bool {
		first := storetest.Get(t, s, namespace, "key", true)
		read = time.Now()
		return !first.Near && storetest.Get(t, s, namespace, "key", true).Near
	})
	proxy.Blackhole(true)
	storetest.Set(t, direct, namespace, "key", cache.Write{Value: []byte("2")})
	served := 0
	for deadline := time.Now().Add(2 * o.Redis.NearCacheTTL); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		asked := time.Now()
		f, err := s.Cache.Get(ctx, namespace, "key", true)
		cancel()
		switch {
		case err == nil && storetest.Version(t, f) == 1:
			served++
			if age := asked.Sub(read); age > o.Redis.NearCacheTTL {
				t.Fatalf("served a value that is %v old, want at most %v", age, o.Redis.NearCacheTTL)
			}
		case err == nil:
			t.Fatalf("Get through a black hole = %q, want version 1 from memory or an error", f.Value)
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, redis.ErrUnavailable):
			t.Fatalf("Get: error %v, want %v or %v: %s", err, context.DeadlineExceeded, redis.ErrUnavailable, redis.Cause(err))
		}
	}
	if served == 0 {
		t.Error("0 answers from the near cache, want some")
	}
	proxy.Blackhole(false)
	storetest.Eventually(t, "the new value is read", func() bool {
		f, err := s.Cache.Get(t.Context(), namespace, "key", true)
		return err == nil && storetest.Version(t, f) == 2
	})
}

// TestNearFlushedWhenNetworkIsSilent: a dead network is noticed by itself, long before a large NearCacheTTL is over.
func TestNearFlushedWhenNetworkIsSilent(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheTTL = []string{proxy.Addr}, time.Hour
	s, namespace := storetest.Open(t, o), storetest.NewNamespace()
	storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("1")})
	storetest.Eventually(t, "the value is held", func() bool { return storetest.Get(t, s, namespace, "key", true).Near })
	proxy.Blackhole(true)
	storetest.Eventually(t, "the value is not served any more", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := s.Cache.Get(ctx, namespace, "key", true)
		return err != nil
	})
	proxy.CutAll() // closing a connection that does not answer takes a second
}

// TestNearFlushedWhenConnectionLost: the pushes of a lost connection are lost with it, so the next read asks Redis.
func TestNearFlushedWhenConnectionLost(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheTTL = []string{proxy.Addr}, time.Hour
	s, direct, namespace := storetest.Open(t, o), storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	for round := range int64(5) {
		storetest.Set(t, direct, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, round, 10)})
		storetest.Eventually(t, "the value is held", func() bool {
			f, err := s.Cache.Get(t.Context(), namespace, "key", true)
			return err == nil && f.Near && storetest.Version(t, f) == round
		})
		flushes := s.Stats().Near.Flushes
		proxy.Refuse(true)
		proxy.CutAll()
		// Nobody hears of this one.
		storetest.Set(t, direct, namespace, "key", cache.Write{Value: []byte("1000")})
		storetest.Eventually(t, "the loss is noticed", func() bool { return s.Stats().Near.Flushes > flushes })
		if f, err := s.Cache.Get(t.Context(), namespace, "key", true); !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("Get without a connection = %v, %v, want error %v", f.Entry, err, redis.ErrUnavailable)
		}
		proxy.Refuse(false)
		storetest.Eventually(t, "redis is asked", func() bool {
			f, err := s.Cache.Get(t.Context(), namespace, "key", true)
			if err == nil && storetest.Version(t, f) != 1000 {
				t.Errorf("read version %d, want 1000", storetest.Version(t, f))
			}
			return err == nil
		})
	}
}

func TestNearFlushedOnFLUSHALL(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}})
	for _, command := range [][]string{{"FLUSHALL"}, {"FLUSHDB"}, {"FLUSHALL", "ASYNC"}} {
		storetest.Fill(t, s, "n", storetest.Keys(100))
		storetest.Eventually(t, "the values are held", func() bool {
			for _, k := range storetest.Keys(100) {
				if !storetest.Get(t, s, "n", k, true).Near {
					return false
				}
			}
			return true
		})
		server.Do(t, command...)
		storetest.Eventually(t, fmt.Sprintf("%v is noticed", command), func() bool {
			for _, k := range storetest.Keys(100) {
				if storetest.Get(t, s, "n", k, true).Entry != nil {
					return false
				}
			}
			return true
		})
	}
}

// TestNearFollowsExpiryAndEviction: Redis removes keys by itself, too.
func TestNearFollowsExpiryAndEviction(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}})
	held := func(what string) {
		t.Helper()
		storetest.Eventually(t, "held: "+what, func() bool { f := storetest.Get(t, s, "n", "key", true); return f.Near && f.Entry != nil })
	}
	gone := func(what string) {
		t.Helper()
		storetest.Eventually(t, "gone: "+what, func() bool { return storetest.Get(t, s, "n", "key", true).Entry == nil })
	}
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	held("an entry")
	server.Do(t, "PEXPIRE", storetest.EntryKey("n", "key"), "1")
	gone("expired by another client")
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value"), Fresh: 50 * time.Millisecond})
	gone("expired by its own time")
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	held("another entry")
	server.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if _, err := server.TryDo("SET", "x", "y"); err == nil {
		t.Error("SET at maxmemory succeeded, want it refused after an eviction")
	}
	gone("evicted")
}

// TestNearSurvivesTheTrackingTable: Redis forgets what it has pushed to whom when its table is full, and says so.
func TestNearSurvivesTheTrackingTable(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Args: []string{"tracking-table-max-keys", "10"}})
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}}
	s, other := storetest.Open(t, o), storetest.Open(t, o)
	keys := storetest.Keys(100)
	for round := range int64(5) {
		for _, k := range keys {
			storetest.Set(t, other, "n", k, cache.Write{Value: strconv.AppendInt(nil, round, 10)})
		}
		for _, k := range keys {
			storetest.Eventually(t, "the new value", func() bool { return storetest.Version(t, storetest.Get(t, s, "n", k, true)) == round })
		}
	}
}
