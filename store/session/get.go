package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// Target names a session by its id or by its token, of which one is empty.
type Target struct{ ID, Token string }

// resolve returns where the session is and the hash that its secret must have, empty for an id.
func (t Target) resolve() (p partition, id, hash string, ok bool) {
	if t.Token != "" {
		c, ok := parseToken(t.Token)
		return c.partition, c.id, string(c.hash[:]), ok
	}
	p, ok = parseSessionID(t.ID)
	return p, t.ID, "", ok
}

// Get reads an active session by its id from the primary; nil means that there is none.
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

// read reads a session at one moment; nil means that there is no active one.
func (s *Sessions) read(ctx context.Context, p partition, namespace, id string, tracked bool) (r *record, err error) {
	keys := []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id)}
	m, err := s.redis.RunRead(ctx, readScript, tracked, keys, subjectKey(p, namespace, ""))
	if err != nil {
		return nil, err
	}
	r, err = s.parseRecord(m, keys[0], id)
	if err != nil || r == nil || !r.active(r.readEpoch, r.readAt) {
		return nil, err
	}
	return r, nil
}

// readNear returns an active session by what the near cache knows, filling it as needed; nil says nothing, since only
// the primary's word is taken for an end.
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
	// The read of another caller may have begun before the subject's sessions were ended: that spoils the ticket of
	// the subject's key and not that of the record's.
	epoch, err := s.subjectEpoch(ctx, p, namespace, r.subjectHash, r.session.Device.Class)
	if err != nil || !r.active(epoch, s.redis.Now()) {
		return nil, err
	}
	return r, nil
}
