package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/keyring"
)

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
func (s *Store) Set(ctx context.Context, namespace, key string, w Write, cond Condition) (stored bool, etag string, err error) {
	if err := s.sealable(&w); err != nil {
		return false, "", err
	}
	redisKey, leaseKey := s.cacheKey(namespace, key), s.leaseKey(namespace, key)
	now := s.Now()
	e, ttl := w.entry(s.recent.after(s.clock.earliest(), namespace, w.Tags), now)
	defer s.forget(redisKey)
	if cond.Kind == Always {
		_, err = trip(ctx, s, "set", writes, func(ctx context.Context, c *clients) (rueidis.RedisMessage, error) {
			set := s.setCommand(c.primary.B(), redisKey, e, ttl)
			if !revokes(ttl) {
				return c.primary.Do(ctx, set).ToMessage()
			}
			results := c.primary.DoMulti(ctx, c.primary.B().Unlink().Key(leaseKey).Build(), set)
			if err := results[0].Error(); err != nil {
				return rueidis.RedisMessage{}, err
			}
			return results[1].ToMessage()
		})
		return err == nil, e.ETag.String(), err
	}
	// A second try would meet the entry of the first and say that the condition did not hold.
	parts, err := s.judged(ctx, cacheSet, once, namespace, []string{redisKey, leaseKey},
		rueidis.BinaryString(s.encode(redisKey, e)), millis(ttl), string(cond.Kind), cond.ETag.String())
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
func (s *Store) sealable(w *Write) error {
	if w.Encrypt && s.options.Keyring == nil {
		return &opError{kind: keyring.ErrKeyUnknown, cause: errors.New("there is no keyring")}
	}
	return nil
}

// revokes says whether an unconditional write must revoke the key's lease. A longer-lived entry stands in the way of a
// late Fill by itself, as no lease lasts longer; one that is gone before the lease would not.
func revokes(ttl time.Duration) bool { return ttl > 0 && ttl <= MaxLease }

func (s *Store) setCommand(b rueidis.Builder, redisKey string, e *Entry, ttl time.Duration) rueidis.Completed {
	set := b.Set().Key(redisKey).Value(rueidis.BinaryString(s.encode(redisKey, e)))
	if ttl > 0 {
		return set.PxMilliseconds(ceilMillis(ttl)).Build()
	}
	return set.Build()
}

// ceilMillis rounds up: nothing may end before its time, and a time to live of zero is an error to Redis.
func ceilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func millis(d time.Duration) string { return strconv.FormatInt(ceilMillis(d), 10) }

// judged runs a script that needs to know whether the entry it meets has been invalidated. Marks are in other slots, so
// the script says what it has met, and is run again when that entry's tags have been looked up.
func (s *Store) judged(ctx context.Context, sc *script, eff effect, namespace string, keys []string, args ...string) ([]rueidis.RedisMessage, error) {
	cleared, err := s.clearMark(ctx, namespace)
	if err != nil {
		return nil, err
	}
	floor := bigEndian(fromMicros(uint64(s.reach(cleared.deleted)))) //nolint:gosec // times of marks are after 1970
	known, gone := "", "0"
	for range 3 {
		m, err := s.script(ctx, sc, eff, keys, append([]string{floor, known, gone}, args...)...)
		if err != nil {
			return nil, err
		}
		parts, err := m.ToArray()
		if err != nil || len(parts) < 2 {
			return nil, errInternal
		}
		if n, err := parts[0].AsInt64(); err != nil || n != -2 {
			return parts, err
		}
		raw, err := parts[1].AsBytes()
		if err != nil {
			return nil, errInternal
		}
		met, _, err := decodeHeader(raw)
		if err != nil {
			// What cannot be read is there all the same, to be replaced or removed.
			met = Entry{ETag: ETag(raw[offETag:])}
		}
		verdict, err := s.judge(ctx, namespace, &met, nil, false)
		if err != nil {
			return nil, err
		}
		if known, gone = met.ETag.String(), "0"; verdict == entryGone {
			gone = "1"
		}
	}
	// Somebody writes other tagged entries in between, over and over. Nothing was written here.
	return nil, &opError{kind: ErrUnavailable, cause: errors.New("the entry kept changing")}
}

// outcomeAndETag reads the answer of a script that returns {outcome, etag}.
func outcomeAndETag(parts []rueidis.RedisMessage) (done bool, etag string, err error) {
	n, err := parts[0].AsInt64()
	if err != nil {
		return false, "", errInternal
	}
	etag, err = parts[1].ToString()
	if err != nil {
		return false, "", errInternal
	}
	return n == 1, etag, nil
}

// Delete removes an entry, whatever it is where match is nil, else if it has that etag, and revokes its lease. It returns
// whether one was removed, and the etag of the one that was left, empty for none.
func (s *Store) Delete(ctx context.Context, namespace, key string, match *ETag) (deleted bool, etag string, err error) {
	redisKey := s.cacheKey(namespace, key)
	defer s.forget(redisKey)
	must, eff := "", writes
	if match != nil {
		// A second try would find nothing and say that the condition did not hold.
		must, eff = match.String(), once
	}
	parts, err := s.judged(ctx, cacheDelete, eff, namespace, []string{redisKey, s.leaseKey(namespace, key)}, must)
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
func (s *Store) Touch(ctx context.Context, namespace, key string, fresh time.Duration, mode TouchMode) (found, changed bool, err error) {
	redisKey := s.cacheKey(namespace, key)
	defer s.forget(redisKey)
	// Rounded up: to the script, zero means for ever.
	us := int64((fresh + time.Microsecond - 1) / time.Microsecond)
	parts, err := s.judged(ctx, cacheTouch, writes, namespace, []string{redisKey, s.leaseKey(namespace, key)},
		strconv.FormatInt(us, 10), string(mode))
	if err != nil {
		return false, false, err
	}
	n, err := parts[0].AsInt64()
	return n >= 0, n == 1, err
}
