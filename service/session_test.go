package service

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

const (
	activeSession   = sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE
	inactiveSession = sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE
	createdSession  = sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_CREATED
)

func (a *api) create(t testing.TB, r *sessionv1.CreateSessionRequest) *sessionv1.CreateSessionResponse {
	t.Helper()
	return must[*sessionv1.CreateSessionResponse](t)(a.session.CreateSession(t.Context(), r))
}

func (a *api) validate(t testing.TB, r *sessionv1.ValidateSessionRequest) *sessionv1.ValidateSessionResponse {
	t.Helper()
	return must[*sessionv1.ValidateSessionResponse](t)(a.session.ValidateSession(t.Context(), r))
}

// isActive asks the near cache and the primary, which have to agree.
func (a *api) isActive(t testing.TB, namespace, token string) bool {
	t.Helper()
	near := a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: namespace, SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER})
	primary := a.validate(t, &sessionv1.ValidateSessionRequest{
		Namespace: namespace, SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY,
	})
	if near.Outcome != primary.Outcome {
		t.Errorf("near it is %v, on the primary %v", near.Outcome, primary.Outcome)
	}
	if (primary.Outcome == activeSession) != (primary.Session != nil) {
		t.Errorf("%v with %v", primary.Outcome, primary.Session)
	}
	return primary.Outcome == activeSession
}

// about checks that two times are the same but for what a call takes.
func about(t testing.TB, what string, got *timestamppb.Timestamp, want time.Time) {
	t.Helper()
	if d := got.AsTime().Sub(want).Abs(); got == nil || d > 20*time.Second {
		t.Errorf("%s is %v, want about %v", what, got, want)
	}
}

func TestCreateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionIdleTimeout: 20 * time.Minute, SessionAbsoluteTimeout: 2 * time.Hour})
	attributes := map[string]string{"role": "nurse", "empty": "", "größe": "\x00\n"}
	authenticated := timestamppb.New(time.UnixMilli(1700000000123))
	device := &sessionv1.Device{Ip: "2001:db8::1", UserAgent: "app/1.2", Label: "Ann's phone", Class: "mobile"}

	for _, tt := range []struct {
		name           string
		request        *sessionv1.CreateSessionRequest
		idle, absolute time.Duration
	}{
		{"Defaults", &sessionv1.CreateSessionRequest{Subject: "ann"}, 20 * time.Minute, 2 * time.Hour},
		{"Anonymous", &sessionv1.CreateSessionRequest{}, 20 * time.Minute, 2 * time.Hour},
		{"Everything", &sessionv1.CreateSessionRequest{
			Namespace: "ward", Subject: "ann", Attributes: attributes, Device: device, IdleTimeout: secs(60), AbsoluteTimeout: secs(600),
			Assurance: &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd", "otp", "pwd"}, AuthenticatedAt: authenticated},
		}, time.Minute, 10 * time.Minute},
		{"AbsoluteComesFirst", &sessionv1.CreateSessionRequest{Subject: "ann", AbsoluteTimeout: secs(60)}, 20 * time.Minute, time.Minute},
		{"DeviceInPart", &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{Label: "tablet"}}, 20 * time.Minute, 2 * time.Hour},
		{"DeviceOfNothing", &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{}}, 20 * time.Minute, 2 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := a.create(t, tt.request)
			if got.Outcome != createdSession {
				t.Errorf("outcome is %v", got.Outcome)
			}
			if !strings.HasPrefix(got.SessionToken, "ls1_") || len(got.SessionToken) != 4+66 {
				t.Errorf("the token has %d characters", len(got.SessionToken))
			}
			s := got.Session
			created := s.CreatedAt.AsTime()
			about(t, "created_at", s.CreatedAt, time.Now())
			want := &sessionv1.Session{
				SessionId: s.SessionId, Subject: tt.request.Subject, Attributes: tt.request.Attributes, Version: 1, Device: tt.request.Device,
				CreatedAt: s.CreatedAt, LastActiveAt: s.CreatedAt, IdleExpiresAt: timestamppb.New(created.Add(tt.idle)),
				AbsoluteExpiresAt: timestamppb.New(created.Add(tt.absolute)), ExpiresAt: timestamppb.New(created.Add(min(tt.idle, tt.absolute))),
			}
			if tt.request.Subject != "" {
				want.Assurance = &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd", "otp"}, AuthenticatedAt: authenticated}
				if tt.request.Assurance == nil {
					want.Assurance = &sessionv1.Assurance{AuthenticatedAt: s.CreatedAt}
				}
			}
			if proto.Equal(want.Device, &sessionv1.Device{}) {
				want.Device = nil
			}
			same(t, want, s)
			// The handle is the beginning of the token, and says nothing of the secret behind it.
			if len(s.SessionId) != 23 || strings.Contains(s.String(), got.SessionToken[4+23:]) {
				t.Errorf("the session is %v", s)
			}

			// Every way to read it tells the same.
			for _, c := range []sessionv1.Consistency{
				sessionv1.Consistency_CONSISTENCY_UNSPECIFIED, sessionv1.Consistency_CONSISTENCY_CACHED, sessionv1.Consistency_CONSISTENCY_PRIMARY,
			} {
				validated := &sessionv1.ValidateSessionResponse{Outcome: activeSession, Session: want, CacheFor: secs(5)}
				if c == sessionv1.Consistency_CONSISTENCY_PRIMARY {
					validated.CacheFor = secs(0)
				}
				same(t, validated, a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: tt.request.Namespace, SessionToken: got.SessionToken, Consistency: c}))
			}
			same(t, &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE, Session: want},
				must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{Namespace: tt.request.Namespace, SessionId: s.SessionId})))

			// And in another namespace there is nothing to tell.
			same(t, &sessionv1.ValidateSessionResponse{Outcome: inactiveSession},
				a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: "elsewhere", SessionToken: got.SessionToken}))
			same(t, &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_INACTIVE},
				must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{Namespace: "elsewhere", SessionId: s.SessionId})))
		})
	}
}

func TestValidateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})

	t.Run("WhatIsNoToken", func(t *testing.T) {
		t.Parallel()
		good := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}).SessionToken
		for _, token := range []string{
			"x", "ls1_", good[:len(good)-1], good + "A", "ls2_" + good[4:], good[4:], strings.ToUpper(good), " " + good, strings.Repeat("A", 1<<20), "\x00",
			good[:30] + flip(good[30]) + good[31:], // another secret
			good[:10] + flip(good[10]) + good[11:], // another id
			"ls1_" + flip(good[4]) + good[5:],      // another partition
		} {
			same(t, &sessionv1.ValidateSessionResponse{Outcome: inactiveSession}, a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token}))
		}
	})

	t.Run("CostsNothingWhenNear", func(t *testing.T) {
		t.Parallel()
		a := newAPI(t, policy.Limits{})
		token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}).SessionToken
		reads := func(c sessionv1.Consistency) int64 {
			before := a.redis.CommandCalls(t)
			for range 5 {
				a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token, Consistency: c})
			}
			after := a.redis.CommandCalls(t)
			return after["evalsha_ro"] - before["evalsha_ro"]
		}
		a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token}) // brings it near, with its subject's epoch
		for c, want := range map[sessionv1.Consistency]int64{
			sessionv1.Consistency_CONSISTENCY_UNSPECIFIED: 0, sessionv1.Consistency_CONSISTENCY_CACHED: 0, sessionv1.Consistency_CONSISTENCY_PRIMARY: 5,
		} {
			if got := reads(c); got != want {
				t.Errorf("5 validations at %v read Redis %d times", c, got)
			}
		}
	})

	t.Run("EndsWhenIdle", func(t *testing.T) {
		t.Parallel()
		token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: secs(1)}).SessionToken
		eventually(t, "inactive", func() bool {
			return a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER}).Outcome == inactiveSession
		})
		if a.isActive(t, "", token) {
			t.Error("active again")
		}
	})

	t.Run("EndsWhateverItsActivity", func(t *testing.T) {
		t.Parallel()
		token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", AbsoluteTimeout: secs(1)}).SessionToken
		eventually(t, "inactive", func() bool {
			return a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token, Touch: sessionv1.Touch_TOUCH_FORCE}).Outcome == inactiveSession
		})
	})

	t.Run("Touch", func(t *testing.T) {
		t.Parallel()
		created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: secs(20), AbsoluteTimeout: secs(600)})
		began := created.Session.LastActiveAt.AsTime()
		with := func(touch sessionv1.Touch) *sessionv1.Session {
			return a.validate(t, &sessionv1.ValidateSessionRequest{
				SessionToken: created.SessionToken, Touch: touch, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY,
			}).Session
		}
		moved := func(touch sessionv1.Touch) *sessionv1.Session {
			var s *sessionv1.Session
			eventually(t, touch.String(), func() bool {
				s = with(touch)
				return s.LastActiveAt.AsTime().After(began)
			})
			return s
		}

		s := moved(sessionv1.Touch_TOUCH_FORCE) // and this very answer tells
		last := s.LastActiveAt.AsTime()
		want := proto.Clone(created.Session).(*sessionv1.Session)
		want.LastActiveAt, want.IdleExpiresAt, want.ExpiresAt = s.LastActiveAt, timestamppb.New(last.Add(20*time.Second)), timestamppb.New(last.Add(20*time.Second))
		same(t, want, s)
		began = last

		// AUTO waits for its interval, and NEVER for ever.
		for with(sessionv1.Touch_TOUCH_NEVER); time.Since(last) < 1100*time.Millisecond; {
			if got := with(sessionv1.Touch_TOUCH_NEVER).LastActiveAt.AsTime(); !got.Equal(last) {
				t.Fatal("NEVER was activity")
			}
		}
		auto := moved(sessionv1.Touch_TOUCH_AUTO).LastActiveAt.AsTime()
		if auto.Sub(last) < time.Second {
			t.Errorf("AUTO slid after %v", auto.Sub(last))
		}
		same(t, timestamppb.New(auto), with(sessionv1.Touch_TOUCH_UNSPECIFIED).LastActiveAt)
	})
}

// flip is another character of base64.
func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func TestGetSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: secs(60)})
	id := created.Session.SessionId
	get := func(id string) *sessionv1.GetSessionResponse {
		return must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{SessionId: id}))
	}
	same(t, &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_INACTIVE}, get(flip(id[0])+id[1:]))
	for range 3 { // reading it is not activity
		same(t, created.Session, get(id).Session)
	}
}

func TestUpdateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.UpdateSessionRequest
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "1", "b": "2"}})
	byID := &sessionv1.UpdateSessionRequest_SessionId{SessionId: created.Session.SessionId}
	byToken := &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: created.SessionToken}
	read := func() *sessionv1.Session {
		return a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: created.SessionToken}).Session
	}
	updated := func(version int64) *sessionv1.UpdateSessionResponse {
		return &sessionv1.UpdateSessionResponse{Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED, Version: version}
	}
	inactive := &sessionv1.UpdateSessionResponse{Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_INACTIVE}

	for _, tt := range []struct {
		request    *request
		want       *sessionv1.UpdateSessionResponse
		attributes map[string]string
	}{
		{&request{Target: byID, SetAttributes: map[string]string{"b": "3", "c": ""}}, updated(2), map[string]string{"a": "1", "b": "3", "c": ""}},
		{&request{Target: byToken, DeleteAttributes: []string{"a", "none"}, ExpectedVersion: 2}, updated(3), map[string]string{"b": "3", "c": ""}},
		{&request{Target: byToken, SetAttributes: map[string]string{"a": "4"}, DeleteAttributes: []string{"c"}}, updated(4), map[string]string{"a": "4", "b": "3"}},
		{
			&request{Target: &sessionv1.UpdateSessionRequest_SessionId{SessionId: flip(byID.SessionId[0]) + byID.SessionId[1:]}, SetAttributes: map[string]string{"x": ""}},
			inactive,
			map[string]string{"a": "4", "b": "3"},
		},
		{&request{Target: &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: "malformed"}, DeleteAttributes: []string{"a"}}, inactive, map[string]string{"a": "4", "b": "3"}},
		{&request{Target: &sessionv1.UpdateSessionRequest_SessionToken{
			SessionToken: byToken.SessionToken[:40] + flip(byToken.SessionToken[40]) + byToken.SessionToken[41:],
		}, DeleteAttributes: []string{"a"}}, inactive, map[string]string{"a": "4", "b": "3"}},
		{&request{Namespace: "other", Target: byToken, DeleteAttributes: []string{"a"}}, inactive, map[string]string{"a": "4", "b": "3"}},
		{&request{Target: byToken, DeleteAttributes: []string{"a", "b"}}, updated(5), nil},
	} {
		same(t, tt.want, must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), tt.request)))
		if diff := cmp.Diff(tt.attributes, read().Attributes); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", tt.request, diff)
		}
	}
	if got := read(); got.Version != 5 {
		t.Errorf("version is %d", got.Version)
	}

	_, err := a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}, ExpectedVersion: 4})
	wantAnswer(t, err, answer{Code: codes.Aborted, Reason: "SESSION_VERSION_MISMATCH"})
	if got := metadataOf(t, err); got["current_version"] != "5" || len(got) != 1 {
		t.Errorf("the metadata is %v", got)
	}
	most := map[string]string{}
	for i := range 64 {
		most[fmt.Sprint(i)] = ""
	}
	same(t, updated(6), must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: most})))
	tooMany := answer{Code: codes.InvalidArgument, Reason: "TOO_MANY_ATTRIBUTES"}
	_, err = a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}})
	wantAnswer(t, err, tooMany)
	same(t, updated(7), must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}, DeleteAttributes: []string{"0"}})))
	_, err = a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"1": strings.Repeat("v", 64<<10-1)}})
	wantAnswer(t, err, tooMany)
	if got := read(); got.Version != 7 || len(got.Attributes) != 64 || got.Attributes["1"] != "" {
		t.Errorf("version %d with %d attributes", got.Version, len(got.Attributes))
	}

	must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(t.Context(), &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: byID.SessionId}}))
	same(t, inactive, must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}, ExpectedVersion: 7})))
	if a.isActive(t, "", created.SessionToken) {
		t.Error("an update brought the session back")
	}
}

func TestRevokeSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	created := func() (token, id string) {
		c := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
		return c.SessionToken, c.Session.SessionId
	}
	byID := func(id string) *sessionv1.RevokeSessionRequest {
		return &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: id}}
	}
	byToken := func(token string) *sessionv1.RevokeSessionRequest {
		return &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: token}}
	}
	revoked := &sessionv1.RevokeSessionResponse{Outcome: sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED}
	inactive := &sessionv1.RevokeSessionResponse{Outcome: sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_INACTIVE}
	revoke := func(r *sessionv1.RevokeSessionRequest) *sessionv1.RevokeSessionResponse {
		return must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(t.Context(), r))
	}

	kept, keptID := created()
	for _, by := range []func(token, id string) *sessionv1.RevokeSessionRequest{
		func(_, id string) *sessionv1.RevokeSessionRequest { return byID(id) },
		func(token, _ string) *sessionv1.RevokeSessionRequest { return byToken(token) },
	} {
		token, id := created()
		if !a.isActive(t, "", token) {
			t.Fatal("inactive at once")
		}
		elsewhere := by(token, id)
		elsewhere.Namespace = "other"
		same(t, inactive, revoke(elsewhere))
		same(t, revoked, revoke(by(token, id)))
		if a.isActive(t, "", token) { // near as well, at once
			t.Error("active after its revocation")
		}
		same(t, inactive, revoke(by(token, id)))
	}
	same(t, inactive, revoke(byToken("malformed")))
	same(t, inactive, revoke(byToken(kept[:40]+flip(kept[40])+kept[41:])))
	same(t, inactive, revoke(byID(flip(keptID[0])+keptID[1:])))
	if !a.isActive(t, "", kept) {
		t.Error("another session was revoked")
	}
}

func TestRevokeSubjectSessions(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.RevokeSubjectSessionsRequest
	revoke := func(r *request) int64 {
		t.Helper()
		return must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(), r)).RevokedCount
	}
	var tokens, ids []string
	for range 3 {
		c := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
		tokens, ids = append(tokens, c.SessionToken), append(ids, c.Session.SessionId)
	}
	bob := a.create(t, &sessionv1.CreateSessionRequest{Subject: "bob"})
	elsewhere := a.create(t, &sessionv1.CreateSessionRequest{Namespace: "other", Subject: "ann"}).SessionToken
	active := func() (n []bool) {
		for _, token := range tokens {
			n = append(n, a.isActive(t, "", token))
		}
		return n
	}
	active() // and now they are near

	for _, tt := range []struct {
		request *request
		count   int64
		active  []bool
	}{
		{&request{Subject: "nobody"}, 0, []bool{true, true, true}},
		{&request{Subject: "ann", ExceptSessionId: ids[1]}, 2, []bool{false, true, false}},
		{&request{Subject: "ann", ExceptSessionId: ids[1]}, 0, []bool{false, true, false}},
		{&request{Subject: "ann", ExceptSessionId: bob.Session.SessionId}, 1, []bool{false, false, false}},
		{&request{Subject: "ann"}, 0, []bool{false, false, false}},
	} {
		if n := revoke(tt.request); n != tt.count {
			t.Errorf("%v ended %d", tt.request, n)
		}
		if diff := cmp.Diff(tt.active, active()); diff != "" {
			t.Errorf("active after %v (-want +got):\n%s", tt.request, diff)
		}
	}
	if !a.isActive(t, "", bob.SessionToken) || !a.isActive(t, "other", elsewhere) {
		t.Error("somebody else's session was ended")
	}
	if token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}).SessionToken; !a.isActive(t, "", token) {
		t.Error("a session created afterwards is inactive")
	}
}

func TestListSubjectSessions(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.ListSubjectSessionsRequest
	list := func(r *request) *sessionv1.ListSubjectSessionsResponse {
		t.Helper()
		return must[*sessionv1.ListSubjectSessionsResponse](t)(a.session.ListSubjectSessions(t.Context(), r))
	}
	same(t, &sessionv1.ListSubjectSessionsResponse{}, list(&request{Subject: "ann"}))

	const n = 7
	sessions := make([]*sessionv1.Session, n)
	for i := range sessions { // created in the reverse order of their ends
		sessions[n-1-i] = a.create(t, &sessionv1.CreateSessionRequest{
			Subject: "ann", IdleTimeout: durationpb.New(time.Duration(n-i) * time.Minute), Attributes: map[string]string{"n": fmt.Sprint(i)},
			Device: &sessionv1.Device{Label: fmt.Sprint("device ", i)},
		}).Session
	}
	a.create(t, &sessionv1.CreateSessionRequest{Subject: "bob"})
	a.create(t, &sessionv1.CreateSessionRequest{Namespace: "other", Subject: "ann"})
	a.create(t, &sessionv1.CreateSessionRequest{})
	current := sessions[4].SessionId
	sessions[4].Current = true

	for size := int32(0); size <= n+1; size++ {
		var all []*sessionv1.Session
		r := &request{Subject: "ann", PageSize: size, CurrentSessionId: current}
		for page := 0; ; page++ {
			got := list(r)
			if size > 0 && len(got.Sessions) > int(size) {
				t.Errorf("a page of %d has %d", size, len(got.Sessions))
			}
			all = append(all, got.Sessions...)
			if r.PageToken = got.NextPageToken; r.PageToken == "" || page > n {
				break
			}
		}
		same(t, sessions, all)
	}

	sessions[4].Current = false
	for _, nobody := range []string{"", "malformed", flip(current[0]) + current[1:]} {
		same(t, sessions, list(&request{Subject: "ann", CurrentSessionId: nobody}).Sessions)
	}

	token := list(&request{Subject: "ann", PageSize: 1}).NextPageToken
	for _, r := range []*request{
		{Subject: "bob", PageToken: token},
		{Namespace: "other", Subject: "ann", PageToken: token},
		{Subject: "ann", PageToken: token[1:]},
		{Subject: "ann", PageToken: "?"},
	} {
		_, err := a.session.ListSubjectSessions(t.Context(), r)
		wantAnswer(t, err, noToken)
	}

	must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(t.Context(), &sessionv1.RevokeSessionRequest{
		Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: sessions[2].SessionId},
	}))
	same(t, slices.Delete(slices.Clone(sessions), 2, 3), list(&request{Subject: "ann"}).Sessions)
}

func TestListSubjectSessionsBoundsItsPages(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for range 205 {
		a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	}
	for size, want := range map[int32]int{0: 50, 199: 199, 200: 200, 201: 200, 1 << 30: 200} {
		page := must[*sessionv1.ListSubjectSessionsResponse](t)(a.session.ListSubjectSessions(t.Context(), &sessionv1.ListSubjectSessionsRequest{Subject: "ann", PageSize: size}))
		if len(page.Sessions) != want || page.NextPageToken == "" {
			t.Errorf("page_size %d: %d sessions", size, len(page.Sessions))
		}
	}
}
