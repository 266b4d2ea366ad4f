package session

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// promotionWindow is how long after its first call the same promotion can be repeated with the same result.
const promotionWindow = time.Minute

// promotion is what the record of an anonymous session says about the session that it is promoted to.
type promotion struct {
	to   string
	salt []byte
}

// Promotion is the input of [Sessions.Promote].
type Promotion struct {
	// Subject is the user whose session it becomes.
	Subject string
	// Assurance says how the subject was authenticated; a zero AuthenticatedAt means now.
	Assurance Assurance
	// Limits bound the sessions of the subject.
	Limits Limits
	// IfSubjectEpoch is what [Sessions.SubjectEpoch] returned before the login was checked: if the sessions of the subject or
	// of the device class were revoked since then, Promote fails with [ErrSubjectEpochChanged] and the session stays
	// anonymous. Nil means that this is not checked.
	IfSubjectEpoch *int64
}

// Promoted is the result of [Sessions.Promote]. All fields are empty if the token is not that of an active session.
type Promoted struct {
	// Token is the new session token and Session the new session.
	Token   string
	Session *Session
	// NotAnonymous means that the session already has a subject and was not changed.
	NotAnonymous bool
	// Evicted are the sessions that were revoked to make room. Existing are those that count towards the limit, if the limit
	// was reached and the policy is [Reject]; the session then stays anonymous.
	Evicted, Existing []Summary
}

// Promote turns an anonymous session into a session of a subject, with another id and token and with the attributes, device
// and timeouts of the anonymous one. The two are in different partitions, so this takes three scripts: the first makes the
// anonymous session inactive and reads it, the second creates the new session, the third removes the anonymous one. The same
// promotion repeated within a minute continues where the first call stopped and returns the same session.
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
		Device: r.session.Device, Assurance: pr.Assurance, Limits: pr.Limits, IfSubjectEpoch: pr.IfSubjectEpoch,
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
	if session == nil { // an earlier call of the same promotion created it; it may have ended since
		made, err := s.read(ctx, fresh.partition, namespace, fresh.id, false)
		if err != nil || made == nil {
			return Promoted{}, err
		}
		// The caller may have rotated the new token already: that its first token is superseded is no theft.
		if verdict, _ := made.weigh(fresh, Validation{}, made.readAt); verdict.Outcome != Active {
			return Promoted{}, nil
		}
		session = &made.session
	}
	return Promoted{Token: next, Session: session, Evicted: created.Evicted}, nil
}

// beginPromotion reads an anonymous session and makes it inactive in the same moment. It returns nil if the session is not
// active.
func (s *Sessions) beginPromotion(ctx context.Context, namespace string, cred credential, subject string) (*record, error) {
	p, hash := subjectHash(namespace, subject)
	_, fresh := newCredential(p)
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, promoteScript, redis.Writes, keys, append(args,
		cred.proof(), fresh.id, string(newSalt()), hash, redis.Millis(promotionWindow))...)
	if err != nil {
		return nil, err
	}
	return s.parseRecord(m, keys[0], cred.id)
}

// endPromotion removes the anonymous session, or makes it active again if window is zero. It does not end with the caller's
// context. If it fails, the session stays inactive and its keys expire.
func (s *Sessions) endPromotion(namespace string, cred credential, to string, window time.Duration) {
	ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
	defer cancel()
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	_, _ = s.redis.Run(ctx, promotedScript, redis.Writes, keys, append(args, to, graceMillis(window))...) // the observer counts failures
}
