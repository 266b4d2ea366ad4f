package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// promotionWindow is how long a promotion may be begun again after it was first begun.
const promotionWindow = time.Minute

// promotion is what an anonymous session's record says of the session that takes its place.
type promotion struct {
	to   string
	salt []byte
}

// Promotion is what an anonymous session is promoted with.
type Promotion struct {
	// Subject is whose session it becomes.
	Subject string
	// Assurance says how the subject was authenticated.
	Assurance Assurance
	// Limits are those of the subject.
	Limits Limits
}

// Promoted is what became of a promotion. Where the session is not active nothing of it is set.
type Promoted struct {
	// Token is that of Session, which took the place of the anonymous one.
	Token   string
	Session *Session
	// NotAnonymous says that the session has a subject already and was left alone.
	NotAnonymous bool
	// Evicted are sessions that were ended to make room. Existing are those in the way where the limit has been reached; the
	// session stays an anonymous one then.
	Evicted, Existing []Summary
}

// Promote makes the session of a subject of an anonymous one, with the attributes, the device and the timeouts of
// that, which is dead from the moment in which they were read. The two are in different partitions, so that it takes three
// steps; the same promotion begun again within a minute goes on where it stopped and returns the same session. Until the
// second step nothing has more rights than before, and from it on the new session lives.
func (s *Sessions) Promote(ctx context.Context, namespace, token string, pr Promotion) (Promoted, error) {
	cred, ok := parseToken(token)
	if !ok {
		return Promoted{}, nil
	}
	r, err := s.beginPromotion(ctx, namespace, cred, pr.Subject)
	if err != nil || r == nil {
		return Promoted{}, err
	}
	if r.subjectHash != "" {
		return Promoted{NotAnonymous: true}, nil
	}
	secret, err := r.secrets.latest(cred)
	if err != nil {
		return Promoted{}, err
	}
	p, ok := parseSessionID(r.promotion.to)
	if !ok {
		return Promoted{}, redis.Fail(redis.ErrCorrupt, nil)
	}
	next, fresh := credential{partition: p, id: r.promotion.to}.withSecret(derive(secret, r.promotion.salt))
	created, err := s.create(ctx, namespace, Creation{
		Subject: pr.Subject, Attributes: r.session.Attributes, Idle: r.session.Idle, Absolute: r.absolute,
		Device: r.session.Device, Assurance: pr.Assurance, Limits: pr.Limits,
	}, fresh, cred.id, redis.Writes)
	if err != nil && redis.Refused(err) || created.Existing != nil {
		s.endPromotion(namespace, cred, fresh.id, 0)
		return Promoted{Existing: created.Existing}, err
	}
	if err != nil {
		return Promoted{}, err
	}
	s.endPromotion(namespace, cred, fresh.id, promotionWindow)
	session := created.Session
	if session == nil { // it was made when this promotion was begun before, and may have ended since
		made, err := s.read(ctx, fresh.partition, namespace, fresh.id, false)
		if err != nil || made == nil {
			return Promoted{}, err
		}
		// A token that has been rotated since is not held against whoever only asks again.
		if verdict, _ := made.weigh(fresh, Validation{}, made.readAt); verdict.Outcome != Active {
			return Promoted{}, nil
		}
		session = &made.session
	}
	return Promoted{Token: next, Session: session, Evicted: created.Evicted}, nil
}

// beginPromotion reads an anonymous session and, in the same moment, ends it in favour of another one; nil means that it
// is not active.
func (s *Sessions) beginPromotion(ctx context.Context, namespace string, cred credential, subject string) (*record, error) {
	p, hash := subjectHash(namespace, subject)
	_, fresh := newCredential(p)
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, promoteScript, redis.Writes, keys, append(args,
		string(cred.hash[:]), fresh.id, string(newSalt()), hash, redis.Millis(promotionWindow))...)
	if err != nil {
		return nil, err
	}
	return s.parseRecord(m, keys[0], cred.id)
}

// endPromotion tidies the anonymous session away, or gives it back where window is zero. It runs to its end whatever the
// caller does; should it fail, the session stays dead and its keys expire.
func (s *Sessions) endPromotion(namespace string, cred credential, to string, window time.Duration) {
	ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
	defer cancel()
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	_, _ = s.redis.Run(ctx, promotedScript, redis.Writes, keys, append(args, to, graceMillis(window))...) // counted by the observer
}
