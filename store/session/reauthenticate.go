package session

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// Reauthentication is another proof of who a session's subject is.
type Reauthentication struct {
	// AAL is the level of assurance that it reached; the session keeps the highest.
	AAL int
	// AMR are the methods, which are added to those of the session.
	AMR []string
	// ResetTimeouts begins the idle and the absolute timeout anew.
	ResetTimeouts bool
	// Grace is how long rotated tokens stay good in general. The token presented here does not: when the grace has passed
	// it is taken for a thief's.
	Grace time.Duration
}

// Reauthenticate records another authentication and returns a new token; the old one is dead at once. A nil session
// means that there is no active one, no token that the session is anonymous and was left alone.
func (s *Sessions) Reauthenticate(ctx context.Context, namespace, token string, a Reauthentication) (next string, session *Session, err error) {
	cred, ok := parseToken(token)
	if !ok {
		return "", nil, nil
	}
	// The new secret is random and not derived: a retry must not have it for the old one.
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret)
	next, fresh := cred.withSecret(secret)
	reset := "0"
	if a.ResetTimeouts {
		reset = "1"
	}
	keys, args := changing(cred.partition, namespace, cred.id)
	args = append(args, string(cred.hash[:]), string(fresh.hash[:]), reuseAfter(a.Grace),
		strconv.Itoa(a.AAL), reset, strconv.Itoa(MaxMethods), classesKey(cred.partition, namespace, ""), strings.Join(s.keyring.IDs(), " "))
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, reauthenticateScript, redis.WritesOnce, keys, append(args, a.AMR...)...)
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
