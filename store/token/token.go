// Package token keeps one-time tokens in Redis: links, codes and recovery codes that are accepted once, and identifiers that may
// be claimed once. Tokens lie in the partition of their subject, so that one script can accept a token and end the sessions of
// its subject.
package token

import (
	"time"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Kind says what the secret of a token looks like.
type Kind string

// The kinds.
const (
	// Link is one string with 256 random bits.
	Link Kind = "link"
	// Code is a short code that a person types, presented together with the id.
	Code Kind = "code"
	// Recovery is a set of codes of 128 random bits and more, which are consumed one by one.
	Recovery Kind = "recovery"
)

// The limits of every token.
const (
	// MaxOpen is the maximum number of open tokens of a subject and purpose, beside recovery codes.
	MaxOpen = 5
	// MaxRecoveryCodes is the maximum number of codes in a set.
	MaxRecoveryCodes = 20
)

// Limits are the budgets of a namespace.
type Limits struct {
	// Failures is how many attempts on a subject and purpose may fail within Window.
	Failures int
	Window   time.Duration
	// Consecutive is how many attempts on a subject and purpose may fail in a row, whatever the time.
	Consecutive int
	// SourceFailures is how many attempts of a source may fail within SourceWindow.
	SourceFailures int
	SourceWindow   time.Duration
	// Cooldown is the time between the first two tokens of a subject and purpose; it doubles with each further one up to
	// MaxCooldown. Zero means none.
	Cooldown, MaxCooldown time.Duration
}

// Tokens keeps tokens in Redis. It is safe for concurrent use.
type Tokens struct {
	redis   *redis.Client
	keyring *keyring.Keyring // nil if codes are hashed without a key and payloads are not encrypted
}

// New returns tokens over a Redis client. The keyring keys the digests of codes and encrypts payloads; without one, whoever
// reads Redis can find the codes that are open by trying all of them.
func New(c *redis.Client, k *keyring.Keyring) *Tokens { return &Tokens{redis: c, keyring: k} }

// Keyed reports whether digests of codes are made with a key.
func (t *Tokens) Keyed() bool { return t.keyring != nil }

// effect returns what a lost answer means: without a request id, a repeated call would be another one.
func effect(request string) redis.Effect {
	if request == "" {
		return redis.WritesOnce
	}
	return redis.Writes
}
