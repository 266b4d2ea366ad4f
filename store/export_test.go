package store

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// RedisKey is where an entry lives.
func (s *Store) RedisKey(namespace, key string) string { return s.cacheKey(namespace, key) }

// LeaseKey is where the lease of an entry lives.
func (s *Store) LeaseKey(namespace, key string) string { return s.leaseKey(namespace, key) }

// TagKey is the mark of a tag.
func TagKey(namespace, tag string) string { return tagKey(namespace, tag) }

// ClearKey is the mark of a namespace.
func ClearKey(namespace string) string { return clearKey(namespace) }

// Command sends any command about one key, as another client of the same Redis would, in every topology. The answer of
// nothing is nil.
func (s *Store) Command(tb testing.TB, name, redisKey string, args ...string) any {
	tb.Helper()
	c := s.clients.Load().primary
	v, err := c.Do(context.Background(), c.B().Arbitrary(name).Keys(redisKey).Args(args...).Build()).ToAny()
	if err != nil && !rueidis.IsRedisNil(err) {
		tb.Fatalf("%s %q: %v", name, redisKey, err)
	}
	return v
}

// Skew makes the store's estimate of the clock of Redis wrong, as when the clock of its machine has been set.
func (s *Store) Skew(by time.Duration) { s.clock.offset.Add(int64(by)) }

// WatchCheck is how often the connections of watches are looked after.
const WatchCheck = watchCheck

// Waits reports whether a GetOrLease waits for somebody else's load of an entry.
func (s *Store) Waits(namespace, key string) bool {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	return len(s.waiting.keys[s.cacheKey(namespace, key)]) > 0
}

// ValidateSession returns the session of a token of which nothing is required; nil means that it is not active.
func (s *Store) ValidateSession(ctx context.Context, namespace, token string, near bool, touch TouchSession) (*Session, error) {
	v, err := s.Validate(ctx, namespace, Validation{Token: token, Near: near, Touch: touch})
	return v.Session, err
}

// Sweep clears up after sessions, as the sweeper does in its turn.
func (s *Store) Sweep(ctx context.Context) error { return s.sweepAll(ctx) }

// KeepEvents bounds the events of each partition.
func (s *Store) KeepEvents(most int64) { s.sweeper.maxEvents = most }
