package session

import (
	"context"
	"errors"
	"time"

	"github.com/berthcare/larder/store/redis"
)

const (
	// promotionWindow is how long after its first call the same promotion can be repeated with the same result.
	promotionWindow = time.Minute
	// promotionDuration is how long a promotion may take from its first step to its last. After that the anonymous session is
	// active again.
	promotionDuration = 10 * time.Second
)

// promotion is what the record of an anonymous session says about the session that it is promoted to.
type promotion struct {
	to   string // id of the session; empty for none
	salt []byte
	done bool
	// until is when the anonymous session is active again unless the promotion is done, in Unix milliseconds; 0 means never.
	until int64
}

// ends reports whether the promotion keeps the anonymous session from being active.
func (p *promotion) ends(now time.Time) bool {
	return p.to != "" && (p.done || p.until == 0 || now.UnixMilli() < p.until)
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
	// MaxIdle and MaxAbsolute bound the timeouts that the new session takes over; 0 means that they stay as they are.
	MaxIdle, MaxAbsolute time.Duration
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

// Promote turns an anonymous session into a session of a subject, with another id and token and with the attributes, device and
// timeouts of the anonymous one. The two are in different partitions, so this takes three scripts: the first makes the
// anonymous session inactive and reads it, the second creates the new session, and the third, which decides, removes the
// anonymous one. If the promotion is not completed within 10 s, for whatever reason, the anonymous session is active again. The
// same promotion repeated within a minute continues where the first call stopped and returns the same session.
//
// If the anonymous session is revoked before the third script, so is the new one. Promote fails with
// [ErrSubjectEpochChanged].
func (s *Sessions) Promote(ctx context.Context, namespace, token string, pr Promotion) (Promoted, error) {
	cred, ok := parseToken(token)
	if !ok {
		return Promoted{}, nil
	}
	for range 2 { // the second attempt tells whether the anonymous session was revoked or is active again
		promoted, overtaken, err := s.promote(ctx, namespace, cred, pr)
		if !overtaken {
			return promoted, err
		}
	}
	return Promoted{}, redis.Fail(redis.ErrUnavailable, errors.New("the promotion was overtaken"))
}

// promote makes one attempt. It is overtaken if the anonymous session was revoked, or became active again, before the last
// step; then the new session is revoked.
func (s *Sessions) promote(ctx context.Context, namespace string, cred credential, pr Promotion) (promoted Promoted, overtaken bool, err error) {
	r, err := s.beginPromotion(ctx, namespace, cred, pr.Subject)
	if err != nil || r == nil {
		return Promoted{}, false, err
	}
	if r.subjectHash != "" {
		return Promoted{NotAnonymous: true}, false, nil
	}
	next, fresh, err := r.promoted(cred)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.undoPromotion(namespace, cred, r.promotion.to)
		return Promoted{}, false, err
	}
	var created Created
	if !r.promotion.done { // a session that was completed before may have ended since, and must not be created again
		created, err = s.create(ctx, namespace, Creation{
			Subject: pr.Subject, Attributes: r.session.Attributes, Idle: shorter(r.session.Idle, pr.MaxIdle), Absolute: shorter(r.absolute, pr.MaxAbsolute),
			Device: r.session.Device, Assurance: pr.Assurance, Limits: pr.Limits, IfSubjectEpoch: pr.IfSubjectEpoch,
		}, fresh, cred.id, redis.Writes)
	}
	if created.Existing != nil || err != nil {
		if err == nil || wroteNothing(err) {
			s.undoPromotion(namespace, cred, fresh.id)
		}
		return Promoted{Existing: created.Existing}, false, err
	}
	done, err := s.endPromotion(ctx, namespace, cred, fresh.id, promotionWindow)
	if err != nil {
		return Promoted{}, false, err
	}
	if !done {
		_, err := s.Revoke(ctx, namespace, Target{ID: fresh.id})
		return Promoted{}, err == nil, err
	}
	session := created.Session
	if session == nil { // an earlier call of the same promotion created it; it may have ended since
		session, err = s.promotedBefore(ctx, namespace, fresh)
	}
	if err != nil || session == nil {
		return Promoted{}, false, err
	}
	return Promoted{Token: next, Session: session, Evicted: created.Evicted}, false, nil
}

// promotedBefore returns the session that an earlier call of the same promotion created, or nil if the token that it returned
// is no good any longer.
func (s *Sessions) promotedBefore(ctx context.Context, namespace string, fresh credential) (*Session, error) {
	r, err := s.read(ctx, fresh.partition, namespace, fresh.id, false)
	if err != nil || r == nil {
		return nil, err
	}
	// The caller may have rotated the new token already: that its first token is superseded is no theft.
	verdict, _ := r.weigh(fresh, Validation{}, r.readAt)
	return verdict.Session, nil
}

// promoted returns the token and the credential of the session that takes the place of an anonymous one.
func (r *record) promoted(cred credential) (token string, fresh credential, err error) {
	secret, err := r.secrets.latest(cred)
	if err != nil {
		return "", fresh, err
	}
	p, ok := parseSessionID(r.promotion.to)
	if !ok {
		return "", fresh, redis.Fail(redis.ErrCorrupt, nil)
	}
	token, fresh = credential{partition: p, id: r.promotion.to}.withSecret(derive(secret, r.promotion.salt))
	return token, fresh, nil
}

// shorter returns a timeout within its maximum; zero means no maximum.
func shorter(timeout, maximum time.Duration) time.Duration {
	if maximum > 0 {
		return min(timeout, maximum)
	}
	return timeout
}

// wroteNothing reports whether an error means that nothing was written and nothing will be.
func wroteNothing(err error) bool { return redis.Refused(err) || errors.Is(err, redis.ErrUnavailable) }

// beginPromotion reads an anonymous session and makes it inactive in the same moment. It returns nil if the session is not
// active.
func (s *Sessions) beginPromotion(ctx context.Context, namespace string, cred credential, subject string) (*record, error) {
	p, hash := subjectHash(namespace, subject)
	_, fresh := newCredential(p)
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, promoteScript, redis.Writes, keys, append(args,
		cred.proof(), fresh.id, string(newSalt()), hash, redis.Millis(promotionWindow), redis.Millis(promotionDuration), s.keyIDs())...)
	if err != nil {
		return nil, err
	}
	r, err := s.parseRecord(m, keys[0], cred.id)
	if err != nil {
		s.undoPromotion(namespace, cred, fresh.id)
	}
	return r, err
}

// undoPromotion makes the anonymous session active again. It does not end with the caller's context. If it fails, the session is
// active again when the time of the promotion is over.
func (s *Sessions) undoPromotion(namespace string, cred credential, to string) {
	ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
	defer cancel()
	_, _ = s.endPromotion(ctx, namespace, cred, to, 0) // the observer counts failures
}

// endPromotion removes the anonymous session for good, or makes it active again if window is zero. It reports whether that is
// done; if not, the anonymous session was revoked or is active again.
func (s *Sessions) endPromotion(ctx context.Context, namespace string, cred credential, to string, window time.Duration) (done bool, err error) {
	keys, args := changing(cred.partition, namespace, cred.id)
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, promotedScript, redis.Writes, keys, append(args, to, graceMillis(window))...)
	if err != nil {
		return false, err
	}
	n, err := m.AsInt64()
	return n == 1, err
}
