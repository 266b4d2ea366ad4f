package session

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// Revoke ends a session and reports whether it was active. An anonymous session that is being promoted ends together with the
// session that is made of it. Repeated within two minutes with the same [WithRequest], Revoke reports what the first call did.
func (s *Sessions) Revoke(ctx context.Context, namespace string, t Target) (revoked bool, err error) {
	cred, ok := t.resolve()
	if !ok {
		return false, nil
	}
	keys, args := changing(cred.partition, namespace, cred.id)
	repeatable := "0"
	if key, ok := requestKey(ctx, cred.partition, namespace, "session", cred.id); ok {
		keys, repeatable = append(keys, key), "1"
	}
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, revokeScript, redis.Writes, keys, append(args, cred.proof(), repeatable)...)
	if err != nil {
		return false, err
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return false, redis.ErrInternal
	}
	n, err1 := parts[0].AsInt64()
	made, err2 := parts[1].ToString()
	if err1 != nil || err2 != nil {
		return false, redis.ErrInternal
	}
	if made != "" {
		if _, err := s.Revoke(ctx, namespace, Target{ID: made}); err != nil {
			return false, err
		}
	}
	return n == 1, nil
}

// SubjectRevocation selects sessions of a subject.
type SubjectRevocation struct {
	// Class is the device class whose sessions end; empty means all.
	Class string
	// Except is the id of a session to keep; empty means none.
	Except string
	// Longest is the maximum absolute timeout of any session. The epoch is kept for longer than that.
	Longest time.Duration
}

// RevokedSubject is the result of [Sessions.RevokeSubject].
type RevokedSubject struct {
	// Count is the number of active sessions that ended.
	Count int64
	// Epoch is the subject's new epoch.
	Epoch int64
}

// RevokeSubject ends sessions of a subject. Its cost does not depend on their number. Repeated within two minutes with the same
// [WithRequest], it ends nothing more and returns the first result.
func (s *Sessions) RevokeSubject(ctx context.Context, namespace, subject string, r SubjectRevocation) (revoked RevokedSubject, err error) {
	p, hash := subjectHash(namespace, subject)
	subjectAt := subjectKey(p, namespace, hash)
	keys := []string{
		subjectAt, indexKey(p, namespace, hash), eventsKey(p), classesKey(p, namespace, hash), epochKey(p), endsKey(p), discardedKey(p),
		classIndex(indexKey(p, namespace, hash), r.Class),
	}
	forget := []string{subjectAt}
	// A session of another partition is not one of this subject's.
	if q, ok := parseSessionID(r.Except); ok && q == p {
		kept := sessionKey(p, namespace, r.Except)
		keys, forget = append(keys, kept, attributesKey(p, namespace, r.Except)), append(forget, kept)
	} else {
		r.Except = ""
	}
	answer := 0 // number of the key
	if key, ok := requestKey(ctx, p, namespace, "subject", hash, r.Class, r.Except); ok {
		keys = append(keys, key)
		answer = len(keys)
	}
	defer s.redis.Forget(forget...)
	m, err := s.run(ctx, revokeSubjectScript, redis.Writes, keys,
		namespace, r.Except, subjectKey(p, namespace, ""), subject, redis.Millis(r.Longest+epochMemory), r.Class, strconv.Itoa(answer))
	if err != nil {
		return revoked, err
	}
	return parseRevokedSubject(m)
}

func parseRevokedSubject(m rueidis.RedisMessage) (revoked RevokedSubject, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return revoked, redis.ErrInternal
	}
	if revoked.Count, err = parts[0].AsInt64(); err != nil {
		return revoked, redis.ErrInternal
	}
	if revoked.Epoch, err = parts[1].AsInt64(); err != nil {
		return revoked, redis.ErrInternal
	}
	return revoked, nil
}
