package cache

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // names versions of plain values, as redis.sha1hex does; it protects nothing
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"

	"github.com/berthcare/larder/store/redis"
)

// An entry written by Larder is a Redis string: a header and the value. docs/redis.md shows the layout. A string that
// does not begin with the magic is a plain value, written by another client or by Increment.
const (
	// magic begins with a byte that UTF-8 never holds, so that no text is taken for an entry.
	magic = "\xc1LD"
	// formatVersion is the only one there is; a reader that meets another one answers ErrCorrupt.
	formatVersion = 1

	offVersion  = 3
	offFlags    = 4
	offETag     = 5
	offAsOf     = 13
	offSoft     = 21
	offHard     = 29
	offLoadTime = 37
	headerSize  = 41
)

// The flags of an entry.
const (
	flagNegative = 1 << iota
	flagTags
	flagContentType
	// flagS2 means that the value is compressed, in the block format of S2.
	flagS2
	// flagSealed means that the value, compressed or not, is encrypted.
	flagSealed
	// flagStale means that the entry was touched after it had been invalidated with InvalidateStale. touch.lua sets it.
	flagStale
	// flagsKnown is the set of all flags of this version.
	flagsKnown = 1<<iota - 1
)

// ETag names one version of an entry. It is 64 random bits, so that an entry that is deleted and written again gets another
// etag. The etag of a plain value is the first 64 bits of its SHA-1.
type ETag [8]byte

// String returns 16 hexadecimal digits.
func (e ETag) String() string { return hex.EncodeToString(e[:]) }

// ParseETag parses an etag in the form that [ETag.String] returns.
func ParseETag(s string) (e ETag, ok bool) {
	if len(s) != 2*len(e) {
		return e, false
	}
	_, err := hex.Decode(e[:], []byte(s))
	// Upper-case digits are refused: scripts compare etags as strings.
	return e, err == nil && e.String() == s
}

func newETag() (e ETag) {
	_, _ = rand.Read(e[:]) // crypto/rand.Read never fails: it ends the process instead
	return e
}

// Entry is one entry of the cache. Its slices are shared with the near cache and must not be changed.
type Entry struct {
	// Value is the stored bytes, decompressed and decrypted.
	Value []byte
	// ETag names this version.
	ETag ETag
	// AsOf is a Redis time at which the value was right: when the write arrived, or when the lease was given under which the
	// value was loaded. Zero for plain values.
	AsOf time.Time
	// Soft is the Redis time at which the entry ceases to be fresh; zero means never.
	Soft time.Time
	// Hard is the Redis time at which the entry expires; zero means never.
	Hard time.Time
	// LoadTime is how long the origin took to make the value; 0 means unknown.
	LoadTime time.Duration
	// Negative says that the origin has no value.
	Negative bool
	// Tags are the labels by which the entry can be invalidated.
	Tags []string
	// ContentType is the media type of the value; empty means none.
	ContentType string
	// Encrypted says that the value is stored encrypted.
	Encrypted bool
	// Invalidated says that the entry was touched after it had been invalidated with [InvalidateStale]. It stays stale, although
	// its new expiry may be after the end of what is kept of the invalidation.
	Invalidated bool
}

// micros returns a time as entries store it: microseconds since 1970, 0 for the zero time.
func micros(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMicro()) //nolint:gosec // times of entries are after 1970
}

// fromMicros is the inverse of micros.
func fromMicros(us uint64) time.Time {
	if us == 0 || us > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us)) //nolint:gosec // bounded above
}

// maxDecompressed is the maximum length of a decompressed value: the largest string that Redis holds.
const maxDecompressed = 512 << 20

// valueField names the value of an entry to the keyring, which binds what it encrypts to a Redis key and a field.
const valueField = "value"

// encode returns the bytes to store under a key.
func (c *Cache) encode(redisKey string, e *Entry) []byte {
	value, flags := e.compressed(c.options.CompressAbove)
	if e.Encrypted {
		value, flags = c.keyring.Seal(redisKey, valueField, value), flags|flagSealed
	}
	return e.assemble(value, flags)
}

// compressed returns the value as it is stored, and flagS2 if that is compressed. A value longer than above is compressed if
// that saves at least an eighth of it; an above of 0 means never.
func (e *Entry) compressed(above int) (value []byte, flags byte) {
	if above > 0 && len(e.Value) > above && len(e.Value) <= maxDecompressed {
		if c := s2.Encode(nil, e.Value); len(c) <= len(e.Value)-len(e.Value)/8 {
			return c, flagS2
		}
	}
	return e.Value, 0
}

// assemble puts the header before a value. Tags and ContentType must be within the limits of the API.
func (e *Entry) assemble(value []byte, flags byte) []byte {
	size := headerSize + len(value) + 2 + len(e.ContentType)
	for _, t := range e.Tags {
		size += 1 + len(t)
	}
	b := make([]byte, headerSize, size)
	copy(b, magic)
	b[offVersion] = formatVersion
	b[offFlags] = flags
	copy(b[offETag:], e.ETag[:])
	binary.BigEndian.PutUint64(b[offAsOf:], micros(e.AsOf))
	binary.BigEndian.PutUint64(b[offSoft:], micros(e.Soft))
	binary.BigEndian.PutUint64(b[offHard:], micros(e.Hard))
	binary.BigEndian.PutUint32(b[offLoadTime:], uint32(min(max(e.LoadTime.Microseconds(), 0), math.MaxUint32))) //nolint:gosec // clamped
	if e.Negative {
		b[offFlags] |= flagNegative
	}
	if e.Invalidated {
		b[offFlags] |= flagStale
	}
	if len(e.Tags) > 0 {
		b[offFlags] |= flagTags
		b = append(b, byte(len(e.Tags)))
		for _, t := range e.Tags {
			b = append(append(b, byte(len(t))), t...)
		}
	}
	if e.ContentType != "" {
		b[offFlags] |= flagContentType
		b = append(append(b, byte(len(e.ContentType))), e.ContentType...)
	}
	return append(b, value...)
}

// decode parses the bytes stored under a key: an entry, or a plain value. The entry shares raw's memory.
func (c *Cache) decode(redisKey string, raw []byte) (e Entry, plain bool, err error) {
	if len(raw) < len(magic) || string(raw[:len(magic)]) != magic {
		sum := sha1.Sum(raw) //nolint:gosec // see the import
		return Entry{Value: raw, ETag: ETag(sum[:8])}, true, nil
	}
	e, flags, err := decodeHeader(raw)
	if err == nil && flags&flagSealed != 0 {
		e.Encrypted = true
		if e.Value, err = c.keyring.Open(redisKey, valueField, e.Value); err != nil {
			return Entry{}, false, unreadable(err)
		}
	}
	if err != nil || flags&flagS2 == 0 {
		return e, false, err
	}
	n, err := s2.DecodedLen(e.Value)
	if err != nil || n > maxDecompressed {
		return Entry{}, false, redis.Fail(redis.ErrCorrupt, nil)
	}
	if e.Value, err = s2.Decode(nil, e.Value); err != nil {
		return Entry{}, false, redis.Fail(redis.ErrCorrupt, nil)
	}
	return e, false, nil
}

// decodeHeader parses all but the value, which stays as it is stored and may be cut short.
func decodeHeader(raw []byte) (e Entry, flags byte, err error) {
	if len(raw) < headerSize || raw[offVersion] != formatVersion || raw[offFlags]&^byte(flagsKnown) != 0 {
		return Entry{}, 0, redis.Fail(redis.ErrCorrupt, nil)
	}
	flags = raw[offFlags]
	e.Negative = flags&flagNegative != 0
	e.Invalidated = flags&flagStale != 0
	e.ETag = ETag(raw[offETag:])
	e.AsOf = fromMicros(binary.BigEndian.Uint64(raw[offAsOf:]))
	e.Soft = fromMicros(binary.BigEndian.Uint64(raw[offSoft:]))
	e.Hard = fromMicros(binary.BigEndian.Uint64(raw[offHard:]))
	e.LoadTime = time.Duration(binary.BigEndian.Uint32(raw[offLoadTime:])) * time.Microsecond
	rest := raw[headerSize:]
	ok := true
	short := func() (s string) {
		if ok = ok && len(rest) > 0 && len(rest) > int(rest[0]); ok {
			end := 1 + int(rest[0])
			s, rest = string(rest[1:end]), rest[end:]
		}
		return s
	}
	if flags&flagTags != 0 {
		if len(rest) == 0 || rest[0] == 0 {
			return Entry{}, 0, redis.Fail(redis.ErrCorrupt, nil)
		}
		n := int(rest[0])
		rest = rest[1:]
		for range n {
			e.Tags = append(e.Tags, short())
		}
	}
	if flags&flagContentType != 0 {
		e.ContentType = short()
	}
	// Neither Larder nor a caller of it writes text that is not UTF-8, with which no answer could be encoded.
	ok = ok && utf8.ValidString(e.ContentType) && !slices.ContainsFunc(e.Tags, func(tag string) bool { return !utf8.ValidString(tag) })
	if !ok {
		return Entry{}, 0, redis.Fail(redis.ErrCorrupt, nil)
	}
	e.Value = rest
	return e, flags, nil
}

// bigEndian returns a time as scripts store and compare it: 8 bytes, because numbers of one width compare as strings.
func bigEndian(t time.Time) string {
	return string(binary.BigEndian.AppendUint64(nil, micros(t)))
}
