package session

import (
	"context"
	"time"
)

// Touch says whether a validation counts as activity.
type Touch int

// The ways of touching a session.
const (
	// TouchAuto records activity after the answer, at most once per interval.
	TouchAuto Touch = iota
	// TouchNever records no activity.
	TouchNever
	// TouchForce records activity before the answer.
	TouchForce
)

// Validation is the input of [Sessions.Validate].
type Validation struct {
	Token string
	// Near allows an active verdict from the near cache. Any other verdict always comes from the primary.
	Near bool
	// Touch says whether the validation counts as activity, if the outcome is [Active].
	Touch Touch
	// TouchInterval is the minimum time between two activities that TouchAuto records; zero means a twentieth of the idle
	// timeout, at least 1 s and at most 1 min.
	TouchInterval time.Duration
	// MinAAL is the minimum authentication assurance level; zero means any.
	MinAAL int
	// MaxAuthAge is the maximum time since the subject authenticated at MinAAL or above; zero means any.
	MaxAuthAge time.Duration
}

// Outcome is the outcome of a validation.
type Outcome int

// The outcomes.
const (
	// Inactive means that the token is not that of an active session.
	Inactive Outcome = iota
	// Active means that the token is that of an active session, which meets the requirements.
	Active
	// StepUpRequired means that the authentication assurance level of the session is too low.
	StepUpRequired
	// ReauthRequired means that the subject authenticated too long ago at the required level, or that the session is anonymous.
	ReauthRequired
)

// Verdict is the answer to a session validation.
type Verdict struct {
	Outcome Outcome
	// Session is set if the outcome is Active.
	Session *Session
	// Superseded means that the token was rotated and is still good.
	Superseded bool
	// AuthenticatedAt is when the subject last authenticated at [Validation.MinAAL] or above; it is set if the outcome is
	// Active and the session has a subject.
	AuthenticatedAt time.Time
}

// Validate checks a token. A token that counts as stolen ends the session before the answer.
func (s *Sessions) Validate(ctx context.Context, namespace string, v Validation) (Verdict, error) {
	cred, ok := parseToken(v.Token)
	if !ok {
		return Verdict{}, nil
	}
	if v.Near {
		r, err := s.readNear(ctx, cred.partition, namespace, cred.id)
		if err != nil {
			return Verdict{}, err
		}
		if verdict, as := r.weigh(cred, v, s.redis.Now()); verdict.Outcome == Active {
			return s.settle(ctx, namespace, cred, v, r, verdict, as)
		}
	}
	r, err := s.read(ctx, cred.partition, namespace, cred.id, false)
	if err != nil || r == nil {
		return Verdict{}, err
	}
	verdict, as := r.weigh(cred, v, r.readAt)
	return s.settle(ctx, namespace, cred, v, r, verdict, as)
}

// weigh returns the verdict on a credential by a record, nil for none, and the standing of its secret.
func (r *record) weigh(cred credential, v Validation, now time.Time) (Verdict, standing) {
	if r == nil {
		return Verdict{}, strange
	}
	as := r.secrets.presented(cred, now)
	if as != current && as != previous {
		return Verdict{}, as
	}
	authenticated := r.authenticated(v.MinAAL)
	switch {
	case r.session.Assurance.AAL < v.MinAAL:
		return Verdict{Outcome: StepUpRequired}, as
	case v.MaxAuthAge > 0 && (authenticated.IsZero() || now.Sub(authenticated) >= v.MaxAuthAge):
		return Verdict{Outcome: ReauthRequired}, as
	}
	return Verdict{Outcome: Active, Session: &r.session, Superseded: as == previous, AuthenticatedAt: authenticated}, as
}

// settle runs the touch that a verdict calls for: before the answer if the verdict depends on it, in the background
// otherwise.
func (s *Sessions) settle(ctx context.Context, namespace string, cred credential, v Validation, r *record, verdict Verdict, as standing) (Verdict, error) {
	interval, now := s.settles(namespace, cred, v, r, verdict, as)
	if !now {
		return verdict, nil
	}
	last, err := s.touch(ctx, cred, namespace, interval)
	if err != nil {
		return Verdict{}, err
	}
	return verdict.at(last), nil
}

// settles reports whether the answer must wait for a touch, and the touch's interval: for a forced touch, for a stolen secret,
// whose session the touch ends, and for an arrival that cannot wait. Any other touch it begins in the background.
func (s *Sessions) settles(namespace string, cred credential, v Validation, r *record, verdict Verdict, as standing) (interval time.Duration, now bool) {
	switch {
	case as == reused:
		return touchNever, true
	case v.Touch == TouchForce && verdict.Outcome == Active:
		return 0, true
	}
	active := v.Touch == TouchAuto && verdict.Outcome == Active
	arrived := as == current && r.secrets.unseen
	if !active && !arrived {
		return touchNever, false
	}
	interval, later := s.touchLater(cred, namespace, &r.session, active, arrived, v.TouchInterval)
	return interval, !later
}

// at returns the verdict after a touch that returned last: zero means that the session is inactive.
func (v Verdict) at(last int64) Verdict {
	if last == 0 {
		return Verdict{}
	}
	if v.Outcome != Active {
		return v
	}
	session := *v.Session
	session.LastActiveAt = time.UnixMilli(last)
	v.Session = &session
	return v
}
