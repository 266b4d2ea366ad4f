package cache

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// onEntry is the answer of a script that had to know the validity of the entry it found.
type onEntry struct {
	// outcome is above 0 if the script has done what it was asked for.
	outcome int64
	// text is the second element of the answer, an etag or a value, and rest what follows the as-of time.
	text string
	rest []rueidis.RedisMessage
	// gone says that the script has done it to an entry that it wrongly took for valid.
	gone bool
}

// validityUnknown is the outcome of a script that has found an entry whose validity it does not know.
const validityUnknown = -2

// runOnEntry runs a script that must know the validity of the entry it finds. Invalidations may be in other slots, which the
// script cannot read.
//
// The script takes the namespace's invalidation from its arguments. A run with that of the near cache reads the one in Redis in
// the same round trip: if that reaches the found entry and the one of the near cache does not, the script is run again, unless
// it has already done what it was asked for, of which onEntry.gone tells the caller.
//
// Of an entry with tags the script answers that the validity is unknown and does nothing. It is run again once the
// invalidations of these tags have been read.
func (c *Cache) runOnEntry(ctx context.Context, sc *redis.Script, eff redis.Effect, namespace string, keys []string, args ...string) (onEntry, error) {
	cleared, unread, err := c.nearInvalidation(ctx, namespace, nil)
	if err != nil {
		return onEntry{}, err
	}
	if sc == incrementScript {
		unread = nil // counters have no as-of time; Increment looks again if the script finds an entry
	}
	checkedETag, checkedValidity := "", valid.String()
	for range 4 {
		goneUntil := bigEndian(fromMicros(uint64(cleared.deleted))) //nolint:gosec // invalidations are after 1970
		m, found, err := c.runBeside(ctx, sc, eff, keys, append([]string{goneUntil, checkedETag, checkedValidity}, args...), unread)
		wrong := false // whether the near cache did not know an invalidation that may matter
		if len(found) > 0 {
			wrong = found[0].deleted > cleared.deleted
			cleared, unread = found[0], nil
		}
		if err != nil {
			if wrong && redis.Refused(err) { // because of the entry, perhaps
				continue
			}
			return onEntry{}, err
		}
		a, asOf, err := parseOnEntry(m)
		if err != nil {
			return a, err
		}
		if a.outcome == validityUnknown {
			if checkedETag, checkedValidity, err = c.checkTags(ctx, sc, namespace, a.text, &cleared); err != nil {
				return a, err
			}
			continue
		}
		if wrong && asOf > 0 && asOf <= cleared.deleted {
			if a.outcome <= 0 {
				continue
			}
			a.gone = true
		}
		return a, nil
	}
	// Other writers replaced the entry by another one with tags each time. This call wrote nothing.
	return onEntry{}, redis.Fail(redis.ErrUnavailable, errors.New("the entry kept changing"))
}

// checkTags returns the arguments of a script about an entry with tags whose header it has returned.
func (c *Cache) checkTags(ctx context.Context, sc *redis.Script, namespace, header string, cleared *invalidation) (etag, validity string, err error) {
	raw := []byte(header)
	if len(raw) < headerSize {
		return "", "", redis.ErrInternal
	}
	found, _, err := decodeHeader(raw)
	if err != nil {
		// An entry that cannot be read counts as valid, so that it can be replaced or removed.
		found = Entry{ETag: ETag(raw[offETag:])}
	}
	if sc == touchScript {
		if err := c.raiseTagMemory(ctx); err != nil {
			return "", "", err
		}
	}
	v, err := c.validityOf(ctx, namespace, &found, cleared, false)
	return found.ETag.String(), v.String(), err
}

// parseOnEntry reads {outcome, text, as-of time of 8 bytes or none, the rest}.
func parseOnEntry(m rueidis.RedisMessage) (a onEntry, asOf int64, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) < 3 {
		return a, 0, redis.ErrInternal
	}
	outcome, err1 := parts[0].AsInt64()
	text, err2 := parts[1].ToString()
	at, err3 := parts[2].ToString()
	if err1 != nil || err2 != nil || err3 != nil {
		return a, 0, redis.ErrInternal
	}
	if len(at) == 8 {
		asOf = int64(binary.BigEndian.Uint64([]byte(at))) //nolint:gosec // a time after 1970
	}
	return onEntry{outcome: outcome, text: text, rest: parts[3:]}, asOf, nil
}
