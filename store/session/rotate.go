package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/redis"
)

const (
	// minReuse is the minimum time between the moment in which a token was last good, or was superseded without a grace, and
	// the moment from which it counts as stolen, so that requests under way end nothing. It mirrors MIN_REUSE in common.lua.
	minReuse = 10 * time.Second
	// underWay is the time that a request which has presented a token at the end of its grace may take.
	underWay = 5 * time.Second
)

// reuseAfter returns the time between a rotation and the moment from which the superseded token counts as stolen.
func reuseAfter(grace time.Duration) string { return redis.Millis(max(grace+underWay, minReuse)) }

// Rotate supersedes the token of an active session and returns its successor; the session is nil if there is none. The
// superseded token stays good for the rotation grace, and after that until the successor is first presented; rotating it
// meanwhile changes nothing and returns the current token. With a grace of zero it is inactive at once, and so is every older
// one. If a token is presented when neither it nor a request that was sent while it was good can be in honest use any longer,
// the session is revoked, however many rotations ago it was superseded.
//
// Repeated within [minReuse] with the same [WithRequest], Rotate returns the same successor, whatever the grace.
func (s *Sessions) Rotate(ctx context.Context, namespace, token string, grace time.Duration) (next string, session *Session, err error) {
	cred, ok := parseToken(token)
	if !ok {
		return "", nil, nil
	}
	salt := saltOf(ctx, cred.id)
	_, successor := cred.withSecret(succeed(cred.secret, salt))
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, rotateScript, redis.Writes, keys, append(args,
		cred.proof(), string(salt), successor.proof(), graceMillis(grace), reuseAfter(grace))...)
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
