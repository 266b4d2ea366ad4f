// Package cache keeps entries, counters and leases in Redis, and invalidates entries by tag and namespace.
package cache

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Options configures a [Cache].
type Options struct {
	// CompressAbove is the length in bytes above which values are compressed in Redis; 0 means never.
	CompressAbove int
	// PlainNamespace is a namespace whose keys are Redis keys as they are, so that Larder serves data written by other
	// clients; empty means none. Keys that begin with "ld:" are Larder's own and not part of it.
	PlainNamespace string
}

// Cache keeps entries and counters in Redis. It is safe for concurrent use.
type Cache struct {
	redis   *redis.Client
	keyring *keyring.Keyring // nil if values cannot be encrypted
	options Options
	recent  recentInvalidations
	leasing leasing
	watches watches
}

// New returns a cache over a Redis client. The keyring encrypts the values of which a [Write] asks for it; nil means that
// none can be.
func New(c *redis.Client, k *keyring.Keyring, o Options) *Cache {
	cache := &Cache{redis: c, keyring: k, options: o}
	cache.recent.reach = cache.reach
	return cache
}

// Write is what a Set stores.
type Write struct {
	// Value is the bytes to store.
	Value []byte
	// Fresh is how long the entry is fresh; zero means for ever.
	Fresh time.Duration
	// Stale is how much longer it is kept; zero when Fresh is.
	Stale time.Duration
	// Negative marks an entry that says "the origin has no such value".
	Negative bool
	// Tags are the labels by which the entry can be invalidated.
	Tags []string
	// ContentType is the media type of the value; empty means none.
	ContentType string
	// Encrypt says that the value is to be encrypted, for which the store must have a keyring.
	Encrypt bool
}

// entry returns the entry as of a time, fresh from now on, and its time to live in Redis; zero means for ever.
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

// Condition says when a Set writes. The zero value means always.
type Condition struct {
	// Kind is what must hold.
	Kind ConditionKind
	// ETag is what IfMatch and IfNoneMatch compare with.
	ETag ETag
}

// ConditionKind is what must hold for a Set to write.
type ConditionKind string

// The conditions.
const (
	// Always writes whatever is there.
	Always ConditionKind = ""
	// IfAbsent writes where there is nothing.
	IfAbsent ConditionKind = "absent"
	// IfPresent writes over an entry.
	IfPresent ConditionKind = "present"
	// IfMatch writes over the entry with the etag.
	IfMatch ConditionKind = "match"
	// IfNoneMatch writes unless there is the entry with the etag.
	IfNoneMatch ConditionKind = "none_match"
)

// Set writes an entry if the condition holds. It returns the etag that is there afterwards, empty for none.
func (c *Cache) Set(ctx context.Context, namespace, key string, w Write, cond Condition) (stored bool, etag string, err error) {
	if err := c.sealable(&w); err != nil {
		return false, "", err
	}
	redisKey, leaseKey := c.entryKey(namespace, key), c.leaseKey(namespace, key)
	now := c.redis.Now()
	e, ttl := w.entry(c.recent.after(c.redis.Earliest(), namespace, w.Tags), now)
	defer c.redis.Forget(redisKey)
	if cond.Kind == Always {
		_, err = redis.RoundTrip(ctx, c.redis, "set", redis.Writes, func(ctx context.Context, conns *redis.Conns) (rueidis.RedisMessage, error) {
			set := c.setCommand(conns.Primary.B(), redisKey, e, ttl)
			if !revokes(ttl) {
				return conns.Primary.Do(ctx, set).ToMessage()
			}
			results := conns.Primary.DoMulti(ctx, conns.Primary.B().Unlink().Key(leaseKey).Build(), set)
			if err := results[0].Error(); err != nil {
				return rueidis.RedisMessage{}, err
			}
			return results[1].ToMessage()
		})
		return err == nil, e.ETag.String(), err
	}
	// A second try would meet the entry of the first and say that the condition did not hold.
	parts, err := c.judged(ctx, setScript, redis.WritesOnce, namespace, []string{redisKey, leaseKey},
		rueidis.BinaryString(c.encode(redisKey, e)), redis.Millis(ttl), string(cond.Kind), cond.ETag.String())
	if err != nil {
		return false, "", err
	}
	stored, found, err := outcomeAndETag(parts)
	if stored {
		return true, e.ETag.String(), err
	}
	return false, found, err
}

// sealable fails where a value must not be stored as it is and cannot be encrypted.
func (c *Cache) sealable(w *Write) error {
	if w.Encrypt && c.keyring == nil {
		return redis.Fail(keyring.ErrKeyUnknown, errors.New("there is no keyring"))
	}
	return nil
}

// revokes says whether an unconditional write must revoke the key's lease. A longer-lived entry stands in the way of a
// late Fill by itself, as no lease lasts longer; one that is gone before the lease would not.
func revokes(ttl time.Duration) bool { return ttl > 0 && ttl <= MaxLease }

func (c *Cache) setCommand(b rueidis.Builder, redisKey string, e *Entry, ttl time.Duration) rueidis.Completed {
	set := b.Set().Key(redisKey).Value(rueidis.BinaryString(c.encode(redisKey, e)))
	if ttl > 0 {
		return set.PxMilliseconds(redis.RoundUp(ttl).Milliseconds()).Build()
	}
	return set.Build()
}

// judged runs a script that needs to know whether the entry it meets has been invalidated. Marks are in other slots, so
// the script says what it has met, and is run again when that entry's tags have been looked up.
func (c *Cache) judged(ctx context.Context, sc *redis.Script, eff redis.Effect, namespace string, keys []string, args ...string) ([]rueidis.RedisMessage, error) {
	cleared, err := c.clearing(ctx, namespace)
	if err != nil {
		return nil, err
	}
	floor := bigEndian(fromMicros(uint64(c.reach(cleared.deleted)))) //nolint:gosec // times of marks are after 1970
	known, gone := "", "0"
	for range 3 {
		m, err := c.redis.Run(ctx, sc, eff, keys, append([]string{floor, known, gone}, args...)...)
		if err != nil {
			return nil, err
		}
		parts, err := m.ToArray()
		if err != nil || len(parts) < 2 {
			return nil, redis.ErrInternal
		}
		if n, err := parts[0].AsInt64(); err != nil || n != -2 {
			return parts, err
		}
		raw, err := parts[1].AsBytes()
		if err != nil {
			return nil, redis.ErrInternal
		}
		met, _, err := decodeHeader(raw)
		if err != nil {
			// What cannot be read is there all the same, to be replaced or removed.
			met = Entry{ETag: ETag(raw[offETag:])}
		}
		state, err := c.judge(ctx, namespace, &met, nil, false)
		if err != nil {
			return nil, err
		}
		if known, gone = met.ETag.String(), "0"; state == entryGone {
			gone = "1"
		}
	}
	// Somebody writes other tagged entries in between, over and over. Nothing was written here.
	return nil, redis.Fail(redis.ErrUnavailable, errors.New("the entry kept changing"))
}

// outcomeAndETag reads the answer of a script that returns {outcome, etag}.
func outcomeAndETag(parts []rueidis.RedisMessage) (done bool, etag string, err error) {
	n, err := parts[0].AsInt64()
	if err != nil {
		return false, "", redis.ErrInternal
	}
	etag, err = parts[1].ToString()
	if err != nil {
		return false, "", redis.ErrInternal
	}
	return n == 1, etag, nil
}

// Delete removes an entry, whatever it is where match is nil, else if it has that etag, and revokes its lease. It returns
// whether one was removed, and the etag of the one that was left, empty for none.
func (c *Cache) Delete(ctx context.Context, namespace, key string, match *ETag) (deleted bool, etag string, err error) {
	redisKey := c.entryKey(namespace, key)
	defer c.redis.Forget(redisKey)
	must, eff := "", redis.Writes
	if match != nil {
		// A second try would find nothing and say that the condition did not hold.
		must, eff = match.String(), redis.WritesOnce
	}
	parts, err := c.judged(ctx, deleteScript, eff, namespace, []string{redisKey, c.leaseKey(namespace, key)}, must)
	if err != nil {
		return false, "", err
	}
	if deleted, etag, err = outcomeAndETag(parts); deleted {
		etag = ""
	}
	return deleted, etag, err
}

// TouchMode says which changes of expiry are wanted.
type TouchMode string

// The modes of Touch.
const (
	// TouchOverwrite sets the new expiry.
	TouchOverwrite TouchMode = "overwrite"
	// TouchExtend sets it if it is later.
	TouchExtend TouchMode = "extend"
	// TouchShorten sets it if it is earlier.
	TouchShorten TouchMode = "shorten"
)

// Touch makes an entry fresh for so long from now, zero meaning for ever, and keeps for how long it may be stale. It
// returns whether there is an entry and whether its expiry was changed. It fails with ErrTagged where an entry with tags
// would never expire.
func (c *Cache) Touch(ctx context.Context, namespace, key string, fresh time.Duration, mode TouchMode) (found, changed bool, err error) {
	redisKey := c.entryKey(namespace, key)
	defer c.redis.Forget(redisKey)
	// Rounded up: to the script, zero means for ever.
	us := int64((fresh + time.Microsecond - 1) / time.Microsecond)
	parts, err := c.judged(ctx, touchScript, redis.Writes, namespace, []string{redisKey, c.leaseKey(namespace, key)},
		strconv.FormatInt(us, 10), string(mode))
	if err != nil {
		return false, false, err
	}
	n, err := parts[0].AsInt64()
	return n >= 0, n == 1, err
}
