package redis_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestSettingsThatLose: what Redis is set up to lose or evict is told at the start, and refused if it is to be strict.
func TestSettingsThatLose(t *testing.T) {
	t.Parallel()
	durable := []string{"appendonly", "yes"}
	server := func(args ...string) func(t *testing.T) redis.Options {
		return func(t *testing.T) redis.Options {
			t.Helper()
			return redis.Options{Addrs: []string{redistest.Start(t, redistest.Options{Args: args}).Addr}}
		}
	}
	limited := func(rights string) func(t *testing.T) redis.Options {
		return func(t *testing.T) redis.Options {
			t.Helper()
			s := redistest.Start(t, redistest.Options{Args: durable, ACL: []string{"user larder on >pass ~ld:* +@all " + rights}})
			return redis.Options{Addrs: []string{s.Addr}, Username: "larder", Password: "pass"}
		}
	}
	for _, test := range []struct {
		name  string
		start func(t *testing.T) redis.Options
		want  []string // settings
	}{
		{"nothing", server(durable...), nil},
		{"snapshots alone", server("save", "3600 1"), []string{"appendonly"}},
		{"eviction of what expires", server(append(durable, "maxmemory-policy", "volatile-lru")...), []string{"maxmemory-policy"}},
		{"eviction of anything", server("maxmemory-policy", "allkeys-random", "maxmemory", "100mb"), []string{"appendonly", "maxmemory-policy"}},
		{"sentinels and replicas", func(t *testing.T) redis.Options {
			t.Helper()
			return sentinelOptions(redistest.StartSentinel(t))
		}, []string{"appendonly"}},
		{"a cluster without replicas", func(t *testing.T) redis.Options {
			t.Helper()
			return clusterOptions(redistest.StartCluster(t, redistest.ClusterOptions{Args: durable}))
		}, []string{"replicas"}},
		{"a cluster with replicas", func(t *testing.T) redis.Options {
			t.Helper()
			return clusterOptions(redistest.StartCluster(t, redistest.ClusterOptions{Args: durable, Replicas: 1}))
		}, nil},
		{"no right to look at more than the version", limited("-info +info|server"), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			logged := new(syncBuffer)
			o := store.Options{Redis: test.start(t)}
			o.Redis.Logger = slog.New(slog.NewTextHandler(logged, nil))
			s := storetest.Open(t, o)
			var got []string
			for _, w := range s.Redis.Warnings() {
				got = append(got, w.Setting)
				if n := strings.Count(logged.String(), "setting="+w.Setting); n != 1 {
					t.Errorf("log names %s %d times, want once", w.Setting, n)
				}
				if strings.Contains(w.String(), "127.0.0.1") {
					t.Errorf("Warning = %q, want no address in it", w)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("settings that Warnings names (-want +got):\n%s", diff)
			}
			o.Redis.Strict = true
			if len(test.want) == 0 {
				storetest.Open(t, o)
				return
			}
			begin := time.Now()
			err := connect(t, o, 10*time.Second)
			if !errors.Is(err, redis.ErrUnsafe) || redis.Retryable(err) {
				t.Errorf("Connect = %v (%s), want %v, not retryable", err, storetest.Cause(err), redis.ErrUnsafe)
			}
			for _, setting := range test.want {
				if err != nil && !strings.Contains(err.Error(), setting) {
					t.Errorf("Connect = %q, want it to name %s", err, setting)
				}
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("Connect took %v, want 5s at most", took)
			}
		})
	}
}

// TestSettingsThatAreNotTold: the connection works all the same.
func TestSettingsThatAreNotTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{ACL: []string{"user larder on >pass ~ld:* +@all"}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, Username: "larder", Password: "pass"}})
	before := s.Redis.Warnings()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, denied := range []string{"-info", "-role"} {
		server.Do(t, "ACL", "SETUSER", "larder", denied)
		if err := s.Redis.Ping(ctx); err != nil {
			t.Errorf("Ping with %s = %v (%s), want no error", denied, err, storetest.Cause(err))
		}
	}
	if err := trySet(t, s, "key", "1"); err != nil {
		t.Errorf("Set = %v (%s), want no error", err, storetest.Cause(err))
	}
	if diff := cmp.Diff(before, s.Redis.Warnings()); diff != "" {
		t.Errorf("Warnings (-before +after):\n%s", diff)
	}
}
