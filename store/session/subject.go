package session

import (
	"context"
	"strings"
	"time"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// epochMemory is how much longer than the longest session a subject's epoch is kept.
const epochMemory = time.Hour

// subjectEpochs are the epochs of a subject. A session is revoked if its epoch is below the subject's, all, or below that of
// its device class.
type subjectEpochs struct {
	all     int64
	classes map[string]int64
	// since names the subject's key, which sessions remember that were created under it; zero if there is no such key.
	since int64
}

// noEpoch is the epoch of a subject whose key Redis has evicted. It mirrors NO_EPOCH in common.lua.
const noEpoch = 1 << 53

func parseSubjectEpochs(fields map[string]string) (e subjectEpochs, err error) {
	n := numbers{ok: true}
	for name, value := range fields {
		class, ok := strings.CutPrefix(name, "ep.")
		switch {
		case name == "ep":
			e.all = n.int64(value)
		case name == "since":
			e.since = n.int64(value)
		case ok:
			if e.classes == nil {
				e.classes = map[string]int64{}
			}
			e.classes[class] = n.int64(value)
		}
	}
	if !n.ok {
		return e, redis.Fail(redis.ErrCorrupt, nil)
	}
	return e, nil
}

// of returns the epoch that counts for a device class; empty means none.
func (e *subjectEpochs) of(class string) int64 { return max(e.all, e.classes[class]) }

// endedBelow returns the epoch below which a session is revoked.
func (e *subjectEpochs) endedBelow(r *record) int64 {
	epoch := e.of(r.session.Device.Class)
	if r.since != 0 && (e.since == 0 && e.all == 0 || e.since != 0 && e.since != r.since) {
		return noEpoch // as in epoch_for of common.lua
	}
	return epoch
}

// highest returns an epoch that any later revocation exceeds, whether of all sessions or of one class.
func (e *subjectEpochs) highest() int64 {
	highest := e.all
	for _, epoch := range e.classes {
		highest = max(highest, epoch)
	}
	return highest
}

func (e *subjectEpochs) size() (size int) {
	for class := range e.classes {
		size += len(class) + 48
	}
	return size + 24
}

// readSubjectEpochs reads the epochs of a subject; they are zero if its sessions were never revoked together.
func (s *Sessions) readSubjectEpochs(ctx context.Context, key string, tracked bool) (e subjectEpochs, err error) {
	fields, err := redis.RoundTripTo(ctx, s.redis, key, "hgetall", redis.Reads, func(ctx context.Context, conns *redis.Conns) (map[string]string, error) {
		client := conns.Primary
		if tracked {
			client = conns.Tracked
		}
		return client.Do(ctx, client.B().Hgetall().Key(key).Build()).AsStrMap()
	})
	if err != nil {
		return e, err
	}
	return parseSubjectEpochs(fields)
}

// subjectEpoch returns the epoch below which a session is revoked, from the near cache, or reads it into the near cache. An
// anonymous session has none.
func (s *Sessions) subjectEpoch(ctx context.Context, p partition, namespace string, r *record) (int64, error) {
	hash := r.subjectHash
	if hash == "" {
		return 0, nil
	}
	var room [redis.KeyRoom]byte
	v, ok := s.redis.Near.GetBytes(appendSubjectKey(room[:0], p, namespace, hash))
	if !ok {
		key := subjectKey(p, namespace, hash)
		var err error
		v, _, err = s.redis.Near.Load(ctx, key, func() (any, int, time.Duration, error) {
			e, err := s.readSubjectEpochs(ctx, key, true)
			return &e, e.size(), near.Longest, err
		})
		if err != nil {
			return 0, err
		}
	}
	e, _ := v.(*subjectEpochs)
	return e.endedBelow(r), nil
}

// SubjectEpoch returns the epoch of a subject from the primary, for [Creation.IfSubjectEpoch].
func (s *Sessions) SubjectEpoch(ctx context.Context, namespace, subject string) (int64, error) {
	p, hash := subjectHash(namespace, subject)
	e, err := s.readSubjectEpochs(ctx, subjectKey(p, namespace, hash), false)
	return e.highest(), err
}
