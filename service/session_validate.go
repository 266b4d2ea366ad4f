package service

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/session"
)

// ValidateSession validates a session token.
func (s *Session) ValidateSession(ctx context.Context, r *sessionv1.ValidateSessionRequest) (*sessionv1.ValidateSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	v := f.validation(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	verdict, err := s.store.Sessions.Validate(ctx, ns, v)
	if err != nil {
		return nil, err
	}
	resp := &sessionv1.ValidateSessionResponse{Outcome: sessionv1.ValidateSessionOutcome(outcomes[verdict.Outcome])}
	if verdict.Session != nil {
		resp.Session, resp.CacheFor = sessionView(verdict.Session), s.cacheFor(v, verdict)
	}
	return resp, nil
}

// outcomes maps the outcomes of the store to those of the API. The outcomes that ValidateSession and
// BatchValidateSessions have in common have the same numbers.
var outcomes = map[session.Outcome]sessionv1.BatchValidateSessionsOutcome{
	session.Active:         sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE,
	session.Inactive:       sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_INACTIVE,
	session.StepUpRequired: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_STEP_UP_REQUIRED,
	session.ReauthRequired: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_REAUTH_REQUIRED,
}

// cacheFor returns how long the caller may reuse an active verdict without validating the token again.
func (s *Session) cacheFor(v session.Validation, verdict session.Verdict) *durationpb.Duration {
	if !v.Near || verdict.Superseded {
		return durationpb.New(0)
	}
	now := s.store.Redis.Now()
	d := min(max(s.limits.SessionCacheFor, 0), verdict.Session.ExpiresAt().Sub(now))
	if v.MaxAuthAge > 0 {
		d = min(d, v.MaxAuthAge-now.Sub(verdict.AuthenticatedAt))
	}
	return durationpb.New(max(d, time.Duration(0)))
}

// BatchValidateSessions validates several session tokens.
func (s *Session) BatchValidateSessions(ctx context.Context, r *sessionv1.BatchValidateSessionsRequest) (*sessionv1.BatchValidateSessionsResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	vs := f.validations(r.GetItems())
	if err := f.err(); err != nil {
		return nil, err
	}
	verdicts, err := s.store.Sessions.ValidateAll(ctx, ns, vs)
	if err == nil {
		err = shared(verdicts, func(v session.BatchVerdict) error { return v.Err })
	}
	if err != nil {
		return nil, err
	}
	resp := &sessionv1.BatchValidateSessionsResponse{Results: make([]*sessionv1.BatchValidateSessionsResult, len(vs))}
	size := 0
	for i, v := range verdicts {
		result := &sessionv1.BatchValidateSessionsResult{Outcome: outcomes[v.Outcome]}
		switch {
		case v.Err != nil:
			result.Outcome, result.Reason = sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_FAILED, reason(v.Err)
		case v.Session != nil:
			result.Session, result.CacheFor = sessionView(v.Session), s.cacheFor(vs[i], v.Verdict)
			more := proto.Size(result)
			if i > 0 && size+more > s.limits.MaxBatchBytes { // the first always fits, so that callers make progress
				result = &sessionv1.BatchValidateSessionsResult{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_UNPROCESSED}
				break // a smaller one may still fit
			}
			size += more
		}
		resp.Results[i] = result
	}
	return resp, nil
}
