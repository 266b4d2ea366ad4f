package session

import (
	"context"
	"time"
)

// Touch says whether a validation counts as activity.
type Touch int

// The ways to touch a session.
const (
	// TouchAuto records activity after the answer, at most once per interval.
	TouchAuto Touch = iota
	// TouchNever leaves the idle timeout alone.
	TouchNever
	// TouchForce records activity before the answer.
	TouchForce
)

// Validation says how to check a token.
type Validation struct {
	Token string
	// Near allows that an active session comes from the near cache. That there is none, or that what is required of it is
	// missing, is always the primary's word.
	Near bool
	// Touch says whether it counts as activity, where the outcome is Active.
	Touch Touch
	// TouchInterval is how often TouchAuto records activity at most; zero means a twentieth of the idle timeout, between 1 s
	// and 1 min.
	TouchInterval time.Duration
	// MinAAL is the least level of assurance; zero means any.
	MinAAL int
	// MaxAuthAge is how long ago the subject may have authenticated; zero means any time.
	MaxAuthAge time.Duration
}

// Outcome is the verdict on a token.
type Outcome int

// The verdicts.
const (
	// Inactive means that the token is not that of an active session.
	Inactive Outcome = iota
	// Active means that it is, and has what is required.
	Active
	// StepUpRequired means that its level of assurance is too low.
	StepUpRequired
	// ReauthRequired means that its subject's authentication is too long ago, or that it has no subject.
	ReauthRequired
)

// Verdict is the answer to a Validation.
type Verdict struct {
	Outcome Outcome
	// Session is set where the outcome is Active.
	Session *Session
	// Superseded says that the token has been rotated away and is good for a while yet.
	Superseded bool
}

// Validate checks a token.
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

// weigh returns the verdict on a token by the record that it names, nil if there is none, and what its secret is to that.
func (r *record) weigh(cred credential, v Validation, now time.Time) (Verdict, standing) {
	if r == nil {
		return Verdict{}, strange
	}
	as := r.secrets.presented(cred.hash[:], now)
	if as != current && as != previous {
		return Verdict{}, as
	}
	a := &r.session.Assurance
	switch {
	case a.AAL < v.MinAAL:
		return Verdict{Outcome: StepUpRequired}, as
	case v.MaxAuthAge > 0 && (a.AuthenticatedAt.IsZero() || now.Sub(a.AuthenticatedAt) >= v.MaxAuthAge):
		return Verdict{Outcome: ReauthRequired}, as
	}
	return Verdict{Outcome: Active, Session: &r.session, Superseded: as == previous}, as
}

// settle has Redis told what follows from a verdict: at once what the verdict depends on, and the rest later.
func (s *Sessions) settle(ctx context.Context, namespace string, cred credential, v Validation, r *record, verdict Verdict, as standing) (Verdict, error) {
	interval, now := v.settlesNow(verdict, as)
	if !now {
		s.settleLater(namespace, cred, v, r, verdict, as)
		return verdict, nil
	}
	last, err := s.touch(ctx, cred, namespace, interval)
	if err != nil {
		return Verdict{}, err
	}
	return verdict.at(last), nil
}

// settlesNow reports whether a verdict waits for a touch, and of which interval: activity that is to be recorded before the
// answer, or a secret in two hands, which the touch finds out and ends.
func (v Validation) settlesNow(verdict Verdict, as standing) (interval time.Duration, now bool) {
	switch {
	case as == reused:
		return touchNever, true
	case v.Touch == TouchForce && verdict.Outcome == Active:
		return 0, true
	}
	return 0, false
}

func (s *Sessions) settleLater(namespace string, cred credential, v Validation, r *record, verdict Verdict, as standing) {
	active := v.Touch == TouchAuto && verdict.Outcome == Active
	if arrived := as == current && r.secrets.unseen; active || arrived {
		s.touchLater(cred, namespace, &r.session, active, arrived, v.TouchInterval)
	}
}

// at returns the verdict on a session that was last active then, in Unix milliseconds; zero means that it has ended.
func (v Verdict) at(last int64) Verdict {
	if last == 0 || v.Outcome != Active {
		return Verdict{}
	}
	session := *v.Session
	session.LastActiveAt = time.UnixMilli(last)
	v.Session = &session
	return v
}
