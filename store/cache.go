package store

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// Found is what a read found. Entry is nil when there is nothing.
type Found struct {
	*Entry
	// Near says that the near cache answered.
	Near bool
}

// Get reads an entry, from the near cache if near is set and it is there, else from the primary. Entries past their hard
// expiry are not found.
func (s *Store) Get(ctx context.Context, namespace, key string, near bool) (Found, error) {
	redisKey := s.cacheKey(namespace, key)
	if !near {
		e, err := s.fetch(ctx, redisKey, func(c *clients) rueidis.Client { return c.primary })
		return s.found(e, false), err
	}
	v, hit, err := s.near.load(ctx, redisKey, func() (any, int, time.Duration, error) {
		e, err := s.fetch(ctx, redisKey, func(c *clients) rueidis.Client { return c.tracked })
		size, ttl := s.keep(e)
		return e, size, ttl, err
	})
	if err != nil {
		return Found{}, err
	}
	return s.found(v.(*Entry), hit), nil
}

// found leaves out what has expired by now: the near cache and Redis remove it in their own time.
func (s *Store) found(e *Entry, near bool) Found {
	if e == nil || !e.Hard.IsZero() && !s.Now().Before(e.Hard) {
		return Found{Near: near}
	}
	return Found{Entry: e, Near: near}
}

// entrySize and stringSize are about what an Entry and a string take beside their bytes.
const entrySize, stringSize = 160, 24

// keep returns the size of an entry and for how long the near cache may keep it. That there is none is kept, too.
func (s *Store) keep(e *Entry) (size int, ttl time.Duration) {
	ttl = s.options.NearCacheTTL
	if e == nil {
		return 0, ttl
	}
	if !e.Hard.IsZero() {
		ttl = min(ttl, e.Hard.Sub(s.Now()))
	}
	// The value shares the memory of what was read; the labels are there and in strings of their own.
	size = entrySize + headerSize + cap(e.Value) + 2*len(e.ContentType)
	for _, tag := range e.Tags {
		size += 2*len(tag) + stringSize
	}
	return size, ttl
}

// fetch reads one entry over the chosen connection; nil means that there is none.
func (s *Store) fetch(ctx context.Context, redisKey string, choose func(*clients) rueidis.Client) (e *Entry, err error) {
	m, err := trip(ctx, s, "get", reads, func(ctx context.Context, c *clients) (rueidis.RedisMessage, error) {
		client := choose(c)
		return client.Do(ctx, client.B().Get().Key(redisKey).Build()).ToMessage()
	})
	if err != nil || m.IsNil() {
		return nil, err
	}
	raw, err := m.AsBytes()
	if err != nil {
		return nil, errInternal
	}
	e, plain, err := parseEntry(raw)
	if err != nil || !plain {
		return e, err
	}
	// An entry of Larder's knows when it expires. Of a plain value only Redis does.
	left, err := trip(ctx, s, "pttl", reads, func(ctx context.Context, c *clients) (int64, error) {
		client := choose(c)
		return client.Do(ctx, client.B().Pttl().Key(redisKey).Build()).AsInt64()
	})
	if err != nil {
		return nil, err
	}
	return s.expiring(e, left), nil
}

// expiring returns a plain value with the expiry that PTTL told; nil if it has gone.
func (s *Store) expiring(e *Entry, pttl int64) *Entry {
	switch {
	case pttl == -2:
		return nil
	case pttl >= 0:
		e.Hard = s.Now().Add(time.Duration(pttl) * time.Millisecond)
		e.Soft = e.Hard
	}
	return e
}

func parseEntry(raw []byte) (e *Entry, plain bool, err error) {
	entry, plain, err := decodeEntry(raw)
	if err != nil {
		return nil, false, err
	}
	return &entry, plain, nil
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
}

// entry returns the entry as of now, and its time to live in Redis; zero means for ever.
func (w *Write) entry(now time.Time) (e *Entry, ttl time.Duration) {
	e = &Entry{
		Value: w.Value, ETag: newETag(), AsOf: now, Negative: w.Negative, Tags: w.Tags, ContentType: w.ContentType,
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
	redisKey := s.cacheKey(namespace, key)
	e, ttl := w.entry(s.Now())
	defer s.near.forget(redisKey)
	if cond.Kind == Always {
		_, err = s.ask(ctx, "set", writes, func(b rueidis.Builder) rueidis.Completed {
			return setCommand(b, redisKey, e, ttl)
		})
		return err == nil, e.ETag.String(), err
	}
	// A second try would meet the entry of the first and say that the condition did not hold.
	m, err := s.script(ctx, cacheSet, once, []string{redisKey},
		rueidis.BinaryString(e.encode()), millis(ttl), string(cond.Kind), cond.ETag.String())
	if err != nil {
		return false, "", err
	}
	stored, found, err := outcomeAndETag(m)
	if stored {
		return true, e.ETag.String(), err
	}
	return false, found, err
}

func setCommand(b rueidis.Builder, redisKey string, e *Entry, ttl time.Duration) rueidis.Completed {
	set := b.Set().Key(redisKey).Value(rueidis.BinaryString(e.encode()))
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

// outcomeAndETag reads the answer of a script that returns {1 or 0, etag}.
func outcomeAndETag(m rueidis.RedisMessage) (done bool, etag string, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return false, "", errInternal
	}
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

// Delete removes an entry, whatever it is where match is nil, else if it has that etag. It returns whether one was
// removed, and the etag of the one that was left, empty for none.
func (s *Store) Delete(ctx context.Context, namespace, key string, match *ETag) (deleted bool, etag string, err error) {
	redisKey := s.cacheKey(namespace, key)
	defer s.near.forget(redisKey)
	if match == nil {
		m, err := s.ask(ctx, "unlink", writes, func(b rueidis.Builder) rueidis.Completed {
			return b.Unlink().Key(redisKey).Build()
		})
		if err != nil {
			return false, "", err
		}
		n, err := m.AsInt64()
		return n > 0, "", err
	}
	m, err := s.script(ctx, cacheDelete, writes, []string{redisKey}, match.String())
	if err != nil {
		return false, "", err
	}
	if deleted, etag, err = outcomeAndETag(m); deleted {
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
// returns whether there is an entry and whether its expiry was changed.
func (s *Store) Touch(ctx context.Context, namespace, key string, fresh time.Duration, mode TouchMode) (found, changed bool, err error) {
	redisKey := s.cacheKey(namespace, key)
	defer s.near.forget(redisKey)
	// Rounded up: to the script, zero means for ever.
	us := int64((fresh + time.Microsecond - 1) / time.Microsecond)
	m, err := s.script(ctx, cacheTouch, writes, []string{redisKey}, strconv.FormatInt(us, 10), string(mode))
	if err != nil {
		return false, false, err
	}
	n, err := m.AsInt64()
	return n >= 0, n == 1, err
}
