// Package store keeps Larder's data in Redis. Each feature is a package below it, which this package connects to one Redis:
// [cache.Cache], [session.Sessions], [ratelimit.Limiter] and [token.Tokens], over the [redis.Client] that they share. It knows
// nothing of gRPC.
package store

import (
	"time"

	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/token"
)

// Options configures a [Store].
type Options struct {
	// Redis says how to reach Redis and what to keep in memory.
	Redis redis.Options
	// Cache, Sessions and RateLimits configure the features.
	Cache      cache.Options
	Sessions   session.Options
	RateLimits ratelimit.Options
	// Keyring encrypts attributes of sessions, payloads of tokens, and values of entries where a [cache.Write] asks for it, and
	// keys the digests of codes; nil means that nothing is encrypted.
	Keyring *keyring.Keyring
}

// Store is the one implementation of every operation. It is safe for concurrent use.
type Store struct {
	// Redis is the connection that the features share.
	Redis *redis.Client
	// Cache keeps entries and counters.
	Cache *cache.Cache
	// Sessions keeps sessions.
	Sessions *session.Sessions
	// RateLimits keeps rate limits.
	RateLimits *ratelimit.Limiter
	// Tokens keeps one-time tokens.
	Tokens *token.Tokens

	keyring *keyring.Keyring
}

// New returns a store that is not connected yet: call Connect of its Redis. Its errors are mistakes in the options.
func New(o Options) (*Store, error) {
	client, err := redis.New(o.Redis)
	if err != nil {
		return nil, err
	}
	return &Store{
		Redis: client, keyring: o.Keyring,
		Cache:      cache.New(client, o.Keyring, o.Cache),
		Sessions:   session.New(client, o.Keyring, o.Sessions),
		RateLimits: ratelimit.New(client, o.RateLimits),
		Tokens:     token.New(client, o.Keyring),
	}, nil
}

// Stats are counters of a [Store].
type Stats struct {
	// Near are those of the near cache.
	Near near.Stats
	// InFlight is the number of round trips in flight.
	InFlight int64
	// Warnings are the settings with which Redis may lose or evict what it has acknowledged.
	Warnings []redis.Warning
	// KeyUses is how often each key of the keyring has decrypted something, by id.
	KeyUses map[string]int64
	// Sessions are those of the sessions.
	Sessions session.Stats
	// RateLimits are those of the rate limits.
	RateLimits ratelimit.Stats
}

// Stats returns the current counters.
func (s *Store) Stats() Stats {
	return Stats{
		Near: s.Redis.Near.Stats(), InFlight: s.Redis.InFlight(), Warnings: s.Redis.Warnings(), KeyUses: s.keyring.Uses(), Sessions: s.Sessions.Stats(),
		RateLimits: s.RateLimits.Stats(),
	}
}

// closeTimeout bounds Close: a stalled Redis must not hold up the end of the process.
const closeTimeout = 2 * time.Second

// Close ends the features and every connection, within 2 s. Operations in flight fail.
func (s *Store) Close() {
	s.Redis.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Sessions.Close()
		s.Redis.Close()
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
}
