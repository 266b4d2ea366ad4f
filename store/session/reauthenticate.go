package session

import (
	"context"
	"crypto/rand"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// Reauthentication is the input of [Sessions.Reauthenticate].
type Reauthentication struct {
	// AAL is the authentication assurance level of the new authentication, 0 to 3. The session keeps the higher one.
	AAL int
	// AMR are the methods of the new authentication. They are added to those of the session.
	AMR []string
	// ResetTimeouts restarts the idle and the absolute timeout, with the lengths that they had, but at most MaxIdle and
	// MaxAbsolute; 0 means no maximum.
	ResetTimeouts        bool
	MaxIdle, MaxAbsolute time.Duration
	// Grace is the rotation grace. The superseded token is not good during it; presenting it after the grace counts as
	// theft.
	Grace time.Duration
}

// Reauthenticate records another authentication of the subject and returns a new token; the old one is inactive at once. The
// session is nil if the token is not that of an active session. The token is empty if the session is anonymous, which
// Reauthenticate does not change.
func (s *Sessions) Reauthenticate(ctx context.Context, namespace, token string, a Reauthentication) (next string, session *Session, err error) {
	cred, ok := parseToken(token)
	if !ok {
		return "", nil, nil
	}
	// The new secret is random and not derived from the old one: whoever holds the old token must not be able to get the new
	// one by repeating the call.
	random := make([]byte, secretBytes)
	_, _ = rand.Read(random)
	next, fresh := cred.withSecret(following(cred.secret, random))
	reset := "0"
	if a.ResetTimeouts {
		reset = "1"
	}
	keys, args := changing(cred.partition, namespace, cred.id)
	args = append(args, cred.proof(), fresh.proof(), reuseAfter(a.Grace),
		strconv.Itoa(a.AAL), reset, strconv.Itoa(MaxMethods), classesKey(cred.partition, namespace, ""), s.keyIDs(),
		graceMillis(a.MaxIdle), graceMillis(a.MaxAbsolute))
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, reauthenticateScript, redis.WritesOnce, keys, append(args, a.AMR...)...)
	if err != nil {
		return "", nil, err
	}
	r, err := s.parseRecord(m, keys[0], cred.id)
	if r == nil {
		return "", nil, err
	}
	if r.subjectHash == "" {
		next = ""
	}
	return next, &r.session, nil
}
