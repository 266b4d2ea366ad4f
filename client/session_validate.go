package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A SessionTouch says whether a validation counts as activity, which restarts the idle timeout. Empty means [TouchAuto].
type SessionTouch string

// The ways in which a validation can count as activity.
const (
	// TouchAuto restarts the idle timeout at most once per touch interval (5 % of the idle timeout, between 1 s and 60 s),
	// after the server has answered.
	TouchAuto SessionTouch = "AUTO"
	// TouchNever does not restart the idle timeout, for polling.
	TouchNever SessionTouch = "NEVER"
	// TouchForce restarts the idle timeout before the server answers.
	TouchForce SessionTouch = "FORCE"
)

// ValidateOptions are the options of [Sessions.Validate].
type ValidateOptions struct {
	// Touch says whether the validation counts as activity. Empty means [TouchAuto].
	Touch SessionTouch
	// Primary asks the Redis primary and never the replica's near cache, so that a revocation which has returned is always
	// noticed.
	Primary bool
	// MinAAL is the lowest acceptable authentication assurance level, 1 to 3. Zero means any.
	MinAAL int
	// MaxAuthAge is the longest acceptable time since the subject last authenticated. Zero means no limit.
	MaxAuthAge time.Duration
}

// require returns what the options require of the session, nil for nothing.
func (o ValidateOptions) require() *sessionv1.Requirement {
	if o.MinAAL == 0 && o.MaxAuthAge == 0 {
		return nil
	}
	return &sessionv1.Requirement{MinAal: toInt32(o.MinAAL), MaxAuthAge: duration(o.MaxAuthAge)}
}

func (o ValidateOptions) consistency() sessionv1.Consistency {
	if o.Primary {
		return sessionv1.Consistency_CONSISTENCY_PRIMARY
	}
	return sessionv1.Consistency_CONSISTENCY_UNSPECIFIED
}

// Validate returns the active session of a token, or [ErrInactive], [ErrStepUpRequired] or [ErrReauthRequired]. It never
// returns a session together with an error, so that a caller who overlooks the error has no session either.
//
// The replica answers from its near cache if it can. Such an answer reflects every change made through the same replica,
// and changes made through other replicas within milliseconds; while the replica cannot hear from Redis the answer is
// never older than the server's near-cache bound, 5 s unless configured otherwise. A refusal is always confirmed on the
// Redis primary.
func (s *Sessions) Validate(ctx context.Context, token string, o ValidateOptions) (*Session, error) {
	touch, err := number[sessionv1.Touch]("touch", o.Touch, "TOUCH_", sessionv1.Touch_value)
	if err != nil {
		return nil, err
	}
	r, err := s.rpc.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{
		Namespace: s.namespace, SessionToken: token, Touch: touch, Consistency: o.consistency(), Require: o.require(),
	})
	if err != nil {
		return nil, err
	}
	return verdict(sessionv1.BatchValidateSessionsOutcome(r.GetOutcome()), r)
}

// A ValidateItem is one token for [Sessions.BatchValidate].
type ValidateItem struct {
	// Token is what the end user's client presented.
	Token string
	// Options say how to validate it.
	Options ValidateOptions
}

// A Verdict is the answer to the validation of one token of a batch.
type Verdict struct {
	// Session is the active session; nil unless Err is nil.
	Session *Session
	// Err is an error of [Sessions.Validate], or [ErrUnprocessed]; nil if the session is active.
	Err error
}

// BatchValidate validates 1 to 100 tokens in one call, each as [Sessions.Validate] does, and returns one [Verdict] for
// each item, in the order of items. A failure that all items share fails the call.
func (s *Sessions) BatchValidate(ctx context.Context, items []ValidateItem) ([]Verdict, error) {
	req := &sessionv1.BatchValidateSessionsRequest{Namespace: s.namespace}
	for i, item := range items {
		o := item.Options
		touch, err := number[sessionv1.Touch](fmt.Sprintf("items[%d].touch", i), o.Touch, "TOUCH_", sessionv1.Touch_value)
		if err != nil {
			return nil, err
		}
		req.Items = append(req.Items, &sessionv1.BatchValidateSessionsItem{
			SessionToken: item.Token, Touch: touch, Consistency: o.consistency(), Require: o.require(),
		})
	}
	r, err := s.rpc.BatchValidateSessions(ctx, req)
	if err != nil {
		return nil, err
	}
	verdicts := make([]Verdict, len(r.GetResults()))
	for i, result := range r.GetResults() {
		if result.GetOutcome() == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_FAILED {
			if verdicts[i].Err = itemError(result.GetReason()); verdicts[i].Err == nil {
				verdicts[i].Err = ErrInactive
			}
			continue
		}
		verdicts[i].Session, verdicts[i].Err = verdict(result.GetOutcome(), result)
	}
	return verdicts, nil
}

// verdict returns the session of an answer only if both its outcome and its data say that the session is active. The
// outcomes of a single validation and of a batch have the same numbers.
func verdict(o sessionv1.BatchValidateSessionsOutcome, m interface {
	GetSession() *sessionv1.Session
	GetCacheFor() *durationpb.Duration
},
) (*Session, error) {
	switch o {
	case sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_STEP_UP_REQUIRED:
		return nil, ErrStepUpRequired
	case sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_REAUTH_REQUIRED:
		return nil, ErrReauthRequired
	case sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_UNPROCESSED:
		return nil, ErrUnprocessed
	}
	session, err := active(o == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE, m.GetSession())
	if session != nil {
		session.CacheFor = m.GetCacheFor().AsDuration()
	}
	return session, err
}
