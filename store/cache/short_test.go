package cache_test

import (
	"bytes"
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

// TestShortSetRevokesALeaseGivenMeanwhile: a Set that takes long to arrive also revokes a lease that is given while it is under
// way. What is loaded under that lease may be older, and must not be written once the short entry has expired.
func TestShortSetRevokesALeaseGivenMeanwhile(t *testing.T) {
	const rounds = 100
	large := bytes.Repeat([]byte("x"), 1<<20)
	write := cache.Write{Value: large, Fresh: 30 * time.Second}
	ways := map[string]func(t *testing.T, s *store.Store, namespace string) error{
		"set": func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Set(t.Context(), namespace, "key", write, cache.Condition{})
			return err
		},
		"batch set": func(t *testing.T, s *store.Store, namespace string) error {
			results, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "key", Write: write}})
			if err == nil {
				err = results[0].Err
			}
			return err
		},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		other := storetest.Replicas(t, s)[1] // over the connection of the Set the lease would be asked for after it
		for name, set := range ways {
			late := 0
			for range rounds {
				var written sync.WaitGroup
				written.Go(func() {
					if err := set(t, s, namespace); err != nil {
						t.Errorf("%s: error %v, want none: %s", name, err, redis.Cause(err))
					}
				})
				var token string
				for there := false; token == "" && !there; { // while the value is under way
					l := getOrLease(t, other, namespace, "key", cache.LeaseOptions{TTL: 10 * time.Second, Primary: true})
					token, there = l.Token, l.Entry != nil
				}
				written.Wait()
				storetest.Command(t, s, "DEL", s.Cache.RedisKey(namespace, "key")) // as when it has expired
				if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("old"), Fresh: time.Hour}); outcome == cache.Filled {
					late++
				}
				if _, _, err := s.Cache.Delete(t.Context(), namespace, "key", nil); err != nil {
					t.Fatalf("Delete: error %v, want none", err)
				}
			}
			if late > 0 {
				t.Errorf("%s: %d of %d older values were filled after the Set had returned, want none", name, late, rounds)
			}
		}
	})
}

// TestBatchDeleteRevokesALeaseGivenMeanwhile: a load that begins while a batch is on its way is refused once the batch has
// returned.
func TestBatchDeleteRevokesALeaseGivenMeanwhile(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	proxy.Throttle(200_000) // in portions of 16 KiB, between which commands of one key come to lie
	o, namespace := storetest.Options(t, redis.Standalone), storetest.NewNamespace()
	direct := storetest.Open(t, o)
	o.Redis.Addrs = []string{proxy.Addr}
	slow := storetest.Open(t, o)
	keys := storetest.Keys(60)
	for i := range keys {
		keys[i] += strings.Repeat("k", 1000)
	}
	for round := range 3 {
		storetest.Fill(t, direct, namespace, keys)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if _, err := slow.Cache.BatchDelete(t.Context(), namespace, keys); err != nil {
				t.Errorf("BatchDelete: error %v, want none: %s", err, redis.Cause(err))
			}
		}()
		tokens := make(map[string][]string) // given while the entry was there
		for there := true; there; {
			there = false
			for _, key := range keys {
				l := getOrLease(t, direct, namespace, key, cache.LeaseOptions{TTL: 10 * time.Second, Primary: true, MaxAge: time.Nanosecond})
				if l.Entry != nil && l.Token != "" {
					tokens[key] = append(tokens[key], l.Token)
				}
				there = there || l.Entry != nil
			}
		}
		<-ended
		late := 0
		for key, given := range tokens {
			for _, token := range given {
				if fillLease(t, direct, namespace, key, token, cache.Write{Value: []byte("older")}) == cache.Filled {
					late++
				}
			}
		}
		if late > 0 {
			t.Errorf("round %d: %d older values were filled after the batch had returned, want none", round, late)
		}
	}
}
