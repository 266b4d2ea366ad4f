package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// minReuse is the minimum time between a rotation and the moment from which the superseded token counts as stolen, so that
// requests under way end nothing.
const minReuse = 10 * time.Second

func reuseAfter(grace time.Duration) string { return redis.Millis(max(grace, minReuse)) }

// Rotate supersedes the token of an active session and returns its successor; the session is nil if there is none. The
// superseded token stays good for the rotation grace, and after that until the successor is first presented; rotating it
// again returns the same successor. With a grace of zero it is inactive at once. If it is presented later, the session is
// revoked.
func (s *Sessions) Rotate(ctx context.Context, namespace, token string, grace time.Duration) (next string, session *Session, err error) {
	cred, ok := parseToken(token)
	if !ok {
		return "", nil, nil
	}
	salt := newSalt()
	_, successor := cred.withSecret(derive(cred.secret, salt))
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, rotateScript, redis.Writes, keys, append(args,
		string(cred.hash[:]), string(salt), string(successor.hash[:]), graceMillis(grace), reuseAfter(grace))...)
	if err != nil {
		return "", nil, err
	}
	r, err := s.parseRecord(m, keys[0], cred.id)
	if r == nil {
		return "", nil, err
	}
	secret, err := r.secrets.latest(cred)
	if err != nil {
		return "", nil, err
	}
	next, _ = cred.withSecret(secret)
	return next, &r.session, nil
}

func graceMillis(grace time.Duration) string {
	if grace <= 0 {
		return "0"
	}
	return redis.Millis(grace)
}
