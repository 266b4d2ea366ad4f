package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// Target names a session, by its id or by its token. Exactly one of them is set.
type Target struct{ ID, Token string }

// resolve returns the credential of a target. If the target is an id, the credential has no secret.
func (t Target) resolve() (c credential, ok bool) {
	if t.Token != "" {
		return parseToken(t.Token)
	}
	c.id = t.ID
	c.partition, ok = parseSessionID(t.ID)
	return c, ok
}

// Get reads an active session by its id from the primary. It returns nil if there is none.
func (s *Sessions) Get(ctx context.Context, namespace, id string) (*Session, error) {
	p, ok := parseSessionID(id)
	if !ok {
		return nil, nil //nolint:nilnil // absence is not an error
	}
	r, err := s.read(ctx, p, namespace, id, false)
	if r == nil {
		return nil, err
	}
	return &r.session, nil
}

// read reads the record, the attributes and the subject's epoch of a session at one moment. It returns nil if the session is
// not active. Tracked lets the caller keep the result in the near cache.
func (s *Sessions) read(ctx context.Context, p partition, namespace, id string, tracked bool) (r *record, err error) {
	keys, args := reading(p, namespace, id)
	m, err := s.runRead(ctx, readScript, tracked, keys, args...)
	if err != nil {
		return nil, err
	}
	r, err = s.parseRecord(m, keys[0], id)
	if err != nil || r == nil || !r.active(r.readEpoch, r.readAt) {
		return nil, err
	}
	return r, nil
}

// reading returns the keys and arguments of read.lua.
func reading(p partition, namespace, id string) (keys, args []string) {
	return []string{sessionKey(p, namespace, id)}, []string{subjectKey(p, namespace, ""), attributesKey(p, namespace, id)}
}

// readNear returns an active session from the near cache, or reads it into the near cache. A nil record decides nothing:
// only the primary may say that a session is inactive.
func (s *Sessions) readNear(ctx context.Context, p partition, namespace, id string) (*record, error) {
	var room [redis.KeyRoom]byte
	v, ok := s.redis.Near.GetBytes(appendSessionKey(room[:0], p, namespace, id))
	own := false
	var err error
	if !ok {
		v, _, err = s.redis.Near.Load(ctx, sessionKey(p, namespace, id), func() (any, int, time.Duration, error) {
			own = true
			r, err := s.read(ctx, p, namespace, id, true)
			if r == nil {
				return r, 0, 0, err
			}
			return r, r.size, min(near.Longest, r.session.ExpiresAt().Sub(r.readAt)), nil
		})
	}
	r, _ := v.(*record)
	if err != nil || r == nil || own {
		return r, err
	}
	// The record may come from a read of another caller that began before the subject's sessions were revoked. A revocation
	// invalidates the key of the subject and not that of the record, so the epoch must be looked up too.
	epoch, err := s.subjectEpoch(ctx, p, namespace, r)
	if err != nil || !r.active(epoch, s.redis.Now()) {
		return nil, err
	}
	return r, nil
}
