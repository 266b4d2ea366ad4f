package cache

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Write is an entry to store.
type Write struct {
	// Value is the bytes to store.
	Value []byte
	// Fresh is how long the entry is fresh; 0 means that it never expires.
	Fresh time.Duration
	// Stale is how long the entry is kept as stale after Fresh; 0 if Fresh is 0.
	Stale time.Duration
	// Negative says that the origin has no value.
	Negative bool
	// Tags are the labels by which the entry can be invalidated.
	Tags []string
	// ContentType is the media type of the value; empty means none.
	ContentType string
	// Encrypt says that the value is stored encrypted, which needs a keyring.
	Encrypt bool
	// Fence is the lock under which Set and Fill write; nil means none. Batches ignore it.
	Fence *Fence
}

// entry returns the entry as of a time, fresh from now on, and its time to live in Redis; 0 means that it never expires.
func (w *Write) entry(asOf, now time.Time) (e *Entry, ttl time.Duration) {
	e = &Entry{
		Value: w.Value, ETag: newETag(), AsOf: asOf, Negative: w.Negative, Tags: w.Tags, ContentType: w.ContentType,
		Encrypted: w.Encrypt,
	}
	if w.Fresh > 0 {
		e.Soft = now.Add(w.Fresh)
		e.Hard = e.Soft.Add(w.Stale)
	}
	return e, w.Fresh + w.Stale
}

// Condition says when a [Cache.Set] writes. The zero value means always.
type Condition struct {
	// Kind is what must hold.
	Kind ConditionKind
	// ETag is the etag that IfMatch and IfNoneMatch compare with.
	ETag ETag
}

// ConditionKind is what must hold for a [Cache.Set] to write.
type ConditionKind string

// The conditions.
const (
	// Always writes unconditionally.
	Always ConditionKind = ""
	// IfAbsent writes if the key holds nothing.
	IfAbsent ConditionKind = "absent"
	// IfPresent writes if the key holds an entry.
	IfPresent ConditionKind = "present"
	// IfMatch writes if the key holds the entry with the etag.
	IfMatch ConditionKind = "match"
	// IfNoneMatch writes unless the key holds the entry with the etag.
	IfNoneMatch ConditionKind = "none_match"
)

// Set writes an entry if the condition holds. It returns the etag of what the key holds afterwards; empty means nothing. It fails
// with [ErrFenced] if a later holder of the lock of its fence has written.
func (c *Cache) Set(ctx context.Context, namespace, key string, w Write, cond Condition) (stored bool, etag string, err error) {
	if err := c.checkKeyring(&w); err != nil {
		return false, "", err
	}
	if len(w.Tags) > 0 {
		if err := c.raiseTagMemory(ctx); err != nil {
			return false, "", err
		}
	}
	redisKey, leaseKey := c.entryKey(namespace, key), c.leaseKey(namespace, key)
	now := c.redis.Now()
	e, ttl := w.entry(c.redis.AsOf(ctx), now)
	defer c.redis.Forget(redisKey)
	if cond.Kind == Always && w.Fence == nil {
		if revokesLease(ttl) {
			_, err = c.redis.Run(ctx, overwriteScript, redis.Writes, []string{redisKey, leaseKey},
				rueidis.BinaryString(c.encode(redisKey, e)), redis.Millis(ttl))
		} else {
			_, err = redis.RoundTripTo(ctx, c.redis, redisKey, "set", redis.Writes, func(ctx context.Context, conns *redis.Conns) (rueidis.RedisMessage, error) {
				return conns.Primary.Do(ctx, c.setCommand(conns.Primary.B(), redisKey, e, ttl)).ToMessage()
			})
		}
		return err == nil, e.ETag.String(), err
	}
	kind, eff := cmp.Or(string(cond.Kind), "always"), redis.Writes
	if cond.Kind != Always {
		eff = redis.WritesOnce // a repeated call would find the entry of the first one and report that the condition did not hold
	}
	a, err := c.runFenced(ctx, setScript, eff, namespace, key, w.Fence,
		rueidis.BinaryString(c.encode(redisKey, e)), redis.Millis(ttl), kind, cond.ETag.String())
	switch {
	case err != nil:
		return false, "", err
	case a.gone && cond.Kind != IfNoneMatch && cond.Kind != Always:
		// What the condition required was gone, and must not have been replaced.
		_, etag, err := c.Delete(ctx, namespace, key, &e.ETag)
		return false, etag, err
	case a.outcome == 1:
		return true, e.ETag.String(), nil
	}
	return false, a.text, nil
}

// checkKeyring returns an error if a write asks for encryption and there is no keyring.
func (c *Cache) checkKeyring(w *Write) error {
	if w.Encrypt && c.keyring == nil {
		return redis.Fail(keyring.ErrKeyUnknown, errors.New("there is no keyring"))
	}
	return nil
}

// revokesLease reports whether an unconditional write must revoke the key's lease. A Fill is refused as long as the written
// entry is there, and no lease lasts longer than MaxLease; but an entry that expires before the lease no longer blocks it.
func revokesLease(ttl time.Duration) bool { return ttl > 0 && ttl <= MaxLease }

func (c *Cache) setCommand(b rueidis.Builder, redisKey string, e *Entry, ttl time.Duration) rueidis.Completed {
	set := b.Set().Key(redisKey).Value(rueidis.BinaryString(c.encode(redisKey, e)))
	if ttl > 0 {
		return set.PxMilliseconds(redis.RoundUp(ttl).Milliseconds()).Build()
	}
	return set.Build()
}
