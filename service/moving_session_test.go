package service

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

const sessionPrimary = sessionv1.Consistency_CONSISTENCY_PRIMARY

// useSessions makes one call about sessions.
func (c *movingCaller) useSessions(t *testing.T) {
	ctx, ns, a := t.Context(), c.namespace, c.either()
	slot := c.subjectSlot
	if len(c.active) < 4 {
		c.login(t, a)
		return
	}
	s := c.active[rand.IntN(len(c.active))]
	switch op := rand.IntN(100); {
	case op < 40:
		c.validate(t, a)
	case op < 50:
		c.validateAll(t, a)
	case op < 55:
		resp, err := a.session.GetSession(ctx, &sessionv1.GetSessionRequest{Namespace: ns, SessionId: s.id})
		if c.made(t, "GetSession", err, slot) && (resp.GetSession().GetVersion() != s.version || resp.Session.Attributes["n"] != strconv.FormatInt(s.count, 10)) {
			t.Errorf("GetSession = %v, want version %d and n = %d", resp, s.version, s.count)
		}
	case op < 65:
		resp, err := a.session.UpdateSession(ctx, &sessionv1.UpdateSessionRequest{
			Namespace: ns, Target: &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: s.token}, ExpectedVersion: s.version,
			IncrementAttributes: map[string]int64{"n": 1},
		})
		if !c.made(t, "UpdateSession", err, slot) {
			return
		}
		if resp.Outcome != sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED || resp.Version != s.version+1 || resp.IncrementedAttributes["n"] != s.count+1 {
			t.Errorf("UpdateSession = %v, want version %d and n = %d", resp, s.version+1, s.count+1)
		}
		s.version, s.count = s.version+1, s.count+1
	case op < 71:
		resp, err := a.session.RotateSession(ctx, &sessionv1.RotateSessionRequest{Namespace: ns, SessionToken: s.token})
		if !c.made(t, "RotateSession", err, slot) {
			return
		}
		if resp.Outcome != sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED {
			t.Errorf("RotateSession = %v, want rotated", resp.Outcome)
			return
		}
		s.token = resp.SessionToken
	case op < 74:
		c.reauthenticate(t, a, s)
	case op < 79:
		c.list(t, a)
	case op < 82:
		resp, err := a.session.RevokeSession(ctx, &sessionv1.RevokeSessionRequest{Namespace: ns, Target: c.targetOf(s)})
		if !c.made(t, "RevokeSession", err, slot) {
			return
		}
		if resp.Outcome != sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED {
			t.Errorf("RevokeSession = %v, want revoked", resp.Outcome)
		}
		c.end(a, func(o *movingSession) bool { return o == s })
	case op < 84:
		c.revokeAll(t, a, s)
	case op < 93:
		c.login(t, a)
	default:
		c.promote(t, a)
	}
}

func (c *movingCaller) targetOf(s *movingSession) *sessionv1.RevokeSessionRequest_SessionId {
	return &sessionv1.RevokeSessionRequest_SessionId{SessionId: s.id}
}

// end notes that sessions were revoked through a replica, and returns how many.
func (c *movingCaller) end(a *api, which func(s *movingSession) bool) (n int64) {
	for _, s := range c.active {
		if which(s) {
			s.endedAt, s.endedBy = time.Now(), a
			c.ended = append(c.ended, s)
			n++
		}
	}
	c.active = slices.DeleteFunc(c.active, which)
	if len(c.ended) > 40 {
		c.ended = c.ended[len(c.ended)-40:]
	}
	return n
}

func (c *movingCaller) login(t *testing.T, a *api) {
	t.Helper()
	class := []string{"", "mobile"}[rand.IntN(2)]
	resp, err := a.session.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{
		Namespace: c.namespace, Subject: c.subject, Attributes: map[string]string{"n": "0"}, Device: &sessionv1.Device{Class: class}, MaxSessions: 8,
	})
	if !c.made(t, "CreateSession", err, c.subjectSlot) {
		return
	}
	if resp.EvictedCount != int64(max(0, len(c.active)-7)) {
		t.Errorf("CreateSession beside %d sessions ended %d, want 8 at most in the end", len(c.active), resp.EvictedCount)
	}
	c.evicted(a, resp.EvictedSessions)
	c.active = append(c.active, &movingSession{id: resp.Session.SessionId, token: resp.SessionToken, class: class, version: 1})
	c.created = append(c.created, resp.Session.SessionId)
}

func (c *movingCaller) evicted(a *api, sessions []*sessionv1.SessionSummary) {
	for _, evicted := range sessions {
		c.end(a, func(o *movingSession) bool { return o.id == evicted.SessionId })
	}
}

// judge checks whether a token may have been found active or inactive.
func (c *movingCaller) judge(t *testing.T, what string, a *api, s *movingSession, active, primary bool) {
	t.Helper()
	since := time.Since(s.endedAt)
	switch {
	case s.endedAt.IsZero() && !active:
		t.Errorf("%s of an active session = inactive, want active", what)
	case !s.endedAt.IsZero() && active && (primary || a == s.endedBy || since > behind):
		t.Errorf("%s of a session that was revoked %v ago = active, want inactive (PRIMARY: %t)", what, since, primary)
	}
}

// any returns a session that is active or was ended.
func (c *movingCaller) any() *movingSession {
	n := rand.IntN(len(c.active) + len(c.ended))
	if n < len(c.active) {
		return c.active[n]
	}
	return c.ended[n-len(c.active)]
}

func (c *movingCaller) validate(t *testing.T, a *api) {
	t.Helper()
	s := c.any()
	req := &sessionv1.ValidateSessionRequest{Namespace: c.namespace, SessionToken: s.token}
	if rand.IntN(2) == 0 {
		req.Consistency = sessionPrimary
	}
	if rand.IntN(4) == 0 {
		req.Touch = sessionv1.Touch_TOUCH_FORCE
	}
	resp, err := a.session.ValidateSession(t.Context(), req)
	if c.made(t, "ValidateSession", err, c.subjectSlot) {
		active := resp.Outcome == sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE
		c.judge(t, "ValidateSession", a, s, active, req.Consistency == sessionPrimary || req.Touch == sessionv1.Touch_TOUCH_FORCE)
	}
}

func (c *movingCaller) validateAll(t *testing.T, a *api) {
	t.Helper()
	req := &sessionv1.BatchValidateSessionsRequest{Namespace: c.namespace}
	var sessions []*movingSession
	for range 10 {
		s := c.any()
		sessions = append(sessions, s)
		req.Items = append(req.Items, &sessionv1.BatchValidateSessionsItem{SessionToken: s.token, Consistency: sessionPrimary})
	}
	resp, err := a.session.BatchValidateSessions(t.Context(), req)
	if !c.made(t, "BatchValidateSessions", err, c.subjectSlot) {
		return
	}
	for i, r := range resp.Results {
		if c.madeOne(t, "BatchValidateSessions of one token", r.Reason, c.subjectSlot) {
			active := r.Outcome == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE
			c.judge(t, "BatchValidateSessions", a, sessions[i], active, true)
		}
	}
}

func (c *movingCaller) reauthenticate(t *testing.T, a *api, s *movingSession) {
	t.Helper()
	resp, err := a.session.ReauthenticateSession(t.Context(), &sessionv1.ReauthenticateSessionRequest{
		Namespace: c.namespace, SessionToken: s.token, Aal: 2, Amr: []string{"otp"}, ResetTimeouts: true,
	})
	if !c.made(t, "ReauthenticateSession", err, c.subjectSlot) {
		return
	}
	if resp.Outcome != sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED {
		t.Errorf("ReauthenticateSession = %v, want reauthenticated", resp.Outcome)
		return
	}
	old := s.token
	s.token = resp.SessionToken
	got, err := a.session.ValidateSession(t.Context(), &sessionv1.ValidateSessionRequest{Namespace: c.namespace, SessionToken: old})
	if c.made(t, "ValidateSession of the token before", err, c.subjectSlot) && got.Outcome != sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE {
		t.Errorf("ValidateSession of the token before a reauthentication = %v, want inactive", got.Outcome)
	}
}

// list checks that exactly the active sessions are listed.
func (c *movingCaller) list(t *testing.T, a *api) {
	t.Helper()
	resp, err := a.session.ListSubjectSessions(t.Context(), &sessionv1.ListSubjectSessionsRequest{Namespace: c.namespace, Subject: c.subject})
	if !c.made(t, "ListSubjectSessions", err, c.subjectSlot) {
		return
	}
	var got, want []string
	for _, s := range resp.Sessions {
		got = append(got, s.SessionId)
	}
	for _, s := range c.active {
		want = append(want, s.id)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("ListSubjectSessions = %v, want %v", got, want)
	}
}

func (c *movingCaller) revokeAll(t *testing.T, a *api, except *movingSession) {
	t.Helper()
	req := &sessionv1.RevokeSubjectSessionsRequest{Namespace: c.namespace, Subject: c.subject}
	if rand.IntN(2) == 0 {
		req.DeviceClass = "mobile"
	}
	if rand.IntN(2) == 0 {
		req.ExceptSessionId = except.id
	}
	resp, err := a.session.RevokeSubjectSessions(t.Context(), req)
	if !c.made(t, "RevokeSubjectSessions", err, c.subjectSlot) {
		return
	}
	ended := c.end(a, func(s *movingSession) bool {
		return s.id != req.ExceptSessionId && (req.DeviceClass == "" || s.class == req.DeviceClass)
	})
	if resp.RevokedCount != ended {
		t.Errorf("RevokeSubjectSessions ended %d, want %d", resp.RevokedCount, ended)
	}
}

// promote makes a session of an anonymous one, which is in another slot.
func (c *movingCaller) promote(t *testing.T, a *api) {
	t.Helper()
	ctx, ns := t.Context(), c.namespace
	created, err := a.session.CreateSession(ctx, &sessionv1.CreateSessionRequest{Namespace: ns, Attributes: map[string]string{"n": "0"}})
	if err != nil { // it would have been in any slot
		c.made(t, "CreateSession", err, slices.Collect(c.stillSlots)...)
		return
	}
	from := c.slots.partitions[tokenPartition(t, created.SessionToken)]
	c.made(t, "CreateSession", nil, from)
	resp, err := c.either().session.PromoteSession(ctx, &sessionv1.PromoteSessionRequest{Namespace: ns, SessionToken: created.SessionToken, Subject: c.subject})
	if !c.made(t, "PromoteSession", err, from, c.subjectSlot) {
		return
	}
	if resp.Outcome != sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_PROMOTED {
		t.Errorf("PromoteSession = %v, want promoted", resp.Outcome)
		return
	}
	c.active = append(c.active, &movingSession{id: resp.Session.SessionId, token: resp.SessionToken, version: 1})
	c.created = append(c.created, resp.Session.SessionId)
	got, err := a.session.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{Namespace: ns, SessionToken: created.SessionToken, Consistency: sessionPrimary})
	if c.made(t, "ValidateSession of the anonymous session", err, from) && got.Outcome != sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE {
		t.Errorf("ValidateSession of an anonymous session that was promoted = %v, want inactive", got.Outcome)
	}
	if len(c.active) > 12 {
		c.revokeAll(t, a, c.active[0])
	}
}

// review checks everything once more when no slot moves any longer.
func (c *movingCaller) review(t *testing.T) {
	t.Helper()
	for _, a := range c.apis {
		for _, sessions := range [][]*movingSession{c.active, c.ended} {
			for _, s := range sessions {
				resp, err := a.session.ValidateSession(t.Context(), &sessionv1.ValidateSessionRequest{Namespace: c.namespace, SessionToken: s.token, Consistency: sessionPrimary})
				if err != nil {
					t.Errorf("ValidateSession = %v, want no error", err)
					continue
				}
				c.judge(t, "ValidateSession in the end", a, s, resp.Outcome == sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE, true)
			}
		}
		c.list(t, a)
		c.batchGet(t, a)
	}
}

// watch follows the events of the caller's subject until ctx ends. It goes on where it was after a failure in the one allowed way.
// It calls begun once it has begun.
func (c *movingCaller) watch(ctx context.Context, t *testing.T, begun func()) {
	req := &sessionv1.WatchSessionEventsRequest{Namespace: c.namespace, Subject: c.subject}
	for ctx.Err() == nil {
		err := c.follow(ctx, req, begun)
		if ctx.Err() != nil {
			return
		}
		if got := answerOf(t, err); got.Code != codes.Unavailable || !got.Retry {
			t.Errorf("WatchSessionEvents ended with %v (%+v), want UNAVAILABLE with a time to come back", err, got)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *movingCaller) follow(ctx context.Context, req *sessionv1.WatchSessionEventsRequest, begun func()) error {
	stream, err := c.either().session.WatchSessionEvents(ctx, req)
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		req.ResumeToken = resp.ResumeToken
		begun()
		if e := resp.Event; e != nil && (e.Type == sessionv1.SessionEventType_SESSION_EVENT_TYPE_CREATED || e.Type == sessionv1.SessionEventType_SESSION_EVENT_TYPE_PROMOTED) {
			c.mu.Lock()
			c.told[e.SessionId]++
			c.mu.Unlock()
		}
	}
}

// allTold reports whether the event of every session that was created was told.
func (c *movingCaller) allTold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.created {
		if c.told[id] == 0 {
			return false
		}
	}
	return true
}
