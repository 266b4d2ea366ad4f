package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// minReuse is how long after a rotation a superseded secret is not taken for a thief's at least: requests that were under
// way may still bring it.
const minReuse = 10 * time.Second

func reuseAfter(grace time.Duration) string { return redis.Millis(max(grace, minReuse)) }

// Rotate supersedes the secret of an active session and returns the token that takes its place; a nil session means
// that there is none. For the grace, and for as long as the new token has not been presented, the old one stays good and
// rotating it again returns the same new one; with no grace it ends at once. Presented later it ends the session.
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
