package service

import (
	"context"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// attributeNames are the attributes that histories use; the last is a counter.
var attributeNames = [...]string{"a", "b", "c", "count"}

func answerAbout(s *sessionv1.Session, active bool) sessionAnswer {
	a := sessionAnswer{ID: s.GetSessionId(), Active: active, Version: s.GetVersion()}
	for i, name := range attributeNames {
		a.Attributes[i] = s.GetAttributes()[name]
	}
	return a
}

func (c sessionCall) consistency() sessionv1.Consistency {
	if c.Near {
		return sessionv1.Consistency_CONSISTENCY_CACHED
	}
	return sessionv1.Consistency_CONSISTENCY_PRIMARY
}

func (c sessionCall) touch() sessionv1.Touch {
	if c.Forced {
		return sessionv1.Touch_TOUCH_FORCE
	}
	return sessionv1.Touch_TOUCH_AUTO
}

// make makes the call of a replica.
func (c sessionCall) make(ctx context.Context, t testing.TB, r *replica, ns, subject string) (a sessionAnswer, err error) {
	switch c.Op {
	case opCreate:
		got, err := r.session.CreateSession(ctx, &sessionv1.CreateSessionRequest{
			Namespace: ns, Subject: subject, Device: &sessionv1.Device{Class: c.Class}, IfSubjectEpoch: c.Epoch,
		})
		if err != nil && (answerOf(t, err) == answer{Code: codes.Aborted, Reason: "SUBJECT_EPOCH_CHANGED"}) {
			return sessionAnswer{Fenced: true}, nil
		}
		a = answerAbout(got.GetSession(), true)
		a.Token = got.GetSessionToken()
		return a, err
	case opValidate:
		got, err := r.session.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{
			Namespace: ns, SessionToken: c.Token, Consistency: c.consistency(), Touch: c.touch(),
		})
		return answerAbout(got.GetSession(), got.GetOutcome() == sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE), err
	case opBatch:
		return c.makeBatch(ctx, r, ns)
	case opGetByID:
		got, err := r.session.GetSession(ctx, &sessionv1.GetSessionRequest{Namespace: ns, SessionId: c.ID})
		return answerAbout(got.GetSession(), got.GetOutcome() == sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE), err
	case opList:
		got, err := r.session.ListSubjectSessions(ctx, &sessionv1.ListSubjectSessionsRequest{
			Namespace: ns, Subject: subject, DeviceClass: c.Class, PageSize: 200,
		})
		for _, s := range got.GetSessions() {
			a.Each = append(a.Each, answerAbout(s, true))
		}
		return a, err
	case opUpdate:
		return c.makeUpdate(ctx, t, r, ns)
	default:
		return c.makeChange(ctx, r, ns, subject)
	}
}

func (c sessionCall) makeBatch(ctx context.Context, r *replica, ns string) (a sessionAnswer, err error) {
	req := &sessionv1.BatchValidateSessionsRequest{Namespace: ns}
	for _, one := range c.Each {
		req.Items = append(req.Items, &sessionv1.BatchValidateSessionsItem{
			SessionToken: one.Token, Consistency: one.consistency(), Touch: one.touch(),
		})
	}
	got, err := r.session.BatchValidateSessions(ctx, req)
	for _, result := range got.GetResults() {
		one := answerAbout(result.GetSession(), result.GetOutcome() == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE)
		one.Failed = result.GetOutcome() == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_FAILED
		a.Each = append(a.Each, one)
	}
	return a, err
}

func (c sessionCall) makeUpdate(ctx context.Context, t testing.TB, r *replica, ns string) (sessionAnswer, error) {
	name := attributeNames[c.Name]
	req := &sessionv1.UpdateSessionRequest{Namespace: ns, ExpectedVersion: c.Version, Target: &sessionv1.UpdateSessionRequest_SessionId{SessionId: c.ID}}
	if c.Token != "" {
		req.Target = &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: c.Token}
	}
	switch c.Change {
	case changeSet:
		req.SetAttributes = map[string]string{name: c.Value}
	case changeSetIfAbsent:
		req.SetAttributesIfAbsent = map[string]string{name: c.Value}
	case changeDelete:
		req.DeleteAttributes = []string{name}
	case changeIncrement:
		req.IncrementAttributes = map[string]int64{name: c.Delta}
	}
	got, err := r.session.UpdateSession(ctx, req)
	if err != nil && (answerOf(t, err) == answer{Code: codes.Aborted, Reason: "SESSION_VERSION_MISMATCH"}) {
		version, err := strconv.ParseInt(metadataOf(t, err)["current_version"], 10, 64)
		return sessionAnswer{Mismatch: true, Version: version}, err
	}
	a := sessionAnswer{Active: got.GetOutcome() == sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED, Version: got.GetVersion()}
	if sum, ok := got.GetIncrementedAttributes()[name]; ok {
		a.Attributes[c.Name] = strconv.FormatInt(sum, 10)
	}
	return a, err
}

func (c sessionCall) makeChange(ctx context.Context, r *replica, ns, subject string) (a sessionAnswer, err error) {
	switch c.Op {
	case opRotate:
		got, err := r.session.RotateSession(ctx, &sessionv1.RotateSessionRequest{Namespace: ns, SessionToken: c.Token})
		a = answerAbout(got.GetSession(), got.GetOutcome() == sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED)
		a.Token = got.GetSessionToken()
		return a, err
	case opReauth:
		got, err := r.session.ReauthenticateSession(ctx, &sessionv1.ReauthenticateSessionRequest{Namespace: ns, SessionToken: c.Token, Amr: []string{"otp"}})
		a = answerAbout(got.GetSession(), got.GetOutcome() == sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED)
		a.Token = got.GetSessionToken()
		return a, err
	case opRevoke:
		req := &sessionv1.RevokeSessionRequest{Namespace: ns, Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: c.ID}}
		if c.Token != "" {
			req.Target = &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: c.Token}
		}
		got, err := r.session.RevokeSession(ctx, req)
		return sessionAnswer{Active: got.GetOutcome() == sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED}, err
	default:
		_, err := r.session.RevokeSubjectSessions(ctx, &sessionv1.RevokeSubjectSessionsRequest{
			Namespace: ns, Subject: subject, DeviceClass: c.Class, ExceptSessionId: c.Except,
		})
		return sessionAnswer{}, err
	}
}
